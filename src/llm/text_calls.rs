//! Tool calls written in the text, as Hermes and Qwen models do: `<tool_call>{"name":…,"arguments":{…}}</tool_call>`.
//!
//! Used only when a server returned no native call: its tool parser is off, or it dropped `tools`.

use serde_json::{Map, Value};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// Calls of one message that are looked at.
const MAX_CALLS: usize = 128;

/// One call found in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCall {
    /// The function's name; empty when it cannot be read.
    pub name: String,
    /// Its arguments, or why they cannot be read.
    pub arguments: Result<Map<String, Value>, String>,
}

/// All calls of a message's text, in order. What stands before the last `</think>` is reasoning and does not count.
/// A last block without its closing tag counts when its JSON is complete: the tag may have been the stop word.
#[must_use]
pub fn parse_text_calls(text: &str) -> Vec<TextCall> {
    let mut rest = text
        .rsplit_once("</think>")
        .map_or(text, |(_, after)| after);
    let mut calls = Vec::new();
    while let Some((_, after)) = rest.split_once(OPEN) {
        let (block, next, closed) = match after.split_once(CLOSE) {
            Some((block, next)) if !block.contains(OPEN) => (block, next, true),
            // An unclosed block ends where the next one begins.
            Some(_) | None => match after.find(OPEN) {
                Some(at) => after
                    .split_at_checked(at)
                    .map_or((after, "", true), |(b, n)| (b, n, true)),
                None => (after, "", false),
            },
        };
        rest = next;
        let call = parse_block(block.trim());
        if closed || call.arguments.is_ok() {
            calls.push(call);
        }
        if calls.len() == MAX_CALLS {
            break;
        }
    }
    calls
}

fn parse_block(block: &str) -> TextCall {
    let failed = |name: &str, why: String| TextCall {
        name: name.to_owned(),
        arguments: Err(why),
    };
    let object: Map<String, Value> = match serde_json::from_str(block) {
        Ok(object) => object,
        Err(e) => return failed("", format!("the text in {OPEN} is not a JSON object: {e}")),
    };
    let name = object.get("name").and_then(Value::as_str).unwrap_or("");
    let arguments = match object.get("arguments").or_else(|| object.get("parameters")) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|e| e.to_string()),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            Err("`arguments` is not an object".to_owned())
        }
    };
    match arguments {
        Ok(arguments) => TextCall {
            name: name.to_owned(),
            arguments: Ok(arguments),
        },
        Err(why) => failed(name, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, bool)> {
        parse_text_calls(text)
            .into_iter()
            .map(|call| (call.name, call.arguments.is_ok()))
            .collect()
    }

    #[test]
    fn calls_are_found_in_order() {
        let text = "<think><tool_call>{\"name\":\"no\"}</tool_call></think>First\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"</b>\"}}\n</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":\"{}\"}</tool_call>";
        assert_eq!(names(text), [("a".into(), true), ("b".into(), true)]);
    }

    #[test]
    fn a_missing_closing_tag_is_forgiven_when_the_json_is_whole() {
        assert_eq!(names("<tool_call>{\"name\":\"a\"}"), [("a".into(), true)]);
        assert_eq!(names("<tool_call>{\"name\":\"a\""), []);
        assert_eq!(
            names("<tool_call>{\"name\":\"a\"}<tool_call>{\"name\":\"b\"}</tool_call>"),
            [("a".into(), true), ("b".into(), true)]
        );
    }

    #[test]
    fn a_garbled_call_is_kept_as_such() {
        assert_eq!(
            names("<tool_call>{'name': a}</tool_call>"),
            [(String::new(), false)]
        );
        assert_eq!(
            names("<tool_call>{\"name\":\"a\",\"arguments\":[1]}</tool_call>"),
            [("a".into(), false)]
        );
        assert_eq!(names("plain text, 3 < 4 <tool_cal"), []);
    }
}
