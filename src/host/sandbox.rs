//! A running sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::HostError;
use super::cgroup::{Cgroup, Controllers};
use super::ids::Range;
use super::link::{Answers, Link};
use super::process::{self, Process, Spawn, Terminal};
use super::registry::Entry;
use super::shell::{self, Shell, ShellMode};
use super::walls::Walls;
use super::zygote::Zygote;
use crate::env::{
    DirEntry, Env, EnvError, ExecRequest, ExecResult, FileError, FileStat, GuestPath, Listing,
    ShellResult,
};
use crate::spec::{Limits, Usage};
use crate::sys::process::signal_pidfd;
use crate::wire::{FromInit, FromZygote, ToInit};

/// The kernel ends a sandbox within this time, or something is wrong.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Which of the limits asked for hold, and through what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InForce {
    /// What was asked for.
    #[serde(flatten)]
    pub limits: Limits,
    /// Version of the cgroup interface that enforces memory, processes and CPU; 0 when none does.
    pub cgroup: u8,
    /// Limits that this host does not enforce.
    pub unenforced: Vec<String>,
}

impl InForce {
    pub(super) fn new(limits: &Limits, controllers: Controllers) -> Self {
        let missing = [
            (
                limits.memory_bytes.is_some() && !controllers.memory,
                "memory",
            ),
            (limits.cpus.is_some() && !controllers.cpu, "cpus"),
            // RLIMIT_NPROC counts by user, not by sandbox.
            (
                limits.pids.is_some() && !controllers.pids,
                "pids (by user only)",
            ),
        ];
        let unenforced = missing
            .iter()
            .filter(|(missing, _)| *missing)
            .map(|(_, name)| (*name).to_owned());
        Self {
            limits: limits.clone(),
            cgroup: controllers.version,
            unenforced: unenforced.collect(),
        }
    }
}

/// What the host holds for a sandbox. Fields drop in this order: the ids are free again last.
#[derive(Debug)]
pub(super) struct Held {
    /// Of PID 1, once it is known.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) cgroup: Cgroup,
    pub(super) entry: Entry,
    pub(super) _range: Option<Range>,
}

impl Held {
    /// Kills PID 1, and with it everything: the kernel ends a pid namespace with its first process.
    pub(super) fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = signal_pidfd(pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

impl Drop for Held {
    /// Ends a sandbox that was not closed: its owner was dropped in the middle of something, or its
    /// zygote died. Waits a few milliseconds for its processes; what is left then is the next
    /// clean-up's.
    fn drop(&mut self) {
        self.kill();
        let gone = (0..20).any(|_| {
            self.cgroup.remove().is_ok() || {
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        });
        if !gone {
            self.entry.abandon();
        }
    }
}

/// A running sandbox. [`Sandbox::close`] ends it and tells what it used; dropping it only ends it.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) link: Arc<Link<FromInit>>,
    // Keeps the zygote, and so this sandbox, alive when the launcher is dropped first.
    zygote: Arc<Zygote>,
    exit: Answers<FromZygote>,
    held: Option<Held>,
    in_force: InForce,
    pub(super) workdir: String,
    started: Instant,
    shell: Mutex<Option<Shell>>,
    mode: ShellMode,
    walls: Walls,
}

impl Sandbox {
    pub(super) fn new(
        link: Link<FromInit>,
        zygote: Arc<Zygote>,
        exit: Answers<FromZygote>,
        held: Held,
        in_force: InForce,
        workdir: String,
        started: Instant,
    ) -> Self {
        Self {
            link: Arc::new(link),
            zygote,
            exit,
            held: Some(held),
            in_force,
            workdir,
            started,
            shell: Mutex::new(None),
            mode: ShellMode::Persistent,
            walls: Walls::default(),
        }
    }

    pub(super) fn with_walls(mut self, walls: Walls) -> Self {
        self.walls = walls;
        self
    }

    /// Chooses between one shell for all commands and a fresh one for each.
    #[must_use]
    pub fn with_shell(mut self, mode: ShellMode) -> Self {
        self.mode = mode;
        self
    }

    /// Its name, as `ps` shows it.
    #[must_use]
    pub fn id(&self) -> &str {
        self.held.as_ref().map_or("", |held| &held.entry.id)
    }

    /// Its place in the registry.
    pub(super) fn directory(&self) -> &Path {
        self.held
            .as_ref()
            .map_or(Path::new("/nonexistent"), |held| held.entry.directory())
    }

    /// Its limits, and which of them hold.
    #[must_use]
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Its walls, as far as they depend on the specification and the kernel.
    #[must_use]
    pub fn walls(&self) -> &Walls {
        &self.walls
    }

    /// Starts a program.
    ///
    /// # Errors
    /// The sandbox died.
    pub async fn spawn(&self, request: Spawn) -> Result<Process, EnvError> {
        let exec = process::exec(&request.argv, &request.env, request.cwd.as_ref());
        let stdio = [request.stdin, request.stdout, request.stderr];
        Process::start(&self.link, exec, Some(stdio)).await
    }

    /// Starts a program on a terminal of the sandbox.
    ///
    /// # Errors
    /// The sandbox died or has no terminal left.
    pub async fn spawn_on_terminal(
        &self,
        argv: &[String],
        env: &[(String, String)],
    ) -> Result<Terminal, EnvError> {
        let mut exec = process::exec(argv, env, None);
        exec.terminal = true;
        Process::start(&self.link, exec, None)
            .await?
            .terminal()
            .await
    }

    /// Ends it: kills all, waits for the last process, and proves that nothing is left.
    ///
    /// # Errors
    /// Something is left, or the kernel did not end it in time.
    pub async fn close(self) -> Result<Usage, HostError> {
        let written_bytes = self.written_bytes().await;
        let usage = self.discard().await?;
        Ok(Usage {
            written_bytes,
            ..usage
        })
    }

    /// Ends it as [`Sandbox::close`] does, without asking first how much was written.
    ///
    /// # Errors
    /// Something is left, or the kernel did not end it in time.
    pub async fn discard(mut self) -> Result<Usage, HostError> {
        let Some(mut held) = self.held.take() else {
            return Err(HostError::ZygoteGone("lost this sandbox".into()));
        };
        held.kill();
        let exited = timeout(END_DEADLINE, self.exit.next())
            .await
            .map_err(|_| HostError::TimedOut("ending the sandbox", END_DEADLINE.as_secs()))?;
        let cpu = match exited.map(|answer| answer.message) {
            Some(FromZygote::Exited { cpu_us, .. }) => Some(Duration::from_micros(cpu_us)),
            _ => return Err(HostError::ZygoteGone("is gone".into())),
        };
        let peak_memory_bytes = held.cgroup.peak_memory();
        if let Some(upper) = held.entry.upper() {
            self.zygote.remove_tree(upper).await?;
        }
        // A cgroup can be removed only when no process is in it: this is the proof.
        held.cgroup
            .remove()
            .map_err(|e| HostError::LeftOver(e.to_string()))?;
        Ok(Usage {
            cpu,
            peak_memory_bytes,
            written_bytes: None,
            wall: self.started.elapsed(),
        })
    }

    async fn written_bytes(&self) -> Option<u64> {
        let mut answers = self.link.open();
        self.link
            .send(&ToInit::Usage { id: answers.id }, &[])
            .await
            .ok()?;
        let answer = timeout(Duration::from_secs(2), answers.next())
            .await
            .ok()??;
        if let FromInit::Usage { written_bytes, .. } = answer.message {
            return Some(written_bytes);
        }
        None
    }

    async fn persistent(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        let mut shell = self.shell.lock().await;
        if shell.is_none() {
            *shell = Some(Shell::start(Arc::clone(&self.link), &self.workdir).await?);
        }
        shell::run(&mut shell, &self.link, &self.workdir, command, limit).await
    }

    async fn fresh(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        let mut request = ExecRequest::new(["bash", "-c", command]);
        request.timeout = Some(limit);
        request.capture = shell::CAPTURE;
        let result = self.exec(&request).await?;
        Ok(ShellResult {
            status: (!result.timed_out).then(|| result.status.code()),
            stdout: result.stdout,
            stderr: result.stderr,
            tty: crate::env::Captured::default(),
            timed_out: result.timed_out.then_some(limit),
            restarted: None,
            wall: result.wall,
        })
    }
}

impl Env for Sandbox {
    async fn shell(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        match self.mode {
            ShellMode::Persistent => self.persistent(command, limit).await,
            ShellMode::Fresh => self.fresh(command, limit).await,
        }
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecResult, EnvError> {
        let began = Instant::now();
        let (out, stdout) = process::reading_pipe()?;
        let (err, stderr) = process::reading_pipe()?;
        let exec = process::exec(&request.argv, &request.env, request.cwd.as_ref());
        let stdio = [process::empty_stdin()?, stdout, stderr];
        let mut process = Process::start(&self.link, exec, Some(stdio)).await?;
        let (ended, watch) = watch::channel(false);
        let out = tokio::spawn(process::capture(out, request.capture, watch.clone()));
        let err = tokio::spawn(process::capture(err, request.capture, watch));
        let waited = process.wait_at_most(request.timeout).await;
        let _ = ended.send(true);
        let joined = |e: tokio::task::JoinError| process::host_failed(io::Error::other(e));
        let (stdout, stderr) = (out.await.map_err(joined)?, err.await.map_err(joined)?);
        let (status, timed_out) = waited?;
        Ok(ExecResult {
            status,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            timed_out,
            wall: began.elapsed(),
        })
    }

    async fn read_file(&self, path: &GuestPath, max_bytes: u64) -> Result<Vec<u8>, EnvError> {
        super::files::read(&self.link, path, max_bytes).await
    }

    async fn write_file(
        &self,
        path: &GuestPath,
        content: &[u8],
        exclusive: bool,
    ) -> Result<(), EnvError> {
        super::files::write(&self.link, path, content, exclusive).await
    }

    async fn stat(&self, path: &GuestPath) -> Result<FileStat, EnvError> {
        super::files::stat(&self.link, path).await
    }

    async fn list(
        &self,
        path: &GuestPath,
        depth: u32,
        max_entries: usize,
    ) -> Result<Listing, EnvError> {
        let (entries, truncated): (Vec<DirEntry>, bool) =
            super::files::list(&self.link, path, depth, max_entries).await?;
        Ok(Listing { entries, truncated })
    }
}

/// The kernel's refusal as the model may see it.
pub(super) fn file_error(errno: i32) -> FileError {
    match errno {
        libc::ENOENT => FileError::NotFound,
        libc::EEXIST => FileError::Exists,
        libc::EISDIR => FileError::IsDirectory,
        libc::ENOTDIR => FileError::NotDirectory,
        libc::EACCES | libc::EPERM | libc::EROFS => FileError::Permission,
        libc::ENOSPC | libc::EDQUOT => FileError::NoSpace,
        other => FileError::Other(nix::errno::Errno::from_raw(other).desc().to_lowercase()),
    }
}
