//! What a command that runs out of time meets: interrupt, termination, kill, and the end of its shell.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Shell;
use crate::env::EnvError;
use crate::host::init::{INIT_DEADLINE, Init};
use crate::host::process::{gone, lost, silent, unexpected};
use crate::sys::pty::make_silent;
use crate::wire::{FromInit, ToInit};

/// Time for an interrupted command to end by itself, before each harder signal.
const GRACE: Duration = Duration::from_millis(250);

/// The steps from a polite interrupt to the end of the shell.
pub(super) struct Escalation {
    pub(super) next: Instant,
    step: u8,
}

impl Escalation {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            next: deadline,
            step: 0,
        }
    }

    pub(super) fn struck(&self) -> bool {
        self.step > 0
    }

    /// Does the next step; false when there is none left.
    pub(super) async fn strike(&mut self, shell: &Shell) -> Result<bool, EnvError> {
        self.step += 1;
        let mut patience = GRACE;
        match self.step {
            // As a person would: bash and the foreground get it from their terminal, together. Had the
            // command it from us first, bash would take its end for the end of one command of a list.
            1 => interrupt(shell),
            // What left the foreground, by setsid(1) say.
            2 => kill_command(shell, libc::SIGINT, false).await?,
            3 => kill_command(shell, libc::SIGTERM, false).await?,
            4 => kill_command(shell, libc::SIGKILL, false).await?,
            5 => {
                // A loop of the shell itself has started the next process: bash gets an interrupt, too.
                kill_command(shell, libc::SIGKILL, false).await?;
                interrupt(shell);
            }
            6 => {
                // An interrupt that came while bash was at the status line has ended that instead.
                shell.ask_again();
                // Now bash alone is waited for: a loaded machine is no reason to lose its state.
                patience = 4 * GRACE;
            }
            7 => kill_command(shell, libc::SIGKILL, true).await?,
            _ => return Ok(false),
        }
        self.next = Instant::now() + patience;
        Ok(true)
    }
}

fn interrupt(shell: &Shell) {
    let terminal = shell.terminal.get_ref();
    let _ = make_silent(terminal.as_fd());
    let _ = nix::unistd::write(terminal, b"\x03");
    // It ends the line that would tell.
    shell.ask_again();
}

pub(super) async fn kill_command(shell: &Shell, signal: i32, itself: bool) -> Result<(), EnvError> {
    let mut answers = shell.link.open();
    let request = ToInit::KillCommand {
        id: answers.id,
        began: shell.began,
        signal,
        shell: itself,
    };
    shell.link.send(&request, &[]).await.map_err(lost)?;
    let answer = timeout(INIT_DEADLINE, answers.next())
        .await
        .map_err(|_| silent())?;
    answer.map(|_| ()).ok_or_else(gone)
}

pub(super) async fn is_idle(link: &Init) -> Result<bool, EnvError> {
    let mut answers = link.open();
    link.send(&ToInit::IsShellIdle { id: answers.id }, &[])
        .await
        .map_err(lost)?;
    let answer = timeout(INIT_DEADLINE, answers.next())
        .await
        .map_err(|_| silent())?;
    let message = answer.ok_or_else(gone)?.message;
    if let FromInit::ShellIdle { idle, .. } = message {
        return Ok(idle);
    }
    Err(unexpected(&message))
}
