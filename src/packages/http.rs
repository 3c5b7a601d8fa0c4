//! HTTP/1.1 as far as a package index needs it, with a client that is hostile: bounded, without bodies, one request after the other.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::through::Through;

/// Of a request with all its headers.
const MAX_HEAD: usize = 16 << 10;
pub(super) const MAX_TARGET: usize = 2048;
/// Until a request has come; and for each piece that the sandbox is to take.
const PATIENCE: Duration = Duration::from_secs(60);
/// pip gives up after 15 s without a byte.
const STILL_THERE: Duration = Duration::from_secs(8);
const PIECE: usize = 64 << 10;

/// A connection of a sandbox.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes of the request that came, and of the answer that went.
    pub up: u64,
    pub down: u64,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// From the first slash, without a query.
    pub path: String,
    pub head_only: bool,
    /// It wants JSON rather than HTML (PEP 691).
    pub json: bool,
    /// No other request follows.
    pub last: bool,
    /// It knows of answers before the last (100).
    interim: bool,
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Body {
    Text(std::sync::Arc<str>),
    File(File, u64),
    Through(Box<Through>),
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            up: 0,
            down: 0,
        }
    }

    /// The next request; nothing at the end; the status to answer where it is none of ours.
    pub(super) async fn request(&mut self) -> io::Result<Option<Result<Request, u16>>> {
        (self.up, self.down) = (0, 0);
        let whole = timeout(PATIENCE, self.head()).await;
        self.up = self.buffer.len() as u64;
        let end = match whole {
            Err(_) if self.buffer.is_empty() => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => return Ok(Some(Err(408))),
            Ok(end) => end?,
        };
        match end {
            None if self.buffer.is_empty() => Ok(None),
            None => Ok(Some(Err(400))),
            Some(None) => Ok(Some(Err(431))),
            Some(Some(end)) => {
                let head: Vec<u8> = self.buffer.drain(..end).collect();
                self.up = head.len() as u64;
                Ok(Some(parse(&head)))
            }
        }
    }

    /// Where a head ends: nothing at the end of the connection, and nowhere when it is too long.
    async fn head(&mut self) -> io::Result<Option<Option<usize>>> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(Some(Some(at + 4)));
            }
            if self.buffer.len() >= MAX_HEAD {
                return Ok(Some(None));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Waits for work, and meanwhile tells the client that it is not forgotten: any number of interim answers
    /// (RFC 9110, 15.2) may come before the last.
    pub(super) async fn wait_for<T>(
        &mut self,
        request: &Request,
        work: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = timeout(STILL_THERE, &mut work).await {
                return Ok(done);
            }
            if request.interim {
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
        }
    }

    /// Answers.
    pub(super) async fn respond(
        &mut self,
        request: &Request,
        (status, kind): (u16, &str),
        body: Body,
    ) -> io::Result<()> {
        let length = match &body {
            Body::Text(text) => Some(text.len() as u64),
            Body::File(_, length) => Some(*length),
            Body::Through(passing) => passing.length(),
        };
        let length = length.map_or_else(String::new, |length| {
            format!("Content-Length: {length}\r\n")
        });
        let end = if request.last { "close" } else { "keep-alive" };
        // What is kept inside as well would only use up the sandbox's memory.
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\n{length}Cache-Control: no-store\r\nConnection: {end}\r\n\r\n",
            reason(status)
        );
        self.send(head.as_bytes()).await?;
        if request.head_only {
            return Ok(());
        }
        match body {
            Body::Text(text) => {
                for piece in text.as_bytes().chunks(PIECE) {
                    self.send(piece).await?;
                }
            }
            Body::File(mut file, length) => {
                let mut piece = vec![0; PIECE];
                let mut left = length;
                while left > 0 {
                    let read = file.read(&mut piece)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    left = left.saturating_sub(read as u64);
                    self.send(piece.get(..read).unwrap_or_default()).await?;
                }
            }
            Body::Through(mut passing) => {
                while let Some(piece) = passing.next().await? {
                    self.send(&piece).await?;
                }
                if passing.length().is_none() {
                    // Its end is that of the connection.
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.map_err(|_| io::ErrorKind::TimedOut)??;
        self.down += bytes.len() as u64;
        Ok(())
    }
}

impl Request {
    /// For an answer to what was no request.
    pub(super) fn none() -> Self {
        Self {
            path: String::new(),
            head_only: false,
            json: false,
            last: true,
            interim: false,
        }
    }
}

pub(super) fn parse(head: &[u8]) -> Result<Request, u16> {
    let printable = |byte: &u8| matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~');
    if !head.iter().all(printable) {
        return Err(400);
    }
    let text = std::str::from_utf8(head).map_err(|_| 400_u16)?;
    let mut lines = text.trim_end().split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(400);
    };
    let known = matches!(version, "HTTP/1.1" | "HTTP/1.0");
    // A target that names a server is meant for a proxy, which this is not.
    if !known || !target.starts_with('/') || target.len() > MAX_TARGET {
        return Err(400);
    }
    let mut request = Request {
        path: target.split(['?', '#']).next().unwrap_or("").to_owned(),
        head_only: method == "HEAD",
        json: false,
        last: version == "HTTP/1.0",
        interim: version == "HTTP/1.1",
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if value != "0" => return Err(413),
            "transfer-encoding" => return Err(413),
            "connection" if value.contains("close") => request.last = true,
            "accept" => request.json = value.contains("application/vnd.pypi.simple.v1+json"),
            _ => {}
        }
    }
    if !matches!(method, "GET" | "HEAD") {
        return Err(405);
    }
    Ok(request)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_request_is_refused() {
        let good = parse(b"GET /0/simple/six/?a HTTP/1.1\r\nAccept: application/vnd.pypi.simple.v1+json, text/html;q=0.1\r\n\r\n").unwrap();
        assert_eq!(good.path, "/0/simple/six/");
        assert!(good.json && !good.head_only && !good.last);
        for (bad, status) in [
            (&b"GET http://169.254.169.254/ HTTP/1.1\r\n\r\n"[..], 400),
            (b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n", 400),
            (b"GET  / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2\r\n\r\n", 400),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
            (b"GET /\0 HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\n\r\n", 405),
            (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 413),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        ] {
            assert_eq!(parse(bad), Err(status), "{}", bad.escape_ascii());
        }
        assert_eq!(
            parse(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_TARGET)).as_bytes()),
            Err(400)
        );
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused_and_requests_follow_each_other() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(server);
        client
            .write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let first = connection.request().await.unwrap().unwrap().unwrap();
        let second = connection.request().await.unwrap().unwrap().unwrap();
        assert_eq!((first.path.as_str(), second.path.as_str()), ("/a", "/b"));
        assert!(!first.last && second.last);
        client.write_all(&vec![b'a'; MAX_HEAD]).await.unwrap();
        assert_eq!(connection.request().await.unwrap(), Some(Err(431)));
        drop(client);
    }

    proptest::proptest! {
        #[test]
        fn what_is_understood_is_a_path(head in "(GET|HEAD|POST|CONNECT| |/|http://x|\r\n|HTTP/1\\.[012]|[a-z:\\x00-\\x20é]){0,40}") {
            if let Ok(request) = parse(head.as_bytes()) {
                proptest::prop_assert!(request.path.starts_with('/') && request.path.len() <= MAX_TARGET);
            }
        }
    }
}
