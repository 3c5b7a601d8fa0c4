//! `verify`: the answers of a run are scored once more, without asking any model; verdicts of a judge are those on record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::super::output::note;
use super::super::run;
use super::grader::PythonGrader;
use super::judge::{tell, tell_rescored};
use super::settle::{self, Error};
use super::{reward, tell_error};
use crate::bench::{self, JUDGEMENTS, Judge, Ledger, Scoring};
use crate::reward::Reward;
use crate::task::Scorer;

/// Flags of `verify`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(in crate::cli) struct VerifyArgs {
    /// Folder of a run
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Reward instead of the task's own
    #[arg(long, value_name = "NAME", value_parser = reward())]
    reward: Option<Reward>,
    /// Image in which the task's Python scores [default: grader where it was built, else the default]
    #[arg(long, value_name = "NAME")]
    grader_image: Option<String>,
}

/// Carries it out; gives the exit code: 0 when every score is as it was, 1 when one is new or still to come.
pub(in crate::cli) async fn verify(args: &VerifyArgs, state: Option<&Path>) -> u8 {
    match Box::pin(scored_again(args, state)).await {
        Ok(code) => code,
        Err(error) => tell_error(&error),
    }
}

async fn scored_again(args: &VerifyArgs, state: Option<&Path>) -> Result<u8, Error> {
    let (manifest, task) = settle::reopen(&args.folder, args.reward)?;
    if matches!(task.scorer, Scorer::Tests(_)) {
        let problem = "the tests of these tasks need the files that the model left, which are not kept: \
            what they said is in results.jsonl, and a new run tests anew";
        return Err(run::value("DIR", problem.to_owned()).into());
    }
    let mut ledger = Ledger::open(&args.folder)?;
    if task.digest != manifest.config.task_digest {
        note("the task is not what it was: prompts or scorer differ");
    }
    let image = args.grader_image.as_deref();
    // The prompts are not needed again.
    let mode = bench::Mode::LlmInSandbox;
    let grader = PythonGrader::needed(&task, mode, image, state).await?;
    let jobs = bench::jobs(&task, &manifest);
    let scoring = Arc::new(Scoring {
        task,
        grader,
        judge: Judge::recorded(&args.folder.join(JUDGEMENTS))?,
    });
    let counts = bench::rescore(&mut ledger, &scoring, jobs.clone(), &mut tell).await;
    if let Some(grader) = &scoring.grader {
        grader.close().await;
    }
    let counts = counts?;
    let took = elapsed(&args.folder);
    let summary = bench::write_results(&mut ledger, &manifest, &scoring.task, &jobs, took)?;
    tell_rescored(counts, &summary);
    Ok(u8::from(counts.changed + counts.pending > 0))
}

/// The time that the run has taken so far, but for starts of it that were cut short.
pub(super) fn elapsed(folder: &Path) -> Duration {
    let text = std::fs::read_to_string(folder.join("results.json")).unwrap_or_default();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let seconds = results.get("elapsed_time_seconds");
    let seconds = seconds.and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
