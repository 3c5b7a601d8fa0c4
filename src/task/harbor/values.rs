//! Values of `task.toml`, each with the key that an error names.

use std::collections::BTreeMap;
use std::time::Duration;

/// A deadline may be no longer.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;

/// As `--net` takes it; nothing where a section says nothing.
pub(super) fn network(
    section: &str,
    mode: Option<&str>,
    hosts: &[String],
) -> Result<Option<String>, String> {
    let key = format!("{section}.network_mode");
    let mode = match (mode, hosts) {
        (None, []) => return Ok(None),
        (None, _) => "allowlist",
        (Some(mode), _) => mode,
    };
    let network = match (mode, hosts) {
        ("allowlist", []) => {
            return Err(format!(
                "{section}.allowed_hosts is empty: write no-network"
            ));
        }
        ("allowlist", hosts) => {
            let plain = |host: &&String| {
                let letter = |c: char| c.is_ascii_alphanumeric() || "-.*".contains(c);
                host.is_empty() || !host.chars().all(letter)
            };
            if let Some(host) = hosts.iter().find(plain) {
                return Err(format!("{section}.allowed_hosts: {host:?} is no host"));
            }
            format!("allow:{}", hosts.join(","))
        }
        (_, [_, ..]) => {
            return Err(format!(
                "{section}.allowed_hosts needs {key} = \"allowlist\""
            ));
        }
        ("public", []) => "internet".to_owned(),
        ("no-network", []) => "none".to_owned(),
        (other, []) => return Err(format!("{key} = {other:?} is not known here")),
    };
    Ok(Some(network))
}

pub(super) fn variables(
    section: &str,
    env: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    // What is the host's, keys above all, goes into no sandbox of a model.
    if let Some((name, _)) = env.iter().find(|(_, value)| value.contains("${")) {
        return Err(format!(
            "{section}.env.{name} asks for a variable of the host: write its value, or leave it away"
        ));
    }
    let bad = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if let Some((name, _)) = env.iter().find(bad) {
        return Err(format!("{section}.env: {name:?} cannot be set"));
    }
    Ok(env.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

pub(super) fn seconds(key: &str, value: f64) -> Result<Duration, String> {
    match value {
        _ if value > 0.0 && value <= MAX_SECONDS => Ok(Duration::from_secs_f64(value)),
        _ => Err(format!(
            "{key} = {value} is no number of seconds up to {MAX_SECONDS}"
        )),
    }
}

/// Of a limit: a number of MiB, or a text like `512M`.
pub(super) fn size(
    name: &str,
    text: Option<&str>,
    megabytes: Option<u64>,
) -> Result<Option<u64>, String> {
    let wrong = |key: &str, value: &str| {
        format!("environment.{name}{key} = {value} is no size, like 512 or \"2G\"")
    };
    match (megabytes, text) {
        (Some(count), _) => {
            let bytes = count.checked_mul(1 << 20).filter(|bytes| *bytes > 0);
            bytes
                .map(Some)
                .ok_or_else(|| wrong("_mb", &count.to_string()))
        }
        (None, Some(text)) => bytes(text).map(Some).ok_or_else(|| wrong("", text)),
        (None, None) => Ok(None),
    }
}

fn bytes(text: &str) -> Option<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches('B').trim_end_matches('I');
    let (at, unit) = number.char_indices().last()?;
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return None,
    };
    let count: u64 = number.get(..at)?.trim().parse().ok()?;
    count.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}
