//! Programs inside, and what they print.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::cgroup::Counts;
use super::idle;
use super::init::{INIT_DEADLINE, Init};
use super::link::{Answers, Link, peer_is_gone};
use crate::env::{EnvError, ExitStatus, GuestPath};
use crate::outcome::LimitHit;
use crate::wire::{ByteString, Exec, FromInit, ToInit};

/// A program to start, and its descriptors: pipes, never a file or terminal of the host.
#[derive(Debug)]
pub struct Spawn {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment of the sandbox.
    pub env: Vec<(String, String)>,
    /// Working directory; the sandbox's own when absent.
    pub cwd: Option<GuestPath>,
    /// What it reads; the sandbox's null device when absent.
    pub stdin: Option<OwnedFd>,
    /// Where it prints.
    pub stdout: OwnedFd,
    /// Where it complains.
    pub stderr: OwnedFd,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    link: Arc<Init>,
    answers: Answers<FromInit>,
    /// What had been counted when it began.
    before: Counts,
}

/// How long a program may go on.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// In all.
    pub wall: Option<Duration>,
    /// Without output and without CPU time.
    pub idle: Option<Duration>,
    /// Bytes that it has printed so far, counted by whoever reads them.
    pub printed: Arc<AtomicU64>,
}

/// A running program on a terminal of the sandbox.
#[derive(Debug)]
pub struct Terminal {
    /// The program.
    pub process: Process,
    /// The terminal's master.
    pub master: OwnedFd,
}

/// A program that is asked for before its PID 1 serves: the request waits in the socket.
#[derive(Debug)]
pub(super) struct First {
    pub(super) program: Spawn,
    /// The sandbox ends with it.
    pub(super) only: bool,
}

impl First {
    /// A PID 1 that is dead says why elsewhere.
    pub(super) async fn ask(self, link: &Link<FromInit>) -> Answers<FromInit> {
        let Self { program, only } = self;
        let answers = link.open();
        let mut request = exec(&program.argv, &program.env, program.cwd.as_ref());
        request.id = answers.id;
        let stdio = program
            .stdin
            .iter()
            .chain([&program.stdout, &program.stderr]);
        let fds: Vec<_> = stdio.map(AsFd::as_fd).collect();
        let request = match only {
            true => ToInit::ExecOnly(request),
            false => ToInit::Exec(request),
        };
        let _ = link.send(&request, &fds).await;
        answers
    }
}

impl Process {
    /// The first of a sandbox.
    pub(super) fn first(link: &Arc<Init>, answers: Answers<FromInit>) -> Self {
        Self {
            link: Arc::clone(link),
            answers,
            before: Counts::default(),
        }
    }

    pub(super) async fn start(
        link: &Arc<Init>,
        mut request: Exec,
        stdio: Vec<OwnedFd>,
    ) -> Result<Self, EnvError> {
        let answers = link.open();
        request.id = answers.id;
        let fds: Vec<_> = stdio.iter().map(AsFd::as_fd).collect();
        let before = link.strikes.last();
        link.send(&ToInit::Exec(request), &fds)
            .await
            .map_err(|e| link.unsent(e, before))?;
        Ok(Self {
            link: Arc::clone(link),
            answers,
            before,
        })
    }

    /// The master of its terminal, for a program started on one.
    pub(super) async fn terminal(mut self) -> Result<Terminal, EnvError> {
        let answer = timeout(INIT_DEADLINE, self.answers.next()).await;
        match answer.map_err(|_| silent())? {
            Some(mut answer) => match (answer.message, answer.fds.pop()) {
                (FromInit::Terminal { .. }, Some(master)) => Ok(Terminal {
                    process: self,
                    master,
                }),
                (
                    FromInit::Refused {
                        reason,
                        errno,
                        used_up,
                        ..
                    },
                    _,
                ) => Err(self.link.strikes.refused(reason, errno, used_up)),
                (other, _) => Err(unexpected(&other)),
            },
            None => Err(self.lost()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The sandbox died, or could not start the program.
    pub async fn wait(&mut self) -> Result<ExitStatus, EnvError> {
        match self.answers.next().await.map(|answer| answer.message) {
            Some(FromInit::Exited {
                status, used_up, ..
            }) => {
                self.link.strikes.note(used_up);
                Ok(match status {
                    Ok(code) => ExitStatus::Code(code),
                    Err(signal) => ExitStatus::Signal(signal),
                })
            }
            Some(FromInit::Refused {
                reason,
                errno,
                used_up,
                ..
            }) => Err(self.link.strikes.refused(reason, errno, used_up)),
            Some(other) => Err(unexpected(&other)),
            None => Err(self.lost()),
        }
    }

    /// Why it ended without an answer.
    fn lost(&self) -> EnvError {
        self.link.explain(gone(), self.before)
    }

    /// Signals every process of its session.
    ///
    /// # Errors
    /// The sandbox died.
    pub async fn kill(&self, signal: i32) -> Result<(), EnvError> {
        self.link
            .send(
                &ToInit::Kill {
                    id: self.answers.id,
                    signal,
                },
                &[],
            )
            .await
            .map_err(lost)
    }

    /// Waits for its end, but only so long: then everything of it is killed, and the limit comes along.
    ///
    /// # Errors
    /// The sandbox died.
    pub async fn wait_at_most(
        &mut self,
        patience: &Patience,
    ) -> Result<(ExitStatus, Option<LimitHit>), EnvError> {
        let link = Arc::clone(&self.link);
        let struck = tokio::select! {
            status = self.wait() => return Ok((status?, None)),
            after = over(patience.wall) => LimitHit::WallTime { after },
            after = idle::for_so_long(&link, patience.idle, &patience.printed) => LimitHit::IdleTime { after },
        };
        // A sandbox that ended with its program just now still has its status to tell.
        let _ = self.kill(libc::SIGKILL).await;
        // One that waits for a device or a server of the host does not even die.
        let died = timeout(INIT_DEADLINE, self.wait());
        let status = died.await.map_err(|_| silent())??;
        Ok((status, Some(struck)))
    }
}

/// Waits so long, or for ever.
async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
    limit.unwrap_or_default()
}

pub(super) fn exec(argv: &[String], env: &[(String, String)], cwd: Option<&GuestPath>) -> Exec {
    Exec {
        id: 0,
        argv: argv
            .iter()
            .map(|arg| ByteString::from(arg.as_str()))
            .collect(),
        env: env
            .iter()
            .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
            .collect(),
        cwd: cwd.map(|path| path.as_bytes().into()),
        terminal: false,
    }
}

/// A pipe whose reading end is ours, and one whose writing end is.
pub(super) fn reading_pipe() -> Result<(pipe::Receiver, OwnedFd), EnvError> {
    let (reader, writer) = close_on_exec_pipe()?;
    Ok((
        pipe::Receiver::from_owned_fd(reader).map_err(host_failed)?,
        writer,
    ))
}

/// See [`reading_pipe`].
pub(super) fn writing_pipe() -> Result<(OwnedFd, pipe::Sender), EnvError> {
    let (reader, writer) = close_on_exec_pipe()?;
    Ok((
        reader,
        pipe::Sender::from_owned_fd(writer).map_err(host_failed)?,
    ))
}

/// Two ends of a pipe that no other program of ours inherits.
pub(super) fn close_on_exec_pipe() -> Result<(OwnedFd, OwnedFd), EnvError> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| host_failed(e.into()))
}

pub(super) fn silent() -> EnvError {
    EnvError::Infrastructure("PID 1 does not answer".into())
}

pub(super) fn gone() -> EnvError {
    EnvError::Died("its PID 1 ended".into())
}

pub(super) fn lost(error: io::Error) -> EnvError {
    if peer_is_gone(&error) {
        gone()
    } else {
        host_failed(error)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form that map_err asks for"
)]
pub(super) fn host_failed(error: io::Error) -> EnvError {
    EnvError::Infrastructure(error.to_string())
}

pub(super) fn unexpected(message: &FromInit) -> EnvError {
    EnvError::Infrastructure(format!("PID 1 said {message:?} at the wrong time"))
}
