//! The only ways in which a tree is reached: from its descriptor, one name at a time or by openat2.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Opens `path` below `root` without following any link or crossing any mount; a link is `ELOOP`.
///
/// The empty path is the root itself.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(resolve);
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    loop {
        match openat2(root, path, how) {
            // The kernel gives up a walk that races a rename or mount; a retry is harmless (openat2(2)).
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Opens a directory below `root` for reading.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open(
        root,
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        Mode::empty(),
    )
}

/// The names in a directory, sorted by their bytes.
pub(super) fn names(directory: OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut directory = Dir::from_fd(directory)?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Deletes `name` in `directory` and everything below it, at most `depth` levels deep. Nothing there is fine.
pub(super) fn remove_tree(
    directory: BorrowedFd<'_>,
    name: &[u8],
    depth: usize,
) -> Result<(), Errno> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(other) => return Err(other),
    }
    let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    let child = open_directory(directory, name)?;
    for name in names(child.try_clone().map_err(|_| Errno::EMFILE)?)? {
        remove_tree(std::os::fd::AsFd::as_fd(&child), &name, depth)?;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)
}
