//! `task.toml`: limits, deadlines and networks of a task.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::Value;

use super::{Dockerfile, Harbor, HarborImage, Phase, malformed, read_text};
use crate::task::TaskError;

/// Of the tests, where nothing is said.
const VERIFIER_TIMEOUT: f64 = 600.0;
/// Of the building of an image, where nothing is said.
const BUILD_TIMEOUT: f64 = 600.0;
/// A deadline may be no longer.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;

type Unknown = BTreeMap<String, Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    environment: Environment,
    agent: Section,
    verifier: Section,
    #[serde(flatten)]
    rest: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Environment {
    docker_image: Option<String>,
    workdir: Option<String>,
    build_timeout_sec: Option<f64>,
    cpus: Option<f64>,
    memory: Option<String>,
    memory_mb: Option<u64>,
    storage: Option<String>,
    storage_mb: Option<u64>,
    allow_internet: Option<bool>,
    network_mode: Option<String>,
    allowed_hosts: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    timeout_sec: Option<f64>,
    network_mode: Option<String>,
    allowed_hosts: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Unknown,
}

/// Says nothing to a run.
const TOP: [&str; 6] = [
    "version",
    "schema_version",
    "task",
    "metadata",
    "solution",
    "source",
];
/// What cannot be had here, by the place where it is asked for; a value that asks for nothing is let through.
const REFUSED: [(&str, &str); 12] = [
    ("", "steps"),
    ("", "artifacts"),
    ("environment", "gpus"),
    ("environment", "gpu_types"),
    ("environment", "tpu"),
    ("environment", "mcp_servers"),
    ("environment", "healthcheck"),
    ("environment", "skills_dir"),
    ("environment", "os"),
    ("agent", "user"),
    ("verifier", "user"),
    ("verifier", "environment_mode"),
];

/// Reads a task directory, but for its instruction.
pub(super) fn read(directory: &Path, notes: &mut Vec<String>) -> Result<Harbor, TaskError> {
    let path = directory.join("task.toml");
    let text = read_text(&path)?;
    let wrong = |problem: String| malformed(&path, problem);
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !directory.join(Harbor::SCRIPT).is_file() {
        let problem = format!("it has no {}, which judges", Harbor::SCRIPT);
        return Err(malformed(directory, problem));
    }
    for name in ["tests", "environment"] {
        let path = directory.join(name);
        if path.is_symlink() {
            return Err(malformed(&path, "it is a link".to_owned()));
        }
    }
    let rest = [
        ("", &file.rest),
        ("environment", &file.environment.rest),
        ("agent", &file.agent.rest),
        ("verifier", &file.verifier.rest),
    ];
    for (section, keys) in rest {
        for (key, value) in keys {
            check(section, key, value, notes).map_err(wrong)?;
        }
    }
    let environment = &file.environment;
    let (image, found) = image(directory, environment)?;
    let workdir = environment.workdir.clone().or(found);
    let workdir = workdir.unwrap_or_else(|| "/".to_owned());
    if !workdir.starts_with('/') || workdir.split('/').any(|part| part == "..") {
        return Err(wrong(format!(
            "environment.workdir is no absolute path: {workdir:?}"
        )));
    }
    let baseline = match (&environment.network_mode, environment.allow_internet) {
        (None, Some(false)) if environment.allowed_hosts.is_empty() => "none".to_owned(),
        (mode, _) => network("environment", mode.as_deref(), &environment.allowed_hosts)
            .map_err(wrong)?
            .unwrap_or_else(|| "internet".to_owned()),
    };
    let phase = |name: &str, section: &Section, usual: Option<f64>| {
        let key = format!("{name}.timeout_sec");
        let timeout = section.timeout_sec.or(usual);
        let own = network(
            name,
            section.network_mode.as_deref(),
            &section.allowed_hosts,
        );
        Ok::<_, String>(Phase {
            timeout: timeout.map(|s| seconds(&key, s)).transpose()?,
            network: own?.unwrap_or_else(|| baseline.clone()),
            env: variables(name, &section.env)?,
        })
    };
    let build_timeout = environment.build_timeout_sec.unwrap_or(BUILD_TIMEOUT);
    let size = |name: &str, text: Option<&String>, megabytes: Option<u64>| match (megabytes, text) {
        (Some(0), _) => Err(format!("environment.{name}_mb is 0")),
        (Some(count), _) => Ok(count.checked_mul(1 << 20)),
        (None, Some(text)) => bytes(&format!("environment.{name}"), text).map(Some),
        (None, None) => Ok(None),
    };
    if let Some(cpus) = environment.cpus
        && !(cpus.is_finite() && cpus >= 0.01)
    {
        return Err(wrong(format!("environment.cpus cannot be {cpus}")));
    }
    let built = || {
        Ok::<_, String>(Harbor {
            directory: directory.to_owned(),
            image,
            workdir,
            env: variables("environment", &environment.env)?,
            cpus: environment.cpus,
            memory: size("memory", environment.memory.as_ref(), environment.memory_mb)?,
            storage: size(
                "storage",
                environment.storage.as_ref(),
                environment.storage_mb,
            )?,
            build_timeout: seconds("environment.build_timeout_sec", build_timeout)?,
            agent: phase("agent", &file.agent, None)?,
            verifier: phase("verifier", &file.verifier, Some(VERIFIER_TIMEOUT))?,
        })
    };
    built().map_err(wrong)
}

/// A key that is no limit or deadline.
fn check(section: &str, key: &str, value: &Value, notes: &mut Vec<String>) -> Result<(), String> {
    if section.is_empty() && TOP.contains(&key) {
        return Ok(());
    }
    let name = match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    };
    if REFUSED.contains(&(section, key)) {
        let nothing = match value {
            Value::Integer(number) => *number == 0,
            Value::Array(items) => items.is_empty(),
            Value::String(text) => match key {
                "user" => text == "root",
                "os" => text == "linux",
                "environment_mode" => text == "shared",
                _ => text.is_empty(),
            },
            _ => false,
        };
        return match nothing {
            true => Ok(()),
            false => Err(format!("{name} = {value} cannot be had here")),
        };
    }
    // An environment of the tests' own would be another image.
    if (section, key) == ("verifier", "environment") {
        return Err(format!(
            "{name} cannot be had here: tests run over what the model left"
        ));
    }
    notes.push(format!("task.toml: an unknown key is passed over: {name}"));
    Ok(())
}

/// The image, and the directory in which its Dockerfile leaves off.
fn image(
    directory: &Path,
    environment: &Environment,
) -> Result<(HarborImage, Option<String>), TaskError> {
    let context = directory.join("environment");
    let services = ["docker-compose.yaml", "docker-compose.yml"];
    if let Some(name) = services.iter().find(|name| context.join(name).exists()) {
        let problem = "several containers at once cannot be had here".to_owned();
        return Err(malformed(&context.join(name), problem));
    }
    let path = context.join("Dockerfile");
    let text = path.is_file().then(|| read_text(&path)).transpose()?;
    let ignored = context.join(".dockerignore");
    if environment.docker_image.is_none() && ignored.exists() {
        let problem = "it is not read here: take away what is not to be copied".to_owned();
        return Err(malformed(&ignored, problem));
    }
    match (&environment.docker_image, text) {
        (None, None) => Ok((HarborImage::Default, None)),
        // It was built of a Dockerfile elsewhere: of ours only its directory is of interest.
        (Some(name), text) => {
            let file = text.and_then(|text| Dockerfile::parse(&text).ok());
            let workdir = file.and_then(|file| file.workdir());
            Ok((HarborImage::Named(name.clone()), workdir))
        }
        (None, Some(text)) => {
            let file = Dockerfile::parse(&text).map_err(|problem| malformed(&path, problem))?;
            let workdir = file.workdir();
            Ok((HarborImage::Built(file, context), workdir))
        }
    }
}

/// As `--net` takes it; nothing where a section says nothing.
fn network(section: &str, mode: Option<&str>, hosts: &[String]) -> Result<Option<String>, String> {
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

fn variables(
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

fn seconds(key: &str, value: f64) -> Result<Duration, String> {
    match value {
        _ if value > 0.0 && value <= MAX_SECONDS => Ok(Duration::from_secs_f64(value)),
        _ => Err(format!(
            "{key} = {value} is no number of seconds up to {MAX_SECONDS}"
        )),
    }
}

/// `2G`, `512M`, `100K`.
fn bytes(key: &str, text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match number.char_indices().last() {
        Some((at, 'K')) => (number.split_at(at).0, 10),
        Some((at, 'M')) => (number.split_at(at).0, 20),
        Some((at, 'G')) => (number.split_at(at).0, 30),
        _ => ("", 0),
    };
    let parsed: Option<u64> = digits.trim().parse().ok();
    parsed
        .filter(|count| *count > 0)
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| format!("{key} = {text:?} is no size like 512M or 2G"))
}
