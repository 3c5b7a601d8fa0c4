//! Creating processes: `clone3` for sandboxes, `fork` for what runs inside them.
//!
//! A child of a single-threaded process may go on as an ordinary Rust program: no lock can be
//! held by a thread that does not exist in the child. [`SingleThread`] is the proof of that.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::process;

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

/// Keeps a child off our processor, where there is another. A scheduler that packs virtual processors leaves a new process behind its
/// parent, and any puts who is woken through a socket behind whoever wrote to it (`WF_SYNC`): it would run only when we wait, a fifth
/// of an `exec` later. What it clones is kept off, too, until [`run_beside_us`].
pub fn keep_beside_us(child: Pid) -> nix::Result<()> {
    let mut others = sched_getaffinity(child)?;
    others.unset(sched_getcpu()?)?;
    sched_setaffinity(child, &others)
}

/// Moves a child to another processor than ours, where there is one, and lets it run on `all` from then on.
pub fn run_beside_us(child: Pid, all: &CpuSet) -> nix::Result<()> {
    let mut others = *all;
    others.unset(sched_getcpu()?)?;
    // Refused where there is no other.
    let _ = sched_setaffinity(child, &others);
    sched_setaffinity(child, all)
}

/// Runs `main` in the child of a fork as a program of its own: control socket as standard input, no other
/// descriptor but /dev/null, and neither arguments nor environment of the program it comes from.
pub fn finish(_proof: SingleThread, stdin: BorrowedFd<'_>, main: impl FnOnce() -> u8) -> ! {
    let code = match prepare(stdin) {
        Ok(()) => main(),
        Err(_) => 70,
    };
    // SAFETY: ends this process without the destructors and exit handlers that are its parent's.
    unsafe { libc::_exit(code.into()) }
}

fn prepare(stdin: BorrowedFd<'_>) -> io::Result<()> {
    process::duplicate_to(stdin, 0)?;
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    process::duplicate_to(null.as_fd(), 1)?;
    process::duplicate_to(null.as_fd(), 2)?;
    forget_arguments()
}

/// Overwrites what `/proc/PID/cmdline` (which anybody may read) and `/proc/PID/environ` show.
fn forget_arguments() -> io::Result<()> {
    // At once: the kernel counts all anew for each piece that is read.
    let mut stat = [0; 4096];
    let length = fs::File::open("/proc/self/stat")?.read(&mut stat)?;
    let stat = String::from_utf8_lossy(stat.get(..length).unwrap_or_default());
    // proc_pid_stat(5): the name may hold anything, `)` included; arg_start is field 48, env_end 51.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut addresses = fields
        .split_whitespace()
        .skip(48 - 3)
        .take(4)
        .map(str::parse);
    let (Some(Ok(start)), Some(Ok(end))) = (addresses.next(), addresses.last()) else {
        return Err(io::Error::other("/proc/self/stat is not as expected"));
    };
    let length = usize::saturating_sub(end, start);
    let strings: *mut u8 = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the kernel tells where on the stack it put the strings of arguments and environment.
    // They stay strings, empty ones, for whoever looks at them in this process, which has one thread.
    unsafe { strings.write_bytes(0, length) };
    Ok(())
}
