//! What a model used its computer for: resources from elsewhere, files, computation. A turn may be of several kinds.
//!
//! Told twice: by the words of commands and programs, which are the rules of the paper and only hint (a command that names
//! `curl` need not have reached anything); and by what happened: connections, changes of the writable layer, CPU time.

mod facts;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::trajectory::{Event, Line};

/// Turns that are told of one by one; a record has as many turns as its run allowed.
const MAX_TURNS: usize = 1000;

/// Turns, and those of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// All turns.
    pub turns: u64,
    /// With packages or pages from elsewhere.
    pub external: u64,
    /// With files.
    pub files: u64,
    /// With numbers, loops and solvers.
    pub computation: u64,
}

impl Capabilities {
    /// Adds those of others.
    pub fn add(&mut self, other: Self) {
        self.turns += other.turns;
        self.external += other.external;
        self.files += other.files;
        self.computation += other.computation;
    }
}

/// What one of the two sources says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// All turns.
    pub all: Capabilities,
    /// By turn: the first element sums up the first turns of all samples; its `turns` is how many there are.
    pub by_turn: Vec<Capabilities>,
    /// By how many turns a sample took.
    pub by_length: BTreeMap<u64, Capabilities>,
}

/// What the computer was used for in some samples; [`CapabilityUse::add`] sums up those of a domain, a model or a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityUse {
    /// By the words of commands and programs.
    pub words: Seen,
    /// By what happened; of samples with such a record only, so its `turns` may be fewer.
    pub facts: Seen,
    /// How much of each.
    pub amounts: Amounts,
}

/// Sums over the samples with a record of what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Samples with such a record.
    pub samples: u64,
    /// CPU time of tool calls, in microseconds.
    pub cpu_us: u64,
    /// Processes and threads that began.
    pub processes: u64,
    /// Paths that were created, changed or deleted by tool calls.
    pub paths: u64,
    /// Connections that were let through.
    pub connections: u64,
    /// Bytes that came in through them.
    pub received_bytes: u64,
    /// Connections and lookups that were refused.
    pub refused: u64,
}

/// One turn of one sample.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    ended: bool,
    words: Kinds,
    facts: Kinds,
}

#[derive(Debug, Clone, Copy, Default)]
struct Kinds {
    external: bool,
    files: bool,
    computation: bool,
}

/// The events of one sample, one after the other.
#[derive(Debug, Default)]
pub(super) struct CapabilityCount {
    turns: BTreeMap<u32, Turn>,
    amounts: Amounts,
    function: String,
}

impl CapabilityCount {
    /// Takes the next event.
    pub(super) fn event(&mut self, event: &Event) {
        let Some(step) = step(event) else {
            // What was prepared tells that there is such a record.
            self.amounts.samples += u64::from(matches!(event, Event::Effects { .. }));
            return;
        };
        let turn = self.turns.entry(step).or_default();
        match event {
            Event::ToolCall {
                function,
                parameters,
                ..
            } => {
                turn.words.join(words::kinds(function, parameters));
                self.function.clone_from(function);
            }
            Event::ToolResult { error: None, .. } => {
                turn.facts.files |= self.function == "str_replace_editor";
            }
            Event::Connection { connection, .. } => {
                turn.facts.external |= facts::reached(connection, &mut self.amounts);
            }
            Event::Effects { effects, .. } => {
                turn.facts.join(facts::kinds(effects, &mut self.amounts));
            }
            Event::TurnEnd { .. } => turn.ended = true,
            Event::ToolResult { .. }
            | Event::Message { .. }
            | Event::Suffix { .. }
            | Event::Completion { .. }
            | Event::Warning { .. }
            | Event::End { .. } => {}
        }
    }

    /// What they come to.
    pub(super) fn finish(mut self) -> CapabilityUse {
        let ended = || {
            self.turns
                .values()
                .filter(|turn| turn.ended)
                .take(MAX_TURNS)
        };
        let words = Seen::of_sample(ended().map(|turn| turn.words));
        if self.amounts.samples == 0 {
            return CapabilityUse {
                words,
                ..CapabilityUse::default()
            };
        }
        let facts = Seen::of_sample(ended().map(|turn| turn.facts));
        self.amounts.samples = 1;
        CapabilityUse {
            words,
            facts,
            amounts: self.amounts,
        }
    }
}

impl CapabilityUse {
    /// Of one sample: the text of its `trajectory.jsonl`. Lines that are no events count for nothing.
    #[must_use]
    pub fn of_record(text: &str) -> Self {
        let mut count = CapabilityCount::default();
        for line in text.lines().skip(1) {
            if let Ok(line) = serde_json::from_str::<Line>(line) {
                count.event(&line.event);
            }
        }
        count.finish()
    }

    /// Adds that of other samples.
    pub fn add(&mut self, other: &Self) {
        self.words.add(&other.words);
        self.facts.add(&other.facts);
        self.amounts.add(&other.amounts);
    }
}

/// The turn that an event belongs to.
fn step(event: &Event) -> Option<u32> {
    match event {
        Event::ToolCall { step, .. }
        | Event::ToolResult { step, .. }
        | Event::TurnEnd { step, .. } => Some(*step),
        Event::Connection { step, .. } | Event::Effects { step, .. } => *step,
        Event::Message { .. }
        | Event::Suffix { .. }
        | Event::Completion { .. }
        | Event::Warning { .. }
        | Event::End { .. } => None,
    }
}

impl Kinds {
    fn join(&mut self, other: Self) {
        self.external |= other.external;
        self.files |= other.files;
        self.computation |= other.computation;
    }
}

impl Seen {
    fn of_sample(turns: impl Iterator<Item = Kinds>) -> Self {
        let mut seen = Self::default();
        for turn in turns {
            let turn = Capabilities {
                turns: 1,
                external: u64::from(turn.external),
                files: u64::from(turn.files),
                computation: u64::from(turn.computation),
            };
            seen.all.add(turn);
            seen.by_turn.push(turn);
        }
        seen.by_length.insert(seen.all.turns, seen.all);
        seen
    }

    fn add(&mut self, other: &Self) {
        self.all.add(other.all);
        let longer = self.by_turn.len().max(other.by_turn.len());
        self.by_turn.resize(longer, Capabilities::default());
        for (sum, turn) in self.by_turn.iter_mut().zip(&other.by_turn) {
            sum.add(*turn);
        }
        for (length, part) in &other.by_length {
            self.by_length.entry(*length).or_default().add(*part);
        }
    }
}

impl Amounts {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.cpu_us += other.cpu_us;
        self.processes += other.processes;
        self.paths += other.paths;
        self.connections += other.connections;
        self.received_bytes += other.received_bytes;
        self.refused += other.refused;
    }
}

#[cfg(test)]
mod tests;
