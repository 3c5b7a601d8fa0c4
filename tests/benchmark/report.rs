//! `report`: what is told of a run, and of two. The page itself: `page.rs`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::program::{code, finish, stderr};
use crate::{Bench, answering, bash, call, read_json, rows, task};

fn recorded(bench: &Bench) {
    let mut all = rows(4);
    all[3]["domain"] = "other".into();
    task(&bench.path("t"), "reward: exact\n", &all);
    let write = bash("pip install x; echo yes | cat > /testbed/answer.txt");
    let submit = call("submit", &json!({}));
    bench.record("r000", &[write, submit.clone()]);
    // What a model writes is no markup.
    bench.record("r001", &answering("/testbed", "no | <b>\n# heading"));
    bench.record("r002", &[bash("for i in range(3)"), submit]);
}

fn plain(bench: &Bench) {
    for (name, answer) in [
        ("r000", "no"),
        ("r001", "yes"),
        ("r002", "yes"),
        ("r003", "yes"),
    ] {
        bench.record(name, &[json!({"content": answer})]);
    }
}

#[test]
fn a_report_tells_scores_capabilities_and_reasons() {
    let bench = Bench::new();
    recorded(&bench);
    bench.replay(&["t", "--infra_retries", "0"], 1);
    let first = bench.folder();
    let output = finish(bench.verb(&["report", first.to_str().unwrap()], true));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = read_json(&first.join("report.json"));
    assert_eq!(report["summary"]["scored"], 3);
    assert_eq!(report["summary"]["infrastructure_failures"], 1);
    let seen = &report["domains"][""]["capabilities"]["words"]["all"];
    assert_eq!(
        *seen,
        json!({"turns": 6, "external": 1, "files": 1, "computation": 1})
    );
    assert_eq!(
        report["endings"],
        json!({"submitted": 3, "infrastructure: llm": 1})
    );
    let why = |id: &str| {
        let short = report["short"].as_array().unwrap().iter();
        let found: Vec<&Value> = short.filter(|sample| sample["id"] == id).collect();
        found.first().map_or(String::new(), |sample| {
            sample["why"].as_str().unwrap().to_owned()
        })
    };
    assert_eq!(why("r000"), "");
    assert!(why("r001").contains("expected \"yes\""), "{}", why("r001"));
    assert!(why("r002").contains("left no answer"), "{}", why("r002"));
    assert!(why("r003").contains("r003.jsonl"), "{}", why("r003"));
    let text = std::fs::read_to_string(first.join("report.md")).unwrap();
    assert!(text.contains("| all | 0.3333 |"), "{text}");
    assert!(
        !text.contains("<b>") && !text.contains("\n# heading"),
        "{text}"
    );
    assert!(text.contains("\\<b\\>"), "{text}");
}

#[test]
fn two_runs_are_compared_problem_by_problem() {
    let bench = Bench::new();
    recorded(&bench);
    bench.replay(&["t", "--infra_retries", "0"], 1);
    let first = bench.folder();
    plain(&bench);
    bench.replay(&["t", "--mode", "llm"], 0);
    let second = folders(&bench)
        .into_iter()
        .find(|folder| *folder != first)
        .unwrap();
    let arguments = ["report", first.to_str().unwrap(), second.to_str().unwrap()];
    let output = finish(bench.verb(&arguments, true));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let pair = &read_json(&first.join("report.json"))["others"][0]["comparison"];
    // The fourth problem has no score in the first run.
    assert_eq!((&pair["n"], &pair["excluded"]), (&json!(3), &json!(1)));
    assert_eq!((&pair["better"], &pair["worse"]), (&json!(2), &json!(1)));
    let number = |name: &str| pair[name].as_f64().unwrap();
    assert!((number("first") - 1.0 / 3.0).abs() < 1e-12);
    assert!((number("second") - 2.0 / 3.0).abs() < 1e-12);
    assert!((number("difference") - 1.0 / 3.0).abs() < 1e-12);
    assert!(
        std::fs::read_to_string(first.join("report.md"))
            .unwrap()
            .contains("Over 3 problems")
    );
}

#[test]
fn what_has_no_score_or_is_another_problem_is_left_out_of_a_comparison() {
    let bench = Bench::new();
    plain(&bench);
    let mut all = rows(4);
    task(&bench.path("t"), "reward: exact\n", &all);
    // Rows of other data may have the same names.
    all[1]["ground_truth"] = "another".into();
    task(&bench.path("u"), "reward: exact\n", &all);
    std::fs::remove_file(bench.path("answers/r002.jsonl")).unwrap();
    let folder = |name: &str| {
        let known = folders(&bench);
        let flags = [name, "--mode", "llm", "--infra_retries", "0"];
        bench.replay(&flags, 1);
        let new = |folder: &PathBuf| !known.contains(folder);
        folders(&bench).into_iter().find(new).unwrap()
    };
    let (first, second) = (folder("t"), folder("u"));
    let arguments = ["report", first.to_str().unwrap(), second.to_str().unwrap()];
    let output = finish(bench.verb(&arguments, true));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let other = read_json(&first.join("report.json"))["others"][0].clone();
    let pair = &other["comparison"];
    // One failed in both; one is in each of them alone.
    assert_eq!((&pair["n"], &pair["excluded"]), (&json!(2), &json!(3)));
    assert_eq!((&pair["better"], &pair["worse"]), (&json!(0), &json!(0)));
    assert_eq!(pair["difference"], 0.0);
    // Two differences that are alike tell of no interval.
    assert_eq!(pair["interval_95"], Value::Null);
}

fn folders(bench: &Bench) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(bench.path("out")) else {
        return Vec::new();
    };
    folders.map(|folder| folder.unwrap().path()).collect()
}
