//! Instructions are verified in the grader, and the scores are what the packages give outside.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::goldens::cases;
use crate::{Bench, text};

/// The cases are of the packages themselves, run by `scripts/reward-goldens.py`.
#[test]
fn verifiers_of_instructions_give_what_they_give_outside() {
    if !grader("verifiers_of_instructions_give_what_they_give_outside") {
        return;
    }
    let bench = Bench::new();
    let (mut rows, mut expected) = (Vec::new(), BTreeMap::new());
    for case in cases("instructions", 300) {
        let answers = case["answers"].as_array().unwrap().iter();
        for (at, (answer, score)) in answers.zip(case["scores"].as_array().unwrap()).enumerate() {
            let id = format!("{}.{at}", text(&case, "id"));
            let problem = &case["problem_statement"];
            rows.push(json!({"id": id, "problem_statement": problem, "ground_truth": case["ground_truth"]}));
            bench.record(&id, &[json!({"content": answer})]);
            expected.insert(id, score.clone());
        }
    }
    if rows.is_empty() {
        return;
    }
    assert!(rows.len() >= 500, "{} cases", rows.len());
    bench.write_rows("rows.jsonl", &rows);
    let flags = [
        "instruct_follow",
        "--data",
        "rows.jsonl",
        "--mode",
        "llm",
        "--num_workers",
        "4",
    ];
    bench.replay(&flags, 0);
    let scores = bench.scores();
    let wrong: Vec<String> = (expected.iter())
        .filter(|(id, score)| scores[*id] != **score)
        .map(|(id, score)| format!("{id}: {} and not {score}", scores[id]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_no_verifier_can_tell_is_pending() {
    if !grader("what_no_verifier_can_tell_is_pending") {
        return;
    }
    let bench = Bench::new();
    let truths = [
        (
            "unknown",
            json!({"instruction_id_list": ["made:up"], "kwargs": [{}]}),
            "no verifier for made:up",
        ),
        (
            "tagger",
            json!({"instruction_id_list": ["words:start_verb"], "kwargs": [{}]}),
            "data of NLTK",
        ),
        (
            "surplus",
            json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}),
            "as many kwargs",
        ),
        (
            "odd",
            json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"odd": 1}]}),
            "odd",
        ),
        ("text", json!("no commas, please"), "JSONDecodeError"),
    ];
    let mut rows = Vec::new();
    for (id, truth, _) in &truths {
        // An object and its text are the same.
        let truth = match *id {
            "unknown" => truth.to_string().into(),
            _ => truth.clone(),
        };
        rows.push(json!({"id": id, "problem_statement": "p", "ground_truth": truth}));
        bench.record(id, &[json!({"content": "Run."})]);
    }
    bench.write_rows("rows.jsonl", &rows);
    bench.replay(
        &["instruct_follow", "--data", "rows.jsonl", "--mode", "llm"],
        0,
    );
    for line in bench.lines() {
        let (_, _, why) = truths.iter().find(|(id, ..)| line["id"] == *id).unwrap();
        assert_eq!(
            (&line["status"], &line["score"]),
            (&json!("pending"), &Value::Null),
            "{line}"
        );
        assert!(text(&line, "pending").contains(why), "{line}");
    }
}

/// Whether the image `grader` is there. Ordinary users of `scripts/test.sh` have only the default one.
fn grader(test: &str) -> bool {
    if crate::grader_is_built() {
        return true;
    }
    let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name == "grader");
    assert!(
        !required || !nix::unistd::geteuid().is_root(),
        "the image grader is not built"
    );
    println!("SKIP {test}: the image grader is not built");
    false
}
