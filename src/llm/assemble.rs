//! Puts the chunks of a streamed answer together, and reads an answer that came whole.

use serde_json::{Map, Value, json};

use super::types::{LlmError, Message, TokenUsage};

/// Highest `index` of a streamed tool call that is believed.
const MAX_CALLS: usize = 128;

/// A whole answer, before it is known how many attempts it took.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) message: Message,
    pub(crate) finish_reason: Option<String>,
    pub(crate) usage: Option<TokenUsage>,
    pub(crate) response: Value,
}

/// A streamed answer under construction.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    message: Map<String, Value>,
    calls: Vec<Map<String, Value>>,
    seen_choice: bool,
    finish_reason: Option<String>,
    usage: Option<Value>,
    logprobs: Vec<Value>,
    head: Map<String, Value>,
    done: bool,
}

impl Assembler {
    /// Takes one event's payload; `Ok(true)` when it was the last.
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<bool, LlmError> {
        if payload.trim_ascii() == b"[DONE]" {
            self.done = true;
            return Ok(true);
        }
        let chunk: Value = serde_json::from_slice(payload)
            .map_err(|e| LlmError::Protocol(format!("a stream event is not JSON: {e}")))?;
        let Value::Object(mut chunk) = chunk else {
            return Err(LlmError::Protocol("a stream event is no object".into()));
        };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(in_band_error(error));
        }
        if let Some(usage) = chunk.shift_remove("usage").filter(Value::is_object) {
            self.usage = Some(usage);
        }
        let choices = chunk.shift_remove("choices");
        for (name, value) in chunk {
            self.head.entry(name).or_insert(value);
        }
        if let Some(Value::Array(choices)) = choices {
            for choice in choices {
                self.take_choice(choice)?;
            }
        }
        Ok(false)
    }

    /// The whole answer. A stream that stops before it said so is broken, and gives nothing.
    pub(crate) fn finish(mut self) -> Result<Answer, LlmError> {
        if !self.done && self.finish_reason.is_none() {
            return Err(LlmError::Protocol(
                "the stream ended before the answer was complete".into(),
            ));
        }
        if !self.seen_choice {
            return Err(LlmError::Protocol("the stream holds no choice".into()));
        }
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(Value::Object).collect();
            self.message.insert("tool_calls".into(), calls);
        }
        let message = Message::assistant(self.message);
        let mut choice =
            json!({"index": 0, "message": message, "finish_reason": self.finish_reason});
        if !self.logprobs.is_empty()
            && let Some(choice) = choice.as_object_mut()
        {
            choice.insert("logprobs".into(), json!({"content": self.logprobs}));
        }
        let mut response = self.head;
        response.insert("object".into(), "chat.completion".into());
        response.insert("choices".into(), Value::Array(vec![choice]));
        response.insert("usage".into(), self.usage.clone().unwrap_or(Value::Null));
        Ok(Answer {
            message,
            finish_reason: self.finish_reason,
            usage: self.usage.as_ref().and_then(TokenUsage::from_json),
            response: Value::Object(response),
        })
    }

    fn take_choice(&mut self, choice: Value) -> Result<(), LlmError> {
        let Value::Object(mut choice) = choice else {
            return Err(LlmError::Protocol("a choice is no object".into()));
        };
        if choice.get("index").and_then(Value::as_u64).unwrap_or(0) != 0 {
            return Ok(());
        }
        self.seen_choice = true;
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish_reason = Some(reason.to_owned());
        }
        if let Some(Value::Array(entries)) = choice
            .get_mut("logprobs")
            .and_then(|l| l.get_mut("content"))
        {
            self.logprobs.append(entries);
        }
        match choice.remove("delta").or_else(|| choice.remove("message")) {
            Some(Value::Object(delta)) => self.take_delta(delta),
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(LlmError::Protocol("a delta is no object".into())),
        }
    }

    fn take_delta(&mut self, delta: Map<String, Value>) -> Result<(), LlmError> {
        for (name, value) in delta {
            match (name.as_str(), value) {
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        self.take_call(call)?;
                    }
                }
                // A role is repeated in every chunk by some servers: it must not be concatenated.
                ("role", value) => {
                    self.message.entry("role").or_insert(value);
                }
                (_, value) => merge(&mut self.message, name, value),
            }
        }
        Ok(())
    }

    fn take_call(&mut self, call: Value) -> Result<(), LlmError> {
        let Value::Object(mut call) = call else {
            return Err(LlmError::Protocol("a tool call is no object".into()));
        };
        let index = match call.shift_remove("index").as_ref().and_then(Value::as_u64) {
            Some(index) => usize::try_from(index).unwrap_or(MAX_CALLS),
            // Without an index, an entry with a name begins a call and one without goes on with the last.
            None if has_name(&call) => self.calls.len(),
            None => self.calls.len().saturating_sub(1),
        };
        if index >= MAX_CALLS {
            return Err(LlmError::Protocol(
                "too many tool calls in one answer".into(),
            ));
        }
        if index >= self.calls.len() {
            self.calls.resize_with(index + 1, Map::new);
        }
        let Some(slot) = self.calls.get_mut(index) else {
            return Ok(());
        };
        for (name, value) in call {
            match (name.as_str(), value) {
                ("function", Value::Object(part)) => {
                    let function = slot
                        .entry("function")
                        .or_insert_with(|| Value::Object(Map::new()));
                    if let Some(function) = function.as_object_mut() {
                        merge_function(function, part);
                    }
                }
                (_, value) => {
                    if !value.is_null() {
                        slot.entry(name).or_insert(value);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads an answer that was not streamed.
pub(crate) fn whole(body: &[u8]) -> Result<Answer, LlmError> {
    let response: Value = serde_json::from_slice(body).map_err(|e| {
        let head: String = String::from_utf8_lossy(body).chars().take(120).collect();
        LlmError::Protocol(format!("not JSON ({e}): {head}"))
    })?;
    if let Some(error) = response.get("error").filter(|error| !error.is_null()) {
        return Err(in_band_error(error));
    }
    let Some(choice) = response.pointer("/choices/0") else {
        return Err(LlmError::Protocol("the answer holds no choice".into()));
    };
    let Some(message) = choice.get("message").and_then(Value::as_object) else {
        return Err(LlmError::Protocol("the choice holds no message".into()));
    };
    Ok(Answer {
        message: Message::assistant(message.clone()),
        finish_reason: choice
            .get("finish_reason")
            .and_then(Value::as_str)
            .map(str::to_owned),
        usage: response.get("usage").and_then(TokenUsage::from_json),
        response,
    })
}

/// An error told with status 200: its own code counts where it has one.
fn in_band_error(error: &Value) -> LlmError {
    let text = error.to_string();
    let body: String = text.chars().take(4096).collect();
    match error.get("code").and_then(Value::as_u64) {
        Some(code @ 400..600) => LlmError::Status {
            status: u16::try_from(code).unwrap_or(500),
            body,
            retry_after: None,
        },
        Some(_) | None => LlmError::Protocol(format!("error in the answer: {body}")),
    }
}

/// Strings grow, lists are extended, everything else is replaced; `null` never overwrites.
fn merge(into: &mut Map<String, Value>, name: String, value: Value) {
    match (into.get_mut(&name), value) {
        (Some(Value::String(old)), Value::String(new)) => old.push_str(&new),
        (Some(Value::Array(old)), Value::Array(mut new)) => old.append(&mut new),
        (Some(_), Value::Null) => {}
        (_, value) => {
            into.insert(name, value);
        }
    }
}

fn merge_function(into: &mut Map<String, Value>, part: Map<String, Value>) {
    for (name, value) in part {
        // A name is sent whole; servers that repeat it must not double it.
        if name == "name" && into.get("name").and_then(Value::as_str) == value.as_str() {
            continue;
        }
        merge(into, name, value);
    }
}

fn has_name(call: &Map<String, Value>) -> bool {
    call.get("function")
        .and_then(|function| function.get("name"))
        .is_some_and(Value::is_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(events: &[&str]) -> Result<Answer, LlmError> {
        let mut assembler = Assembler::default();
        for event in events {
            assembler.push(event.as_bytes())?;
        }
        assembler.finish()
    }

    #[test]
    fn interleaved_parallel_calls_and_reasoning_come_together() {
        let answer = assemble(&[
            r#"{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"think"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"ing","content":"So"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}},{"index":1,"function":{"name":null,"arguments":"}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
            "[DONE]",
        ])
        .unwrap();
        assert_eq!(
            serde_json::to_string(&answer.message).unwrap(),
            r#"{"role":"assistant","content":"So","reasoning_content":"thinking","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}"#
        );
        assert_eq!(answer.usage.unwrap().prompt_tokens, 5);
        assert_eq!(answer.finish_reason.as_deref(), Some("tool_calls"));
    }

    #[test]
    fn a_stream_that_stops_early_gives_nothing() {
        let broken = assemble(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}}]}"#,
        ]);
        assert!(matches!(broken, Err(LlmError::Protocol(_))));
    }

    #[test]
    fn hostile_answers_are_errors() {
        for events in [
            &["3", "[DONE]"][..],
            &["[DONE]"],
            &[r#"{"choices":[3]}"#],
            &[r#"{"choices":[{"delta":3}]}"#],
            &[r#"{"choices":[{"delta":{"tool_calls":[{"index":4000000000}]}}]}"#],
            &[r#"{"error":{"message":"boom"}}"#],
            &[r#"{"choices":[{"delta":{"content":"\ud800"}}]}"#],
        ] {
            assert!(assemble(events).unwrap_err().is_transient());
        }
        for body in [
            "<html>",
            "[]",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"message":[]}]}"#,
        ] {
            assert!(matches!(whole(body.as_bytes()), Err(LlmError::Protocol(_))));
        }
        let error = whole(br#"{"error":{"code":401,"message":"no"}}"#).unwrap_err();
        assert!(!error.is_transient());
    }
}
