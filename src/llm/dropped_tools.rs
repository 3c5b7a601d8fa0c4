//! Noticing that a server ignores `tools`, without asking it anything.

use serde_json::Value;

use super::types::ChatRequest;

/// The prompt is too small to hold both the messages and the tool schemas.
///
/// Judged by a lower bound of the tokens that all messages, and the names and descriptions of all tools and parameters, must
/// have ([`pieces`]). A prompt with fewer tokens cannot hold them all. It is only judged before the first assistant message,
/// because templates may leave out earlier reasoning. A long task text hides dropped tools from this bound; it does not
/// accuse wrongly.
pub(crate) fn tools_were_dropped(request: &ChatRequest<'_>, prompt_tokens: u64) -> bool {
    if request.tools.is_empty() || request.messages.iter().any(|m| m.role() == "assistant") {
        return false;
    }
    let messages: usize = request.messages.iter().map(|m| pieces(m.content())).sum();
    let tools: usize = request.tools.iter().map(tool_pieces).sum();
    u64::try_from(messages + tools).is_ok_and(|least| prompt_tokens < least)
}

fn tool_pieces(tool: &Value) -> usize {
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map_or(0, pieces);
    let Some(function) = tool.get("function") else {
        return 0;
    };
    let parameters = function
        .pointer("/parameters/properties")
        .and_then(Value::as_object);
    let parameters: usize = parameters
        .into_iter()
        .flatten()
        .map(|(name, parameter)| pieces(name) + text(parameter, "description"))
        .sum();
    text(function, "name") + text(function, "description") + parameters
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Mark,
    Newline,
    Space,
}

/// At least this many tokens.
///
/// Tokenisers split text into words, numbers, marks and line ends before anything else, and no token crosses the splits. A
/// mark may join the letters behind it, so it counts only before a space; a line end may join the mark before it, so it
/// counts only after a letter or digit. Runs that are not all ASCII count nothing: other scripts are split otherwise.
fn pieces(text: &str) -> usize {
    let (mut count, mut previous, mut ascii) = (0, Kind::Space, true);
    for c in text.chars().chain(std::iter::once(' ')) {
        let kind = match c {
            '\n' => Kind::Newline,
            c if c.is_whitespace() => Kind::Space,
            c if c.is_alphabetic() => Kind::Letter,
            c if c.is_numeric() => Kind::Digit,
            _ => Kind::Mark,
        };
        if kind != previous {
            let word = matches!(previous, Kind::Letter | Kind::Digit);
            let spaced = matches!(kind, Kind::Newline | Kind::Space);
            count += usize::from(ascii && (word || (previous == Kind::Mark && spaced)));
            count += usize::from(word && kind == Kind::Newline);
            (previous, ascii) = (kind, true);
        }
        ascii &= c.is_ascii();
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::llm::Message;

    #[test]
    fn pieces_are_a_lower_bound() {
        for (text, least) in [
            ("", 0),
            ("two words", 2),
            ("a_b, c. (d) 12ab\n\ne", 11),
            ("f\u{fc}r 中文 x", 1),
            ("-------- ", 1),
            ("x.\n", 2),
        ] {
            assert_eq!(pieces(text), least, "{text:?}");
        }
    }

    #[test]
    fn dropped_tools_are_told_from_a_small_tokenizer() {
        let tools = [
            json!({"type":"function","function":{"name":"f","description":"one two three four five six"}}),
        ];
        let messages = [Message::user("just these five words here")];
        let request = ChatRequest {
            messages: &messages,
            tools: &tools,
            max_tokens: 1,
        };
        assert!(tools_were_dropped(&request, 9));
        assert!(!tools_were_dropped(&request, 12));
        let later = [
            Message::user("a b c d e f g h"),
            Message::assistant(Map::new()),
        ];
        let request = ChatRequest {
            messages: &later,
            tools: &tools,
            max_tokens: 1,
        };
        assert!(!tools_were_dropped(&request, 1));
    }
}
