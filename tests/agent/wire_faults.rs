//! Faults of the way to the model server, and of what comes back: repeated up to a budget, or final, never a hang.

use std::time::{Duration, Instant};

use llm_in_sandbox::agent::{Outcome, StopReason};
use llm_in_sandbox::llm::{HttpConfig, HttpModel, Secret};
use llm_in_sandbox::trajectory::Event;
use serde_json::{Value, json};

use crate::memory_env::MemoryEnv;
use crate::server::{Reply, Server, plain, submit};
use crate::{call, client, config, observations, run_scripted, run_with};

const JSON: &str = "content-type: application/json\r\n";

fn whole(body: &Value) -> Reply {
    Reply::Plain(200, JSON, body.to_string())
}

async fn run(client: HttpConfig) -> (Outcome, Vec<Event>) {
    let model = HttpModel::new(client).unwrap();
    run_with(&MemoryEnv::default(), &model, &config()).await
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_with_its_address() {
    let plain_server = Server::start(Vec::new()).await;
    for address in [
        "http://no-such-host.invalid/v1".to_owned(),
        // TLS to a server that speaks none.
        plain_server.url().replace("http://", "https://"),
    ] {
        let mut client = client(&address);
        client.retry.attempts = 2;
        let begun = Instant::now();
        let (outcome, _) = run(client).await;
        assert_eq!(outcome.stop, StopReason::LlmError);
        let detail = outcome.detail.unwrap();
        assert!(detail.contains("2 attempts"), "{detail}");
        let host = address.split('/').nth(2).unwrap();
        assert!(
            detail.contains(host) || detail.contains("status 5"),
            "{detail}"
        );
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test]
async fn a_first_byte_that_does_not_come_is_waited_for_only_so_long() {
    let server = Server::start(vec![Reply::Silent, Reply::Silent, submit()]).await;
    let mut client = client(&server.url());
    client.timeouts.first_byte = Duration::from_millis(300);
    let begun = Instant::now();
    let (outcome, _) = run(client).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.requests();
}

#[tokio::test]
async fn answers_that_are_none_are_asked_for_again() {
    let choice = |choice: Value| whole(&json!({"choices": [choice]}));
    let message =
        |message: Value| choice(json!({"index": 0, "message": message, "finish_reason": "stop"}));
    let server = Server::start(vec![
        whole(&json!({"choices": []})),
        whole(&json!({"choices": "none"})),
        whole(&json!([])),
        choice(json!("text")),
        choice(json!({"index": 0, "finish_reason": "stop"})),
        Reply::Plain(200, JSON, "{\"choices\": [{\"message\"".into()),
        Reply::Plain(200, JSON, String::new()),
        Reply::Plain(
            200,
            "content-type: text/html\r\n",
            "<html>sign in</html>".into(),
        ),
        // A bomb of the wrong kind: nobody asked for compression, so it is not undone.
        Reply::Plain(
            200,
            "content-type: application/json\r\ncontent-encoding: gzip\r\n",
            "\u{1f}not gzip".into(),
        ),
        message(json!(["a list"])),
        submit(),
    ])
    .await;
    let mut client = client(&server.url());
    client.retry.attempts = 20;
    let (outcome, _) = run(client).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
    server.requests();
}

#[tokio::test]
async fn odd_members_of_an_answer_are_no_reason_to_stop() {
    let with = |reason: Value, content: Value| {
        whole(
            &json!({"choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}]}),
        )
    };
    let server = Server::start(vec![
        with("a_reason_of_the_future".into(), "hm".into()),
        with(Value::Null, Value::Null),
        with(7.into(), 7.into()),
        with("stop".into(), json!({"text": "an object"})),
        submit(),
    ])
    .await;
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
    server.requests();
}

#[tokio::test]
async fn ten_megabytes_of_arguments_are_a_call_like_any_other() {
    let long = "x".repeat(10 << 20);
    let message = json!({"role": "assistant", "content": null, "tool_calls":
        [call("a", "execute_bash", &json!({"command": format!("echo {long}")}))]});
    let server = Server::start(vec![plain(&message), submit()]).await;
    let (outcome, events) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{:?}", outcome.detail);
    assert!(
        observations(&events)[0].len() < 1 << 20,
        "the observation has a bound"
    );
}

#[tokio::test]
async fn an_endless_answer_is_left_at_its_bound() {
    for (headers, byte) in [
        (JSON, b' '),
        ("content-type: text/event-stream\r\n", b'x'),
        ("content-type: text/event-stream\r\n", b'\n'),
    ] {
        let server = Server::start(vec![Reply::Flood(headers, byte), submit()]).await;
        let mut client = client(&server.url());
        client.timeouts.total = Duration::from_secs(60);
        let begun = Instant::now();
        let (outcome, _) = run(client).await;
        assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test]
async fn no_key_goes_where_a_redirect_leads() {
    let other = Server::start(Vec::new()).await;
    for status in [301, 302, 303, 307, 308] {
        let location: &'static str =
            Box::leak(format!("location: {}/chat/completions\r\n", other.url()).into_boxed_str());
        let server = Server::start(vec![Reply::Plain(status, location, String::new())]).await;
        let mut client = client(&server.url());
        client.api_key = Some(Secret::new("sk-private"));
        let (outcome, _) = run(client).await;
        assert_eq!(outcome.stop, StopReason::LlmError, "{status}");
        let head = server.heads().remove(0);
        assert!(
            head.contains("sk-private"),
            "the first server is the one that is meant"
        );
        assert!(!outcome.detail.unwrap().contains("sk-private"));
    }
    assert_eq!(other.heads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_retry_after_may_be_a_date() {
    let far = "retry-after: Fri, 31 Dec 2999 23:59:59 GMT\r\n";
    let past = "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let server = Server::start(vec![
        Reply::Plain(429, far, String::new()),
        Reply::Plain(503, past, String::new()),
        submit(),
    ])
    .await;
    let begun = Instant::now();
    let (outcome, _) = run_scripted(&server, &config()).await;
    assert_eq!(outcome.stop, StopReason::Submitted, "{outcome:?}");
    // The cap of these tests is 0.3 s.
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(20));
    server.requests();
}
