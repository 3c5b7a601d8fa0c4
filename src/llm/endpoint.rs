//! Names and addresses as users give them, and as servers want them.

use super::types::LlmError;

/// The name that goes to the server: the routing prefixes `openai/` and `hosted_vllm/` are ours, all else passes unchanged.
#[must_use]
pub fn served_name(name: &str) -> &str {
    name.strip_prefix("openai/")
        .or_else(|| name.strip_prefix("hosted_vllm/"))
        .unwrap_or(name)
}

/// An address without the user and password that it may hold.
#[must_use]
pub fn shown_url(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(parsed) if parsed.username().is_empty() && parsed.password().is_none() => url.to_owned(),
        Ok(mut parsed) => {
            // Fails only for addresses that cannot hold credentials.
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        Err(_) => String::new(),
    }
}

/// OpenAI's reasoning models take `max_completion_tokens` and no temperature.
pub(crate) fn wants_completion_tokens(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    ["o1", "o3", "o4"].iter().any(|family| {
        name.strip_prefix(family)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// The address is one of this machine's own.
pub(crate) fn is_loopback(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or("");
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The address that requests go to.
pub(crate) fn completions_url(base: &str) -> Result<String, LlmError> {
    let bad = |why: String| {
        LlmError::Config(format!(
            "{:?} is not a usable model URL: {why}",
            if base.contains('@') { "<hidden>" } else { base }
        ))
    };
    let url = reqwest::Url::parse(base.trim()).map_err(|e| bad(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("it must begin with http:// or https://".into()));
    }
    let text = base.trim().trim_end_matches('/');
    Ok(if text.ends_with("/chat/completions") {
        text.to_owned()
    } else {
        format!("{text}/chat/completions")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routing_prefixes_are_stripped() {
        for (given, sent) in [
            ("openai/gpt-4o", "gpt-4o"),
            ("hosted_vllm/Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
            ("openrouter/deepseek/x", "openrouter/deepseek/x"),
            ("gemini/pro", "gemini/pro"),
            ("plain", "plain"),
        ] {
            assert_eq!(served_name(given), sent);
        }
    }

    #[test]
    fn own_addresses_are_known() {
        for (url, own) in [
            ("http://localhost:8000/v1", true),
            ("http://127.0.0.2/v1", true),
            ("http://[::1]:80/v1", true),
            ("https://localhost.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(url), own, "{url}");
        }
    }

    #[test]
    fn urls_are_completed_or_refused() {
        for (base, expected) in [
            (
                "http://localhost:8000/v1",
                Some("http://localhost:8000/v1/chat/completions"),
            ),
            ("http://h/v1/", Some("http://h/v1/chat/completions")),
            (
                "https://h/x/chat/completions",
                Some("https://h/x/chat/completions"),
            ),
            ("localhost:8000", None),
            ("ftp://h", None),
            ("", None),
        ] {
            assert_eq!(completions_url(base).ok().as_deref(), expected, "{base}");
        }
    }
}
