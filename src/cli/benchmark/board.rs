//! What a person sees of an evaluation while it goes on: a board on a terminal, lines elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output::note;
use super::super::sanitize::one_line;
use crate::bench::{Record, Standing, Status, Told, Wait};
use crate::outcome::Outcome;

/// The rate of tokens is that of so much time.
const WINDOW: Duration = Duration::from_secs(15);

/// Shows what it is told.
#[derive(Debug)]
pub(super) struct Board {
    bar: Option<ProgressBar>,
    tokens: VecDeque<(Instant, u64)>,
}

impl Board {
    /// On stderr, whatever it is.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            bar,
            tokens: VecDeque::new(),
        }
    }

    pub(super) fn tell(&mut self, told: &Told<'_>) {
        match told {
            Told::Ended(record, standing) => match &self.bar {
                // What went well is in the counts.
                Some(_) if record.status != Status::Failed => self.show(standing),
                Some(_) | None => self.line(&ended(record, standing)),
            },
            Told::Tick(standing) => self.show(standing),
            Told::Again(record) => self.line(&format!(
                "{} failed{} and is begun again",
                one_line(&record.id),
                why(record)
            )),
            Told::Stalled(stalled) => self.line(&format!(
                "{} has waited for {} for {:.0} s",
                one_line(&stalled.name),
                stalled.wait,
                stalled.time.as_secs_f64()
            )),
            Told::Memory(allowed) => self.line(&format!(
                "by the memory of this host {allowed} samples may be at work now"
            )),
        }
    }

    /// Takes the board away.
    pub(super) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }

    fn show(&mut self, standing: &Standing) {
        let now = Instant::now();
        self.tokens.push_back((now, standing.tokens));
        while self.tokens.len() > 2 && self.tokens.get(1).is_some_and(|(at, _)| now - *at > WINDOW)
        {
            self.tokens.pop_front();
        }
        if let Some(bar) = &self.bar {
            let lines = board(standing, rate(&self.tokens));
            bar.set_message(lines.join("\n  "));
        }
    }
}

/// Tokens a second between the first and the last look.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
fn rate(looks: &VecDeque<(Instant, u64)>) -> f64 {
    let (Some((begun, before)), Some((ended, after))) = (looks.front(), looks.back()) else {
        return 0.0;
    };
    let seconds = (*ended - *begun).as_secs_f64();
    if seconds < 0.5 {
        return 0.0;
    }
    after.saturating_sub(*before) as f64 / seconds
}

fn board(standing: &Standing, rate: f64) -> Vec<String> {
    let seconds = standing.elapsed().as_secs();
    let waits: Vec<String> = standing
        .waits
        .iter()
        .map(|(wait, count)| format!("{count} {}", short(*wait)))
        .collect();
    vec![
        format!(
            "{} of {} done, {} at work ({}), {:02}:{:02}:{:02}",
            standing.done,
            standing.total,
            standing.running,
            waits.join(", "),
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
        format!(
            "score {} (n {}), {} pending, {} failed",
            score(standing),
            standing.scored,
            standing.pending,
            standing.failed
        ),
        format!(
            "{rate:.0} tokens/s, {} sandboxes, at most {} samples and {} requests at once",
            standing.sandboxes, standing.allowed, standing.requests_allowed
        ),
    ]
}

fn short(wait: Wait) -> &'static str {
    match wait {
        Wait::Start => "start",
        Wait::Permit => "wait to ask",
        Wait::Model => "model",
        Wait::Retry => "retry",
        Wait::Tool => "tool",
        Wait::Teardown => "end",
        Wait::Grader => "score",
    }
}

fn score(standing: &Standing) -> String {
    match (standing.mean(), standing.margin()) {
        (Some(mean), Some(margin)) => format!("{mean:.4} ± {margin:.4}"),
        (Some(mean), None) => format!("{mean:.4}"),
        (None, _) => "-".to_owned(),
    }
}

/// One line for a sample that ended.
fn ended(record: &Record, standing: &Standing) -> String {
    let result = match (record.status, record.score) {
        (Status::Failed, _) => "failed (infrastructure)".to_owned(),
        (_, Some(score)) => format!("{score:.3}"),
        (_, None) => "pending".to_owned(),
    };
    let failed = match standing.failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    format!(
        "[{}/{}] {}: {result}{}; mean {} (n {}){failed}, {} running, {:.0} s",
        standing.done,
        standing.total,
        one_line(&record.id),
        why(record),
        score(standing),
        standing.scored,
        standing.running,
        standing.elapsed().as_secs_f64()
    )
}

fn why(record: &Record) -> String {
    match &record.outcome {
        Outcome::Infrastructure(failure) => format!(": {}", one_line(&failure.detail)),
        Outcome::Policy(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_window() {
        let now = Instant::now();
        let looks = |seconds: &[(u64, u64)]| {
            let look = |(s, tokens): &(u64, u64)| (now + Duration::from_secs(*s), *tokens);
            seconds.iter().map(look).collect::<VecDeque<_>>()
        };
        for (seen, expected) in [
            (&[][..], 0.0),
            (&[(0, 100)], 0.0),
            (&[(0, 100), (2, 300)], 100.0),
            (&[(5, 100), (9, 100)], 0.0),
        ] {
            assert!((rate(&looks(seen)) - expected).abs() < 1e-9, "{seen:?}");
        }
    }
}
