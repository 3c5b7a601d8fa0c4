//! What turns cost by their number, and what samples come to by how many turns they take.

use std::collections::BTreeMap;

use serde::Serialize;

use super::totals::{TokenOrigin, add};
use crate::bench::ledger::Record;
use crate::trajectory::Event;

/// Turns that are told of one by one.
const MAX_TURNS: usize = 1000;

/// The n-th turns of all samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ByTurn {
    /// Samples that have such a turn.
    pub turns: u64,
    /// Seconds of waiting for the model.
    pub model_s: f64,
    /// Seconds of carrying out calls.
    pub tools_s: f64,
    /// Tokens that the model wrote.
    pub completion_tokens: u64,
}

/// Samples of about the same number of turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ByLength {
    /// Fewest turns.
    pub from: u64,
    /// Most turns.
    pub to: u64,
    /// Samples.
    pub samples: u64,
    /// Of these: with a score.
    pub scored: u64,
    /// Mean of the scores.
    pub mean: Option<f64>,
    #[serde(skip)]
    sum: f64,
}

/// Both, while they grow.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) by_turn: Vec<ByTurn>,
    pub(super) by_length: BTreeMap<u64, ByLength>,
}

impl Turns {
    /// Takes the next event of a sample; the tokens are that sample's.
    pub(super) fn event(&mut self, event: &Event, origin: &mut TokenOrigin) {
        if let Event::Completion {
            step,
            usage,
            model_us,
            ..
        } = event
        {
            let completion = usage.map_or(0, |usage| usage.completion_tokens);
            if let Some(usage) = usage {
                origin.completion(usage.prompt_tokens, completion);
            }
            if let Some(turn) = self.turn(*step) {
                turn.turns += 1;
                turn.model_s += seconds(*model_us);
                add(&mut turn.completion_tokens, completion);
            }
        }
        if let Event::ToolResult { step, tool_us, .. } = event
            && let Some(turn) = self.turn(*step)
        {
            turn.tools_s += seconds(*tool_us);
        }
    }

    /// Takes a sample that is over.
    pub(super) fn sample(&mut self, record: &Record) {
        let (from, to) = bin(record.steps.into());
        let length = self.by_length.entry(from).or_insert(ByLength {
            from,
            to,
            samples: 0,
            scored: 0,
            mean: None,
            sum: 0.0,
        });
        length.samples += 1;
        if let Some(score) = record.score {
            length.scored += 1;
            length.sum += score;
            length.mean = Some(length.sum / super::totals::real(length.scored));
        }
    }

    /// Of this number, from 1.
    fn turn(&mut self, step: u32) -> Option<&mut ByTurn> {
        let at = usize::try_from(step.checked_sub(1)?).ok()?;
        if at >= MAX_TURNS {
            return None;
        }
        if self.by_turn.len() <= at {
            self.by_turn.resize(at + 1, ByTurn::default());
        }
        self.by_turn.get_mut(at)
    }
}

/// 0, 1, 2, 3 to 4, 5 to 8, 9 to 16…
pub(super) fn bin(turns: u64) -> (u64, u64) {
    if turns <= 2 {
        return (turns, turns);
    }
    let to = turns.checked_next_power_of_two().unwrap_or(u64::MAX);
    (to / 2 + 1, to)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_double_and_leave_no_gap() {
        let bins: Vec<(u64, u64)> = (0..=40).map(bin).collect();
        for (turns, (from, to)) in (0..).zip(&bins) {
            assert!((*from..=*to).contains(&turns));
        }
        assert_eq!(bins[5], (5, 8));
        assert_eq!(bins[16], (9, 16));
        assert_eq!(bin(u64::MAX).1, u64::MAX);
    }
}
