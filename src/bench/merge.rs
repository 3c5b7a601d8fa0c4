//! Shards of one run, put together.

use std::path::{Path, PathBuf};

use super::BenchError;
use super::judge::{self, JudgeConfig};
use super::ledger::{Ledger, Status};
use super::manifest::Manifest;
use super::plan::Job;

/// Takes the results, records and logs of `shards` over into the run of `whole`. What a shard failed at, another may have done.
///
/// # Errors
/// [`BenchError`] when a shard is of another run, two of them did the same sample, or a file cannot be copied.
pub fn merge(
    whole: &mut Ledger,
    manifest: &Manifest,
    jobs: &[Job],
    shards: &[PathBuf],
) -> Result<(), BenchError> {
    for folder in shards {
        let shard = Manifest::read(folder)?;
        shard.check(&manifest.config, folder)?;
        // One that was begun without a judge has no verdicts that could differ.
        if shard.judge.is_some() {
            JudgeConfig::check(manifest.judge.as_ref(), shard.judge.as_ref(), folder)?;
        }
        let mut shard = Ledger::open(folder)?;
        for job in jobs {
            let Some(mut record) = shard.read(&job.key)? else {
                continue;
            };
            match whole.get(&job.key).map(|known| known.status) {
                Some(Status::Scored | Status::Pending) if record.status == Status::Failed => {
                    continue;
                }
                Some(Status::Scored | Status::Pending) => {
                    return Err(BenchError::Malformed {
                        path: folder.clone(),
                        problem: format!("the sample {} is in another shard, too", job.name),
                    });
                }
                Some(Status::Failed) | None => {}
            }
            record.folder = copy_sample(folder, whole.folder(), &job.name, &record.folder)?;
            whole.append(&record)?;
        }
        judge::merge(folder, whole.folder())?;
    }
    Ok(())
}

/// Copies the record and the log of a sample, and gives the folder that the record has now.
fn copy_sample(from: &Path, to: &Path, name: &str, folder: &str) -> Result<String, BenchError> {
    let log = Path::new("logs").join(format!("{name}.txt"));
    if from.join(&log).exists() {
        copy(&from.join(&log), &to.join(&log))?;
    }
    if folder.is_empty() {
        // It failed before it had one.
        return Ok(String::new());
    }
    let parent = to.join("samples").join(name);
    let number = std::fs::read_dir(&parent).map_or(0, Iterator::count) + 1;
    let below = format!("samples/{name}/{number}");
    let target = to.join(&below);
    std::fs::create_dir_all(&target).map_err(BenchError::file("make", &target))?;
    let source = from.join(folder);
    let entries = std::fs::read_dir(&source).map_err(BenchError::file("read", &source))?;
    for entry in entries {
        let entry = entry.map_err(BenchError::file("read", &source))?;
        copy(&entry.path(), &target.join(entry.file_name()))?;
    }
    Ok(below)
}

fn copy(from: &Path, to: &Path) -> Result<(), BenchError> {
    std::fs::copy(from, to)
        .map(|_| ())
        .map_err(BenchError::file("copy", from))
}
