use serde_json::{Value, json};

use super::*;

fn record(events: &[Value]) -> String {
    let mut lines = vec!["{\"schema\": \"header\"}".to_owned()];
    lines.extend(
        events
            .iter()
            .map(|event| json!({"n": 1, "t_us": 1, "event": event}).to_string()),
    );
    lines.join("\n")
}

fn call(step: u32, function: &str, name: &str, text: &str) -> Value {
    json!({"type": "tool_call", "step": step, "call_id": null, "function": function, "parameters": {name: text}})
}

fn bash(step: u32, text: &str) -> Value {
    call(step, "execute_bash", "command", text)
}

fn result(step: u32, error: Option<&str>) -> Value {
    json!({"type": "tool_result", "step": step, "call_id": null, "observation": "", "error": error, "tool_us": 1})
}

fn end(step: u32) -> Value {
    json!({"type": "turn_end", "step": step, "calls": 1, "model_us": 1, "tool_us": 1, "total_us": 1})
}

fn effects(step: Option<u32>, path: &str, cpu_us: u64) -> Value {
    json!({"type": "effects", "step": step, "call_id": null, "effects": {
        "files": {"created": 1, "changed": 0, "deleted": 0, "read": 0,
            "listed": [{"path": path, "change": "created", "kind": "file"}]},
        "processes": {"cpu_us": cpu_us, "started": 2}, "took_us": 1}})
}

fn connection(step: u32, protocol: &str, verdict: &str, down: u64) -> Value {
    json!({"type": "connection", "step": step, "call_id": null, "connection": {
        "started_us": 1, "lasted_us": 1, "protocol": protocol, "name": null, "address": "203.0.113.1", "port": 443,
        "up": 1, "down": down, "verdict": verdict, "rule": "internet", "ended": "done"}})
}

fn counts(turns: u64, external: u64, files: u64, computation: u64) -> Capabilities {
    Capabilities {
        turns,
        external,
        files,
        computation,
    }
}

#[test]
fn turns_are_labelled_by_words() {
    let program = "for i in range(9):\n    pass";
    let text = record(&[
        bash(1, "pip install numpy && cat x"),
        end(1),
        call(2, "str_replace_editor", "file_text", program),
        bash(2, "grep a b"),
        end(2),
        call(3, "str_replace_editor", "path", "/cat"),
        end(3),
        bash(4, "concatenate; curly; refind; minimized"),
        end(4),
        end(5),
        bash(6, "cat of a turn that never ended"),
    ]);
    let seen = CapabilityUse::of_record(&text);
    assert_eq!(seen.words.all, counts(5, 1, 2, 1));
    assert_eq!(seen.words.by_turn[0], counts(1, 1, 1, 0));
    assert_eq!(seen.words.by_turn[1], counts(1, 0, 1, 1));
    assert_eq!(seen.words.by_length[&5], counts(5, 1, 2, 1));
    // Nothing was recorded of what happened, which is not the same as nothing.
    assert_eq!(seen.facts, Seen::default());
    assert_eq!(seen.amounts, Amounts::default());
}

#[test]
fn turns_are_labelled_by_what_happened() {
    let text = record(&[
        // What was prepared is no doing of the model.
        effects(None, "/testbed/input.txt", 1),
        bash(1, "curl nowhere; cat nothing; while true"),
        effects(Some(1), "/usr/lib/python3/x.py", 99_999),
        connection(1, "tcp", "denied", 0),
        connection(1, "dns", "allowed", 100),
        connection(1, "tcp", "allowed", 0),
        end(1),
        bash(2, "./harmless"),
        effects(Some(2), "/testbed/answer.txt", 100_000),
        end(2),
        // Told when it had ended, which was later.
        connection(2, "tcp", "allowed", 7),
        call(3, "str_replace_editor", "command", "view"),
        result(3, None),
        effects(Some(3), "/root/.cache/x", 0),
        end(3),
        call(4, "str_replace_editor", "command", "view"),
        result(4, Some("not_found")),
        effects(Some(4), "/testbed/__pycache__/x.pyc", 0),
        end(4),
    ]);
    let seen = CapabilityUse::of_record(&text);
    assert_eq!(seen.words.all, counts(4, 1, 1, 1));
    assert_eq!(seen.facts.by_turn[0], counts(1, 0, 0, 0));
    assert_eq!(seen.facts.by_turn[1], counts(1, 1, 1, 1));
    assert_eq!(seen.facts.by_turn[2], counts(1, 0, 1, 0));
    assert_eq!(seen.facts.by_turn[3], counts(1, 0, 0, 0));
    assert_eq!(seen.facts.all, counts(4, 1, 2, 1));
    let amounts = Amounts {
        samples: 1,
        cpu_us: 199_999,
        processes: 8,
        paths: 4,
        connections: 2,
        received_bytes: 7,
        refused: 1,
    };
    assert_eq!(seen.amounts, amounts);
}

#[test]
fn samples_are_summed_by_turn_and_by_length() {
    let sample = |turns: u32| {
        let events: Vec<Value> = (1..=turns)
            .flat_map(|step| [effects(Some(step), "/testbed/x", 0), end(step)])
            .collect();
        CapabilityUse::of_record(&record(&events))
    };
    let mut sum = CapabilityUse::default();
    for turns in [1, 3, 3] {
        sum.add(&sample(turns));
    }
    assert_eq!(sum.facts.all, counts(7, 0, 7, 0));
    let at = sum.facts.by_turn.iter().map(|turn| turn.turns);
    assert_eq!(at.collect::<Vec<_>>(), [3, 2, 2]);
    assert_eq!(sum.facts.by_length[&1], counts(1, 0, 1, 0));
    assert_eq!(sum.facts.by_length[&3], counts(6, 0, 6, 0));
    assert_eq!(sum.amounts.samples, 3);
}
