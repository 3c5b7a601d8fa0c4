//! The zygote's part of a sandbox's file system: mounts of host paths, still detached.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{Gid, Uid, fchownat};

use super::failure;
use crate::sys::mount::{
    FsOption, NODEV, NOEXEC, NOSUID, RDONLY, attach, clone_tree, new_fs, set_attributes, set_idmap,
};
use crate::wire::{IdMap, RootSource, SetupFailure, UpperSource};

/// The mount that becomes `/`, and mounts that have served.
pub(super) fn prepare(
    root: &RootSource,
    ids: IdMap,
    namespace: BorrowedFd<'_>,
    layers: bool,
) -> Result<(OwnedFd, Vec<OwnedFd>), SetupFailure> {
    match root {
        RootSource::Writable(directory) => {
            let tree = shifted(directory, ids, namespace)?;
            set_attributes(tree.as_fd(), NODEV | NOSUID)
                .map_err(|e| failure("restrict the root mount", &e))?;
            Ok((tree, Vec::new()))
        }
        RootSource::Overlay {
            lower,
            upper,
            user_xattr,
        } => {
            let tree = shifted(lower, ids, namespace)?;
            let upper = upper_layer(upper, ids)?;
            let attached = if takes_detached_layers() {
                None
            } else {
                let layers = Attached::new(lower, tree.as_fd(), upper.as_fd());
                Some(layers.map_err(|e| failure("attach the layers", &e))?)
            };
            let overlay = overlay(tree.as_fd(), upper.as_fd(), *user_xattr)
                .map_err(|e| failure("mount the overlay", &e))?;
            if layers {
                // Nothing to the overlay, which has clones of its own. While they are attached: a mount that is
                // no more cannot be changed (EINVAL).
                for layer in [&tree, &upper] {
                    set_attributes(layer.as_fd(), RDONLY | NODEV | NOSUID | NOEXEC)
                        .map_err(|e| failure("make the layers read-only", &e))?;
                }
            }
            drop(attached);
            Ok((overlay, vec![tree, upper]))
        }
    }
}

/// The upper and the lower layer of an overlay as directories to read, given the mounts that [`prepare`] has left.
/// With its `layers`, so that nothing can be written through them.
pub(super) fn layers(served: &[OwnedFd]) -> io::Result<[OwnedFd; 2]> {
    let [lower, upper] = served else {
        return Err(io::Error::other("the root has no layers"));
    };
    let directory = |mount: &OwnedFd, name| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok::<_, io::Error>(openat(mount, name, flags, Mode::empty())?)
    };
    Ok([directory(upper, "upper")?, directory(lower, ".")?])
}

/// A read-only mount of one host path, for a bind.
pub(super) fn bind(path: &Path) -> Result<OwnedFd, SetupFailure> {
    let step = || format!("bind {}", path.display());
    let source = open_path(path).map_err(|e| failure(step(), &e))?;
    let mount = clone_tree(source.as_fd(), c"").map_err(|e| failure(step(), &e))?;
    set_attributes(mount.as_fd(), RDONLY | NODEV | NOSUID).map_err(|e| failure(step(), &e))?;
    Ok(mount)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A detached mount of a tree whose files appear with the ids of the sandbox.
fn shifted(path: &Path, ids: IdMap, namespace: BorrowedFd<'_>) -> Result<OwnedFd, SetupFailure> {
    let step = || format!("open {}", path.display());
    let source = open_path(path).map_err(|e| failure(step(), &e))?;
    let tree = clone_tree(source.as_fd(), c"").map_err(|e| failure(step(), &e))?;
    if ids.shift_files {
        set_idmap(tree.as_fd(), namespace)
            .map_err(|e| failure(format!("map the ids of {}", path.display()), &e))?;
    }
    Ok(tree)
}

/// Before Linux 6.15 overlayfs refuses layers that are attached nowhere (EINVAL, from `clone_private_mount`).
fn takes_detached_layers() -> bool {
    let release = nix::sys::utsname::uname();
    let release = release.as_ref().map(|r| r.release().to_string_lossy());
    let mut numbers = release.iter().flat_map(|r| r.split(['.', '-']));
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    (next(), next()) >= (Some(6), Some(15))
}

/// The layers of an overlay for as long as it is made, in the zygote's own mount namespace; the overlay
/// keeps clones of them. No sandbox is cloned meanwhile, so none sees them.
struct Attached<'a>([BorrowedFd<'a>; 2]);

impl<'a> Attached<'a> {
    fn new(place: &Path, lower: BorrowedFd<'a>, upper: BorrowedFd<'a>) -> io::Result<Self> {
        attach(lower, open_path(place)?.as_fd())?;
        let attached = Self([upper, lower]);
        attach(upper, lower)?;
        Ok(attached)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // The upper first: a path to the lower leads to what is mounted on it.
        for layer in self.0 {
            let path = format!("/proc/self/fd/{}", layer.as_raw_fd());
            let _ = umount2(path.as_str(), MntFlags::MNT_DETACH);
        }
    }
}

/// A directory that holds `upper` and `work`, owned by the sandbox's root.
fn upper_layer(source: &UpperSource, ids: IdMap) -> Result<OwnedFd, SetupFailure> {
    let directory = match source {
        UpperSource::Directory(path) => {
            let step = || format!("open {}", path.display());
            let source = open_path(path).map_err(|e| failure(step(), &e))?;
            clone_tree(source.as_fd(), c"").map_err(|e| failure(step(), &e))?
        }
        UpperSource::Device(path) => {
            ext4(path).map_err(|e| failure(format!("mount {}", path.display()), &e))?
        }
        UpperSource::Tmpfs { bytes, inodes } => {
            tmpfs(*bytes, *inodes).map_err(|e| failure("make the writable layer", &e))?
        }
    };
    for name in ["upper", "work"] {
        make_owned(directory.as_fd(), name, ids)
            .map_err(|e| failure(format!("make the overlay's {name} directory"), &e))?;
    }
    Ok(directory)
}

fn ext4(device: &Path) -> io::Result<OwnedFd> {
    let source = CString::new(device.as_os_str().as_bytes())?;
    new_fs(
        c"ext4",
        &[FsOption::Value(c"source", &source)],
        NODEV | NOSUID,
    )
}

fn tmpfs(bytes: u64, inodes: u64) -> io::Result<OwnedFd> {
    let size = CString::new(bytes.to_string())?;
    let count = CString::new(inodes.to_string())?;
    new_fs(
        c"tmpfs",
        &[
            FsOption::Value(c"size", &size),
            FsOption::Value(c"nr_inodes", &count),
            FsOption::Value(c"mode", c"0700"),
        ],
        NODEV | NOSUID,
    )
}

fn make_owned(directory: BorrowedFd<'_>, name: &str, ids: IdMap) -> io::Result<()> {
    mkdirat(directory, name, Mode::from_bits_truncate(0o755))?;
    fchownat(
        directory,
        name,
        Some(Uid::from_raw(ids.base)),
        Some(Gid::from_raw(ids.base)),
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

/// Overlays the two. `volatile`: an upper is never used twice, so no unmount has to wait for a sync.
fn overlay(lower: BorrowedFd<'_>, upper: BorrowedFd<'_>, user_xattr: bool) -> io::Result<OwnedFd> {
    let path = |fd: BorrowedFd<'_>, name: &str| {
        CString::new(format!("/proc/self/fd/{}{name}", fd.as_raw_fd()).as_bytes())
    };
    let (lower, upper, work) = (
        path(lower, "")?,
        path(upper, "/upper")?,
        path(upper, "/work")?,
    );
    let mut options = vec![
        FsOption::Value(c"lowerdir", &lower),
        FsOption::Value(c"upperdir", &upper),
        FsOption::Value(c"workdir", &work),
        FsOption::Flag(c"volatile"),
    ];
    if user_xattr {
        options.push(FsOption::Flag(c"userxattr"));
    }
    let mount = new_fs(c"overlay", &options, NODEV | NOSUID)?;
    // With an upper that it cannot use, overlayfs mounts read-only and says so only in the kernel log.
    if fstatvfs(&mount)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(io::Error::other("the kernel made the overlay read-only"));
    }
    Ok(mount)
}
