//! A desk before an index of the test.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::net::Entries;

const WHEEL: &[u8] = b"a wheel";

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Scene {
    directory: tempfile::TempDir,
    index: MockServer,
    desk: Arc<Desk>,
    entries: Entries,
    ledger: Ledger,
    waiting: Arc<Semaphore>,
}

impl Scene {
    async fn new() -> Self {
        let index = MockServer::start().await;
        let directory = tempfile::tempdir().unwrap();
        let address = index.uri().replace("http://", "http://me:hunter2@") + "/simple/";
        let desk = desk(&directory, &address);
        let (ledger, entries) = Ledger::new(100);
        Self {
            directory,
            index,
            desk,
            entries,
            ledger,
            waiting: Arc::new(Semaphore::new(8)),
        }
    }

    /// The page of `six`, with links to these.
    async fn page(&self, links: &[String]) {
        let links: String = links
            .iter()
            .map(|link| format!("<a href=\"{link}\" data-core-metadata=\"sha256={}\">six-1-py3-none-any.whl</a>\n", sha256(b"metadata")))
            .collect();
        // "me:hunter2".
        Mock::given(method("GET"))
            .and(path("/simple/six/"))
            .and(header("authorization", "Basic bWU6aHVudGVyMg=="))
            .respond_with(
                ResponseTemplate::new(200)
                    .set_body_raw(links, "text/html")
                    .insert_header("ETag", "\"1\""),
            )
            .mount(&self.index)
            .await;
    }

    async fn file(&self, at: &str, content: &[u8]) {
        Mock::given(method("GET"))
            .and(path(at))
            .respond_with(
                ResponseTemplate::new(200)
                    .set_body_bytes(content)
                    .set_delay(Duration::from_millis(50)),
            )
            .mount(&self.index)
            .await;
    }

    async fn ask(&self, rules: &str, path: &str) -> String {
        ask(&self.desk, &self.visitor(rules), path).await
    }

    fn visitor(&self, rules: &str) -> Visitor {
        Visitor {
            rules: Arc::new(rules.parse().unwrap()),
            ledger: self.ledger.clone(),
            waiting: Arc::clone(&self.waiting),
        }
    }

    /// How often the index was asked for a path.
    async fn asked(&self, path: &str) -> usize {
        let requests = self.index.received_requests().await.unwrap();
        requests.iter().filter(|one| one.url.path() == path).count()
    }
}

fn desk(directory: &tempfile::TempDir, address: &str) -> Arc<Desk> {
    let settings = Settings {
        directory: directory.path().to_owned(),
        indexes: vec![Address::new(address).unwrap()],
        proxy: None,
    };
    let store = Store::open(directory.path(), 1000).unwrap();
    Arc::new(Desk::new(store, &settings).unwrap())
}

async fn ask(desk: &Arc<Desk>, visitor: &Visitor, path: &str) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let served = desk.serve(server, visitor).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    served.unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap()
}

fn file_path(content: &[u8]) -> String {
    format!("/0/files/six/{}/six-1-py3-none-any.whl", sha256(content))
}

#[tokio::test]
async fn a_file_is_downloaded_once_and_checked_and_the_password_stays_outside() {
    let scene = Scene::new().await;
    scene
        .page(&[format!("../../f/six.whl#sha256={}", sha256(WHEEL))])
        .await;
    scene.file("/f/six.whl", WHEEL).await;
    scene.file("/f/six.whl.metadata", b"metadata").await;
    let page = scene.ask("internet", "/0/simple/Six").await;
    assert!(
        page.contains(&file_path(WHEEL)) && !page.contains("hunter2"),
        "{page}"
    );
    let (asked, at) = (|| scene.ask("internet", "/0/simple/six/"), file_path(WHEEL));
    asked().await;
    let all = tokio::join!(
        scene.ask("internet", &at),
        scene.ask("internet", &at),
        scene.ask("internet", &at)
    );
    for answer in [all.0, all.1, all.2, scene.ask("internet", &at).await] {
        assert!(answer.ends_with("\r\n\r\na wheel"), "{answer}");
    }
    let metadata = scene.ask("internet", &format!("{at}.metadata")).await;
    assert!(metadata.ends_with("metadata"), "{metadata}");
    assert_eq!(
        (
            scene.asked("/simple/six/").await,
            scene.asked("/f/six.whl").await
        ),
        (1, 1)
    );
    // Another process, later.
    let other = desk(
        &scene.directory,
        &format!(
            "{}/simple",
            scene.index.uri().replace("//", "//me:hunter2@")
        ),
    );
    let answer = ask(&other, &scene.visitor("internet"), &at).await;
    assert!(answer.ends_with("a wheel"), "{answer}");
    assert_eq!(scene.asked("/f/six.whl").await, 1);
    let entries: Vec<_> = scene.entries.at_hand().collect();
    let hits: Vec<_> = entries.iter().map(|entry| entry.cache_hit).collect();
    assert_eq!(
        hits.iter().filter(|hit| **hit == Some(false)).count(),
        3,
        "{hits:?}"
    );
    assert_eq!(
        (hits.len(), entries[0].name.as_deref()),
        (8, Some("127.0.0.1"))
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.up > 20 && entry.down > 20 && entry.ended == Ended::Done)
    );
}

#[tokio::test]
async fn what_the_index_does_not_name_is_not_fetched() {
    let scene = Scene::new().await;
    let near = format!("http://localhost:{}/near.whl", scene.index.address().port());
    scene
        .page(&[
            format!("../../f/wrong.whl#sha256={}", sha256(WHEEL)),
            format!("../../f/away.whl#sha256={}", sha256(b"away")),
            format!("{near}#sha256={}", sha256(b"near")),
            "../../f/unknown.whl".to_owned(),
        ])
        .await;
    scene.file("/f/wrong.whl", b"another").await;
    scene.file("/near.whl", b"near").await;
    Mock::given(path("/f/away.whl"))
        .respond_with(ResponseTemplate::new(302).insert_header("Location", near.as_str()))
        .mount(&scene.index)
        .await;
    for (path, expected) in [
        (file_path(WHEEL), "502"),
        (file_path(b"away"), "403"),
        (file_path(b"near"), "403"),
        (file_path(b"unknown"), "404"),
        ("/1/simple/six/".into(), "404"),
        ("/0/simple/".into(), "404"),
        ("/0/simple/../f/wrong.whl".into(), "404"),
        ("/0/simple/%2e%2e/".into(), "404"),
        ("/0/files/six/../../f/wrong.whl".into(), "404"),
        ("http://localhost/near.whl".into(), "400"),
        ("//localhost/near.whl".into(), "404"),
        ("/0/simple/nothing/".into(), "404"),
    ] {
        let answer = scene.ask("internet", &path).await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
    }
    assert_eq!(scene.asked("/near.whl").await, 0);
    // Nothing half is left.
    for part in ["files", "incoming"] {
        let left = std::fs::read_dir(scene.directory.path().join(part))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{part}");
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_passed_on_when_it_is_right() {
    let scene = Scene::new().await;
    scene
        .page(&[
            format!("../../f/six.whl#sha256={}", sha256(WHEEL)),
            format!("../../f/wrong.whl#sha256={}", sha256(b"right")),
        ])
        .await;
    scene.file("/f/six.whl", WHEEL).await;
    scene.file("/f/wrong.whl", b"wrong").await;
    let incoming = scene.directory.path().join("incoming");
    std::fs::remove_dir(&incoming).unwrap();
    std::fs::write(&incoming, "no directory").unwrap();
    for count in 1..=2 {
        let answer = scene.ask("internet", &file_path(WHEEL)).await;
        assert!(answer.ends_with("\r\n\r\na wheel"), "{answer}");
        assert_eq!(scene.asked("/f/six.whl").await, count);
    }
    assert!(scene.desk.told.load(Ordering::Relaxed));
    let (mut client, server) = UnixStream::pair().unwrap();
    let request = format!("GET {} HTTP/1.1\r\n\r\n", file_path(b"right"));
    client.write_all(request.as_bytes()).await.unwrap();
    let served = scene.desk.serve(server, &scene.visitor("internet")).await;
    assert!(served.is_err(), "what is wrong breaks off");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.ends_with(b"wrong"));
    // The rules hold for these, too.
    let answer = scene.ask("allow:other.example", &file_path(WHEEL)).await;
    assert_eq!(status(&answer), "403", "{answer}");
}

#[tokio::test]
async fn what_is_no_request_is_on_record() {
    let scene = Scene::new().await;
    for (bytes, expected) in [
        (&b"\0\x01\x02\r\n\r\n"[..], "HTTP/1.1 400"),
        (b"GET /0/simple/si", "HTTP/1.1 400"),
        (b"", ""),
    ] {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let _ = scene.desk.serve(server, &scene.visitor("internet")).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(expected), "{answer}");
        let entries: Vec<_> = scene.entries.at_hand().collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        let entry = &entries[0];
        assert_eq!(
            (entry.verdict, entry.up),
            (Verdict::Denied, bytes.len() as u64)
        );
        assert!(entry.rule.contains("no request"), "{}", entry.rule);
    }
    // The end after a request is none of its own.
    scene.page(&[]).await;
    scene.ask("internet", "/0/simple/six/").await;
    assert_eq!(scene.entries.at_hand().count(), 1);
}

#[tokio::test]
async fn the_rules_of_the_sandbox_hold() {
    let scene = Scene::new().await;
    scene
        .page(&[format!("../../f/six.whl#sha256={}", sha256(WHEEL))])
        .await;
    scene.file("/f/six.whl", WHEEL).await;
    let answer = scene.ask("allow:other.example", "/0/simple/six/").await;
    assert_eq!(status(&answer), "403", "{answer}");
    assert_eq!(scene.asked("/simple/six/").await, 0);
    let entry = scene.entries.at_hand().next().unwrap();
    assert_eq!((entry.verdict, entry.cache_hit), (Verdict::Denied, None));
    // What others have brought in is no way round them.
    assert_eq!(
        status(&scene.ask("internet", &file_path(WHEEL)).await),
        "200"
    );
    let answer = scene.ask("allow:other.example", &file_path(WHEEL)).await;
    assert_eq!(status(&answer), "403", "{answer}");
}

#[tokio::test]
async fn a_page_that_has_aged_is_asked_for_by_its_tag() {
    let scene = Scene::new().await;
    Mock::given(header("If-None-Match", "\"1\""))
        .respond_with(ResponseTemplate::new(304))
        .with_priority(1)
        .mount(&scene.index)
        .await;
    scene
        .page(&[format!("../../f/six.whl#sha256={}", sha256(WHEEL))])
        .await;
    let first = scene.ask("internet", "/0/simple/six/").await;
    for kept in scene.desk.pages().values_mut() {
        kept.at = Instant::now().checked_sub(FRESH).unwrap();
    }
    let second = scene.ask("internet", "/0/simple/six/").await;
    assert_eq!(first, second);
    assert_eq!(scene.asked("/simple/six/").await, 2);
}

#[test]
fn projects_are_named_as_indexes_name_them() {
    assert_eq!(project("Foo.Bar__baz"), Some("foo-bar-baz".into()));
    for bad in ["", ".", "..", "-a", "a-", "a b", "a/b", "a%2fb", "é"] {
        assert_eq!(project(bad), None, "{bad}");
    }
}
