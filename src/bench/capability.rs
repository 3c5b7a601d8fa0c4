//! What a model used its computer for, by the words of its commands and programs: the rules of the paper.
//!
//! A turn may have several labels. Text is only a hint: a command that names `curl` need not have reached anything.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::trajectory::{Event, Line};

const EXTERNAL: [&str; 8] = [
    "pip install",
    "apt-get install",
    "requests.get(",
    "curl",
    "wget",
    "BeautifulSoup",
    "rdkit",
    "biopython",
];
const FILES: [&str; 11] = [
    "open(",
    "json.load",
    "pd.read_csv",
    "cat",
    "grep",
    "find",
    "os.path",
    "pathlib",
    "glob",
    "pickle.load",
    "np.load",
];
const COMPUTATION: [&str; 10] = [
    "scipy.optimize",
    "fsolve",
    "minimize",
    "odeint",
    "solve_ivp",
    "quad",
    "range(",
    "while ",
    "itertools.permutations",
    "combinations",
];

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
    /// Adds those of another sample.
    pub fn add(&mut self, other: Self) {
        self.turns += other.turns;
        self.external += other.external;
        self.files += other.files;
        self.computation += other.computation;
    }

    /// Of the record of one sample: the text of its `trajectory.jsonl`. Lines that are no events count for nothing.
    #[must_use]
    pub fn of_record(text: &str) -> Self {
        let mut all = Self::default();
        let (mut external, mut files, mut computation) = (false, false, false);
        for line in text.lines().skip(1) {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            match line.event {
                Event::ToolCall {
                    function,
                    parameters,
                    ..
                } => {
                    let code = code(&function, &parameters);
                    external |= EXTERNAL.iter().any(|word| names(&code, word));
                    files |= FILES.iter().any(|word| names(&code, word));
                    computation |= COMPUTATION.iter().any(|word| names(&code, word));
                }
                Event::TurnEnd { .. } => {
                    all.add(Self {
                        turns: 1,
                        external: u64::from(std::mem::take(&mut external)),
                        files: u64::from(std::mem::take(&mut files)),
                        computation: u64::from(std::mem::take(&mut computation)),
                    });
                }
                Event::Message { .. }
                | Event::Suffix { .. }
                | Event::Completion { .. }
                | Event::ToolResult { .. }
                | Event::Warning { .. }
                | Event::Connection { .. }
                | Event::End { .. } => {}
            }
        }
        all
    }
}

/// The command, or what the editor writes.
fn code(function: &str, parameters: &Map<String, Value>) -> String {
    let members: &[&str] = match function {
        "execute_bash" => &["command"],
        "str_replace_editor" => &["file_text", "new_str"],
        _ => &[],
    };
    let texts = members
        .iter()
        .filter_map(|name| parameters.get(*name)?.as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// Whether a text holds a pattern whose ends are ends of words.
fn names(text: &str, pattern: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let begins = pattern.starts_with(is_word);
    let ends = pattern.ends_with(is_word);
    text.match_indices(pattern).any(|(at, _)| {
        let before = text.get(..at).is_some_and(|head| head.ends_with(is_word));
        let after = text.get(at + pattern.len()..);
        let after = after.is_some_and(|tail| tail.starts_with(is_word));
        !(begins && before || ends && after)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(turns: &[&[(&str, &str, &str)]]) -> String {
        let mut lines = vec!["{\"schema\": \"header\"}".to_owned()];
        let mut add =
            |event: Value| lines.push(json!({"n": 1, "t_us": 1, "event": event}).to_string());
        for calls in turns {
            for (function, name, text) in *calls {
                add(
                    json!({"type": "tool_call", "step": 1, "call_id": null, "function": function, "parameters": {*name: text}}),
                );
            }
            add(
                json!({"type": "turn_end", "step": 1, "calls": 1, "model_us": 1, "tool_us": 1, "total_us": 1}),
            );
        }
        lines.join("\n")
    }

    #[test]
    fn turns_are_labelled_by_words() {
        let bash = |text| ("execute_bash", "command", text);
        let seen = Capabilities::of_record(&record(&[
            &[bash("pip install numpy && cat x")],
            &[
                (
                    "str_replace_editor",
                    "file_text",
                    "for i in range(9):\n    pass",
                ),
                bash("grep a b"),
            ],
            &[("str_replace_editor", "path", "/cat")],
            &[bash("concatenate; curly; refind; minimized")],
            &[],
        ]));
        let expected = Capabilities {
            turns: 5,
            external: 1,
            files: 2,
            computation: 1,
        };
        assert_eq!(seen, expected);
    }
}
