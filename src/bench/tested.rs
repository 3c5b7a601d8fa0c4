//! What the tests of a task said of the state in which the model left its sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outcome::LimitHit;

/// Largest file with a reward that is read.
pub const MAX_REWARD: u64 = 64 << 10;
/// The member of a `reward.json` that counts, where there are several.
const REWARD: &str = "reward";

/// One run of the tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// What they gave, by name.
    pub rewards: BTreeMap<String, f64>,
    /// Why there is no reward that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<TestFailure>,
    /// Exit status of the script; absent where it was stopped, or never ran.
    pub status: Option<i32>,
    /// Time that it took.
    pub seconds: f64,
    /// The ends of what it printed.
    pub stdout: String,
    /// The ends of what it complained of.
    pub stderr: String,
    /// Paths that the model changed and that could not come along; sockets and FIFOs do not count.
    #[serde(default)]
    pub left_out: u64,
    /// Limits that struck while they ran, or kept them from running.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub struck: Vec<LimitHit>,
}

/// Why tests gave no score. No host failed, and whether the task's author or the model did, nobody can tell: what the model
/// changed is what tests run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TestFailure {
    /// They were stopped.
    TimedOut {
        /// After so many seconds.
        after_s: u64,
    },
    /// They ended and left no reward.
    NoReward,
    /// What they left is no reward.
    BadReward {
        /// What is wrong with it.
        problem: String,
    },
    /// The state that the model left could not be had whole.
    Unsealed {
        /// What was in the way.
        problem: String,
    },
}

impl Tested {
    /// The state that the model left could not be had.
    #[must_use]
    pub fn unsealed(problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self {
            failure: Some(TestFailure::Unsealed { problem }),
            ..Self::default()
        }
    }

    /// A limit ended the sandbox, which is the model's doing: there is nothing that could pass.
    pub(super) fn ended_by_limit(mut self) -> Self {
        if let Some(TestFailure::Unsealed { problem }) = &self.failure {
            self.stderr.clone_from(problem);
            self.rewards = [(REWARD.to_owned(), 0.0)].into();
            self.failure = None;
        }
        self
    }

    /// Takes the reward out of the files that the tests have left.
    pub fn take(&mut self, json: Option<&[u8]>, text: Option<&[u8]>) {
        let read = match (json, text) {
            (Some(json), text) => of_json(json, text),
            (None, Some(text)) => of_text(text).map(|reward| [(REWARD.to_owned(), reward)].into()),
            (None, None) => {
                self.failure = Some(TestFailure::NoReward);
                return;
            }
        };
        match read {
            Ok(rewards) => self.rewards = rewards,
            Err(problem) => self.failure = Some(TestFailure::BadReward { problem }),
        }
    }

    /// The score, or what keeps it from being one.
    ///
    /// # Errors
    /// In words, with the last line that the tests printed.
    pub fn score(&self) -> Result<f64, String> {
        if let Some(failure) = &self.failure {
            return Err(format!("verifier_failed: {}", self.words(failure)));
        }
        let single = self
            .rewards
            .values()
            .next()
            .filter(|_| self.rewards.len() == 1);
        let reward = self.rewards.get(REWARD).or(single);
        reward.copied().ok_or_else(|| {
            let names: Vec<&str> = self.rewards.keys().map(String::as_str).collect();
            format!(
                "verifier_failed: none of {} is the reward",
                names.join(", ")
            )
        })
    }

    fn words(&self, failure: &TestFailure) -> String {
        let status = match self.status {
            Some(status) => format!("the tests ended with status {status}"),
            None => "the tests did not end".to_owned(),
        };
        let what = match failure {
            TestFailure::TimedOut { after_s } => {
                return format!("the tests took longer than {after_s} s");
            }
            TestFailure::Unsealed { problem } => return problem.clone(),
            TestFailure::NoReward => format!("{status} and left no reward"),
            TestFailure::BadReward { problem } => format!("{status}, and {problem}"),
        };
        let last = |text: &str| {
            let line = text.lines().rfind(|line| !line.trim().is_empty());
            line.map(|line| format!(": {}", line.trim()))
        };
        let last = last(&self.stderr).or_else(|| last(&self.stdout));
        format!("{what}{}", last.unwrap_or_default())
    }
}

fn of_text(text: &[u8]) -> Result<f64, String> {
    let text = String::from_utf8_lossy(text);
    let number = text
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| {
        let shown: String = text.trim().chars().take(40).collect();
        format!("reward.txt holds {shown:?}, which is no number")
    })
}

/// A `reward.json` may be a report without a reward beside a `reward.txt`.
fn of_json(json: &[u8], text: Option<&[u8]>) -> Result<BTreeMap<String, f64>, String> {
    let value: Value =
        serde_json::from_slice(json).map_err(|error| format!("reward.json: {error}"))?;
    let Some(members) = value.as_object() else {
        return Err("reward.json holds no object".to_owned());
    };
    let numbers = members
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    let mut rewards: BTreeMap<String, f64> = numbers.collect();
    if let (false, Some(text)) = (rewards.contains_key(REWARD), text) {
        rewards.insert(REWARD.to_owned(), of_text(text)?);
    }
    match rewards.is_empty() {
        true => Err("reward.json holds no number".to_owned()),
        false => Ok(rewards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(json: Option<&str>, text: Option<&str>) -> Result<f64, String> {
        let mut tested = Tested {
            status: Some(0),
            ..Tested::default()
        };
        tested.take(json.map(str::as_bytes), text.map(str::as_bytes));
        tested.score()
    }

    #[test]
    fn a_reward_is_a_number_or_there_is_none() {
        for (json, text, reward) in [
            (None, Some("1\n"), 1.0),
            (None, Some(" 0.25 "), 0.25),
            (None, Some("0"), 0.0),
            (Some(r#"{"reward": 0.5, "speed": 3}"#), Some("1"), 0.5),
            (Some(r#"{"accuracy": 1}"#), None, 1.0),
            (
                Some(r#"{"tests": {"a": 1}, "passed": 3}"#),
                Some("0.75"),
                0.75,
            ),
        ] {
            assert_eq!(score(json, text), Ok(reward), "{json:?} {text:?}");
        }
        for (json, text, why) in [
            (None, None, "left no reward"),
            (None, Some(""), "no number"),
            (None, Some("NaN"), "no number"),
            (None, Some("inf"), "no number"),
            (None, Some("1 1"), "no number"),
            (Some("1"), None, "no object"),
            (Some("{"), Some("1"), "reward.json"),
            (Some(r#"{"reward": true}"#), None, "holds no number"),
            (Some(r#"{"a": 1, "b": 0}"#), None, "none of a, b"),
        ] {
            let error = score(json, text).unwrap_err();
            assert!(
                error.starts_with("verifier_failed: ") && error.contains(why),
                "{error}"
            );
        }
    }
}
