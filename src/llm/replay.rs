//! A model that reads its answers from a file.
//!
//! The file is JSON Lines: each line is one assistant message as an OpenAI-compatible server returns it
//! (`{"role":"assistant","content":…,"tool_calls":[…]}`; `role` may be left out). Empty lines and lines that begin with `#`
//! are skipped. Line n answers the request whose history holds n-1 assistant messages, so one model can serve any number of
//! runs at once and a repeated request gets the same answer. The messages are not checked beyond being objects.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ChatModel;
use super::types::{ChatRequest, Completion, LlmError, Message};

/// Recorded answers.
#[derive(Debug, Clone)]
pub struct ReplayModel {
    path: String,
    answers: Vec<Message>,
}

impl ReplayModel {
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`LlmError::Replay`] when it cannot be read or a line is not a JSON object.
    pub fn open(path: &Path) -> Result<Self, LlmError> {
        let text = std::fs::read_to_string(path).map_err(|e| LlmError::Replay {
            path: path.display().to_string(),
            problem: e.to_string(),
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads the text of a file called `path`.
    ///
    /// # Errors
    /// [`LlmError::Replay`] when a line is not a JSON object.
    pub fn parse(path: &str, text: &str) -> Result<Self, LlmError> {
        let mut answers = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let object: Map<String, Value> =
                serde_json::from_str(line).map_err(|e| LlmError::Replay {
                    path: path.to_owned(),
                    problem: format!("line {} is not a JSON object: {e}", at + 1),
                })?;
            answers.push(Message::assistant(object));
        }
        Ok(Self {
            path: path.to_owned(),
            answers,
        })
    }
}

impl ChatModel for ReplayModel {
    async fn chat(&self, request: &ChatRequest<'_>) -> Result<Completion, LlmError> {
        let turn = request
            .messages
            .iter()
            .filter(|message| message.role() == "assistant")
            .count();
        let message = self.answers.get(turn).ok_or_else(|| LlmError::Replay {
            path: self.path.clone(),
            problem: format!("there is no answer number {}", turn + 1),
        })?;
        let finish = if message.as_object().contains_key("tool_calls") {
            "tool_calls"
        } else {
            "stop"
        };
        Ok(Completion {
            message: message.clone(),
            finish_reason: Some(finish.to_owned()),
            usage: None,
            attempts: 1,
            warnings: Vec::new(),
            params: Map::new(),
            response: json!({"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_follows_from_the_history() {
        let model = ReplayModel::parse(
            "r",
            "# comment\n{\"content\":\"one\"}\n\n{\"role\":\"assistant\",\"content\":\"two\"}\n",
        )
        .unwrap();
        let mut history = vec![Message::user("q")];
        for expected in ["one", "two"] {
            let request = ChatRequest {
                messages: &history,
                tools: &[],
                max_tokens: 1,
            };
            let first = model.chat(&request).await.unwrap();
            assert_eq!(first, model.chat(&request).await.unwrap());
            assert_eq!(first.message.content(), expected);
            history.push(first.message);
        }
        let request = ChatRequest {
            messages: &history,
            tools: &[],
            max_tokens: 1,
        };
        let error = model.chat(&request).await.unwrap_err();
        assert_eq!(error.to_string(), "replay r: there is no answer number 3");
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = ReplayModel::parse("r", "{}\n[1]\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
