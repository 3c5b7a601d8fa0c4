//! A running sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::HostError;
use super::cgroup::Cgroup;
use super::exec::Ended;
use super::ids::Range;
use super::in_force::InForce;
use super::init::Init;
use super::leftover::{self, Trail};
use super::link::Answers;
use super::network::Network;
use super::process::{self, Process, Spawn, Terminal};
use super::registry::Entry;
use super::shell::{self, Shell, ShellMode};
use super::walls::Walls;
use super::zygote::{self, Zygote};
use crate::env::{
    Captured, DirEntry, Env, EnvError, ExecRequest, ExecResult, ExitStatus, FileStat, GuestPath,
    Listing, ShellResult,
};
use crate::outcome::{Connections, LeftBehind, LimitHit};
use crate::spec::{Effects, Usage};
use crate::sys::process::{open_pidfd, signal_pidfd};
use crate::wire::{FromInit, FromZygote, ToInit};

/// The kernel ends a sandbox within this time, or something is wrong.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// What the host holds for a sandbox. Fields drop in this order: the ids are free again last.
#[derive(Debug)]
pub(super) struct Held {
    /// Of PID 1, once it is known.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) init_pid: i32,
    pub(super) cgroup: Cgroup,
    pub(super) entry: Entry,
    pub(super) range: Option<Range>,
}

impl Held {
    /// Kills PID 1, and with it everything: the kernel ends a pid namespace with its first process.
    pub(super) fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = signal_pidfd(pidfd.as_fd(), libc::SIGKILL);
        }
    }

    fn trail(&self) -> Trail {
        let mut directories = vec![self.entry.directory().to_owned()];
        directories.extend(self.entry.upper().map(Path::to_owned));
        let ids = self.range.as_ref().map(|range| range.map);
        let ids = ids.map(|map| (map.base, map.base + map.count));
        Trail::new(&self.entry.id, directories, ids)
    }

    /// Gives up what a sandbox that has ended held, and counts what is there all the same.
    fn release(mut self, trail: &Trail, search: bool) -> (LeftBehind, io::Result<()>) {
        // A cgroup can be removed only when no process is in it: this is the proof.
        let mut removed = self.cgroup.remove();
        match removed {
            Ok(()) => removed = self.entry.remove(),
            Err(_) => self.entry.abandon(),
        }
        let quick = trail.quick(self.pidfd.as_ref(), &self.cgroup);
        let left = if search { trail.thorough(quick) } else { quick };
        (left, removed)
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
    pub(super) link: Arc<Init>,
    // Keeps the zygote, and so this sandbox, alive when the launcher is dropped first.
    zygote: Arc<Zygote>,
    exit: Answers<FromZygote>,
    held: Option<Held>,
    in_force: InForce,
    /// Device number of its terminals, once there was one.
    terminals: AtomicU64,
    pub(super) workdir: String,
    started: Instant,
    shell: Mutex<Option<Shell>>,
    mode: ShellMode,
    walls: Walls,
    network: Option<Network>,
}

impl Sandbox {
    pub(super) fn new(
        link: Init,
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
            terminals: AtomicU64::new(0),
            workdir,
            started,
            shell: Mutex::new(None),
            mode: ShellMode::Persistent,
            walls: Walls::default(),
            network: None,
        }
    }

    pub(super) fn with_network(mut self, network: Option<Network>) -> Self {
        self.network = network;
        self
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
        let mut stdio: Vec<_> = request.stdin.into_iter().collect();
        stdio.extend([request.stdout, request.stderr]);
        Process::start(&self.link, exec, stdio).await
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
        let terminal = Process::start(&self.link, exec, Vec::new())
            .await?
            .terminal()
            .await?;
        if let Ok(stat) = nix::sys::stat::fstat(&terminal.master) {
            self.terminals.store(stat.st_dev, Ordering::Relaxed);
        }
        Ok(terminal)
    }

    /// Ends it: kills all, waits for the last process, and proves that nothing is left.
    ///
    /// # Errors
    /// Something is left, or the kernel did not end it in time.
    pub async fn close(self) -> Result<Usage, HostError> {
        self.end(/*counted*/ true, /*search*/ false).await
    }

    /// A handle on its PID 1, which becomes readable when that has ended, as the last of its processes: pidfd_open(2).
    ///
    /// # Errors
    /// It has ended, or no more files can be opened.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = self.held.as_ref().map_or(0, |held| held.init_pid);
        open_pidfd(pid)
    }

    /// Ends it as [`Sandbox::close`] does, without asking how much it wrote and what CPU time it used.
    ///
    /// # Errors
    /// Something is left, or the kernel did not end it in time.
    pub async fn discard(self) -> Result<Usage, HostError> {
        self.end(/*counted*/ false, /*search*/ false).await
    }

    /// Ends it as [`Sandbox::close`] does, and looks for what is left at every process and mount of the host.
    ///
    /// # Errors
    /// Something is left, or the kernel did not end it in time.
    pub async fn close_and_search(self) -> Result<Usage, HostError> {
        self.end(/*counted*/ true, /*search*/ true).await
    }

    async fn end(mut self, counted: bool, search: bool) -> Result<Usage, HostError> {
        let written_bytes = match counted {
            true => self.written_bytes().await,
            false => None,
        };
        let Some(held) = self.held.take() else {
            return Err(HostError::ZygoteGone("lost this sandbox".into()));
        };
        let mut trail = held.trail();
        if search {
            trail.learn(held.init_pid, self.terminals.load(Ordering::Relaxed));
        }
        held.kill();
        let ended = async {
            match &held.pidfd {
                Some(pidfd) if !counted => leftover::ended(pidfd.as_fd()).await.map(|()| None),
                _ => zygote::ended(&mut self.exit).await.map(Some),
            }
        };
        let cpu = timeout(END_DEADLINE, ended)
            .await
            .map_err(|_| HostError::TimedOut("ending the sandbox", END_DEADLINE.as_secs()))??;
        let mut usage = Usage {
            cpu,
            peak_memory_bytes: self.link.strikes.peak_memory(),
            written_bytes,
            wall: self.started.elapsed(),
            struck: self.link.strikes.all(),
            left_behind: None,
            connections: Connections::default(),
            refused: self.walls.refused(),
        };
        if let Some(upper) = held.entry.upper() {
            self.zygote.remove_tree(upper).await?;
        }
        (usage.struck).extend(self.network.iter().flat_map(Network::all_struck));
        let connections = match self.network.take() {
            Some(network) => tokio::task::spawn_blocking(|| network.detach()).await,
            None => Ok(Connections::default()),
        };
        usage.connections = connections.unwrap_or_default();
        // The shell holds a terminal.
        *self.shell.lock().await = None;
        let (left, removed) = held.release(&trail, search);
        usage.left_behind = Some(left);
        if left.total > 0 {
            return Err(HostError::LeftOver(Box::new(usage), removed.err()));
        }
        Ok(usage)
    }

    async fn written_bytes(&self) -> Option<u64> {
        let mut answers = self.link.open();
        let request = ToInit::Usage { id: answers.id };
        self.link.send(&request, &[]).await.ok()?;
        let answer = timeout(Duration::from_secs(2), answers.next())
            .await
            .ok()??;
        if let FromInit::Usage {
            written_bytes,
            used_up,
            ..
        } = answer.message
        {
            self.link.strikes.note(used_up);
            return Some(written_bytes);
        }
        None
    }

    async fn persistent(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        let mut shell = self.shell.lock().await;
        if shell.is_none() {
            *shell = Some(Shell::start(&self.link, &self.workdir).await?);
        }
        shell::run(&mut shell, &self.workdir, command, limit).await
    }

    async fn fresh(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        let mut request = ExecRequest::new(["bash", "-c", command]);
        request.timeout = Some(limit);
        request.capture = shell::CAPTURE;
        let result = self.exec(&request).await?;
        Ok(ShellResult {
            status: (!result.timed_out).then(|| result.status.code()),
            struck: result.struck,
            stdout: result.stdout,
            stderr: result.stderr,
            tty: Captured::default(),
            timed_out: result.timed_out.then_some(limit),
            restarted: None,
            wall: result.wall,
        })
    }
}

impl Env for Sandbox {
    async fn shell(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        if self.mode == ShellMode::Fresh {
            return self.fresh(command, limit).await;
        }
        let before = self.link.strikes.last();
        let result = self.persistent(command, limit).await;
        let mut result = result.map_err(|e| self.link.explain(e, before))?;
        let failed = result.status != Some(0);
        result.struck = self.link.strikes.since(before, failed)?;
        let of_network = self.network.iter().flat_map(|one| one.struck(failed));
        result.struck.extend(of_network);
        let timed_out = result.timed_out.map(|after| LimitHit::WallTime { after });
        result.struck.extend(timed_out);
        let streams = [&result.stdout, &result.stderr, &result.tty];
        result.struck.extend(omitted(streams));
        Ok(result)
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecResult, EnvError> {
        let began = Instant::now();
        let before = self.link.strikes.last();
        let Ended {
            status,
            stopped,
            streams: [stdout, stderr],
        } = super::exec::run(&self.link, request).await?;
        let failed = status != ExitStatus::Code(0);
        self.link.strikes.look_after(failed, began.elapsed());
        let mut struck = self.link.strikes.since(before, failed)?;
        struck.extend(self.network.iter().flat_map(|one| one.struck(failed)));
        let timed_out = stopped.is_some();
        struck.extend(stopped);
        struck.extend(omitted([&stdout, &stderr]));
        Ok(ExecResult {
            status,
            stdout,
            stderr,
            timed_out,
            struck,
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

    fn connections(&self) -> Connections {
        let network = self.network.as_ref();
        network.map_or_else(Connections::default, Network::connections)
    }

    async fn effects(&self) -> Option<Effects> {
        super::effects::ask(&self.link).await
    }
}

/// More was printed than is kept.
fn omitted<'a>(streams: impl IntoIterator<Item = &'a Captured>) -> Option<LimitHit> {
    let omitted_bytes = streams.into_iter().map(|stream| stream.omitted).sum();
    (omitted_bytes > 0).then_some(LimitHit::Output { omitted_bytes })
}
