//! What the zygote does for a PID 1 that it has cloned: ids, and mounts of host paths.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{failure, root};
use crate::sys::channel::{Channel, FDS_MAX};
use crate::sys::fork::Cloned;
use crate::sys::process::signal_pidfd;
use crate::wire::{IdMap, Mounts, SetupFailure};

/// A PID 1 that waits for its mounts. One for which something fails is killed.
#[derive(Debug)]
pub(super) struct Begun {
    ids: IdMap,
    user_namespace: File,
    channel: Channel,
    pidfd: OwnedFd,
}

impl Begun {
    /// Gives it its ids, without which it is nobody.
    pub(super) fn new(child: Cloned, ids: IdMap, channel: Channel) -> Result<Self, SetupFailure> {
        let Cloned { pid, pidfd } = child;
        let user_namespace = give_ids(pid, ids, &channel).inspect_err(|_| kill(&pidfd))?;
        Ok(Self {
            ids,
            user_namespace,
            channel,
            pidfd,
        })
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives it the mounts of host paths, which it cannot make itself; returns what has served.
    pub(super) fn give_mounts(&self, mounts: &Mounts) -> Result<Vec<OwnedFd>, SetupFailure> {
        self.hand_over(mounts).inspect_err(|_| kill(&self.pidfd))
    }

    fn hand_over(&self, mounts: &Mounts) -> Result<Vec<OwnedFd>, SetupFailure> {
        let (root, mut served) = root::prepare(
            &mounts.root,
            self.ids,
            self.user_namespace.as_fd(),
            mounts.layers,
        )?;
        let mut made = vec![root];
        if mounts.layers {
            made.extend(root::layers(&served).map_err(|e| failure("open the layers", &e))?);
        }
        for bind in &mounts.binds {
            made.push(root::bind(&bind.path)?);
        }
        for group in made.chunks(FDS_MAX) {
            let fds: Vec<_> = group.iter().map(AsFd::as_fd).collect();
            let sent = self.channel.send(b"mounts", &fds);
            sent.map_err(|e| failure("hand over mounts", &e))?;
        }
        served.extend(made);
        Ok(served)
    }
}

/// Opens its user namespace, too.
fn give_ids(pid: i32, ids: IdMap, channel: &Channel) -> Result<File, SetupFailure> {
    write_maps(pid, ids).map_err(|e| failure("write id maps", &e))?;
    let namespace = File::open(format!("/proc/{pid}/ns/user"));
    let namespace = namespace.map_err(|e| failure("open the user namespace", &e))?;
    let told = channel.send(b"maps", &[]);
    told.map_err(|e| failure("tell of the id maps", &e))?;
    Ok(namespace)
}

fn write_maps(pid: i32, ids: IdMap) -> io::Result<()> {
    let lines = match (ids.base, ids.count) {
        // A line must lie within one of the parent's: an ordinary user's own id is one of them, his
        // subordinate ids are the other (user_namespaces(7)).
        (0, 2..) => format!("0 0 1\n1 1 {}\n", ids.count - 1),
        (base, count) => format!("0 {base} {count}\n"),
    };
    fs::write(format!("/proc/{pid}/uid_map"), &lines)?;
    fs::write(format!("/proc/{pid}/gid_map"), &lines)
}

fn kill(pidfd: &OwnedFd) {
    let _ = signal_pidfd(pidfd.as_fd(), libc::SIGKILL);
}
