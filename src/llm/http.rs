//! Chat completions over HTTP, for every server that speaks OpenAI's interface.
//!
//! Requests are always streamed, so that a stalled server is noticed; a server that answers with plain JSON is understood
//! too. Redirects are not followed: they would carry the key elsewhere. Nothing of a broken answer is ever used.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::ChatModel;
use super::assemble::{Answer, Assembler, whole};
use super::config::HttpConfig;
use super::context::{Learned, refusal};
use super::dropped_tools::tools_were_dropped;
use super::endpoint::{
    completions_url, is_loopback, served_name, shown_url, wants_completion_tokens,
};
use super::retry::retry_after;
use super::sse::SseParser;
use super::types::{ChatRequest, Completion, LlmError};

/// Largest answer.
const MAX_BODY: usize = 64 << 20;
/// Bytes of a refusal that are kept.
const MAX_ERROR_BODY: usize = 8 << 10;
/// Context refusals in a row that are mended; more means that the server's numbers are wrong.
const MAX_SHRINKS: u32 = 16;

/// A model behind an OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct HttpModel {
    client: reqwest::Client,
    url: String,
    model: String,
    config: HttpConfig,
    state: Arc<Mutex<State>>,
}

/// What was learnt from the server, for all later requests.
#[derive(Debug, Default)]
struct State {
    context: Learned,
    completion_tokens_name: bool,
    drop_temperature: bool,
    warned_tools: bool,
}

impl HttpModel {
    /// Prepares the client; connects nowhere.
    ///
    /// # Errors
    /// [`LlmError::Config`] for an unusable URL, header or key.
    pub fn new(config: HttpConfig) -> Result<Self, LlmError> {
        // Ours is the first and only provider unless the host program chose one; then its choice stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = completions_url(&config.base_url)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let bad = || LlmError::Config(format!("{name:?} is not a usable header"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(key) = &config.api_key {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
                    LlmError::Config("the API key holds characters that no header can".into())
                })?;
            value.set_sensitive(true);
            headers.insert(reqwest::header::AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder();
        if url.starts_with("http://") {
            // No certificate is needed, and a machine without a certificate store must not be refused for it.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        if is_loopback(&url) {
            // A proxy that is set for the world cannot reach this machine's own servers.
            builder = builder.no_proxy();
        }
        let client = builder
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.timeouts.connect)
            .default_headers(headers)
            .user_agent(concat!("llm-in-sandbox/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| LlmError::Config(format!("prepare the HTTP client: {e}")))?;
        let model = served_name(&config.model).to_owned();
        let state = State {
            completion_tokens_name: wants_completion_tokens(&model),
            drop_temperature: wants_completion_tokens(&model),
            ..State::default()
        };
        Ok(Self {
            client,
            url,
            model,
            config,
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// The same model with another sampling seed: connections, and what was learnt from the server, are shared.
    #[must_use]
    pub fn with_seed(&self, seed: Option<u64>) -> Self {
        let mut other = self.clone();
        other.config.sampling.seed = seed;
        other
    }

    /// The address that requests go to, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        shown_url(&self.url)
    }

    /// Gives way to a server that refuses one of our own members; each at most once.
    fn adapt(&self, error: &LlmError) -> bool {
        let LlmError::Status {
            status: 400 | 422,
            body,
            ..
        } = error
        else {
            return false;
        };
        let lower = body.to_lowercase();
        if !lower.contains("unsupported") && !lower.contains("not support") {
            return false;
        }
        self.with(|state| {
            if lower.contains("max_completion_tokens") && !state.completion_tokens_name {
                state.completion_tokens_name = true;
                return true;
            }
            if lower.contains("temperature") && !state.drop_temperature {
                state.drop_temperature = true;
                return true;
            }
            false
        })
    }

    fn params(&self, max_tokens: u64) -> Map<String, Value> {
        let (completion_name, drop_temperature) =
            self.with(|s| (s.completion_tokens_name, s.drop_temperature));
        let mut body = Map::new();
        body.insert("model".into(), self.model.as_str().into());
        let limit = if completion_name {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        body.insert(limit.into(), max_tokens.into());
        let sampling = &self.config.sampling;
        let temperature = sampling.temperature.filter(|_| !drop_temperature);
        for (name, value) in [
            ("temperature", temperature.map(Value::from)),
            ("top_p", sampling.top_p.map(Value::from)),
            ("top_k", sampling.top_k.map(Value::from)),
            ("seed", sampling.seed.map(Value::from)),
        ] {
            if let Some(value) = value {
                body.insert(name.into(), value);
            }
        }
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
        for (name, value) in &self.config.extra_body {
            if value.is_null() {
                body.shift_remove(name);
            } else {
                body.insert(name.clone(), value.clone());
            }
        }
        body
    }

    async fn attempt(
        &self,
        params: &Map<String, Value>,
        messages: &str,
        tools: &[Value],
    ) -> Result<Answer, LlmError> {
        let body = body(params.clone(), messages, tools)?;
        let total = self.config.timeouts.total;
        timeout(total, self.exchange(body))
            .await
            .unwrap_or(Err(LlmError::Timeout {
                what: "no whole answer",
                limit: total,
            }))
    }

    async fn exchange(&self, body: String) -> Result<Answer, LlmError> {
        let first_byte = self.config.timeouts.first_byte;
        let post = self.client.post(&self.url).body(body);
        let send = post.header(CONTENT_TYPE, "application/json").send();
        let mut response = timeout(first_byte, send)
            .await
            .map_err(|_| LlmError::Timeout {
                what: "no first byte",
                limit: first_byte,
            })?
            .map_err(|e| self.transport(e))?;
        let status = response.status();
        if !status.is_success() {
            let wish = response.headers().get(RETRY_AFTER);
            let retry_after = wish
                .and_then(|value| value.to_str().ok())
                .and_then(|value| retry_after(value, SystemTime::now()));
            // A refusal is a refusal even when its text cannot be read.
            let body = self.read_body(&mut response, MAX_ERROR_BODY, true).await;
            return Err(LlmError::Status {
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body.unwrap_or_default()).into_owned(),
                retry_after,
            });
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
        if !kind.to_ascii_lowercase().starts_with("text/event-stream") {
            return whole(&self.read_body(&mut response, MAX_BODY, false).await?);
        }
        self.read_stream(&mut response).await
    }

    async fn read_stream(&self, response: &mut reqwest::Response) -> Result<Answer, LlmError> {
        let mut parser = SseParser::default();
        let mut assembler = Assembler::default();
        let (mut size, mut started) = (0_usize, false);
        loop {
            let chunk = match self.next_chunk(response, started).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // All that is missing is the farewell, and perhaps the token counts.
                Err(_) if assembler.is_whole() => break,
                Err(error) => return Err(error),
            };
            started = true;
            size = size.saturating_add(chunk.len());
            if size > MAX_BODY {
                return Err(LlmError::Protocol(format!(
                    "the stream is longer than {MAX_BODY} bytes"
                )));
            }
            let events = parser
                .push(&chunk)
                .map_err(|_| LlmError::Protocol("a stream event is too long".into()))?;
            for event in events {
                if assembler.push(&event)? {
                    return assembler.finish();
                }
            }
        }
        if let Some(event) = parser.finish() {
            assembler.push(&event)?;
        }
        assembler.finish()
    }

    /// A whole body of at most `cap` bytes; a longer one is cut when `cut`, else an error.
    async fn read_body(
        &self,
        response: &mut reqwest::Response,
        cap: usize,
        cut: bool,
    ) -> Result<Vec<u8>, LlmError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk(response, !body.is_empty()).await? {
            let room = cap.saturating_sub(body.len());
            body.extend(chunk.iter().take(room));
            if chunk.len() > room {
                if cut {
                    break;
                }
                return Err(LlmError::Protocol(format!(
                    "the answer is longer than {cap} bytes"
                )));
            }
        }
        Ok(body)
    }

    async fn next_chunk(
        &self,
        response: &mut reqwest::Response,
        started: bool,
    ) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, LlmError> {
        let (what, limit) = if started {
            ("no further byte", self.config.timeouts.idle)
        } else {
            ("no first byte", self.config.timeouts.first_byte)
        };
        timeout(limit, response.chunk())
            .await
            .map_err(|_| LlmError::Timeout { what, limit })?
            .map_err(|e| self.transport(e))
    }

    fn transport(&self, source: reqwest::Error) -> LlmError {
        LlmError::Transport {
            url: self.url(),
            source: source.without_url(),
        }
    }

    fn complete(
        &self,
        answer: Answer,
        request: &ChatRequest<'_>,
        params: Map<String, Value>,
        bytes: usize,
        attempts: u32,
    ) -> Completion {
        let mut warnings = Vec::new();
        if let Some(usage) = answer.usage {
            let native = answer.message.as_object().contains_key("tool_calls");
            let dropped = !native && tools_were_dropped(request, usage.prompt_tokens);
            self.with(|state| {
                state.context.prompt_was(usage.prompt_tokens, bytes);
                if dropped && !std::mem::replace(&mut state.warned_tools, true) {
                    warnings.push(format!(
                        "the server seems to ignore `tools`: it counted {} prompt tokens, fewer than what it was sent must have; start it with tool calling enabled",
                        usage.prompt_tokens
                    ));
                }
            });
        }
        Completion {
            message: answer.message,
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            attempts,
            warnings,
            params,
            response: answer.response,
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        // The state is plain numbers: a panic elsewhere cannot leave it half-made.
        action(
            &mut self
                .state
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl ChatModel for HttpModel {
    async fn chat(&self, request: &ChatRequest<'_>) -> Result<Completion, LlmError> {
        let messages = encode(request.messages)?;
        let bytes = messages.len();
        let (mut attempts, mut failures, mut shrinks) = (0_u32, 0_u32, 0_u32);
        let mut forced = None;
        loop {
            let wanted = forced
                .unwrap_or_else(|| self.with(|s| s.context.max_tokens(request.max_tokens, bytes)));
            let params = self.params(wanted);
            attempts += 1;
            let error = match self.attempt(&params, &messages, request.tools).await {
                Ok(answer) => return Ok(self.complete(answer, request, params, bytes, attempts)),
                Err(error) => error,
            };
            if let Some(refused) = refusal(&error) {
                shrinks += 1;
                forced = self.with(|s| s.context.after_refusal(refused, wanted, bytes));
                if forced.is_none() || shrinks > MAX_SHRINKS {
                    return Err(LlmError::ContextOverflow(error.to_string()));
                }
                tracing::debug!(
                    max_tokens = forced,
                    "context refusal: asking for a shorter answer"
                );
                continue;
            }
            if self.adapt(&error) {
                continue;
            }
            if !error.is_transient() {
                return Err(error);
            }
            failures += 1;
            if failures >= self.config.retry.attempts {
                return Err(LlmError::GaveUp {
                    attempts,
                    last: Box::new(error),
                });
            }
            let delay = self.config.retry.delay(failures, &error);
            tracing::warn!(%error, ?delay, "model request failed, repeating it");
            tokio::time::sleep(delay).await;
        }
    }
}

/// A request's body. The conversation is by far the largest part, so it is encoded once, whatever the number of attempts.
fn body(
    mut params: Map<String, Value>,
    messages: &str,
    tools: &[Value],
) -> Result<String, LlmError> {
    params.shift_remove("messages");
    if !tools.is_empty() {
        params.shift_remove("tools");
    }
    let mut body = encode(&params)?;
    // The brace; there is always a model before it.
    body.pop();
    body.push_str(",\"messages\":");
    body.push_str(messages);
    if !tools.is_empty() {
        body.push_str(",\"tools\":");
        body.push_str(&encode(tools)?);
    }
    body.push('}');
    Ok(body)
}

fn encode<T: serde::Serialize + ?Sized>(part: &T) -> Result<String, LlmError> {
    serde_json::to_string(part).map_err(|e| LlmError::Config(format!("encode the request: {e}")))
}

#[cfg(test)]
mod tests;
