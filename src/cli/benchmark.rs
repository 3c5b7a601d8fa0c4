//! `benchmark`: a model on all samples of a task.

mod board;
mod events;
mod fetch;
mod grader;
mod harbor;
mod judge;
mod judge_args;
mod merge;
mod report;
mod runner;
mod sandboxes;
mod settle;
mod summary;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use tokio::sync::watch;

use super::output::{self, note};
use super::run::{self, AgentArgs};
use super::sanitize::one_line;
use super::signals::Signals;
use crate::bench::{
    self, Dispatch, Gate, JUDGEMENTS, Judge, JudgeConfig, Ledger, Live, Manifest, Memory, Models,
    Shared, Status, Stop, Told,
};
use crate::exit;
use crate::reward::Reward;
use crate::settings::Environment;
use crate::sys::process;
use board::Board;
use grader::PythonGrader;
pub(super) use judge::{RejudgeArgs, judge};
use judge_args::JudgeArgs;
pub(super) use merge::{MergeArgs, merge};
pub(super) use report::{ReportArgs, report};
use runner::RunnerArgs;
use sandboxes::Pool;
use settle::Settled;
use summary::{ended_early, summary_lines, tell_summary};
pub(super) use verify::{VerifyArgs, verify};

/// Flags of `benchmark`.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub(super) struct BenchmarkArgs {
    /// Built-in task (math, physics, chem, biomed, long_context, instruct_follow, instruct_pretrain, demo) or a task directory, also one of Harbor or a directory of such
    #[arg(value_name = "TASK", conflicts_with = "task_flag")]
    task: Option<String>,
    /// The same, as a flag
    #[arg(long = "task", value_name = "TASK")]
    task_flag: Option<String>,
    /// Go on with the run of this folder: what is missing, and what failed through no fault of the model
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// A sandbox and three tools, or one plain answer
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Rows instead of the task's own: JSON Lines, a JSON list, CSV or Parquet
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Where the documents of a problem are: in files of the sandbox, or in the prompt
    #[arg(long, value_name = "WHERE")]
    context: Option<Context>,
    /// Reward instead of the task's own
    #[arg(long, value_name = "NAME", value_parser = reward())]
    reward: Option<Reward>,
    /// First row, from 0
    #[arg(long, value_name = "N")]
    start_id: Option<usize>,
    /// Row after the last
    #[arg(long, value_name = "N")]
    end_id: Option<usize>,
    /// Only every N-th sample, from the I-th: for several machines; `merge` puts the folders together
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<bench::Shard>,
    /// Samples of each row [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: Option<u32>,
    /// Samples at work at once, each with its sandbox [env: LLM_NUM_WORKERS] [default: 1]
    #[arg(long, value_name = "N")]
    num_workers: Option<usize>,
    /// Requests to the model under way at once [default: as many as samples]
    #[arg(long, value_name = "N")]
    llm_requests: Option<usize>,
    /// Tokens of the answer in the mode `llm` [default: 65536]
    #[arg(long, value_name = "N")]
    max_response_len: Option<u64>,
    /// Further attempts at a sample that failed through no fault of the model
    #[arg(long, value_name = "N", default_value_t = 2)]
    infra_retries: u32,
    /// Stop when more samples than this have failed through no fault of the model [default: a tenth, at least 10]
    #[arg(long, value_name = "N")]
    max_infra_failures: Option<usize>,
    /// Image in which the task's Python scores [default: grader where it was built, else the default]
    #[arg(long, value_name = "NAME")]
    grader_image: Option<String>,
    #[command(flatten)]
    runner: RunnerArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    judge: JudgeArgs,
}

/// See [`bench::Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A sandbox and three tools.
    LlmInSandbox,
    /// One plain answer.
    Llm,
}

/// Where the documents of a problem are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Context {
    /// In files of the sandbox.
    Files,
    /// In the prompt.
    Prompt,
}

/// Carries it out; gives the exit code. Errors are told on stderr.
pub(super) async fn benchmark(args: BenchmarkArgs, state: Option<&Path>) -> u8 {
    process::keep_freed_memory();
    let signals = Signals::listen();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            output::error(&error);
            return exit::FAILED;
        }
    };
    let home = std::env::home_dir();
    let checked = match settle::check(args, Environment::process(), home.as_deref()) {
        Ok(checked) => checked,
        Err(error) => return tell_error(&error),
    };
    let fetched = tokio::select! {
        fetched = Box::pin(fetch::fetch(&checked, state)) => fetched,
        code = signals.next() => return code,
    };
    let settled = match fetched.and_then(|fetched| checked.settle(fetched)) {
        Ok(settled) => settled,
        Err(error) => return tell_error(&error),
    };
    let (stop, cancel) = watch::channel(false);
    let mut work = Box::pin(evaluate(settled, state, cancel));
    let code = tokio::select! {
        code = &mut work => return code,
        code = signals.next() => code,
    };
    note("ending the run; once more to end at once");
    stop.send_replace(true);
    tokio::select! {
        _ = signals.next() => code,
        ended = work => if ended == 0 { 0 } else { code },
    }
}

/// From settings to results; gives the exit code.
async fn evaluate(settled: Settled, state: Option<&Path>, cancel: watch::Receiver<bool>) -> u8 {
    let mut interrupt = cancel.clone();
    let began = Box::pin(begin(settled, state));
    let begun = tokio::select! {
        begun = began => begun,
        Ok(_) = interrupt.wait_for(|stop| *stop) => return run::EXIT_INTERRUPTED,
    };
    let worked = match begun {
        Ok(begun) => Box::pin(work(begun, cancel)).await,
        Err(error) => Err(error),
    };
    worked.unwrap_or_else(|error| tell_error(&error))
}

/// Whether a run may be gone on with like this. One that was begun without a judge has one from now on.
fn go_on(folder: &Path, manifest: &Manifest) -> Result<(), settle::Error> {
    let earlier = Manifest::read(folder)?;
    earlier.check(&manifest.config, folder)?;
    if earlier.shard != manifest.shard {
        let problem = "the run was begun with another part of the samples".to_owned();
        return Err(run::value("--shard", problem).into());
    }
    JudgeConfig::check(earlier.judge.as_ref(), manifest.judge.as_ref(), folder)?;
    if earlier.judge.is_none() && manifest.judge.is_some() {
        let judge = manifest.judge.clone();
        Manifest { judge, ..earlier }.write(folder)?;
    }
    Ok(())
}

/// Makes the folders that a run folder holds.
fn make_parts(folder: &Path) -> Result<(), settle::Error> {
    for name in ["samples", "logs"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(|source| settle::Error::folder(&path, source))?;
    }
    Ok(())
}

/// Reads the name of a reward.
fn reward() -> impl TypedValueParser<Value = Reward> {
    PossibleValuesParser::new(Reward::ALL.map(Reward::name)).try_map(|name| {
        let mut all = Reward::ALL.into_iter();
        all.find(|reward| reward.name() == name)
            .ok_or("no such reward")
    })
}

fn shard(text: &str) -> Result<bench::Shard, String> {
    let parsed = text.split_once('/').and_then(|(number, of)| {
        let (number, of) = (number.parse().ok()?, of.parse().ok()?);
        (1..=of)
            .contains(&number)
            .then_some(bench::Shard { number, of })
    });
    parsed.ok_or_else(|| format!("{text} is not I/N with I from 1 to N"))
}

/// Tells an error and what mends it; gives the exit code.
fn tell_error(error: &settle::Error) -> u8 {
    output::error(error);
    if let Some(hint) = error.hint() {
        note(&format!("hint: {hint}"));
    }
    error.exit()
}

/// Of a run that no time was set.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A run that can start.
struct Begun {
    shared: Arc<Shared<Pool, PythonGrader>>,
    ledger: Ledger,
    manifest: Manifest,
    jobs: Vec<bench::Job>,
    how: Dispatch,
    /// Events go to stdout as JSON, and words to stderr.
    json: bool,
}

async fn begin(settled: Settled, state: Option<&Path>) -> Result<Begun, settle::Error> {
    let Settled {
        mut manifest,
        task,
        agent,
        folder,
        grader_image,
        ..
    } = settled;
    // Another process on the same folder is found out before anything starts.
    let held = folder.as_deref().map(Ledger::open).transpose()?;
    let models = Models::open(&agent.model).map_err(bench::BenchError::from)?;
    let pool = match manifest.config.mode {
        bench::Mode::LlmInSandbox => {
            Some(Pool::open(&agent, &settled.ablations, &task, state).await?)
        }
        bench::Mode::Llm => None,
    };
    let mode = manifest.config.mode;
    let grader = PythonGrader::needed(&task, mode, grader_image.as_deref(), state).await?;
    manifest.config.image_digest = pool.as_ref().map(|pool| pool.digest().to_owned());
    manifest.digest = manifest.config.digest();
    let ledger = match folder.zip(held) {
        Some((folder, ledger)) => {
            go_on(&folder, &manifest)?;
            ledger
        }
        None => {
            let suffix = summary::suffix(&manifest);
            let folder = run::make_folder(&agent.output_dir, SystemTime::now(), &suffix)?;
            Ledger::create(&folder, &manifest)?
        }
    };
    make_parts(ledger.folder())?;
    let record = ledger.folder().join(JUDGEMENTS);
    let judge = settled
        .judge
        .map(|judge| Judge::open(&judge, &record, /*again*/ false));
    let all = bench::jobs(&task, &manifest);
    let how = Dispatch {
        workers: settled.workers,
        retries: settled.retries,
        max_failures: settled.max_failures.unwrap_or((all.len() / 10).max(10)),
        timeout: settled.timeout,
        stalled_after: settled.stalled_after,
        memory: Memory::of_host,
    };
    let shared = Arc::new(Shared {
        mode: manifest.config.mode,
        settings: agent.model,
        models,
        gate: Gate::new(settled.requests),
        live: Live::default(),
        limits: agent.limits,
        max_response_len: manifest.config.max_response_len,
        style: agent.style,
        shell: agent.shell,
        ablations: settled.ablations,
        sandboxes: pool,
        grader,
        judge: judge.transpose()?,
        folder: ledger.folder().to_owned(),
        save_exchanges: agent.save_exchanges,
        task,
    });
    Ok(Begun {
        shared,
        ledger,
        manifest,
        jobs: all,
        how,
        json: settled.json,
    })
}

async fn work(begun: Begun, cancel: watch::Receiver<bool>) -> Result<u8, settle::Error> {
    let Begun {
        shared,
        mut ledger,
        manifest,
        jobs,
        how,
        json,
    } = begun;
    for line in &shared.task.notes {
        note(line);
    }
    let known = |job: &bench::Job| ledger.get(&job.key).map(|known| known.status);
    let waiting = judge::waiting(&shared, &ledger, &jobs);
    let missing: Vec<bench::Job> = jobs
        .iter()
        .filter(|job| matches!(known(job), None | Some(Status::Failed)))
        .cloned()
        .collect();
    let folder = ledger.folder().to_owned();
    let (task, at) = (one_line(&shared.task.name), folder.display());
    let (left, all, workers) = (missing.len(), jobs.len(), how.workers);
    note(&format!(
        "{left} of {all} samples of {task} to do, {workers} at once, results in {at}"
    ));
    if json {
        let begin = events::begin(&folder, jobs.len(), missing.len(), how.workers);
        output::json_line(&begin);
    }
    let before = verify::elapsed(&folder);
    let (begun, mut board) = (Instant::now(), Board::new());
    let interrupt = cancel.clone();
    let mut tell = |told: Told<'_>| {
        if json {
            output::json_line(&events::told(&told));
        }
        board.tell(&told);
    };
    let samples = Arc::clone(&shared);
    let mut stop = bench::run(samples, missing, &mut ledger, how, cancel, &mut tell).await;
    board.close();
    if let Ok(Stop::Finished) = stop {
        let left = how.timeout.map(|time| time.saturating_sub(begun.elapsed()));
        let filled = judge::fill(&mut ledger, &shared, waiting);
        stop = Ok(unless_stopped(filled, interrupt, left.unwrap_or(FOREVER)).await?);
    }
    if let Some(grader) = &shared.grader {
        grader.close().await;
    }
    let stop = stop?;
    let again = format!("llm-in-sandbox benchmark --resume {}", folder.display());
    if let Some(why) = ended_early(stop, how) {
        note(&format!("{why}; go on with: {again}"));
    }
    if stop == Stop::Interrupted {
        if json {
            output::json_line(&events::end(&folder, stop, None));
        }
        return Ok(run::EXIT_INTERRUPTED);
    }
    let elapsed = before + begun.elapsed();
    let summary = bench::write_results(&mut ledger, &manifest, &shared.task, &jobs, elapsed)?;
    judge::write_verdicts(&mut ledger, &shared, &jobs)?;
    if json {
        output::json_line(&events::end(&folder, stop, Some(&summary)));
    } else {
        tell_summary(&summary, &folder);
    }
    let complete = summary.missing == 0 && summary.infrastructure_failures == 0;
    if !complete && stop == Stop::Finished {
        note(&format!("to do what failed once more: {again}"));
    }
    Ok(if complete { 0 } else { 1 })
}

/// What is done after the last sample ends as the run does: when told to, and when its time is up.
async fn unless_stopped(
    work: impl Future<Output = Result<(), settle::Error>>,
    mut interrupt: watch::Receiver<bool>,
    left: Duration,
) -> Result<Stop, settle::Error> {
    tokio::select! {
        biased;
        Ok(_) = interrupt.wait_for(|stop| *stop) => Ok(Stop::Interrupted),
        () = tokio::time::sleep(left) => Ok(Stop::OutOfTime),
        done = work => done.map(|()| Stop::Finished),
    }
}
