//! Landlock, `landlock(7)`: rights that a process gives up for itself and its children.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Making character devices.
pub const MAKE_CHAR: u64 = 1 << 6;
/// Making block devices.
pub const MAKE_BLOCK: u64 = 1 << 11;
/// Renaming and linking from one directory into another (version 2).
pub const REFER: u64 = 1 << 13;
/// Binding and connecting TCP ports (version 4).
pub const TCP: u64 = 0b11;
/// Connecting to abstract sockets of others, and signalling others (version 6).
pub const SCOPES: u64 = 0b11;

/// `struct landlock_ruleset_attr` of version 6. Older kernels take it while what they do not know is 0.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, packed in the kernel's header.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Version of the kernel's interface; 0 where there is none.
#[must_use]
pub fn version() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Gives up `files` and `network` rights but for `allowed` on files below `root`, and what `scoped`
/// names. Needs `no_new_privs`.
pub fn restrict(
    files: u64,
    network: u64,
    scoped: u64,
    root: BorrowedFd<'_>,
    allowed: u64,
) -> io::Result<()> {
    const RULE_PATH_BENEATH: i32 = 1;
    let attributes = Ruleset {
        files,
        network,
        scoped,
    };
    // SAFETY: the kernel reads as many bytes as are named.
    let ruleset = super::own(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<Ruleset>(),
            0,
        )
    })?;
    let rule = PathBeneath {
        allowed,
        parent: root.as_raw_fd(),
    };
    // SAFETY: the kernel reads one landlock_path_beneath_attr.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    })?;
    // SAFETY: integers only.
    super::check(unsafe {
        libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0)
    })?;
    Ok(())
}
