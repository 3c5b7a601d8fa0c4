//! The zygote as the host sees it: its start, the ids it gets, and what it is asked for.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::launcher::START_DEADLINE;
use super::link::{Answer, Answers, Link};
use super::{HostError, LauncherConfig, ids};
use crate::sys::channel::Channel;
use crate::sys::mount;
use crate::wire::{FromZygote, RequestId, SetupPlan, ToZygote, ZYGOTE};

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

/// The zygote's process and the channel to it.
#[derive(Debug)]
pub(super) struct Zygote {
    link: Link<FromZygote>,
    child: Mutex<Child>,
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

impl Zygote {
    /// Starts it and gives it its ids.
    pub(super) async fn start(config: &LauncherConfig) -> Result<(Self, Ids), HostError> {
        let failed = |what| move |e| HostError::Zygote(what, e);
        let (ours, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let link = Link::new(ours, request_id).map_err(failed("watch the zygote"))?;
        let mut greetings = link.open_as(0);
        let privileged = nix::unistd::geteuid().is_root();
        let child = spawn(config, theirs, privileged)?;
        let pid = child.id();
        let zygote = Self {
            link,
            child: Mutex::new(child),
        };
        let greeted = timeout(
            START_DEADLINE,
            zygote.greet(&mut greetings, pid, privileged),
        );
        let ids = greeted
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

    pub(super) async fn clone_sandbox(
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

/// Which request a message belongs to; 0 for what it says of itself.
fn request_id(message: &FromZygote) -> RequestId {
    match message {
        FromZygote::NeedMaps { .. } | FromZygote::Ready => 0,
        FromZygote::SpawnFailed { id, .. } => id.unwrap_or(0),
        FromZygote::Spawned { id, .. }
        | FromZygote::Removed { id, .. }
        | FromZygote::Exited { id, .. } => *id,
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
