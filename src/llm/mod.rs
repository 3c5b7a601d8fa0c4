//! The language model as the agent sees it: one request in, one whole answer out.
//!
//! [`HttpModel`] talks to an OpenAI-compatible server, [`ReplayModel`] reads its answers from a file.
//! Nothing here knows sandboxes or tools; a partial answer never leaves this module.

pub(crate) mod assemble;
mod config;
mod context;
mod dropped_tools;
mod endpoint;
mod http;
mod replay;
mod retry;
pub(crate) mod sse;
mod text_calls;
mod types;

use std::future::Future;

pub use config::{HttpConfig, ModelSettings, Timeouts};
pub(crate) use endpoint::is_loopback;
pub use endpoint::{served_name, shown_url};
pub use http::HttpModel;
pub use replay::ReplayModel;
pub use retry::RetryPolicy;
pub(crate) use retry::retry_after;
pub use text_calls::{TextCall, parse_text_calls};
pub use types::{ChatRequest, Completion, LlmError, Message, Sampling, Secret, TokenUsage};

/// A chat model that can call functions.
pub trait ChatModel: Sync {
    /// Asks for the next assistant message. Retries are the model's own affair; an error here is final.
    fn chat(
        &self,
        request: &ChatRequest<'_>,
    ) -> impl Future<Output = Result<Completion, LlmError>> + Send;
}

/// Whichever model the settings name.
#[derive(Debug)]
pub enum Model {
    /// An OpenAI-compatible server.
    Http(Box<HttpModel>),
    /// Recorded answers.
    Replay(ReplayModel),
}

impl Model {
    /// Prepares the model; connects nowhere.
    ///
    /// # Errors
    /// [`LlmError`] when the settings or the file of answers cannot be used.
    pub fn open(settings: &ModelSettings) -> Result<Self, LlmError> {
        Ok(match settings {
            ModelSettings::Http(config) => {
                Self::Http(Box::new(HttpModel::new((**config).clone())?))
            }
            ModelSettings::Replay(path) => Self::Replay(ReplayModel::open(path)?),
        })
    }
}

impl ChatModel for Model {
    async fn chat(&self, request: &ChatRequest<'_>) -> Result<Completion, LlmError> {
        match self {
            Self::Http(model) => model.chat(request).await,
            Self::Replay(model) => model.chat(request).await,
        }
    }
}
