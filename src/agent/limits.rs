//! Budgets of a run, and how far they are used.

use std::time::Duration;

use crate::llm::{LlmError, Message, TokenUsage};

/// What a run may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Turns.
    pub max_steps: u32,
    /// Tokens of the conversation before a request; more ends the run.
    pub max_token_limit: u64,
    /// Tokens of one answer.
    pub max_tokens_per_call: u64,
    /// Time for one command.
    pub cmd_timeout: Duration,
    /// Time for one answer of the model, with all attempts to get it; absent means no limit.
    pub turn_timeout: Option<Duration>,
    /// Time for the task; absent means no limit.
    pub task_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_steps: 100,
            max_token_limit: 65_536,
            max_tokens_per_call: 65_536,
            cmd_timeout: Duration::from_secs(120),
            turn_timeout: None,
            task_timeout: None,
        }
    }
}

impl Limits {
    /// An answer that comes within the time for one. A server that is too slow is no fault of the model.
    pub(crate) async fn within_turn<T>(
        &self,
        answer: impl Future<Output = Result<T, LlmError>>,
    ) -> Result<T, LlmError> {
        let Some(limit) = self.turn_timeout else {
            return answer.await;
        };
        let late = LlmError::Timeout {
            what: "no answer for the turn",
            limit,
        };
        let answer = tokio::time::timeout(limit, answer).await;
        answer.unwrap_or(Err(late))
    }
}

/// Size of the conversation in tokens: what the server counted last, and a quarter of the characters added since.
/// Where a server counts nothing, a quarter of all characters.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenCount {
    counted: u64,
    characters: u64,
    total: TokenUsage,
}

impl TokenCount {
    /// A message joined the conversation.
    pub(crate) fn add(&mut self, message: &Message) {
        let text = message.content().chars().count() + message.reasoning().chars().count();
        let calls = message
            .as_object()
            .get("tool_calls")
            .map_or(0, |calls| calls.to_string().len());
        self.add_characters(text + calls);
    }

    /// Text joined the last message.
    pub(crate) fn add_characters(&mut self, count: usize) {
        self.characters += u64::try_from(count).unwrap_or(u64::MAX / 2);
    }

    /// The server counted the conversation, its answer included.
    pub(crate) fn counted(&mut self, usage: TokenUsage) {
        self.counted = usage.total();
        self.characters = 0;
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
        };
        self.total = TokenUsage {
            prompt_tokens: self.total.prompt_tokens.saturating_add(usage.prompt_tokens),
            completion_tokens: self
                .total
                .completion_tokens
                .saturating_add(usage.completion_tokens),
            cached_tokens: sum(self.total.cached_tokens, usage.cached_tokens),
            reasoning_tokens: sum(self.total.reasoning_tokens, usage.reasoning_tokens),
        };
    }

    /// Tokens of the conversation now.
    pub(crate) fn now(&self) -> u64 {
        self.counted.saturating_add(self.characters / 4)
    }

    /// Sums over all answers.
    pub(crate) fn total(&self) -> TokenUsage {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_count_replaces_the_estimate() {
        let mut count = TokenCount::default();
        count.add(&Message::user("x".repeat(400)));
        assert_eq!(count.now(), 100);
        let usage = TokenUsage {
            prompt_tokens: 70,
            completion_tokens: 10,
            ..TokenUsage::default()
        };
        count.counted(usage);
        count.add(&Message::tool("a", "y".repeat(40)));
        assert_eq!(count.now(), 90);
        count.counted(usage);
        assert_eq!(count.total().total(), 160);
    }
}
