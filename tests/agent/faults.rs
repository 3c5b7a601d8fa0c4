//! Servers, sandboxes and people that do not do what is hoped for.

use std::time::{Duration, Instant};

use llm_in_sandbox::agent::{self, Progress, StopReason};
use llm_in_sandbox::llm::{HttpModel, ReplayModel};
use llm_in_sandbox::outcome::{Outcome, Policy};
use llm_in_sandbox::trajectory::{Event, ToolErrorKind};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::memory_env::{MemoryEnv, memory_limit};
use crate::server::{Reply, Server, pieces, submit};
use crate::{call, client, config, run_scripted, run_with};

fn bash(command: &str) -> Value {
    json!({"tool_calls": [call("a", "execute_bash", &json!({"command": command}))]})
}

fn refused(status: u16, headers: &'static str, body: &str) -> Reply {
    Reply::Plain(status, headers, body.to_owned())
}

#[tokio::test]
async fn broken_answers_are_asked_for_again_and_never_carried_out() {
    let call = bash("echo never");
    let server = Server::start(vec![
        Reply::Broken(pieces(&call)),
        Reply::Stream(pieces(&call)),
        Reply::Stalled(pieces(&call)),
        Reply::Reset,
        refused(200, "content-type: text/html\r\n", "<html>busy</html>"),
        submit(),
    ])
    .await;
    let model = HttpModel::new(client(&server.url())).unwrap();
    let env = MemoryEnv::default();
    let (outcome, events) = run_with(&env, &model, &config()).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::Submitted, 1));
    assert_eq!(*env.commands.lock().unwrap(), Vec::<String>::new());
    let attempts = events.iter().find_map(|e| match e {
        Event::Completion { attempts, .. } => Some(*attempts),
        _ => None,
    });
    assert_eq!(attempts, Some(6));
    let requests = server.requests();
    assert!(requests.iter().all(|r| r == &requests[0]));
}

#[tokio::test]
async fn a_whole_answer_counts_though_the_farewell_is_missing() {
    let whole = |message: &Value| {
        let mut events = pieces(message);
        events.push(json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}).to_string());
        events
    };
    let end = json!({"tool_calls": [call("s", "submit", &json!({}))]});
    let server = Server::start(vec![
        Reply::Broken(whole(&bash("echo x"))),
        Reply::Stalled(whole(&end)),
    ])
    .await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::Submitted, 2));
    server.requests();
}

#[tokio::test]
async fn rate_limits_and_server_faults_are_waited_out() {
    let server = Server::start(vec![
        refused(
            429,
            "retry-after: 0.2\r\n",
            "slow down: token limit per minute exceeded",
        ),
        refused(429, "retry-after: -5\r\n", ""),
        refused(429, "retry-after: 99999999999\r\n", ""),
        refused(503, "", ""),
        refused(529, "", ""),
        submit(),
    ])
    .await;
    let begun = Instant::now();
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "waits as asked, up to the cap"
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    server.requests();
}

#[tokio::test]
async fn attempts_are_limited_and_the_cause_is_told() {
    let server = Server::start((0..6).map(|_| refused(500, "", "on fire")).collect()).await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::LlmError);
    let detail = outcome.detail.unwrap();
    assert!(
        detail.contains("6 attempts") && detail.contains("on fire"),
        "{detail}"
    );
    server.requests();
}

#[tokio::test]
async fn other_refusals_are_final() {
    for status in [400, 401, 403, 404, 413, 302] {
        let server = Server::start(vec![refused(
            status,
            "location: http://127.0.0.1:1/\r\n",
            "no",
        )])
        .await;
        let (outcome, _) = run_scripted(&server, &config()).await;
        assert_eq!(outcome.stop, StopReason::LlmError, "{status}");
        server.requests();
    }
}

#[tokio::test]
async fn a_dead_server_is_an_error_with_its_address() {
    let model = HttpModel::new(client("http://127.0.0.1:1/v1")).unwrap();
    let (outcome, _) = run_with(&MemoryEnv::default(), &model, &config()).await;
    assert_eq!(outcome.stop, StopReason::LlmError);
    assert!(outcome.detail.unwrap().contains("http://127.0.0.1:1/v1"));
}

#[tokio::test]
async fn a_context_refusal_shortens_the_answer_for_good() {
    let body = "This model's maximum context length is 32768 tokens. However, you requested 66036 tokens (500 in the messages, 65536 in the completion).";
    let again = crate::server::streamed(&bash("echo x"));
    let server = Server::start(vec![refused(400, "", body), again, submit()]).await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let limits: Vec<_> = server
        .requests()
        .iter()
        .map(|r| r["max_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(limits[..2], [65536, 32168]);
    assert!(limits[2] <= 32168 && limits[2] > 30000, "{limits:?}");
}

#[tokio::test]
async fn a_conversation_beyond_the_context_ends_the_run() {
    let body = r#"{"error":{"code":400,"message":"request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#;
    let server = Server::start(vec![refused(400, "", body)]).await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::ContextOverflow);
    server.requests();
}

#[tokio::test]
async fn a_refused_parameter_of_ours_is_given_up() {
    let body = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}}"#;
    let server = Server::start(vec![refused(400, "", body), submit()]).await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let requests = server.requests();
    assert_eq!(requests[1]["max_completion_tokens"], 65536);
    assert!(requests[1].get("max_tokens").is_none());
}

fn replay(lines: &[Value]) -> ReplayModel {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    ReplayModel::parse("test", &text).unwrap()
}

#[tokio::test]
async fn a_broken_environment_ends_the_run_and_is_never_an_observation() {
    for command in ["die", "break"] {
        let model = llm_in_sandbox::llm::Model::Replay(replay(&[bash(command)]));
        let (outcome, events) = run_with(&MemoryEnv::default(), &model, &config()).await;
        assert_eq!(outcome.stop, StopReason::SandboxDied);
        assert!(matches!(outcome.outcome, Outcome::Infrastructure(_)));
        assert!(outcome.detail.is_some());
        assert!(!events.iter().any(|e| matches!(e, Event::ToolResult { .. })));
    }
}

#[tokio::test]
async fn a_limit_is_recorded_and_only_one_that_ended_the_sandbox_ends_the_run() {
    let answers = [bash("hog"), bash("crowd"), bash("bomb")];
    let model = llm_in_sandbox::llm::Model::Replay(replay(&answers));
    let (outcome, events) = run_with(&MemoryEnv::default(), &model, &config()).await;
    assert_eq!(outcome.stop, StopReason::SandboxDied);
    let ended = Policy::Limit(memory_limit(/*ended*/ true));
    assert_eq!(outcome.outcome, Outcome::Policy(ended));
    let results: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolResult {
                observation,
                struck,
                error,
                ..
            } => Some((observation, struck.first()?.name(), *error)),
            _ => None,
        })
        .collect();
    let [hog, crowd] = &results[..] else {
        panic!("{events:?}");
    };
    assert!(hog.0.contains("LIMIT memory: "), "{}", hog.0);
    assert_eq!(
        (hog.1, hog.2),
        ("memory", Some(ToolErrorKind::CommandFailed))
    );
    assert!(crowd.0.contains("process limit 9"), "{}", crowd.0);
    assert_eq!((crowd.1, crowd.2), ("pids", Some(ToolErrorKind::Limit)));
}

#[tokio::test]
async fn a_slow_command_is_told_with_what_it_wrote() {
    let model = llm_in_sandbox::llm::Model::Replay(replay(&[
        bash("sleep 9"),
        bash("lines 300"),
        json!({"tool_calls": [call("s", "submit", &json!({}))]}),
    ]));
    let env = MemoryEnv::default();
    let (outcome, events) = run_with(&env, &model, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let seen = crate::observations(&events);
    assert!(
        seen[0].starts_with("Exit code: -1\n") && seen[0].contains("partial\n[NOTICE]"),
        "{}",
        seen[0]
    );
    assert!(
        seen[1].contains(
            "in 220 lines left out here; the whole is in /tmp/command-output/0002.stdout>"
        ),
        "{}",
        seen[1]
    );
    assert_eq!(
        env.get("/tmp/command-output/0002.stdout")
            .unwrap()
            .iter()
            .filter(|b| **b == b'\n')
            .count(),
        300
    );
}

#[tokio::test]
async fn the_tasks_deadline_ends_a_call_and_a_request() {
    let mut limited = config();
    limited.limits.task_timeout = Some(Duration::from_millis(100));
    let model = llm_in_sandbox::llm::Model::Replay(replay(&[bash("hang")]));
    let (outcome, _) = run_with(&MemoryEnv::default(), &model, &limited).await;
    assert_eq!(outcome.stop, StopReason::Timeout);
    let server = Server::start(vec![Reply::Stalled(vec![])]).await;
    let (outcome, _) = run_scripted(&server, &limited).await;
    assert_eq!(outcome.stop, StopReason::Timeout);
}

#[tokio::test]
async fn an_interrupt_ends_the_run_at_once() {
    let (stop, cancel) = watch::channel(false);
    let model = llm_in_sandbox::llm::Model::Replay(replay(&[bash("hang")]));
    let env = MemoryEnv::default();
    let mut sink = |progress: Progress<'_>| {
        if let Progress::Event(Event::ToolCall { .. }) = progress {
            stop.send(true).unwrap();
        }
    };
    let configuration = config();
    let run = agent::run(&env, &model, &configuration, &mut sink, cancel);
    let outcome = tokio::time::timeout(Duration::from_secs(5), run)
        .await
        .unwrap();
    assert_eq!(outcome.stop, StopReason::Interrupted);
}
