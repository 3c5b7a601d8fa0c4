//! A program inside and all that it printed, once it has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::init::Init;
use super::output::{Buffer, HeadTail, TURNS, UNWATCHED};
use super::process::{self, Patience, Process, host_failed};
use crate::env::{Captured, EnvError, ExecRequest, ExitStatus};
use crate::outcome::LimitHit;

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// The limit of time that it met.
    pub(super) stopped: Option<LimitHit>,
    /// What it printed and what it complained of.
    pub(super) streams: [Captured; 2],
}

/// Runs a program to its end.
pub(super) async fn run(link: &Arc<Init>, request: &ExecRequest) -> Result<Ended, EnvError> {
    let (out, stdout) = process::close_on_exec_pipe()?;
    let (err, stderr) = process::close_on_exec_pipe()?;
    let pipes = [out, err];
    for pipe in &pipes {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| host_failed(e.into()))?;
    }
    let exec = process::exec(&request.argv, &request.env, request.cwd.as_ref());
    let mut process = Process::start(link, exec, vec![stdout, stderr]).await?;
    if request.timeout.is_none_or(|limit| limit > UNWATCHED)
        && let Ok(status) = timeout(UNWATCHED, process.wait()).await
    {
        return Ok(Ended {
            status: status?,
            stopped: None,
            streams: pipes.map(|pipe| {
                let mut kept = HeadTail::new(request.capture);
                drain(&pipe, &mut kept);
                kept.finish()
            }),
        });
    }
    watched(process, pipes, request).await
}

/// Reads what it prints until it ends.
async fn watched(
    mut process: Process,
    [out, err]: [OwnedFd; 2],
    request: &ExecRequest,
) -> Result<Ended, EnvError> {
    let patience = Patience {
        wall: request.timeout,
        idle: request.idle_timeout,
        ..Patience::default()
    };
    let (ended, watch) = watch::channel(false);
    let capture = |pipe| -> Result<JoinHandle<HeadTail>, EnvError> {
        let pipe = pipe::Receiver::from_owned_fd(pipe).map_err(host_failed)?;
        let printed = Arc::clone(&patience.printed);
        let captured = capture(pipe, request.capture, printed, watch.clone());
        Ok(tokio::spawn(captured))
    };
    let (out, err) = (capture(out)?, capture(err)?);
    let waited = process.wait_at_most(&patience).await;
    let _ = ended.send(true);
    let joined = |e: tokio::task::JoinError| host_failed(io::Error::other(e));
    let streams = [out.await.map_err(joined)?, err.await.map_err(joined)?];
    let (status, stopped) = waited?;
    Ok(Ended {
        status,
        stopped,
        streams: streams.map(HeadTail::finish),
    })
}

/// Reads to the end or, once `ended` says so, to the last byte that is there: a daemon that holds
/// the pipe open does not delay the result.
async fn capture(
    reader: pipe::Receiver,
    limit: usize,
    printed: Arc<AtomicU64>,
    mut ended: watch::Receiver<bool>,
) -> HeadTail {
    let mut kept = HeadTail::new(limit);
    let mut buffer = Buffer::new();
    while !*ended.borrow_and_update() {
        match reader.try_read(buffer.room()) {
            Ok(0) => return kept,
            Ok(count) => {
                printed.fetch_add(count as u64, Ordering::Relaxed);
                kept.push(buffer.read(count));
                // A flood must not keep this thread from the clock.
                tokio::task::coop::consume_budget().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    ready = reader.readable() => if ready.is_err() { return kept },
                    changed = ended.changed() => if changed.is_err() { return kept },
                }
            }
            Err(_) => return kept,
        }
    }
    // Whatever the event loop knows of it: told of two descriptors at once, it may wake us for the one before it has noted the other.
    drain(&reader, &mut kept);
    kept
}

/// Takes what is there. What outlives the program may print faster than we read: what a pipe holds at most, and no more.
fn drain(pipe: impl AsFd, kept: &mut HeadTail) {
    let mut buffer = Buffer::new();
    for _ in 0..TURNS {
        match nix::unistd::read(&pipe, buffer.room()) {
            Ok(count @ 1..) => kept.push(buffer.read(count)),
            Ok(0) | Err(_) => return,
        }
    }
}
