//! `judgements.jsonl`: every question to a judge and what came of it. Nothing is ever changed in it.
//!
//! A line is written with one call; a half line of a crash is cut off by the next run. Of several verdicts on one question the
//! last counts, and a line without a verdict never hides one with.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::BenchError;
use super::prompt::{Subject, Verdict};
use super::{JudgeConfig, Judged};
use crate::llm::{Message, TokenUsage};

/// The file of a run folder.
pub const FILE: &str = "judgements.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Judgement {
    /// Key of the sample, as in `results.jsonl`; its id where there is no run.
    pub key: String,
    /// Id of the sample.
    pub id: String,
    /// Digest of question, references and answer.
    pub subject: String,
    /// Digest of the prompt and of what decides the reply: model, sampling, tokens.
    pub asked: String,
    /// Which judgement of this answer, from 0.
    pub number: u32,
    /// How many there are to be.
    pub of: u32,
    /// The judge.
    pub judge: JudgeConfig,
    /// What it was asked.
    pub prompt: Vec<Message>,
    /// What it replied, as it came.
    pub reply: Option<String>,
    /// Its reasoning, where the server gives it apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Why the reply ended.
    pub finish_reason: Option<String>,
    /// What was read from the reply.
    pub verdict: Verdict,
    /// Why there is no verdict.
    pub error: Option<String>,
    /// Tokens.
    pub usage: Option<TokenUsage>,
    /// Requests it took.
    pub attempts: u32,
    /// Seconds it took.
    pub seconds: f64,
}

impl Judgement {
    /// One without a reply so far.
    pub(super) fn new(key: &str, id: &str, subject: &Subject<'_>, judge: JudgeConfig) -> Self {
        Self {
            key: key.to_owned(),
            id: id.to_owned(),
            subject: subject.digest(),
            asked: String::new(),
            number: 0,
            of: judge.repeats,
            judge,
            prompt: Vec::new(),
            reply: None,
            reasoning: None,
            finish_reason: None,
            verdict: Verdict::Error,
            error: None,
            usage: None,
            attempts: 0,
            seconds: 0.0,
        }
    }
}

/// What is known of one judge's verdicts on one answer.
#[derive(Debug)]
struct Known {
    subject: String,
    verdicts: Vec<Option<Verdict>>,
}

/// The judgements of a run, held by one process.
#[derive(Debug)]
pub(super) struct Judgements {
    path: PathBuf,
    /// Holds the lock, too; absent where there is only something to read.
    file: Option<File>,
    /// By sample and question.
    known: HashMap<(String, String), Known>,
    /// Sample to the question that was judged last.
    last: HashMap<String, String>,
}

impl Judgements {
    /// For new judgements.
    pub(super) fn open(path: &Path) -> Result<Self, BenchError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(BenchError::file("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BenchError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(BenchError::file("lock", path)(source)),
        }
        let mut record = Self::empty(path);
        let length = record.learn_all(&file)?;
        file.set_len(length)
            .map_err(BenchError::file("mend", path))?;
        record.file = Some(file);
        Ok(record)
    }

    /// For those that are there; nothing where there are none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, BenchError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BenchError::file("open", path)(error)),
        };
        let mut record = Self::empty(path);
        record.learn_all(&file)?;
        Ok(Some(record))
    }

    fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            known: HashMap::new(),
            last: HashMap::new(),
        }
    }

    /// Reads all whole lines and gives their length.
    fn learn_all(&mut self, file: &File) -> Result<u64, BenchError> {
        let mut reader = BufReader::new(file);
        let (mut line, mut number, mut length) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            let size = reader.read_until(b'\n', &mut line);
            let size = size.map_err(BenchError::file("read", &self.path))?;
            if !line.ends_with(b"\n") {
                return Ok(length);
            }
            number += 1;
            let judgement = serde_json::from_slice(&line).map_err(|e| BenchError::Malformed {
                path: self.path.clone(),
                problem: format!("line {number}: {e}"),
            })?;
            self.learn(&judgement);
            length += size as u64;
        }
    }

    fn learn(&mut self, judgement: &Judgement) {
        let place = (judgement.key.clone(), judgement.asked.clone());
        let known = self.known.entry(place).or_insert_with(|| Known {
            subject: judgement.subject.clone(),
            verdicts: Vec::new(),
        });
        let wanted = judgement.of.max(judgement.number.saturating_add(1));
        // A file may say what it will; nobody asks a judge so often about one answer.
        let wanted = wanted.min(super::MAX_REPEATS) as usize;
        if known.verdicts.len() != wanted {
            known.verdicts.resize(wanted, None);
        }
        let slot = known.verdicts.get_mut(judgement.number as usize);
        if let (Some(slot), Some(_)) = (slot, judgement.verdict.score()) {
            *slot = Some(judgement.verdict);
            self.last
                .insert(judgement.key.clone(), judgement.asked.clone());
        }
    }

    /// Writes one down.
    pub(super) fn append(&mut self, judgement: &Judgement) -> Result<(), BenchError> {
        let error = BenchError::file("write", &self.path);
        let encoded = serde_json::to_vec(judgement).map_err(std::io::Error::from);
        let written = encoded.and_then(|mut line| {
            line.push(b'\n');
            let file = self.file.as_mut();
            file.ok_or(std::io::ErrorKind::PermissionDenied)?
                .write_all(&line)
        });
        written.map_err(error)?;
        self.learn(judgement);
        Ok(())
    }

    /// The verdict on a question, if there is one.
    pub(super) fn verdict(&self, key: &str, asked: &str, number: u32) -> Option<Verdict> {
        let known = self.known.get(&(key.to_owned(), asked.to_owned()))?;
        known.verdicts.get(number as usize).copied().flatten()
    }

    /// All verdicts of the judge that judged this answer of the sample last.
    pub(super) fn last(&self, key: &str, subject: &str) -> Option<Judged> {
        let asked = self.last.get(key)?;
        let known = self.known.get(&(key.to_owned(), asked.clone()))?;
        (known.subject == subject).then(|| {
            let verdicts = known.verdicts.iter();
            let verdicts = verdicts.map(|verdict| verdict.unwrap_or(Verdict::Error));
            Judged {
                verdicts: verdicts.collect(),
                error: None,
            }
        })
    }
}

/// Appends the judgements of one run folder to those of another.
pub(in super::super) fn merge(from: &Path, to: &Path) -> Result<(), BenchError> {
    let from = from.join(FILE);
    if Judgements::read(&from)?.is_none() {
        return Ok(());
    }
    let text = std::fs::read(&from).map_err(BenchError::file("read", &from))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n');
    let lines = text.get(..whole.map_or(0, |end| end + 1)).unwrap_or(&[]);
    let mut target = Judgements::open(&to.join(FILE))?;
    let written = target.file.as_mut().map(|file| file.write_all(lines));
    written
        .unwrap_or(Ok(()))
        .map_err(BenchError::file("write", &target.path))
}
