//! What neither a hostile client nor a hostile index brings about, for fuzzing and the seeds that tests replay.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a target tells what it has found"
)]

use reqwest::Url;

use super::page::{JSON, Page, digest};
use super::{http, requests};

/// The head of a request: what is understood names an index, a project and perhaps a digest, and nothing else of it is used.
pub fn request(head: &[u8]) {
    let Ok(request) = http::parse(head) else {
        return;
    };
    assert!(request.path.starts_with('/') && request.path.len() <= http::MAX_TARGET);
    let Some((number, project, asked)) = requests::understood(&request.path) else {
        return;
    };
    assert!(number < 100);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(!project.is_empty() && project.len() <= 128 && project.bytes().all(plain));
    if let requests::Asked::File { sha256, .. } = asked {
        assert_eq!(digest(&sha256), Some(sha256));
    }
}

/// A page of an index with a password: what is written of it can be read again, and leads to the cache or where no password is.
///
/// HTML or JSON, by the first byte.
pub fn page(data: &[u8]) {
    let (kind, text) = data.split_first().unwrap_or((&0, data));
    let (kind, text) = (
        if kind % 2 == 1 { JSON } else { "text/html" },
        &*String::from_utf8_lossy(text),
    );
    let url = Url::parse("https://me:hunter2@index.example/simple/x/").unwrap();
    let Some(page) = Page::read(&url, kind, text) else {
        return;
    };
    let base = "/0/files/x/";
    let (html, listing) = (page.html(base), page.json("x", base));
    if !text.contains("hunter2") {
        assert!(!html.contains("hunter2") && !listing.contains("hunter2"));
    }
    let count = page.files().count();
    for (kind, text) in [("text/html", &html), (JSON, &listing)] {
        let again = Page::read(&url, kind, text).unwrap();
        assert_eq!(again.files().count(), count, "{text}");
    }
    for file in page.files() {
        assert!(matches!(file.url.scheme(), "http" | "https"));
        assert!(file.url.password().is_none() && file.url.username().is_empty());
    }
}
