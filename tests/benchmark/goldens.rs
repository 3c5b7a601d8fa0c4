//! The native rewards against the Python packages: `scripts/reward-goldens.py` wrote down what these give.

use std::path::Path;

use llm_in_sandbox::reward::{Reward, Truth, boxed, math, rouge_l, stem};
use serde_json::Value;

/// Least number of cases that a comparison must have.
const LEAST: usize = 500;

fn cases(name: &str) -> Vec<Value> {
    let file = format!("tests/data/benchmark/goldens/{name}.jsonl");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("SKIP goldens of {name}: the files of the repository are not readable here");
        return Vec::new();
    };
    let cases: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(cases.len() >= LEAST, "{name}: {} cases", cases.len());
    cases
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

#[test]
fn stems_are_those_of_nltk() {
    let wrong: Vec<String> = cases("stem")
        .iter()
        .map(|case| (case, stem(text(case, "word"))))
        .filter(|(case, stem)| text(case, "stem") != stem)
        .map(|(case, stem)| format!("{case} and not {stem}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rouge_l_is_that_of_rouge_score() {
    for case in cases("rouge_l") {
        let score = rouge_l(text(&case, "expected"), text(&case, "answer"));
        let expected = case["score"].as_f64().unwrap();
        assert!((score - expected).abs() < 1e-12, "{case} and not {score}");
    }
}

/// What the text decides, computer algebra decides alike; and it decides often enough to be of use.
#[test]
fn mathematics_never_contradicts_math_verify() {
    let cases = cases("math");
    let mut decided = 0;
    let mut wrong = Vec::new();
    for case in &cases {
        let Some(equal) = math(text(case, "answer"), text(case, "truth")) else {
            continue;
        };
        decided += 1;
        if equal != case["equal"].as_bool().unwrap() {
            wrong.push(format!("{case} and not {equal}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n{} wrong",
        wrong.join("\n"),
        wrong.len()
    );
    assert!(decided >= cases.len() / 2, "{decided} of {}", cases.len());
}

/// What a native reward gives where `scripts/text-goldens.py` wrote down another score.
fn wrong(name: &str, reward: Reward) -> Vec<String> {
    let given = |case: &Value| {
        let truth = Truth {
            answer: text(case, "truth"),
            ..Truth::default()
        };
        reward.score(text(case, "answer"), truth).unwrap()
    };
    let cases = cases(name);
    let wrong = cases
        .iter()
        .map(|case| (case, given(case)))
        .filter(|(case, given)| (case["score"].as_f64().unwrap() - given).abs() > 1e-12)
        .map(|(case, given)| format!("{case} and not {given}"));
    wrong.collect()
}

/// Letters have one difference: the words "a" and "i", and a small letter beside a capital, are no choices here; the cases have none.
#[test]
fn letters_sets_texts_and_numbers_are_those_of_python() {
    for (name, reward) in [
        ("letter", Reward::Letter),
        ("f1", Reward::F1),
        ("exact", Reward::Exact),
        ("numeric", Reward::Numeric),
    ] {
        let wrong = wrong(name, reward);
        assert!(
            wrong.is_empty(),
            "{name}: {}\n{} wrong",
            wrong.join("\n"),
            wrong.len()
        );
    }
}

#[test]
fn boxes_are_those_of_python() {
    for case in cases("boxed") {
        assert_eq!(boxed(text(&case, "text")), text(&case, "boxed"), "{case}");
    }
}
