//! A model server with a script: it checks each request and gives the next answer, however broken that shall be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::validator;

#[derive(Debug, Clone)]
#[allow(
    dead_code,
    reason = "shared between tests, none of which uses all of it"
)]
pub(crate) enum Reply {
    /// Events of a whole stream.
    Stream(Vec<String>),
    /// Events, then the connection breaks.
    Broken(Vec<String>),
    /// Events, then silence.
    Stalled(Vec<String>),
    /// A response with status, further header lines and body.
    Plain(u16, &'static str, String),
    /// The same as the other, later.
    Late(std::time::Duration, Box<Reply>),
    /// The same, and this is kept until it is on its way.
    Holding(
        std::time::Duration,
        Box<Reply>,
        Arc<dyn std::any::Any + Send + Sync>,
    ),
    /// The connection breaks at once.
    Reset,
    /// The request is taken, and no byte comes.
    Silent,
    /// Header lines, and then a gigabyte of this byte.
    Flood(&'static str, u8),
}

#[derive(Debug, Default)]
struct Seen {
    bodies: Vec<String>,
    heads: Vec<String>,
    problems: Vec<String>,
}

/// Gives the answer to a request's body; `None` breaks the connection.
type Answer = dyn Fn(&mut Seen, &str) -> Option<Reply> + Send + Sync;

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    left: Arc<Mutex<Vec<Reply>>>,
}

impl Server {
    /// One that follows a script, and checks each request against the one before it.
    pub(crate) async fn start(script: Vec<Reply>) -> Self {
        let left = Arc::new(Mutex::new(script.into_iter().rev().collect::<Vec<_>>()));
        let replies = Arc::clone(&left);
        let answer = move |seen: &mut Seen, body: &str| {
            if let Err(problem) = validator::check(body, seen.bodies.last().map(String::as_str)) {
                seen.problems.push(problem);
            }
            let reply = replies.lock().unwrap().pop();
            if reply.is_none() {
                seen.problems.push("a request beyond the script".into());
            }
            reply
        };
        Self::with(Arc::new(answer), left).await
    }

    /// One that answers any number of conversations at once, each request by itself.
    pub(crate) async fn answering(
        answer: impl Fn(&Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let answer =
            move |_: &mut Seen, body: &str| Some(answer(&serde_json::from_str(body).ok()?));
        Self::with(Arc::new(answer), Arc::default()).await
    }

    async fn with(answer: Arc<Answer>, left: Arc<Mutex<Vec<Reply>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&answer)));
                }
            }
        });
        Self { port, seen, left }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }

    /// All requests, once the script is used up and nothing was wrong with any.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.problems, Vec::<String>::new());
        assert_eq!(self.left.lock().unwrap().len(), 0, "unused replies");
        seen.bodies
            .iter()
            .map(|body| serde_json::from_str(body).unwrap())
            .collect()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, answer: Arc<Answer>) {
    let Some((head, body)) = read_request(&mut stream).await else {
        return;
    };
    let reply = {
        let mut seen = seen.lock().unwrap();
        let reply = answer(&mut seen, &body);
        seen.heads.push(head);
        seen.bodies.push(body);
        reply
    };
    let mut reply = reply.unwrap_or(Reply::Reset);
    if let Reply::Late(delay, later) = reply {
        tokio::time::sleep(delay).await;
        reply = *later;
    }
    if let Reply::Holding(delay, later, held) = reply {
        tokio::time::sleep(delay).await;
        drop(held);
        reply = *later;
    }
    match reply {
        Reply::Reset | Reply::Late(..) | Reply::Holding(..) => {}
        Reply::Silent => tokio::time::sleep(Duration::from_secs(20)).await,
        Reply::Flood(headers, byte) => {
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{headers}\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let block = vec![byte; 1 << 20];
            for _ in 0..1024 {
                // The client leaves long before the end.
                if stream.write_all(&block).await.is_err() {
                    return;
                }
            }
        }
        Reply::Plain(status, headers, body) => {
            let text = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Reply::Stream(events) => {
            send(&mut stream, &events).await;
            let _ = stream.write_all(b"0\r\n\r\n").await;
        }
        Reply::Broken(events) => send(&mut stream, &events).await,
        Reply::Stalled(events) => {
            send(&mut stream, &events).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    }
    let _ = stream.shutdown().await;
}

async fn send(stream: &mut TcpStream, events: &[String]) {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes()).await;
    for event in events {
        let data = format!("data: {event}\n\n");
        let _ = stream
            .write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes())
            .await;
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 65536];
    loop {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let length = head.lines().find_map(|l| {
                l.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse::<usize>()
                    .ok()
            });
            let whole = end + 4 + length?;
            if bytes.len() >= whole {
                return Some((
                    head,
                    String::from_utf8(bytes[end + 4..whole].to_vec()).ok()?,
                ));
            }
        }
        let n = stream.read(&mut chunk).await.ok()?;
        if n == 0 {
            return None;
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

/// A stream that gives `message` in small pieces.
pub(crate) fn streamed(message: &Value) -> Reply {
    let mut events = pieces(message);
    let finish = if message["tool_calls"].is_array() {
        "tool_calls"
    } else {
        "stop"
    };
    events
        .push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).to_string());
    events.push(
        json!({"choices": [], "usage": {"prompt_tokens": 500, "completion_tokens": 20}})
            .to_string(),
    );
    events.push("[DONE]".into());
    Reply::Stream(events)
}

/// The deltas of a message, without an end.
pub(crate) fn pieces(message: &Value) -> Vec<String> {
    let delta = |delta: Value| {
        json!({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
            .to_string()
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": null}))];
    for name in ["reasoning_content", "content"] {
        let text: Vec<char> = message[name].as_str().unwrap_or("").chars().collect();
        for piece in text.chunks(3) {
            events.push(delta(json!({name: piece.iter().collect::<String>()})));
        }
    }
    for (index, call) in message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let mut first = call.clone();
        first["index"] = index.into();
        let arguments: Vec<char> = call["function"]["arguments"]
            .as_str()
            .unwrap_or("")
            .chars()
            .collect();
        first["function"]["arguments"] = "".into();
        events.push(delta(json!({"tool_calls": [first]})));
        for piece in arguments.chunks(5) {
            let piece: String = piece.iter().collect();
            events.push(delta(
                json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}),
            ));
        }
    }
    events
}

/// The same answer without streaming.
pub(crate) fn plain(message: &Value) -> Reply {
    let body = json!({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 500, "completion_tokens": 20}});
    Reply::Plain(200, "content-type: application/json\r\n", body.to_string())
}

/// An answer that submits.
pub(crate) fn submit() -> Reply {
    let function = json!({"name": "submit", "arguments": "{}"});
    streamed(&json!({"tool_calls": [{"id": "end", "type": "function", "function": function}]}))
}
