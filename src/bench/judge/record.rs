//! `judgements.jsonl`: every question to a judge and what came of it.
//!
//! Of several verdicts on one question the last counts, and a line without a verdict never hides one with.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::super::BenchError;
use super::super::lines::{self, Lines};
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
#[derive(Debug, Default)]
pub(super) struct Judgements {
    /// Absent where there is only something to read.
    lines: Option<Lines>,
    /// By sample and question.
    known: HashMap<(String, String), Known>,
    /// Sample to the question that was judged last.
    last: HashMap<String, String>,
}

impl Judgements {
    /// For new judgements.
    pub(super) fn open(path: &Path) -> Result<Self, BenchError> {
        let mut lines = Lines::open(path)?.lock()?;
        let mut record = Self::default();
        lines.read(|judgement, _| record.learn(&judgement))?;
        record.lines = Some(lines);
        Ok(record)
    }

    /// For those that are there; nothing where there are none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, BenchError> {
        let Some(file) = existing(path)? else {
            return Ok(None);
        };
        let mut record = Self::default();
        lines::read(path, &file, |judgement, _| record.learn(&judgement))?;
        Ok(Some(record))
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
        if let Some(lines) = &mut self.lines {
            lines.append(judgement)?;
        }
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

fn existing(path: &Path) -> Result<Option<File>, BenchError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BenchError::file("open", path)(error)),
    }
}

/// Appends the judgements of one run folder to those of another.
pub(in super::super) fn merge(from: &Path, to: &Path) -> Result<(), BenchError> {
    let from = from.join(FILE);
    let Some(mut file) = existing(&from)? else {
        return Ok(());
    };
    let length = lines::read(&from, &file, |_: Judgement, _| {})?;
    file.rewind().map_err(BenchError::file("read", &from))?;
    let mut target = Lines::open(&to.join(FILE))?.lock()?;
    target.read(|_: IgnoredAny, _| {})?;
    target.take(file.take(length))?;
    Ok(())
}
