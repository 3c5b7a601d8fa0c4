//! One run from its settings to its folder, with an environment in memory in place of a sandbox.

use std::path::Path;
use std::time::Duration;

use llm_in_sandbox::agent::{Cancel, StopReason};
use llm_in_sandbox::cli::run::{
    AgentArgs, ModelSettings, RunArgs, RunError, SandboxFacts, Session, resolve, run,
};
use llm_in_sandbox::outcome::Connections;
use llm_in_sandbox::settings::Environment;
use llm_in_sandbox::spec::Usage;
use llm_in_sandbox::trajectory::{Header, Line};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::call;
use crate::memory_env::MemoryEnv;

/// Flags for a replay of `lines` that writes below `dir`.
fn arguments(dir: &Path, lines: &[Value]) -> RunArgs {
    let replay = dir.join("replay.jsonl");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&replay, text).unwrap();
    RunArgs {
        query: Some("Wie groß?".into()),
        agent: AgentArgs {
            llm_name: Some(format!("replay:{}", replay.display())),
            output_dir: Some(dir.join("out")),
            save_litellm_response: Some(llm_in_sandbox::cli::run::Truth::True),
            ..AgentArgs::default()
        },
        ..RunArgs::default()
    }
}

fn begin(dir: &Path, lines: &[Value]) -> Session {
    let environment = Environment::new(&|_| None);
    let settings = resolve(arguments(dir, lines), environment, None).unwrap();
    assert!(matches!(settings.agent.model, ModelSettings::Replay(_)));
    Session::begin(settings, environment).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_run_leaves_its_folder_complete() {
    let dir = tempfile::tempdir().unwrap();
    let bash = |id: &str| call(id, "execute_bash", &json!({"command": "echo hi"}));
    let lines = [
        json!({"content": "look", "reasoning_content": "why", "tool_calls": [bash("a"), bash("b")]}),
        json!({"content": "hm"}),
        json!({"tool_calls": [call("c", "submit", &json!({}))]}),
    ];
    let mut session = begin(dir.path(), &lines);
    let env = MemoryEnv::default();
    session.prepare(&env).await.unwrap();
    let (_keep, cancel) = watch::channel(false);
    let facts = SandboxFacts {
        image_digest: Some("sha256:0".into()),
        spec: json!({"network": "none"}),
    };
    assert_eq!(
        session.work(&env, facts, cancel).await.unwrap(),
        StopReason::Submitted
    );
    std::fs::create_dir(session.files_dir()).unwrap();
    std::fs::write(session.files_dir().join("answer.txt"), "42\n").unwrap();
    let folder = session.folder().to_owned();
    let usage = Usage {
        cpu: None,
        peak_memory_bytes: Some(1),
        written_bytes: None,
        wall: Duration::from_secs(1),
        struck: Vec::new(),
        left_behind: None,
        connections: Connections::default(),
        refused: None,
    };
    assert_eq!(session.finish(Some(usage)).unwrap(), 0);

    let summary = read_json(&folder.join("trajectory.json"));
    let steps: Vec<_> = summary["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            (
                s["metadata"]["step"].as_u64().unwrap(),
                s["action"]["function"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            (1, "execute_bash"),
            (1, "execute_bash"),
            (2, ""),
            (3, "submit")
        ]
    );
    assert_eq!(summary["problem_statement"], "Wie groß?");
    assert_eq!(summary["steps"][0]["reasoning_content"], "why");
    assert_eq!(
        summary["steps"][0]["action"]["parameters"],
        json!({"command": "echo hi"})
    );

    let record = std::fs::read_to_string(folder.join("trajectory.jsonl")).unwrap();
    let mut lines = record.lines();
    let header: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(header.image_digest.as_deref(), Some("sha256:0"));
    let lines: Vec<Line> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        lines
            .windows(2)
            .all(|w| w[0].n + 1 == w[1].n && w[0].t_us <= w[1].t_us)
    );
    let last = serde_json::to_value(&lines.last().unwrap().event).unwrap();
    assert_eq!(
        (last["type"].as_str(), last["stop"].as_str()),
        (Some("end"), Some("submitted"))
    );
    assert_eq!(last["sandbox"]["peak_memory_bytes"], 1);

    // The record alone gives the conversation back as it was sent last.
    let sent = read_json(&folder.join("request_003.json"))["messages"].clone();
    assert_eq!(rebuild(&lines), sent);
    assert!(folder.join("response_003.json").exists() && !folder.join("request_004.json").exists());
}

#[tokio::test]
async fn a_sandbox_that_does_not_end_well_costs_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let args = arguments(
        dir.path(),
        &[json!({"tool_calls": [call("c", "submit", &json!({}))]})],
    );
    let with_sandbox = async |session: &mut Session, cancel: Cancel| {
        let env = MemoryEnv::default();
        session.work(&env, SandboxFacts::default(), cancel).await?;
        Err(RunError::Sandbox {
            doing: "end the sandbox".into(),
            source: "a process is left".into(),
            exit: 125,
        })
    };
    assert_eq!(run(args, with_sandbox).await, 125);
    let folder = std::fs::read_dir(dir.path().join("out")).unwrap().next();
    let folder = folder.unwrap().unwrap().path();
    let record = std::fs::read_to_string(folder.join("trajectory.jsonl")).unwrap();
    let last: Line = serde_json::from_str(record.lines().last().unwrap()).unwrap();
    let last = serde_json::to_value(&last.event).unwrap();
    assert_eq!(
        (&last["type"], &last["stop"]),
        (&json!("end"), &json!("submitted"))
    );
    assert!(folder.join("trajectory.json").exists());
}

/// The messages of the last request, from the record.
fn rebuild(lines: &[Line]) -> Value {
    let mut messages: Vec<Value> = Vec::new();
    let mut sent = 0;
    for line in lines {
        let event = serde_json::to_value(&line.event).unwrap();
        match event["type"].as_str().unwrap() {
            "message" => messages.push(event["message"].clone()),
            "completion" => {
                sent = messages.len();
                messages.push(event["message"].clone());
            }
            "suffix" => {
                let last = messages.last_mut().unwrap();
                last["content"] = format!(
                    "{}{}",
                    last["content"].as_str().unwrap(),
                    event["text"].as_str().unwrap()
                )
                .into();
            }
            "tool_result" if event["call_id"].is_string() => {
                messages.push(json!({"role": "tool", "tool_call_id": event["call_id"], "content": event["observation"]}));
            }
            _ => {}
        }
    }
    messages.truncate(sent);
    Value::Array(messages)
}

#[tokio::test]
async fn an_interrupted_run_keeps_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        json!({"content": "go", "tool_calls": [call("a", "execute_bash", &json!({"command": "hang"}))]}),
    ];
    let mut session = begin(dir.path(), &lines);
    let env = MemoryEnv::default();
    let (stop, cancel) = watch::channel(false);
    let later = async {
        while env.commands.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    };
    let (worked, ()) = tokio::join!(session.work(&env, SandboxFacts::default(), cancel), later);
    assert_eq!(worked.unwrap(), StopReason::Interrupted);
    let folder = session.folder().to_owned();
    assert_eq!(session.finish(None).unwrap(), 130);
    let summary = read_json(&folder.join("trajectory.json"));
    assert_eq!(
        summary["steps"][0]["action"]["parameters"]["command"],
        "hang"
    );
    assert_eq!(summary["metadata"]["total_steps"], 1);
}

#[tokio::test]
async fn a_run_that_does_not_submit_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = begin(dir.path(), &[json!({"content": "no more"})]);
    let (_keep, cancel) = watch::channel(false);
    let work = session
        .work(&MemoryEnv::default(), SandboxFacts::default(), cancel)
        .await;
    assert_eq!(work.unwrap(), StopReason::LlmError);
    assert_eq!(session.finish(None).unwrap(), 1);
}

#[tokio::test]
async fn the_exit_code_follows_from_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let replay = dir.path().join("r.jsonl");
    let submit = json!({"tool_calls": [call("c", "submit", &json!({}))]});
    std::fs::write(&replay, submit.to_string()).unwrap();
    let args = RunArgs {
        query: Some("q".into()),
        agent: AgentArgs {
            llm_name: Some(format!("replay:{}", replay.display())),
            output_dir: Some(dir.path().join("out")),
            ..AgentArgs::default()
        },
        ..RunArgs::default()
    };
    let code = llm_in_sandbox::cli::run::run(args.clone(), async |session, cancel| {
        let env = MemoryEnv::default();
        session.prepare(&env).await?;
        session.work(&env, SandboxFacts::default(), cancel).await?;
        Ok(None)
    });
    assert_eq!(code.await, 0);
    let unsupported = llm_in_sandbox::cli::run::run(args.clone(), async |_, _| {
        Err(RunError::Sandbox {
            doing: "start the sandbox".into(),
            source: "no user namespaces".into(),
            exit: 3,
        })
    });
    assert_eq!(unsupported.await, 3);
    let missing = RunArgs {
        input_dir: Some(dir.path().join("missing")),
        ..args
    };
    let code = llm_in_sandbox::cli::run::run(missing, async |_, _| unreachable!("started"));
    assert_eq!(code.await, 2);
}
