//! The files of the original's judge: `trajectory.json` is what it reads, `…_judged.json` what it writes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::super::ledger::Ledger;
use super::super::original::replace;
use super::super::plan::Job;
use super::super::{BenchError, sample};
use super::record::{Judgement, Judgements};
use super::{Judge, JudgeConfig, Judged, MAX_REPEATS, Verdict};
use crate::llm::Sampling;
use crate::task::{Row, Task};

/// `…_judged.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedFile {
    /// Name of the judge.
    pub judge_model: String,
    /// Judgements of each answer.
    pub num_repeats: u32,
    /// All results.
    pub stats: Stats,
    /// Each, by its id as in `trajectory.json`.
    pub results: Map<String, Value>,
}

/// All results.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Answers.
    pub num_problems: usize,
    /// Judgements.
    pub total_judgments: usize,
    /// Of these.
    pub correct: usize,
    /// Of these.
    pub incorrect: usize,
    /// Replies without a verdict.
    pub unknown: usize,
    /// No reply.
    pub errors: usize,
    /// Mean over the answers with a score; none without any. The original counts the others as 0.
    pub mean_score: Option<f64>,
    /// Answers without a score, in no mean.
    pub pending: usize,
}

/// One of the results.
#[derive(Debug, Clone, Serialize)]
struct Entry {
    problem_id: String,
    verdict: Verdict,
    score: Option<f64>,
    num_runs: usize,
    individual_verdicts: Vec<Verdict>,
    individual_scores: Vec<Option<f64>>,
    error: Option<String>,
}

/// Puts results together.
#[must_use]
pub fn judged(
    judge_model: String,
    num_repeats: u32,
    answers: impl IntoIterator<Item = (String, Judged, Option<f64>)>,
) -> JudgedFile {
    let mut stats = Stats::default();
    let mut results = Map::new();
    let mut sum = 0.0;
    for (id, judged, score) in answers {
        let count = |wanted: Verdict| judged.verdicts.iter().filter(|v| **v == wanted).count();
        stats.num_problems += 1;
        stats.total_judgments += judged.verdicts.len();
        stats.correct += count(Verdict::Correct);
        stats.incorrect += count(Verdict::Incorrect);
        stats.unknown += count(Verdict::Unknown);
        stats.errors += count(Verdict::Error);
        match score {
            Some(score) => sum += score,
            None => stats.pending += 1,
        }
        let entry = Entry {
            problem_id: id.clone(),
            verdict: most_frequent(&judged, score),
            score,
            num_runs: judged.verdicts.len(),
            individual_scores: judged.verdicts.iter().map(|v| v.score()).collect(),
            individual_verdicts: judged.verdicts,
            error: judged.error,
        };
        results.insert(id, serde_json::to_value(entry).unwrap_or_default());
    }
    let scored = stats.num_problems - stats.pending;
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    if scored > 0 {
        stats.mean_score = Some(sum / scored as f64);
    }
    JudgedFile {
        judge_model,
        num_repeats,
        stats,
        results,
    }
}

/// Of several equally frequent ones the first, as in the original; of none what the score says that text alone gave.
fn most_frequent(judged: &Judged, score: Option<f64>) -> Verdict {
    if judged.verdicts.is_empty() {
        return match score {
            Some(score) if score >= 1.0 => Verdict::Correct,
            Some(_) => Verdict::Incorrect,
            None => Verdict::Error,
        };
    }
    let order = [
        Verdict::Error,
        Verdict::Unknown,
        Verdict::Incorrect,
        Verdict::Correct,
    ];
    let count = |wanted: &Verdict| judged.verdicts.iter().filter(|v| *v == wanted).count();
    // The last of equal ones is taken.
    order
        .into_iter()
        .max_by_key(count)
        .unwrap_or(Verdict::Error)
}

impl JudgedFile {
    /// Writes it; a reader never sees half of it.
    ///
    /// # Errors
    /// [`BenchError`] when the disk refuses it.
    pub fn write(&self, path: &Path) -> Result<(), BenchError> {
        replace(path, |file| {
            let written = serde_json::to_writer_pretty(file, self);
            written.map_err(|error| BenchError::file("write", path)(error.into()))
        })
    }
}

/// Writes that of a run: each answer's score, with the verdicts where a judge gave it.
///
/// # Errors
/// [`BenchError`] when results cannot be read or the file cannot be written.
pub fn write_judged(
    path: &Path,
    ledger: &mut Ledger,
    task: &Task,
    jobs: &[Job],
    judge: &Judge,
) -> Result<JudgedFile, BenchError> {
    let mut answers = Vec::new();
    for job in jobs {
        let (Some(record), Some(row)) = (ledger.read(&job.key)?, task.rows.get(job.row)) else {
            continue;
        };
        let parts = sample::Parts::of(row);
        let subject = parts.subject(record.answer.as_deref().unwrap_or(""));
        let known = judge.last(&job.key, &subject);
        let known = known.filter(|known| known.score() == record.score);
        let mut judged = known.unwrap_or_else(|| Judged {
            verdicts: Vec::new(),
            error: None,
        });
        judged.error = record.pending.or(record.detail);
        answers.push((listed_as(job, row).to_owned(), judged, record.score));
    }
    let config = judge.config();
    let name = config.map_or_else(String::new, |config| config.model.clone());
    let file = judged(name, config.map_or(1, |config| config.repeats), answers);
    file.write(path)?;
    Ok(file)
}

/// What is taken over of a `…_judged.json`.
#[derive(Debug, Deserialize)]
struct Verdicts {
    judge_model: String,
    results: BTreeMap<String, Given>,
}

/// One of the results.
#[derive(Debug, Deserialize)]
struct Given {
    individual_verdicts: Vec<Verdict>,
}

/// Takes over the verdicts that the original's script gave on the `trajectory.json` of a run; gives how many there were.
///
/// # Errors
/// [`BenchError`] when the file is something else, or the record cannot be written.
pub fn import_judged(
    path: &Path,
    record: &Path,
    ledger: &mut Ledger,
    task: &Task,
    jobs: &[Job],
) -> Result<usize, BenchError> {
    let file = File::open(path).map_err(BenchError::file("open", path))?;
    let given: Verdicts =
        serde_json::from_reader(BufReader::new(file)).map_err(|e| BenchError::Malformed {
            path: path.to_owned(),
            problem: format!("it is no file of verdicts: {e}"),
        })?;
    let mut judgements = Judgements::open(record)?;
    let mut count = 0;
    for job in jobs {
        let (Some(result), Some(row)) = (ledger.read(&job.key)?, task.rows.get(job.row)) else {
            continue;
        };
        let id = listed_as(job, row);
        let Some(Given {
            individual_verdicts: verdicts,
        }) = given.results.get(id)
        else {
            continue;
        };
        let parts = sample::Parts::of(row);
        let subject = parts.subject(result.answer.as_deref().unwrap_or(""));
        for (number, verdict) in (0..MAX_REPEATS).zip(verdicts) {
            let judgement = Judgement {
                asked: format!("by {}", given.judge_model),
                number,
                verdict: *verdict,
                ..Judgement::new(&job.key, id, &subject, judge(&given, verdicts.len()))
            };
            judgements.append(&judgement)?;
            count += 1;
        }
    }
    Ok(count)
}

/// All that is known of the judge of somebody else.
fn judge(given: &Verdicts, repeats: usize) -> JudgeConfig {
    JudgeConfig {
        model: given.judge_model.clone(),
        base_url: None,
        sampling: Sampling::default(),
        extra_body: Map::new(),
        max_tokens: 0,
        repeats: u32::try_from(repeats).unwrap_or(MAX_REPEATS),
    }
}

/// Its name in `trajectory.json`.
fn listed_as<'a>(job: &'a Job, row: &'a Row) -> &'a str {
    if job.repeat == 0 { row.id() } else { &job.name }
}

/// What a judge needs to know of one entry of `trajectory.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Answered {
    /// The problem.
    pub problem_statement: String,
    /// The expected answer.
    pub ground_truth: Value,
    /// What the model answered; none where it came to no answer.
    pub agent_answer: Option<String>,
}

/// Reads the entries of a `trajectory.json`, of ours or of the original, without keeping the turns.
///
/// # Errors
/// [`BenchError`] when there is none, or it is something else.
pub fn read_answers(path: &Path) -> Result<Vec<(String, Answered)>, BenchError> {
    let file = File::open(path).map_err(BenchError::file("open", path))?;
    let Entries(entries) =
        serde_json::from_reader(BufReader::new(file)).map_err(|e| BenchError::Malformed {
            path: path.to_owned(),
            problem: format!("it is no trajectory.json: {e}"),
        })?;
    Ok(entries)
}

/// The members of an object in their order.
struct Entries(Vec<(String, Answered)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of samples by id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verdicts: &[Verdict]) -> (String, Judged, Option<f64>) {
        let judged = Judged {
            verdicts: verdicts.to_vec(),
            error: None,
        };
        let score = judged.score();
        (format!("{verdicts:?}"), judged, score)
    }

    #[test]
    fn a_missing_verdict_is_in_no_mean() {
        use Verdict::{Correct, Error, Incorrect, Unknown};
        let file = judged(
            "m".into(),
            2,
            [
                of(&[Correct, Correct]),
                of(&[Incorrect, Correct]),
                of(&[Unknown, Correct]),
                of(&[Error, Error]),
            ],
        );
        let stats = &file.stats;
        assert_eq!(
            (stats.num_problems, stats.total_judgments, stats.pending),
            (4, 8, 2)
        );
        assert_eq!(
            (stats.correct, stats.incorrect, stats.unknown, stats.errors),
            (4, 1, 1, 2)
        );
        assert_eq!(stats.mean_score, Some(0.75));
        let verdicts: Vec<&Value> = file
            .results
            .values()
            .map(|entry| &entry["verdict"])
            .collect();
        assert_eq!(verdicts, ["CORRECT", "CORRECT", "CORRECT", "ERROR"]);
    }
}
