//! Rewards: how good an answer is, from 0 to 1. Pure functions over text; nothing here starts, reads or waits.
//!
//! What text alone cannot decide is `None`, never 0.

mod boxed;
mod letter;
mod math;
mod rouge;
mod stem;

pub use boxed::boxed;
pub use letter::letter;
pub use math::{math, numeric};
pub use rouge::rouge_l;
pub use stem::stem;

use serde::{Deserialize, Serialize};

/// A native reward, by its name in `config.yaml` and `--reward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reward {
    /// The same text, but for case and surrounding space.
    Exact,
    /// The letter of a choice.
    Letter,
    /// An equal mathematical value.
    Math,
    /// A number within five per cent.
    Numeric,
    /// F1 of two sets of items between commas.
    F1,
    /// ROUGE-L of stemmed words.
    RougeL,
    /// By the row's `qa_type`: letter, number or word; anything else waits for a judge.
    ByType,
    /// By `domain` and `qa_type`, as the original scores its training data.
    Composite,
    /// All instructions of `ground_truth` are followed: verifiers in the grader tell.
    Instructions,
    /// Nothing but a judge can tell.
    Judge,
}

/// What a reward needs to know of a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Truth<'a> {
    /// The expected answer.
    pub answer: &'a str,
    /// Other accepted answers.
    pub aliases: &'a [String],
    /// Field of knowledge.
    pub domain: &'a str,
    /// Kind of question.
    pub qa_type: &'a str,
}

impl Reward {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Exact,
        Self::Letter,
        Self::Math,
        Self::Numeric,
        Self::F1,
        Self::RougeL,
        Self::ByType,
        Self::Composite,
        Self::Instructions,
        Self::Judge,
    ];

    /// As `config.yaml` and `--reward` name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Letter => "letter",
            Self::Math => "math",
            Self::Numeric => "numeric",
            Self::F1 => "f1",
            Self::RougeL => "rouge_l",
            Self::ByType => "by_type",
            Self::Composite => "composite",
            Self::Instructions => "instructions",
            Self::Judge => "judge",
        }
    }

    /// The score; `None` where text alone cannot tell.
    #[must_use]
    pub fn score(self, answer: &str, truth: Truth<'_>) -> Option<f64> {
        let gold = truth.answer;
        match self {
            Self::Exact => Some(exact(answer, truth)),
            Self::Letter => Some(letter(answer, gold)),
            Self::Math => math(answer, gold).map(f64::from),
            Self::Numeric => Some(f64::from(numeric(answer, gold))),
            Self::F1 => Some(set_f1(answer, gold)),
            Self::RougeL => Some(rouge_l(gold, answer)),
            Self::ByType => by_type(answer, truth),
            Self::Composite => composite(answer, truth),
            Self::Judge => unanswered(answer),
            Self::Instructions => None,
        }
    }

    /// The score, once computer algebra has said whether the answer equals the expected one.
    #[must_use]
    pub fn by_algebra(self, equal: bool, answer: &str, truth: Truth<'_>) -> f64 {
        if self == Self::Composite && !equal && !is_mathematical(truth) {
            return rouge_l(truth.answer, answer);
        }
        f64::from(equal)
    }

    /// Whether a judge decides what text alone does not.
    #[must_use]
    pub fn is_judged(self) -> bool {
        matches!(self, Self::ByType | Self::Judge)
    }
}

/// Nothing is as good as no reference.
fn unanswered(answer: &str) -> Option<f64> {
    answer.trim().is_empty().then_some(0.0)
}

fn by_type(answer: &str, truth: Truth<'_>) -> Option<f64> {
    match truth.qa_type.to_lowercase().as_str() {
        kind if kind.contains("multiple choice") => Some(letter(answer, truth.answer)),
        "numeric" => Some(f64::from(numeric(answer, truth.answer))),
        "yes/no" => Some(exact(answer, truth)),
        _ => unanswered(answer),
    }
}

/// The original's reward for every domain of its training data. Instructions need their own verifiers.
fn composite(answer: &str, truth: Truth<'_>) -> Option<f64> {
    let gold = truth.answer;
    if answer.trim().is_empty() || gold.trim().is_empty() {
        return Some(0.0);
    }
    if is_mathematical(truth) {
        return math(answer, gold).map(f64::from);
    }
    let of = |name: &str| truth.domain.starts_with(name);
    if of("chem") || of("biomed") {
        return Some(letter(answer, gold));
    }
    if of("instruct_follow") {
        return None;
    }
    if truth.qa_type.to_lowercase().contains("multiple choice") {
        return Some(if gold.contains(',') {
            set_f1(answer, gold)
        } else {
            letter(answer, gold)
        });
    }
    // Texts that differ may be equal as formulas, which takes math-verify; only then they are compared as words.
    let words = rouge_l(gold, answer);
    match math(answer, gold) {
        Some(equal) => Some(if equal { 1.0 } else { words }),
        None => (words >= 1.0).then_some(words),
    }
}

/// Whether the original scores a row of this domain by mathematics alone.
fn is_mathematical(truth: Truth<'_>) -> bool {
    truth.domain.starts_with("math") || truth.domain.starts_with("physics")
}

fn exact(answer: &str, truth: Truth<'_>) -> f64 {
    let plain = |text: &str| text.trim().to_lowercase();
    let answer = plain(answer);
    let mut accepted =
        std::iter::once(truth.answer).chain(truth.aliases.iter().map(String::as_str));
    f64::from(accepted.any(|gold| plain(gold) == answer))
}

/// F1 of the items between commas, in either case.
fn set_f1(answer: &str, gold: &str) -> f64 {
    let set = |text: &str| -> std::collections::BTreeSet<String> {
        text.split(',')
            .map(|item| item.trim().to_uppercase())
            .filter(|item| !item.is_empty())
            .collect()
    };
    let (answer, gold) = (set(answer), set(gold));
    let common = answer.intersection(&gold).count();
    f1(common, answer.len(), gold.len())
}

/// The harmonic mean of `common` over each of two sizes.
fn f1(common: usize, predicted: usize, expected: usize) -> f64 {
    if common == 0 || predicted == 0 || expected == 0 {
        return 0.0;
    }
    let share = |of: usize| -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of words are small")]
        let share = common as f64 / of as f64;
        share
    };
    let (precision, recall) = (share(predicted), share(expected));
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests;
