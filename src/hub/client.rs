//! Requests to a hub: bounded in time and bytes, repeated when it is busy, gone on with where they broke.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};

use super::HubError;
use super::cache::{Part, digest};
use crate::llm::{Secret, is_loopback, retry_after};

/// To the first byte of an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Without any byte, once it flows.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest description of a data set.
const MAX_TEXT: u64 = 64 << 20;
/// Largest file.
const MAX_FILE: u64 = 4 << 30;
/// Attempts without any progress.
const ATTEMPTS: u32 = 4;
/// The longest pause between two of them.
const MAX_PAUSE: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 5;

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

/// An answer, and what the hub itself said of the file, wherever that lies.
struct Answer {
    response: Response,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<Secret>) -> Result<Self, HubError> {
        let bad = |why: String| HubError::Endpoint(why);
        let mut url = Url::parse(endpoint.trim()).map_err(|e| bad(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
            return Err(bad(
                "it begins with http:// or https://, and holds no user".into()
            ));
        }
        url.set_query(None);
        url.set_fragment(None);
        let token = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose().trim()))
                .map_err(|_| HubError::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        // Another part of the process may have installed it already; then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(ANSWER)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("llm-in-sandbox/", env!("CARGO_PKG_VERSION")));
            if is_loopback(url.as_str()) {
                // A proxy that is set for the world cannot reach this machine's own servers.
                return builder.no_proxy();
            }
            builder
        };
        let http = match builder().build() {
            // Without a store of certificates it may still get on without any, until a redirect needs one.
            Err(_) if url.scheme() == "http" => {
                builder().tls_certs_only(std::iter::empty()).build()
            }
            built => built,
        };
        Ok(Self {
            http: http.map_err(HubError::Client)?,
            endpoint: url,
            token: token.transpose()?,
        })
    }

    /// An address of the hub: a part of its interface, a data set, and what of it. Each part is one step of the path.
    pub(super) fn address(&self, kind: &[&str], name: &str, rest: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        // Addresses of http and https always have a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(kind)
                .extend(name.split('/'))
                .extend(rest);
        }
        url
    }

    /// A description.
    pub(super) async fn text(&self, url: &Url) -> Result<String, HubError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.text_once(url).await {
                Err(error) if attempt < ATTEMPTS && passes(&error) => pause(&error, attempt).await,
                done => return done,
            }
        }
    }

    async fn text_once(&self, url: &Url) -> Result<String, HubError> {
        let mut answer = self.get(url, 0).await?.response;
        let mut content = Vec::new();
        while let Some(chunk) = next(&mut answer, url).await? {
            if (content.len() + chunk.len()) as u64 > MAX_TEXT {
                return Err(too_large(url, MAX_TEXT));
            }
            content.extend_from_slice(&chunk);
        }
        String::from_utf8(content).map_err(|_| HubError::Garbage(url.to_string()))
    }

    /// The rest of a file. Commits do not change, so what is there already is the beginning of the same file.
    pub(super) async fn download(&self, url: &Url, part: &Part) -> Result<(), HubError> {
        let mut attempt = 0;
        loop {
            let before = length(part)?;
            match self.download_once(url, part, before).await {
                Err(error) if passes(&error) => {
                    // Whoever gets on may go on.
                    attempt = if length(part)? > before {
                        1
                    } else {
                        attempt + 1
                    };
                    if attempt >= ATTEMPTS {
                        return Err(error);
                    }
                    pause(&error, attempt).await;
                }
                Err(error @ HubError::Differs { .. }) => {
                    empty(part)?;
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    async fn download_once(&self, url: &Url, part: &Part, from: u64) -> Result<(), HubError> {
        let mut answer = match self.get(url, from).await {
            // Nothing is behind what is there: it is whole, or it is another file.
            Err(HubError::Refused { status: 416, .. }) if from > 0 => {
                empty(part)?;
                self.get(url, 0).await?
            }
            answer => answer?,
        };
        let response = &mut answer.response;
        let mut size = answer.size;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(response, CONTENT_RANGE.as_str());
            let parsed = range.as_deref().and_then(content_range);
            let (begin, total) = parsed.ok_or_else(|| HubError::Garbage(url.to_string()))?;
            if begin != from {
                return Err(HubError::Garbage(url.to_string()));
            }
            size = size.or(total);
        } else {
            empty(part)?;
            let length = header(response, CONTENT_LENGTH.as_str());
            size = size.or(length.and_then(|length| length.parse().ok()));
        }
        let mut done = length(part)?;
        let mut file = &part.file;
        while let Some(chunk) = next(response, url).await? {
            done += chunk.len() as u64;
            if done > MAX_FILE {
                return Err(too_large(url, MAX_FILE));
            }
            file.write_all(&chunk)
                .map_err(HubError::cache("write", &part.path))?;
        }
        let differs = |what, got: String, expected: String| HubError::Differs {
            url: url.to_string(),
            what,
            got,
            expected,
        };
        if let Some(size) = size.filter(|size| *size != done) {
            return Err(differs("size", done.to_string(), size.to_string()));
        }
        if let Some(expected) = answer.sha256 {
            let got = digest(part).await?;
            if got != expected {
                return Err(differs("digest", got, expected));
            }
        }
        Ok(())
    }

    /// One request and the redirects that follow it; only the hub itself sees the token.
    async fn get(&self, wanted: &Url, from: u64) -> Result<Answer, HubError> {
        let mut url = wanted.clone();
        let (mut size, mut sha256) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == self.endpoint.origin();
            let mut request = self.http.get(url.clone());
            if let (Some(token), true) = (&self.token, own) {
                request = request.header(AUTHORIZATION, token);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = timeout(ANSWER, &url, request.send()).await?;
            if own {
                let linked = header(&response, "x-linked-size");
                size = size.or(linked.and_then(|size| size.parse().ok()));
                sha256 =
                    sha256.or(header(&response, "x-linked-etag").and_then(|tag| sha256_of(&tag)));
            }
            if response.status().is_success() {
                return Ok(Answer {
                    response,
                    size,
                    sha256,
                });
            }
            if !response.status().is_redirection() {
                return Err(refused(wanted, &response));
            }
            let next = header(&response, LOCATION.as_str()).and_then(|to| url.join(&to).ok());
            let Some(next) = next.filter(|next| allowed(&url, next)) else {
                break;
            };
            url = next;
        }
        Err(HubError::Redirect {
            from: bare(wanted),
            to: bare(&url),
        })
    }
}

/// What was sealed is not opened on the way.
fn allowed(from: &Url, to: &Url) -> bool {
    to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http")
}

/// An address without what signs it.
fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// The tag of a large file is its digest; that of a small one is another number.
fn sha256_of(tag: &str) -> Option<String> {
    let tag = tag.trim_start_matches("W/").trim_matches('"');
    let whole = tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| tag.to_ascii_lowercase())
}

/// `bytes FROM-TO/TOTAL`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    Some((begin.parse().ok()?, total.parse().ok()))
}

fn refused(url: &Url, response: &Response) -> HubError {
    let code = header(response, "x-error-code").unwrap_or_default();
    let wait = header(response, RETRY_AFTER.as_str());
    HubError::Refused {
        subject: bare(url),
        status: response.status().as_u16(),
        code: code.chars().take(100).collect(),
        wait: wait.and_then(|wait| retry_after(&wait, SystemTime::now())),
    }
}

/// Another attempt may find it otherwise.
fn passes(error: &HubError) -> bool {
    error.is_unreachable() || matches!(error, HubError::Refused { status: 429, .. })
}

async fn pause(error: &HubError, attempt: u32) {
    let mut asked = None;
    if let HubError::Refused { wait, .. } = error {
        asked = *wait;
    }
    let own = Duration::from_millis(250) * 2_u32.saturating_pow(attempt);
    tokio::time::sleep(asked.unwrap_or(own).min(MAX_PAUSE)).await;
}

async fn timeout<T>(
    limit: Duration,
    url: &Url,
    work: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, HubError> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| HubError::Silent {
        url: bare(url),
        seconds: limit.as_secs(),
    })?
    .map_err(|source| HubError::Transport {
        url: bare(url),
        source: source.without_url(),
    })
}

async fn next(
    response: &mut Response,
    url: &Url,
) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, HubError> {
    timeout(SILENCE, url, response.chunk()).await
}

fn too_large(url: &Url, limit: u64) -> HubError {
    HubError::TooLarge {
        url: bare(url),
        limit,
    }
}

fn length(part: &Part) -> Result<u64, HubError> {
    let metadata = part.file.metadata();
    let metadata = metadata.map_err(HubError::cache("look at", &part.path))?;
    Ok(metadata.len())
}

fn empty(part: &Part) -> Result<(), HubError> {
    part.file
        .set_len(0)
        .map_err(HubError::cache("empty", &part.path))
}
