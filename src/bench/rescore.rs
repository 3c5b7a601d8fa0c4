//! Scoring once more what is there, without asking any model.

use super::ledger::{Ledger, Record, Status};
use super::plan::Job;
use super::sample::score;
use super::{BenchError, Grader};
use crate::outcome::Outcome;
use crate::task::Task;

/// What scoring once more gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescored {
    /// Samples with the score that they had.
    pub same: usize,
    /// Samples with another score, or with one for the first time.
    pub changed: usize,
    /// Samples whose score is still to come.
    pub pending: usize,
    /// Samples without an answer that could be scored.
    pub without: usize,
}

/// Scores every answer that is there. A score that differs is appended as a new line; the old one stays.
///
/// A score that is there is not given up for one that cannot be had now.
///
/// # Errors
/// [`BenchError`] when results cannot be read or written.
pub async fn rescore<G: Grader>(
    ledger: &mut Ledger,
    task: &Task,
    jobs: &[Job],
    grader: Option<&G>,
    tell: &mut (dyn FnMut(&Record, &str) + Send),
) -> Result<Rescored, BenchError> {
    let mut counts = Rescored::default();
    for job in jobs {
        let found = (ledger.read(&job.key)?, task.rows.get(job.row));
        let (Some(mut record), Some(row)) = found else {
            counts.without += 1;
            continue;
        };
        if matches!(record.outcome, Outcome::Infrastructure(_)) {
            counts.without += 1;
            continue;
        }
        let answer = record.answer.clone().unwrap_or_default();
        match score(&task.scorer, grader, row, &answer).await {
            Ok(score) if record.score == Some(score) => counts.same += 1,
            Ok(score) => {
                counts.changed += 1;
                let before = record
                    .score
                    .map_or("pending".to_owned(), |s| format!("{s:.4}"));
                record.score = Some(score);
                record.status = Status::Scored;
                record.pending = None;
                ledger.append(&record)?;
                tell(&record, &format!("{before} is now {score:.4}"));
            }
            Err(waits) => {
                counts.pending += 1;
                tell(&record, &waits);
            }
        }
    }
    Ok(counts)
}
