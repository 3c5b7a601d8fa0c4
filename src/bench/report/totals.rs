//! Sums over samples: tokens, times, memory and disk.

use serde::Serialize;

use crate::bench::ledger::Record;

/// Sums.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Samples.
    pub samples: u64,
    /// Turns.
    pub turns: u64,
    /// Tokens of all requests: what came before is in each of them once more.
    pub prompt_tokens: u64,
    /// Of these: served from a cache, where the server tells.
    pub cached_tokens: u64,
    /// Tokens that the model wrote.
    pub completion_tokens: u64,
    /// Tokens of the first requests: the task.
    pub task_tokens: u64,
    /// Tokens that joined later and that no model wrote: what commands printed, with what is around it.
    pub environment_tokens: u64,
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
    /// Seconds of anything else: waiting for a turn.
    pub waiting_s: f64,
    /// Seconds in all.
    pub total_s: f64,
    /// Seconds in which at least one sample was at work; pauses between sessions are none.
    pub busy_s: f64,
    /// Samples for each minute of these.
    pub queries_per_minute: Option<f64>,
    /// CPU seconds of the sandboxes.
    pub cpu_s: f64,
    /// The most memory that a sandbox had in use.
    pub peak_memory_bytes: Quantiles,
    /// What a sandbox had written at its end.
    pub written_bytes: Quantiles,
    /// The same, of all of them.
    pub all_written_bytes: u64,
    #[serde(skip)]
    spans: Vec<(f64, f64)>,
    #[serde(skip)]
    peaks: Vec<u64>,
    #[serde(skip)]
    written: Vec<u64>,
}

/// Half, nineteen of twenty, and all are at or below; all 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Values.
    pub n: u64,
    /// Half.
    pub median: u64,
    /// Nineteen of twenty.
    pub p95: u64,
    /// All.
    pub max: u64,
}

impl Quantiles {
    fn of(values: &mut [u64]) -> Self {
        values.sort_unstable();
        let at = |percent: usize| {
            let place = (values.len() * percent).div_ceil(100).max(1) - 1;
            values.get(place).copied().unwrap_or(0)
        };
        Self {
            n: values.len() as u64,
            median: at(50),
            p95: at(95),
            max: at(100),
        }
    }
}

/// Tokens of one sample by where they came from. A server counts requests and answers; what joined between an answer and the
/// next request is the rest. Reasoning that is not sent back makes requests shorter, so a difference below 0 counts as 0.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TokenOrigin {
    task: u64,
    environment: u64,
    last: Option<u64>,
}

impl TokenOrigin {
    pub(super) fn completion(&mut self, prompt: u64, completion: u64) {
        match self.last {
            None => self.task = prompt,
            Some(before) => add(&mut self.environment, prompt.saturating_sub(before)),
        }
        self.last = Some(prompt.saturating_add(completion));
    }
}

impl Totals {
    /// Adds a sample whose record began at this time.
    pub(super) fn add(&mut self, record: &Record, origin: TokenOrigin, began: Option<f64>) {
        let times = &record.times;
        self.samples += 1;
        self.turns += u64::from(record.steps);
        add(&mut self.prompt_tokens, record.usage.prompt_tokens);
        add(
            &mut self.cached_tokens,
            record.usage.cached_tokens.unwrap_or(0),
        );
        add(&mut self.completion_tokens, record.usage.completion_tokens);
        add(&mut self.task_tokens, origin.task);
        add(&mut self.environment_tokens, origin.environment);
        self.model_s += times.model;
        self.tools_s += times.tools;
        self.start_s += times.start;
        self.end_s += times.end;
        self.score_s += times.score;
        self.total_s += times.total;
        let known = times.model + times.tools + times.start + times.end + times.score;
        self.waiting_s += (times.total - known).max(0.0);
        if let Some(began) = began {
            let start = began - times.start;
            self.spans.push((start, start + times.total));
        }
        let Some(usage) = &record.sandbox else {
            return;
        };
        self.cpu_s += usage.cpu.map_or(0.0, |time| time.as_secs_f64());
        self.peaks.extend(usage.peak_memory_bytes);
        self.written.extend(usage.written_bytes);
    }

    /// Makes what needs all samples.
    pub(super) fn finish(&mut self) {
        // Nobody knows when those without a record were at work.
        let timed = real(self.spans.len() as u64);
        self.busy_s = covered(&mut std::mem::take(&mut self.spans));
        self.queries_per_minute = (self.busy_s > 0.0).then(|| timed * 60.0 / self.busy_s);
        let all = self.written.iter();
        self.all_written_bytes = all.fold(0, |sum, bytes| sum.saturating_add(*bytes));
        self.peak_memory_bytes = Quantiles::of(&mut std::mem::take(&mut self.peaks));
        self.written_bytes = Quantiles::of(&mut std::mem::take(&mut self.written));
    }

    /// Tokens as a conversation holds them at its end, each once.
    pub(super) fn tokens(&self) -> u64 {
        let written = self.task_tokens.saturating_add(self.environment_tokens);
        written.saturating_add(self.completion_tokens)
    }

    /// A sum for each sample.
    pub(super) fn each(&self, sum: f64) -> Option<f64> {
        (self.samples > 0).then(|| sum / real(self.samples))
    }
}

/// Seconds that lie in at least one of the spans.
fn covered(spans: &mut [(f64, f64)]) -> f64 {
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::NEG_INFINITY);
    for (start, end) in spans.iter() {
        if *end > until {
            sum += end - start.max(until);
            until = *end;
        }
    }
    sum
}

/// Tokens are what a server says.
pub(super) fn add(sum: &mut u64, number: u64) {
    *sum = sum.saturating_add(number);
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts for people")]
pub(super) fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_model_wrote_came_from_the_environment() {
        let mut origin = TokenOrigin::default();
        // 100 of the task; the model writes 20, a command prints 30; then 5, of which the next request lacks the reasoning.
        for (prompt, completion) in [(100, 20), (150, 5), (152, 7)] {
            origin.completion(prompt, completion);
        }
        assert_eq!((origin.task, origin.environment), (100, 30));
        for _ in 0..2 {
            origin.completion(u64::MAX, u64::MAX);
            origin.completion(0, 0);
        }
        assert_eq!(origin.environment, u64::MAX);
    }

    #[test]
    fn pauses_are_no_work_and_overlaps_count_once() {
        assert_eq!(
            covered(&mut [(10.0, 12.0), (0.0, 4.0), (1.0, 2.0), (3.0, 5.0)]),
            7.0
        );
        assert_eq!(covered(&mut []), 0.0);
        let mut sums = Totals {
            samples: 5,
            spans: vec![(0.0, 60.0), (30.0, 120.0)],
            ..Totals::default()
        };
        sums.finish();
        assert_eq!((sums.busy_s, sums.queries_per_minute), (120.0, Some(1.0)));
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let mut values: Vec<u64> = (1..=20).rev().collect();
        let found = Quantiles::of(&mut values);
        assert_eq!(
            (found.n, found.median, found.p95, found.max),
            (20, 10, 19, 20)
        );
        assert_eq!(Quantiles::of(&mut []), Quantiles::default());
        assert_eq!(Quantiles::of(&mut [7]).median, 7);
    }
}
