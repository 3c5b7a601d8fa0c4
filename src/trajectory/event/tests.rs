//! The format, frozen: `v3.jsonl` holds every kind of line. A change here is a new version, and its reader keeps this file, as it keeps
//! `v1.jsonl` and `v2.jsonl`: version 2 added connections, version 3 effects.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::outcome::{Connections, LeftBehind, Policy, Refused};
use crate::spec::{
    Bound, Change, ChangedKind, DirectoryChanges, FileChange, FileChanges, ProcessCounts,
};

const FROZEN: &str = include_str!("v3.jsonl");
const EARLIER: [(u32, &str); 2] = [(1, include_str!("v1.jsonl")), (2, include_str!("v2.jsonl"))];

fn header() -> Header {
    Header {
        schema: SCHEMA.into(),
        version: VERSION,
        package: "0.1.0".into(),
        started_unix_s: 1_795_381_323.25,
        model: "openai/m".into(),
        base_url: Some("http://localhost:8000/v1".into()),
        sampling: Sampling {
            temperature: Some(1.0),
            ..Sampling::default()
        },
        extra_body: Map::new(),
        image_digest: Some("sha256:00".into()),
        spec: json!({"shell": "persistent"}),
        problem_statement: "task".into(),
        tools: vec![json!({"type": "function"})],
    }
}

fn memory() -> LimitHit {
    LimitHit::Memory {
        max_bytes: 1024,
        killed: 2,
        peak_bytes: Some(1000),
        sandbox_ended: true,
    }
}

fn events() -> Vec<Event> {
    let object = json!({"role": "assistant", "content": "go"});
    let usage = TokenUsage {
        prompt_tokens: 3,
        completion_tokens: 2,
        cached_tokens: Some(1),
        reasoning_tokens: None,
    };
    let mut events = vec![
        Event::Message {
            message: Message::user("task"),
        },
        Event::Suffix {
            text: "\nSteps Remaining: 1".into(),
        },
        Event::Completion {
            step: 1,
            message: Message::assistant(object.as_object().unwrap().clone()),
            finish_reason: Some("stop".into()),
            usage: Some(usage),
            attempts: 1,
            params: Map::new(),
            model_us: 10,
        },
        Event::ToolCall {
            step: 1,
            call_id: Some("a".into()),
            function: "execute_bash".into(),
            parameters: Map::new(),
        },
        Event::ToolResult {
            step: 1,
            call_id: None,
            observation: "ü".into(),
            error: Some(ToolErrorKind::BadArguments),
            tool_us: 5,
            struck: Vec::new(),
        },
        Event::TurnEnd {
            step: 1,
            calls: 1,
            model_us: 10,
            tool_us: 5,
            total_us: 15,
        },
        Event::Warning { text: "w".into() },
        Event::End {
            stop: StopReason::MaxSteps,
            detail: None,
            steps: 1,
            usage,
            sandbox: Some(Usage {
                cpu: Some(Duration::from_millis(1500)),
                peak_memory_bytes: Some(1),
                written_bytes: None,
                wall: Duration::from_secs(2),
                struck: Vec::new(),
                left_behind: None,
                connections: Connections::default(),
                refused: None,
            }),
            outcome: None,
        },
    ];
    events.extend(of_limits(usage));
    events.extend(of_connections());
    events.extend(of_effects());
    events
}

fn of_effects() -> [Event; 2] {
    let listed = FileChange {
        path: "/testbed/a\\xff".into(),
        change: Change::Changed,
        kind: ChangedKind::File,
        size: Some(3),
        sha256: Some("00".into()),
        diff: Some("-a\n+b\n".into()),
    };
    let gone = FileChange {
        path: "/etc/motd".into(),
        change: Change::Deleted,
        kind: ChangedKind::Symlink,
        size: None,
        sha256: None,
        diff: None,
    };
    let effects = Effects {
        files: FileChanges {
            created: 7,
            changed: 1,
            deleted: 1,
            read: 2,
            listed: vec![listed, gone],
            directories: vec![DirectoryChanges {
                path: "/usr/lib".into(),
                created: 7,
                changed: 0,
                deleted: 0,
                read: 2,
                bytes: 4096,
            }],
            bounds: vec![Bound::Entries, Bound::Depth, Bound::Time],
        },
        processes: ProcessCounts {
            cpu_us: 20_000,
            started: 3,
            programs: vec!["python3".into()],
        },
        took_us: 80,
    };
    [
        Event::Effects {
            step: None,
            call_id: None,
            effects: Effects::default(),
        },
        Event::Effects {
            step: Some(1),
            call_id: Some("a".into()),
            effects,
        },
    ]
}

fn of_connections() -> [Event; 2] {
    let allowed = Connection {
        started: None,
        started_us: 7,
        lasted_us: 9,
        protocol: "tcp".into(),
        name: Some("example.org".into()),
        address: "203.0.113.1".parse().unwrap(),
        port: 443,
        up: 3,
        down: 4,
        verdict: "allowed".into(),
        rule: "internet".into(),
        ended: "done".into(),
        cache: None,
    };
    let denied = Connection {
        protocol: "udp".into(),
        name: None,
        address: "::1".parse().unwrap(),
        port: 53,
        up: 0,
        down: 0,
        verdict: "denied".into(),
        rule: "loopback".into(),
        ended: "not_begun".into(),
        ..allowed.clone()
    };
    [
        Event::Connection {
            step: Some(1),
            call_id: Some("a".into()),
            connection: allowed,
        },
        Event::Connection {
            step: None,
            call_id: None,
            connection: denied,
        },
    ]
}

fn of_limits(usage: TokenUsage) -> [Event; 2] {
    [
        Event::ToolResult {
            step: 1,
            call_id: None,
            observation: "o".into(),
            error: None,
            tool_us: 5,
            struck: vec![memory()],
        },
        Event::End {
            stop: StopReason::SandboxDied,
            detail: None,
            steps: 1,
            usage,
            sandbox: Some(Usage {
                cpu: None,
                peak_memory_bytes: None,
                written_bytes: None,
                wall: Duration::from_secs(2),
                struck: vec![memory()],
                left_behind: Some(LeftBehind::default()),
                connections: Connections::default(),
                refused: Some(vec![Refused {
                    call: "mount".into(),
                    errno: "EPERM".into(),
                    rule: "mounts".into(),
                    count: 2,
                }]),
            }),
            outcome: Some(Outcome::Policy(Policy::Limit(memory()))),
        },
    ]
}

#[test]
fn the_format_is_frozen() {
    let mut text = serde_json::to_string(&header()).unwrap() + "\n";
    for (n, event) in (1..).zip(events()) {
        let line = Line {
            n,
            t_us: n * 100,
            event,
        };
        text += &(serde_json::to_string(&line).unwrap() + "\n");
    }
    assert_eq!(text, FROZEN);
}

#[test]
fn the_frozen_lines_are_read() {
    let mut lines = FROZEN.lines();
    let read: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(read, header());
    let read: Vec<Event> = lines
        .map(|line| serde_json::from_str::<Line>(line).unwrap().event)
        .collect();
    assert_eq!(read, events());
}

#[test]
fn earlier_versions_are_read() {
    for (version, text) in EARLIER {
        let mut lines = text.lines();
        let read: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(
            read,
            Header {
                version,
                ..header()
            }
        );
        let read: Vec<Event> = lines
            .map(|line| serde_json::from_str::<Line>(line).unwrap().event)
            .collect();
        assert!(!read.is_empty());
        assert_eq!(read.as_slice(), &events()[..read.len()]);
    }
}

#[test]
fn stop_reasons_are_written_as_they_are_told() {
    for stop in [
        StopReason::Submitted,
        StopReason::MaxSteps,
        StopReason::TokenLimit,
        StopReason::ContextOverflow,
        StopReason::Timeout,
        StopReason::LlmError,
        StopReason::SandboxDied,
        StopReason::Interrupted,
    ] {
        assert_eq!(serde_json::to_value(stop).unwrap(), stop.as_str());
    }
}
