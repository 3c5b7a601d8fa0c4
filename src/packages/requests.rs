//! What is asked for: `/N/simple/PROJECT/` is the page of a project at the index of that number, and `/N/files/PROJECT/SHA256/NAME` a
//! file that this page names; with `.metadata` behind its name, the metadata beside it. There is nothing else.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::Settings;
use super::address::Address;
use super::flights::Flights;
use super::http::{Body, Connection, Request};
use super::page::{ACCEPTED, HTML, JSON, Page, digest};
use super::record::Record;
use super::store::Store;
use super::upstream::{Failure, Fetched, Upstream, host};
use crate::net::rules::Rules;
use crate::net::{Connection as Entry, Ended, Ledger, Verdict};

/// A page is asked for again after this time.
const FRESH: Duration = Duration::from_secs(600);
/// Bytes of pages, as they came, that are kept.
const MAX_PAGES: usize = 64 << 20;
/// Until a page has come: so long a hostile index keeps one of the turns of a sandbox.
const PAGE: Duration = Duration::from_secs(60);
/// Between looks at what another process downloads, and how long that is waited for.
const LOOK: Duration = Duration::from_millis(50);
const OTHERS: Duration = Duration::from_secs(1800);

/// A sandbox, as far as one of its connections knows.
#[derive(Debug)]
pub(super) struct Visitor {
    pub rules: Arc<Rules>,
    pub ledger: Ledger,
    /// For what is not there yet.
    pub waiting: Arc<Semaphore>,
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct Desk {
    store: Store,
    indexes: Vec<Address>,
    upstream: Upstream,
    pages: Mutex<HashMap<PageKey, Kept>>,
    page_flights: Flights<PageKey, Result<Arc<Page>, Failure>>,
    file_flights: Flights<String, Result<bool, Failure>>,
    /// That files cannot be kept.
    told: AtomicBool,
}

type PageKey = (usize, String);

#[derive(Debug, Clone)]
struct Kept {
    page: Arc<Page>,
    etag: Option<String>,
    at: Instant,
    bytes: usize,
}

/// A request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Page,
    /// A file, or the metadata beside it.
    File {
        sha256: String,
        metadata: bool,
    },
}

/// What is answered, and whether it was there.
type Answer = Result<(&'static str, Body, bool), Failure>;

impl Desk {
    pub(super) fn new(store: Store, settings: &Settings) -> reqwest::Result<Self> {
        Ok(Self {
            store,
            indexes: settings.indexes.clone(),
            upstream: Upstream::new(settings.proxy.as_ref())?,
            pages: Mutex::default(),
            page_flights: Flights::default(),
            file_flights: Flights::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Answers what comes over one connection.
    pub(super) async fn serve(
        self: &Arc<Self>,
        stream: UnixStream,
        visitor: &Visitor,
    ) -> io::Result<()> {
        let mut connection = Connection::new(stream);
        let mut asked = false;
        loop {
            let begun = connection.request().await;
            if asked && !matches!(begun, Ok(Some(_))) {
                return begun.map(drop);
            }
            asked = true;
            let mut record = Record::new(&visitor.ledger);
            let Some(request) = begun? else {
                record.entry.ended = Ended::Done;
                return Ok(());
            };
            let (request, answer) = match request {
                Ok(request) => {
                    let work = self.answer(&request, visitor, &mut record.entry);
                    let answer = connection.wait_for(&request, work).await?;
                    (request, answer)
                }
                Err(status) => (
                    Request::none(),
                    Err(Failure::new(status, "no request for a package")),
                ),
            };
            let (head, body) = match answer {
                Ok((kind, body, known)) => {
                    record.entry.cache_hit = Some(known);
                    ((200, kind), body)
                }
                Err(Failure { status, why }) => {
                    let text = format!("{why}\n");
                    (
                        (status, "text/plain; charset=utf-8"),
                        Body::Text(text.into()),
                    )
                }
            };
            let sent = connection.respond(&request, head, body).await;
            (record.entry.up, record.entry.down) = (connection.up, connection.down);
            record.entry.ended = match &sent {
                Ok(()) => Ended::Done,
                Err(_) => Ended::ResetInside,
            };
            sent?;
            if request.last {
                return Ok(());
            }
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: &Request,
        visitor: &Visitor,
        entry: &mut Entry,
    ) -> Answer {
        let not_found = || Failure::new(404, "only projects and their files are served");
        let (number, project, asked) = understood(&request.path).ok_or_else(not_found)?;
        let index = self.indexes.get(number).ok_or_else(not_found)?;
        permitted(&visitor.rules, index.url(), entry)?;
        let key = (number, project);
        let (page, known) = self.page(&key, index, visitor).await?;
        let Asked::File { sha256, metadata } = asked else {
            let base = format!("/{number}/files/{}/", key.1);
            let (kind, text) = match request.json {
                true => (JSON, page.json(&key.1, &base)),
                false => (HTML, page.html(&base)),
            };
            return Ok((kind, Body::Text(text), known));
        };
        let unnamed = || Failure::new(404, "the page of the project names no such file");
        let file = page.file(&sha256).ok_or_else(unnamed)?;
        let mut url = file.url.clone();
        let sha256 = if metadata {
            url.set_path(&format!("{}.metadata", url.path()));
            file.metadata.clone().ok_or_else(unnamed)?
        } else {
            sha256
        };
        permitted(&visitor.rules, &url, entry)?;
        let kept = self.file(index, &url, &sha256, visitor).await;
        let (body, known) = match (kept, self.store.get(&sha256)) {
            (Ok(known), Some((file, length))) => (Body::File(file, length), known),
            // Other files were downloaded meanwhile, and took its room.
            (Ok(_), None) => (self.through(index, &url, &sha256, visitor).await?, false),
            (Err(failure), _) if failure.is_of_store() => {
                self.tell(&failure);
                (self.through(index, &url, &sha256, visitor).await?, false)
            }
            (Err(failure), _) => return Err(failure),
        };
        Ok(("application/octet-stream", body, known))
    }

    /// The page of a project, and whether it was there.
    async fn page(
        self: &Arc<Self>,
        key: &PageKey,
        index: &Address,
        visitor: &Visitor,
    ) -> Result<(Arc<Page>, bool), Failure> {
        let kept = self.pages().get(key).cloned();
        if let Some(kept) = kept.filter(|kept| kept.at.elapsed() < FRESH) {
            return Ok((kept.page, true));
        }
        let Ok(turn) = Arc::clone(&visitor.waiting).acquire_owned().await else {
            return Err(lost());
        };
        let (desk, own_key, index) = (Arc::clone(self), key.clone(), index.clone());
        let work = async move {
            let _turn = turn;
            desk.fetch_page(own_key, &index).await
        };
        let (page, own) = self
            .page_flights
            .join(key.clone(), work)
            .await
            .ok_or_else(lost)?;
        Ok((page?, !own))
    }

    async fn fetch_page(&self, key: PageKey, index: &Address) -> Result<Arc<Page>, Failure> {
        let old = self.pages().get(&key).cloned();
        // It may have come while we waited for our turn.
        if let Some(kept) = old.as_ref().filter(|old| old.at.elapsed() < FRESH) {
            return Ok(Arc::clone(&kept.page));
        }
        let etag = old.as_ref().and_then(|old| old.etag.as_deref());
        let asked = self
            .upstream
            .page(index, index.page(&key.1), ACCEPTED, etag);
        let fetched = tokio::time::timeout(PAGE, asked).await;
        let fetched = fetched.map_err(|_| Failure::gateway("the page takes too long"))??;
        let kept = match (fetched, old) {
            (Fetched::Unchanged, Some(old)) => Kept {
                at: Instant::now(),
                ..old
            },
            (Fetched::Unchanged, None) => {
                return Err(Failure::gateway("the index tells of no page"));
            }
            (
                Fetched::New {
                    url,
                    kind,
                    text,
                    etag,
                },
                _,
            ) => {
                let page = Page::read(&url, &kind, &text);
                let page =
                    page.ok_or_else(|| Failure::gateway("the page of the index is malformed"))?;
                Kept {
                    page: Arc::new(page),
                    etag,
                    at: Instant::now(),
                    bytes: text.len(),
                }
            }
        };
        let page = Arc::clone(&kept.page);
        self.keep_page(key, kept);
        Ok(page)
    }

    /// Those that came, or were confirmed, least lately make room.
    fn keep_page(&self, key: PageKey, kept: Kept) {
        let mut pages = self.pages();
        pages.insert(key, kept);
        let mut bytes: usize = pages.values().map(|kept| kept.bytes).sum();
        while bytes > MAX_PAGES && pages.len() > 1 {
            let oldest = pages.iter().min_by_key(|(_, kept)| kept.at);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            bytes -= pages.remove(&key).map_or(0, |kept| kept.bytes);
        }
    }

    /// Has a file in the store; whether it was there.
    async fn file(
        self: &Arc<Self>,
        index: &Address,
        url: &Url,
        sha256: &str,
        visitor: &Visitor,
    ) -> Result<bool, Failure> {
        if self.store.get(sha256).is_some() {
            return Ok(true);
        }
        let Ok(turn) = Arc::clone(&visitor.waiting).acquire_owned().await else {
            return Err(lost());
        };
        let (desk, own, index) = (Arc::clone(self), sha256.to_owned(), index.clone());
        let url = url.clone();
        let work = async move {
            let _turn = turn;
            desk.fetch_file(&index, &url, &own).await
        };
        let (there, own) = self
            .file_flights
            .join(sha256.to_owned(), work)
            .await
            .ok_or_else(lost)?;
        Ok(there? || !own)
    }

    /// A file that cannot be kept: each who asks downloads it for himself.
    async fn through(
        &self,
        index: &Address,
        url: &Url,
        sha256: &str,
        visitor: &Visitor,
    ) -> Result<Body, Failure> {
        let turn = Arc::clone(&visitor.waiting).acquire_owned().await;
        let turn = turn.map_err(|_| lost())?;
        let passing = self.upstream.through(index, url, sha256, turn).await?;
        Ok(Body::Through(Box::new(passing)))
    }

    /// Once: whoever asks could fill a log.
    fn tell(&self, failure: &Failure) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: packages are passed on without being kept; make room, or name another directory by --package-cache",
                failure.why
            );
        }
    }

    /// Downloads a file, unless another process does: then it waits for that one. Whether it was there.
    async fn fetch_file(&self, index: &Address, url: &Url, sha256: &str) -> Result<bool, Failure> {
        let begun = Instant::now();
        let mut incoming = loop {
            if self.store.get(sha256).is_some() {
                return Ok(true);
            }
            if let Some(incoming) = self
                .store
                .begin(sha256)
                .map_err(|error| Failure::store(&error))?
            {
                break incoming;
            }
            if begun.elapsed() > OTHERS {
                return Err(Failure::gateway(
                    "another process does not end its download",
                ));
            }
            tokio::time::sleep(LOOK).await;
        };
        // Another process may have been done between the two looks.
        if self.store.get(sha256).is_some() {
            return Ok(true);
        }
        let limit = self.store.limit();
        self.upstream.file(index, url, limit, &mut incoming).await?;
        let (store, own) = (self.store.clone(), sha256.to_owned());
        let kept = tokio::task::spawn_blocking(move || store.keep(&incoming, &own)).await;
        match kept
            .map_err(io::Error::other)
            .and_then(|kept| kept)
            .map_err(|error| Failure::store(&error))?
        {
            true => Ok(false),
            false => Err(Failure::gateway(
                "what came is not what the index names: its SHA-256 differs",
            )),
        }
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<PageKey, Kept>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> Failure {
    Failure::gateway("the package cache failed")
}

/// What the sandbox might not ask for itself, it is not given. A server is looked at as it is written: its name is looked up by the
/// host, where it is nobody's who asks.
fn permitted(rules: &Rules, url: &Url, entry: &mut Entry) -> Result<(), Failure> {
    let port = url.port_or_known_default().unwrap_or(0);
    entry.name = url.host_str().map(Arc::from);
    let verdict = match host(url) {
        Some(host) => rules.permits(&host, port),
        None => Err("no name of a host".to_owned()),
    };
    let (verdict, rule) = match verdict {
        Ok(rule) => (Verdict::Allowed, rule),
        Err(rule) => (Verdict::Denied, rule),
    };
    entry.verdict = verdict;
    entry.rule = format!("package cache, {rule}").into();
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied | Verdict::Limited => Err(Failure::new(
            403,
            format!("the rules of the network: {rule}"),
        )),
    }
}

/// The number of the index, the project as indexes name it (PEP 503), and what of it.
pub(super) fn understood(path: &str) -> Option<(usize, String, Asked)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let number = parts.next()?;
    let number = number.parse().ok().filter(|_| number.len() <= 2)?;
    let kind = parts.next()?;
    let project = project(parts.next()?)?;
    let rest: Vec<_> = parts.collect();
    let asked = match (kind, rest.as_slice()) {
        ("simple", [] | [""]) => Asked::Page,
        ("files", [sha256, name]) => Asked::File {
            sha256: digest(sha256)?,
            metadata: name.ends_with(".metadata"),
        },
        _ => return None,
    };
    Some((number, project, asked))
}

fn project(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let good =
        text.len() <= 128 && text.bytes().all(plain) && ends(bytes.first()) && ends(bytes.last());
    let words = text.split(['.', '_', '-']).filter(|word| !word.is_empty());
    good.then(|| words.collect::<Vec<_>>().join("-").to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
