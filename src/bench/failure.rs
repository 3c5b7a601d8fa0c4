//! Errors as outcomes.

use crate::env::EnvError;
use crate::outcome::{Cause, Outcome};

pub(super) fn of_env(error: &EnvError) -> Outcome {
    error
        .outcome()
        .unwrap_or_else(|| failure(Cause::Other, error))
}

pub(super) fn of_io(error: &std::io::Error) -> Outcome {
    Outcome::infrastructure(Cause::of_errno(error.raw_os_error()), error.to_string())
}

pub(super) fn failure(cause: Cause, error: &dyn std::error::Error) -> Outcome {
    Outcome::infrastructure(cause, chain(error))
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
