//! Where a model is and how it is asked: plain data with defaults.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::endpoint::shown_url;
use super::retry::RetryPolicy;
use super::types::{Sampling, Secret};

/// Bounds of one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// Until the answer is whole.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(180),
            total: Duration::from_secs(1200),
        }
    }
}

/// Where the model is and how it is asked.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Up to and including `/v1`; `/chat/completions` is added when it is missing.
    pub base_url: String,
    /// As the user gave it; see `served_name`.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<Secret>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Merged into every request body, over our own members; `null` removes one.
    pub extra_body: Map<String, Value>,
    /// Added to every request; the values may be as secret as the key.
    pub headers: Vec<(String, Secret)>,
    /// Repetition of failed requests.
    pub retry: RetryPolicy,
    /// Bounds of each request.
    pub timeouts: Timeouts,
}

impl HttpConfig {
    /// A server and a model with everything else at its default.
    #[must_use]
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            sampling: Sampling::default(),
            extra_body: Map::new(),
            headers: Vec::new(),
            retry: RetryPolicy::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Which model, and how it is asked.
#[derive(Debug, Clone)]
pub enum ModelSettings {
    /// A server.
    Http(Box<HttpConfig>),
    /// A file of recorded answers.
    Replay(PathBuf),
}

impl ModelSettings {
    /// The name as it was given.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Http(config) => config.model.clone(),
            Self::Replay(path) => format!("replay:{}", path.display()),
        }
    }

    /// The server's address without credentials; none for recorded answers.
    #[must_use]
    pub fn shown_url(&self) -> Option<String> {
        match self {
            Self::Http(config) => Some(shown_url(&config.base_url)),
            Self::Replay(_) => None,
        }
    }
}
