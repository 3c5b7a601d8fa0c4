//! `results.json` and `trajectory.json` as the original writes them, with more beside.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::BenchError;
use super::ledger::Ledger;
use super::manifest::{Manifest, Mode};
use super::plan::Job;
use super::summary::{Summary, summarize};
use crate::task::Task;

/// Writes both files and gives the summary.
///
/// # Errors
/// [`BenchError`] when results cannot be read again or a file cannot be written.
pub fn write(
    ledger: &mut Ledger,
    manifest: &Manifest,
    task: &Task,
    jobs: &[Job],
    elapsed: Duration,
) -> Result<Summary, BenchError> {
    let (summary, domains) = summarize(ledger, jobs, task);
    let folder = ledger.folder().to_owned();
    let config = &manifest.config;
    let sandbox = config.mode == Mode::LlmInSandbox;
    let results = json!({
        "config": {
            "mode": config.mode,
            "docker_image": config.image,
            "llm_name": config.model,
            "llm_base_url": manifest.base_url,
            "max_steps": config.max_steps,
            "temperature": config.sampling.temperature,
            "max_token_limit": config.max_token_limit,
            "max_tokens_per_call": config.max_tokens_per_call,
            "max_response_len": config.max_response_len,
            "extra_body": (!config.extra_body.is_empty()).then_some(&config.extra_body),
            "save_litellm_response": manifest.save_exchanges,
        },
        "task": config.task,
        "total": summary.total,
        "mean_score": summary.mean,
        "num_errors": summary.infrastructure_failures,
        "elapsed_time_seconds": elapsed.as_secs_f64(),
        "run": manifest.digest,
        "summary": summary,
        "domains": domains,
    });
    let text = serde_json::to_string_pretty(&results).unwrap_or_default();
    replace(&folder.join("results.json"), |file| {
        writeln!(file, "{text}").map_err(BenchError::file("write", folder.join("results.json")))
    })?;
    let path = folder.join("trajectory.json");
    replace(&path, |file| {
        trajectories(file, &path, ledger, task, jobs, sandbox)
    })?;
    Ok(summary)
}

/// One sample after the other, so that memory holds one.
fn trajectories(
    file: &mut impl Write,
    path: &Path,
    ledger: &mut Ledger,
    task: &Task,
    jobs: &[Job],
    sandbox: bool,
) -> Result<(), BenchError> {
    let error = || BenchError::file("write", path);
    let mut lead = "{\n";
    for job in jobs {
        let Some(record) = ledger.read(&job.key)? else {
            continue;
        };
        let Some(row) = task.rows.get(job.row) else {
            continue;
        };
        let key = if job.repeat == 0 { row.id() } else { &job.name };
        let steps = sandbox.then(|| steps(&ledger.folder().join(&record.folder)));
        let value = json!({
            "problem_statement": row.problem(),
            "trajectory": steps.unwrap_or_else(|| json!([])),
            "reward": record.score,
            // Readers of the original's expect text.
            "agent_answer": record.answer.unwrap_or_default(),
            "ground_truth": row.truth(),
        });
        let key = Value::from(key).to_string();
        write!(file, "{lead}{key}: {value}").map_err(error())?;
        lead = ",\n";
    }
    let end = if lead == "{\n" { "{}\n" } else { "\n}\n" };
    file.write_all(end.as_bytes()).map_err(error())
}

/// The steps of one sample; none when its record is gone.
fn steps(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("trajectory.json")).unwrap_or_default();
    let record: Value = serde_json::from_str(&text).unwrap_or_default();
    match record.get("steps") {
        Some(steps) => steps.clone(),
        None => json!([]),
    }
}

/// Writes a file under another name and renames it: a reader never sees half of it.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let partial = path.with_extension("json.partial");
    let error = || BenchError::file("write", &partial);
    let mut file = BufWriter::new(File::create(&partial).map_err(error())?);
    write(&mut file)?;
    file.flush().map_err(error())?;
    std::fs::rename(&partial, path).map_err(error())
}
