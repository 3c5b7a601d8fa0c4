//! The mount API of Linux 5.2 and later: mounts as descriptors, attached last.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC.cast_unsigned();
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NOEXEC: u64 = 0x8;
const IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// One option of a new file system.
#[derive(Debug, Clone, Copy)]
pub enum FsOption<'a> {
    /// A word.
    Flag(&'a CStr),
    /// A key and its value.
    Value(&'a CStr, &'a CStr),
}

/// Makes a file system and a detached mount of it.
pub fn new_fs(fstype: &CStr, options: &[FsOption<'_>], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: a C string and an integer.
    let context =
        super::own(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })?;
    for option in options {
        configure(context.as_fd(), *option)?;
    }
    // SAFETY: CMD_CREATE takes neither key nor value.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    })?;
    // SAFETY: integers only.
    super::own(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

fn configure(context: BorrowedFd<'_>, option: FsOption<'_>) -> io::Result<()> {
    let (command, key, value) = match option {
        FsOption::Flag(key) => (FSCONFIG_SET_FLAG, key, std::ptr::null()),
        FsOption::Value(key, value) => (FSCONFIG_SET_STRING, key, value.as_ptr()),
    };
    // SAFETY: key and value are C strings that live through the call.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key.as_ptr(),
            value,
            0,
        )
    })?;
    Ok(())
}

/// A detached bind of what `at` (a descriptor) or `path` below it names, its submounts left out.
pub fn clone_tree(at: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let empty = if path.is_empty() {
        libc::AT_EMPTY_PATH.cast_unsigned()
    } else {
        0
    };
    // SAFETY: a C string and integers.
    super::own(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            at.as_raw_fd(),
            path.as_ptr(),
            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | empty,
        )
    })
}

/// Sets attributes of one mount.
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_attr(
        mount,
        &MountAttr {
            attr_set: set,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        },
    )
}

/// Shows the files of a detached mount with the ids of `user_namespace` (Linux 5.12).
pub fn set_idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    set_attr(
        mount,
        &MountAttr {
            attr_set: IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
        },
    )
}

fn set_attr(mount: BorrowedFd<'_>, attributes: &MountAttr) -> io::Result<()> {
    // SAFETY: an empty path, and a mount_attr of the size passed.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Attaches a detached mount to what the descriptor `target` names.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: empty paths and integers.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}
