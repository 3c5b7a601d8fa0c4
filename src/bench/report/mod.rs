//! What a run came to, for programs and for people: scores, what the computer was used for, tokens, time, memory, and why a sample
//! has no full score; alone, or beside other runs over the same problems.
//!
//! Everything is made in one pass over the records, which are read line by line: memory grows with the number of samples, not
//! with what they said.

mod events;
mod gather;
mod html;
mod markdown;
mod reason;
mod text;
mod totals;
mod turns;

use std::collections::BTreeMap;

use serde::Serialize;

pub use gather::{Source, beside, report};
pub use html::Trajectories;
pub use totals::{Quantiles, Totals};
pub use turns::{ByLength, ByTurn};

use super::capability::CapabilityUse;
use super::compare::Comparison;
use super::ledger::Status;
use super::manifest::{Manifest, Mode};
use super::summary::Summary;

/// Runs that one can be put beside: each has a colour of its own.
pub const MAX_OTHERS: usize = 5;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it was begun with.
    pub run: Manifest,
    /// All samples.
    pub summary: Summary,
    /// Sums over all samples that are known.
    pub totals: Totals,
    /// By field of knowledge; one without a name has the rows that name none.
    pub domains: BTreeMap<String, Domain>,
    /// What the computer was used for, in all of them.
    pub capabilities: CapabilityUse,
    /// By number of the turn.
    pub by_turn: Vec<ByTurn>,
    /// By how many turns a sample took.
    pub by_length: Vec<ByLength>,
    /// How samples ended, by kind.
    pub endings: BTreeMap<String, usize>,
    /// Errors that the model was told of, by class.
    pub tool_errors: BTreeMap<String, u64>,
    /// Samples in which a limit of the sandbox struck, by limit.
    pub limits: BTreeMap<String, u64>,
    /// What the image takes, once for all sandboxes.
    pub storage: Option<Storage>,
    /// Samples without a full score: what failed first, then by score.
    pub short: Vec<Short>,
    /// Records that could not be read, wholly or in part.
    pub unread: u64,
    /// Beside which runs it is put.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

/// One field of knowledge.
#[derive(Debug, Clone, Serialize)]
pub struct Domain {
    /// Its scores.
    pub summary: Summary,
    /// What the computer was used for.
    pub capabilities: CapabilityUse,
    /// Its tokens, times and memory.
    pub totals: Totals,
}

/// Disk space of one shared image, beside an image for each problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// Problems.
    pub problems: u64,
    /// The image, which is there once.
    pub image_bytes: u64,
    /// What all samples wrote, which is gone with their sandboxes.
    pub written_bytes: u64,
    /// An image of this size for each problem, without layers in common.
    pub per_problem_bytes: u64,
}

/// A sample without a full score, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Short {
    /// Of the row.
    pub id: String,
    /// From 0.
    pub repeat: u32,
    /// Whether it has a score.
    pub status: Status,
    /// The score.
    pub score: Option<f64>,
    /// The evidence.
    pub why: String,
    /// Where its record is.
    pub folder: String,
}

/// Another run over the same problems.
#[derive(Debug, Clone, Serialize)]
pub struct Other {
    /// What it came to; its samples are in its own report.
    pub report: Report,
    /// Over all problems.
    pub comparison: Comparison,
    /// By field of knowledge.
    pub domains: BTreeMap<String, Comparison>,
}

impl Report {
    /// Of a field of knowledge: its name, or the task's where the rows name none.
    fn name_of<'a>(&'a self, domain: &'a str) -> &'a str {
        if domain.is_empty() {
            &self.run.config.task
        } else {
            domain
        }
    }

    /// In a few words, what the model had.
    fn mode(&self) -> String {
        let mut mode = match self.run.config.mode {
            Mode::LlmInSandbox => "sandbox".to_owned(),
            Mode::Llm => "plain".to_owned(),
        };
        for ablation in &self.run.config.ablations {
            mode.push_str(&format!(" {ablation}"));
        }
        mode
    }
}
