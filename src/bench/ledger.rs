//! `results.jsonl`: one line for each sample, as soon as it is known.
//!
//! Of several lines with one key the last counts. The sample whose line a crash has cut is done again, and no other.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BenchError;
use super::lines::{self, Lines};
use super::manifest::{self, Manifest};
use super::tested::Tested;
use crate::llm::TokenUsage;
use crate::outcome::Outcome;
use crate::spec::Usage;

/// Whether a sample has a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has.
    Scored,
    /// It has an answer, and the score is to come.
    Pending,
    /// The model could not work for a reason that is not its own.
    Failed,
}

/// Where the time of a sample went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Starting the sandbox and making it ready.
    pub start: f64,
    /// Waiting for the model.
    pub model: f64,
    /// Carrying out calls.
    pub tools: f64,
    /// Ending the sandbox.
    pub end: f64,
    /// Scoring.
    pub score: f64,
    /// All of it.
    pub total: f64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Digest of configuration, row and repeat.
    pub key: String,
    /// Of the row.
    pub id: String,
    /// From 0.
    pub repeat: u32,
    /// Sampling seed.
    pub seed: Option<u64>,
    /// Whether there is a score.
    pub status: Status,
    /// The score.
    pub score: Option<f64>,
    /// What a pending score waits for.
    pub pending: Option<String>,
    /// How the sample ended, and whose doing that was.
    pub outcome: Outcome,
    /// The error behind the end.
    pub detail: Option<String>,
    /// What was scored; absent when the model left none.
    pub answer: Option<String>,
    /// Times that it was begun in this run of the program.
    pub attempts: u32,
    /// Folder of its record, below the run's.
    pub folder: String,
    /// Turns.
    pub steps: u32,
    /// Tokens.
    pub usage: TokenUsage,
    /// Where the time went.
    pub times: Times,
    /// What its sandbox used.
    pub sandbox: Option<Usage>,
    /// What tests said, where tests judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<Tested>,
}

/// What is known of a sample.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Whether there is a score.
    pub status: Status,
    /// The score.
    pub score: Option<f64>,
    /// Where its line begins.
    pub(super) offset: u64,
}

/// The results of a run, held by one process.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    lines: Lines,
    known: HashMap<String, Known>,
    _lock: File,
}

impl Ledger {
    /// Begins a run in an empty folder.
    ///
    /// # Errors
    /// [`BenchError`] when a file cannot be made, or the folder is another's.
    pub fn create(folder: &Path, manifest: &Manifest) -> Result<Self, BenchError> {
        let lock = lock(folder)?;
        let path = folder.join(manifest::FILE);
        let text = serde_json::to_string_pretty(manifest).unwrap_or_default();
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
        written.map_err(BenchError::file("write", &path))?;
        Self::with_lock(folder, lock)
    }

    /// Goes on with a run.
    ///
    /// # Errors
    /// [`BenchError`] when the results cannot be read, or another process works on them.
    pub fn open(folder: &Path) -> Result<Self, BenchError> {
        Self::with_lock(folder, lock(folder)?)
    }

    fn with_lock(folder: &Path, lock: File) -> Result<Self, BenchError> {
        let mut ledger = Self {
            folder: folder.to_owned(),
            lines: Lines::open(&folder.join("results.jsonl"))?,
            known: HashMap::new(),
            _lock: lock,
        };
        let known = &mut ledger.known;
        ledger
            .lines
            .read(|record, place| learn(known, &record, place))?;
        Ok(ledger)
    }

    /// Writes a result down.
    ///
    /// # Errors
    /// [`BenchError`] when the disk refuses it; the run must end then.
    pub fn append(&mut self, record: &Record) -> Result<(), BenchError> {
        let place = self.lines.append(record)?;
        learn(&mut self.known, record, place);
        Ok(())
    }

    /// What is known of a sample.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// The whole line of a sample.
    ///
    /// # Errors
    /// [`BenchError`] when it cannot be read again.
    pub fn read(&mut self, key: &str) -> Result<Option<Record>, BenchError> {
        let known = self.get(key);
        known.map(|known| self.lines.at(known.offset)).transpose()
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn learn(all: &mut HashMap<String, Known>, record: &Record, offset: u64) {
    let known = Known {
        status: record.status,
        score: record.score,
        offset,
    };
    all.insert(record.key.clone(), known);
}

fn lock(folder: &Path) -> Result<File, BenchError> {
    let path = folder.join("lock");
    let mut how = OpenOptions::new();
    let file = how.write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(BenchError::file("open", &path))?;
    lines::lock(&file, folder)?;
    Ok(file)
}

/// Seconds, for a record.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}
