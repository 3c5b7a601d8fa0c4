//! Between two commands: the pipes of the next one, and what PID 1 is asked about the last.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::Shell;
use super::streams::Pipe;
use crate::env::EnvError;
use crate::host::init::INIT_DEADLINE;
use crate::host::link::{Answer, Answers};
use crate::host::process::{gone, host_failed, lost, silent, unexpected};
use crate::wire::{FromInit, ToInit};

/// The pipes of the next command's output and errors.
#[derive(Debug)]
pub(super) enum Next {
    Ready([Pipe; 2]),
    /// PID 1 takes down what runs before it. Without these it makes new ones.
    Asked(Answers<FromInit>, Option<[Pipe; 2]>),
    /// There are none: no shell runs any more.
    Refused,
}

impl Shell {
    /// Has PID 1 take down what runs now, tell what is used up, of processes, too, where `processes`, and make new pipes for none.
    pub(super) async fn ask(
        &mut self,
        pipes: Option<[Pipe; 2]>,
        processes: bool,
    ) -> Result<(), EnvError> {
        let answers = self.link.open();
        let request = ToInit::PrepareCommand {
            id: answers.id,
            pipes: pipes.is_none(),
            processes,
        };
        self.link.send(&request, &[]).await.map_err(lost)?;
        self.next = Next::Asked(answers, pipes);
        Ok(())
    }

    /// No process is left but the shell and PID 1, as far as anybody counts them.
    pub(super) fn is_alone(&self) -> bool {
        self.link.strikes.processes() == Some(2)
    }

    /// Waits for PID 1 where it was asked, and notes what was used up then.
    pub(super) async fn receive_pipes(&mut self) -> Result<(), EnvError> {
        let Next::Asked(answers, _) = &mut self.next else {
            return Ok(());
        };
        let answer = timeout(INIT_DEADLINE, answers.next())
            .await
            .map_err(|_| silent())?;
        let Answer { message, fds } = answer.ok_or_else(gone)?;
        let Next::Asked(_, kept) = std::mem::replace(&mut self.next, Next::Refused) else {
            return Ok(());
        };
        if let FromInit::Refused { used_up, .. } = message {
            self.link.strikes.note(used_up);
            return Ok(());
        }
        let FromInit::CommandPrepared { used_up, .. } = message else {
            return Err(unexpected(&message));
        };
        self.link.strikes.note(used_up);
        self.listed = true;
        self.next = Next::Ready(match (kept, <[OwnedFd; 2]>::try_from(fds)) {
            (Some(pipes), _) => pipes,
            (None, Ok([out, err])) => [reading_end(out)?, reading_end(err)?],
            (None, Err(_)) => return Err(host_failed(io::Error::other("PID 1 gave no pipes"))),
        });
        Ok(())
    }
}

/// A pipe as PID 1 gives it, which is beside hostile code.
pub(super) fn reading_end(pipe: OwnedFd) -> Result<Pipe, EnvError> {
    let pipe = pipe::Receiver::from_owned_fd(pipe);
    let pipe = pipe.and_then(pipe::Receiver::into_nonblocking_fd);
    pipe.map(Arc::new).map_err(host_failed)
}

/// When a process that begins now begins, in ticks of 10 ms on every Linux: `starttime` in proc(5).
pub(super) fn tick() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis() / 10).unwrap_or(u64::MAX)
}

pub(super) fn is_linked(pipe: &Pipe) -> bool {
    nix::sys::stat::fstat(pipe).is_ok_and(|stat| stat.st_nlink > 0)
}
