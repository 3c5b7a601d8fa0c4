//! Which system calls are refused, and how: data that PID 1 makes filters of and the host explains.
//!
//! Pure: no file, no system call. Each table has one answer.
//!
//! | table | installed by | answer |
//! |---|---|---|
//! | [`FAMILIES`] | the zygote, inherited | `EAFNOSUPPORT` |
//! | [`DENIED`] | the zygote, inherited | `EPERM` |
//! | `clone3` and what [`is_known`] does not know | PID 1, first | `ENOSYS` |
//! | [`SETUP_ONLY`] | PID 1 | `EPERM` |
//! | [`STRICT_FAMILIES`], with `strict` | PID 1 | `EAFNOSUPPORT` |
//! | [`STRICT`] and the names of a file | PID 1 | `EPERM` |
//!
//! `clone3` has its flags in memory, where no filter can see them: glibc falls back to `clone` on
//! `ENOSYS`, and only on that. Calls of foreign architectures kill the process, in every filter.

mod rules;

use libc::c_long;

pub use rules::{DENIED, FAMILIES, KNOWN, SETUP_ONLY, STRICT, STRICT_FAMILIES};

/// `clone3`, on every architecture.
pub const CLONE3: u32 = 435;

/// A test of one argument, as 32 bits: every argument that we test is an `int` to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// It has this value.
    Is(u32),
    /// It has another value.
    Not(u32),
    /// The bits of the first number have the value of the second.
    Bits(u32, u32),
}

impl Test {
    fn holds(self, argument: u64) -> bool {
        let argument = u32::try_from(argument & 0xffff_ffff).unwrap_or(0);
        match self {
            Self::Is(value) => argument == value,
            Self::Not(value) => argument != value,
            Self::Bits(mask, value) => argument & mask == value,
        }
    }
}

/// Calls that are refused when every test holds; without tests, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What a report calls it.
    pub name: &'static str,
    /// Numbers of the calls.
    pub calls: &'static [c_long],
    /// Number of the argument, and its test.
    pub when: &'static [(u8, Test)],
}

impl Rule {
    const fn always(name: &'static str, calls: &'static [c_long]) -> Self {
        Self {
            name,
            calls,
            when: &[],
        }
    }

    fn refuses(&self, call: c_long, arguments: &[u64; 6]) -> bool {
        self.calls.contains(&call)
            && self.when.iter().all(|(index, test)| {
                let argument = arguments.get(usize::from(*index));
                argument.is_some_and(|argument| test.holds(*argument))
            })
    }
}

/// A refusal: what the program is told, and the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refusal {
    /// Which error the call returns.
    pub errno: i32,
    /// Name of the rule.
    pub rule: &'static str,
}

/// What a sandbox with these additions answers to a call; `None` when it is let through.
///
/// Of several refusals the newest filter's counts, as in the kernel.
#[must_use]
pub fn refusal(strict: bool, also: &[u32], number: u32, arguments: &[u64; 6]) -> Option<Refusal> {
    let call = c_long::from(number);
    let refuse = |errno, rule| Some(Refusal { errno, rule });
    if number == CLONE3 {
        return refuse(libc::ENOSYS, "flags in memory: libc goes on with clone");
    }
    if !is_known(number) {
        return refuse(libc::ENOSYS, "calls newer than this program");
    }
    if also.contains(&number) {
        return refuse(libc::EPERM, "the profile's own list");
    }
    let tables = [
        (libc::EPERM, STRICT, strict),
        (libc::EAFNOSUPPORT, STRICT_FAMILIES, strict),
        (libc::EPERM, SETUP_ONLY, true),
        (libc::EPERM, DENIED, true),
        (libc::EAFNOSUPPORT, FAMILIES, true),
    ];
    let mut in_force = tables.iter().filter(|(_, _, on)| *on);
    in_force.find_map(|(errno, rules, _)| {
        let rule = rules.iter().find(|rule| rule.refuses(call, arguments))?;
        refuse(*errno, rule.name)
    })
}

/// Whether a number was a call when this was written. The x32 calls of x86-64 have bit 30 set in
/// their numbers and so are unknown.
#[must_use]
pub fn is_known(number: u32) -> bool {
    KNOWN
        .iter()
        .any(|(first, end)| (*first..*end).contains(&number))
}

/// The number of a call on this architecture.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let call: syscalls::Sysno = name.parse().ok()?;
    u32::try_from(call.id()).ok()
}

/// The name of a call.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?;
    syscalls::Sysno::new(index).map(|call| call.name())
}

/// What PID 1 serves with, and what every program begins and ends with: a profile that denies one of
/// these would give a sandbox that fails in ways of its own.
const NEEDED: &[&str] = &[
    "arch_prctl",
    "brk",
    "chdir",
    "clone",
    "close",
    "close_range",
    "dup2",
    "dup3",
    "execve",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "getdents64",
    "ioctl",
    "kill",
    "lseek",
    "mkdirat",
    "mknodat",
    "mmap",
    "mprotect",
    "munmap",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "read",
    "recvmsg",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "seccomp",
    "sendmsg",
    "setsid",
    "signalfd4",
    "unlinkat",
    "wait4",
    "write",
    "writev",
];

/// Whether a sandbox cannot do without a call.
#[must_use]
pub fn is_needed(name: &str) -> bool {
    NEEDED.contains(&name)
}

#[cfg(test)]
mod tests;
