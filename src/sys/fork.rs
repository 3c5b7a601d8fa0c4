//! Creating processes: `clone3` for sandboxes, `fork` for what runs inside them.
//!
//! A child of a single-threaded process may go on as an ordinary Rust program: no lock can be
//! held by a thread that does not exist in the child. [`SingleThread`] is the proof of that.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Proof that this process has one thread. Only the zygote and its children own one.
#[derive(Debug, Clone, Copy)]
pub struct SingleThread(());

impl SingleThread {
    /// Looks at the kernel's count of our threads.
    pub fn claim() -> io::Result<Self> {
        let threads = fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!(
                "{threads} threads run, one is allowed"
            )));
        }
        Ok(Self(()))
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked<T> {
    /// The new process.
    Child,
    /// The old one, with a handle on the new.
    Parent(T),
}

/// `struct clone_args` of linux/sched.h up to `cgroup` (v5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process in new namespaces.
#[derive(Debug)]
pub struct Cloned {
    /// Its id in our pid namespace.
    pub pid: i32,
    /// A handle that cannot be reused for another process.
    pub pidfd: OwnedFd,
}

/// `clone3(2)` with fork semantics, the `CLONE_NEW*` bits in `namespaces`, and a pidfd; into `cgroup` (v2, Linux 5.7) when given.
pub fn clone_into(
    _proof: SingleThread,
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Forked<Cloned>> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is a valid clone_args of the size passed; no stack is given, so the child goes on
    // with a copy of ours, which is sound because this process has one thread (`_proof`).
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match super::check(result)? {
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: on success CLONE_PIDFD has stored a new descriptor that only we know.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Cloned { pid, pidfd }))
        }
    }
}

/// `fork(2)`; the parent gets the child's pid.
pub fn fork(_proof: SingleThread) -> io::Result<Forked<i32>> {
    // SAFETY: with one thread (`_proof`) the child may go on as an ordinary program.
    match super::check(unsafe { libc::fork() }.into())? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}
