//! Asking the indexes: with the host's certificates, proxies and passwords, and nothing near the host but the indexes themselves.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, ETAG, IF_NONE_MATCH, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use tokio::sync::OwnedSemaphorePermit;

use super::address::Address;
use super::store::Incoming;
use super::through::Through;
use crate::net::Gate;
use crate::net::gate::{Decision, Protocol};
use crate::net::names;
use crate::net::rules::{Host, Rules};
use crate::sys::socket;

/// Until a connection stands, and until an answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// Without any byte, once it flows.
const SILENCE: Duration = Duration::from_secs(30);
/// Of one file.
const WHOLE: Duration = Duration::from_secs(1800);
/// Of a page: the largest of the public index has some 20 MB.
const MAX_PAGE: usize = 32 << 20;
const REDIRECTS: usize = 5;
/// RFC 4918, 11.5: insufficient storage.
const STORE: u16 = 507;

/// Why there is nothing, as it is told inside: no password, no address that the page did not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: u16,
    pub why: String,
}

impl Failure {
    pub(super) fn new(status: u16, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { status, why }
    }

    /// The files of the cache cannot be used; for this process alone, for the file is passed on.
    pub(super) fn store(error: &io::Error) -> Self {
        Self::new(STORE, format!("package cache: {error}"))
    }

    pub(super) fn is_of_store(&self) -> bool {
        self.status == STORE
    }

    pub(super) fn gateway(why: impl Into<String>) -> Self {
        Self::new(502, why)
    }
}

/// The text of a page as it is now.
#[derive(Debug)]
pub(super) enum Fetched {
    Unchanged,
    New {
        /// After redirects, which links are relative to.
        url: Url,
        kind: String,
        text: String,
        etag: Option<String>,
    },
}

/// The clients.
#[derive(Debug)]
pub(super) struct Upstream {
    /// For the servers of the configured indexes, wherever they are.
    configured: Client,
    /// For where their pages lead: nothing near.
    elsewhere: Client,
    proxies: Proxies,
}

/// Hosts of proxies, which may be near: names without dots and private addresses are usual. No page leads there.
#[derive(Debug, Clone)]
struct Proxies(Vec<String>);

impl Proxies {
    fn new(addresses: impl Iterator<Item = Address>) -> Self {
        let host = |address: Address| address.url().host_str().map(str::to_owned);
        Self(addresses.filter_map(host).collect())
    }

    /// However it is written: the client passes it as the variable has it.
    fn has(&self, name: &str) -> bool {
        let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|known| plain(known) == plain(name))
    }
}

/// Looks names up, and tells of no address near the host.
#[derive(Debug)]
struct Outside(Proxies);

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let proxy = self.0.has(&name);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<_> = found.filter(|at| proxy || !is_near(at.ip())).collect();
            if addresses.is_empty() {
                return Err(io::Error::other("no address of it may be used").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Whether no sandbox of any rules would reach it.
fn is_near(address: IpAddr) -> bool {
    // Without a list of our own addresses all are taken for them.
    let Ok(own) = socket::interface_addresses() else {
        return true;
    };
    let mut gate = Gate::new(Rules::internet(), own.into_iter().collect());
    let to = SocketAddr::new(address, 443);
    !matches!(
        gate.open(Protocol::Tcp, to, Instant::now()),
        Decision::Allow { .. }
    )
}

impl Upstream {
    pub(super) fn new(proxy: Option<&Address>) -> reqwest::Result<Self> {
        // Another part of the process may have installed it already; then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = Client::builder()
                .connect_timeout(ANSWER)
                .redirect(Policy::none())
                .user_agent(concat!("llm-in-sandbox/", env!("CARGO_PKG_VERSION")));
            match proxy {
                Some(proxy) => Ok(builder.proxy(reqwest::Proxy::all(proxy.url().clone())?)),
                None => Ok::<_, reqwest::Error>(builder),
            }
        };
        let variables = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        let variables = variables.map(|name| [name.to_owned(), name.to_lowercase()]);
        let named = variables.into_iter().flatten();
        let set = named.filter_map(|name| Address::new(&std::env::var(name).ok()?).ok());
        let proxies = Proxies::new(set.chain(proxy.cloned()));
        Ok(Self {
            configured: builder()?.build()?,
            elsewhere: builder()?
                .dns_resolver(std::sync::Arc::new(Outside(proxies.clone())))
                .build()?,
            proxies,
        })
    }

    /// The page of a project, unless it is still the one of that tag.
    pub(super) async fn page(
        &self,
        index: &Address,
        url: Url,
        accept: &str,
        etag: Option<&str>,
    ) -> Result<Fetched, Failure> {
        let (url, mut answer) = self.get(index, url, Some(accept), etag).await?;
        if answer.status().as_u16() == 304 {
            return Ok(Fetched::Unchanged);
        }
        let header = |name| {
            let value: Option<&reqwest::header::HeaderValue> = answer.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let etag = header(ETAG);
        let kind = header(reqwest::header::CONTENT_TYPE).unwrap_or_default();
        let mut text = Vec::new();
        while let Some(chunk) = chunk(&mut answer).await? {
            if text.len() + chunk.len() > MAX_PAGE {
                return Err(Failure::gateway("the page of the index is too long"));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(Fetched::New {
            url,
            kind,
            text: String::from_utf8_lossy(&text).into_owned(),
            etag,
        })
    }

    /// A file.
    pub(super) async fn file(
        &self,
        index: &Address,
        url: &Url,
        limit: u64,
        into: &mut Incoming,
    ) -> Result<(), Failure> {
        let whole = async {
            let (_, mut answer) = self.get(index, url.clone(), None, None).await?;
            while let Some(chunk) = chunk(&mut answer).await? {
                if into.bytes() + chunk.len() as u64 > limit {
                    return Err(Failure::new(
                        403,
                        "the file is larger than the whole package cache",
                    ));
                }
                into.write(&chunk).map_err(|error| Failure::store(&error))?;
            }
            Ok(())
        };
        let whole = tokio::time::timeout(WHOLE, whole).await;
        whole.map_err(|_| Failure::gateway("the file takes too long"))?
    }

    /// A file, as it comes.
    pub(super) async fn through(
        &self,
        index: &Address,
        url: &Url,
        sha256: &str,
        turn: OwnedSemaphorePermit,
    ) -> Result<Through, Failure> {
        let (_, answer) = self.get(index, url.clone(), None, None).await?;
        Ok(Through::new(answer, sha256, WHOLE, turn))
    }

    /// Follows redirects, each to where it may lead.
    async fn get(
        &self,
        index: &Address,
        mut url: Url,
        accept: Option<&str>,
        etag: Option<&str>,
    ) -> Result<(Url, Response), Failure> {
        for _ in 0..=REDIRECTS {
            let client = if index.serves(&url) {
                &self.configured
            } else {
                check_outside(&url, &self.proxies)?;
                &self.elsewhere
            };
            let mut request = client.get(index.signed(url.clone()));
            for (name, value) in [(ACCEPT, accept), (IF_NONE_MATCH, etag)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let answer = tokio::time::timeout(ANSWER, request.send()).await;
            let host = url.host_str().unwrap_or_default();
            let answer = answer
                .map_err(|_| Failure::gateway(format!("{host} does not answer")))?
                .map_err(|error| Failure::gateway(format!("{host}: {}", told(error))))?;
            let status = answer.status();
            if status.is_success() || (status.as_u16() == 304 && etag.is_some()) {
                return Ok((url, answer));
            }
            let target = answer
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            match target.and_then(|target| url.join(target).ok()) {
                Some(next) if status.is_redirection() => url = next,
                _ => return Err(refusal(status.as_u16(), &url)),
            }
        }
        Err(Failure::gateway("the index leads in circles"))
    }
}

/// Of a file's address as it is written; what its name leads to is looked at by [`Outside`].
fn check_outside(url: &Url, proxies: &Proxies) -> Result<(), Failure> {
    let refused = || Failure::new(403, "the index leads to what no sandbox may reach");
    match host(url) {
        Some(Host::Address(address)) if !is_near(address) => Ok(()),
        Some(Host::Name(name)) if proxies.has(name.as_str()) => Err(refused()),
        Some(Host::Name(name)) if !name.is_local() && name.as_str().contains('.') => Ok(()),
        _ => Err(refused()),
    }
}

/// Whom an address names.
pub(super) fn host(url: &Url) -> Option<Host> {
    let text = url.host_str()?;
    let literal = text.trim_start_matches('[').trim_end_matches(']');
    match literal.parse() {
        Ok(address) => Some(Host::Address(address)),
        Err(_) => names::Name::new(text).map(Host::Name),
    }
}

/// pip tries again what is a failure of the server, so nothing else is told as one.
fn refusal(status: u16, url: &Url) -> Failure {
    let told = match status {
        404 | 410 => 404,
        400..=499 if status != 429 => 403,
        _ => 502,
    };
    // No more of the address: a page led to it by a signature, perhaps, or a token in its path.
    let host = url.host_str().unwrap_or_default();
    Failure::new(told, format!("{host} answered {status}"))
}

pub(super) async fn chunk(
    answer: &mut Response,
) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, Failure> {
    let next = tokio::time::timeout(SILENCE, answer.chunk()).await;
    next.map_err(|_| Failure::gateway("the index went silent"))?
        .map_err(|error| Failure::gateway(told(error)))
}

/// With its causes, and without the address, which may hold a password.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_near_the_host_is_asked() {
        for near in [
            "http://127.0.0.1/x",
            "http://127.1/x",
            "http://2130706433/x",
            "http://0/x",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://169.254.169.254/latest",
            "http://10.0.0.1/x",
            "http://100.96.0.1/x",
            "http://[fd00:ec2::254]/x",
            "http://localhost/x",
            "http://metadata.google.internal/x",
            "http://intranet/x",
        ] {
            let url = Url::parse(near).unwrap();
            let none = Proxies(Vec::new());
            assert_eq!(
                check_outside(&url, &none).unwrap_err().status,
                403,
                "{near}"
            );
        }
        let proxies = || Proxies(vec!["proxy.example".into(), "localhost".into()]);
        for (url, status) in [
            ("https://files.example/x", None),
            ("http://Proxy.Example:8080/x", Some(403)),
            ("http://proxy.example./x", Some(403)),
        ] {
            let checked = check_outside(&Url::parse(url).unwrap(), &proxies());
            assert_eq!(checked.err().map(|failure| failure.status), status, "{url}");
        }
        let resolver = Outside(Proxies(Vec::new()));
        assert!(
            resolver
                .resolve("localhost".parse().unwrap())
                .await
                .is_err()
        );
        let resolver = Outside(proxies());
        assert!(resolver.resolve("LocalHost".parse().unwrap()).await.is_ok());
    }

    #[test]
    fn only_failures_of_the_server_are_told_as_such() {
        let url = Url::parse("https://me:hunter2@index.example/simple/x/").unwrap();
        let status = |status| refusal(status, &url).status;
        assert_eq!(
            [401, 403, 404, 410, 429, 500].map(status),
            [403, 403, 404, 404, 502, 502]
        );
        assert!(!refusal(401, &url).why.contains("hunter2"));
    }
}
