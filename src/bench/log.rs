//! `logs/NAME.txt`: a sample as a person reads it, with the result block of the original at its end.

use std::fmt::Write as _;

use super::ledger::{Record, Status};
use crate::trajectory::Event;

/// Most characters of a reasoning, a thought, a call and an observation, as in the original.
const REASONING: usize = 2000;
const THOUGHT: usize = 1000;
const CALL: usize = 300;
const OBSERVATION: usize = 800;

/// The text while it grows.
#[derive(Debug, Default)]
pub(super) struct Log {
    text: String,
}

impl Log {
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Message { message } => self.block(message.role(), message.content(), REASONING),
            Event::Completion { step, message, .. } => {
                let _ = writeln!(self.text, "--- Step {step} ---");
                self.block("reasoning", message.reasoning(), REASONING);
                self.block("thought", message.content(), THOUGHT);
            }
            Event::ToolCall {
                function,
                parameters,
                ..
            } => {
                let parameters = serde_json::to_string(parameters).unwrap_or_default();
                self.block("action", &format!("{function} {parameters}"), CALL);
            }
            Event::ToolResult { observation, .. } => {
                self.block("observation", observation, OBSERVATION);
            }
            Event::Warning { text } => self.block("warning", text, OBSERVATION),
            Event::Suffix { .. }
            | Event::Connection { .. }
            | Event::Effects { .. }
            | Event::TurnEnd { .. }
            | Event::End { .. } => {}
        }
    }

    pub(super) fn finish(&mut self, record: &Record, truth: &str) {
        let rule = "=".repeat(80);
        let outcome = serde_json::to_string(&record.outcome).unwrap_or_default();
        let _ = writeln!(self.text, "{rule}");
        let _ = writeln!(self.text, "RESULT\nproblem id:   {}", record.id);
        match (record.status, record.score) {
            (Status::Failed, _) => {
                let detail = record.detail.as_deref().unwrap_or("");
                let _ = writeln!(self.text, "ERROR:        {detail}\nground truth: {truth}");
            }
            (_, score) => {
                let answer = record.answer.as_deref().unwrap_or("(none)");
                let score = match (score, &record.pending) {
                    (Some(score), _) => format!("{score:.4}"),
                    (None, waits) => format!("pending: {}", waits.as_deref().unwrap_or("")),
                };
                let _ = writeln!(
                    self.text,
                    "agent answer: {answer}\nground truth: {truth}\nscore:        {score}"
                );
            }
        }
        if let Some(tested) = &record.tested {
            self.block("tests", &tested.stdout, REASONING);
            self.block("tests, errors", &tested.stderr, REASONING);
        }
        let _ = writeln!(self.text, "ended by:     {outcome}\n{rule}");
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn block(&mut self, name: &str, text: &str, limit: usize) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let mut shown: String = text.chars().take(limit).collect();
        if shown.len() < text.len() {
            shown.push_str(" …");
        }
        let _ = writeln!(self.text, "[{name}]\n{shown}");
    }
}
