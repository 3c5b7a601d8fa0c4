//! Why data are not to be had from a hub, and what to do.

use std::path::PathBuf;
use std::time::Duration;

/// A data set cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No name.
    #[error("{0:?} is no name of a data set: it has the form org/name")]
    Name(String),
    /// No address.
    #[error("HF_ENDPOINT is no address: {0}")]
    Endpoint(String),
    /// No header can hold it.
    #[error("the token of the hub holds characters that no header can")]
    Token,
    /// No client could be made.
    #[error("set up https")]
    Client(#[source] reqwest::Error),
    /// No connection, or it broke.
    #[error("ask the hub for {url}")]
    Transport {
        /// What.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("ask the hub for {url}: nothing came for {seconds} s")]
    Silent {
        /// What.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// It refused.
    #[error("the hub refused {subject} with status {status}{}", said(.code))]
    Refused {
        /// What was asked for.
        subject: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own word for it.
        code: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
    },
    /// It answered with something else than what its interface says.
    #[error("the answer to {0} is not that of a hub")]
    Garbage(String),
    /// It leads nowhere, or to where no secret and no data should pass.
    #[error("{from} leads to {to}, which is not followed")]
    Redirect {
        /// What was asked for.
        from: String,
        /// The last address.
        to: String,
    },
    /// Larger than allowed.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// What.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// What came is not what the hub has.
    #[error("{url} came with another {what} than the hub says: {got} and not {expected}")]
    Differs {
        /// What.
        url: String,
        /// `size` or `digest`.
        what: &'static str,
        /// As it came.
        got: String,
        /// As the hub says.
        expected: String,
    },
    /// The data set has no such part.
    #[error("{name} has no files of rows for config {config} and split {split}{}", said(.known))]
    NoFiles {
        /// The data set.
        name: String,
        /// Its part.
        config: String,
        /// Its split.
        split: String,
        /// What it has.
        known: String,
    },
    /// Nobody may be asked.
    #[error("{0} is not in the cache, and HF_HUB_OFFLINE is set")]
    Offline(String),
    /// Another process fetches the same for too long.
    #[error("another process has fetched {0} for too long")]
    Locked(PathBuf),
    /// A file of the cache.
    #[error("{action} {path}")]
    Cache {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn said(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

impl HubError {
    pub(super) fn cache(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache {
            action,
            path,
            source,
        }
    }

    /// Nobody was there, which says nothing of the data.
    pub(super) fn is_unreachable(&self) -> bool {
        let broken = matches!(self, Self::Refused { status: 500.., .. });
        broken || matches!(self, Self::Transport { .. } | Self::Silent { .. })
    }

    /// Says what was refused in the person's words.
    pub(super) fn of(mut self, name: &str, revision: &str) -> Self {
        if let Self::Refused { subject, .. } = &mut self {
            *subject = format!("the data set {name} ({revision})");
        }
        self
    }

    /// What mends it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            // The hub answers 401 for what does not exist, too, so that private names are not told apart.
            Self::Refused { status: 401, .. } => {
                "check the name; for one that is private or has conditions set HF_TOKEN to a token that may read it"
            }
            Self::Refused { status: 403, .. } => {
                "its conditions may have to be accepted on its page, by the owner of the token in HF_TOKEN"
            }
            Self::Refused { status: 404, .. } => {
                "check the name and the revision; one that is private needs HF_TOKEN"
            }
            Self::Refused { status: 429, .. } => "wait some minutes; with HF_TOKEN more is allowed",
            Self::Transport { .. } | Self::Silent { .. } | Self::Refused { .. } => {
                "check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT; or name a file of its rows with --data"
            }
            Self::NoFiles { .. } => {
                "name another config or split in config.yaml, or a file of rows with --data"
            }
            Self::Offline(_) => "unset HF_HUB_OFFLINE once, or name a file of rows with --data",
            Self::Differs { .. } => "try again; what came was thrown away",
            Self::Name(_)
            | Self::Endpoint(_)
            | Self::Token
            | Self::Client(_)
            | Self::Garbage(_)
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Locked(_)
            | Self::Cache { .. } => return None,
        })
    }
}
