//! The Python of a task runs in a sandbox of its own, and gives what it gives outside.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::program::{code, collect, finish, stderr};
use crate::{Bench, answering, bash, call, task};

/// A reward with a module of its own, that prints, fails and crashes.
const REWARD: &str = r#"
import os
from words import count

print("this must not get between the answers", flush=True)

def compute_score(agent_answer, ground_truth, **row):
    print("scoring", row["id"])
    if agent_answer == "raise":
        raise ValueError("no such answer")
    if agent_answer == "crash":
        os._exit(3)
    if agent_answer == "nan":
        return float("nan")
    shared = count(agent_answer) & count(ground_truth)
    return sum(shared.values()) / max(1, len(ground_truth.split())) * row.get("weight", 1)
"#;
const WORDS: &str = "from collections import Counter\n\ndef count(text):\n    return Counter(text.lower().split())\n";
const PROMPT: &str =
    "def create_prompt(row):\n    return 'ASKED: ' + row['problem_statement'].upper()\n";

const ANSWERS: [(&str, &str); 8] = [
    ("a", "one two three"),
    ("b", "One two"),
    ("c", "raise"),
    ("d", "crash"),
    ("e", "nothing"),
    ("f", "nan"),
    ("g", "three two one ü"),
    ("h", ""),
];

fn python_task(bench: &Bench) {
    let row = |id: &str| json!({"id": id, "problem_statement": "count", "ground_truth": "One two three axolotl", "weight": 0.5});
    let rows: Vec<Value> = ANSWERS.iter().map(|(id, _)| row(id)).collect();
    let path = bench.path("t");
    task(&path, "output_dir: /testbed/out\n", &rows);
    std::fs::write(path.join("reward.py"), REWARD).unwrap();
    std::fs::write(path.join("words.py"), WORDS).unwrap();
    std::fs::write(path.join("vanilla_llm_prompt.py"), PROMPT).unwrap();
}

/// What the reward gives when this machine's Python runs it.
fn outside(path: &Path, answers: &Value) -> Option<Vec<f64>> {
    let program = "import json, sys\nsys.path.insert(0, '.')\nfrom reward import compute_score\n\
        rows = [json.loads(line) for line in open('rows.jsonl')]\n\
        scores = []\n\
        for row, answer in zip(rows, json.loads(sys.argv[1])):\n    \
            scores.append(compute_score(answer, row.pop('ground_truth'), **row) if answer is not None else -1)\n\
        print('RESULT', json.dumps(scores))";
    let mut python = std::process::Command::new("python3");
    python
        .args(["-c", program, &answers.to_string()])
        .current_dir(path);
    python
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null());
    let Ok(child) = python.spawn() else {
        println!("SKIP the comparison with Python outside: there is no python3");
        return None;
    };
    let output = collect(child);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("RESULT "))
        .unwrap();
    Some(serde_json::from_str(line).unwrap())
}

#[test]
fn a_reward_in_python_gives_what_it_gives_outside() {
    let bench = Bench::new();
    python_task(&bench);
    for (id, answer) in ANSWERS {
        bench.record(id, &answering("/testbed/out", answer));
    }
    bench.replay(&["t", "--num_workers", "3"], 0);
    let lines = bench.lines();
    let of = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap();
    let sound =
        ANSWERS.map(|(_, answer)| (!["raise", "crash", "nan"].contains(&answer)).then_some(answer));
    if let Some(outside) = outside(&bench.path("t"), &json!(sound)) {
        for ((id, _), expected) in ANSWERS.iter().zip(outside) {
            if expected >= 0.0 {
                assert_eq!(of(id)["score"], json!(expected), "{id}");
            }
        }
    }
    assert_eq!(
        (&of("a")["score"], &of("e")["score"]),
        (&json!(0.375), &json!(0.0))
    );
    for (id, why) in [("c", "no such answer"), ("d", "grader ended"), ("f", "nan")] {
        let line = of(id);
        assert_eq!(
            (&line["status"], &line["score"]),
            (&json!("pending"), &Value::Null),
            "{line}"
        );
        assert!(line["pending"].as_str().unwrap().contains(why), "{line}");
    }
    assert_eq!(bench.json("results.json")["summary"]["scored"], 5);
}

/// What scores of the original are made of: patterns, sets, numbers, rounding, and letters beyond ASCII.
const MIXED: &str = r#"
import hashlib, math, re
from fractions import Fraction

def compute_score(agent_answer, ground_truth, domain="", qa_type=None, **row):
    if qa_type == "letter":
        found = re.findall(r"\b([A-Z])\b", agent_answer.upper())
        return float(bool(found) and found[-1] == ground_truth)
    if qa_type == "set":
        a, b = set(agent_answer.split(",")), set(ground_truth.split(","))
        return 2 * len(a & b) / (len(a) + len(b)) if a or b else 0
    if qa_type == "number":
        given = re.findall(r"-?\d+(?:/\d+)?", agent_answer)
        if not given:
            return 0
        off = abs(Fraction(given[-1]) - Fraction(ground_truth))
        return math.exp(-float(off)) * row["weight"]
    digest = hashlib.sha256((agent_answer + domain).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
"#;

#[test]
fn hundreds_of_scores_in_python_are_those_of_python_outside() {
    const CASES: usize = 400;
    let bench = Bench::new();
    let words = [
        "B",
        "is it a, or C?",
        "1,2,3",
        "3,ü",
        "x = 7/2",
        "-4 and then 9",
        "",
        "naïve \u{1f600} \u{202e}text",
    ];
    let truths = [
        ("letter", "C"),
        ("set", "3,ü,1"),
        ("number", "7/3"),
        ("hash", ""),
    ];
    let mut rows = Vec::new();
    let mut answers = Vec::new();
    for at in 0..CASES {
        let (kind, truth) = truths[at % truths.len()];
        let id = format!("c{at:03}");
        // Space around a plain answer is part of it, as in the original.
        let answer = format!("{} {}\n", words[at / truths.len() % words.len()], at / 32);
        rows.push(
            json!({"id": id, "problem_statement": "p", "ground_truth": truth, "qa_type": kind,
            "domain": "døm", "weight": 1.0 / (at + 1) as f64}),
        );
        bench.record(&id, &[json!({"content": answer})]);
        answers.push(Some(answer));
    }
    let path = bench.path("t");
    task(&path, "", &rows);
    std::fs::write(path.join("reward.py"), MIXED).unwrap();
    let Some(outside) = outside(&path, &json!(answers)) else {
        return;
    };
    assert_eq!(outside.len(), CASES);
    let apart: std::collections::BTreeSet<String> = outside.iter().map(f64::to_string).collect();
    assert!(
        apart.len() > CASES / 4,
        "the cases are alike: {}",
        apart.len()
    );
    bench.replay(&["t", "--mode", "llm", "--num_workers", "4"], 0);
    let scores = bench.scores();
    for (at, expected) in outside.iter().enumerate() {
        assert_eq!(
            scores[&format!("c{at:03}")],
            json!(expected),
            "{}",
            rows[at]
        );
    }
}

#[test]
fn the_expected_answer_is_in_no_sandbox_of_the_model() {
    let bench = Bench::new();
    python_task(&bench);
    // Everything that the sandbox holds and shows, but for this command itself.
    let search = "printf 'axo%s' lotl > /tmp/control; grep -rIl 'axolot[l]' / --exclude-dir=proc --exclude-dir=sys 2>/dev/null; \
        cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep 'axolot[l]'; ls /task /grader.py; true";
    bench.record("a", &[bash(search), call("submit", &json!({}))]);
    bench.replay(&["t", "--end_id", "1"], 0);
    let trajectories = bench.json("trajectory.json");
    let seen = trajectories["a"]["trajectory"][0]["observation"]
        .as_str()
        .unwrap();
    assert!(seen.contains("cannot access '/task'"), "{seen}");
    // The search finds what is there, and nothing else.
    assert!(seen.contains("[STDOUT]\n/tmp/control\n[STDERR]"), "{seen}");
    assert!(!seen.contains("axolotl"), "{seen}");
}

#[test]
fn prompts_in_python_are_asked_and_missing_imports_are_found_before_the_model_is() {
    let bench = Bench::new();
    python_task(&bench);
    bench.record("a", &[json!({"content": "one two three"})]);
    bench.replay(&["t", "--mode", "llm", "--end_id", "1"], 0);
    assert_eq!(bench.lines()[0]["score"], 0.375);
    let record = bench.folder().join("samples/a/1/trajectory.jsonl");
    let record = std::fs::read_to_string(record).unwrap();
    assert!(record.contains("ASKED: COUNT"), "{record}");
    std::fs::write(bench.path("t/reward.py"), "import no_such_module\n").unwrap();
    let output = bench.replay(&["t", "--mode", "llm"], 2);
    assert!(
        stderr(&output).contains("no_such_module"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        std::fs::read_dir(bench.path("out")).unwrap().count(),
        1,
        "nothing was begun"
    );
}

#[test]
fn a_resumed_run_scores_what_still_waits_for_the_grader() {
    let bench = Bench::new();
    python_task(&bench);
    let broken = WORDS.replace("return", "raise OSError(28, 'no space'); return");
    std::fs::write(bench.path("t/words.py"), broken).unwrap();
    for (id, answer) in &ANSWERS[..2] {
        bench.record(id, &answering("/testbed/out", answer));
    }
    bench.replay(&["t", "--end_id", "2"], 0);
    assert!(bench.lines().iter().all(|line| line["status"] == "pending"));
    // What the reward imports is mended; the model is not asked again.
    std::fs::write(bench.path("t/words.py"), WORDS).unwrap();
    std::fs::remove_dir_all(bench.path("answers")).unwrap();
    std::fs::create_dir(bench.path("answers")).unwrap();
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.replay(&["--resume", &folder], 0);
    assert!(
        stderr(&output).contains("0 of 2 samples"),
        "{}",
        stderr(&output)
    );
    assert_eq!(bench.json("results.json")["summary"]["scored"], 2);
    let mean = bench.json("results.json")["mean_score"].as_f64().unwrap();
    assert!((mean - (0.375 + 0.25) / 2.0).abs() < 1e-12, "{mean}");
}

#[test]
fn verify_scores_again_without_any_model() {
    let bench = Bench::new();
    python_task(&bench);
    for (id, answer) in ANSWERS {
        bench.record(id, &answering("/testbed/out", answer));
    }
    bench.replay(&["t", "--end_id", "3"], 0);
    std::fs::remove_dir_all(bench.path("answers")).unwrap();
    let folder = bench.folder().to_str().unwrap().to_owned();
    let verify =
        |flags: &[&str]| finish(bench.verb(&[&["verify", &folder], flags].concat(), false));
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let output = verify(&[]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        told(&output).contains("2 scores are as they were, 0 are new, 1 are still to come"),
        "{}",
        told(&output)
    );
    // The reward is mended: what was pending gets its score, and another changes.
    let mended = REWARD
        .replace("raise ValueError", "return 1.0; raise ValueError")
        .replace("agent_answer == \"crash\"", "ground_truth == 7");
    std::fs::write(
        bench.path("t/reward.py"),
        mended.replace("row.get(\"weight\", 1)", "1"),
    )
    .unwrap();
    let output = verify(&[]);
    assert!(
        told(&output).contains("0 scores are as they were, 3 are new"),
        "{}",
        told(&output)
    );
    assert!(
        stderr(&output).contains("pending is now 1.0000"),
        "{}",
        stderr(&output)
    );
    let output = verify(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let mean = (0.75 + 0.5 + 1.0) / 3.0;
    assert!((bench.json("results.json")["mean_score"].as_f64().unwrap() - mean).abs() < 1e-12);
    // Other rows are another evaluation.
    task(
        &bench.path("t"),
        "",
        &[json!({"id": "a", "problem_statement": "x"})],
    );
    assert!(stderr(&verify(&[])).contains("changed since"));
}
