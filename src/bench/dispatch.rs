//! The dispatcher: keeps so many samples at work, writes down what comes, and ends in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::ledger::{Ledger, Record, Status};
use super::live::{Stalled, Wait};
use super::memory::Memory;
use super::pace::Pace;
use super::plan::Job;
use super::sample::{self, Shared};
use super::standing::Standing;
use super::{BenchError, Grader, Sandboxes};
use crate::agent::Cancel;
use crate::outcome::{Cause, Outcome};

/// Time for samples to end when the run ends; then they are dropped, and their sandboxes killed with them.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at what goes on.
const TICK: Duration = Duration::from_secs(1);

/// How the work goes on.
#[derive(Debug, Clone, Copy)]
pub struct Dispatch {
    /// Samples at work at once, at most; each has a sandbox.
    pub workers: usize,
    /// Further attempts at a sample that failed through no fault of the model.
    pub retries: u32,
    /// Samples that may fail so before the run is stopped.
    pub max_failures: usize,
    /// Time for the run.
    pub timeout: Option<Duration>,
    /// A sample that waits so long for one thing is told of.
    pub stalled_after: Duration,
    /// What is left of the host's memory.
    pub memory: fn() -> Option<Memory>,
}

/// What happened.
#[derive(Debug)]
pub enum Told<'a> {
    /// A sample has ended.
    Ended(&'a Record, &'a Standing),
    /// A sample failed through no fault of the model, and is begun again.
    Again(&'a Record),
    /// A sample gets no further.
    Stalled(&'a Stalled),
    /// The host has little memory left, or enough again: so many samples may be at work.
    Memory(usize),
    /// A second went by.
    Tick(&'a Standing),
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every sample is done.
    Finished,
    /// A person ended it.
    Interrupted,
    /// Its time is up.
    OutOfTime,
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
    tell: &mut (dyn FnMut(Told<'_>) + Send),
) -> Result<Stop, BenchError> {
    let (halt, halted) = watch::channel(false);
    let mut run = Run {
        standing: Standing::new(jobs.len()),
        queue: jobs.into_iter().map(|job| (job, 1)).collect(),
        working: JoinSet::new(),
        pace: Pace::new(how.workers),
        low: false,
        shared,
        halted,
        how,
    };
    let begun = Instant::now();
    let deadline = how.timeout.and_then(|time| begun.checked_add(time));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = loop {
        run.fill();
        if run.working.is_empty() {
            break Stop::Finished;
        }
        let ended = tokio::select! {
            biased;
            // A sender that is gone can no longer interrupt.
            Ok(_) = cancel.wait_for(|stop| *stop) => break Stop::Interrupted,
            () = until(deadline) => break Stop::OutOfTime,
            Some(ended) = run.working.join_next() => ended,
            _ = ticks.tick() => {
                run.look(tell);
                continue;
            }
        };
        // A panic would have ended the program.
        let Ok((job, record)) = ended else { continue };
        run.take(job, &record, ledger, tell)?;
        if run.standing.failed > how.max_failures {
            break Stop::TooManyFailures;
        }
    };
    halt.send_replace(true);
    run.finish(ledger, tell).await?;
    Ok(stop)
}

struct Run<S, G> {
    shared: Arc<Shared<S, G>>,
    how: Dispatch,
    /// Samples to begin, each with the number of the attempt.
    queue: VecDeque<(Job, u32)>,
    working: JoinSet<(Job, Record)>,
    standing: Standing,
    pace: Pace,
    /// The host has little memory left.
    low: bool,
    halted: Cancel,
}

impl<S: Sandboxes, G: Grader> Run<S, G> {
    /// Begins as many samples as may be at work.
    fn fill(&mut self) {
        while self.working.len() < self.pace.allowed() {
            let Some((job, attempt)) = self.queue.pop_front() else {
                return;
            };
            let (shared, halted) = (Arc::clone(&self.shared), self.halted.clone());
            self.working.spawn(async move {
                let record = sample::run(shared, job.clone(), attempt, halted).await;
                (job, record)
            });
        }
    }

    /// A sample ended: it is written down, or begun again.
    fn take(
        &mut self,
        job: Job,
        record: &Record,
        ledger: &mut Ledger,
        tell: &mut (dyn FnMut(Told<'_>) + Send),
    ) -> Result<(), BenchError> {
        if let Outcome::Infrastructure(failure) = &record.outcome
            && failure.cause == Cause::HostMemory
        {
            self.less(tell);
        }
        if record.status == Status::Failed && record.attempts <= self.how.retries {
            tell(Told::Again(record));
            self.queue.push_back((job, record.attempts + 1));
            return Ok(());
        }
        ledger.append(record)?;
        self.standing.add(record);
        self.update();
        tell(Told::Ended(record, &self.standing));
        Ok(())
    }

    /// A second went by.
    fn look(&mut self, tell: &mut (dyn FnMut(Told<'_>) + Send)) {
        for stalled in self.shared.live.stalled(self.how.stalled_after) {
            tell(Told::Stalled(&stalled));
        }
        let low = (self.how.memory)().is_some_and(Memory::is_low);
        let was_low = std::mem::replace(&mut self.low, low);
        if low {
            self.less(tell);
        } else {
            self.pace.served();
            if was_low {
                tell(Told::Memory(self.pace.allowed()));
            }
        }
        self.update();
        tell(Told::Tick(&self.standing));
    }

    /// Fewer samples than are at work now: what is at work goes on, what ends is not replaced at once.
    fn less(&mut self, tell: &mut (dyn FnMut(Told<'_>) + Send)) {
        let before = self.pace.allowed();
        // The one that failed for it is at work no more.
        let most = self.working.len().max(1);
        self.pace.refused(self.pace.epoch(), most);
        if self.pace.allowed() < before {
            tell(Told::Memory(self.pace.allowed()));
        }
    }

    fn update(&mut self) {
        let live = &self.shared.live;
        self.standing.running = self.working.len();
        self.standing.allowed = self.pace.allowed();
        self.standing.requests_allowed = self.shared.gate.allowed();
        self.standing.sandboxes = live.sandboxes();
        self.standing.tokens = live.tokens();
        self.standing.turns = live.turns();
        self.standing.waits = live.waits();
    }

    /// Lets what is at work end: all of it was told to stop and does so soon, and a sample that is done is kept.
    async fn finish(
        &mut self,
        ledger: &mut Ledger,
        tell: &mut (dyn FnMut(Told<'_>) + Send),
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + GRACE;
        let working = &mut self.working;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, working.join_next()).await {
            let Ok((_, record)) = ended else { continue };
            // What was cut short, or failed meanwhile, is done when the run is resumed.
            if record.status != Status::Failed {
                ledger.append(&record)?;
                self.standing.add(&record);
                tell(Told::Ended(&record, &self.standing));
            }
        }
        let late = self.shared.live.waits();
        if late.values().any(|count| *count > 0) {
            let late: Vec<(Wait, usize)> = late.into_iter().collect();
            tracing::debug!(?late, "samples did not end in time and are dropped");
        }
        self.working.shutdown().await;
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
