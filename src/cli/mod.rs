//! The command line: thin verbs over the library.

pub mod argv;
mod benchmark;
mod display;
mod doctor;
mod error;
mod exec;
mod image;
mod image_report;
mod network;
pub mod output;
mod overhead;
mod progress;
pub mod run;
mod sandbox;
pub(crate) mod sanitize;
mod seccomp;
mod shell;
mod signals;
mod status;
mod task;
mod terminal;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::host::ZygoteProcess;
use error::CliError;
use signals::Signals;

/// Language-model agents in a native Linux sandbox: no daemon, no Docker.
#[derive(Debug, Parser)]
#[command(name = "llm-in-sandbox", version, arg_required_else_help = true)]
struct Cli {
    /// Directory of images [env: LLM_IN_SANDBOX_HOME]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let a model work on one task in a sandbox
    Run(Box<run::RunArgs>),
    /// Evaluate a model on a task: every sample of it, with or without a sandbox
    Benchmark(Box<benchmark::BenchmarkArgs>),
    /// Score the answers of an evaluation once more, without asking any model
    Verify(Box<benchmark::VerifyArgs>),
    /// Let a model judge the answers of an evaluation, without asking for any again
    Judge(Box<benchmark::RejudgeArgs>),
    /// Put the shards of an evaluation together
    Merge(benchmark::MergeArgs),
    /// Write what an evaluation came to, as one HTML page, Markdown and JSON, alone or beside others
    Report(benchmark::ReportArgs),
    /// Run one command in a new sandbox
    ///
    /// Its output passes to the byte to a pipe or a file; a terminal gets it as text, without colours and control sequences.
    Exec(Box<exec::ExecArgs>),
    /// Open an interactive shell in a new sandbox, or in a running one
    Shell(Box<shell::ShellArgs>),
    /// Build, import, export and look after images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Build the default image (the original's spelling of `image build`)
    Build(image::BuildAliasArgs),
    /// List running sandboxes
    Ps(status::PsArgs),
    /// Take away what killed processes have left
    Gc(status::GcArgs),
    /// Tell what this host can do, and what mends what it cannot
    Doctor(doctor::DoctorArgs),
    /// Measure what a sandbox costs on this machine
    Overhead(overhead::OverheadArgs),
}

/// `exec` alone: to describe every verb to clap takes 0.3 ms, a twentieth of that command.
#[derive(Debug, Parser)]
struct ExecCli {
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: ExecVerb,
}

#[derive(Debug, Subcommand)]
enum ExecVerb {
    Exec(Box<exec::ExecArgs>),
}

impl From<ExecCli> for Cli {
    fn from(ExecCli { state_dir, command }: ExecCli) -> Self {
        let ExecVerb::Exec(args) = command;
        Self {
            state_dir,
            command: Verb::Exec(args),
        }
    }
}

fn parse<C: Parser>(argv: &[String]) -> Result<C, clap::Error> {
    let mut command = C::command();
    let argv = argv::normalize(&command, argv.iter().cloned());
    let matches = command.try_get_matches_from_mut(argv)?;
    C::from_arg_matches(&matches)
}

/// The zygote of a command that never holds a key and starts one sandbox, so that it need not be a new program; nothing for the
/// others. For the start of `main`.
#[must_use]
pub fn fork_zygote(verb: Option<&str>) -> Option<ZygoteProcess> {
    matches!(verb, Some("exec" | "shell")).then(|| ZygoteProcess::fork(crate::jail::zygote_main))?
}

/// Runs the command line; gives the exit code.
pub async fn main(argv: Vec<String>, forked: Option<ZygoteProcess>) -> u8 {
    // What is wrong with it is told by the whole.
    let exec = argv.get(1).is_some_and(|verb| verb == "exec");
    let exec = exec.then(|| parse::<ExecCli>(&argv).ok()).flatten();
    let parsed = exec.map_or_else(|| parse::<Cli>(&argv), |exec| Ok(exec.into()));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(crate::exit::USAGE);
        }
    };
    match Box::pin(dispatch(cli, forked)).await {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            if let Some(hint) = error.hint() {
                output::note(&format!("hint: {hint}"));
            }
            error.exit()
        }
    }
}

async fn dispatch(cli: Cli, forked: Option<ZygoteProcess>) -> Result<u8, CliError> {
    let state = cli.state_dir.as_deref();
    match cli.command {
        // These end in order on a signal; the others are dropped where they stand.
        Verb::Run(args) => Ok(task::run(*args, state).await),
        Verb::Benchmark(args) => Ok(Box::pin(benchmark::benchmark(*args, state)).await),
        Verb::Verify(args) => {
            unless_signalled(state, async { Ok(benchmark::verify(&args, state).await) }).await
        }
        Verb::Judge(args) => {
            unless_signalled(state, async { Ok(benchmark::judge(*args).await) }).await
        }
        Verb::Merge(args) => Ok(benchmark::merge(&args)),
        Verb::Report(args) => Ok(benchmark::report(&args, state)),
        Verb::Exec(args) => exec::exec(*args, state, forked).await,
        Verb::Shell(args) => {
            unless_signalled(state, Box::pin(shell::shell(*args, state, forked))).await
        }
        Verb::Image(command) => {
            let path = crate::image::state_dir(state)?;
            let work = Box::pin(image::run(command, &path, sandbox::launcher_config()));
            unless_signalled(state, async { Ok(work.await.map(|()| 0)?) }).await
        }
        Verb::Build(args) => {
            let path = crate::image::state_dir(state)?;
            let work = Box::pin(image::run_build_alias(
                &args,
                &path,
                sandbox::launcher_config(),
            ));
            unless_signalled(state, async { Ok(work.await.map(|()| 0)?) }).await
        }
        Verb::Ps(args) => status::ps(&args),
        Verb::Gc(args) => unless_signalled(state, status::gc(&args, state)).await,
        Verb::Overhead(args) => {
            unless_signalled(state, Box::pin(overhead::overhead(args, state))).await
        }
        Verb::Doctor(args) => unless_signalled(state, doctor::doctor(&args, state)).await,
    }
}

async fn unless_signalled(
    state: Option<&Path>,
    work: impl Future<Output = Result<u8, CliError>>,
) -> Result<u8, CliError> {
    let mut signals = Signals::listen().map_err(|e| CliError::Io("watch signals", e))?;
    let done = signals.unless(state, Box::pin(work)).await;
    done.unwrap_or_else(Ok)
}
