//! What a run came to, for programs and for people: scores, what the computer was used for, tokens, time, and why a sample has no
//! full score.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::BenchError;
use super::capability::Capabilities;
use super::compare::Comparison;
use super::ledger::{Ledger, Record, Status};
use super::manifest::Manifest;
use super::plan::Job;
use super::summary::{Summary, summarize};
use crate::outcome::{Outcome, Policy};
use crate::task::Task;

/// Samples that are listed with the reason for their score; all of them are in the JSON.
const LISTED: usize = 200;
/// Characters of a reason.
const REASON: usize = 200;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it was begun with.
    pub run: Manifest,
    /// All samples.
    pub summary: Summary,
    /// By field of knowledge.
    pub domains: BTreeMap<String, Domain>,
    /// How samples ended, by kind.
    pub endings: BTreeMap<String, usize>,
    /// Sums over all samples that are known.
    pub totals: Totals,
    /// Samples without a full score.
    pub short: Vec<Short>,
    /// Against another run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// One field of knowledge.
#[derive(Debug, Clone, Serialize)]
pub struct Domain {
    /// Its scores.
    pub summary: Summary,
    /// What the computer was used for.
    pub capabilities: Capabilities,
}

/// Sums.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Samples.
    pub samples: u64,
    /// Turns.
    pub turns: u64,
    /// Tokens of all requests.
    pub prompt_tokens: u64,
    /// Tokens that the model wrote.
    pub completion_tokens: u64,
    /// Seconds of waiting for the model.
    pub model_s: f64,
    /// Seconds of carrying out calls.
    pub tools_s: f64,
    /// Seconds of starting sandboxes.
    pub start_s: f64,
    /// Seconds of ending them.
    pub end_s: f64,
    /// Seconds of scoring.
    pub score_s: f64,
    /// Seconds in all.
    pub total_s: f64,
    /// The most memory that a sandbox had in use.
    pub peak_memory_bytes: u64,
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

/// Reads everything that a run left.
///
/// # Errors
/// [`BenchError`] when results cannot be read again.
pub fn report(
    ledger: &mut Ledger,
    manifest: &Manifest,
    task: &Task,
    jobs: &[Job],
) -> Result<Report, BenchError> {
    let (summary, domains) = summarize(ledger, jobs, task);
    let mut domains: BTreeMap<String, Domain> = domains
        .into_iter()
        .map(|(name, summary)| {
            let capabilities = Capabilities::default();
            (
                name,
                Domain {
                    summary,
                    capabilities,
                },
            )
        })
        .collect();
    let mut totals = Totals::default();
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    let mut short = Vec::new();
    for job in jobs {
        let (Some(record), Some(row)) = (ledger.read(&job.key)?, task.rows.get(job.row)) else {
            continue;
        };
        totals.add(&record);
        *endings.entry(ending(&record.outcome)).or_default() += 1;
        let path = ledger
            .folder()
            .join(&record.folder)
            .join("trajectory.jsonl");
        // A record that is gone has no turns.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(domain) = domains.get_mut(row.domain()) {
            domain.capabilities.add(Capabilities::of_record(&text));
        }
        if record.score.is_none_or(|score| score < 1.0) {
            short.push(Short {
                why: why(&record, &row.truth()),
                id: record.id,
                repeat: record.repeat,
                status: record.status,
                score: record.score,
                folder: record.folder,
            });
        }
    }
    Ok(Report {
        run: manifest.clone(),
        summary,
        domains,
        endings,
        totals,
        short,
        comparison: None,
    })
}

impl Totals {
    fn add(&mut self, record: &Record) {
        let times = &record.times;
        self.samples += 1;
        self.turns += u64::from(record.steps);
        self.prompt_tokens += record.usage.prompt_tokens;
        self.completion_tokens += record.usage.completion_tokens;
        self.model_s += times.model;
        self.tools_s += times.tools;
        self.start_s += times.start;
        self.end_s += times.end;
        self.score_s += times.score;
        self.total_s += times.total;
        let peak = record
            .sandbox
            .as_ref()
            .and_then(|usage| usage.peak_memory_bytes);
        self.peak_memory_bytes = self.peak_memory_bytes.max(peak.unwrap_or(0));
    }
}

/// How a sample ended, in a word or two.
fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Policy(Policy::Submitted) => "submitted".to_owned(),
        Outcome::Policy(Policy::Budget { budget }) => format!("budget: {budget}"),
        Outcome::Policy(Policy::Limit(hit)) => format!("limit: {}", hit.name()),
        Outcome::Policy(_) => "the model, in another way".to_owned(),
        Outcome::Infrastructure(failure) => {
            let cause = serde_json::to_value(failure.cause).unwrap_or_default();
            format!("infrastructure: {}", cause.as_str().unwrap_or("other"))
        }
    }
}

/// Why a sample has no full score: whose doing it was, and what is known of it.
fn why(record: &Record, truth: &str) -> String {
    if let Outcome::Infrastructure(failure) = &record.outcome {
        return cut(&format!("{}: {}", ending(&record.outcome), failure.detail));
    }
    if let Some(waits) = &record.pending {
        return cut(&format!("pending: {waits}"));
    }
    let struck = record.sandbox.iter().flat_map(|usage| &usage.struck);
    let struck: String = struck
        .filter(|hit| hit.can_end())
        .map(|hit| format!("; {hit}"))
        .collect();
    let answer = match &record.answer {
        Some(answer) if answer.is_empty() => "answer.txt is empty".to_owned(),
        Some(answer) => format!("answered {answer:?}, expected {truth:?}"),
        None => "left no answer".to_owned(),
    };
    cut(&format!("{}; {answer}{struck}", ending(&record.outcome)))
}

fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(REASON).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

impl Report {
    /// As Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let config = &self.run.config;
        let mut out = format!("# {} with {}\n\n", cell(&config.task), cell(&config.model));
        let mode = serde_json::to_value(config.mode).unwrap_or_default();
        let _ = writeln!(
            out,
            "Mode {}, {} sample(s) of each row, at most {} turns, run `{}`.\n",
            mode.as_str().unwrap_or(""),
            config.repeat,
            config.max_steps,
            self.run.digest.get(..12).unwrap_or("")
        );
        self.scores(&mut out);
        self.capabilities(&mut out);
        self.costs(&mut out);
        self.reasons(&mut out);
        out
    }

    fn scores(&self, out: &mut String) {
        out.push_str("## Scores\n\n| | mean | 95 % interval | n | pending | infrastructure | not done |\n|---|---|---|---|---|---|---|\n");
        let all = [("all".to_owned(), &self.summary)];
        let parts = self
            .domains
            .iter()
            .map(|(name, part)| (cell(name), &part.summary));
        for (name, part) in all.into_iter().chain(parts) {
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {} | {} |",
                number(part.mean),
                range(part.interval_95),
                part.scored,
                part.pending,
                part.infrastructure_failures,
                part.missing
            );
        }
        out.push_str("\nWhat is pending, failed by infrastructure or not done is in no mean.\n\n");
        for (k, rate) in &self.summary.pass_at {
            let _ = writeln!(out, "- pass@{k}: {rate:.4}");
        }
        if let Some(pair) = &self.comparison {
            let _ = writeln!(
                out,
                "## Against the other run\n\nOver {} problems with a score in both ({} left out): {} here, {} there; \
                 difference {}, 95 % interval {}; there better on {}, worse on {}.\n",
                pair.n,
                pair.excluded,
                number(pair.first),
                number(pair.second),
                number(pair.difference),
                range(pair.interval_95),
                pair.better,
                pair.worse
            );
        }
    }

    fn capabilities(&self, out: &mut String) {
        out.push_str("## What the computer was used for\n\nShare of turns, by the words of commands and programs.\n\n| | turns | external resources | files | computation |\n|---|---|---|---|---|\n");
        for (name, domain) in &self.domains {
            let seen = domain.capabilities;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                cell(name),
                seen.turns,
                share(seen.external, seen.turns),
                share(seen.files, seen.turns),
                share(seen.computation, seen.turns)
            );
        }
        out.push('\n');
    }

    fn costs(&self, out: &mut String) {
        let sums = &self.totals;
        let _ = writeln!(
            out,
            "## Tokens and time\n\n{} samples, {} turns; {} tokens of requests, {} of answers; largest sandbox {} MiB.\n\n\
             | model | tools | start | end | scoring | all |\n|---|---|---|---|---|---|\n\
             | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} s |\n",
            sums.samples,
            sums.turns,
            sums.prompt_tokens,
            sums.completion_tokens,
            sums.peak_memory_bytes >> 20,
            sums.model_s,
            sums.tools_s,
            sums.start_s,
            sums.end_s,
            sums.score_s,
            sums.total_s
        );
    }

    fn reasons(&self, out: &mut String) {
        out.push_str("## How samples ended\n\n");
        for (name, count) in &self.endings {
            let _ = writeln!(out, "- {}: {count}", cell(name));
        }
        let _ = writeln!(
            out,
            "\n## Why not full score\n\n| sample | score | why | record |\n|---|---|---|---|"
        );
        for sample in self.short.iter().take(LISTED) {
            let repeat = match sample.repeat {
                0 => String::new(),
                n => format!(" #{}", u64::from(n) + 1),
            };
            let _ = writeln!(
                out,
                "| {}{repeat} | {} | {} | {} |",
                cell(&sample.id),
                number(sample.score),
                cell(&sample.why),
                cell(&sample.folder)
            );
        }
        if self.short.len() > LISTED {
            let _ = writeln!(out, "\n{} more in report.json.", self.short.len() - LISTED);
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

fn range(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |[low, high]| format!("{low:.4} to {high:.4}"),
    )
}

#[expect(clippy::cast_precision_loss, reason = "counts of turns")]
fn share(part: u64, of: u64) -> String {
    if of == 0 {
        return "–".to_owned();
    }
    format!("{:.1} %", part as f64 * 100.0 / of as f64)
}

/// Text of a model or of data in a table: one line, and nothing of it is markup.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '!' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
