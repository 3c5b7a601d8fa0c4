//! Scores of replayed runs are known, in both modes, on real rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::program::{code, finish, stderr};
use crate::server::streamed;
use crate::{Bench, answering, bash, real_rows, rows, serve, task, text};

/// Follows every instruction of the rows that ship with the tests.
const OBEDIENT: &str = "*First part* and *second part* and *third part*. It replied. He replied. She looked up. They sang. \
    skyscraper skyscraper skyscraper skyscraper skyscraper skyscraper skyscraper skyscraper skyscraper. \
    Is there anything else I can help with?";

/// An answer as a model might write it, right or wrong.
fn written(task: &str, row: &Value, right: bool) -> String {
    let truth = text(row, "ground_truth");
    let choice = row["qa_type"] == "multiple choice";
    match (task, right) {
        ("math", true) => format!("\\boxed{{{truth}}}\n"),
        ("math", false) => "\\boxed{31337}".to_owned(),
        ("physics" | "chem" | "biomed", true) => format!("The answer is {truth}.\n"),
        ("physics" | "chem" | "biomed", false) => "Q".to_owned(),
        ("instruct_pretrain", true) if choice => format!("The answer is {truth}.\n"),
        ("instruct_pretrain", false) if choice => "Q".to_owned(),
        ("instruct_follow", true) => OBEDIENT.to_owned(),
        ("instruct_follow", false) => "No, free of all that: reschedule it.".to_owned(),
        (_, true) => format!("{truth}\n"),
        (_, false) => "something else".to_owned(),
    }
}

/// The score that such an answer has.
fn known(task: &str, mode: &str, row: &Value, right: bool) -> Value {
    let plain = mode == "llm";
    let formula = row["qa_type"] == "free-form" && text(row, "ground_truth").contains('(');
    let by_grader = |score: f64| match crate::grader_is_built() {
        true => json!(score),
        false => Value::Null,
    };
    match task {
        // A fraction and a wrong whole number: equal or not is for computer algebra to say.
        "math" if formula && !right => by_grader(0.0),
        "instruct_follow" => by_grader(f64::from(right)),
        // Text around the answer is no equal text; it is one word of three.
        "long_context" | "demo" if plain => json!(0.0),
        // Whether other words are an equal formula is for computer algebra to say, too.
        "instruct_pretrain" if row["qa_type"] == "free-form" && !right => by_grader(0.0),
        "instruct_pretrain" if row["qa_type"] == "free-form" && plain => by_grader(0.5),
        _ => json!(f64::from(right)),
    }
}

fn check(name: &str, mode: &str) {
    let Some((path, rows)) = real_rows(name) else {
        return;
    };
    let bench = Bench::new();
    let mut expected = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let (id, right) = (text(row, "id"), at % 3 != 1);
        let answer = written(name, row, right);
        let before = if name == "instruct_follow" {
            ""
        } else {
            "I think.\n\n"
        };
        let messages = match (mode, name) {
            ("llm", _) => vec![json!({"content": format!("{before}{answer}")})],
            (_, "demo") => answering("/testbed/output", &answer),
            _ => answering("/testbed", &answer),
        };
        expected.insert(id.clone(), known(name, mode, row, right));
        bench.record(&id, &messages);
    }
    let mut flags = vec![name, "--data", &path, "--mode", mode, "--num_workers", "3"];
    if name == "long_context" {
        flags.extend(["--reward", "exact"]);
    }
    bench.replay(&flags, 0);
    assert_eq!(bench.scores(), expected, "{name}, {mode}");
    let results = bench.json("results.json");
    let scored: Vec<f64> = expected.values().filter_map(Value::as_f64).collect();
    assert_eq!(results["summary"]["scored"], scored.len());
    assert_eq!(results["summary"]["pending"], expected.len() - scored.len());
    if scored.is_empty() {
        assert_eq!(results["mean_score"], Value::Null);
        return;
    }
    let mean = scored.iter().sum::<f64>() / scored.len() as f64;
    assert!((results["mean_score"].as_f64().unwrap() - mean).abs() < 1e-12);
}

#[test]
fn scores_of_the_sandbox_mode_are_known() {
    for name in crate::TASKS {
        check(name, "llm-in-sandbox");
    }
}

#[test]
fn scores_of_the_plain_mode_are_known() {
    for name in crate::TASKS {
        check(name, "llm");
    }
}

#[test]
fn documents_are_in_files_or_in_the_prompt() {
    let bench = Bench::new();
    let files = json!({"d.txt": "the word is axolotl"});
    let row = json!({"id": "a", "problem_statement": "Which word?", "ground_truth": "yes", "input_files": files});
    task(&bench.path("t"), "reward: exact\n", &[row]);
    let look = "cat /testbed/documents/d.txt && echo yes > /testbed/answer.txt";
    bench.record("a", &[bash(look), crate::call("submit", &json!({}))]);
    let run = |flags: &[&str]| -> (Value, String) {
        bench.replay(&[&["t"], flags].concat(), 0);
        let trajectory = bench.json("trajectory.json");
        let asked = text(&trajectory["a"], "problem_statement");
        (bench.scores()["a"].clone(), asked)
    };
    let (score, asked) = run(&[]);
    assert_eq!((score, asked.contains("axolotl")), (json!(1.0), false));
    let (score, asked) = run(&["--context", "files"]);
    assert_eq!((score, asked.contains("axolotl")), (json!(1.0), false));
    let (score, asked) = run(&["--context", "prompt"]);
    assert_eq!(
        (score, asked.contains("axolotl")),
        (json!(0.0), true),
        "{asked}"
    );
    // A run that is gone on with has its documents where they were.
    let folder = bench.folder().to_str().unwrap().to_owned();
    bench.replay(&["--resume", &folder], 0);
    let output = bench.replay(&["--resume", &folder, "--context", "files"], 2);
    assert!(
        stderr(&output).contains("data_digest"),
        "{}",
        stderr(&output)
    );
    let output = bench.replay(&["t", "--mode", "llm", "--context", "files"], 2);
    assert!(
        stderr(&output).contains("has no files"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_only_a_judge_can_tell_is_pending_and_in_no_mean() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: judge\n", &rows(2));
    for name in ["r000", "r001"] {
        bench.record(name, &[json!({"content": "yes"})]);
    }
    bench.replay(&["t", "--mode", "llm"], 0);
    let results = bench.json("results.json");
    assert_eq!(results["mean_score"], Value::Null);
    assert_eq!(results["summary"]["pending"], 2);
    assert!(bench.lines().iter().all(|line| line["status"] == "pending"));
}

#[test]
fn the_files_of_a_run_are_those_of_the_original() {
    let bench = Bench::new();
    let path = bench.path("my_task");
    // The directories of the configuration are honoured.
    let config = "reward: exact\nworking_dir: /w\ninput_dir: /w/in\noutput_dir: /w/out\nsystem_prompt: |\n  Look into {input_dir}.\n";
    let files = json!({"deep/a.txt": "yes\n", "none": null});
    let row =
        json!({"id": "a/b", "problem_statement": "p", "ground_truth": "YES", "input_files": files});
    task(&path, config, &[row]);
    // Names of files are safe, and differ where ids do.
    bench.record(
        "a_b~c85bed17",
        &[
            bash("pwd; cp in/deep/a.txt out/answer.txt"),
            crate::call("submit", &json!({})),
        ],
    );
    bench.replay(&["my_task"], 0);
    let folder = bench.folder();
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert!(
        name.ends_with("_my_task_replay:answers_LLMinSandbox"),
        "{name}"
    );
    let results = bench.json("results.json");
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    for key in [
        "config",
        "task",
        "total",
        "mean_score",
        "num_errors",
        "elapsed_time_seconds",
    ] {
        assert!(names(&results).contains(key), "{key}");
    }
    let config = [
        "mode",
        "docker_image",
        "llm_name",
        "llm_base_url",
        "max_steps",
        "temperature",
        "max_token_limit",
        "max_tokens_per_call",
        "max_response_len",
        "extra_body",
        "save_litellm_response",
    ];
    assert_eq!(names(&results["config"]), config.map(str::to_owned).into());
    assert_eq!(results["config"]["mode"], "llm-in-sandbox");
    let trajectories = bench.json("trajectory.json");
    let sample = &trajectories["a/b"];
    assert_eq!(
        names(sample),
        [
            "problem_statement",
            "trajectory",
            "reward",
            "agent_answer",
            "ground_truth"
        ]
        .map(str::to_owned)
        .into()
    );
    assert_eq!(
        (&sample["reward"], &sample["agent_answer"]),
        (&json!(1.0), &json!("yes"))
    );
    let seen = sample["trajectory"][0]["observation"].as_str().unwrap();
    assert!(seen.ends_with("\n/w"), "{seen}");
    let log = std::fs::read_to_string(folder.join("logs/a_b~c85bed17.txt")).unwrap();
    assert!(
        log.contains("Look into /w/in.") && log.contains("score:        1.0000"),
        "{log}"
    );
    // The block of the original, in its order, between two rules.
    let rule = "=".repeat(80);
    let block = log.split(&rule).nth(1).unwrap();
    let parts = ["problem id:", "agent answer:", "ground truth:", "score:"];
    let places: Vec<usize> = parts.map(|part| block.find(part).unwrap()).into();
    assert!(places.is_sorted(), "{block}");
}

#[test]
fn every_sample_has_a_seed_of_its_own_that_comes_again() {
    let seeds = Arc::new(Mutex::new(Vec::new()));
    let (server, _runtime) = serve({
        let seeds = Arc::clone(&seeds);
        move |request| {
            seeds.lock().unwrap().push(request["seed"].as_u64());
            assert!(
                request.get("tools").is_none(),
                "a plain answer has no tools"
            );
            streamed(&json!({"content": "yes"}))
        }
    });
    let run = |flags: &[&str]| -> BTreeSet<Option<u64>> {
        let bench = Bench::new();
        task(&bench.path("t"), "reward: exact\n", &rows(3));
        let url = server.url();
        let base = [
            "t",
            "--mode",
            "llm",
            "--llm_name",
            "m",
            "--llm_base_url",
            &url,
        ];
        let output = bench.run(&[&base[..], flags].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let results = bench.json("results.json");
        assert_eq!(results["mean_score"], 1.0);
        std::mem::take(&mut *seeds.lock().unwrap())
            .into_iter()
            .collect()
    };
    let first = run(&["--seed", "5", "--repeat", "2", "--num_workers", "4"]);
    assert_eq!(first.len(), 6, "{first:?}");
    assert_eq!(run(&["--seed", "5", "--repeat", "2"]), first);
    assert_eq!(
        run(&["--seed", "6", "--repeat", "2"])
            .intersection(&first)
            .count(),
        0
    );
    // Without a seed the server draws its own.
    assert_eq!(run(&[]), BTreeSet::from([None]));
}

#[test]
fn repeats_are_grouped_by_problem() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(2));
    for (name, answer) in [
        ("r000", "yes"),
        ("r000#2", "no"),
        ("r001", "no"),
        ("r001#2", "no"),
    ] {
        bench.record(name, &[json!({"content": answer})]);
    }
    let output = bench.replay(&["t", "--mode", "llm", "--repeat", "2"], 0);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("mean score: 0.2500") && told.contains("pass@2:     0.5000"),
        "{told}"
    );
    let trajectories = bench.json("trajectory.json");
    let keys: Vec<&String> = trajectories.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["r000", "r001", "r000#2", "r001#2"]);
}

#[test]
fn shards_put_together_are_the_whole() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(5));
    for at in 0..5 {
        let answer = if at % 2 == 0 { "yes" } else { "no" };
        bench.record(&format!("r{at:03}"), &answering("/testbed", answer));
    }
    bench.replay(&["t"], 0);
    let whole = bench.folder();
    let mut shards = Vec::new();
    for shard in ["1/2", "2/2"] {
        bench.replay(&["t", "--shard", shard], 0);
        let folders = std::fs::read_dir(bench.path("out")).unwrap();
        let name = shard.replace('/', "of");
        let found = folders.map(|folder| folder.unwrap().path().to_str().unwrap().to_owned());
        shards.extend(found.filter(|folder| folder.ends_with(&name)));
    }
    let merge = |shards: &[&str]| {
        finish(bench.verb(
            &[&["merge", "--output_dir", "out/merged"], shards].concat(),
            true,
        ))
    };
    let output = merge(&[&shards[0], &shards[1]]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let merged = std::fs::read_dir(bench.path("out/merged"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let of = |folder: &Path, name: &str| crate::read_json(&folder.join(name));
    assert_eq!(
        of(&merged, "results.json")["summary"],
        of(&whole, "results.json")["summary"]
    );
    let rewards = |folder: &Path| -> Vec<(String, Value, usize)> {
        let all = of(folder, "trajectory.json");
        let one = |(id, sample): (&String, &Value)| {
            let steps = sample["trajectory"].as_array().unwrap().len();
            (id.clone(), sample["reward"].clone(), steps)
        };
        all.as_object().unwrap().iter().map(one).collect()
    };
    assert_eq!(rewards(&merged), rewards(&whole));
    // Half of a run is told as such, and the same half twice is refused.
    let output = merge(&[&shards[0]]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("not done:   2 of 5"));
    let output = merge(&[&shards[0], &shards[0]]);
    assert_eq!(code(&output), 125, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("another shard"),
        "{}",
        stderr(&output)
    );
}
