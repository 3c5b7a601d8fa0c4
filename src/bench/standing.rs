//! How a run stands while it goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ledger::{Record, Status};
use super::live::Wait;

/// Two-sided 95 % of a normal distribution.
const Z: f64 = 1.96;

/// Counts of this run of the program.
#[derive(Debug, Clone)]
pub struct Standing {
    begun: Instant,
    /// Samples that it set out to do.
    pub total: usize,
    /// Samples that are done.
    pub done: usize,
    /// With a score.
    pub scored: usize,
    sum: f64,
    squares: f64,
    /// Waiting for a score.
    pub pending: usize,
    /// Failed through no fault of the model.
    pub failed: usize,
    /// At work.
    pub running: usize,
    /// Samples that may be at work.
    pub allowed: usize,
    /// Requests that may be under way.
    pub requests_allowed: usize,
    /// Sandboxes that run.
    pub sandboxes: usize,
    /// Tokens that the model wrote.
    pub tokens: u64,
    /// Answers of the model.
    pub turns: u64,
    /// How many samples wait for what.
    pub waits: BTreeMap<Wait, usize>,
}

impl Standing {
    pub(super) fn new(total: usize) -> Self {
        Self {
            begun: Instant::now(),
            total,
            done: 0,
            scored: 0,
            sum: 0.0,
            squares: 0.0,
            pending: 0,
            failed: 0,
            running: 0,
            allowed: 0,
            requests_allowed: 0,
            sandboxes: 0,
            tokens: 0,
            turns: 0,
            waits: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, record: &Record) {
        self.done += 1;
        match (record.status, record.score) {
            (Status::Scored, Some(score)) => {
                self.scored += 1;
                self.sum += score;
                self.squares += score * score;
            }
            (Status::Failed, _) => self.failed += 1,
            (Status::Scored | Status::Pending, _) => self.pending += 1,
        }
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Mean of the scores so far.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    pub fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.sum / self.scored as f64)
    }

    /// How far the mean of all samples may be from it, roughly. The results have the interval that counts.
    ///
    /// Each sample counts for itself. Two more that are right and two that are wrong are added, as Agresti and Coull do: a few
    /// equal scores are no certainty.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of samples")]
    pub fn margin(&self) -> Option<f64> {
        let n = self.scored as f64 + 4.0;
        let (mean, squares) = ((self.sum + 2.0) / n, (self.squares + 2.0) / n);
        let variance = (squares - mean * mean).max(0.0);
        (self.scored > 0).then(|| Z * (variance / n).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_its_margin() {
        let mut standing = Standing::new(4);
        assert_eq!((standing.mean(), standing.margin()), (None, None));
        for (score, mean, margin) in [(1.0, 1.0, 0.429), (1.0, 1.0, 0.377), (0.0, 0.667, 0.367)] {
            standing.scored += 1;
            standing.sum += score;
            standing.squares += score * score;
            assert!((standing.mean().unwrap() - mean).abs() < 0.001);
            let margin_now = standing.margin().unwrap();
            assert!((margin_now - margin).abs() < 0.001, "{margin_now}");
        }
    }
}
