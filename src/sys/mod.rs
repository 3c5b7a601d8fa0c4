//! System calls that nix does not wrap, each behind a safe function; the only `unsafe` of the project.
#![allow(
    unsafe_code,
    reason = "this module exists to contain it; the tidy test keeps it here"
)]

pub mod channel;
pub mod fork;
pub mod landlock;
pub mod loopdev;
pub mod mount;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod tun;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Turns a raw system call result into a value or the thread's errno.
fn check(result: libc::c_long) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Takes ownership of a descriptor that a system call has just returned.
fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd: RawFd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
