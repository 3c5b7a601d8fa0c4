//! Data sets by name, from a hub on loopback that answers as the real one does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::program::{code, collect, stderr};
use crate::{Bench, task};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const PARQUET: &[u8] = include_bytes!("../data/benchmark/shapes.parquet");
const LINES: &str = "{\"id\": \"d\", \"problem_statement\": \"last\", \"ground_truth\": \"4\"}\n";

#[derive(Debug, Clone)]
struct Request {
    path: String,
    token: Option<String>,
    from: Option<usize>,
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    cut: usize,
}

impl Reply {
    fn of(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: headers.to_owned(),
            body: body.into(),
            cut: usize::MAX,
        }
    }
}

/// A server on loopback that answers each request by itself, and remembers all.
struct Served {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    taken: Mutex<usize>,
}

impl Served {
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        Self::over("http", answer, Ok)
    }

    /// With something around each connection.
    fn over<S: Read + Write>(
        scheme: &str,
        answer: impl Fn(&Request, usize) -> Reply + Send + 'static,
        wrap: impl Fn(TcpStream) -> Result<S, rustls::Error> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = wrap(stream).unwrap();
                let Some(request) = read(&mut stream) else {
                    continue;
                };
                let before = {
                    let mut all = all.lock().unwrap();
                    let same = |other: &&Request| other.path == request.path;
                    let before = all.iter().filter(same).count();
                    all.push(request.clone());
                    before
                };
                write(&mut stream, &answer(&request, before));
            }
        });
        let taken = Mutex::new(0);
        Self { url, seen, taken }
    }

    /// What was asked since the last time.
    fn take(&self) -> Vec<Request> {
        let (seen, mut taken) = (self.seen.lock().unwrap(), self.taken.lock().unwrap());
        let new = seen[*taken..].to_vec();
        *taken = seen.len();
        new
    }
}

fn read(stream: &mut impl Read) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut request = Request {
        path: first.split(' ').nth(1)?.to_owned(),
        token: None,
        from: None,
    };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "authorization" => request.token = Some(value.to_owned()),
            "range" => {
                let from = value.strip_prefix("bytes=")?.trim_end_matches('-');
                request.from = from.parse().ok();
            }
            _ => {}
        }
    }
    Some(request)
}

/// Whoever went away does not harm the others.
fn write(stream: &mut impl Write, reply: &Reply) {
    let Reply {
        status,
        headers,
        body,
        cut,
    } = reply;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    let sent = &body[..length.min(*cut)];
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(sent))
        .and_then(|()| stream.flush());
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn description(commit: &str) -> String {
    json!({
        "id": "org/set", "sha": commit, "private": false,
        "siblings": [{"rfilename": "README.md"}, {"rfilename": "data/test-0.parquet"}, {"rfilename": "data/test-1.jsonl"}],
        "cardData": {"configs": [{"config_name": "main", "data_files": [{"split": "test", "path": "data/test-*"}]}]},
    })
    .to_string()
}

/// A content delivery network that breaks off the first time.
fn cdn() -> Served {
    Served::start(|request, before| {
        let part = &PARQUET[request.from.unwrap_or(0)..];
        let total = PARQUET.len();
        let mut reply = match request.from {
            None => Reply::of(200, "", part),
            Some(from) => Reply::of(
                206,
                &format!("content-range: bytes {from}-{}/{total}\r\n", total - 1),
                part,
            ),
        };
        if before == 0 {
            reply.cut = 1000;
        }
        reply
    })
}

/// The hub: what is large lies elsewhere, and is signed for there. Without a commit it is down.
fn hub(cdn: &Served, commit: &Arc<Mutex<&'static str>>) -> Served {
    let (cdn, commit) = (cdn.url.clone(), Arc::clone(commit));
    Served::start(move |request, before| {
        let commit = *commit.lock().unwrap();
        let path = request.path.as_str();
        if commit.is_empty() {
            return Reply::of(503, "retry-after: 0\r\n", "");
        }
        if request.token.as_deref() != Some("Bearer hf_secret") {
            return Reply::of(
                401,
                "x-error-code: RepoNotFound\r\n",
                "{\"error\":\"Invalid username or password.\"}",
            );
        }
        let linked = format!(
            "x-repo-commit: {commit}\r\nx-linked-size: {}\r\nx-linked-etag: \"{}\"\r\nlocation: {cdn}/blob?signature=s\r\n",
            PARQUET.len(),
            hex(PARQUET)
        );
        match path.strip_prefix(&format!("/datasets/org/set/resolve/{COMMIT}/")) {
            Some("data/test-0.parquet") => return Reply::of(302, &linked, ""),
            Some("data/test-1.jsonl") => return Reply::of(200, "etag: \"0123\"\r\n", LINES),
            _ => {}
        }
        match path {
            // Busy at first.
            "/api/datasets/org/set/revision/main" if before == 0 => {
                Reply::of(429, "retry-after: 0\r\n", "")
            }
            "/api/datasets/org/set/revision/main" => Reply::of(200, "", description(commit)),
            "/api/datasets/org/gated/revision/main" => {
                Reply::of(403, "x-error-code: GatedRepo\r\n", "")
            }
            "/api/datasets/org/garbage/revision/main" => Reply::of(200, "", "<html>"),
            "/api/datasets/org/loop/revision/main" => Reply::of(307, "location: main\r\n", ""),
            "/api/datasets/org/file/revision/main" => {
                Reply::of(302, "location: file:///etc/passwd\r\n", "")
            }
            _ => Reply::of(404, "x-error-code: RevisionNotFound\r\n", ""),
        }
    })
}

fn command(bench: &Bench, flags: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = bench.verb(flags, true);
    for name in ["HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    command.env("LLM_IN_SANDBOX_HOME", bench.path("state"));
    command.envs(env.iter().copied());
    collect(command.spawn().unwrap())
}

const RUN: [&str; 8] = [
    "benchmark",
    "t",
    "--mode",
    "llm",
    "--llm_name",
    "replay:answers",
    "--output_dir",
    "out",
];

fn prepared(data_set: &str) -> Bench {
    let bench = Bench::new();
    task(&bench.path("t"), "reward: exact\n", &[]);
    let config = format!("dataset: {data_set}\nconfig: main\nsplit: test\nreward: exact\n");
    std::fs::write(bench.path("t/config.yaml"), config).unwrap();
    for (name, answer) in [("a", "4"), ("row_00001", "5"), ("c", "4 "), ("d", "no")] {
        bench.record(name, &[json!({"content": answer})]);
    }
    bench
}

fn blobs(bench: &Bench) -> Vec<String> {
    let Ok(blobs) = std::fs::read_dir(bench.path("state/hub/blobs")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = blobs
        .map(|blob| blob.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Of the rows of both files; one has no expected answer.
fn scores() -> BTreeMap<String, Value> {
    let scores = [
        ("a", Some(1.0)),
        ("row_00001", None),
        ("c", Some(1.0)),
        ("d", Some(0.0)),
    ];
    scores
        .map(|(id, score)| (id.to_owned(), json!(score)))
        .into()
}

#[test]
fn a_data_set_by_name_is_fetched_once_pinned_and_there_without_the_hub() {
    let commit = Arc::new(Mutex::new(COMMIT));
    let cdn = cdn();
    let hub = hub(&cdn, &commit);
    let bench = prepared("org/set");
    let env = [("HF_ENDPOINT", hub.url.as_str()), ("HF_TOKEN", "hf_secret")];
    let known = scores();
    let output = command(&bench, &RUN, &env);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(bench.scores(), known);
    // The token is for the hub alone, and what broke off is gone on with.
    let (asked, fetched) = (hub.take(), cdn.take());
    assert!(
        asked.len() >= 4 && asked.iter().all(|request| request.token.is_some()),
        "{asked:?}"
    );
    assert_eq!(
        fetched
            .iter()
            .map(|request| request.from)
            .collect::<Vec<_>>(),
        [None, Some(1000)]
    );
    assert!(
        fetched.iter().all(|request| request.token.is_none()),
        "{fetched:?}"
    );
    // The commit and the content of every file are written down.
    let expected = [
        format!("{}.parquet", hex(PARQUET)),
        format!("{}.jsonl", hex(LINES.as_bytes())),
    ];
    let first = bench.folder();
    let pinned = crate::read_json(&first.join("run.json"))["hub"].clone();
    assert_eq!(pinned["commit"], COMMIT);
    for (file, expected) in pinned["files"].as_array().unwrap().iter().zip(&expected) {
        assert!(file.as_str().unwrap().ends_with(expected), "{file}");
    }
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(blobs(&bench), sorted);
    assert_eq!(
        std::fs::read_dir(bench.path("state/hub/parts"))
            .unwrap()
            .count(),
        0
    );
    // Another run asks for the commit and fetches nothing.
    assert_eq!(code(&command(&bench, &RUN, &env)), 0);
    assert_eq!((hub.take().len(), cdn.take().len()), (1, 0));
    // The data set goes on, the run stays where it began, and asks nobody.
    *commit.lock().unwrap() = LATER;
    let folder = first.to_str().unwrap();
    let again = [
        "benchmark",
        "--resume",
        folder,
        "--llm_name",
        "replay:answers",
    ];
    let output = command(&bench, &again, &env);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = command(&bench, &["verify", folder], &env);
    // The row without an expected answer has no score yet.
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert_eq!((hub.take().len(), cdn.take().len()), (0, 0));
    // Without the hub it is as it was the last time.
    *commit.lock().unwrap() = COMMIT;
    assert_eq!(code(&command(&bench, &RUN, &env)), 0);
    *commit.lock().unwrap() = "";
    let output = command(&bench, &RUN, &env);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot be reached"),
        "{}",
        stderr(&output)
    );
    assert_eq!(bench.scores(), known);
    hub.take();
    let gone = [("HF_ENDPOINT", hub.url.as_str()), ("HF_HUB_OFFLINE", "1")];
    let output = command(&bench, &RUN, &gone);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!((bench.scores(), hub.take().len()), (known, 0));
}

#[test]
fn the_token_is_not_taken_along_to_another_address() {
    let commit = Arc::new(Mutex::new(COMMIT));
    let cdn = cdn();
    let real = hub(&cdn, &commit);
    let front = {
        let url = real.url.clone();
        Served::start(move |request, _| {
            Reply::of(307, &format!("location: {url}{}\r\n", request.path), "")
        })
    };
    let bench = prepared("org/set");
    let env = [
        ("HF_ENDPOINT", front.url.as_str()),
        ("HF_TOKEN", "hf_secret"),
    ];
    let output = command(&bench, &RUN, &env);
    assert_eq!(code(&output), 125, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("status 401"),
        "{}",
        stderr(&output)
    );
    assert!(front.take().iter().all(|request| request.token.is_some()));
    let asked = real.take();
    assert!(
        !asked.is_empty() && asked.iter().all(|request| request.token.is_none()),
        "{asked:?}"
    );
    assert!(blobs(&bench).is_empty());
}

/// A certificate of its own for this machine, and what serves with it.
fn certificate(directory: &Path) -> Option<Arc<rustls::ServerConfig>> {
    let mut openssl = Command::new("openssl");
    openssl
        .current_dir(directory)
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args([
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]);
    match openssl.output() {
        Ok(made) => assert!(made.status.success(), "{}", stderr(&made)),
        Err(error) => {
            let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name.trim() == "openssl"));
            println!("SKIP a redirect to https: openssl: {error}");
            return None;
        }
    }
    let certificate = CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Some(Arc::new(config.unwrap()))
}

#[test]
fn a_hub_without_tls_may_lead_to_https_but_without_the_token() {
    let bench = prepared("org/set");
    let Some(config) = certificate(&bench.path("")) else {
        return;
    };
    let wrap = move |stream| {
        Ok(rustls::StreamOwned::new(
            rustls::ServerConnection::new(Arc::clone(&config))?,
            stream,
        ))
    };
    let sealed = Served::over("https", |_, _| Reply::of(200, "", PARQUET), wrap);
    let url = sealed.url.clone();
    let hub = Served::start(move |request, _| match request.path.as_str() {
        "/api/datasets/org/set/revision/main" => Reply::of(200, "", description(COMMIT)),
        path if path.ends_with(".jsonl") => Reply::of(200, "", LINES),
        _ => Reply::of(302, &format!("location: {url}/blob\r\n"), ""),
    });
    let store = bench.path("cert.pem");
    let env = [
        ("HF_ENDPOINT", hub.url.as_str()),
        ("HF_TOKEN", "hf_secret"),
        ("SSL_CERT_FILE", store.to_str().unwrap()),
    ];
    let output = command(&bench, &RUN, &env);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(bench.scores(), scores());
    assert!(hub.take().iter().all(|request| request.token.is_some()));
    let asked = sealed.take();
    assert!(
        !asked.is_empty() && asked.iter().all(|request| request.token.is_none()),
        "{asked:?}"
    );
    // Where no certificate is to be had, what needs none goes on.
    let empty = bench.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let other = prepared("org/set");
    let env = [
        ("HF_ENDPOINT", hub.url.as_str()),
        ("SSL_CERT_FILE", empty.to_str().unwrap()),
        ("SSL_CERT_DIR", "/nonexistent"),
    ];
    let output = command(&other, &RUN, &env);
    assert_eq!(code(&output), 125, "{}", stderr(&output));
    let asked = hub.take();
    assert!(
        asked.iter().any(|request| request.path.contains("/api/")),
        "{asked:?}"
    );
    assert!(
        stderr(&output).contains("certificate"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_a_hub_refuses_is_told_with_what_to_do() {
    let commit = Arc::new(Mutex::new(COMMIT));
    let cdn = cdn();
    let hub = hub(&cdn, &commit);
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let closed = format!("http://{closed}");
    let token = ("HF_TOKEN", "hf_secret");
    let up = ("HF_ENDPOINT", hub.url.as_str());
    for (name, env, words) in [
        ("org/set", &[up][..], ["RepoNotFound", "HF_TOKEN"]),
        ("org/gated", &[up, token], ["GatedRepo", "conditions"]),
        ("org/none", &[up, token], ["status 404", "check the name"]),
        (
            "org/garbage",
            &[up, token],
            ["is not that of a hub", "revision/main"],
        ),
        ("org/loop", &[up, token], ["is not followed", "loop"]),
        ("org/file", &[up, token], ["is not followed", "file"]),
        (
            "../set",
            &[up, token],
            ["is no name of a data set", "org/name"],
        ),
        (
            "org/set",
            &[("HF_ENDPOINT", &closed), token],
            ["ask the hub", "check the network"],
        ),
        (
            "org/set",
            &[("HF_ENDPOINT", "ftp://x"), token],
            ["HF_ENDPOINT", "http://"],
        ),
        (
            "org/set",
            &[up, ("HF_HUB_OFFLINE", "1")],
            ["not in the cache", "--data"],
        ),
        (
            "org/set",
            &[up, ("HF_TOKEN", "a\tb\u{7f}")],
            ["token of the hub", "no header"],
        ),
    ] {
        let bench = prepared(name);
        let output = command(&bench, &RUN, env);
        let told = stderr(&output);
        assert_ne!(code(&output), 0, "{name}: {told}");
        for word in words {
            assert!(told.contains(word), "{name}: {word}: {told}");
        }
        assert!(!told.contains("hf_secret"), "{told}");
        assert!(!bench.path("out").exists(), "nothing was begun");
    }
}

#[test]
fn other_bytes_than_the_hub_says_are_thrown_away() {
    let liar = Served::start(|_, _| {
        let mut bytes = PARQUET.to_vec();
        bytes[500] ^= 1;
        Reply::of(200, "", bytes)
    });
    let commit = Arc::new(Mutex::new(COMMIT));
    let hub = hub(&liar, &commit);
    let bench = prepared("org/set");
    let env = [("HF_ENDPOINT", hub.url.as_str()), ("HF_TOKEN", "hf_secret")];
    let output = command(&bench, &RUN, &env);
    assert_eq!(code(&output), 125, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("another digest"),
        "{}",
        stderr(&output)
    );
    assert!(blobs(&bench).is_empty());
    for part in std::fs::read_dir(bench.path("state/hub/parts")).unwrap() {
        assert_eq!(part.unwrap().metadata().unwrap().len(), 0);
    }
}

#[test]
fn files_are_kept_within_the_cache() {
    let commit = Arc::new(Mutex::new(COMMIT));
    let cdn = cdn();
    let hub = hub(&cdn, &commit);
    let bench = prepared("org/set");
    let env = [("HF_ENDPOINT", hub.url.as_str()), ("HF_TOKEN", "hf_secret")];
    // Two at once wait for each other, and fetch every file once.
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = bench.verb(&RUN, true);
            command.env("LLM_IN_SANDBOX_HOME", bench.path("state"));
            command.envs(env).spawn().unwrap()
        })
        .collect();
    for child in both {
        let output = collect(child);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    let asked = hub.take();
    let files = |name: &str| {
        asked
            .iter()
            .filter(|request| request.path.ends_with(name))
            .count()
    };
    // Broken off once, asked for again.
    assert_eq!(
        (files("test-0.parquet"), files("test-1.jsonl")),
        (2, 1),
        "{asked:?}"
    );
    let inside: Vec<_> = std::fs::read_dir(bench.path("state")).unwrap().collect();
    assert_eq!(inside.len(), 1, "{inside:?}");
    assert!(Path::new(&bench.path("state/hub")).is_dir());
}
