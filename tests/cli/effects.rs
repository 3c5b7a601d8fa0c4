//! What calls did, in the record of a run.

use serde_json::{Value, json};

use crate::replay::{Replay, bash, calls, submit};
use crate::{code, collect, stderr};

fn record(flags: &[&str]) -> Vec<Value> {
    let replay = Replay::new(&[
        calls("I write.", &[bash("echo 1 >answer.tmp"), bash("true")]),
        calls("Done.", &[submit()]),
    ]);
    let output = collect(replay.command(flags).spawn().unwrap());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = replay.record().into_iter();
    lines.map(|line| line["event"].clone()).collect()
}

#[test]
fn what_a_call_did_follows_its_result() {
    let events = record(&["--record_effects"]);
    let named = |event: &Value| event["type"].as_str().unwrap_or("").to_owned();
    let told = || events.iter().filter(|event| named(event) == "effects");
    let calls: Vec<_> = told()
        .map(|event| json!([event["step"], event["call_id"]]))
        .collect();
    // What was prepared, two commands, and the submission.
    let expected = [
        json!([null, null]),
        json!([1, "call_1"]),
        json!([1, "call_2"]),
        json!([2, "call_3"]),
    ];
    assert_eq!(calls, expected);
    let files = |at: usize| told().nth(at).unwrap()["effects"]["files"].clone();
    assert_eq!(files(1)["created"], 1, "{}", files(1));
    let listed = &files(1)["listed"][0];
    let path = listed["path"].as_str().unwrap();
    assert!(path.ends_with("/answer.tmp"), "{path}");
    assert_eq!(
        (&listed["size"], &listed["diff"]),
        (&json!(2), &json!("@@ -1 +1 @@\n+1\n"))
    );
    assert_eq!(files(2)["created"], 0, "{}", files(2));
    for (at, event) in events
        .iter()
        .enumerate()
        .filter(|(_, event)| event["step"] == 1)
    {
        if named(event) == "effects" {
            assert_eq!(named(&events[at - 1]), "tool_result");
        }
    }
    // The model is told the same as without.
    let observations = |events: &[Value]| -> Vec<Value> {
        events
            .iter()
            .map(|event| event["observation"].clone())
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|o| !o.is_null())
            .collect()
    };
    let without = record(&[]);
    assert!(without.iter().all(|event| named(event) != "effects"));
    assert_eq!(observations(&events), observations(&without));
}
