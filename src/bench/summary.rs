//! Statistics over samples. What failed through no fault of the model is counted, and is in no mean.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::{Ledger, Status};
use super::plan::Job;
use crate::task::Task;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// What a run, or a part of it, came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Samples.
    pub total: usize,
    /// With a score: the n of every mean.
    pub scored: usize,
    /// With an answer, and without a score so far.
    pub pending: usize,
    /// Failed through no fault of the model.
    pub infrastructure_failures: usize,
    /// Not done.
    pub missing: usize,
    /// Mean of the scores; absent without any.
    pub mean: Option<f64>,
    /// Interval that holds 95 % of the means of resampled problems; absent where all score alike, and none can differ.
    pub interval_95: Option<[f64; 2]>,
    /// Share of problems that one of k samples solves (score 1), by k.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at: BTreeMap<u32, f64>,
    /// Problems that have k samples with a score: the n of each of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at_n: BTreeMap<u32, usize>,
}

/// Of all samples, in the order of the data, whatever the order in which they ended.
#[must_use]
pub fn summarize(
    ledger: &Ledger,
    jobs: &[Job],
    task: &Task,
) -> (Summary, BTreeMap<String, Summary>) {
    let mut by_domain: BTreeMap<String, Vec<&Job>> = BTreeMap::new();
    for job in jobs {
        let domain = task.rows.get(job.row).map_or("", |row| row.domain());
        by_domain.entry(domain.to_owned()).or_default().push(job);
    }
    let all: Vec<&Job> = jobs.iter().collect();
    let parts = by_domain
        .into_iter()
        .map(|(domain, jobs)| (domain, part(ledger, &jobs)))
        .collect();
    (part(ledger, &all), parts)
}

/// Mean score of each problem that has one, by its row.
pub(super) fn problem_means(ledger: &Ledger, jobs: &[Job]) -> BTreeMap<usize, f64> {
    let mut problems: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for job in jobs {
        if let Some(score) = ledger.get(&job.key).and_then(|known| known.score) {
            problems.entry(job.row).or_default().push(score);
        }
    }
    problems
        .into_iter()
        .filter_map(|(row, scores)| Some((row, mean(std::iter::once(&scores))?)))
        .collect()
}

fn part(ledger: &Ledger, jobs: &[&Job]) -> Summary {
    let (mut pending, mut failed, mut missing) = (0, 0, 0);
    let mut problems: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for job in jobs {
        match ledger
            .get(&job.key)
            .map(|known| (known.status, known.score))
        {
            Some((Status::Scored, Some(score))) => problems.entry(job.row).or_default().push(score),
            Some((Status::Failed, _)) => failed += 1,
            Some((Status::Pending | Status::Scored, _)) => pending += 1,
            None => missing += 1,
        }
    }
    let problems: Vec<Vec<f64>> = problems.into_values().collect();
    let passed = pass_at(&problems);
    Summary {
        total: jobs.len(),
        scored: problems.iter().map(Vec::len).sum(),
        pending,
        infrastructure_failures: failed,
        missing,
        mean: mean(problems.iter()),
        interval_95: interval(&problems),
        pass_at: passed.iter().map(|(k, (rate, _))| (*k, *rate)).collect(),
        pass_at_n: passed.iter().map(|(k, (_, n))| (*k, *n)).collect(),
    }
}

fn mean<'a>(problems: impl Iterator<Item = &'a Vec<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for scores in problems {
        sum += scores.iter().sum::<f64>();
        count += scores.len();
    }
    (count > 0).then(|| share(sum, count))
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
pub(super) fn share(sum: f64, count: usize) -> f64 {
    sum / count as f64
}

/// Percentile bootstrap over problems: samples of one problem are not independent of each other. Where all are alike it would
/// tell of certainty, also after two problems, so there is none.
pub(super) fn interval(problems: &[Vec<f64>]) -> Option<[f64; 2]> {
    if problems.len() < 2 {
        return None;
    }
    // Summed once: with ten thousand problems, twenty million are drawn.
    let sums: Vec<(f64, usize)> = problems
        .iter()
        .map(|scores| (scores.iter().sum(), scores.len()))
        .collect();
    let mut random = Random(problems.len() as u64);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut sum, mut count) = (0.0, 0);
            for _ in 0..sums.len() {
                if let Some((scores, number)) = sums.get(random.below(sums.len())) {
                    sum += scores;
                    count += number;
                }
            }
            share(sum, count)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let low = means.get(RESAMPLES / 40)?;
    let high = means.get(RESAMPLES - 1 - RESAMPLES / 40)?;
    (low < high).then_some([*low, *high])
}

/// The unbiased estimate of M. Chen et al., Evaluating large language models trained on code (2021), for 1, 2, 4…, over problems
/// that have k samples, and how many these are.
fn pass_at(problems: &[Vec<f64>]) -> BTreeMap<u32, (f64, usize)> {
    let most = problems.iter().map(Vec::len).max().unwrap_or(0);
    if most < 2 {
        return BTreeMap::new();
    }
    let steps = std::iter::successors(Some(1_usize), |k| Some(k * 2));
    let ks = steps.take_while(|k| k < &most).chain([most]);
    ks.filter_map(|k| {
        let rates: Vec<f64> = problems
            .iter()
            .filter(|scores| scores.len() >= k)
            .map(|scores| {
                let wrong = scores.iter().filter(|score| **score < 1.0).count();
                1.0 - none_of(scores.len(), wrong, k)
            })
            .collect();
        let rate = mean(std::iter::once(&rates))?;
        Some((u32::try_from(k).ok()?, (rate, rates.len())))
    })
    .collect()
}

/// Probability that k of n samples, drawn without putting back, are all among `wrong`.
#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn none_of(n: usize, wrong: usize, k: usize) -> f64 {
    (0..k)
        .map(|drawn| wrong.saturating_sub(drawn) as f64 / (n - drawn) as f64)
        .product()
}

/// SplitMix64, so that the same results give the same interval everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let wide = u128::from(z) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_narrows_and_holds_the_mean() {
        let coin = |n: usize| {
            (0..n)
                .map(|at| vec![f64::from(at % 2 == 0)])
                .collect::<Vec<_>>()
        };
        let [low, high] = interval(&coin(100)).unwrap();
        // The normal approximation gives 0.402 to 0.598.
        assert!(
            (low - 0.402).abs() < 0.02 && (high - 0.598).abs() < 0.02,
            "{low} {high}"
        );
        // Samples of one problem are drawn together: four that are alike tell no more than one.
        let four: Vec<Vec<f64>> = coin(100).iter().map(|one| one.repeat(4)).collect();
        assert_eq!(interval(&four), interval(&coin(100)));
        let [narrow, wide] = interval(&coin(1000)).unwrap();
        assert!(low < narrow && wide < high);
        assert_eq!(interval(&coin(100)), interval(&coin(100)));
        assert_eq!(interval(&coin(1)), None);
        assert_eq!(interval(&vec![vec![0.0]; 12]), None);
        assert_eq!(mean([].iter()), None);
    }

    #[test]
    fn pass_at_k_is_unbiased() {
        let problems = [vec![1.0, 0.0, 0.0, 0.0], vec![0.0; 4], vec![1.0, 0.9]];
        let rates = pass_at(&problems);
        assert_eq!(rates[&1], ((0.25 + 0.0 + 0.5) / 3.0, 3));
        assert_eq!(rates[&2], ((0.5 + 0.0 + 1.0) / 3.0, 3));
        // The third has no four samples.
        assert_eq!(rates[&4], (0.5, 2));
        // 1 - C(n - c, k) / C(n, k) for n = 10, c = 3, k = 4: 1 - 35 / 210.
        let ten = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!((pass_at(&[ten.to_vec()])[&4].0 - (1.0 - 35.0 / 210.0)).abs() < 1e-12);
        assert!(pass_at(&[vec![1.0]]).is_empty());
    }
}
