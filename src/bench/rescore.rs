//! Scoring once more what is there, without asking any model for an answer.

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::judge::Judge;
use super::ledger::{Ledger, Record, Status};
use super::plan::Job;
use super::sample::score;
use super::{BenchError, Grader};
use crate::outcome::Outcome;
use crate::task::Task;

/// Answers that are scored at once, unless a judge may be asked more; graders have bounds of their own.
const AT_ONCE: usize = 64;

/// Whoever can score answers.
pub trait Scores: Send + Sync + 'static {
    /// The score of a sample's answer, or what it waits for.
    fn score(&self, job: &Job, answer: &str) -> impl Future<Output = Result<f64, String>> + Send;

    /// The judge that it asks, if any.
    fn judge(&self) -> Option<&Judge>;
}

/// All that scores are made of.
#[derive(Debug)]
pub struct Scoring<G> {
    /// The task.
    pub task: Task,
    /// Python scorers, where the task needs them.
    pub grader: Option<G>,
    /// The judge, where there is one.
    pub judge: Option<Judge>,
}

impl<G: Grader> Scores for Scoring<G> {
    async fn score(&self, job: &Job, answer: &str) -> Result<f64, String> {
        let (grader, judge) = (self.grader.as_ref(), self.judge.as_ref());
        Box::pin(score(&self.task, grader, judge, job, answer)).await
    }

    fn judge(&self) -> Option<&Judge> {
        self.judge.as_ref()
    }
}

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
pub async fn rescore<S: Scores>(
    ledger: &mut Ledger,
    scores: &Arc<S>,
    jobs: impl IntoIterator<Item = Job>,
    tell: &mut (dyn FnMut(&Record, &str) + Send),
) -> Result<Rescored, BenchError> {
    let mut counts = Rescored::default();
    let mut jobs = jobs.into_iter();
    let mut working = JoinSet::new();
    let at_once = scores.judge().map_or(0, Judge::requests).max(AT_ONCE);
    loop {
        while working.len() < at_once {
            let Some(job) = jobs.next() else { break };
            let record = ledger.read(&job.key)?;
            let answered = |record: &Record| matches!(record.outcome, Outcome::Policy(_));
            let Some(record) = record.filter(answered) else {
                counts.without += 1;
                continue;
            };
            let scores = Arc::clone(scores);
            working.spawn(async move {
                let score = scores
                    .score(&job, record.answer.as_deref().unwrap_or(""))
                    .await;
                (record, score)
            });
        }
        // A panic would have ended the program.
        let Some(Ok((record, score))) = working.join_next().await else {
            return Ok(counts);
        };
        take(ledger, record, score, &mut counts, tell)?;
    }
}

fn take(
    ledger: &mut Ledger,
    mut record: Record,
    score: Result<f64, String>,
    counts: &mut Rescored,
    tell: &mut (dyn FnMut(&Record, &str) + Send),
) -> Result<(), BenchError> {
    match score {
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
            if record.status == Status::Pending && record.pending.as_ref() != Some(&waits) {
                record.pending = Some(waits);
                ledger.append(&record)?;
            }
        }
    }
    Ok(())
}
