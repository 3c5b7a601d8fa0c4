//! Messages, requests, answers and errors: plain data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation, kept as the JSON object that goes over the wire.
///
/// Member order is kept, so a message that is sent twice is the same bytes twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// `{"role":"system","content":…}`.
    #[must_use]
    pub fn system(text: impl Into<String>) -> Self {
        Self::text("system", text.into())
    }

    /// `{"role":"user","content":…}`.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self::text("user", text.into())
    }

    /// The answer to one tool call.
    #[must_use]
    pub fn tool(call_id: &str, text: impl Into<String>) -> Self {
        let mut map = Map::new();
        map.insert("role".into(), "tool".into());
        map.insert("tool_call_id".into(), call_id.into());
        map.insert("content".into(), Value::String(text.into()));
        Self(map)
    }

    /// What a server sent. The role is set when it is missing, and members that are `null` are dropped, except `content`:
    /// they say nothing, and some servers refuse them when they come back.
    #[must_use]
    pub fn assistant(mut object: Map<String, Value>) -> Self {
        object.retain(|name, value| name == "content" || !value.is_null());
        if !object.contains_key("role") {
            object.shift_insert(0, "role".into(), "assistant".into());
        }
        if !object.contains_key("content") && !object.contains_key("tool_calls") {
            object.insert("content".into(), "".into());
        }
        Self(object)
    }

    /// Its role; empty when it has none.
    #[must_use]
    pub fn role(&self) -> &str {
        self.string("role")
    }

    /// Its text; empty when it has none or when it is not plain text.
    #[must_use]
    pub fn content(&self) -> &str {
        self.string("content")
    }

    /// The model's reasoning, under either of the names in use.
    #[must_use]
    pub fn reasoning(&self) -> &str {
        match self.string("reasoning_content") {
            "" => self.string("reasoning"),
            text => text,
        }
    }

    /// The object itself.
    #[must_use]
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The object, to be mended before it is sent for the first time.
    pub fn as_object_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    /// Adds to the text. Only for a message that has not been sent yet.
    pub fn append(&mut self, suffix: &str) {
        let text = format!("{}{suffix}", self.content());
        self.0.insert("content".into(), Value::String(text));
    }

    fn text(role: &str, text: String) -> Self {
        let mut map = Map::new();
        map.insert("role".into(), role.into());
        map.insert("content".into(), Value::String(text));
        Self(map)
    }

    fn string(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy)]
pub struct ChatRequest<'a> {
    /// The whole conversation so far.
    pub messages: &'a [Message],
    /// Function schemas; sent with every request.
    pub tools: &'a [Value],
    /// Most tokens the answer may have.
    pub max_tokens: u64,
}

/// One whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The assistant message as it was sent.
    pub message: Message,
    /// Why generation ended, in the server's word.
    pub finish_reason: Option<String>,
    /// Tokens, when the server counts them.
    pub usage: Option<TokenUsage>,
    /// Requests it took; 1 when nothing went wrong.
    pub attempts: u32,
    /// What the person should know, each said once in a run.
    pub warnings: Vec<String>,
    /// The request without `messages` and `tools`.
    pub params: Map<String, Value>,
    /// The answer as one `chat.completion` object, put together when it was streamed.
    pub response: Value,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the conversation and the tool schemas.
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: u64,
    /// Of the prompt: served from a cache, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Of the answer: reasoning, where the server tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl TokenUsage {
    /// Reads a `usage` object; `None` unless it has both counts.
    #[must_use]
    pub fn from_json(usage: &Value) -> Option<Self> {
        let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
        Some(Self {
            prompt_tokens: count("/prompt_tokens")?,
            completion_tokens: count("/completion_tokens")?,
            cached_tokens: count("/prompt_tokens_details/cached_tokens"),
            reasoning_tokens: count("/completion_tokens_details/reasoning_tokens"),
        })
    }

    /// Prompt and answer together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// How tokens are drawn. What is absent is not sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// `temperature`.
    pub temperature: Option<f64>,
    /// `top_p`.
    pub top_p: Option<f64>,
    /// `top_k`; not part of OpenAI's own interface, but of most servers'.
    pub top_k: Option<u64>,
    /// `seed`.
    pub seed: Option<u64>,
}

/// A key: read from settings, but neither printed nor serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// The settings cannot make a request.
    #[error("{0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("talk to the model server at {url}")]
    Transport {
        /// Where.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The server was too slow.
    #[error("the model server gave {what} within {limit:?}")]
    Timeout {
        /// What was missing, as in "no first byte".
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The server refused.
    #[error("the model server answered {status}: {body}")]
    Status {
        /// HTTP status.
        status: u16,
        /// The head of its body.
        body: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server's answer cannot be understood.
    #[error("the model server's answer is unusable: {0}")]
    Protocol(String),
    /// The conversation does not fit in the model's context, however short the answer.
    #[error("the conversation does not fit in the model's context: {0}")]
    ContextOverflow(String),
    /// All attempts failed.
    #[error("gave up after {attempts} attempts")]
    GaveUp {
        /// How many.
        attempts: u32,
        /// The last failure.
        #[source]
        last: Box<LlmError>,
    },
    /// A replay file is malformed or at its end.
    #[error("replay {path}: {problem}")]
    Replay {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl LlmError {
    /// Another attempt may succeed: rate limits, server faults, broken connections and garbled answers.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } | Self::Protocol(_) => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::Config(_)
            | Self::ContextOverflow(_)
            | Self::GaveUp { .. }
            | Self::Replay { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::new("sk-very-private");
        assert!(!format!("{secret:?}").contains("private"));
        assert_eq!(secret.expose(), "sk-very-private");
    }

    #[test]
    fn an_assistant_message_keeps_its_members_in_order() {
        let text = r#"{"role":"assistant","reasoning_content":"r","content":null,"refusal":null,"z":1,"a":[2],"tool_calls":[]}"#;
        let message = Message::assistant(serde_json::from_str(text).unwrap());
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"role":"assistant","reasoning_content":"r","content":null,"z":1,"a":[2],"tool_calls":[]}"#
        );
        assert_eq!(message.reasoning(), "r");
    }

    #[test]
    fn usage_needs_both_counts() {
        assert_eq!(TokenUsage::from_json(&json!({"prompt_tokens": 3})), None);
        let usage = TokenUsage::from_json(
            &json!({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}),
        );
        assert_eq!(usage.unwrap().cached_tokens, Some(2));
    }
}
