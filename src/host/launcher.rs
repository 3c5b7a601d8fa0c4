//! Owns the zygote and starts sandboxes through it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

use super::cgroup::{Cgroup, Cgroups};
use super::ids::{self, Range};
use super::link::{Answer, Answers, Link};
use super::registry::{Entry, EntryInfo, Registry};
use super::sandbox::{Held, InForce, Sandbox};
use super::upper::{self, DiskUpper};
use super::{DEFAULT_ENV, HostError};
use crate::plan::{Allotment, plan};
use crate::spec::{Root, SandboxSpec, Upper};
use crate::sys::channel::Channel;
use crate::sys::mount;
use crate::wire::{
    FromInit, FromZygote, IdMap, RequestId, SetupPlan, ToZygote, UpperSource, ZYGOTE,
};

/// Nothing that we wait for during a start takes longer on a working host.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A tree of millions of files on a slow disk.
const REMOVE_DEADLINE: Duration = Duration::from_secs(600);

/// How to start sandboxes on this host.
#[derive(Debug, Clone, Default)]
pub struct LauncherConfig {
    /// The program to run as zygote. When absent it is this one, which then calls
    /// [`zygote_entry`](../fn.zygote_entry.html) first; tests name the real binary.
    pub program: Option<PathBuf>,
    /// Directory of running sandboxes; the host's own when absent.
    pub registry: Option<Registry>,
    /// Fail rather than start a sandbox with a limit that cannot be enforced.
    pub require_limits: bool,
    /// Directory for writable layers on disk, on the file system that is to hold them.
    pub upper_directory: Option<PathBuf>,
    /// Walls to leave out, each named by the beginning of its step's `Debug` form (`MaskFile`,
    /// `Seccomp(Unknown`), or `Ids` (inside-root is the caller himself) or `InheritedSeccomp`.
    ///
    /// ONLY for tests that show that a check fails where its wall is missing. No flag, file or
    /// variable sets it; code that can set it runs with the host's rights and needs no sandbox to
    /// misuse them.
    #[doc(hidden)]
    pub without: Vec<String>,
}

impl LauncherConfig {
    fn lacks(&self, wall: &str) -> bool {
        self.without.iter().any(|name| wall.starts_with(name))
    }
}

/// The host's handle on its zygote. Dropping it ends the zygote and every sandbox of it.
#[derive(Debug)]
pub struct Launcher {
    zygote: Arc<Zygote>,
    ids: Ids,
    cgroups: Cgroups,
    registry: Registry,
    config: LauncherConfig,
}

#[derive(Debug, Clone, Copy)]
enum Ids {
    /// Root: a range for each sandbox.
    Ranges,
    /// An ordinary user: what his zygote's namespace has.
    Fixed { count: u32, setgroups: bool },
}

/// The zygote's process and the channel to it.
#[derive(Debug)]
pub(super) struct Zygote {
    link: Link<FromZygote>,
    child: std::sync::Mutex<Child>,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // It holds nothing to save, and its death is what ends the sandboxes.
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Launcher {
    /// Starts the zygote, and takes away what hosts that died have left.
    ///
    /// # Errors
    /// The host lacks something; the error's hint tells where to look.
    pub async fn start(config: LauncherConfig) -> Result<Self, HostError> {
        let registry = match &config.registry {
            Some(registry) => registry.clone(),
            None => Registry::open()?,
        };
        let cgroups = Cgroups::detect();
        for failed in registry.reclaim()?.failed {
            tracing::warn!("could not take away what a dead host left: {failed}");
        }
        let (ours, theirs) =
            Channel::pair().map_err(|e| HostError::Zygote("make a socket pair", e))?;
        let link =
            Link::new(ours, zygote_id).map_err(|e| HostError::Zygote("watch the zygote", e))?;
        let mut greetings = link.open_as(0);
        let privileged = nix::unistd::geteuid().is_root();
        let child = spawn(&config, theirs, privileged)?;
        let pid = child.id();
        let zygote = Arc::new(Zygote {
            link,
            child: std::sync::Mutex::new(child),
        });
        let ids = timeout(
            START_DEADLINE,
            zygote.greet(&mut greetings, pid, privileged),
        )
        .await
        .map_err(|_| HostError::TimedOut("starting the zygote", START_DEADLINE.as_secs()))??;
        Ok(Self {
            zygote,
            ids,
            cgroups,
            registry,
            config,
        })
    }

    /// Starts a sandbox and waits until its PID 1 serves.
    ///
    /// # Errors
    /// A step failed; nothing of the sandbox is left.
    pub async fn sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, HostError> {
        let started = Instant::now();
        let in_force = InForce::new(&spec.limits, self.cgroups.controllers());
        if self.config.require_limits && !in_force.unenforced.is_empty() {
            return Err(HostError::Unenforceable(in_force.unenforced.join(", ")));
        }
        let mut entry = self.registry.register()?;
        let range = match self.ids {
            Ids::Ranges => Some(ids::allot(&self.registry.ids_directory())?),
            Ids::Fixed { .. } => None,
        };
        // Noted before they exist: a host that is killed in between leaves nothing unknown.
        entry.note_cgroups(&self.cgroups.places(&entry.id))?;
        let cgroup = self
            .cgroups
            .create(&entry.id, &spec.limits)
            .map_err(HostError::file("make the cgroup of", entry.directory()))?;
        let upper = self.disk_upper(&spec, &mut entry).await?;
        let plan = self.plan(
            &spec,
            range.as_ref(),
            upper.as_ref().map(|u| u.source.clone()),
        )?;
        let description = EntryInfo {
            id: entry.id.clone(),
            host_pid: std::process::id(),
            init_pid: None,
            root: root_path(&spec.root),
            started: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            purpose: spec.purpose.clone(),
        };
        let starting = self.start_sandbox(plan, cgroup, entry, range, description);
        let (link, exit, held) = timeout(START_DEADLINE, starting)
            .await
            .map_err(|_| HostError::TimedOut("starting the sandbox", START_DEADLINE.as_secs()))??;
        Ok(Sandbox::new(
            link,
            Arc::clone(&self.zygote),
            exit,
            held,
            in_force,
            spec.workdir,
            started,
        ))
    }

    /// Deletes a tree whose files may belong to subordinate ids, which this process may not touch.
    ///
    /// # Errors
    /// The kernel refused, or the zygote is gone.
    pub async fn remove_tree(&self, path: &Path) -> Result<(), HostError> {
        self.zygote.remove_tree(path).await
    }

    /// Directory of running sandboxes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The writable layer on disk, where one is asked for.
    async fn disk_upper(
        &self,
        spec: &SandboxSpec,
        entry: &mut Entry,
    ) -> Result<Option<DiskUpper>, HostError> {
        let Root::Overlay {
            upper: Upper::Disk, ..
        } = &spec.root
        else {
            return Ok(None);
        };
        let Some(parent) = &self.config.upper_directory else {
            return Err(HostError::NoUpperDirectory);
        };
        let path = parent.join(&entry.id);
        entry.note_upper(path.clone())?;
        let privileged = matches!(self.ids, Ids::Ranges);
        let made = upper::make(&path, &spec.limits, privileged).await?;
        Ok(Some(made))
    }

    fn plan(
        &self,
        spec: &SandboxSpec,
        range: Option<&Range>,
        disk_upper: Option<UpperSource>,
    ) -> Result<SetupPlan, HostError> {
        let mut spec = spec.clone();
        let mut env: Vec<(String, String)> = DEFAULT_ENV
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        env.append(&mut spec.env);
        spec.env = env;
        let (ids, setgroups) = match (self.ids, range) {
            (Ids::Fixed { count, setgroups }, _) => (
                IdMap {
                    base: 0,
                    count,
                    shift_files: false,
                },
                setgroups,
            ),
            (Ids::Ranges, Some(range)) if self.config.lacks("Ids") => (
                IdMap {
                    base: 0,
                    shift_files: false,
                    ..range.map
                },
                true,
            ),
            (Ids::Ranges, Some(range)) => (range.map, true),
            (Ids::Ranges, None) => return Err(HostError::NoIds(0)),
        };
        let allotment = Allotment {
            ids,
            privileged: matches!(self.ids, Ids::Ranges),
            setgroups,
            disk_upper,
            pids_by_rlimit: !self.cgroups.controllers().pids,
        };
        let mut plan = plan(&spec, &allotment)?;
        if !self.config.without.is_empty() {
            plan.setup
                .retain(|op| !self.config.lacks(&format!("{op:?}")));
        }
        Ok(plan)
    }

    async fn start_sandbox(
        &self,
        plan: SetupPlan,
        cgroup: Cgroup,
        entry: Entry,
        range: Option<Range>,
        mut description: EntryInfo,
    ) -> Result<(Link<FromInit>, Answers<FromZygote>, Held), HostError> {
        let failed = |what| move |e| HostError::Zygote(what, e);
        let (ours, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let init = Link::new(ours, FromInit::id).map_err(failed("watch PID 1"))?;
        let mut readiness = init.open_as(0);
        let (mut exit, pid, pidfd) = self.zygote.clone_sandbox(plan, &theirs, &cgroup).await?;
        // From here on PID 1 holds the other end alone: its death is the end of our answers.
        drop(theirs);
        let held = Held {
            pidfd,
            cgroup,
            _range: range,
            entry,
        };
        if let Err(error) = wait_ready(&mut readiness).await {
            held.kill();
            let _ = timeout(START_DEADLINE, exit.next()).await;
            return Err(error);
        }
        description.init_pid = Some(pid);
        held.entry.describe(&description)?;
        Ok((init, exit, held))
    }
}

async fn wait_ready(readiness: &mut Answers<FromInit>) -> Result<(), HostError> {
    match readiness.next().await.map(|answer| answer.message) {
        Some(FromInit::Ready { steps_us }) => {
            tracing::debug!(?steps_us, "sandbox ready");
            Ok(())
        }
        Some(FromInit::Failed(failure)) => Err(HostError::Setup(failure)),
        Some(other) => Err(HostError::ZygoteGone(format!("let PID 1 say {other:?}"))),
        None => Err(HostError::ZygoteGone("lost PID 1 during its set-up".into())),
    }
}

fn zygote_id(message: &FromZygote) -> RequestId {
    match message {
        FromZygote::NeedMaps { .. } | FromZygote::Ready => 0,
        FromZygote::SpawnFailed { id, .. } => id.unwrap_or(0),
        FromZygote::Spawned { id, .. }
        | FromZygote::Removed { id, .. }
        | FromZygote::Exited { id, .. } => *id,
    }
}

fn root_path(root: &Root) -> String {
    match root {
        Root::Overlay { lower, .. } => lower.display().to_string(),
        Root::Writable(directory) => directory.display().to_string(),
    }
}

fn spawn(config: &LauncherConfig, stdin: Channel, privileged: bool) -> Result<Child, HostError> {
    // Without this a program that is not prepared would start itself again and again.
    if config.program.is_none() && std::env::args_os().nth(1).is_some_and(|a| a == ZYGOTE) {
        return Err(HostError::NotHooked);
    }
    let program = config
        .program
        .clone()
        .unwrap_or_else(|| "/proc/self/exe".into());
    // Root can show the zygote a read-only program at once; others' zygotes see to it themselves.
    let bind = if privileged {
        read_only(&program).ok()
    } else {
        None
    };
    let path = bind.as_ref().map_or(program, |bind| {
        format!("/proc/self/fd/{}", bind.as_raw_fd()).into()
    });
    let stage = match (privileged, config.lacks("InheritedSeccomp")) {
        (true, false) => "enter-host",
        (false, false) => "enter-user",
        (true, true) => "enter-host:unfiltered",
        (false, true) => "enter-user:unfiltered",
    };
    Command::new(path)
        .args([ZYGOTE, stage])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(stdin)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| HostError::Zygote("start the zygote", e))
}

/// A detached, read-only bind of a program.
fn read_only(program: &Path) -> std::io::Result<OwnedFd> {
    let bind = mount::clone_tree(File::open(program)?.as_fd(), c"")?;
    mount::set_attributes(bind.as_fd(), mount::RDONLY | mount::NOSUID | mount::NODEV)?;
    Ok(bind)
}

impl Zygote {
    /// See [`Launcher::remove_tree`].
    pub(super) async fn remove_tree(&self, path: &Path) -> Result<(), HostError> {
        let link = &self.link;
        let mut answers = link.open();
        let request = ToZygote::Remove {
            id: answers.id,
            path: path.to_owned(),
        };
        link.send(&request, &[])
            .await
            .map_err(|e| HostError::Zygote("talk to the zygote", e))?;
        let answer = timeout(REMOVE_DEADLINE, answers.next())
            .await
            .map_err(|_| HostError::TimedOut("deleting a tree", REMOVE_DEADLINE.as_secs()))?;
        match answer.map(|answer| answer.message) {
            Some(FromZygote::Removed { error: None, .. }) => Ok(()),
            Some(FromZygote::Removed {
                error: Some(error), ..
            }) => Err(HostError::file("delete", path)(std::io::Error::other(
                error,
            ))),
            _ => Err(HostError::ZygoteGone("is gone".into())),
        }
    }

    async fn greet(
        &self,
        greetings: &mut Answers<FromZygote>,
        pid: u32,
        privileged: bool,
    ) -> Result<Ids, HostError> {
        let mut ids = Ids::Ranges;
        loop {
            match greetings.next().await.map(|answer| answer.message) {
                Some(FromZygote::Ready) if privileged => return Ok(Ids::Ranges),
                Some(FromZygote::Ready) => return Ok(ids),
                Some(FromZygote::NeedMaps { .. }) => {
                    ids = write_user_maps(pid).await?;
                    self.link
                        .send(&ToZygote::MapsWritten, &[])
                        .await
                        .map_err(|e| HostError::Zygote("talk to the zygote", e))?;
                }
                Some(FromZygote::SpawnFailed { failure, .. }) => {
                    return Err(HostError::Setup(failure));
                }
                Some(
                    FromZygote::Spawned { .. }
                    | FromZygote::Removed { .. }
                    | FromZygote::Exited { .. },
                ) => {}
                None => return Err(HostError::ZygoteGone("ended at its start".into())),
            }
        }
    }

    async fn clone_sandbox(
        &self,
        plan: SetupPlan,
        control: &Channel,
        cgroup: &Cgroup,
    ) -> Result<(Answers<FromZygote>, i32, OwnedFd), HostError> {
        let (cgroup, entries) = cgroup
            .entry()
            .map_err(|e| HostError::Zygote("open the cgroup", e))?;
        let mut answers = self.link.open();
        let request = ToZygote::Spawn {
            id: answers.id,
            plan: Box::new(plan),
            cgroup,
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(control.as_fd())
            .chain(entries.iter().map(AsFd::as_fd))
            .collect();
        self.link
            .send(&request, &fds)
            .await
            .map_err(|e| HostError::Zygote("talk to the zygote", e))?;
        match answers.next().await {
            Some(Answer {
                message: FromZygote::Spawned { pid, .. },
                mut fds,
            }) => match fds.pop() {
                Some(pidfd) => Ok((answers, pid, pidfd)),
                None => Err(HostError::ZygoteGone("sent no pidfd".into())),
            },
            Some(Answer {
                message: FromZygote::SpawnFailed { failure, .. },
                ..
            }) => Err(HostError::Setup(failure)),
            Some(other) => Err(HostError::ZygoteGone(format!("said {:?}", other.message))),
            None => Err(HostError::ZygoteGone("is gone".into())),
        }
    }
}

/// Maps an ordinary user's ids into his zygote's namespace: all of `/etc/subuid` through
/// `newuidmap`, or his own alone.
async fn write_user_maps(pid: u32) -> Result<Ids, HostError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let name = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name);
    let name = name.unwrap_or_default();
    let users = ids::subordinate("/etc/subuid", &name, uid.as_raw());
    let groups = ids::subordinate("/etc/subgid", &name, uid.as_raw());
    if let (Some((first_uid, uids)), Some((first_gid, gids))) = (users, groups) {
        let count = uids.min(gids).min(65_535);
        let mapped = map_with("newuidmap", pid, uid.as_raw(), first_uid, count).await;
        if let Ok(()) = mapped {
            map_with("newgidmap", pid, gid.as_raw(), first_gid, count).await?;
            return Ok(Ids::Fixed {
                count: count + 1,
                setgroups: true,
            });
        }
        tracing::warn!("newuidmap does not work; only one id inside");
    }
    let write = |name: &str, text: String| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        std::fs::write(&path, text).map_err(HostError::file("write", path))
    };
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("setgroups", "deny".into())?;
    write("gid_map", format!("0 {gid} 1\n"))?;
    Ok(Ids::Fixed {
        count: 1,
        setgroups: false,
    })
}

async fn map_with(tool: &str, pid: u32, own: u32, first: u32, count: u32) -> Result<(), HostError> {
    let arguments = [pid, 0, own, 1, 1, first, count].map(|number| number.to_string());
    let run = tokio::process::Command::new(tool)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = timeout(START_DEADLINE, run)
        .await
        .map_err(|_| HostError::TimedOut("writing id maps", START_DEADLINE.as_secs()))?
        .map_err(|e| HostError::IdMap(format!("{tool}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(HostError::IdMap(format!(
        "{tool}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
