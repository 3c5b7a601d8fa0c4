//! Evaluation: a task's samples, each given to the model, scored, and written down as soon as it is known.
//!
//! One dispatcher owns what is known; a sample is a task of its own that returns its [`Record`]. Sandboxes and Python scorers
//! are the caller's, behind [`Sandboxes`] and [`Grader`].

mod asking;
mod capability;
mod compare;
mod dispatch;
mod failure;
mod forgetful;
mod gate;
mod judge;
mod ledger;
mod lines;
mod live;
mod log;
mod manifest;
mod memory;
mod merge;
mod original;
mod pace;
mod plain;
mod plan;
mod report;
mod rescore;
mod sample;
mod sandboxed;
mod standing;
mod summary;
mod tested;

use std::future::Future;
use std::path::PathBuf;

pub use capability::{Amounts, Capabilities, CapabilityUse, Seen};
pub use compare::{Comparison, Side, compare, compare_domains};
pub use dispatch::{Dispatch, Stop, Told, run};
pub use gate::Gate;
pub use judge::{
    Answered, Asked, JUDGEMENTS, Judge, JudgeConfig, JudgeSettings, Judged, JudgedFile,
    MAX_REPEATS, Place, Subject, Verdict, import_judged, judged, read_answers, write_judged,
};
pub use ledger::{Ledger, Record, Status, Times};
pub use live::{Live, Stalled, Wait};
pub use manifest::{Manifest, Mode, RunConfig, Shard};
pub use memory::Memory;
pub use merge::merge;
pub use original::write as write_results;
pub use plan::{Job, file_name, jobs};
pub use report::{
    ByLength, ByTurn, Domain, MAX_OTHERS, Other, Quantiles, Report, Short, Source, Storage, Totals,
    Trajectories, beside, report,
};
pub use rescore::{Rescored, Scores, Scoring, rescore};
pub use sample::{Models, Shared};
pub use standing::Standing;
pub use summary::{Summary, summarize};
pub use tested::{MAX_REWARD, TestFailure, Tested};

use crate::agent::SandboxFacts;
use crate::env::Env;
use crate::outcome::Outcome;
use crate::spec::Usage;
use crate::task::Row;

/// Where sandboxes come from.
pub trait Sandboxes: Send + Sync + 'static {
    /// One of them.
    type Env: Env + Send + Sync;

    /// Starts one for this row.
    fn start(&self, row: usize) -> impl Future<Output = Result<Self::Env, Outcome>> + Send;

    /// Ends one.
    fn end(&self, env: Self::Env) -> impl Future<Output = Result<Usage, Outcome>> + Send;

    /// What the record of a sample says of its sandbox.
    fn facts(&self, row: usize, env: &Self::Env) -> SandboxFacts;

    /// Ends one, and has the tests of its row judge what it held, in a new one.
    fn test(
        &self,
        row: usize,
        env: Self::Env,
    ) -> impl Future<Output = (Result<Tested, Outcome>, Result<Usage, Outcome>)> + Send;
}

/// Runs the Python of a task, away from every sandbox of the model.
pub trait Grader: Send + Sync + 'static {
    /// Whether two answers are mathematically equal, by computer algebra.
    fn math(&self, answer: &str, truth: &str) -> impl Future<Output = Result<bool, String>> + Send;

    /// Whether an answer follows all instructions of its row: 1 or 0.
    fn follows(&self, row: &Row, answer: &str) -> impl Future<Output = Result<f64, String>> + Send;

    /// `compute_score` of an answer.
    fn score(&self, row: &Row, answer: &str) -> impl Future<Output = Result<f64, String>> + Send;

    /// `create_prompt` of a row.
    fn prompt(&self, row: &Row) -> impl Future<Output = Result<String, String>> + Send;
}

/// An evaluation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file of the run folder.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the run folder does not hold what it should.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Somebody else works on the folder.
    #[error("another process works on {0}: wait for its end, or choose another folder")]
    Locked(PathBuf),
    /// The folder was begun with other settings.
    #[error(
        "{folder} was begun with other settings: {differences}; leave these flags away, or begin a new run"
    )]
    Differs {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        differences: String,
    },
    /// Recorded answers cannot be used.
    #[error(transparent)]
    Model(#[from] crate::llm::LlmError),
}

impl BenchError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
