//! The states of a run, and waiting in them: nothing outlasts the interrupt or the deadline.

use tokio::time::Instant;

use super::calls::Call;
use super::run::Cancel;
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
}

impl State {
    pub(super) fn stop(stop: StopReason) -> Self {
        Self::Done(End { stop, detail: None })
    }

    pub(super) fn failed(stop: StopReason, error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Self::Done(End {
            stop,
            detail: Some(detail),
        })
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
