//! Seccomp filters whose refusals somebody hears of, `seccomp_unotify(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    id: u64,
    /// Its number.
    pub number: u32,
    /// Its arguments. Pointers mean nothing here, and their targets may change.
    pub arguments: [u64; 6],
}

/// Installs a filter for this process and its children; its `SECCOMP_RET_USER_NOTIF` goes to the
/// descriptor. A call that has been heard of waits for its answer, but for a signal that kills
/// (Linux 5.19): it is not counted twice.
pub fn install_with_listener(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the kernel copies the program, which it does not change.
    super::own(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

/// Takes the next call. The descriptor is readable when there is one; it may be gone again (`ENOENT`).
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Waiting> {
    // SAFETY: an all-zero seccomp_notif is a valid value, and the one that the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one seccomp_notif, whose size is part of the request's number.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    };
    super::check(result.into())?;
    Ok(Waiting {
        id: call.id,
        number: call.data.nr.cast_unsigned(),
        arguments: call.data.args,
    })
}

/// Refuses it. There is no way here to let a call go on: its arguments may have changed since.
pub fn refuse(listener: BorrowedFd<'_>, call: Waiting, errno: i32) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: -errno,
        flags: 0,
    };
    // SAFETY: the kernel reads one seccomp_notif_resp.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut response,
        )
    };
    super::check(result.into())?;
    Ok(())
}
