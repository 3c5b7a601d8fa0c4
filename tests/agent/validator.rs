//! What every request must hold, whatever the conversation.

use serde_json::Value;

/// Checks one request against the one before it.
pub(crate) fn check(body: &str, previous: Option<&str>) -> Result<(), String> {
    let request: Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if request["tools"].as_array().is_none_or(Vec::is_empty) {
        return Err("no tools".into());
    }
    let messages = request["messages"].as_array().ok_or("no messages")?;
    check_order(messages)?;
    if let Some(previous) = previous {
        let old = elements(previous, "messages");
        let new = elements(body, "messages");
        if new.len() < old.len() || old.iter().zip(&new).any(|(a, b)| a != b) {
            return Err("the history is no extension of the last request's".into());
        }
        if elements(previous, "tools") != elements(body, "tools") {
            return Err("the tools changed".into());
        }
    }
    Ok(())
}

/// Every call is answered exactly once, at once and in order.
fn check_order(messages: &[Value]) -> Result<(), String> {
    let mut open: Vec<String> = Vec::new();
    for message in messages {
        match message["role"].as_str() {
            Some("tool") => {
                let id = message["tool_call_id"].as_str().unwrap_or("");
                if open.first().is_none_or(|first| first != id) {
                    return Err(format!("answer to {id:?}, waiting for {open:?}"));
                }
                if !message["content"].is_string() {
                    return Err(format!("the answer to {id:?} has no text"));
                }
                open.remove(0);
            }
            Some(role @ ("system" | "user" | "assistant")) => {
                if !open.is_empty() {
                    return Err(format!("a {role} message before the answers to {open:?}"));
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let id = call["id"].as_str().ok_or("a call without an id")?;
                    if open.iter().any(|other| other == id) {
                        return Err(format!("two calls are named {id:?}"));
                    }
                    open.push(id.to_owned());
                }
            }
            other => return Err(format!("a message of {other:?}")),
        }
    }
    if !open.is_empty() {
        return Err(format!("no answer to {open:?}"));
    }
    match messages.last().and_then(|m| m["role"].as_str()) {
        Some("user" | "tool") => Ok(()),
        other => Err(format!("the last message is of {other:?}")),
    }
}

/// The raw text of the elements of a top-level array.
fn elements<'a>(body: &'a str, name: &str) -> Vec<&'a str> {
    let key = format!("\"{name}\":[");
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    let (mut list, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in body.bytes().enumerate() {
        if in_string {
            (escaped, in_string) = (byte == b'\\' && !escaped, escaped || byte != b'"');
            continue;
        }
        match byte {
            b'"' => {
                if depth == 1 && !inside && body[at..].starts_with(&key) {
                    (inside, begin) = (true, at + key.len());
                }
                in_string = true;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if inside && depth == 1 {
                    if begin < at {
                        list.push(&body[begin..at]);
                    }
                    return list;
                }
            }
            b',' if inside && depth == 2 => {
                list.push(&body[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    list
}

mod tests {
    use super::*;

    fn request(messages: &str) -> String {
        format!(r#"{{"model":"m","tools":[{{"a":"]"}}],"messages":[{messages}]}}"#)
    }

    const START: &str = r#"{"role":"system","content":"s \"],{"},{"role":"user","content":"u"}"#;
    const TWO: &str = r#"{"role":"assistant","tool_calls":[{"id":"a"},{"id":"b"}]}"#;

    fn tool(id: &str) -> String {
        format!(r#"{{"role":"tool","tool_call_id":"{id}","content":""}}"#)
    }

    #[test]
    fn elements_are_split_outside_of_strings() {
        assert_eq!(elements(&request(START), "messages").join(","), START);
        assert_eq!(elements(&request(START), "messages").len(), 2);
    }

    #[test]
    fn a_sound_history_passes() {
        let history = format!("{START},{TWO},{},{}", tool("a"), tool("b"));
        assert_eq!(check(&request(&history), Some(&request(START))), Ok(()));
    }

    #[test]
    fn wrong_histories_are_found() {
        for (wrong, why) in [
            (format!("{START},{TWO},{}", tool("a")), "no answer"),
            (
                format!("{START},{TWO},{},{}", tool("b"), tool("a")),
                "waiting for",
            ),
            (
                format!("{START},{TWO},{},{},{}", tool("a"), tool("b"), tool("b")),
                "waiting for",
            ),
            (format!("{START},{}", tool("z")), "waiting for"),
            (
                format!("{START},{TWO},{{\"role\":\"user\",\"content\":\"\"}}"),
                "before the answers",
            ),
            (
                format!(
                    "{START},{{\"role\":\"assistant\",\"tool_calls\":[{{\"id\":\"a\"}},{{\"id\":\"a\"}}]}}"
                ),
                "two calls",
            ),
            (
                format!("{START},{{\"role\":\"assistant\",\"tool_calls\":[{{}}]}}"),
                "without an id",
            ),
            (
                format!("{START},{{\"role\":\"assistant\"}}"),
                "last message",
            ),
            (START.replace("\"u\"", "\"changed\""), "no extension"),
            (START.replace("\"u\"", "\"\\u0075\""), "no extension"),
            (
                r#"{"role":"user","content":"u"}"#.to_owned(),
                "no extension",
            ),
        ] {
            let error = check(&request(&wrong), Some(&request(START))).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(
            check(r#"{"messages":[]}"#, None)
                .unwrap_err()
                .contains("no tools")
        );
    }
}
