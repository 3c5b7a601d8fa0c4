//! The persistent shell, as the host drives it.
//!
//! Bash runs interactively but takes its lines from a socket, and only one for each command (`N` its number):
//!
//! ```text
//! \eval $'\\unset POSIXLY_CORRECT\n…' </dev/null >…/o 2>…/e;
//!   POSIXLY_CORRECT=N:$?:${POSIXLY_CORRECT-}; \trap -- "$POSIXLY_CORRECT" 64; \trap -p 64; \trap - 64
//! ```
//!
//! The command is one quoted word without a line end, so no quote or here-document of it can swallow our line.
//! Between commands bash is in POSIX mode, into which an assignment to that variable brings it: there `eval`, `trap`
//! and `unset` are special builtins that no function can replace; a backslash keeps aliases away. What is
//! evaluated begins with leaving the mode. `trap -p` prints the status back into the socket: `echo` could be a function.
//! The mark behind the status says whether the command was evaluated at all.
//!
//! Interactive, because then an interrupt from the terminal brings bash back to its next line: a
//! `while :; do :; done` ends and the shell lives on. With it goes the rest of its line, so the status is asked for
//! once more. What a command breaks in spite of all this is
//! seen by its missing status: the shell is replaced and the model is told.

mod escalation;
mod next;
pub(crate) mod status;
mod streams;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::init::{INIT_DEADLINE, Init};
use super::link::{Answer, Answers};
use super::output::TURNS;
use super::process::{gone, host_failed, lost, silent, unexpected};
use super::strikes::BRIEF;
use crate::env::{Captured, EnvError, FileError, GuestPath, ShellResult};
use crate::wire::{FromInit, ToInit};
use escalation::{Escalation, is_idle, kill_command};
use next::{Next, is_linked, reading_end, tick};
use status::{End, StatusLine, line, status_line};
pub(in crate::host) use streams::CAPTURE;
use streams::{Streams, discard, read_terminal};

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
    /// Lines go in, their status comes out.
    socket: AsyncFd<UnixStream>,
    terminal: AsyncFd<OwnedFd>,
    /// Of the next command.
    number: u64,
    next: Next,
    /// The ticks in which the current command began and the one before ended.
    began: u64,
    ended: u64,
    /// PID 1 has listed what ran since that end.
    listed: bool,
}

/// Bytes that may wait on their way back from bash.
const STATUS_ROOM: usize = 4096;

/// The rest of a command that is longer than the socket takes at once.
const REST: Duration = Duration::from_millis(1);

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
        // Bash keeps it in memory, of which there is so much.
        if command.len() as u64 > shell.link.strikes.longest_command() {
            return Err(EnvError::File {
                path: GuestPath::from("a command of this length"),
                error: FileError::NoSpace,
            });
        }
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
        let (mut socket, other) = UnixStream::pair().map_err(host_failed)?;
        socket.set_nonblocking(true).map_err(host_failed)?;
        // Who floods it takes all room at once when there is some, and the status may wait for a second: little room comes often.
        setsockopt(&other, SndBuf, &STATUS_ROOM).map_err(|e| host_failed(e.into()))?;
        let mut exit = link.open();
        let request = ToInit::StartShell {
            id: exit.id,
            env: Vec::new(),
            cwd: workdir.into(),
        };
        link.send(&request, &[other.as_fd()]).await.map_err(lost)?;
        drop(other);
        let answer = timeout(INIT_DEADLINE, exit.next())
            .await
            .map_err(|_| silent())?;
        let Answer { message, fds } = answer.ok_or_else(gone)?;
        let (FromInit::ShellStarted { .. }, Ok([master, out, err])) =
            (&message, <[OwnedFd; 3]>::try_from(fds))
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
        // No job notices, no history, no "you have mail". A write to a shell that has died already fails; its exit tells the rest.
        let _ =
            socket.write_all(b"set +mH +o history; unset HISTFILE MAILCHECK; POSIXLY_CORRECT=:\n");
        Ok(Self {
            link: Arc::clone(link),
            exit,
            socket: watched(socket)?,
            terminal: watched(master)?,
            number: 1,
            next: Next::Ready([reading_end(out)?, reading_end(err)?]),
            began: 0,
            ended: 0,
            listed: true,
        })
    }

    async fn run(
        &mut self,
        command: &str,
        limit: Duration,
    ) -> Result<(End, [Captured; 3]), EnvError> {
        let began = Instant::now();
        self.receive_pipes().await?;
        self.began = tick();
        if let Next::Ready(pipes) = &self.next {
            // Somebody has deleted them: bash would make files of these names.
            let gone = !pipes.iter().all(is_linked);
            // What the command before has left may look as young as what this one begins.
            let young = !self.listed && self.began == self.ended && !self.is_alone();
            if gone || young {
                let pipes = (!gone).then(|| pipes.clone());
                self.ask(pipes, /*processes*/ false).await?;
                self.receive_pipes().await?;
            }
        }
        let Next::Ready(pipes) = std::mem::replace(&mut self.next, Next::Refused) else {
            let streams = [(); 3].map(|()| Captured::default());
            self.link.strikes.look();
            return Ok((End::ShellExited(self.exit_status().await?), streams));
        };
        let mut streams = Streams::new(pipes, self.number);
        self.discard_terminal();
        if self.link.account {
            let begins = self.link.send(&ToInit::CommandBegins, &[]);
            begins.await.map_err(lost)?;
        }
        self.listed = false;
        let line = line(self.number, command);
        let rest = line.get(self.write(&line)..).unwrap_or_default();
        let end = self.wait(&mut streams, rest, began + limit).await?;
        self.number += 1;
        let failed = end != End::Status(0);
        let (captured, pipes, held) = streams.finish(self).await;
        let took = began.elapsed();
        let long = failed || took > BRIEF;
        let look = self.link.strikes.look_after(failed, took);
        self.next = Next::Ready(pipes.clone());
        if held {
            // A daemon must not die of its next line of log.
            pipes.clone().into_iter().for_each(discard);
        }
        if look || held {
            self.ask((!held).then_some(pipes), /*processes*/ failed)
                .await?;
        }
        self.ended = tick();
        if long {
            // A PID 1 that gives no answer is found out by the next request.
            let _ = self.receive_pipes().await;
        }
        Ok((end, captured))
    }

    /// Writes what the socket takes; how much that is. A write to a shell that has died fails: its exit tells the rest.
    fn write(&self, line: &[u8]) -> usize {
        self.socket.get_ref().write(line).unwrap_or(0)
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
    async fn wait(
        &mut self,
        streams: &mut Streams,
        mut rest: &[u8],
        deadline: Instant,
    ) -> Result<End, EnvError> {
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
                end = status_line.read(&self.socket, self.number), if !status_line.closed => {
                    if let Some(end) = end.map_err(host_failed)? {
                        return Ok(if escalation.struck() { End::TimedOut { shell_lives: true } } else { end });
                    }
                }
                () = tokio::time::sleep(REST), if !rest.is_empty() => {
                    rest = rest.get(self.write(rest)..).unwrap_or_default();
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
                    // Of a line that is not whole nothing is carried out.
                    let whole = rest.is_empty();
                    if !whole {
                        kill_command(self, libc::SIGKILL, /*shell*/ true).await?;
                    }
                    if !whole || !escalation.strike(self).await? {
                        return Ok(End::TimedOut { shell_lives: false });
                    }
                }
                () = tokio::time::sleep_until(streams.watch_at), if !streams.are_watched() => streams.watch()?,
                // Only the waiting may be broken off: what was taken from a pipe is nowhere else.
                ready = streams.out.readable(), if streams.out.is_watched() => {
                    ready?;
                    streams.out.take(&self.link).await;
                }
                ready = streams.err.readable(), if streams.err.is_watched() => {
                    ready?;
                    streams.err.take(&self.link).await;
                }
                ready = self.terminal.readable() => {
                    let mut guard = ready.map_err(host_failed)?;
                    match guard.try_io(|terminal| read_terminal(terminal.get_ref())) {
                        Ok(Ok(bytes)) if !bytes.is_empty() => streams.tty.push(&bytes),
                        // The terminal hangs up only with its shell, which is seen above.
                        Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                        Err(_would_block) => {}
                    }
                }
                _ = tick.tick(), if rest.is_empty() => {
                    // It waits for a line and yet has sent no status: a DEBUG trap that skips all
                    // commands, say, or a read-only POSIXLY_CORRECT.
                    idle_ticks = if is_idle(&self.link).await? { idle_ticks + 1 } else { 0 };
                    if idle_ticks == 1 {
                        self.ask_again();
                    } else if idle_ticks > 1 {
                        kill_command(self, libc::SIGKILL, /*shell*/ true).await?;
                        return Ok(if escalation.struck() {
                            End::TimedOut { shell_lives: false }
                        } else {
                            End::Broken
                        });
                    }
                }
            }
        }
    }

    /// Has the status of the current command told once more.
    fn ask_again(&self) {
        // A shell that has just died tells by its exit.
        self.write(status_line(self.number).as_bytes());
    }

    fn discard_terminal(&self) {
        let read = || self.terminal.try_io(Interest::READABLE, read_terminal);
        for _ in 0..TURNS {
            if !read().is_ok_and(|bytes| !bytes.is_empty()) {
                return;
            }
        }
    }
}

/// Waits for what can be read of a descriptor. Not for room to write: whoever reads what we wrote would wake us each time.
fn watched<T: AsRawFd>(descriptor: T) -> Result<AsyncFd<T>, EnvError> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; what we give keeps its number all its life"
    )]
    let watched = AsyncFd::with_interest(descriptor, Interest::READABLE);
    watched.map_err(host_failed)
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
