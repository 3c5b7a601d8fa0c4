//! Deletes a tree that somebody hostile has made: any depth, any modes, odd names.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::beneath;

/// Deletes a directory and all that is below it, with three descriptors whatever its depth: a directory
/// that is not empty is moved up into the root of the tree before it is looked into. Follows no link and
/// crosses no mount. Nothing there is fine.
///
/// # Errors
///
/// What the kernel refuses, and when something is added all the while.
pub fn remove(root: &Path) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = match open(root, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0_u64;
    loop {
        let names = beneath::names(directory.try_clone()?)?;
        if names.is_empty() {
            return Ok(unlinkat(AT_FDCWD, root, UnlinkatFlags::RemoveDir)?);
        }
        for name in names {
            flatten(directory.as_fd(), &name, &mut moved)?;
        }
    }
}

/// Deletes `name`, and moves what it holds that cannot be deleted yet up into `root`.
fn flatten(root: BorrowedFd<'_>, name: &[u8], moved: &mut u64) -> io::Result<()> {
    if is_gone(root, name)? {
        return Ok(());
    }
    unlock(root, name)?;
    let child = beneath::open_directory(root, name)?;
    for below in beneath::names(child.try_clone()?)? {
        if is_gone(child.as_fd(), &below)? {
            continue;
        }
        loop {
            let place = format!("{moved}");
            *moved += 1;
            match renameat(&child, below.as_slice(), root, place.as_str()) {
                Ok(()) => break,
                // To move a directory is to write its `..`.
                Err(Errno::EACCES) => unlock(child.as_fd(), &below)?,
                // Somebody in the tree had that name.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    // A directory that is deleted while it is open waits for ext4's journal.
    drop(child);
    is_gone(root, name)?;
    Ok(())
}

/// Gives a directory of ours back to us. Not for what is mounted, nor through a link.
fn unlock(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let directory = beneath::open(
        parent,
        name,
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        Mode::empty(),
    )?;
    // fchmod(2) takes no O_PATH descriptor; its name in /proc is a link that nobody else can change.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Whether it could be deleted at once: all but a directory that holds something.
fn is_gone(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let deleted = match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        // POSIX has EPERM for a directory.
        Err(Errno::EISDIR | Errno::EPERM) => unlinkat(directory, name, UnlinkatFlags::RemoveDir),
        other => other,
    };
    match deleted {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::fcntl::openat;
    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn neither_depth_nor_modes_nor_names_keep_a_tree() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        fs::write(&outside, "stays").unwrap();
        fs::create_dir_all(root.join("0/1/2/shut")).unwrap();
        fs::write(root.join("1"), "a name that the moves use, too").unwrap();
        fs::write(root.join("0/1/2/shut/file"), "").unwrap();
        symlink(&outside, root.join("0/link")).unwrap();
        symlink(place.path(), root.join("0/1/links")).unwrap();
        let shut = fs::Permissions::from_mode(0o000);
        fs::set_permissions(root.join("0/1/2/shut"), shut).unwrap();
        // Deeper than a process has descriptors by default.
        let mut deepest = open(&root, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1500 {
            mkdirat(&deepest, "d", Mode::S_IRWXU).unwrap();
            deepest = openat(&deepest, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "stays");
        remove(&root).unwrap();
    }
}
