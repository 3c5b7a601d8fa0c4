//! A model server that answers after a fixed time, as many requests at once as are made, on connections that stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Time from a request to its answer.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// What it was asked.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    under_way: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
}

/// Serves conversations of so many turns on a thread of its own, until the process ends.
pub(crate) fn serve(turns: usize) -> (String, Arc<Counts>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let counts = Arc::new(Counts::default());
    let answers: Arc<[Vec<u8>]> = (0..turns).map(|turn| answer(turn, turns)).collect();
    let told = Arc::clone(&counts);
    std::thread::spawn(move || {
        crate::common::runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                told.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(stream, Arc::clone(&answers), Arc::clone(&told)));
            }
        });
    });
    (url, counts)
}

async fn converse(mut stream: TcpStream, answers: Arc<[Vec<u8>]>, counts: Arc<Counts>) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    while let Some(length) = request(&mut stream, &mut bytes).await {
        let answered = tokio::time::Instant::now() + LATENCY;
        let at_once = counts.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let body = String::from_utf8_lossy(&bytes[..length]);
        let turn = body.matches(r#""role":"assistant""#).count();
        let answer = &answers[turn.min(answers.len() - 1)];
        bytes.drain(..length);
        tokio::time::sleep_until(answered).await;
        counts.under_way.fetch_sub(1, Ordering::Relaxed);
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Reads until a whole request is there; gives its length.
async fn request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&bytes[..end]).ok()?.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length?.parse::<usize>().ok()?;
            if bytes.len() >= whole {
                return Some(whole);
            }
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// One call of a builtin of the shell; the answer is written in the last turn but one, and the last submits.
fn answer(turn: usize, turns: usize) -> Vec<u8> {
    let (name, arguments) = if turn + 1 == turns {
        ("submit", serde_json::json!({}))
    } else {
        let command = if turn + 2 == turns {
            "echo yes > answer.txt".to_owned()
        } else {
            format!("echo turn {turn}")
        };
        ("execute_bash", serde_json::json!({"command": command}))
    };
    let delta = |delta: serde_json::Value, finish: Option<&str>| serde_json::json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let function = serde_json::json!({"name": name, "arguments": arguments.to_string()});
    let call = serde_json::json!({"index": 0, "id": format!("call_{turn}"), "type": "function", "function": function});
    let events = [
        delta(
            serde_json::json!({"role": "assistant", "content": null}),
            None,
        ),
        delta(serde_json::json!({"content": "I look at it."}), None),
        delta(serde_json::json!({"tool_calls": [call]}), None),
        delta(serde_json::json!({}), Some("tool_calls")),
        serde_json::json!({"choices": [], "usage": {"prompt_tokens": 1500 + 40 * turn, "completion_tokens": 20}}),
    ];
    let data: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    let data = format!("{data}data: [DONE]\n\n");
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{data}",
        data.len()
    )
    .into_bytes()
}
