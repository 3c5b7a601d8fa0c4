//! Context-length refusals: recognising them, reading their numbers, and choosing a shorter answer.
//!
//! Servers word them differently and none of them documents the words, so recognition is by the ideas they share.
//! A rate limit (429) that speaks of tokens is never taken for one.

use serde_json::Value;

use super::types::LlmError;

/// Tokens left unused between conversation, answer and context: servers count templates differently.
const MARGIN: u64 = 100;
/// An answer shorter than this cannot hold a useful tool call: below it the conversation counts as too long.
pub(crate) const MIN_ANSWER: u64 = 1024;

/// What a refusal tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Size of the context in tokens.
    pub(crate) context: Option<u64>,
    /// Tokens of the conversation.
    pub(crate) prompt: Option<u64>,
}

/// What is known about the server's context.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Learned {
    context: Option<u64>,
    cap: Option<u64>,
    tokens_per_byte: Option<f64>,
}

impl Learned {
    /// The `max_tokens` to send for a conversation of `bytes` bytes.
    pub(crate) fn max_tokens(&self, wanted: u64, bytes: usize) -> u64 {
        let mut tokens = wanted.min(self.cap.unwrap_or(u64::MAX));
        if let (Some(context), Some(rate)) = (self.context, self.tokens_per_byte) {
            // A twentieth more than estimated: later text may be denser than what the rate was learnt from.
            let prompt = (count(bytes) * rate * 1.05).ceil();
            let room = f64_to_u64(f64_from(context) - prompt).saturating_sub(MARGIN);
            tokens = tokens.min(room.max(MIN_ANSWER.min(wanted)));
        }
        tokens
    }

    /// Notes how many tokens a conversation of `bytes` bytes had.
    pub(crate) fn prompt_was(&mut self, tokens: u64, bytes: usize) {
        if bytes > 0 && tokens > 0 {
            self.tokens_per_byte = Some(f64_from(tokens) / count(bytes));
        }
    }

    /// The `max_tokens` to try after `sent` was refused, remembered for later requests; `None` when nothing can fit.
    pub(crate) fn after_refusal(
        &mut self,
        refusal: Refusal,
        sent: u64,
        bytes: usize,
    ) -> Option<u64> {
        if let Some(context) = refusal.context {
            self.context = Some(context);
        }
        let floor = MIN_ANSWER.min(sent);
        if let (Some(context), Some(prompt)) = (refusal.context, refusal.prompt) {
            self.prompt_was(prompt, bytes);
            let room = context.saturating_sub(prompt).saturating_sub(MARGIN);
            if room >= floor && room < sent {
                return Some(room);
            }
            if room < floor {
                return None;
            }
        }
        if sent <= floor {
            return None;
        }
        let halved = (sent / 2).max(floor);
        self.cap = Some(halved);
        Some(halved)
    }
}

/// Recognises a refusal for the length of conversation and answer.
pub(crate) fn refusal(error: &LlmError) -> Option<Refusal> {
    let LlmError::Status { status, body, .. } = error else {
        return None;
    };
    // 500: llama-server once answered so.
    if !matches!(status, 400 | 413 | 422 | 500) {
        return None;
    }
    let lower = body.to_lowercase();
    let has = |words: &[&str]| words.iter().all(|word| lower.contains(word));
    let named = has(&["context_length_exceeded"]) || has(&["exceed_context_size"]);
    let context = has(&["context"])
        && ["length", "window", "size", "limit"]
            .iter()
            .any(|w| has(&[w]))
        && [
            "exceed",
            "maximum",
            "too long",
            "too large",
            "longer",
            "larger",
            "reduce",
        ]
        .iter()
        .any(|w| has(&[w]));
    let prompt = (has(&["prompt", "too long"]) && has(&["token"]))
        || has(&["token count", "exceeds", "maximum"]);
    (named || context || prompt).then(|| read_numbers(&lower))
}

fn read_numbers(lower: &str) -> Refusal {
    if let Ok(body) = serde_json::from_str::<Value>(lower) {
        let field = |name: &str| {
            let inner = body.get("error").and_then(|e| e.get(name));
            inner.or_else(|| body.get(name)).and_then(Value::as_u64)
        };
        if let (Some(context), Some(prompt)) = (field("n_ctx"), field("n_prompt_tokens")) {
            return Refusal {
                context: Some(context),
                prompt: Some(prompt),
            };
        }
    }
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ','))
        .filter(|word| !word.is_empty())
        .collect();
    let number = |word: &&str| word.replace(',', "").parse::<u64>().ok();
    let is = |word: &str, set: &[&str]| set.contains(&word.trim_matches(','));
    let mut found = Refusal::default();
    for (at, word) in words.iter().enumerate() {
        let following = words.get(at + 1..).unwrap_or_default();
        if is(word, &["context"]) && found.context.is_none() {
            let sized = following
                .first()
                .is_some_and(|w| is(w, &["length", "window", "size", "limit"]));
            if sized {
                found.context = following.iter().skip(1).take(4).find_map(number);
            }
        }
        if found.prompt.is_none()
            && let Some(tokens) = number(word)
        {
            let near = following.iter().take(5).take_while(|w| number(w).is_none());
            if near
                .into_iter()
                .any(|w| is(w, &["input", "prompt", "messages"]))
            {
                found.prompt = Some(tokens);
            }
        }
    }
    found
}

fn count(bytes: usize) -> f64 {
    f64_from(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Exact up to 2^53, far above any token count.
fn f64_from(value: u64) -> f64 {
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and that is what is wanted of an estimate"
)]
fn f64_to_u64(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Option<(Option<u64>, Option<u64>)> {
        let error = LlmError::Status {
            status,
            body: body.to_owned(),
            retry_after: None,
        };
        refusal(&error).map(|r| (r.context, r.prompt))
    }

    #[test]
    fn the_usual_wordings_are_recognised() {
        for (body, context, prompt) in [
            (
                "This model's maximum context length is 32768 tokens. However, you requested 66000 tokens (464 in the messages, 65536 in the completion).",
                Some(32768),
                Some(464),
            ),
            (
                "'max_tokens' is too large: 65536. This model's maximum context length is 32768 tokens and your request has 1234 input tokens (65536 > 32768 - 1234).",
                Some(32768),
                Some(1234),
            ),
            (
                "Requested token count exceeds the model's maximum context length of 32,768 tokens. You requested a total of 66770 tokens: 1234 tokens from the input messages and 65536 tokens for the completion.",
                Some(32768),
                Some(1234),
            ),
            (
                r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#,
                Some(4096),
                Some(5000),
            ),
            (
                "the request exceeds the available context size. try increasing the context size or enable context shift",
                None,
                None,
            ),
            (
                "prompt is too long: 210000 tokens > 200000 maximum",
                None,
                None,
            ),
            (
                r#"{"error":{"code":"context_length_exceeded","message":"no"}}"#,
                None,
                None,
            ),
        ] {
            assert_eq!(read(400, body), Some((context, prompt)), "{body}");
        }
    }

    #[test]
    fn other_refusals_are_not() {
        assert_eq!(
            read(
                429,
                "token limit per minute exceeded, maximum context length is 3"
            ),
            None
        );
        assert_eq!(read(400, "temperature exceeds the maximum"), None);
        assert_eq!(read(401, "invalid token"), None);
    }

    #[test]
    fn a_shorter_answer_is_chosen_and_remembered() {
        let mut learned = Learned::default();
        let told = Refusal {
            context: Some(32768),
            prompt: Some(1000),
        };
        assert_eq!(learned.after_refusal(told, 65536, 4000), Some(31668));
        assert_eq!(learned.max_tokens(65536, 4000), 32768 - 1050 - 100);
        assert_eq!(learned.max_tokens(65536, 1_000_000), MIN_ANSWER);
        let full = Refusal {
            context: Some(32768),
            prompt: Some(32700),
        };
        assert_eq!(learned.after_refusal(full, 65536, 130_000), None);
    }

    #[test]
    fn without_numbers_the_answer_is_halved_down_to_the_floor() {
        let mut learned = Learned::default();
        let mut sent = 65536;
        let mut tries = 0;
        while let Some(next) = learned.after_refusal(Refusal::default(), sent, 10) {
            assert!(next < sent && next >= MIN_ANSWER);
            sent = next;
            tries += 1;
        }
        assert_eq!((sent, tries), (MIN_ANSWER, 6));
        assert_eq!(learned.max_tokens(65536, 10), MIN_ANSWER);
    }
}
