//! Conversations: every kind of answer a model gives.

use llm_in_sandbox::agent::{StopReason, Style};
use llm_in_sandbox::llm::{HttpModel, ReplayModel, Sampling, Secret};
use llm_in_sandbox::trajectory::{Event, ToolErrorKind};
use serde_json::{Value, json};

use crate::memory_env::MemoryEnv;
use crate::server::{Server, plain, streamed, submit};
use crate::{call, client, config, observations, run_scripted, run_with};

fn echo(id: &str, text: &str) -> Value {
    call(
        id,
        "execute_bash",
        &json!({"command": format!("echo {text}")}),
    )
}

#[tokio::test]
async fn native_calls_reasoning_and_steps_remaining() {
    let first = json!({"role": "assistant", "content": "Let me see. ü", "reasoning_content": "hm, \"so\"", "tool_calls": [echo("a", "hi")]});
    let server = Server::start(vec![streamed(&first), plain(&first), submit()]).await;
    let (outcome, events) = run_scripted(&server, &config()).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::Submitted, 3));
    assert_eq!(outcome.usage.total(), 3 * 520);
    let requests = server.requests();
    let messages = requests[2]["messages"].as_array().unwrap();
    let texts: Vec<_> = messages
        .iter()
        .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let observation =
        "Exit code: 0\nExecution output of [execute_bash]:\n[STDOUT]\nhi\nSteps Remaining: ";
    assert_eq!(
        texts,
        [
            ("system", "You work on a computer."),
            ("user", "Do the thing.\nSteps Remaining: 10"),
            ("assistant", "Let me see. ü"),
            ("tool", format!("{observation}9").as_str()),
            ("assistant", "Let me see. ü"),
            ("tool", format!("{observation}8").as_str()),
        ]
    );
    assert_eq!(messages[2]["reasoning_content"], "hm, \"so\"");
    assert_eq!(
        serde_json::to_string(&messages[4]).unwrap(),
        first.to_string(),
        "as it came"
    );
    assert_eq!(requests[0]["tools"].as_array().unwrap().len(), 3);
    assert_eq!(requests[0]["model"], "test-model");
    assert_eq!(requests[0]["stream"], true);
    let ends = events
        .iter()
        .filter(|e| matches!(e, Event::TurnEnd { calls: 1, .. }));
    assert_eq!(ends.count(), 3);
}

#[tokio::test]
async fn parallel_calls_are_answered_in_order_and_nothing_runs_after_submit() {
    let message = json!({"tool_calls": [echo("b", "one"), echo("a", "two"), call("c", "nosuch", &json!({}))]});
    let last = json!({"tool_calls": [call("s", "submit", &json!({})), echo("t", "late")]});
    let server = Server::start(vec![streamed(&message), streamed(&last)]).await;
    let (outcome, events) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let seen = observations(&events);
    assert!(seen[0].ends_with("one") && seen[1].ends_with("two"));
    assert!(seen[2].starts_with("Unknown action: nosuch"));
    assert_eq!(seen[3], "<<< Finished >>>");
    assert!(seen[4].starts_with("Not run"));
    let ids: Vec<_> = server.requests()[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["tool_call_id"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(ids, ["b", "a", "c"]);
}

#[tokio::test]
async fn hermes_calls_in_the_text_are_carried_out() {
    let text = "<think>\nplan\n</think>\n<tool_call>\n{\"name\": \"execute_bash\", \"arguments\": {\"command\": \"echo x\"}}\n</tool_call>\n<tool_call>{\"name\": \"execute_bash\", \"arguments\": {\"command\": 3}}</tool_call>";
    let end = "<tool_call>\n{\"name\": \"submit\", \"arguments\": {}}\n</tool_call>";
    let server = Server::start(vec![
        streamed(&json!({"content": text})),
        plain(&json!({"role": "assistant", "content": end})),
    ])
    .await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let messages = server.requests()[1]["messages"].clone();
    assert_eq!(messages[2]["content"], text);
    let answer = messages[3]["content"].as_str().unwrap();
    assert_eq!(messages[3]["role"], "user");
    assert!(
        answer.starts_with("<tool_response>\nExit code: 0\n"),
        "{answer}"
    );
    assert!(
        answer.contains("must be a string") && answer.ends_with("\nSteps Remaining: 9"),
        "{answer}"
    );
}

#[tokio::test]
async fn bad_calls_are_told_in_band() {
    let raw = |id: Value, name: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [
        raw("a".into(), "execute_bash", "{\"command\": ".into()),
        raw("b".into(), "execute_bash", "[1, 2]".into()),
        raw("c".into(), "execute_bash", "{\"command\": \"\\ud800\"}".into()),
        raw("d".into(), "", "{}".into()),
        raw(Value::Null, "execute_bash", "{\"command\": \"echo no id\"}".into()),
        raw("a".into(), "execute_bash", "{\"command\": \"echo double id\"}".into()),
        raw("e".into(), "execute_bash", "{}".into()),
        raw("f".into(), "execute_bash", "{\"command\": \"a\\u0000b\"}".into()),
        raw("g".into(), "str_replace_editor", "{\"command\": \"insert\", \"path\": \"x\", \"insert_line\": \"no\", \"new_str\": \"\"}".into()),
    ]});
    let server = Server::start(vec![plain(&message), submit()]).await;
    let (outcome, events) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let errors: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::ToolResult { error, .. } => Some(*error),
            _ => None,
        })
        .collect();
    let bad = Some(ToolErrorKind::BadArguments);
    assert_eq!(
        errors,
        [bad, bad, bad, bad, None, None, bad, bad, bad, None]
    );
    let seen = observations(&events);
    assert!(seen[4].ends_with("no id") && seen[5].ends_with("double id"));
    server.requests();
}

#[tokio::test]
async fn a_reply_without_a_call_is_answered_with_a_notice() {
    let nothing = plain(&json!({"role": "assistant", "content": null}));
    let server = Server::start(vec![
        streamed(&json!({"content": "Done?"})),
        nothing,
        submit(),
    ])
    .await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::Submitted, 3));
    let messages = server.requests()[2]["messages"].clone();
    assert_eq!(messages[3]["role"], "user");
    assert!(
        messages[3]["content"]
            .as_str()
            .unwrap()
            .contains("did not call a function")
    );
}

#[tokio::test]
async fn steps_and_tokens_are_limited() {
    let again = || streamed(&json!({"tool_calls": [echo("a", "x")]}));
    let server = Server::start(vec![again(), again(), again()]).await;
    let mut limited = config();
    limited.limits.max_steps = 3;
    let (outcome, _) = run_scripted(&server, &limited).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::MaxSteps, 3));
    server.requests();

    let server = Server::start(vec![again()]).await;
    let mut limited = config();
    limited.limits.max_token_limit = 520;
    let (outcome, _) = run_scripted(&server, &limited).await;
    assert_eq!((outcome.stop, outcome.steps), (StopReason::TokenLimit, 1));
    server.requests();
}

#[tokio::test]
async fn dropped_tools_are_warned_of_once() {
    let silent = |text: &str| {
        let body = json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 30, "completion_tokens": 5}});
        crate::server::Reply::Plain(200, "content-type: application/json\r\n", body.to_string())
    };
    let server = Server::start(vec![silent("I cannot."), silent("Still not."), submit()]).await;
    let (_, events) = run_scripted(&server, &config()).await;
    let warnings: Vec<_> = events
        .iter()
        .filter(|e| matches!(e, Event::Warning { .. }))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    server.requests();
}

#[tokio::test]
async fn sampling_headers_key_and_extra_body_are_sent() {
    let server = Server::start(vec![submit()]).await;
    let mut http = client(&server.url());
    http.api_key = Some(Secret::new("sk-test"));
    http.headers = vec![("x-team".into(), Secret::new("blue"))];
    http.sampling = Sampling {
        temperature: Some(0.0),
        top_p: Some(0.5),
        top_k: Some(20),
        seed: Some(1),
    };
    http.extra_body = json!({"chat_template_kwargs": {"thinking": true}})
        .as_object()
        .unwrap()
        .clone();
    let model = HttpModel::new(http).unwrap();
    let (outcome, events) = run_with(&MemoryEnv::default(), &model, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    let request = &server.requests()[0];
    for (name, value) in [
        ("temperature", json!(0.0)),
        ("top_p", json!(0.5)),
        ("top_k", json!(20)),
        ("seed", json!(1)),
        ("max_tokens", json!(65536)),
        ("chat_template_kwargs", json!({"thinking": true})),
    ] {
        assert_eq!(request[name], value, "{name}");
    }
    let head = server.heads()[0].to_lowercase();
    assert!(
        head.contains("authorization: bearer sk-test") && head.contains("x-team: blue"),
        "{head}"
    );
    assert!(!format!("{events:?} {model:?}").contains("sk-test"));
}

#[tokio::test]
async fn compat_gives_the_originals_text() {
    let message = json!({"tool_calls": [echo("a", "hi"), call("b", "nosuch", &json!({})), call("c", "str_replace_editor", &json!({"command": "undo_edit", "path": "x"}))]});
    let server = Server::start(vec![streamed(&message), submit()]).await;
    let mut compat = config();
    compat.style = Style::Original;
    let (_, events) = run_scripted(&server, &compat).await;
    assert_eq!(
        observations(&events)[..3],
        [
            "Exit code: 0\nExecution output of \\[execute_bash]:\n\\[STDOUT]\nhi\n",
            "Unknown action: nosuch",
            "Execution output of \\[str_replace_editor]:\nUnknown command: undo_edit",
        ]
    );
    server.requests();
}

#[tokio::test]
async fn a_replayed_conversation_runs_without_a_server() {
    let text = format!(
        "{}\n{}\n",
        json!({"content": "go", "tool_calls": [echo("a", "hi")]}),
        json!({"tool_calls": [call("b", "submit", &json!({}))]})
    );
    let model = ReplayModel::parse("test", &text)
        .map(llm_in_sandbox::llm::Model::Replay)
        .unwrap();
    let (outcome, events) = run_with(&MemoryEnv::default(), &model, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted);
    assert_eq!(observations(&events).len(), 2);
    let short = ReplayModel::parse("test", text.lines().next().unwrap())
        .map(llm_in_sandbox::llm::Model::Replay)
        .unwrap();
    let (outcome, _) = run_with(&MemoryEnv::default(), &short, &config()).await;
    assert_eq!(outcome.stop, StopReason::LlmError);
    assert!(outcome.detail.unwrap().contains("no answer number 2"));
}
