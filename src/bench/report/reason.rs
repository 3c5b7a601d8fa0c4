//! How a sample ended, and why it has no full score: whose doing it was, and what is known of it.

use crate::bench::ledger::Record;
use crate::outcome::{Outcome, Policy};

/// Characters of a reason.
const LENGTH: usize = 200;
/// Characters of the name of a kind of end.
const NAME: usize = 60;

/// How a sample ended, in a word or two.
pub(super) fn ending(outcome: &Outcome) -> String {
    let name = match outcome {
        Outcome::Policy(Policy::Submitted) => "submitted".to_owned(),
        Outcome::Policy(Policy::Budget { budget }) => format!("budget: {budget}"),
        Outcome::Policy(Policy::Limit(hit)) => format!("limit: {}", hit.name()),
        Outcome::Policy(_) => "the model, in another way".to_owned(),
        Outcome::Infrastructure(failure) => {
            let cause = serde_json::to_value(failure.cause).unwrap_or_default();
            format!("infrastructure: {}", cause.as_str().unwrap_or("other"))
        }
    };
    cut(&name, NAME)
}

/// Why a sample has no full score.
pub(super) fn why(record: &Record, truth: &str) -> String {
    if let Outcome::Infrastructure(failure) = &record.outcome {
        return cut(
            &format!("{}: {}", ending(&record.outcome), failure.detail),
            LENGTH,
        );
    }
    if let Some(waits) = &record.pending {
        return cut(&format!("pending: {waits}"), LENGTH);
    }
    if let Some(tested) = &record.tested {
        let last = |text: &str| {
            text.lines()
                .rfind(|line| !line.trim().is_empty())
                .map(str::to_owned)
        };
        let said = last(&tested.stdout).or_else(|| last(&tested.stderr));
        let (score, said) = (record.score.unwrap_or(0.0), said.unwrap_or_default());
        let said = format!("tests gave {score}: {}", said.trim());
        return cut(&format!("{}; {said}", ending(&record.outcome)), 2 * LENGTH);
    }
    let struck = record.sandbox.iter().flat_map(|usage| &usage.struck);
    let struck: String = struck
        .filter(|hit| hit.can_end())
        .map(|hit| format!("; {hit}"))
        .collect();
    // Both are shown, however long one of them is.
    let part = |text: &str| format!("{:?}", cut(text, LENGTH / 3));
    let answer = match &record.answer {
        Some(answer) if answer.is_empty() => "answer.txt is empty".to_owned(),
        Some(answer) => format!("answered {}, expected {}", part(answer), part(truth)),
        None => "left no answer".to_owned(),
    };
    cut(
        &format!("{}; {answer}{struck}", ending(&record.outcome)),
        2 * LENGTH,
    )
}

fn cut(text: &str, length: usize) -> String {
    let mut shown: String = text.chars().take(length).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
