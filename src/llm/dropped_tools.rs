//! Noticing that a server ignores `tools`, without asking it anything.

use serde_json::Value;

use super::types::ChatRequest;

/// The prompt is too small to hold both the messages and the tool schemas.
///
/// Tokenisers split text at word boundaries before anything else, so a run of letters is at least one token. A prompt with
/// fewer tokens than the words of all messages, tool names and tool descriptions together cannot hold them all. It is only
/// judged before the first assistant message, because templates may leave out earlier reasoning. A long task text hides
/// dropped tools from this bound; it never accuses wrongly.
pub(crate) fn tools_were_dropped(request: &ChatRequest<'_>, prompt_tokens: u64) -> bool {
    if request.tools.is_empty() || request.messages.iter().any(|m| m.role() == "assistant") {
        return false;
    }
    let messages: usize = request.messages.iter().map(|m| words(m.content())).sum();
    let field = |tool: &Value, pointer| {
        tool.pointer(pointer)
            .and_then(Value::as_str)
            .map_or(0, words)
    };
    let tools: usize = request
        .tools
        .iter()
        .map(|tool| field(tool, "/function/name") + field(tool, "/function/description"))
        .sum();
    u64::try_from(messages + tools).is_ok_and(|words| prompt_tokens < words)
}

/// Runs of ASCII letters: other scripts need not have one token a word.
fn words(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .count()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::llm::Message;

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
