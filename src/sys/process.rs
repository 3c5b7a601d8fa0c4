//! Descriptors, credentials and the like of the calling process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Closes every descriptor but those in `keep`.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_from(first)
}

/// Closes every descriptor from this number on.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: integers only. Closing descriptors that Rust values own is the caller's intent:
    // this is called right after a fork, where those values belong to the parent.
    super::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// `dup2(2)`: makes `to` another number of `from`, without close-on-exec.
pub fn duplicate_to(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: integers only; dup2 on itself would leave close-on-exec set.
        super::check(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }.into())?;
        return Ok(());
    }
    // SAFETY: integers only; the caller owns the number `to` of its own process.
    super::check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into())?;
    Ok(())
}

/// Runs the program behind a descriptor in place of this one.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: null-terminated arrays of C strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// The array that execve(2) wants, of the strings' own memory.
pub(super) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Joins a new, empty session keyring: keyrings are not namespaced.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<u8>(),
        )
    })?;
    Ok(())
}

/// Restores the default action of every signal and an empty mask, as a new program expects.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL needs no handler; the kernel refuses KILL, STOP and libc's own two.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Whether a signal is ignored, as nohup(1) does with SIGHUP for the program that it starts.
#[must_use]
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero sigaction is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action it only writes the present one.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// A file that would grow beyond `RLIMIT_FSIZE` is an error of write(2), not our end.
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN needs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Memory that was freed is kept for the next use, up to 64 MiB: for a program that takes and frees buffers all the time, as the
/// runner of an evaluation does. Else glibc gives the end of the heap back and asks for it again, with a fault for each page:
/// mallopt(3).
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (name, value) in [
        (libc::M_TRIM_THRESHOLD, 64 << 20),
        (libc::M_TOP_PAD, 1 << 20),
        // Setting the first one fixes this one, which would grow by itself.
        (libc::M_MMAP_THRESHOLD, 4 << 20),
    ] {
        // SAFETY: it only sets numbers of the allocator.
        unsafe { libc::mallopt(name, value) };
    }
}

/// Raises the limit of open files as far as it goes: a host holds several for each sandbox.
///
/// # Errors
/// That is not enough for anything.
pub fn raise_open_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const FEWEST: u64 = 20;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if hard < FEWEST {
        let why = format!("Too many open files: the limit (`ulimit -Hn`) is {hard}");
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// Sets the loopback interface of this network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = constant(libc::IFF_UP | libc::IFF_RUNNING);
    // SAFETY: SIOCSIFFLAGS reads the ifreq passed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    super::check(result.into())?;
    Ok(())
}

/// An anonymous file that holds `content` and can no longer be changed.
pub fn sealed_memfd(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::{Seek, Write};
    let mut file = std::fs::File::from(memfd_create(
        name,
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?);
    file.write_all(content)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file.into())
}

/// Being another effective user, with all capabilities; root again when dropped.
#[derive(Debug)]
pub struct ActingAs(());

impl Drop for ActingAs {
    fn drop(&mut self) {
        // It was ours a moment ago, and CAP_SETUID is still: this cannot fail.
        let _ = nix::unistd::seteuid(nix::unistd::Uid::from_raw(0));
    }
}

/// Root becomes `user` in all but rights: capabilities(7), `SECBIT_NO_SETUID_FIXUP`.
pub fn act_as(user: u32) -> io::Result<ActingAs> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: changes a flag of this thread's credentials, no memory.
    super::check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0) }.into())?;
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(user))?;
    let acting = ActingAs(());
    // Any change of ids clears it, and then /proc/PID of a child belongs to nobody but the kernel.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(acting)
}

/// A handle on a process, which becomes readable at its end: pidfd_open(2).
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    super::own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) })
}

/// Sends a signal through a pidfd: never to a process that has taken over its number.
pub fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo asks for the ordinary one.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    })?;
    Ok(())
}

/// Tries to take byte `index` of a lock file for this open file description; false when somebody holds it.
pub fn try_lock_byte(file: BorrowedFd<'_>, index: u32) -> io::Result<bool> {
    match set_lock(file, index, libc::F_WRLCK) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

/// Gives such a byte back.
pub fn unlock_byte(file: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    set_lock(file, index, libc::F_UNLCK)
}

fn set_lock(file: BorrowedFd<'_>, index: u32, kind: i32) -> io::Result<()> {
    // SAFETY: an all-zero flock is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = constant(kind);
    lock.l_whence = constant(libc::SEEK_SET);
    lock.l_start = i64::from(index);
    lock.l_len = 1;
    // SAFETY: F_OFD_SETLK reads the flock passed.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    super::check(result.into()).map(drop)
}

/// Takes the status of any child that has ended: its pid, `Ok(code)` or `Err(signal)`, and the CPU
/// time of it and of all that it waited for, in microseconds.
pub fn wait_any_child() -> Option<(i32, Result<i32, i32>, u64)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if pid <= 0 {
        return None;
    }
    let ended = if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Err(libc::WTERMSIG(status))
    };
    let micros = |t: libc::timeval| {
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0)
    };
    Some((pid, ended, micros(usage.ru_utime) + micros(usage.ru_stime)))
}

/// A constant of the kernel in the narrower type that a structure has for it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "flags and kinds of locks fit in 16 bits by the kernel's interface"
)]
pub(super) const fn constant(value: libc::c_int) -> libc::c_short {
    value as libc::c_short
}
