//! Two runs over the same problems, side by side.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::ledger::Ledger;
use super::plan::Job;
use super::summary::{interval, problem_means, share};
use crate::task::Task;

/// A run as it is compared.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its results.
    pub ledger: &'a Ledger,
    /// Its samples.
    pub jobs: &'a [Job],
    /// Its task.
    pub task: &'a Task,
}

/// How the second run does against the first, problem by problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Problems that have a score in both.
    pub n: usize,
    /// Problems of either run that lack one in one of them or in both, and count for nothing here.
    pub excluded: usize,
    /// Mean of the first, over the n.
    pub first: Option<f64>,
    /// Mean of the second, over the n.
    pub second: Option<f64>,
    /// Mean of the differences, second less first.
    pub difference: Option<f64>,
    /// Interval that holds 95 % of it when problems are resampled.
    pub interval_95: Option<[f64; 2]>,
    /// Problems on which the second is better.
    pub better: usize,
    /// Problems on which it is worse.
    pub worse: usize,
}

/// Mean score of each problem that has one. Rows without ids are named by their place, so the expected answer is part of what
/// makes two problems the same.
type Means = BTreeMap<(String, String), Option<f64>>;

/// Compares problem by problem; samples of one problem are averaged first.
#[must_use]
pub fn compare(first: Side<'_>, second: Side<'_>) -> Comparison {
    of(&means(first), &means(second))
}

/// The same for each field of knowledge, as the first run has them.
#[must_use]
pub fn compare_domains(first: Side<'_>, second: Side<'_>) -> BTreeMap<String, Comparison> {
    let rows = first.task.rows.iter();
    let domain: BTreeMap<&str, &str> = rows.map(|row| (row.id(), row.domain())).collect();
    let (a, b, none) = (
        split(&domain, means(first)),
        split(&domain, means(second)),
        Means::new(),
    );
    let of_it = |name| of(a.get(name).unwrap_or(&none), b.get(name).unwrap_or(&none));
    let names: BTreeSet<&str> = domain.values().copied().collect();
    names
        .into_iter()
        .map(|name| (name.to_owned(), of_it(name)))
        .collect()
}

/// By field of knowledge.
fn split<'a>(domain: &BTreeMap<&str, &'a str>, means: Means) -> BTreeMap<&'a str, Means> {
    let mut parts: BTreeMap<&str, Means> = BTreeMap::new();
    for (problem, mean) in means {
        if let Some(name) = domain.get(problem.0.as_str()) {
            parts.entry(name).or_default().insert(problem, mean);
        }
    }
    parts
}

fn of(a: &Means, b: &Means) -> Comparison {
    let pairs: Vec<(f64, f64)> = a
        .iter()
        .filter_map(|(problem, score)| Some(((*score)?, (*b.get(problem)?)?)))
        .collect();
    let differences: Vec<Vec<f64>> = pairs.iter().map(|(a, b)| vec![b - a]).collect();
    let mean = |pick: fn(&(f64, f64)) -> f64| -> Option<f64> {
        (!pairs.is_empty()).then(|| share(pairs.iter().map(pick).sum(), pairs.len()))
    };
    let only_b = b.keys().filter(|problem| !a.contains_key(*problem)).count();
    Comparison {
        n: pairs.len(),
        excluded: a.len() + only_b - pairs.len(),
        first: mean(|pair| pair.0),
        second: mean(|pair| pair.1),
        difference: mean(|pair| pair.1 - pair.0),
        interval_95: interval(&differences),
        better: pairs.iter().filter(|(a, b)| b > a).count(),
        worse: pairs.iter().filter(|(a, b)| b < a).count(),
    }
}

fn means(side: Side<'_>) -> Means {
    let scored = problem_means(side.ledger, side.jobs);
    let rows: BTreeSet<usize> = side.jobs.iter().map(|job| job.row).collect();
    rows.into_iter()
        .filter_map(|at| {
            let row = side.task.rows.get(at)?;
            let problem = (row.id().to_owned(), row.truth());
            Some((problem, scored.get(&at).copied()))
        })
        .collect()
}
