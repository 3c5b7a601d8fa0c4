//! The output of one command: its ends for the model, the whole in a file when it is long.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::{Shell, TURNS};
use crate::env::{Captured, EnvError, FullCopy, GuestPath};
use crate::host::files::Sink;
use crate::host::init::Init;
use crate::host::output::{Buffer, HeadTail};
use crate::host::process::{host_failed, read_now};

/// Bytes of each stream kept for the model, before it is cut further to lines.
pub(in crate::host) const CAPTURE: usize = 256 << 10;
/// Bytes of a stream that a full copy inside the sandbox holds at most.
const FULL_COPY: u64 = 64 << 20;

/// All that a command prints.
pub(super) struct Streams {
    pub(super) out: Stream,
    pub(super) err: Stream,
    pub(super) tty: HeadTail,
}

impl Streams {
    pub(super) fn new(out: OwnedFd, err: OwnedFd, number: u64) -> Result<Self, EnvError> {
        Ok(Self {
            out: Stream::new(out, "stdout", number)?,
            err: Stream::new(err, "stderr", number)?,
            tty: HeadTail::new(CAPTURE),
        })
    }

    /// Takes what is there, and keeps the pipes for the daemons that hold them.
    pub(super) async fn finish(mut self, shell: &mut Shell) -> [Captured; 3] {
        self.out.drain(&shell.link).await;
        self.err.drain(&shell.link).await;
        for _ in 0..TURNS {
            match read_terminal(&shell.terminal) {
                Ok(bytes) if !bytes.is_empty() => self.tty.push(&bytes),
                Ok(_) | Err(_) => break,
            }
        }
        let (out, out_pipe) = self.out.finish().await;
        let (err, err_pipe) = self.err.finish().await;
        shell.last = [out_pipe, err_pipe].into_iter().flatten().collect();
        [out, err, self.tty.finish()]
    }
}

/// One output stream of a command: its ends for the model, the whole in a file when it is long.
pub(super) struct Stream {
    pipe: pipe::Receiver,
    /// Everybody who had it open for writing has closed it. Before bash opens it nobody has, but then
    /// nothing wakes us (`EPOLLHUP` comes only after a writer).
    closed: bool,
    kept: HeadTail,
    path: GuestPath,
    copy: Option<Sink>,
    buffer: Buffer,
}

impl Stream {
    fn new(fd: OwnedFd, name: &str, number: u64) -> Result<Self, EnvError> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(fd).map_err(host_failed)?,
            closed: false,
            kept: HeadTail::new(CAPTURE),
            path: GuestPath::new(format!("/tmp/command-{number}-{name}.txt")),
            copy: None,
            buffer: Buffer::new(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Waits for output.
    pub(super) async fn readable(&self) -> Result<(), EnvError> {
        self.pipe.readable().await.map_err(host_failed)
    }

    async fn drain(&mut self, link: &Arc<Init>) {
        // A daemon may print faster than we read: what a pipe holds at most, and no more.
        for _ in 0..TURNS {
            match read_now(&self.pipe, self.buffer.room()) {
                Ok(count @ 1..) => self.keep(count, link).await,
                end => return self.closed = matches!(end, Ok(0)),
            }
        }
    }

    /// Takes some output, if there is any. Not cancel-safe.
    pub(super) async fn take(&mut self, link: &Arc<Init>) {
        match self.pipe.try_read(self.buffer.room()) {
            Ok(0) => self.closed = true,
            Ok(count) => self.keep(count, link).await,
            Err(_) => {}
        }
    }

    async fn keep(&mut self, count: usize, link: &Arc<Init>) {
        let chunk = self.buffer.read(count);
        if self.copy.is_none()
            && self.kept.total() + count as u64 > CAPTURE as u64
            && !self.kept.overflowed()
        {
            self.copy = Sink::open(link, self.path.clone(), FULL_COPY).await.ok();
            if let Some(copy) = &mut self.copy {
                let so_far = std::mem::replace(&mut self.kept, HeadTail::new(CAPTURE)).finish();
                copy.write(&so_far.head).await;
                self.kept.push(&so_far.head);
            }
        }
        if let Some(copy) = &mut self.copy {
            copy.write(chunk).await;
        }
        self.kept.push(chunk);
    }

    /// Gives the pipe when somebody holds it still.
    async fn finish(self) -> (Captured, Option<pipe::Receiver>) {
        let mut captured = self.kept.finish();
        if let Some(copy) = self.copy {
            let (path, complete) = copy.finish().await;
            captured.full_copy = Some(FullCopy {
                path,
                partial: !complete,
            });
        }
        (captured, (!self.closed).then_some(self.pipe))
    }
}

/// Reads a pipe to its end in the background and throws all away.
pub(super) fn discard(pipe: pipe::Receiver) {
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while pipe.readable().await.is_ok() {
            if matches!(pipe.try_read(&mut buffer), Ok(0)) {
                return;
            }
            // A daemon that prints without end must not keep this thread from everybody else.
            tokio::task::yield_now().await;
        }
    });
}

pub(super) fn read_terminal(terminal: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let count = nix::unistd::read(terminal.get_ref(), &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}
