//! The zygote as the host sees it: its start, the ids it gets, and what it is asked for.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::launcher::START_DEADLINE;
use super::link::{Answer, Answers, Link, peer_is_gone};
use super::{HostError, LauncherConfig, ids};
use crate::sys::channel::Channel;
use crate::sys::fork::{self, Forked, SingleThread, fork};
use crate::sys::mount;
use crate::wire::{FromZygote, Groundwork, Mounts, NetworkDevice, RequestId, ToZygote, ZYGOTE};

/// A tree of millions of files on a slow disk.
const REMOVE_DEADLINE: Duration = Duration::from_secs(600);

/// Which ids sandboxes get.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ids {
    /// Root: a range for each sandbox.
    Ranges,
    /// An ordinary user: what his zygote's namespace has.
    Fixed { count: u32, setgroups: bool },
}

/// A zygote before its first word. Dropping it ends it.
#[derive(Debug)]
pub struct ZygoteProcess {
    child: Child,
    control: Channel,
}

impl ZygoteProcess {
    /// Forks it from this process where that is as safe as a new program: see [`LauncherConfig::forked`]. The earlier the better:
    /// it prepares itself meanwhile, and a fork copies what there is by then. `main` is `jail::zygote_main`.
    #[must_use]
    pub fn fork(main: fn(&str) -> u8) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let thread = SingleThread::claim().ok()?;
        let (control, theirs) = Channel::pair().ok()?;
        match fork(thread).ok()? {
            Forked::Parent(pid) => {
                let pid = Pid::from_raw(pid);
                let _ = fork::keep_beside_us(pid);
                Some(Self {
                    child: Child {
                        pid,
                        one_shot: true,
                    },
                    control,
                })
            }
            Forked::Child => fork::finish(thread, theirs.as_fd(), || main("forked")),
        }
    }
}

/// A process of ours, which ends with this.
#[derive(Debug)]
struct Child {
    pid: Pid,
    one_shot: bool,
}

/// The zygote's process and the channel to it.
#[derive(Debug)]
pub(super) struct Zygote {
    // Ended before the channel is.
    child: Child,
    link: Link<FromZygote>,
    /// What it says of itself; of a failed start, why.
    greetings: Mutex<Answers<FromZygote>>,
}

impl Drop for Child {
    fn drop(&mut self) {
        // It holds nothing to save, and its death is what ends the sandboxes. Only we wait for it, so
        // that its number is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        // Its end takes the kernel 0.3 ms. A program for one sandbox ends now, and leaves it to init.
        if !self.one_shot {
            let _ = waitpid(self.pid, None);
        }
    }
}

impl Zygote {
    /// Starts its process. Root's prepares itself while we go on: what it is asked for waits in the
    /// socket, and so does the reason of a failed start. An ordinary user's has to be given its ids.
    pub(super) async fn start(
        config: &LauncherConfig,
        forked: Option<ZygoteProcess>,
        privileged: bool,
    ) -> Result<(Self, Ids), HostError> {
        let failed = |what| move |e| HostError::Zygote(what, e);
        // Where refusals are reported, all filters are one, and PID 1 installs it.
        let filtered = !config.report_refusals && !config.lacks("InheritedSeccomp");
        let ZygoteProcess { child, control } = match forked.filter(|_| privileged && filtered) {
            Some(forked) => forked,
            None => start_process(config, privileged, filtered)?,
        };
        let (link, greetings) =
            Link::new(control, request_id).map_err(failed("watch the zygote"))?;
        let zygote = Self {
            child,
            link,
            greetings: Mutex::new(greetings),
        };
        if privileged {
            return Ok((zygote, Ids::Ranges));
        }
        let ids = timeout(START_DEADLINE, zygote.greet())
            .await
            .map_err(|_| HostError::TimedOut("starting the zygote", START_DEADLINE.as_secs()))??;
        Ok((zygote, ids))
    }

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

    /// Maps an ordinary user's ids into its namespace, and waits until it serves.
    async fn greet(&self) -> Result<Ids, HostError> {
        let mut greetings = self.greetings.lock().await;
        match greetings.next().await.map(|answer| answer.message) {
            Some(FromZygote::NeedMaps { .. }) => {}
            other => return Err(at_start(other)),
        }
        let ids = write_user_maps(self.child.pid).await?;
        let send = self.link.send(&ToZygote::MapsWritten, &[]);
        send.await
            .map_err(|e| HostError::Zygote("talk to the zygote", e))?;
        match greetings.next().await.map(|answer| answer.message) {
            Some(FromZygote::Ready) => Ok(ids),
            other => Err(at_start(other)),
        }
    }

    /// Why it answers no more.
    async fn gone(&self) -> HostError {
        // The link is at its end: what was said has arrived.
        let mut greetings = self.greetings.lock().await;
        let mut last = None;
        while let Some(answer) = greetings.next().await {
            last = Some(answer.message);
        }
        match last {
            // One that greets nobody says nothing but why it could not start.
            None if self.child.one_shot => HostError::ZygoteGone("is gone".into()),
            last => at_start(last),
        }
    }

    /// Has it begin a sandbox; [`Self::begun`] takes what it says to that.
    pub(super) async fn begin(
        &self,
        groundwork: Groundwork,
        control: &Channel,
        cgroup: &Cgroup,
        mounts: Option<Mounts>,
    ) -> Result<Answers<FromZygote>, HostError> {
        let (cgroup, entries) = cgroup
            .entry()
            .map_err(|e| HostError::Zygote("open the cgroup", e))?;
        let answers = self.link.open();
        let request = ToZygote::Begin {
            id: answers.id,
            groundwork,
            cgroup,
            mounts,
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(control.as_fd())
            .chain(entries.iter().map(AsFd::as_fd))
            .collect();
        self.request(&request, &fds).await?;
        Ok(answers)
    }

    /// Has networks made ahead with such a device. One that is gone says so at the first sandbox.
    pub(super) async fn prepare(&self, device: NetworkDevice) {
        let device = Some(device);
        let _ = self.link.send(&ToZygote::Prepare { device }, &[]).await;
    }

    /// The pid of a sandbox's PID 1, a handle on it, and the network device that was made for it.
    pub(super) async fn begun(
        &self,
        answers: &mut Answers<FromZygote>,
    ) -> Result<(i32, OwnedFd, Option<OwnedFd>), HostError> {
        match answers.next().await {
            Some(Answer {
                message: FromZygote::Begun { pid, .. },
                fds,
            }) => {
                let mut fds = fds.into_iter();
                match fds.next() {
                    Some(pidfd) => Ok((pid, pidfd, fds.next())),
                    None => Err(HostError::ZygoteGone("sent no pidfd".into())),
                }
            }
            Some(Answer {
                message: FromZygote::SpawnFailed { failure, .. },
                ..
            }) => Err(HostError::Setup(failure)),
            Some(other) => Err(HostError::ZygoteGone(format!("said {:?}", other.message))),
            None => Err(self.gone().await),
        }
    }

    /// Has it give a sandbox its mounts. What fails there ends the sandbox.
    pub(super) async fn mount(&self, id: RequestId, mounts: &Mounts) -> Result<(), HostError> {
        let mounts = mounts.clone();
        self.request(&ToZygote::Mount { id, mounts }, &[]).await
    }

    async fn request(&self, request: &ToZygote, fds: &[BorrowedFd<'_>]) -> Result<(), HostError> {
        match self.link.send(request, fds).await {
            Ok(()) => Ok(()),
            // A zygote that lives goes on greeting: its last words would never come.
            Err(error) if peer_is_gone(&error) => Err(self.gone().await),
            Err(error) => Err(HostError::Zygote("talk to the zygote", error)),
        }
    }
}

/// Waits until the zygote has waited for a sandbox; gives its CPU time.
pub(super) async fn ended(exit: &mut Answers<FromZygote>) -> Result<Duration, HostError> {
    match exit.next().await.map(|answer| answer.message) {
        Some(FromZygote::Exited { cpu_us, .. }) => Ok(Duration::from_micros(cpu_us)),
        _ => Err(HostError::ZygoteGone("is gone".into())),
    }
}

/// The failure in what it said of itself.
fn at_start(said: Option<FromZygote>) -> HostError {
    match said {
        Some(FromZygote::SpawnFailed { failure, .. }) => HostError::Setup(failure),
        Some(FromZygote::Ready) => HostError::ZygoteGone("is gone".into()),
        Some(other) => HostError::ZygoteGone(format!("said {other:?}")),
        None => HostError::ZygoteGone("ended at its start".into()),
    }
}

/// Which request a message belongs to; 0 for what it says of itself.
fn request_id(message: &FromZygote) -> RequestId {
    match message {
        FromZygote::NeedMaps { .. } | FromZygote::Ready => 0,
        FromZygote::SpawnFailed { id, .. } => id.unwrap_or(0),
        FromZygote::Begun { id, .. }
        | FromZygote::Removed { id, .. }
        | FromZygote::Exited { id, .. } => *id,
    }
}

/// Starts the program as zygote.
fn start_process(
    config: &LauncherConfig,
    privileged: bool,
    filtered: bool,
) -> Result<ZygoteProcess, HostError> {
    let failed = |e| HostError::Zygote("start the zygote", e);
    // Without this a program that is not prepared would start itself again and again.
    if config.program.is_none() && std::env::args_os().nth(1).is_some_and(|a| a == ZYGOTE) {
        return Err(HostError::NotHooked);
    }
    let program = config
        .program
        .clone()
        .unwrap_or_else(|| "/proc/self/exe".into());
    // Root can show the zygote a read-only program at once; others' zygotes see to it themselves.
    let (bind, enter) = if privileged {
        (read_only(&program).ok(), "enter-host")
    } else {
        (None, "enter-user")
    };
    let path = bind.as_ref().map_or(program, |bind| {
        format!("/proc/self/fd/{}", bind.as_raw_fd()).into()
    });
    let stage = if filtered { "" } else { ":unfiltered" };
    let (control, stdin) = Channel::pair().map_err(failed)?;
    let child = Command::new(path)
        .args([ZYGOTE, &format!("{enter}{stage}")])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(stdin)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(ZygoteProcess {
        child: Child {
            pid: Pid::from_raw(child.id().cast_signed()),
            one_shot: false,
        },
        control,
    })
}

/// A detached, read-only bind of a program.
fn read_only(program: &Path) -> std::io::Result<OwnedFd> {
    let bind = mount::clone_tree(File::open(program)?.as_fd(), c"")?;
    mount::set_attributes(bind.as_fd(), mount::RDONLY | mount::NOSUID | mount::NODEV)?;
    Ok(bind)
}

/// Maps an ordinary user's ids into his zygote's namespace: all of `/etc/subuid` through
/// `newuidmap`, or his own alone.
async fn write_user_maps(pid: Pid) -> Result<Ids, HostError> {
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

async fn map_with(tool: &str, pid: Pid, own: u32, first: u32, count: u32) -> Result<(), HostError> {
    let numbers = [0, own, 1, 1, first, count].map(|number| number.to_string());
    let arguments = std::iter::once(pid.to_string()).chain(numbers);
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
