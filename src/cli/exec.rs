//! `exec`: a new sandbox, one command, gone.

use std::fs::File;
use std::io::{self, IsTerminal, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::error::CliError;
use super::sandbox::{SandboxArgs, keyless_launcher_config, tell_refused, warn_unenforced};
use super::sanitize::{Filter, Filtered};
use super::signals::Signals;
use crate::env::{EnvError, ExitStatus};
use crate::exit;
use crate::host::{
    HostError, InForce, Launcher, LauncherConfig, Patience, Process, Sandbox, Spawn, Walls,
    ZygoteProcess,
};
use crate::image::ImageHold;
use crate::outcome::{Connections, LeftBehind, LimitHit, Outcome, Refused};
use crate::spec::Usage;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Kill the command after this many seconds and exit with 124.
    #[arg(long, value_name = "S", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Kill the command, with the same code, when it prints nothing and uses no CPU time for this many seconds.
    #[arg(long, value_name = "S", value_parser = seconds)]
    idle_timeout: Option<Duration>,
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
    outcome: Outcome,
    struck: &'a [LimitHit],
    usage: &'a Usage,
    network: &'a str,
    connections: &'a Connections,
    limits: &'a InForce,
    walls: &'a Walls,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a [Refused]>,
    left_behind: LeftBehind,
}

/// Runs it; gives the exit code of the program.
///
/// # Errors
/// The sandbox could not be started or ended; the command's own failure is no error.
pub(super) async fn exec(
    args: ExecArgs,
    state: Option<&Path>,
    forked: Option<ZygoteProcess>,
) -> Result<u8, CliError> {
    let purpose = args.command.join(" ");
    let config = keyless_launcher_config(forked);
    let mut signals = Signals::listen().map_err(host_failed)?;
    let patience = Patience {
        wall: args.timeout,
        idle: args.idle_timeout,
        ..Patience::default()
    };
    let start = start(&args, state, &purpose, config, &patience.printed);
    let started = match signals.unless(state, Box::pin(start)).await {
        Ok(started) => started?,
        Err(code) => return Ok(code),
    };
    let Started {
        sandbox,
        network,
        mut process,
        output: Output { pumps, writers },
        launcher,
        _hold,
    } = started;
    let ended = tokio::select! {
        ended = process.wait_at_most(&patience) => ended,
        code = signals.next() => Ok((ExitStatus::Signal(i32::from(code) - 128), None)),
    };
    drop(writers);
    let limits = args.json.then(|| sandbox.in_force().clone());
    let walls = sandbox.walls().clone();
    let end = async {
        if limits.is_some() {
            sandbox.close().await
        } else {
            sandbox.discard().await
        }
    };
    let closed = tokio::select! {
        closed = end => closed,
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
    // The kernel closes its socket with the rest, at which the zygote ends, behind us and not beside us.
    std::mem::forget(launcher);
    conclude(ended, closed, limits.as_ref(), (&walls, &network))
}

/// Reports what became of the command and of its sandbox; gives the exit code.
fn conclude(
    ended: Result<(ExitStatus, Option<LimitHit>), EnvError>,
    closed: Result<Usage, HostError>,
    limits: Option<&InForce>,
    (walls, network): (&Walls, &str),
) -> Result<u8, CliError> {
    let (mut usage, left_over) = match closed {
        Ok(usage) => (usage, None),
        Err(HostError::LeftOver(usage, why)) => {
            (*usage.clone(), Some(HostError::LeftOver(usage, why)))
        }
        Err(error) => return Err(error.into()),
    };
    let mut struck = std::mem::take(&mut usage.struck);
    let (status, stopped) = match ended {
        // The command went with its sandbox; what struck is among the rest already.
        Err(EnvError::Limit(LimitHit::Memory { .. })) => (ExitStatus::Signal(libc::SIGKILL), None),
        ended => ended?,
    };
    let connections = std::mem::take(&mut usage.connections);
    let timed_out = stopped.is_some();
    struck.extend(stopped);
    let refused = usage.refused.take();
    if let Some(limits) = limits {
        super::output::json(&Report {
            status: status.code(),
            timed_out,
            outcome: Outcome::of_command(status.into(), &struck),
            struck: &struck,
            left_behind: usage.left_behind.take().unwrap_or_default(),
            usage: &usage,
            network,
            connections: &connections,
            limits,
            walls,
            refused: refused.as_deref(),
        })?;
    } else {
        tell_refused(&refused.unwrap_or_default());
        // Nobody who asked for a part of a CPU wants to be told at each command.
        for hit in struck.iter().filter(|hit| hit.can_end()) {
            super::output::note(&hit.to_string());
        }
    }
    if let Some(left_over) = left_over {
        return Err(left_over.into());
    }
    let code = if timed_out {
        i32::from(exit::TIMED_OUT)
    } else {
        status.code()
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(exit::FAILED))
}

/// What the command prints.
struct Output {
    pumps: [JoinHandle<()>; 2],
    /// Copies of the command's: with them its output ends when its status is known, and wakes us once.
    writers: [PipeWriter; 2],
}

/// A sandbox in which the command runs.
struct Started {
    sandbox: Sandbox,
    process: Process,
    output: Output,
    network: String,
    launcher: Launcher,
    _hold: ImageHold,
}

async fn start(
    args: &ExecArgs,
    state: Option<&Path>,
    purpose: &str,
    config: LauncherConfig,
    printed: &Arc<AtomicU64>,
) -> Result<Started, CliError> {
    let ground = args.sandbox.clone().prepare(state, purpose, config).await?;
    let network = ground.spec.network.to_string();
    let (program, output) = program(args, printed)?;
    // Who wants the numbers asks PID 1 for them at the end.
    let only = !args.json;
    let (sandbox, process) = ground.launcher.run(ground.spec, program, only).await?;
    warn_unenforced(&sandbox);
    Ok(Started {
        sandbox,
        process,
        output,
        network,
        launcher: ground.launcher,
        _hold: ground.hold,
    })
}

fn program(args: &ExecArgs, printed: &Arc<AtomicU64>) -> Result<(Spawn, Output), EnvError> {
    let stdin = args.interactive.then(standard_input).transpose()?;
    let (out, stdout) = io::pipe().map_err(host_failed)?;
    let (err, stderr) = io::pipe().map_err(host_failed)?;
    let to = if args.json {
        Target::Stderr
    } else {
        Target::Stdout
    };
    let pumps = [
        pump(out.into(), to, Arc::clone(printed))?,
        pump(err.into(), Target::Stderr, Arc::clone(printed))?,
    ];
    let copy = |writer: &PipeWriter| writer.try_clone().map_err(host_failed);
    let writers = [copy(&stdout)?, copy(&stderr)?];
    let program = Spawn {
        argv: args.command.clone(),
        env: Vec::new(),
        cwd: None,
        stdin,
        stdout: OwnedFd::from(stdout),
        stderr: OwnedFd::from(stderr),
    };
    Ok((program, Output { pumps, writers }))
}

/// A copy of ours. On a thread of its own, never joined: a read of the terminal cannot be broken off.
fn standard_input() -> Result<OwnedFd, EnvError> {
    let (stdin, mut feed) = io::pipe().map_err(host_failed)?;
    std::thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut feed));
    Ok(stdin.into())
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
fn pump(from: OwnedFd, to: Target, printed: Arc<AtomicU64>) -> Result<JoinHandle<()>, EnvError> {
    let from = pipe::Receiver::from_owned_fd(from).map_err(host_failed)?;
    Ok(tokio::spawn(async move {
        // Most commands print little or nothing: a page, not the sixteen that a pipe holds.
        let mut first = vec![0; 4 << 10];
        loop {
            if from.readable().await.is_err() {
                return;
            }
            match from.try_read(&mut first) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    first.truncate(count);
                    break;
                }
            }
        }
        if let Ok(from) = from.into_blocking_fd() {
            let copied = tokio::task::spawn_blocking(move || {
                copy(File::from(from), to, first, &printed);
            });
            let _ = copied.await;
        }
    }))
}

fn copy(mut from: File, to: Target, mut buffer: Vec<u8>, printed: &AtomicU64) {
    let mut to = to.open();
    let mut count = buffer.len();
    while count > 0 {
        printed.fetch_add(count as u64, Ordering::Relaxed);
        let chunk = buffer.get(..count).unwrap_or_default();
        if to.write_all(chunk).and_then(|()| to.flush()).is_err() {
            return;
        }
        buffer.resize(64 << 10, 0);
        count = from.read(&mut buffer).unwrap_or(0);
    }
}
