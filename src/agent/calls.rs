//! Finding the calls in an assistant message.
//!
//! The message goes back to the server as it came. It is mended only where a server could not accept any answer to it: a call
//! without an id, or with the id of another call of the same message, gets one; what is no call at all is left out.

use serde_json::{Map, Value};

use crate::llm::{Message, parse_text_calls};

/// Calls of one message that are carried out; the others are answered with an error.
pub(crate) const MAX_CALLS: usize = 64;

/// One call to be answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// Its id; absent when it was written in the text.
    pub(crate) id: Option<String>,
    /// The function's name; may be empty.
    pub(crate) name: String,
    /// Its arguments, or why they cannot be read.
    pub(crate) arguments: Result<Map<String, Value>, String>,
}

/// The calls in order. `step` makes new ids unique in the conversation; `cut` says that the answer hit its token limit.
pub(crate) fn extract(message: &mut Message, step: u32, cut: bool) -> Vec<Call> {
    let native = native_calls(message, step, cut);
    if !native.is_empty() {
        return native;
    }
    parse_text_calls(message.content())
        .into_iter()
        .map(|call| Call {
            id: None,
            name: call.name,
            arguments: call.arguments,
        })
        .collect()
}

fn native_calls(message: &mut Message, step: u32, cut: bool) -> Vec<Call> {
    let object = message.as_object_mut();
    let Some(entry) = object.get_mut("tool_calls") else {
        return Vec::new();
    };
    let mut calls: Vec<Call> = Vec::new();
    if let Some(entries) = entry.as_array_mut() {
        entries.retain(|entry| entry.get("function").is_some_and(Value::is_object));
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            let id = mend(entry, &calls, step);
            let function = entry.get("function");
            let name = function.and_then(|f| f.get("name")).and_then(Value::as_str);
            calls.push(Call {
                id: Some(id),
                name: name.unwrap_or("").to_owned(),
                arguments: arguments(function.and_then(|f| f.get("arguments")), cut),
            });
        }
    }
    if calls.is_empty() {
        object.shift_remove("tool_calls");
        object.entry("content").or_insert_with(|| "".into());
    }
    calls
}

fn mend(entry: &mut Map<String, Value>, earlier: &[Call], step: u32) -> String {
    if entry.get("type").and_then(Value::as_str).is_none() {
        entry.insert("type".into(), "function".into());
    }
    let given = entry.get("id").and_then(Value::as_str).unwrap_or("");
    let taken = |id: &str| earlier.iter().any(|call| call.id.as_deref() == Some(id));
    if !given.is_empty() && !taken(given) {
        return given.to_owned();
    }
    let mut id = format!("call_{step}_{}", earlier.len() + 1);
    while taken(&id) {
        id.push('_');
    }
    entry.insert("id".into(), id.as_str().into());
    id
}

fn arguments(value: Option<&Value>, cut: bool) -> Result<Map<String, Value>, String> {
    let text = match value {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(Value::Object(map)) => return Ok(map.clone()),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            return Err("they are not a JSON object".into());
        }
    };
    let why = if cut {
        " (the reply reached its token limit before the call was complete; make it shorter, or write the file in parts)"
    } else {
        ""
    };
    if text.trim().is_empty() {
        // `submit` takes none, and some servers then send an empty string.
        return if cut {
            Err(format!("they are missing{why}"))
        } else {
            Ok(Map::new())
        };
    }
    serde_json::from_str(text).map_err(|e| format!("they are not a JSON object: {e}{why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: &Value) -> Message {
        Message::assistant(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_sound_message_is_not_touched() {
        let sound = message(
            &json!({"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1 }"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
            ]}),
        );
        let mut seen = sound.clone();
        let calls = extract(&mut seen, 1, false);
        assert_eq!(seen, sound);
        assert_eq!(calls.len(), 2);
        assert_eq!(
            calls[0].arguments.as_ref().unwrap().get("x"),
            Some(&json!(1))
        );
        assert_eq!(calls[1].arguments, Ok(Map::new()));
    }

    #[test]
    fn missing_and_doubled_ids_are_given() {
        let mut mended = message(&json!({"tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}},
            {"id": "x", "function": {"name": "f", "arguments": {"a": 1}}},
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "[1]"}},
            3, {"id": "no function"},
        ]}));
        let calls = extract(&mut mended, 7, false);
        let ids: Vec<_> = calls.iter().map(|c| c.id.clone().unwrap()).collect();
        assert_eq!(ids, ["call_7_1", "x", "call_7_3"]);
        assert!(calls[1].arguments.is_ok() && calls[2].arguments.is_err());
        let sent: Vec<_> = mended.as_object()["tool_calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["id"].as_str().unwrap())
            .collect();
        assert_eq!(sent, ids);
    }

    #[test]
    fn what_is_no_call_is_left_out() {
        let mut empty = message(&json!({"tool_calls": "nonsense", "content": null}));
        assert_eq!(extract(&mut empty, 1, false), []);
        assert!(!empty.as_object().contains_key("tool_calls"));
    }

    #[test]
    fn a_call_cut_by_the_token_limit_says_so() {
        for arguments in ["", "{\"command\": \"ech"] {
            let mut cut = message(
                &json!({"tool_calls": [{"id": "a", "function": {"name": "execute_bash", "arguments": arguments}}]}),
            );
            let calls = extract(&mut cut, 1, true);
            assert!(
                calls[0]
                    .arguments
                    .as_ref()
                    .unwrap_err()
                    .contains("token limit")
            );
        }
    }

    #[test]
    fn text_calls_have_no_id() {
        let mut text = message(
            &json!({"content": "<tool_call>{\"name\":\"submit\"}</tool_call>", "tool_calls": []}),
        );
        let calls = extract(&mut text, 1, false);
        assert_eq!(
            (calls[0].id.as_deref(), calls[0].name.as_str()),
            (None, "submit")
        );
    }
}
