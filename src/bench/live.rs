//! What is going on now: which samples are at work, what each waits for, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What a sample waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Its sandbox starts and is made ready.
    Start,
    /// A permit to ask the model.
    Permit,
    /// The model's answer.
    Model,
    /// The time before a failed request is made again.
    Retry,
    /// A call in the sandbox.
    Tool,
    /// The end of its sandbox.
    Teardown,
    /// Its score.
    Grader,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "the start of its sandbox",
            Self::Permit => "a permit to ask the model",
            Self::Model => "the model",
            Self::Retry => "the next attempt to ask the model",
            Self::Tool => "a call in its sandbox",
            Self::Teardown => "the end of its sandbox",
            Self::Grader => "its score",
        })
    }
}

/// A sample that got no further for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// The sample.
    pub name: String,
    /// What it waits for.
    pub wait: Wait,
    /// For how long.
    pub time: Duration,
}

/// All that is at work.
#[derive(Debug, Default)]
pub struct Live {
    working: Mutex<BTreeMap<u64, Arc<Activity>>>,
    number: AtomicU64,
    sandboxes: AtomicUsize,
    tokens: AtomicU64,
    turns: AtomicU64,
}

/// What one sample does.
#[derive(Debug)]
pub(super) struct Activity {
    name: String,
    doing: Mutex<Doing>,
}

#[derive(Debug)]
struct Doing {
    wait: Wait,
    since: Instant,
    told: bool,
}

/// A sample at work, until it is dropped.
#[derive(Debug)]
pub(super) struct Working<'a> {
    live: &'a Live,
    number: u64,
    activity: Arc<Activity>,
}

/// A sandbox that runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl Live {
    pub(super) fn begin(&self, name: &str) -> Working<'_> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity {
            name: name.to_owned(),
            doing: Mutex::new(Doing {
                wait: Wait::Start,
                since: Instant::now(),
                told: false,
            }),
        });
        self.lock().insert(number, Arc::clone(&activity));
        Working {
            live: self,
            number,
            activity,
        }
    }

    pub(super) fn sandbox(&self) -> Counted<'_> {
        self.sandboxes.fetch_add(1, Ordering::Relaxed);
        Counted(&self.sandboxes)
    }

    pub(super) fn answered(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Sandboxes that run.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.sandboxes.load(Ordering::Relaxed)
    }

    /// Tokens that the model wrote.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Answers of the model.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// How many samples wait for what.
    #[must_use]
    pub fn waits(&self) -> BTreeMap<Wait, usize> {
        let mut waits = BTreeMap::new();
        for activity in self.lock().values() {
            *waits.entry(activity.lock().wait).or_default() += 1;
        }
        waits
    }

    /// The samples that have waited for one thing for so long, each told once.
    pub(super) fn stalled(&self, after: Duration) -> Vec<Stalled> {
        let working = self.lock();
        let stalled = working.values().filter_map(|activity| {
            let mut doing = activity.lock();
            let time = doing.since.elapsed();
            let new = time >= after && !std::mem::replace(&mut doing.told, time >= after);
            new.then(|| Stalled {
                name: activity.name.clone(),
                wait: doing.wait,
                time,
            })
        });
        stalled.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// From now on it waits for this.
    pub(super) fn waits_for(&self, wait: Wait) {
        *self.lock() = Doing {
            wait,
            since: Instant::now(),
            told: false,
        };
    }

    fn lock(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Working<'_> {
    type Target = Activity;

    fn deref(&self) -> &Activity {
        &self.activity
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.live.lock().remove(&self.number);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_until_the_sample_gets_on() {
        let live = Live::default();
        let one = live.begin("one");
        let _two = live.begin("two");
        one.waits_for(Wait::Model);
        assert_eq!(live.stalled(Duration::from_secs(3600)), []);
        let told = live.stalled(Duration::ZERO);
        let told: Vec<_> = told.iter().map(|s| (s.name.as_str(), s.wait)).collect();
        assert_eq!(told, [("one", Wait::Model), ("two", Wait::Start)]);
        assert_eq!(live.stalled(Duration::ZERO), []);
        one.waits_for(Wait::Tool);
        assert_eq!(live.stalled(Duration::ZERO).len(), 1);
        assert_eq!(live.waits(), [(Wait::Start, 1), (Wait::Tool, 1)].into());
        drop(one);
        assert_eq!(live.waits(), [(Wait::Start, 1)].into());
    }

    #[test]
    fn sandboxes_are_counted_while_they_run() {
        let live = Live::default();
        let first = live.sandbox();
        let _second = live.sandbox();
        drop(first);
        assert_eq!(live.sandboxes(), 1);
    }
}
