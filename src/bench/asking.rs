//! Asking the model on behalf of a sample: each attempt needs a permit, and none is held while it is waited for the next.

use super::gate::Gate;
use super::live::{Activity, Live, Wait};
use crate::llm::{ChatModel, ChatRequest, Completion, LlmError, Model, RetryPolicy};

/// The model of one sample. Itself it asks once; how often and when it is asked again is decided here.
pub(super) struct Asking<'a> {
    pub(super) model: Model,
    pub(super) retry: RetryPolicy,
    pub(super) gate: &'a Gate,
    pub(super) live: &'a Live,
    pub(super) activity: &'a Activity,
}

impl ChatModel for Asking<'_> {
    async fn chat(&self, request: &ChatRequest<'_>) -> Result<Completion, LlmError> {
        let (mut attempts, mut failures) = (0, 0);
        loop {
            self.activity.waits_for(Wait::Permit);
            let ticket = self.gate.enter().await;
            self.activity.waits_for(Wait::Model);
            let (requests, error) = match self.model.chat(request).await {
                Ok(mut completion) => {
                    ticket.served();
                    completion.attempts += attempts;
                    let tokens = completion.usage.map_or(0, |usage| usage.completion_tokens);
                    self.live.answered(tokens);
                    return Ok(completion);
                }
                Err(LlmError::GaveUp { attempts, last }) => (attempts, *last),
                Err(error) => (1, error),
            };
            if let LlmError::Status {
                status: 429 | 503 | 529,
                retry_after,
                ..
            } = &error
            {
                let cap = self.retry.retry_after_cap;
                ticket.refused(retry_after.map(|time| time.min(cap)));
            } else {
                drop(ticket);
            }
            if !error.is_transient() {
                return Err(error);
            }
            attempts += requests;
            failures += 1;
            if failures >= self.retry.attempts {
                return Err(LlmError::GaveUp {
                    attempts,
                    last: Box::new(error),
                });
            }
            let delay = self.retry.delay(failures, &error);
            tracing::debug!(%error, ?delay, "a model request failed and is made again");
            self.activity.waits_for(Wait::Retry);
            tokio::time::sleep(delay).await;
        }
    }
}
