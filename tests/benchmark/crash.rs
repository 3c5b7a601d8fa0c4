//! What a crash, an interrupt or a second runner does to a run: nothing is lost, and nothing is done twice.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::program::{code, collect, ended, eventually, finish, stderr};
use crate::server::{Reply, streamed};
use crate::{Bench, answering, bash, rows, serve, task, text};

/// Moments at which the run is killed.
const KILLS: usize = 20;

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, signal).unwrap();
}

/// Numbers that look random, from `LIS_TEST_SEED` or the clock.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = std::env::var("LIS_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = given.unwrap_or_else(|| u64::from(clock.unwrap().subsec_nanos()));
        println!("LIS_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// Every sample is there, and no key twice.
fn assert_each_once(lines: &[Value], count: usize) {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        assert_eq!(line["status"], "scored", "{line}");
        assert_eq!(line["score"], 1.0, "{line}");
        *times.entry(text(line, "id")).or_default() += 1;
    }
    assert_eq!(times.len(), count, "lost: {times:?}");
    assert!(times.values().all(|n| *n == 1), "done twice: {times:?}");
}

#[test]
fn a_run_killed_at_random_moments_loses_no_sample_and_does_none_twice() {
    let samples = 120;
    let (server, _runtime) = serve(|request| {
        let turns = request["messages"].as_array().unwrap().len();
        let answer = answering("/testbed", "yes");
        let message = if turns <= 1 { &answer[0] } else { &answer[1] };
        Reply::Late(Duration::from_millis(20), Box::new(streamed(message)))
    });
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(samples));
    let url = server.url();
    let mut random = Random::new();
    let mut child = bench.start(&[
        "t",
        "--llm_name",
        "m",
        "--llm_base_url",
        &url,
        "--num_workers",
        "4",
    ]);
    assert!(eventually(|| bench
        .begun()
        .is_some_and(|folder| folder.join("results.jsonl").exists())));
    let folder = bench.folder().to_str().unwrap().to_owned();
    let (mut done, mut struck) = (0, 0);
    for _ in 0..KILLS {
        // It gets on between the kills, so that they come at every stage.
        let wanted = done + usize::try_from(random.below(4)).unwrap();
        assert!(eventually(
            || bench.lines().len() >= wanted || child.try_wait().unwrap().is_some()
        ));
        std::thread::sleep(Duration::from_millis(random.below(60)));
        struck += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        collect(child);
        let before = bench.lines().len();
        assert!(before >= done, "results went away");
        done = before;
        child = bench.start(&["--resume", &folder, "--num_workers", "4"]);
    }
    assert!(struck * 4 >= KILLS * 3, "{struck} kills met a run at work");
    let output = collect(child);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_each_once(&bench.lines(), samples);
    assert_eq!(bench.json("results.json")["mean_score"], 1.0);
    assert_eq!(
        bench.json("trajectory.json").as_object().unwrap().len(),
        samples
    );
}

#[test]
fn half_a_line_costs_one_sample() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(3));
    for at in 0..3 {
        bench.record(&format!("r{at:03}"), &[json!({"content": "yes"})]);
    }
    bench.replay(&["t", "--mode", "llm"], 0);
    let path = bench.folder().join("results.jsonl");
    let whole = std::fs::read(&path).unwrap();
    let folder = bench.folder().to_str().unwrap().to_owned();
    let last = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap()
        + 1;
    for length in [last + 1, last + 40, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let output = bench.run(&["--resume", &folder, "--mode", "llm"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(
            stderr(&output).contains("1 of 3 samples"),
            "{}",
            stderr(&output)
        );
        assert_each_once(&bench.lines(), 3);
    }
    // What is broken in the middle is not passed over.
    std::fs::write(&path, [b"{\"key\"\n", &whole[..]].concat()).unwrap();
    let output = bench.run(&["--resume", &folder, "--mode", "llm"]);
    assert_eq!(code(&output), 125);
    assert!(stderr(&output).contains("line 1"), "{}", stderr(&output));
}

/// Four samples that never end by themselves.
fn endless() -> (Bench, Child) {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(4));
    for at in 0..4 {
        bench.record(&format!("r{at:03}"), &[bash("echo begun; sleep 600")]);
    }
    let flags = [
        "t",
        "--llm_name",
        "replay:answers",
        "--cmd_timeout",
        "500",
        "--num_workers",
        "4",
    ];
    let child = bench.start(&flags);
    let working = eventually(|| {
        let records = (0..4).map(|at| {
            bench.begun().map(|folder| {
                let path = folder.join(format!("samples/r{at:03}/1/trajectory.jsonl"));
                std::fs::read_to_string(path).is_ok_and(|record| record.contains("\"tool_call\""))
            })
        });
        records.into_iter().all(|there| there == Some(true))
    });
    assert!(working, "the samples did not begin");
    (bench, child)
}

#[test]
fn an_interrupt_ends_a_run_soon_leaves_nothing_and_can_be_resumed() {
    let (bench, child) = endless();
    let begun = Instant::now();
    signal(&child, Signal::SIGINT);
    let output = collect(child);
    let took = begun.elapsed();
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    println!("ended after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
    assert!(bench.lines().is_empty(), "what was cut short is no result");
    assert_eq!(sandboxes(&bench), 0);
    for at in 0..4 {
        bench.record(&format!("r{at:03}"), &answering("/testbed", "yes"));
    }
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.run(&["--resume", &folder]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_each_once(&bench.lines(), 4);
}

/// Sandboxes of a run that are there, by `ps`.
fn sandboxes(bench: &Bench) -> usize {
    let mut ps = crate::bare(&["ps", "--json"]);
    ps.env("LLM_IN_SANDBOX_RUNTIME_DIR", bench.path("registry"));
    let ps = finish(ps);
    assert_eq!(code(&ps), 0, "{}", stderr(&ps));
    let all: Value = serde_json::from_slice(&ps.stdout).unwrap();
    all.as_array().unwrap().len()
}

#[test]
fn an_interrupt_ends_sixteen_samples_that_wait_for_a_server_that_hangs() {
    let hangs = Arc::new(AtomicBool::new(true));
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = (Arc::clone(&hangs), Arc::clone(&asked));
    let (server, _runtime) = serve(move |request| {
        let turns = request["messages"].as_array().unwrap().len();
        seen.1.fetch_add(1, Ordering::SeqCst);
        if seen.0.load(Ordering::SeqCst) {
            return Reply::Silent;
        }
        streamed(&answering("/testbed", "yes")[usize::from(turns > 1)])
    });
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(20));
    let url = server.url();
    let model = ["--llm_name", "m", "--llm_base_url", &url];
    let flags = ["t", "--num_workers", "16", "--json", "--stalled_after", "1"];
    let child = bench.start(&[&flags[..], &model].concat());
    assert!(eventually(|| asked.load(Ordering::SeqCst) == 16));
    assert!(eventually(|| sandboxes(&bench) >= 16));
    let begun = Instant::now();
    signal(&child, Signal::SIGINT);
    let output = collect(child);
    let took = begun.elapsed();
    println!("ended after {took:?}");
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(sandboxes(&bench), 0, "nothing is left");
    assert!(bench.lines().is_empty(), "what was cut short is no result");
    // Stdout holds events alone, the first and the last of which are these.
    let told = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(events.iter().all(|event| event["v"] == 1), "{told}");
    assert_eq!(events[0]["event"], "begin");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["stop"]),
        (&json!("end"), &json!("interrupted"))
    );
    hangs.store(false, Ordering::SeqCst);
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.run(&["--resume", &folder, "--num_workers", "4"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_each_once(&bench.lines(), 20);
}

#[test]
fn a_run_whose_time_is_up_is_resumed_like_any_other() {
    let hangs = AtomicBool::new(true);
    let (server, _runtime) = serve(move |request| {
        let messages = request["messages"].as_array().unwrap();
        let slow = messages[0].to_string().contains("slow");
        if slow && hangs.swap(false, Ordering::SeqCst) {
            return Reply::Silent;
        }
        streamed(&answering("/testbed", "yes")[usize::from(messages.len() > 1)])
    });
    let bench = Bench::new();
    let mut rows = rows(3);
    rows[2]["problem_statement"] = "Be slow.".into();
    task(&bench.path("t"), "reward: exact\n", &rows);
    let url = server.url();
    let flags = [
        "t",
        "--num_workers",
        "3",
        "--llm_name",
        "m",
        "--llm_base_url",
        &url,
    ];
    let output = bench.run(&[&flags[..], &["--run_timeout", "8"]].concat());
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the time of the run is up"),
        "{}",
        stderr(&output)
    );
    assert_eq!(bench.lines().len(), 2);
    assert_eq!(bench.json("results.json")["summary"]["missing"], 1);
    let took = || {
        let results = bench.json("results.json");
        results["elapsed_time_seconds"].as_f64().unwrap()
    };
    let before = took();
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.run(&["--resume", &folder]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_each_once(&bench.lines(), 3);
    assert!(took() > before && before >= 8.0, "{before} and {}", took());
}

#[test]
fn two_runners_on_one_folder_are_refused() {
    let (bench, mut child) = endless();
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.run(&["--resume", &folder]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("another process"),
        "{}",
        stderr(&output)
    );
    assert!(child.try_wait().unwrap().is_none(), "the first goes on");
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child).code(), Some(143));
}

#[test]
fn a_run_is_resumed_only_with_the_settings_it_was_begun_with() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(2));
    for at in 0..2 {
        bench.record(&format!("r{at:03}"), &[json!({"content": "yes"})]);
    }
    bench.replay(&["t", "--mode", "llm", "--end_id", "1"], 0);
    let folder = bench.folder().to_str().unwrap().to_owned();
    let resumed =
        |flags: &[&str]| bench.run(&[&["--resume", &folder, "--mode", "llm"], flags].concat());
    for (flags, name) in [
        (&["--max_steps", "7"][..], "max_steps was 100 and is 7"),
        (&["--end_id", "2"], "data_digest"),
        (&["--reward", "letter"], "task_digest"),
        (&["--repeat", "2"], "repeat"),
    ] {
        let output = resumed(flags);
        assert_eq!(code(&output), 2, "{flags:?}");
        assert!(
            stderr(&output).contains(name),
            "{flags:?}: {}",
            stderr(&output)
        );
    }
    // The data are part of them.
    let output = resumed(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("0 of 1 samples"),
        "{}",
        stderr(&output)
    );
    let changed = [json!({"id": "r000", "problem_statement": "Say no.", "ground_truth": "no"})];
    task(&bench.path("t"), "reward: exact\n", &changed);
    assert!(stderr(&resumed(&[])).contains("data_digest"));
}

#[test]
fn a_resumed_run_refuses_the_system_calls_that_it_refused_before() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(1));
    bench.record("r000", &[json!({"content": "yes"})]);
    bench.replay(&["t", "--mode", "llm", "--seccomp", "strict"], 0);
    let folder = bench.folder().to_str().unwrap().to_owned();
    let resume = ["--resume", &folder, "--mode", "llm"];
    bench.replay(&resume, 0);
    let output = bench.replay(&[&resume[..], &["--seccomp", "default"]].concat(), 2);
    assert!(
        stderr(&output).contains("seccomp was"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_run_folder_tells_its_package_cache() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(1));
    bench.record("r000", &[json!({"content": "yes"})]);
    let plain = ["t", "--mode", "llm"];
    bench.replay(&[&plain[..], &["--package_cache", "./kept"]].concat(), 0);
    let kept = || bench.json("run.json")["package_cache"].clone();
    assert_eq!(kept(), json!(bench.path("kept")));
    bench.replay(&[&plain[..], &["--package_cache", "off"]].concat(), 0);
    assert_eq!(kept(), "off");
}

#[test]
fn what_failed_through_no_fault_of_the_model_is_in_no_mean_and_done_again() {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(6));
    // There are no answers for the other four: that is no fault of the model.
    bench.record("r000", &[json!({"content": "yes"})]);
    bench.record("r003", &[json!({"content": "no"})]);
    let output = bench.replay(&["t", "--mode", "llm", "--num_workers", "2"], 1);
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        told.contains("mean score: 0.5000") && told.contains("n 2"),
        "{told}"
    );
    assert!(told.contains("failed:     4 of 6"), "{told}");
    let results = bench.json("results.json");
    assert_eq!(
        (&results["mean_score"], &results["num_errors"]),
        (&json!(0.5), &json!(4))
    );
    let failed: Vec<Value> = bench
        .lines()
        .into_iter()
        .filter(|line| line["status"] == "failed")
        .collect();
    assert_eq!(failed.len(), 4);
    for line in &failed {
        assert_eq!(line["outcome"]["cause"], "llm", "{line}");
        assert_eq!(
            (&line["score"], &line["attempts"]),
            (&Value::Null, &json!(3)),
            "{line}"
        );
    }
    // Past the bound the run is stopped.
    let stopped = bench.run(&[
        "t",
        "--mode",
        "llm",
        "--llm_name",
        "replay:answers",
        "--max_infra_failures",
        "1",
    ]);
    assert_eq!(code(&stopped), 1);
    assert!(
        stderr(&stopped).contains("more than 1 samples failed"),
        "{}",
        stderr(&stopped)
    );
    // Mended, only what is missing is done.
    for at in 0..6 {
        bench.record(&format!("r{at:03}"), &[json!({"content": "yes"})]);
    }
    let folder = bench.folder().to_str().unwrap().to_owned();
    let output = bench.run(&["--resume", &folder, "--mode", "llm"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(bench.json("results.json")["summary"]["scored"], 6);
}
