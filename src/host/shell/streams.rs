//! The output of one command: its ends for the model, the whole in a file when it is long.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::{Shell, watched};
use crate::env::{Captured, EnvError, FullCopy, GuestPath};
use crate::host::files::Sink;
use crate::host::init::Init;
use crate::host::output::{Buffer, HeadTail, TURNS, UNWATCHED};
use crate::host::process::host_failed;

/// Bytes of each stream kept for the model, before it is cut further to lines.
pub(in crate::host) const CAPTURE: usize = 256 << 10;
/// Bytes of a stream that a full copy inside the sandbox holds at most.
const FULL_COPY: u64 = 64 << 20;

/// Until one that nobody had open is waited for again.
const UNOPENED: Duration = Duration::from_millis(50);

/// The reading end of a pipe that commands print to.
pub(super) type Pipe = Arc<OwnedFd>;

/// All that a command prints.
pub(super) struct Streams {
    pub(super) out: Stream,
    pub(super) err: Stream,
    pub(super) tty: HeadTail,
    /// When to wait for output.
    pub(super) watch_at: Instant,
}

impl Streams {
    pub(super) fn new([out, err]: [Pipe; 2], number: u64) -> Self {
        Self {
            out: Stream::new(out, "stdout", number),
            err: Stream::new(err, "stderr", number),
            tty: HeadTail::new(CAPTURE),
            watch_at: Instant::now() + UNWATCHED,
        }
    }

    pub(super) fn watch(&mut self) -> Result<(), EnvError> {
        self.watch_at = Instant::now() + UNOPENED;
        self.out.watch()?;
        self.err.watch()
    }

    pub(super) fn are_watched(&self) -> bool {
        self.out.is_watched() && self.err.is_watched()
    }

    /// Takes what is there; gives the pipes, and whether a daemon holds one of them still.
    pub(super) async fn finish(mut self, shell: &Shell) -> ([Captured; 3], [Pipe; 2], bool) {
        let held = [
            self.out.drain(&shell.link).await,
            self.err.drain(&shell.link).await,
        ];
        for _ in 0..TURNS {
            match read_terminal(shell.terminal.get_ref()) {
                Ok(bytes) if !bytes.is_empty() => self.tty.push(&bytes),
                Ok(_) | Err(_) => break,
            }
        }
        let (out, out_pipe) = self.out.finish().await;
        let (err, err_pipe) = self.err.finish().await;
        let captured = [out, err, self.tty.finish()];
        (captured, [out_pipe, err_pipe], held.contains(&true))
    }
}

/// One output stream of a command: its ends for the model, the whole in a file when it is long.
pub(super) struct Stream {
    pipe: Pipe,
    /// Only while somebody has it open for writing: what has hung up once counts as ready for as long as it is watched.
    watch: Option<AsyncFd<Pipe>>,
    kept: HeadTail,
    path: GuestPath,
    copy: Option<Sink>,
    buffer: Buffer,
}

impl Stream {
    fn new(pipe: Pipe, name: &str, number: u64) -> Self {
        Self {
            pipe,
            watch: None,
            kept: HeadTail::new(CAPTURE),
            path: GuestPath::new(format!("/tmp/command-{number}-{name}.txt")),
            copy: None,
            buffer: Buffer::new(),
        }
    }

    fn watch(&mut self) -> Result<(), EnvError> {
        if self.watch.is_none() {
            self.watch = Some(watched(Arc::clone(&self.pipe))?);
        }
        Ok(())
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits for output; for ever when it is not watched.
    pub(super) async fn readable(&self) -> Result<(), EnvError> {
        let Some(watch) = &self.watch else {
            return std::future::pending().await;
        };
        watch.readable().await.map(|_| ()).map_err(host_failed)
    }

    /// Takes what is there; says whether somebody may write more.
    async fn drain(&mut self, link: &Arc<Init>) -> bool {
        // A daemon may print faster than we read: what a pipe holds at most, and no more.
        for _ in 0..TURNS {
            match nix::unistd::read(&self.pipe, self.buffer.room()) {
                Ok(count @ 1..) => self.keep(count, link).await,
                end => return end != Ok(0),
            }
        }
        true
    }

    /// Takes some output, if there is any. Not cancel-safe.
    pub(super) async fn take(&mut self, link: &Arc<Init>) {
        let Some(watch) = &self.watch else { return };
        let room = self.buffer.room();
        let read = |pipe: &Pipe| Ok(nix::unistd::read(pipe, room)?);
        match watch.try_io(Interest::READABLE, read) {
            // Bash has not opened it yet, or the command has closed it.
            Ok(0) => self.watch = None,
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

    async fn finish(self) -> (Captured, Pipe) {
        let mut captured = self.kept.finish();
        if let Some(copy) = self.copy {
            let (path, complete) = copy.finish().await;
            captured.full_copy = Some(FullCopy {
                path,
                partial: !complete,
            });
        }
        (captured, self.pipe)
    }
}

/// Reads a pipe to its end in the background and throws all away.
pub(super) fn discard(pipe: Pipe) {
    tokio::spawn(async move {
        let Ok(pipe) = watched(pipe) else { return };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(mut ready) = pipe.readable().await {
            let read = ready.try_io(|pipe| Ok(nix::unistd::read(pipe.get_ref(), &mut buffer)?));
            if matches!(read, Ok(Ok(0))) {
                return;
            }
            // A daemon that prints without end must not keep this thread from everybody else.
            tokio::task::yield_now().await;
        }
    });
}

pub(super) fn read_terminal(terminal: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let count = nix::unistd::read(terminal, &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}
