//! `exec`: a new sandbox, one command, gone.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::error::CliError;
use super::sandbox::SandboxArgs;
use crate::env::{EnvError, ExitStatus};
use crate::exit;
use crate::host::{InForce, Sandbox, Spawn};
use crate::spec::Usage;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Kill the command after this many seconds and exit with 124.
    #[arg(long, value_name = "S", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Pass standard input on; it is empty otherwise.
    #[arg(short)]
    interactive: bool,
    /// Print status, usage and the limits in force as JSON on stdout, after the command's output on stderr.
    #[arg(long)]
    json: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    status: i32,
    timed_out: bool,
    usage: &'a Usage,
    limits: &'a InForce,
}

/// Runs it; gives the exit code of the program.
///
/// # Errors
/// The sandbox could not be started or ended; the command's own failure is no error.
pub(super) async fn exec(args: ExecArgs, state: Option<&Path>) -> Result<u8, CliError> {
    let started = args.sandbox.start(state, &args.command.join(" ")).await?;
    let sandbox = started.sandbox;
    let in_force = sandbox.in_force().clone();
    let result = run(
        &sandbox,
        args.command,
        args.interactive,
        args.json,
        args.timeout,
    )
    .await;
    let usage = sandbox.close().await?;
    let (status, timed_out) = result?;
    if args.json {
        let report = Report {
            status: status.code(),
            timed_out,
            usage: &usage,
            limits: &in_force,
        };
        super::output::json(&report)?;
    }
    let code = if timed_out {
        i32::from(exit::TIMED_OUT)
    } else {
        status.code()
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(exit::FAILED))
}

async fn run(
    sandbox: &Sandbox,
    argv: Vec<String>,
    interactive: bool,
    json: bool,
    limit: Option<Duration>,
) -> Result<(ExitStatus, bool), EnvError> {
    let failed = |e: io::Error| EnvError::Infrastructure(e.to_string());
    let (stdin, feed) = io::pipe().map_err(failed)?;
    let (out, stdout) = io::pipe().map_err(failed)?;
    let (err, stderr) = io::pipe().map_err(failed)?;
    if interactive {
        // A thread of its own, never joined: a read of the terminal cannot be broken off.
        std::thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut { feed }));
    } else {
        drop(feed);
    }
    let out = pump(out, if json { Target::Stderr } else { Target::Stdout });
    let err = pump(err, Target::Stderr);
    // From before the command begins: whoever sees it run may interrupt it.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut process = sandbox
        .spawn(Spawn {
            argv,
            env: Vec::new(),
            cwd: None,
            stdin: OwnedFd::from(stdin),
            stdout: OwnedFd::from(stdout),
            stderr: OwnedFd::from(stderr),
        })
        .await?;
    let ended = tokio::select! {
        ended = process.wait_at_most(limit) => ended,
        _ = interrupts.recv() => Ok((ExitStatus::Signal(libc::SIGINT), false)),
    };
    // What the command left behind may hold the pipes: kill it, then read to their ends.
    let _ = process.kill(libc::SIGKILL).await;
    for pumped in [out, err] {
        let _ = tokio::time::timeout(Duration::from_secs(1), pumped).await;
    }
    ended
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

enum Target {
    Stdout,
    Stderr,
}

/// Copies on a thread: the fastest way, and the only one for a stdout that blocks.
fn pump(mut from: impl Read + Send + 'static, to: Target) -> oneshot::Receiver<()> {
    let (done, finished) = oneshot::channel();
    std::thread::spawn(move || {
        let mut to: Box<dyn Write> = match to {
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
        };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let chunk = buffer.get(..count).unwrap_or_default();
            if to.write_all(chunk).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
    finished
}
