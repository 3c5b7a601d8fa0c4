//! A native Linux sandbox for language-model agents, and the agent that lives in it.
//!
//! A sandbox is a set of namespaces over a shared, read-only image with a private writable layer: no daemon, no Docker, as root
//! or as an ordinary user. [`host::Sandbox`] runs programs and a persistent shell in it and reads and writes its files, through
//! the trait [`env::Env`]; [`agent::run`] lets a model work in any [`env::Env`]; [`image::Store`] holds the images.
//!
//! # Theory of operation
//!
//! - The host (the caller's program) never forks. [`host::Launcher::start`] starts it once more as a small single-threaded
//!   zygote with an empty environment: [`zygote_entry`] is what that second process runs.
//! - A [`spec::SandboxSpec`] says what a sandbox is like. The pure function [`plan::plan()`] turns it, and what the host has, into
//!   a list of steps.
//! - The zygote clones PID 1 of each sandbox into new namespaces. PID 1 carries the steps out, tells that it is ready, and then
//!   serves its host over a socket: programs, the shell, file operations.
//! - The host resolves no path of a sandbox and believes nothing that it says beyond its own messages, which are bounded and checked.
//! - Lifetime is the kernel's: with the host dies the zygote, with the zygote every PID 1, and with PID 1 all of its namespace.
//!   [`host::Sandbox::close`] ends one in order, proves that nothing is left, and tells what it used.
//! - Failures are of three kinds: what a command or file operation gave is data for the model, a dead sandbox fails its task, and a
//!   failure of the host is never shown to the model.
//!
//! # Example
//!
//! `examples/quickstart.rs` of the repository, which is also in its README:
//!
//! ```no_run
#![doc = include_str!("../examples/quickstart.rs")]
//! ```

use std::process::ExitCode;

pub mod agent;
pub mod bench;
pub mod cli;
pub mod env;
pub mod exit;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host;
pub mod hub;
pub mod image;
pub mod jail;
pub mod llm;
pub mod net;
pub mod outcome;
pub mod overhead;
pub mod packages;
pub mod plan;
pub mod policy;
pub mod reward;
pub mod settings;
pub mod spec;
pub mod sys;
pub mod task;
pub mod trajectory;
pub mod tree;
pub mod wire;

/// The life of the zygote, in the process that was started as one; nothing in every other.
///
/// A program that starts sandboxes calls this first in `main`, before it has a second thread, and exits with the code it gets.
/// One that cannot names another program in [`host::LauncherConfig`].
#[must_use]
pub fn zygote_entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != wire::ZYGOTE {
        return None;
    }
    let stage = arguments.next().unwrap_or_default();
    Some(ExitCode::from(jail::zygote_main(&stage.to_string_lossy())))
}
