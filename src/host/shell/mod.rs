//! The persistent shell, as the host drives it.
//!
//! Bash runs interactively but takes its lines from a private pipe, and only ever two constant ones
//! for each command (`N` its number, the files are PID 1's, see `jail/shell.rs`):
//!
//! ```text
//! POSIXLY_CORRECT=1; \eval "$(<…/cN)" </dev/null >…/oN 2>…/eN
//! POSIXLY_CORRECT=$?:${POSIXLY_CORRECT-}; \trap -- "N:$POSIXLY_CORRECT" 64; \trap -p 64 >…/s; …
//! ```
//!
//! The command is data in a file, so no quote or here-document of it can swallow our lines. An
//! assignment switches to POSIX mode, in which `eval`, `trap` and `unset` are special builtins that
//! no function can replace; a backslash keeps aliases away; the first line of the file leaves the
//! mode again before the command begins. `trap -p` prints the status: `echo` could be a function.
//! The mark behind the status says whether the command was evaluated at all.
//!
//! Interactive, because then an interrupt from the terminal brings bash back to its next line: a
//! `while :; do :; done` ends and the shell lives on. What a command breaks in spite of all this is
//! seen by its missing status line: the shell is replaced and the model is told.

mod escalation;
pub(crate) mod status;
mod streams;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::init::{INIT_DEADLINE, Init};
use super::link::{Answer, Answers};
use super::process::{close_on_exec_pipe, gone, host_failed, lost, silent, unexpected};
use crate::env::{Captured, EnvError, FileError, GuestPath, ShellResult};
use crate::sys::pty::make_silent;
use crate::wire::{FromInit, ToInit};
use escalation::{Escalation, is_idle, kill_command, prepare};
use status::{End, StatusLine, constant_lines, status_line};
pub(in crate::host) use streams::CAPTURE;
use streams::{Streams, discard, read_terminal};

/// Reads of one pipe or terminal before the others have their turn: what is in it at most, and no more of a writer without end.
const TURNS: usize = 64;

/// How commands are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellMode {
    /// All in one shell: directory, variables and jobs live on.
    Persistent,
    /// Each in a shell of its own, as the original did.
    Fresh,
}

/// A running shell.
#[derive(Debug)]
pub(super) struct Shell {
    link: Arc<Init>,
    exit: Answers<FromInit>,
    lines: File,
    terminal: AsyncFd<OwnedFd>,
    status: pipe::Receiver,
    /// Of the next command.
    number: u64,
    next: Next,
    /// Output pipes of the command before that somebody holds still: a daemon.
    last: Vec<pipe::Receiver>,
}

/// The files of the next command: its text (to write), its output and its errors (to read).
#[derive(Debug)]
enum Next {
    Asked(Answers<FromInit>),
    Made([OwnedFd; 3]),
    /// There are none: no shell runs any more.
    Refused,
}

/// A command that succeeds within this time has hardly filled a disk: what was used up then is told
/// with the next command, and the answer need not wait for PID 1 to look.
const BRIEF: Duration = Duration::from_millis(3);

/// Runs a command; a shell that is lost is replaced.
pub(super) async fn run(
    slot: &mut Option<Shell>,
    workdir: &str,
    command: &str,
    limit: Duration,
) -> Result<ShellResult, EnvError> {
    let began = Instant::now();
    let mut lost_before = None;
    loop {
        let shell = slot
            .as_mut()
            .ok_or_else(|| EnvError::Infrastructure("no shell".into()))?;
        let (end, streams) = match shell.run(command, limit).await {
            Ok(done) => done,
            Err(error) => {
                *slot = None;
                return Err(error);
            }
        };
        let (status, mut restarted, timed_out) = match end {
            End::Status(status) => (Some(status), None, None),
            End::ShellExited(status) => (Some(status), Some(ended(status)), None),
            End::Broken => (None, Some("the shell stopped reporting back".into()), None),
            End::NotEvaluated => (
                None,
                Some("the shell could not evaluate commands any more".into()),
                None,
            ),
            End::TimedOut { shell_lives: true } => (None, None, Some(limit)),
            End::TimedOut { shell_lives: false } => (
                None,
                Some("the shell had to be killed with the command".into()),
                Some(limit),
            ),
        };
        if restarted.is_some() {
            let link = Arc::clone(&shell.link);
            *slot = None;
            *slot = Some(Shell::start(&link, workdir).await?);
        }
        if end == End::NotEvaluated && lost_before.is_none() {
            lost_before = restarted;
            continue;
        }
        restarted = restarted.or(lost_before);
        let [stdout, stderr, tty] = streams;
        return Ok(ShellResult {
            status,
            stdout,
            stderr,
            tty,
            timed_out,
            restarted,
            struck: Vec::new(),
            wall: began.elapsed(),
        });
    }
}

impl Shell {
    pub(super) async fn start(link: &Arc<Init>, workdir: &str) -> Result<Self, EnvError> {
        let (reader, writer) = close_on_exec_pipe()?;
        let mut exit = link.open();
        let request = ToInit::StartShell {
            id: exit.id,
            env: Vec::new(),
            cwd: workdir.into(),
        };
        link.send(&request, &[reader.as_fd()]).await.map_err(lost)?;
        drop(reader);
        let answer = timeout(INIT_DEADLINE, exit.next())
            .await
            .map_err(|_| silent())?;
        let Answer { message, fds } = answer.ok_or_else(gone)?;
        let (FromInit::ShellStarted { .. }, Ok([master, status])) =
            (&message, <[OwnedFd; 2]>::try_from(fds))
        else {
            if let FromInit::Refused {
                reason,
                errno,
                used_up,
                ..
            } = message
            {
                return Err(link.strikes.refused(reason, errno, used_up));
            }
            return Err(unexpected(&message));
        };
        let nonblocking = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&master, nonblocking).map_err(|e| host_failed(e.into()))?;
        let mut lines = File::from(writer);
        // No job notices, no history expansion, no history file, no "you have mail". A write to a shell
        // that has died already fails; its exit tells the rest.
        let _ = lines.write_all(b"set +mH; unset HISTFILE MAILCHECK\n");
        let next = prepare(link, 1, /*processes*/ false).await?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps its number all its life"
        )]
        let terminal = AsyncFd::new(master).map_err(host_failed)?;
        Ok(Self {
            link: Arc::clone(link),
            exit,
            lines,
            terminal,
            status: pipe::Receiver::from_owned_fd(status).map_err(host_failed)?,
            number: 1,
            next,
            last: Vec::new(),
        })
    }

    async fn run(
        &mut self,
        command: &str,
        limit: Duration,
    ) -> Result<(End, [Captured; 3]), EnvError> {
        let began = Instant::now();
        self.receive_files().await?;
        let Next::Made([text, out, err]) = std::mem::replace(&mut self.next, Next::Refused) else {
            let streams = [(); 3].map(|()| Captured::default());
            return Ok((End::ShellExited(self.exit_status().await?), streams));
        };
        // A daemon must not die of its next line of log.
        self.last.drain(..).for_each(discard);
        let mut streams = Streams::new(out, err, self.number)?;
        self.discard_terminal();
        let _ = make_silent(self.terminal.get_ref().as_fd());
        // What bash reads is kept in memory, of which there is so much.
        File::from(text)
            .write_all(format!("unset POSIXLY_CORRECT\n{command}").as_bytes())
            .map_err(|error| {
                if error.kind() != io::ErrorKind::StorageFull {
                    return host_failed(error);
                }
                EnvError::File {
                    path: GuestPath::from("a command of this length"),
                    error: FileError::NoSpace,
                }
            })?;
        if self.link.account {
            let begins = self.link.send(&ToInit::CommandBegins, &[]);
            begins.await.map_err(lost)?;
        }
        // A write to a shell that has just died fails; its exit tells the rest.
        let _ = self.lines.write_all(constant_lines(self.number).as_bytes());
        let end = self.wait(&mut streams, began + limit).await?;
        self.number += 1;
        let failed = end != End::Status(0);
        let captured = streams.finish(self).await;
        self.next = prepare(&self.link, self.number, /*processes*/ failed).await?;
        if failed || began.elapsed() > BRIEF {
            // A PID 1 that gives no answer is found out by the next request.
            let _ = self.receive_files().await;
        }
        Ok((end, captured))
    }

    /// Waits for the files of the next command, and notes what was used up when they were made.
    async fn receive_files(&mut self) -> Result<(), EnvError> {
        let Next::Asked(answers) = &mut self.next else {
            return Ok(());
        };
        let answer = timeout(INIT_DEADLINE, answers.next())
            .await
            .map_err(|_| silent())?;
        let Answer { message, fds } = answer.ok_or_else(gone)?;
        self.next = match (message, <[OwnedFd; 3]>::try_from(fds)) {
            (FromInit::CommandPrepared { used_up, .. }, Ok(files)) => {
                self.link.strikes.note(used_up);
                Next::Made(files)
            }
            (FromInit::Refused { used_up, .. }, _) => {
                self.link.strikes.note(used_up);
                Next::Refused
            }
            (other, _) => return Err(unexpected(&other)),
        };
        Ok(())
    }

    async fn exit_status(&mut self) -> Result<i32, EnvError> {
        let answer = timeout(INIT_DEADLINE, self.exit.next())
            .await
            .map_err(|_| silent())?;
        let message = answer.ok_or_else(gone)?.message;
        if let FromInit::Exited { status, .. } = message {
            return Ok(exit_code(status));
        }
        Err(unexpected(&message))
    }

    /// Reads output until the command's status line comes, the shell ends, or time is up.
    async fn wait(&mut self, streams: &mut Streams, deadline: Instant) -> Result<End, EnvError> {
        let mut status_line = StatusLine::default();
        let mut escalation = Escalation::new(deadline);
        let second = Duration::from_secs(1);
        let mut tick = interval_at(tokio::time::Instant::now() + second, second);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut idle_ticks = 0;
        loop {
            // In no order: whoever floods one of these must not keep us from the others, least of all from
            // the time.
            tokio::select! {
                ready = self.status.readable() => {
                    ready.map_err(host_failed)?;
                    if let Some(end) = status_line.read(&self.status, self.number) {
                        return Ok(if escalation.struck() { End::TimedOut { shell_lives: true } } else { end });
                    }
                }
                answer = self.exit.next() => {
                    let FromInit::Exited { status, .. } = answer.ok_or_else(gone)?.message else {
                        return Ok(End::Broken);
                    };
                    return Ok(if escalation.struck() {
                        End::TimedOut { shell_lives: false }
                    } else {
                        End::ShellExited(exit_code(status))
                    });
                }
                () = tokio::time::sleep_until(escalation.next.into()) => {
                    if !escalation.strike(self).await? {
                        return Ok(End::TimedOut { shell_lives: false });
                    }
                }
                // Only the waiting may be broken off: what was taken from a pipe is nowhere else.
                ready = streams.out.readable(), if streams.out.is_open() => {
                    ready?;
                    streams.out.take(&self.link).await;
                }
                ready = streams.err.readable(), if streams.err.is_open() => {
                    ready?;
                    streams.err.take(&self.link).await;
                }
                ready = self.terminal.readable() => {
                    let mut guard = ready.map_err(host_failed)?;
                    match guard.try_io(read_terminal) {
                        Ok(Ok(bytes)) if !bytes.is_empty() => streams.tty.push(&bytes),
                        // The terminal hangs up only with its shell, which is seen above.
                        Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                        Err(_would_block) => {}
                    }
                }
                _ = tick.tick() => {
                    // It waits for a line and yet has sent no status: a DEBUG trap that skips all
                    // commands, say, or a read-only POSIXLY_CORRECT.
                    idle_ticks = if is_idle(&self.link).await? { idle_ticks + 1 } else { 0 };
                    if idle_ticks > 1 {
                        kill_command(&self.link, libc::SIGKILL, /*shell*/ true).await?;
                        return Ok(End::Broken);
                    }
                }
            }
        }
    }

    /// Has the status of the current command told once more.
    fn ask_again(&self) {
        // A shell that has just died tells by its exit.
        let _ = (&self.lines).write_all(status_line(self.number).as_bytes());
    }

    fn discard_terminal(&self) {
        for _ in 0..TURNS {
            if !read_terminal(&self.terminal).is_ok_and(|bytes| !bytes.is_empty()) {
                return;
            }
        }
    }
}

fn ended(status: i32) -> String {
    let missing = match status {
        126 | 127 => ", as one does whose bash or a library of it is missing or broken",
        _ => "",
    };
    format!("the shell ended with status {status}{missing}")
}

fn exit_code(status: Result<i32, i32>) -> i32 {
    status.unwrap_or_else(|signal| 128 + signal)
}
