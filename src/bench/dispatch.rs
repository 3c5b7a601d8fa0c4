//! The dispatcher: keeps so many samples at work, writes down what comes, and ends in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::ledger::{Ledger, Record, Status};
use super::plan::Job;
use super::sample::{self, Shared};
use super::{BenchError, Grader, Sandboxes};
use crate::agent::Cancel;
use crate::outcome::{Cause, Outcome};

/// Time for samples to end after an interrupt; then they are dropped, and their sandboxes killed with them.
const GRACE: Duration = Duration::from_secs(2);

/// How the work goes on.
#[derive(Debug, Clone, Copy)]
pub struct Dispatch {
    /// Samples at work at once; each has a sandbox.
    pub workers: usize,
    /// Further attempts at a sample that failed through no fault of the model.
    pub retries: u32,
    /// Samples that may fail so before the run is stopped.
    pub max_failures: usize,
}

/// How it stands.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The sample that has just ended.
    pub record: &'a Record,
    /// Samples of this run of the program that are done.
    pub done: usize,
    /// Samples that it set out to do.
    pub total: usize,
    /// At work.
    pub running: usize,
    /// With a score.
    pub scored: usize,
    /// Sum of the scores.
    pub sum: f64,
    /// Waiting for a score.
    pub pending: usize,
    /// Failed through no fault of the model.
    pub failed: usize,
    /// Since the start.
    pub elapsed: Duration,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every sample is done.
    Finished,
    /// A person ended it.
    Interrupted,
    /// Too much failed.
    TooManyFailures,
}

/// Works on the samples until all are done or the run must end.
///
/// # Errors
/// [`BenchError`] when a result cannot be written down.
pub async fn run<S: Sandboxes, G: Grader>(
    shared: Arc<Shared<S, G>>,
    jobs: Vec<Job>,
    ledger: &mut Ledger,
    how: Dispatch,
    mut cancel: Cancel,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<Stop, BenchError> {
    let begun = Instant::now();
    let total = jobs.len();
    let mut queue: VecDeque<(Job, u32)> = jobs.into_iter().map(|job| (job, 1)).collect();
    let mut working = JoinSet::new();
    let (mut done, mut scored, mut pending, mut failed, mut sum) = (0, 0, 0, 0, 0.0);
    let stop = loop {
        while working.len() < how.workers.max(1) {
            let Some((job, attempt)) = queue.pop_front() else {
                break;
            };
            let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
            working.spawn(async move {
                let record = sample::run(shared, job.clone(), attempt, cancel).await;
                (job, record)
            });
        }
        let next = tokio::select! {
            biased;
            // A sender that is gone can no longer interrupt.
            Ok(_) = cancel.wait_for(|stop| *stop) => break Stop::Interrupted,
            next = working.join_next() => next,
        };
        let Some(Ok((job, record))) = next else {
            // Nothing is at work any more; a panic would have ended the program.
            break Stop::Finished;
        };
        if record.status == Status::Failed && record.attempts <= how.retries {
            tracing::warn!(sample = job.name, outcome = ?record.outcome, "a sample failed and is begun again");
            queue.push_back((job, record.attempts + 1));
            continue;
        }
        ledger.append(&record)?;
        done += 1;
        match (record.status, record.score) {
            (Status::Scored, Some(score)) => {
                scored += 1;
                sum += score;
            }
            (Status::Failed, _) => failed += 1,
            (Status::Scored | Status::Pending, _) => pending += 1,
        }
        tell(&Progress {
            record: &record,
            done,
            total,
            running: working.len(),
            scored,
            sum,
            pending,
            failed,
            elapsed: begun.elapsed(),
        });
        if failed > how.max_failures {
            break Stop::TooManyFailures;
        }
    };
    finish(working, ledger, stop).await?;
    Ok(stop)
}

/// Lets what is at work end: whoever was told to stop does so soon, and a sample that is done is kept.
async fn finish(
    mut working: JoinSet<(Job, Record)>,
    ledger: &mut Ledger,
    stop: Stop,
) -> Result<(), BenchError> {
    if stop == Stop::TooManyFailures {
        // Nobody told these to stop.
        working.shutdown().await;
        return Ok(());
    }
    let deadline = tokio::time::Instant::now() + GRACE;
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, working.join_next()).await {
        let Ok((_, record)) = ended else { continue };
        let cut = matches!(&record.outcome, Outcome::Infrastructure(failure) if failure.cause == Cause::Interrupted);
        if !cut && record.status != Status::Failed {
            ledger.append(&record)?;
        }
    }
    working.shutdown().await;
    Ok(())
}
