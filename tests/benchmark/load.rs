//! Many samples of many turns at once: what does not depend on the machine. Times are those of `cargo bench --bench evaluation`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::{code, stderr};
use crate::server::{Reply, streamed};
use crate::{Bench, answering, bash, call, rows, serve, task};

const SAMPLES: usize = 48;
const TURNS: usize = 6;
const AT_ONCE: usize = 8;

fn turn(request: &Value) -> Value {
    let messages = request["messages"].as_array().unwrap();
    let turn = messages.iter().filter(|m| m["role"] == "assistant").count();
    match TURNS - 1 - turn {
        0 => call("submit", &json!({})),
        1 => answering("/testbed", "yes")[0].clone(),
        _ => bash("echo on"),
    }
}

#[test]
fn each_turn_is_one_request_and_no_more_are_under_way_than_samples_at_work() {
    let (asked, under_way, most) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let seen = (Arc::clone(&asked), Arc::clone(&most));
    let (server, _runtime) = serve(move |request| {
        seen.0.fetch_add(1, Ordering::SeqCst);
        let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
        seen.1.fetch_max(now, Ordering::SeqCst);
        let ends = Ends(Arc::clone(&under_way));
        let answer = Box::new(streamed(&turn(request)));
        Reply::Holding(Duration::from_millis(20), answer, Arc::new(ends))
    });
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &rows(SAMPLES));
    let (url, at_once) = (server.url(), AT_ONCE.to_string());
    let model = ["--llm_name", "m", "--llm_base_url", &url];
    let output = bench.run(&[&["t", "--num_workers", &at_once, "--json"][..], &model].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(asked.load(Ordering::SeqCst), SAMPLES * TURNS);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=AT_ONCE).contains(&most), "{most} requests at once");
    let lines = bench.lines();
    assert_eq!(bench.scores().len(), SAMPLES);
    assert_eq!(lines.len(), SAMPLES, "no sample is there twice");
    assert!(
        lines
            .iter()
            .all(|line| line["score"] == 1.0 && line["steps"] == TURNS)
    );
    // One event for each sample, and counts that agree with it.
    let told = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let samples = events.iter().filter(|event| event["event"] == "sample");
    let done: Vec<u64> = samples
        .map(|event| event["standing"]["done"].as_u64().unwrap())
        .collect();
    assert_eq!(done, (1..=SAMPLES as u64).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["stop"]),
        (&json!("end"), &json!("finished"))
    );
    assert_eq!(last["summary"]["mean"], 1.0);
}

struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
