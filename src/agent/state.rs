//! The states of a run, and waiting in them: nothing outlasts the interrupt or the deadline.

use tokio::time::Instant;

use super::calls::Call;
use super::run::Cancel;
use crate::outcome::{Cause, Outcome, Policy};
use crate::trajectory::StopReason;

/// What comes next.
#[derive(Debug)]
pub(super) enum State {
    /// It is the model's turn.
    Ask,
    /// These calls are to be answered.
    Act(Vec<Call>),
    /// Nothing is left to do.
    Done(End),
}

/// The end of a run.
#[derive(Debug)]
pub(super) struct End {
    pub(super) stop: StopReason,
    pub(super) detail: Option<String>,
    pub(super) outcome: Outcome,
}

impl End {
    pub(super) fn new(stop: StopReason, detail: Option<String>) -> Self {
        let outcome = match stop {
            StopReason::Submitted => Outcome::Policy(Policy::Submitted),
            StopReason::MaxSteps
            | StopReason::TokenLimit
            | StopReason::ContextOverflow
            | StopReason::Timeout => Outcome::Policy(Policy::Budget {
                budget: stop.as_str().to_owned(),
            }),
            StopReason::LlmError => failure(Cause::Llm, detail.as_deref()),
            StopReason::SandboxDied => failure(Cause::SandboxDied, detail.as_deref()),
            StopReason::Interrupted => failure(Cause::Interrupted, detail.as_deref()),
        };
        Self {
            stop,
            detail,
            outcome,
        }
    }
}

fn failure(cause: Cause, detail: Option<&str>) -> Outcome {
    Outcome::infrastructure(cause, detail.unwrap_or_default())
}

impl State {
    pub(super) fn stop(stop: StopReason) -> Self {
        Self::Done(End::new(stop, None))
    }

    pub(super) fn failed(stop: StopReason, error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Self::Done(End::new(stop, Some(detail)))
    }
}

/// Why a wait ended before its future.
#[derive(Debug)]
pub(super) struct Cut(pub(super) StopReason);

/// Waits for `future`, the interrupt or the deadline, whichever comes first.
pub(super) async fn guard<T>(
    cancel: &mut Cancel,
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, Cut> {
    let over = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let interrupted = async {
        // A sender that is gone can no longer interrupt.
        if cancel.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = interrupted => Err(Cut(StopReason::Interrupted)),
        () = over => Err(Cut(StopReason::Timeout)),
        value = future => Ok(value),
    }
}
