//! One pass over what a run left.

use std::collections::{BTreeMap, BTreeSet};

use super::html::Trajectories;
use super::reason::{ending, why};
use super::totals::{TokenOrigin, Totals};
use super::turns::Turns;
use super::{Domain, Other, Report, Short, Storage, events};
use crate::bench::BenchError;
use crate::bench::capability::{CapabilityCount, CapabilityUse};
use crate::bench::compare::{Side, compare, compare_domains};
use crate::bench::ledger::{Ledger, Record, Status};
use crate::bench::manifest::Manifest;
use crate::bench::plan::Job;
use crate::bench::summary::summarize;
use crate::task::Task;
use crate::trajectory::Event;

/// Kinds of errors, ends and limits that are told apart; names come from records.
const MAX_KINDS: usize = 200;

/// A run that can be read.
#[derive(Debug)]
pub struct Source {
    /// Its results.
    pub ledger: Ledger,
    /// What it was begun with.
    pub manifest: Manifest,
    /// Its task.
    pub task: Task,
    /// Its samples.
    pub jobs: Vec<Job>,
    /// Bytes of its image, where it is still there.
    pub image_bytes: Option<u64>,
}

impl Source {
    /// As it is compared.
    #[must_use]
    pub fn side(&self) -> Side<'_> {
        Side {
            ledger: &self.ledger,
            jobs: &self.jobs,
            task: &self.task,
        }
    }

    /// All samples: what failed first, then pending ones, then by score; among equals by the order of the data.
    fn worst_first(&self) -> Vec<Job> {
        let rank = |job: &Job| match self.ledger.get(&job.key) {
            Some(known) if known.status == Status::Failed => (0, 0.0),
            Some(known) => known.score.map_or((1, 0.0), |score| (2, score)),
            None => (3, 0.0),
        };
        let mut ranked: Vec<((u8, f64), &Job)> =
            self.jobs.iter().map(|job| (rank(job), job)).collect();
        ranked.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        ranked.into_iter().map(|(_, job)| job.clone()).collect()
    }
}

/// What is summed up while samples are read.
#[derive(Default)]
struct Gathered {
    totals: Totals,
    capabilities: CapabilityUse,
    turns: Turns,
    endings: BTreeMap<String, usize>,
    tool_errors: BTreeMap<String, u64>,
    limits: BTreeMap<String, u64>,
    short: Vec<Short>,
    unread: u64,
}

/// Reads everything that a run left. Trajectories are written for the page as they are read, as far as its budget goes.
///
/// # Errors
/// [`BenchError`] when results cannot be read again.
pub fn report(run: &mut Source, mut page: Option<&mut Trajectories>) -> Result<Report, BenchError> {
    let (summary, domains) = summarize(&run.ledger, &run.jobs, &run.task);
    let mut domains: BTreeMap<String, Domain> = domains
        .into_iter()
        .map(|(name, summary)| {
            let domain = Domain {
                summary,
                capabilities: CapabilityUse::default(),
                totals: Totals::default(),
            };
            (name, domain)
        })
        .collect();
    let mut all = Gathered::default();
    for job in run.worst_first() {
        let (Some(record), Some(row)) = (run.ledger.read(&job.key)?, run.task.rows.get(job.row))
        else {
            continue;
        };
        let mut origin = TokenOrigin::default();
        let mut count = CapabilityCount::default();
        let mut view = page.as_mut().and_then(|page| page.begin(&record, row));
        let path = run.ledger.folder().join(&record.folder);
        let read = events::read(&path.join("trajectory.jsonl"), |event| {
            all.event(event, &mut origin);
            count.event(event);
            if let Some(view) = &mut view {
                view.event(event);
            }
        });
        let used = count.finish();
        all.unread += u64::from(read.incomplete);
        all.totals.add(&record, origin, read.began);
        all.capabilities.add(&used);
        if let Some(domain) = domains.get_mut(row.domain()) {
            domain.totals.add(&record, origin, read.began);
            domain.capabilities.add(&used);
        }
        let reason = all.sample(record, &row.truth());
        if let (Some(page), Some(view)) = (&mut page, view) {
            page.end(view, reason.as_deref(), read.incomplete);
        }
    }
    all.totals.finish();
    for domain in domains.values_mut() {
        domain.totals.finish();
    }
    let problems: BTreeSet<usize> = run.jobs.iter().map(|job| job.row).collect();
    let storage = run.image_bytes.map(|image_bytes| Storage {
        problems: problems.len() as u64,
        image_bytes,
        written_bytes: all.totals.all_written_bytes,
        per_problem_bytes: image_bytes.saturating_mul(problems.len() as u64),
    });
    Ok(Report {
        run: run.manifest.clone(),
        summary,
        totals: all.totals,
        domains,
        capabilities: all.capabilities,
        by_turn: all.turns.by_turn,
        by_length: all.turns.by_length.into_values().collect(),
        endings: all.endings,
        tool_errors: all.tool_errors,
        limits: all.limits,
        storage,
        short: all.short,
        unread: all.unread,
        others: Vec::new(),
    })
}

/// What another run came to beside this one.
///
/// # Errors
/// [`BenchError`] when results cannot be read again.
pub fn beside(run: &Source, other: &mut Source) -> Result<Other, BenchError> {
    let comparison = compare(run.side(), other.side());
    let domains = compare_domains(run.side(), other.side());
    let mut report = report(other, None)?;
    // They are in its own report.
    report.short.clear();
    Ok(Other {
        report,
        comparison,
        domains,
    })
}

impl Gathered {
    fn event(&mut self, event: &Event, origin: &mut TokenOrigin) {
        self.turns.event(event, origin);
        if let Event::ToolResult {
            error: Some(kind), ..
        } = event
        {
            let name = serde_json::to_value(kind).unwrap_or_default();
            let name = name.as_str().unwrap_or("other").to_owned();
            *self.tool_errors.entry(name).or_default() += 1;
        }
    }

    /// Takes a sample that is over; gives the reason when it has no full score.
    fn sample(&mut self, record: Record, truth: &str) -> Option<String> {
        self.turns.sample(&record);
        let end = ending(&record.outcome);
        if self.endings.len() < MAX_KINDS || self.endings.contains_key(&end) {
            *self.endings.entry(end).or_default() += 1;
        } else {
            *self.endings.entry("others".to_owned()).or_default() += 1;
        }
        let struck: BTreeSet<&str> = record
            .sandbox
            .iter()
            .flat_map(|usage| &usage.struck)
            .map(|hit| hit.name())
            .collect();
        for name in struck {
            *self.limits.entry(name.to_owned()).or_default() += 1;
        }
        if record.score.is_some_and(|score| score >= 1.0) {
            return None;
        }
        let reason = why(&record, truth);
        self.short.push(Short {
            why: reason.clone(),
            id: record.id,
            repeat: record.repeat,
            status: record.status,
            score: record.score,
            folder: record.folder,
        });
        Some(reason)
    }
}
