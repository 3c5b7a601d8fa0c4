//! `exec`: a new sandbox, one command, gone.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::error::CliError;
use super::sandbox::{SandboxArgs, keyless_launcher_config};
use super::sanitize::{Filter, Filtered};
use super::signals::Signals;
use crate::env::{EnvError, ExitStatus};
use crate::exit;
use crate::host::{InForce, LauncherConfig, Process, Refused, Sandbox, Spawn, Walls};
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
    /// Tell at the end which system calls were refused, and by which rule.
    #[arg(long)]
    seccomp_log: bool,
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
    walls: &'a Walls,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a [Refused]>,
}

/// Runs it; gives the exit code of the program.
///
/// # Errors
/// The sandbox could not be started or ended; the command's own failure is no error.
pub(super) async fn exec(args: ExecArgs, state: Option<&Path>) -> Result<u8, CliError> {
    let purpose = args.command.join(" ");
    let config = LauncherConfig {
        report_refusals: args.seccomp_log,
        ..keyless_launcher_config()
    };
    let start = args.sandbox.start(state, &purpose, config);
    let mut signals = Signals::listen().map_err(host_failed)?;
    let started = match signals.unless(state, Box::pin(start)).await {
        Ok(started) => started?,
        Err(code) => return Ok(code),
    };
    let sandbox = started.sandbox;
    let (mut process, pumps) = spawn(&sandbox, args.command, args.interactive, args.json).await?;
    let ended = tokio::select! {
        ended = process.wait_at_most(args.timeout) => ended,
        code = signals.next() => Ok((ExitStatus::Signal(i32::from(code) - 128), false)),
    };
    let limits = args.json.then(|| sandbox.in_force().clone());
    let walls = sandbox.walls().clone();
    let end = async {
        if limits.is_some() {
            sandbox.close().await
        } else {
            sandbox.discard().await
        }
    };
    let usage = tokio::select! {
        usage = end => usage?,
        // Dropped, it still kills; what is left then is the next clean-up's.
        code = signals.next() => return Ok(code),
    };
    // No process holds the pipes now: they end. Only whoever reads our output can make us wait.
    for pump in pumps {
        tokio::select! {
            _ = pump => {}
            _ = signals.next() => {}
        }
    }
    let (status, timed_out) = ended?;
    let refused = args.seccomp_log.then(|| walls.refused());
    if let Some(limits) = &limits {
        let (status, usage) = (status.code(), &usage);
        super::output::json(&Report {
            status,
            timed_out,
            usage,
            limits,
            walls: &walls,
            refused: refused.as_deref(),
        })?;
    } else {
        tell(&refused.unwrap_or_default());
    }
    let code = if timed_out {
        i32::from(exit::TIMED_OUT)
    } else {
        status.code()
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(exit::FAILED))
}

fn tell(refused: &[Refused]) {
    for Refused {
        call,
        errno,
        rule,
        count,
    } in refused
    {
        super::output::note(&format!("refused {count} times: {call} ({errno}): {rule}"));
    }
}

async fn spawn(
    sandbox: &Sandbox,
    argv: Vec<String>,
    interactive: bool,
    json: bool,
) -> Result<(Process, [JoinHandle<()>; 2]), EnvError> {
    let (stdin, feed) = io::pipe().map_err(host_failed)?;
    let (out, stdout) = io::pipe().map_err(host_failed)?;
    let (err, stderr) = io::pipe().map_err(host_failed)?;
    if interactive {
        // A thread of its own, never joined: a read of the terminal cannot be broken off.
        std::thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut { feed }));
    } else {
        drop(feed);
    }
    let to = if json { Target::Stderr } else { Target::Stdout };
    let pumps = [pump(out.into(), to)?, pump(err.into(), Target::Stderr)?];
    let process = sandbox.spawn(Spawn {
        argv,
        env: Vec::new(),
        cwd: None,
        stdin: OwnedFd::from(stdin),
        stdout: OwnedFd::from(stdout),
        stderr: OwnedFd::from(stderr),
    });
    Ok((process.await?, pumps))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form that map_err asks for"
)]
fn host_failed(error: io::Error) -> EnvError {
    EnvError::Infrastructure(error.to_string())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[derive(Clone, Copy)]
enum Target {
    Stdout,
    Stderr,
}

impl Target {
    /// To the byte for a program that reads it; a person's terminal gets the text alone.
    fn open(self) -> Box<dyn Write> {
        let filter = Filter::text;
        match self {
            Self::Stdout if io::stdout().is_terminal() => {
                Box::new(Filtered::new(filter(), io::stdout()))
            }
            Self::Stderr if io::stderr().is_terminal() => {
                Box::new(Filtered::new(filter(), io::stderr()))
            }
            Self::Stdout => Box::new(io::stdout()),
            Self::Stderr => Box::new(io::stderr()),
        }
    }
}

/// Copies on a thread: the fastest way, and the only one for a stdout that blocks. It begins with the
/// first byte, for most commands print nothing on one of the two.
fn pump(from: OwnedFd, to: Target) -> Result<JoinHandle<()>, EnvError> {
    let from = pipe::Receiver::from_owned_fd(from).map_err(host_failed)?;
    Ok(tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        let count = loop {
            if from.readable().await.is_err() {
                return;
            }
            match from.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(count) => break count,
            }
        };
        if let Ok(from) = from.into_blocking_fd() {
            let copied =
                tokio::task::spawn_blocking(move || copy(File::from(from), to, buffer, count));
            let _ = copied.await;
        }
    }))
}

fn copy(mut from: File, to: Target, mut buffer: Vec<u8>, mut count: usize) {
    let mut to = to.open();
    while count > 0 {
        let chunk = buffer.get(..count).unwrap_or_default();
        if to.write_all(chunk).and_then(|()| to.flush()).is_err() {
            return;
        }
        count = from.read(&mut buffer).unwrap_or(0);
    }
}
