//! The signals that end the program: first goes what it holds.

use std::future::Future;
use std::io;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{output, status};
use crate::sys::process;

/// SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Absent for a program that nohup(1) started.
    hangup: Option<Signal>,
}

impl Signals {
    /// From here on they end nothing by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        let ignored = process::is_ignored(libc::SIGHUP);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: (!ignored)
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
        })
    }

    /// Waits for one; gives its exit code, 128 and its number.
    pub(super) async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = hangup => 129,
        }
    }

    /// What `work` gives. On a signal it is dropped where it stands, what that leaves is taken away,
    /// and the exit code comes back as the error; a second signal does not wait for that.
    pub(super) async fn unless<T>(
        &mut self,
        state: Option<&Path>,
        work: impl Future<Output = T>,
    ) -> Result<T, u8> {
        let code = tokio::select! {
            biased;
            code = self.next() => code,
            done = work => return Ok(done),
        };
        tokio::select! {
            _ = self.next() => {}
            swept = status::sweep(state) => if let Err(error) = swept {
                output::error(&error);
            }
        }
        Err(code)
    }
}
