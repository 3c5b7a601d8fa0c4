//! What the files of a run folder look like.

use serde_json::{Map, Value, json};

use super::super::event::Line;
use super::*;
use crate::llm::{Sampling, TokenUsage};
use crate::trajectory::{SCHEMA, StopReason, VERSION};

fn header() -> Header {
    Header {
        schema: SCHEMA.into(),
        version: VERSION,
        package: "0".into(),
        started_unix_s: 1.5,
        model: "m".into(),
        base_url: None,
        sampling: Sampling::default(),
        extra_body: Map::new(),
        image_digest: None,
        spec: Value::Null,
        problem_statement: "pröblem".into(),
        tools: Vec::new(),
    }
}

fn completion(step: u32, text: &str) -> Event {
    let object = json!({"role": "assistant", "content": text, "reasoning_content": "r"});
    Event::Completion {
        step,
        message: Message::assistant(object.as_object().unwrap().clone()),
        finish_reason: None,
        usage: None,
        attempts: 1,
        params: Map::new(),
        model_us: 1_500_000,
    }
}

fn call(step: u32, id: &str, function: &str) -> [Event; 2] {
    [
        Event::ToolCall {
            step,
            call_id: Some(id.into()),
            function: function.into(),
            parameters: Map::new(),
        },
        Event::ToolResult {
            step,
            call_id: Some(id.into()),
            observation: format!("saw {id}"),
            error: None,
            tool_us: 1,
            struck: Vec::new(),
        },
    ]
}

fn end() -> Event {
    Event::End {
        stop: StopReason::Interrupted,
        detail: None,
        steps: 3,
        usage: TokenUsage::default(),
        sandbox: None,
        outcome: None,
    }
}

#[test]
fn the_record_can_be_read_back_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &header(), false).unwrap();
    recorder.event(&completion(1, "hi"));
    let partial = std::fs::read_to_string(dir.path().join("trajectory.jsonl")).unwrap();
    assert_eq!(partial.lines().count(), 2, "each line is there at once");
    recorder.finish(&end()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("trajectory.jsonl")).unwrap();
    let mut lines = text.lines();
    let read: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(read, header());
    let lines: Vec<Line> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l.n).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(lines[0].event, completion(1, "hi"));
    assert_eq!(lines[1].event, end());
    assert!(Recorder::create(dir.path(), &header(), false).is_err());
}

#[test]
fn the_summary_has_one_step_per_call_and_keeps_a_cut_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &header(), false).unwrap();
    recorder.event(&completion(1, "two calls"));
    for event in call(1, "a", "f").iter().chain(&call(1, "b", "g")) {
        recorder.event(event);
    }
    recorder.event(&completion(2, "none"));
    recorder.event(&Event::Message {
        message: Message::user("call something"),
    });
    recorder.event(&completion(3, "cut"));
    recorder.event(&call(3, "c", "h")[0]);
    recorder.finish(&end()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("trajectory.json")).unwrap();
    assert!(text.starts_with("{\n  \"problem_statement\": \"pröblem\",\n  \"steps\": [\n    {\n      \"thought\": \"two calls\",\n      \"reasoning_content\": \"r\",\n      \"action\": {\n        \"function\": \"f\",\n        \"parameters\": {}\n      },\n      \"observation\": \"saw a\",\n      \"metadata\": {\n        \"step\": 1,\n        \"exec_time\": 1.5\n      }\n    },"), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    let steps: Vec<_> = value["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            (
                s["metadata"]["step"].as_u64().unwrap(),
                s["action"]["function"].as_str().unwrap(),
                s["observation"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            (1, "f", "saw a"),
            (1, "g", "saw b"),
            (2, "", "call something"),
            (3, "h", "")
        ]
    );
    assert_eq!(value["metadata"], json!({"total_steps": 4}));
}

#[test]
fn exchanges_are_numbered_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &header(), true).unwrap();
    let completion = Completion {
        message: Message::user("x"),
        finish_reason: None,
        usage: None,
        attempts: 1,
        warnings: Vec::new(),
        params: Map::new(),
        response: json!({"id": 1}),
    };
    recorder.exchange("m", Some("u"), &[Message::user("q")], &[], &completion);
    let request = std::fs::read_to_string(dir.path().join("request_001.json")).unwrap();
    let request: Value = serde_json::from_str(&request).unwrap();
    let keys: Vec<_> = request.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "call_id",
            "model",
            "api_base",
            "messages",
            "extra_params",
            "kwargs"
        ]
    );
    assert!(dir.path().join("response_001.json").exists());
}
