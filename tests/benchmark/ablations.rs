//! What a model has to do without, in real sandboxes: `tests/benchmark/faulty.rs` has the same with sandboxes in memory.

use serde_json::{Value, json};

use crate::program::{code, stderr};
use crate::{Bench, bash, call, rows, task, text};

/// Keeps a note, looks for it, starts a process, looks for it, leaves the answer, looks for that, and submits.
fn bench() -> Bench {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(1));
    let say = [
        bash("echo remembered > notes.txt; cat notes.txt"),
        bash("cat notes.txt"),
        bash("sleep 500 & until grep sleep /proc/$!/comm; do :; done"),
        bash("cat /proc/[0-9]*/comm | grep sleep || echo nobody"),
        bash("echo yes > answer.txt"),
        bash("cat answer.txt; cut -f 2 /proc/net/route"),
        call("submit", &json!({})),
    ];
    bench.record("r000", &say);
    bench
}

fn told(bench: &Bench) -> Vec<String> {
    let record = bench.folder().join("samples/r000/1/trajectory.jsonl");
    let record = std::fs::read_to_string(record).unwrap();
    let lines = record
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let results = lines.filter(|line| line["event"]["type"] == "tool_result");
    results
        .map(|line| text(&line["event"], "observation"))
        .collect()
}

#[test]
fn without_files_no_file_and_no_process_outlasts_its_command_but_the_answer() {
    let bench = bench();
    bench.replay(&["t"], 0);
    let with = told(&bench);
    assert!(
        with[1].contains("remembered") && with[3].contains("sleep"),
        "{with:?}"
    );
    let key = text(&bench.lines()[0], "key");
    let before = bench.folder();

    bench.replay(&["t", "--ablation", "no-files,no-network"], 0);
    assert_ne!(bench.folder(), before);
    let without = told(&bench);
    assert!(without[0].contains("remembered"), "{without:?}");
    assert!(without[1].contains("No such file"), "{without:?}");
    assert!(without[3].contains("nobody"), "{without:?}");
    assert!(without[5].contains("yes"), "{without:?}");
    assert!(!without[5].contains("00000000"), "a route: {without:?}");
    assert_eq!(bench.scores()["r000"], 1.0);
    assert_ne!(text(&bench.lines()[0], "key"), key, "another sample");
    let run = bench.json("run.json");
    assert_eq!(
        run["config"]["ablations"],
        json!(["no-network", "no-files"])
    );
    assert_eq!(run["config"]["network"], "none");
    // Resumed, it stays without; with another it is refused.
    let folder = bench.folder().to_str().unwrap().to_owned();
    let resumed = bench.run(&["--resume", &folder]);
    assert_eq!(code(&resumed), 0, "{}", stderr(&resumed));
    let other = bench.run(&["--resume", &folder, "--ablation", "no-execution"]);
    assert_eq!(code(&other), 2);
    assert!(
        stderr(&other).contains("ablations was"),
        "{}",
        stderr(&other)
    );
}

#[test]
fn ablations_that_contradict_other_flags_start_nothing() {
    let bench = bench();
    for (flags, name) in [
        (
            &["--ablation", "no-network", "--net", "internet"][..],
            "--net",
        ),
        (&["--ablation", "no-files", "--mode", "llm"], "--ablation"),
        (&["--ablation", "no-thinking"], "no-execution"),
    ] {
        let model = ["t", "--llm_name", "replay:answers"];
        let output = bench.run(&[&model[..], flags].concat());
        assert_eq!(code(&output), 2, "{flags:?}");
        assert!(stderr(&output).contains(name), "{}", stderr(&output));
    }
    assert!(!bench.path("out").exists());
}
