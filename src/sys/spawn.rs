//! Starting a program without a copy of the caller's memory.
//!
//! fork(2) copies page tables, and then parent and child fault in each page that they write: 0.13 ms of an exec of 1 ms.
//! Here the child shares the memory until it executes the program, as after vfork(2), and the caller waits: but not for ever.
//! Processes inside may stop the child, which would stop a caller of vfork(2) with it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use super::fork::SingleThread;
use super::process::{self, pointers};
use super::pty;

/// What is to run, and how.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths that are tried one after the other; with none there is nothing to execute (EINVAL).
    pub paths: &'a [CString],
    /// Its arguments, the first of which is its name.
    pub argv: &'a [CString],
    /// Its variables.
    pub env: &'a [CString],
    /// Its directory.
    pub directory: &'a CStr,
    /// Its standard streams, none of them 0, 1 or 2 itself, but that the first may be our own; all other descriptors are closed.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The terminal that becomes its controlling one.
    pub terminal: Option<BorrowedFd<'a>>,
}

/// A process that runs the program, or that ends with `code` because it cannot.
#[derive(Debug)]
pub struct Spawned {
    /// Leader of a session of its own.
    pub pid: i32,
    /// Why it does not run the program.
    pub failure: Option<Failure>,
}

/// Why a program does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Its streams or its terminal could not be given to it: errno.
    Streams(i32),
    /// Its directory could not be entered: errno.
    Directory(i32),
    /// None of the paths could be executed: errno.
    Program(i32),
    /// This path leads to an executable file of no format that the kernel knows.
    Format(usize),
}

/// As in sh: the program was found but could not be run.
const NOT_EXECUTABLE: i32 = 126;
/// As in sh: there is no such program.
const NOT_FOUND: i32 = 127;

/// Bytes of the child's stack; it takes some hundred.
const STACK: usize = 16 << 10;
/// How long a child may take to execute its program: one on a slow file system may. Less than the host waits for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What parent and child have in common.
struct Shared<'a> {
    program: &'a Program<'a>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// A [`Failure`]: which, and its number.
    kind: AtomicI32,
    number: AtomicI32,
}

/// Starts a program in a session of its own, with no signal blocked; what the calling process ignores stays ignored.
///
/// One that is kept from executing its program is killed after ten seconds, and no failure of its own.
///
/// # Errors
/// There is no room for one more process, or it could not be killed, either.
pub fn spawn(_proof: SingleThread, program: &Program<'_>) -> io::Result<Spawned> {
    #[repr(align(16))]
    struct Stack([u8; STACK]);
    let mut stack = Stack([0; STACK]);
    let shared = Shared {
        program,
        argv: pointers(program.argv),
        env: pointers(program.env),
        kind: AtomicI32::new(0),
        number: AtomicI32::new(0),
    };
    // The kernel clears it and wakes us when the child has another memory or none: clone(2), CLONE_CHILD_CLEARTID.
    let alive = Box::new(AtomicI32::new(1));
    // SAFETY: the end of the array, which is aligned to 16 as the ABI wants a stack to be.
    let top = unsafe { (&raw mut stack.0).cast::<u8>().add(STACK) };
    // SAFETY: `child` runs on a stack that nothing else uses. It makes system calls alone, takes no lock and no memory, and
    // writes only what is atomic: it may be killed anywhere. All that it sees lives until `await_program` says that it shares
    // our memory no more, or that it will never run again outside of the kernel; with one thread (`_proof`) nobody changes it.
    let pid = super::check(
        unsafe {
            libc::clone(
                child,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD,
                (&raw const shared).cast_mut().cast(),
                ptr::null_mut::<libc::pid_t>(),
                ptr::null_mut::<libc::c_void>(),
                alive.as_ptr(),
            )
        }
        .into(),
    )?;
    if let Err(error) = await_program(pid, &alive) {
        // One that hangs in the kernel clears it when it ends at last.
        Box::leak(alive);
        return Err(error);
    }
    let number = shared.number.load(Ordering::Acquire);
    let failure = match shared.kind.load(Ordering::Acquire) {
        STREAMS => Some(Failure::Streams(number)),
        DIRECTORY => Some(Failure::Directory(number)),
        PROGRAM => Some(Failure::Program(number)),
        FORMAT => Some(Failure::Format(usize::try_from(number).unwrap_or(0))),
        _ => None,
    };
    Ok(Spawned { pid, failure })
}

/// Waits until the child shares our memory no more.
fn await_program(pid: i32, alive: &AtomicI32) -> io::Result<()> {
    if gone_within(alive, DEADLINE) {
        return Ok(());
    }
    // It is our child and was not waited for: nobody else has its number.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    if gone_within(alive, DEADLINE) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the new process hangs in the kernel",
    ))
}

fn gone_within(alive: &AtomicI32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while alive.load(Ordering::Acquire) != 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let time = TimeSpec::from_duration(left);
        // SAFETY: FUTEX_WAIT reads the number and the time, which outlive the call; it returns for any reason, and we look again.
        // Not a private futex: the kernel's waking at the end of a child is not one.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                alive.as_ptr(),
                libc::FUTEX_WAIT,
                1,
                ptr::from_ref(time.as_ref()),
            )
        };
    }
    true
}

const STREAMS: i32 = 1;
const DIRECTORY: i32 = 2;
const PROGRAM: i32 = 3;
const FORMAT: i32 = 4;

/// The child: returns only when the program cannot be run.
extern "C" fn child(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: what `spawn` gave, which waits for us.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    let (kind, number) = become_program(shared);
    shared.number.store(number, Ordering::Release);
    shared.kind.store(kind, Ordering::Release);
    if (kind, number) == (PROGRAM, libc::ENOENT) {
        return NOT_FOUND;
    }
    NOT_EXECUTABLE
}

/// Of safe functions, each of which only makes a system call: signal-safety(7).
fn become_program(shared: &Shared<'_>) -> (i32, i32) {
    let program = shared.program;
    if let Err(error) = take_streams(program) {
        return (STREAMS, number(&error));
    }
    let _ = SigSet::empty().thread_set_mask();
    if let Err(errno) = nix::unistd::chdir(program.directory) {
        return (DIRECTORY, errno as i32);
    }
    let mut why = match program.paths {
        [] => libc::EINVAL,
        _ => libc::ENOENT,
    };
    for (path, index) in program.paths.iter().zip(0..) {
        // SAFETY: null-terminated arrays of C strings that outlive the call.
        unsafe { libc::execve(path.as_ptr(), shared.argv.as_ptr(), shared.env.as_ptr()) };
        match number(&io::Error::last_os_error()) {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::ENOEXEC => return (FORMAT, index),
            other => why = other,
        }
    }
    (PROGRAM, why)
}

fn take_streams(program: &Program<'_>) -> io::Result<()> {
    let _ = nix::unistd::setsid();
    if let Some(terminal) = program.terminal {
        pty::make_controlling(terminal)?;
    }
    for (fd, number) in program.stdio.iter().zip(0..) {
        process::duplicate_to(*fd, number)?;
    }
    process::close_from(3)
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
