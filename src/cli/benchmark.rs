//! `benchmark`: a model on all samples of a task.

mod fetch;
mod grader;
mod merge;
mod report;
mod sandboxes;
mod settle;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use clap::{Args, ValueEnum};
use tokio::sync::{Semaphore, watch};

use super::output::{self, note, result};
use super::run::{self, AgentArgs};
use super::sanitize::one_line;
use super::signals::Signals;
use crate::bench::{
    self, Dispatch, Ledger, Manifest, Models, Progress, Shared, Status, Stop, Summary,
};
use crate::exit;
use crate::outcome::Outcome;
use crate::settings::Environment;
use grader::PythonGrader;
pub(super) use merge::{MergeArgs, merge};
pub(super) use report::{ReportArgs, report};
use sandboxes::Pool;
use settle::Settled;
pub(super) use verify::{VerifyArgs, verify};

/// Flags of `benchmark`.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub(super) struct BenchmarkArgs {
    /// Built-in task (math, physics, chem, biomed, long_context, instruct_follow, instruct_pretrain, demo) or a task directory
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
    #[arg(long, value_name = "NAME")]
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
    agent: AgentArgs,
}

/// See [`bench::Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A sandbox and three tools.
    LlmInSandbox,
    /// One plain answer.
    Llm,
}

/// See [`crate::reward::Reward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Reward {
    /// The same text.
    Exact,
    /// The letter of a choice.
    Letter,
    /// An equal mathematical value.
    Math,
    /// A number within five per cent.
    Numeric,
    /// F1 of items between commas.
    F1,
    /// ROUGE-L.
    RougeL,
    /// By the row's `qa_type`.
    ByType,
    /// By domain and `qa_type`.
    Composite,
    /// None: a judge decides later.
    Judge,
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
    let signals = Signals::listen();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            output::error(&error);
            return exit::FAILED;
        }
    };
    let fetched = tokio::select! {
        fetched = Box::pin(fetch::fetch(&args, state)) => fetched,
        code = signals.next() => return code,
    };
    let settled = fetched.and_then(|fetched| {
        let home = std::env::home_dir();
        settle::settle(args, fetched, Environment::process(), home.as_deref())
    });
    let settled = match settled {
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

/// Makes the folders that a run folder holds.
fn make_parts(folder: &Path) -> Result<(), settle::Error> {
    for name in ["samples", "logs"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(|source| settle::Error::folder(&path, source))?;
    }
    Ok(())
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

/// A run that can start.
struct Begun {
    shared: Arc<Shared<Pool, PythonGrader>>,
    ledger: Ledger,
    manifest: Manifest,
    jobs: Vec<bench::Job>,
    how: Dispatch,
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
    let models = Models::open(&agent.model).map_err(bench::BenchError::from)?;
    let pool = match manifest.config.mode {
        bench::Mode::LlmInSandbox => Some(Pool::open(&agent, &task.prompt, state).await?),
        bench::Mode::Llm => None,
    };
    let mode = manifest.config.mode;
    let grader = PythonGrader::needed(&task, mode, grader_image.as_deref(), state).await?;
    manifest.config.image_digest = pool.as_ref().map(|pool| pool.digest().to_owned());
    manifest.digest = manifest.config.digest();
    let ledger = match folder {
        Some(folder) => {
            let ledger = Ledger::open(&folder)?;
            Manifest::read(&folder)?.check(&manifest.config, &folder)?;
            ledger
        }
        None => {
            let suffix = settle::suffix(&manifest);
            let folder = run::make_folder(&agent.output_dir, SystemTime::now(), &suffix)?;
            Ledger::create(&folder, &manifest)?
        }
    };
    make_parts(ledger.folder())?;
    let all = bench::jobs(&task, &manifest);
    let how = Dispatch {
        workers: settled.workers,
        retries: settled.retries,
        max_failures: settled.max_failures.unwrap_or((all.len() / 10).max(10)),
    };
    let shared = Arc::new(Shared {
        mode: manifest.config.mode,
        settings: agent.model,
        models,
        requests: Semaphore::new(settled.requests),
        limits: agent.limits,
        max_response_len: manifest.config.max_response_len,
        style: agent.style,
        shell: agent.shell,
        sandboxes: pool,
        grader,
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
    })
}

async fn work(begun: Begun, cancel: watch::Receiver<bool>) -> Result<u8, settle::Error> {
    let Begun {
        shared,
        mut ledger,
        manifest,
        jobs,
        how,
    } = begun;
    for line in &shared.task.notes {
        note(line);
    }
    let known = |job: &bench::Job| ledger.get(&job.key).map(|known| known.status);
    let missing: Vec<bench::Job> = jobs
        .iter()
        .filter(|job| matches!(known(job), None | Some(Status::Failed)))
        .cloned()
        .collect();
    let folder = ledger.folder().to_owned();
    note(&format!(
        "{} of {} samples of {} to do, {} at once, results in {}",
        missing.len(),
        jobs.len(),
        one_line(&shared.task.name),
        how.workers,
        folder.display()
    ));
    let begun = Instant::now();
    let mut tell = |progress: &Progress<'_>| note(&line(progress));
    let stop = bench::run(
        Arc::clone(&shared),
        missing,
        &mut ledger,
        how,
        cancel,
        &mut tell,
    )
    .await;
    if let Some(grader) = &shared.grader {
        grader.close().await;
    }
    let stop = stop?;
    let again = format!("llm-in-sandbox benchmark --resume {}", folder.display());
    match stop {
        Stop::Interrupted => {
            note(&format!("interrupted; go on with: {again}"));
            return Ok(run::EXIT_INTERRUPTED);
        }
        Stop::TooManyFailures => {
            note(&format!(
                "stopped: more than {} samples failed through no fault of the model; mend that and go on with: {again}",
                how.max_failures
            ));
        }
        Stop::Finished => {}
    }
    let summary =
        bench::write_results(&mut ledger, &manifest, &shared.task, &jobs, begun.elapsed())?;
    for line in summary_lines(&summary) {
        result(&line);
    }
    result(&format!("results:    {}", folder.display()));
    let complete = summary.missing == 0 && summary.infrastructure_failures == 0;
    if !complete && stop == Stop::Finished {
        note(&format!("to do what failed once more: {again}"));
    }
    Ok(if complete { 0 } else { 1 })
}

/// One line for each sample that ends.
fn line(progress: &Progress<'_>) -> String {
    let record = progress.record;
    let score = match (record.status, record.score) {
        (Status::Failed, _) => "failed (infrastructure)".to_owned(),
        (_, Some(score)) => format!("{score:.3}"),
        (_, None) => "pending".to_owned(),
    };
    let why = match &record.outcome {
        Outcome::Infrastructure(failure) => format!(": {}", one_line(&failure.detail)),
        Outcome::Policy(_) => String::new(),
    };
    let mean = mean(progress.sum, progress.scored);
    let failed = match progress.failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    format!(
        "[{}/{}] {}: {score}{why}; mean {mean} (n {}){failed}, {} running, {:.0} s",
        progress.done,
        progress.total,
        one_line(&record.id),
        progress.scored,
        progress.running,
        progress.elapsed.as_secs_f64()
    )
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn mean(sum: f64, count: usize) -> String {
    if count == 0 {
        return "-".to_owned();
    }
    format!("{:.4}", sum / count as f64)
}

fn summary_lines(summary: &Summary) -> Vec<String> {
    let mut lines = vec![match (summary.mean, summary.interval_95) {
        (Some(mean), Some([low, high])) => {
            format!(
                "mean score: {mean:.4} (95 % interval {low:.4} to {high:.4}, n {})",
                summary.scored
            )
        }
        (Some(mean), None) => format!("mean score: {mean:.4} (n {})", summary.scored),
        (None, _) => "mean score: none (n 0)".to_owned(),
    }];
    for (k, rate) in &summary.pass_at {
        lines.push(format!("pass@{k}:     {rate:.4}"));
    }
    for (name, count) in [
        ("pending:   ", summary.pending),
        ("failed:    ", summary.infrastructure_failures),
        ("not done:  ", summary.missing),
    ] {
        if count > 0 {
            lines.push(format!("{name} {count} of {}, in no mean", summary.total));
        }
    }
    lines
}
