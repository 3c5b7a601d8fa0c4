//! Puts the chunks of a streamed answer together, and reads an answer that came whole.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::types::{LlmError, Message, TokenUsage};

/// Tool calls of one answer.
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
    /// The call that each `index` stands for.
    open: BTreeMap<u64, usize>,
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

    /// The server said why the answer ended, so none of it is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.seen_choice && self.finish_reason.is_some()
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

    /// Which call an entry belongs to: a new one, or one that it goes on with.
    ///
    /// Without an index, an entry with a name begins a call. Some servers give all parallel calls the same index: another id
    /// together with a name begins one too.
    fn slot(&mut self, index: Option<u64>, entry: &Map<String, Value>) -> Result<usize, LlmError> {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or("");
        let open = match index {
            Some(index) => self.open.get(&index).copied(),
            None => self.calls.len().checked_sub(1).filter(|_| !has_name(entry)),
        };
        let other = |at: &usize| {
            let known = self
                .calls
                .get(*at)
                .and_then(|call| call.get("id")?.as_str());
            has_name(entry) && !id.is_empty() && known.is_some_and(|known| known != id)
        };
        if let Some(at) = open.filter(|at| !other(at)) {
            return Ok(at);
        }
        let at = self.calls.len();
        if at >= MAX_CALLS {
            return Err(too_many_calls());
        }
        self.calls.push(Map::new());
        if let Some(index) = index {
            self.open.insert(index, at);
        }
        Ok(at)
    }

    fn take_call(&mut self, call: Value) -> Result<(), LlmError> {
        let Value::Object(mut call) = call else {
            return Err(LlmError::Protocol("a tool call is no object".into()));
        };
        let index = call.shift_remove("index");
        let at = self.slot(index.as_ref().and_then(Value::as_u64), &call)?;
        let Some(slot) = self.calls.get_mut(at) else {
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
    let calls = message.get("tool_calls").and_then(Value::as_array);
    if calls.is_some_and(|calls| calls.len() > MAX_CALLS) {
        return Err(too_many_calls());
    }
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

fn too_many_calls() -> LlmError {
    LlmError::Protocol("too many tool calls in one answer".into())
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
    fn calls_are_told_apart_without_a_sound_index() {
        let names = |entries: &[&str]| {
            let mut events: Vec<String> = entries
                .iter()
                .map(|entry| format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{entry}]}}}}]}}"#))
                .collect();
            events.push("[DONE]".into());
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            let answer = assemble(&events).unwrap();
            serde_json::to_string(&answer.message.as_object()["tool_calls"]).unwrap()
        };
        let whole = r#"[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"f","arguments":"{}"}}]"#;
        let a = r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#;
        let b = r#"{"id":"b","function":{"name":"f","arguments":"{"}}"#;
        assert_eq!(names(&[a, b, r#"{"function":{"arguments":"}"}}"#]), whole);
        let zero = |entry: &str| entry.replacen('{', "{\"index\":0,", 1);
        let rest = r#"{"index":0,"id":"b","function":{"arguments":"}"}}"#;
        assert_eq!(names(&[&zero(a), &zero(b), rest]), whole);
        let far =
            |entry: &str, index: u64| entry.replacen('{', &format!("{{\"index\":{index},"), 1);
        let rest = r#"{"index":9,"function":{"arguments":"}"}}"#;
        assert_eq!(names(&[&far(a, 4_000_000_000), &far(b, 9), rest]), whole);
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
