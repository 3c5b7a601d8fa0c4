//! PID 1 of a sandbox as the host sees it.

use std::io;
use std::ops::Deref;
use std::time::Duration;

use super::cgroup::Counts;
use super::link::Link;
use super::process::lost;
use super::strikes::Strikes;
use crate::env::EnvError;
use crate::wire::FromInit;

/// PID 1 answers within this time, or the sandbox is broken.
pub(super) const INIT_DEADLINE: Duration = Duration::from_secs(30);

/// The channel to a PID 1, and the record of its sandbox: whoever gets no answer finds the reason there.
#[derive(Debug)]
pub(super) struct Init {
    link: Link<FromInit>,
    pub(super) strikes: Strikes,
    /// It keeps account of what each call does.
    pub(super) account: bool,
}

impl Init {
    pub(super) fn new(link: Link<FromInit>, strikes: Strikes, account: bool) -> Self {
        Self {
            link,
            strikes,
            account,
        }
    }

    /// What stands behind a message that could not be sent.
    pub(super) fn unsent(&self, error: io::Error, before: Counts) -> EnvError {
        let error = lost(error);
        if matches!(error, EnvError::Died(_)) {
            return self.strikes.death(before, /*lives*/ false);
        }
        error
    }

    /// What stands behind the death of a sandbox, or of a child of its PID 1, since `before`.
    pub(super) fn explain(&self, error: EnvError, before: Counts) -> EnvError {
        if matches!(error, EnvError::Died(_)) {
            return self.strikes.death(before, !self.link.is_closed());
        }
        error
    }
}

impl Deref for Init {
    type Target = Link<FromInit>;

    fn deref(&self) -> &Self::Target {
        &self.link
    }
}
