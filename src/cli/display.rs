//! The turns as a person sees them, on stderr: with rules and colours on a terminal, in plain lines otherwise.

use std::io::IsTerminal;

use super::output::painted;
use super::sanitize::sanitize;
use crate::settings::{Environment, NO_COLOR};
use crate::trajectory::Event;

/// Most characters shown of a reasoning, a thought, a call and an observation.
const REASONING: usize = 2000;
const THOUGHT: usize = 1000;
const CALL: usize = 300;
const OBSERVATION: usize = 800;
/// Width of the rule above a turn.
const RULE: usize = 72;

/// Shows events as they happen.
#[derive(Debug)]
pub(super) struct Display {
    terminal: bool,
    colour: bool,
    max_steps: u32,
}

impl Display {
    pub(super) fn new(max_steps: u32, environment: Environment<'_>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            terminal,
            colour: terminal && environment.get(NO_COLOR).is_none(),
            max_steps,
        }
    }

    /// Shows one event.
    pub(super) fn show(&self, event: &Event) {
        for line in self.lines(event) {
            painted(&line);
        }
    }

    fn lines(&self, event: &Event) -> Vec<String> {
        match event {
            Event::Completion { step, message, .. } => {
                let mut lines = vec![self.rule(*step)];
                lines.extend(self.block("reasoning", "2", message.reasoning(), REASONING));
                lines.extend(self.block("thought", "", message.content(), THOUGHT));
                lines
            }
            Event::ToolCall {
                function,
                parameters,
                ..
            } => {
                let parameters = serde_json::to_string(parameters).unwrap_or_default();
                self.block("action", "36", &format!("{function} {parameters}"), CALL)
            }
            Event::ToolResult {
                observation, error, ..
            } => {
                let colour = if error.is_some() { "33" } else { "2" };
                self.block("observation", colour, observation, OBSERVATION)
            }
            Event::Warning { text } => self.block("warning", "33", text, OBSERVATION),
            Event::Message { .. }
            | Event::Suffix { .. }
            | Event::Connection { .. }
            | Event::Effects { .. }
            | Event::TurnEnd { .. }
            | Event::End { .. } => Vec::new(),
        }
    }

    fn rule(&self, step: u32) -> String {
        let title = format!("Step {step}/{}", self.max_steps);
        if !self.terminal {
            return title;
        }
        let rule = "─".repeat(RULE.saturating_sub(title.len() + 4));
        self.paint("1", &format!("── {title} {rule}"))
    }

    fn block(&self, name: &str, colour: &str, text: &str, limit: usize) -> Vec<String> {
        let safe = sanitize(text);
        let safe = safe.trim();
        if safe.is_empty() {
            return Vec::new();
        }
        let mut shown: String = safe.chars().take(limit).collect();
        let left = safe.chars().skip(limit).count();
        if left > 0 {
            shown = format!("{} … ({left} more characters)", shown.trim_end());
        }
        if self.terminal {
            return shown.lines().map(|line| self.paint(colour, line)).collect();
        }
        let lines = shown.lines().enumerate();
        let lead = |at| {
            if at == 0 {
                format!("{name}: ")
            } else {
                "  ".to_owned()
            }
        };
        lines
            .map(|(at, line)| format!("{}{line}", lead(at)))
            .collect()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !colour.is_empty() {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(command: &str) -> Event {
        Event::ToolCall {
            step: 1,
            call_id: None,
            function: "execute_bash\u{1b}[2J".into(),
            parameters: json!({"command": command}).as_object().unwrap().clone(),
        }
    }

    #[test]
    fn plain_lines_hold_no_escape_and_are_trimmed() {
        let plain = Display {
            terminal: false,
            colour: false,
            max_steps: 9,
        };
        let result = Event::ToolResult {
            step: 1,
            call_id: None,
            observation: format!("first\n\u{1b}[31m{}", "x".repeat(2000)),
            error: None,
            tool_us: 0,
            struck: Vec::new(),
        };
        let lines = plain.lines(&result);
        assert_eq!(lines[0], "observation: first");
        assert!(lines[1].starts_with("  xxx") && lines[1].ends_with("more characters)"));
        assert_eq!(
            plain.lines(&call("ls")),
            ["action: execute_bash {\"command\":\"ls\"}"]
        );
        assert_eq!(plain.rule(2), "Step 2/9");
    }

    #[test]
    fn colours_are_only_our_own() {
        let colour = Display {
            terminal: true,
            colour: true,
            max_steps: 9,
        };
        assert_eq!(
            colour.lines(&call("ls")),
            ["\u{1b}[36mexecute_bash {\"command\":\"ls\"}\u{1b}[0m"]
        );
    }
}
