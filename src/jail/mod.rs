//! What runs in other processes than the host's: the zygote and, in each sandbox, PID 1.
//!
//! # Theory of operation
//!
//! ```text
//! host ──stdin socket──▶ zygote ──clone3──▶ PID 1 of a sandbox ──fork──▶ commands, shell, file operations
//!   └───────────── control socket of each sandbox ──────┘
//! ```
//!
//! The host starts the zygote once, as this same program with the argument `__zygote`; the zygote
//! moves into a mount namespace (and, for an ordinary user, a user namespace) of its own, starts the
//! program again from a read-only bind of it, and then clones every sandbox from itself. A clone is
//! not followed by an exec: PID 1 runs this code, carries out its plan, and serves its host until
//! either end of the control socket closes.
//!
//! Lifetime is the kernel's business. The zygote ends when its socket reports the end of the host;
//! PID 1 ends by `PDEATHSIG` when the zygote does, and when its own control socket closes; with
//! PID 1 the kernel kills its pid namespace, and the last process takes mounts and namespaces along.
//!
//! Each of these processes has one thread, an empty environment and no secret. They do not log: what
//! goes wrong is said on the socket. Nothing here may panic; a failure is a value.
#![deny(clippy::indexing_slicing)]

mod apply;
mod begun;
mod effects;
mod exec;
mod files;
mod init;
mod networks;
mod processes;
mod root;
mod seccomp;
mod shell;
mod used_up;
mod zygote;

pub use zygote::main as zygote_main;

use std::io;

use crate::wire::{SetupFailure, Step};

/// A failed step, as a value that travels.
fn failure(step: impl Into<String>, error: &io::Error) -> SetupFailure {
    SetupFailure {
        step: Step(step.into()),
        error: error.to_string(),
        errno: error.raw_os_error(),
    }
}
