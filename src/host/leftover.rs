//! What of a sandbox is still there after its end, counted rather than assumed.
//!
//! [`Trail::quick`] costs some system calls: the kernel ends a pid namespace only after its last
//! process, removes a cgroup only without one, and mounts, terminals and the network live no longer
//! than what holds them. [`Trail::thorough`] believes nothing of that and looks at every process.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::HostError;
use super::cgroup::Cgroup;
use crate::outcome::LeftBehind;

/// By what the parts of one sandbox are known.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// Its name: the last part of its directories and cgroups.
    id: String,
    directories: Vec<PathBuf>,
    /// First and one past the last id of its users, where it has a range of its own.
    ids: Option<(u32, u32)>,
    /// `net:[…]`, where it has one of its own that we may see.
    network: Option<String>,
    /// Device number of its terminals; 0 for none.
    terminals: u64,
}

impl Trail {
    /// Of a sandbox that still runs, for [`Self::thorough`] with the network of its PID 1.
    pub(super) fn new(id: &str, directories: Vec<PathBuf>, ids: Option<(u32, u32)>) -> Self {
        Self {
            id: id.to_owned(),
            directories,
            ids,
            network: None,
            terminals: 0,
        }
    }

    /// Learns of its terminals, and of the network of its PID 1, which an ordinary user may not see.
    pub(super) fn learn(&mut self, init: i32, terminals: u64) {
        self.terminals = terminals;
        let own = link("/proc/self/ns/net");
        self.network =
            link(&format!("/proc/{init}/ns/net")).filter(|net| Some(net) != own.as_ref());
    }

    /// Without looking at other processes.
    pub(super) fn quick(&self, init: Option<&OwnedFd>, cgroup: &Cgroup) -> LeftBehind {
        let (cgroups, in_cgroups) = cgroup.left();
        let running = init.is_some_and(|pidfd| !has_ended(pidfd));
        LeftBehind {
            processes: in_cgroups.max(u64::from(running)),
            cgroups,
            directories: self.directories.iter().filter(|d| there(d)).count() as u64,
            ..LeftBehind::default()
        }
        .summed()
    }

    /// With a look at every process, mount and terminal that this user may see.
    pub(super) fn thorough(&self, quick: LeftBehind) -> LeftBehind {
        let mut networks = BTreeSet::new();
        let mut processes = 0;
        for pid in pids() {
            let network = link(&format!("/proc/{pid}/ns/net"));
            let shares = network.is_some() && network == self.network;
            if shares {
                networks.extend(network);
            }
            if (shares || self.owns(pid)) && lives(pid) {
                processes += 1;
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        LeftBehind {
            processes: quick.processes.max(processes),
            mounts: mounts
                .lines()
                .filter(|line| line.contains(&self.id))
                .count() as u64,
            network_namespaces: networks.len() as u64,
            terminals: open_on(self.terminals),
            ..quick
        }
        .summed()
    }

    /// A process in a cgroup of its name, or with an id of its range.
    fn owns(&self, pid: i32) -> bool {
        if in_cgroup(pid, |name| name == self.id) {
            return true;
        }
        let (Some((first, end)), Ok(status)) =
            (self.ids, fs::read_to_string(format!("/proc/{pid}/status")))
        else {
            return false;
        };
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let mut uids = uids.unwrap_or_default().split_whitespace();
        uids.any(|uid| {
            uid.parse()
                .is_ok_and(|uid: u32| (first..end).contains(&uid))
        })
    }
}

/// It is in a cgroup of such a name.
pub(super) fn in_cgroup(pid: i32, named: impl Fn(&str) -> bool) -> bool {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut names = cgroups.lines().filter_map(|line| line.rsplit('/').next());
    names.any(named)
}

pub(super) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Descriptors of this program on files of a device.
fn open_on(device: u64) -> u64 {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let on_it = |path: &Path| fs::metadata(path).is_ok_and(|file| file.dev() == device);
    let found = entries.filter(|entry| device != 0 && on_it(&entry.path()));
    found.count() as u64
}

/// One that ended and waits for its parent holds nothing any more.
pub(super) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

pub(super) fn link(path: &str) -> Option<String> {
    Some(fs::read_link(path).ok()?.to_string_lossy().into_owned())
}

/// A link that leads nowhere is there, too.
pub(super) fn there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Waits until a process, as the last of its pid namespace, has ended.
pub(super) async fn ended(pidfd: BorrowedFd<'_>) -> Result<(), HostError> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the descriptor outlives it"
    )]
    let watched = AsyncFd::with_interest(pidfd, Interest::READABLE);
    let failed = |e| HostError::Zygote("watch the end of a sandbox", e);
    let _ = watched.map_err(failed)?.readable().await.map_err(failed)?;
    Ok(())
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted() {
        let temporary = tempfile::tempdir().unwrap();
        let gone = temporary.path().join("gone");
        let there = temporary.path().join("there");
        std::os::unix::fs::symlink("/nonexistent", &there).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let uid = nix::unistd::getuid().as_raw();
        let trail = |directories, ids| Trail::new("no-such-id-47", directories, ids);
        let cgroup = Cgroup::default();

        let clean = trail(vec![gone.clone()], None);
        assert_eq!(
            clean.thorough(clean.quick(None, &cgroup)),
            LeftBehind::default()
        );

        let dirty = trail(vec![gone, there], Some((uid, uid + 1)));
        assert!(dirty.owns(pid) && lives(pid));
        let left = dirty.thorough(dirty.quick(None, &cgroup));
        assert!(left.processes >= 1, "{left:?}");
        assert_eq!((left.directories, left.total), (1, left.processes + 1));

        let mut connected = trail(Vec::new(), None);
        connected.network = link("/proc/self/ns/net");
        let left = connected.thorough(LeftBehind::default());
        assert_eq!(left.network_namespaces, 1);
        // Its own network is not known as a sandbox's.
        let file = fs::File::open("/proc/version").unwrap();
        connected.learn(pid, file.metadata().unwrap().dev());
        assert_eq!(connected.network, None);
        assert!(connected.thorough(LeftBehind::default()).terminals >= 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!lives(pid));
    }
}
