//! `report`: what is told of a run, and of two. The page itself: `page.rs`.

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
    let folders = std::fs::read_dir(bench.path("out")).unwrap();
    let mut folders = folders.map(|folder| folder.unwrap().path());
    let second = folders.find(|folder| *folder != first).unwrap();
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
