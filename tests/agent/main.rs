//! The whole agent against a server that checks every request, and an environment in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod editor;
mod faults;
mod memory_env;
mod real;
#[allow(dead_code, reason = "shared with tests/benchmark, which uses the rest")]
mod server;
mod session;
mod turns;
mod validator;
mod wire_faults;

use std::time::Duration;

use llm_in_sandbox::agent::{self, AgentConfig, Limits, Outcome, Progress, Shell, Style};
use llm_in_sandbox::llm::{ChatModel, HttpConfig, HttpModel, RetryPolicy, Timeouts};
use llm_in_sandbox::trajectory::Event;
use memory_env::MemoryEnv;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A configuration with small limits.
pub(crate) fn config() -> AgentConfig {
    AgentConfig {
        system: "You work on a computer.".into(),
        instance: "Do the thing.".into(),
        limits: Limits {
            max_steps: 10,
            cmd_timeout: Duration::from_millis(200),
            ..Limits::default()
        },
        style: Style::Native,
        shell: Shell::Persistent,
        ablations: Vec::new(),
    }
}

/// A client that does not wait long for anything.
pub(crate) fn client(url: &str) -> HttpConfig {
    let mut config = HttpConfig::new(url, "openai/test-model");
    config.retry = RetryPolicy {
        attempts: 6,
        base: Duration::from_millis(2),
        cap: Duration::from_millis(10),
        retry_after_cap: Duration::from_millis(300),
    };
    config.timeouts = Timeouts {
        connect: Duration::from_secs(2),
        first_byte: Duration::from_secs(5),
        idle: Duration::from_millis(1500),
        total: Duration::from_secs(10),
    };
    config
}

/// Runs to the end and returns everything that was told.
pub(crate) async fn run_with<M: ChatModel>(
    env: &MemoryEnv,
    model: &M,
    config: &AgentConfig,
) -> (Outcome, Vec<Event>) {
    let (_keep, cancel) = watch::channel(false);
    let mut events = Vec::new();
    let mut sink = |progress: Progress<'_>| {
        if let Progress::Event(event) = progress {
            events.push(event.clone());
        }
    };
    let run = agent::run(env, model, config, &mut sink, cancel);
    let outcome = tokio::time::timeout(Duration::from_secs(100), run)
        .await
        .expect("the run hangs");
    (outcome, events)
}

/// Runs against the scripted server.
pub(crate) async fn run_scripted(
    server: &server::Server,
    config: &AgentConfig,
) -> (Outcome, Vec<Event>) {
    let model = HttpModel::new(client(&server.url())).unwrap();
    run_with(&MemoryEnv::default(), &model, config).await
}

/// One tool call as a server sends it.
pub(crate) fn call(id: &str, name: &str, arguments: &Value) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
}

/// All observations, in order.
pub(crate) fn observations(events: &[Event]) -> Vec<String> {
    let pick = |event: &Event| match event {
        Event::ToolResult { observation, .. } => Some(observation.clone()),
        _ => None,
    };
    events.iter().filter_map(pick).collect()
}
