//! Data sets of a hub, by name: a revision is resolved to a commit, the files of a split are fetched once, and kept by their content.
//!
//! The token goes to the hub's own address and nowhere else: a redirect to another one is followed without it. What is in the cache
//! needs no hub.

mod cache;
mod client;
mod error;
mod select;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use cache::Cache;
use client::Client;
pub use error::HubError;

use crate::llm::Secret;

/// Where data sets are unless `HF_ENDPOINT` says otherwise.
pub const ENDPOINT: &str = "https://huggingface.co";
/// The branch that is meant when none is named.
const MAIN: &str = "main";
/// The branch that holds a hub's own conversion of every data set to Parquet.
const CONVERTED: &str = "refs/convert/parquet";
/// Most files of one split.
const MAX_FILES: usize = 1000;

/// Which rows are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSet {
    /// `org/name`.
    pub name: String,
    /// Part of it, if it has several.
    pub config: Option<String>,
    /// `test`, or else `train`, unless it is named.
    pub split: Option<String>,
    /// Branch, tag or commit; `main` unless it is named.
    pub revision: Option<String>,
}

/// What was fetched, and what names it for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// What was asked for.
    pub data_set: DataSet,
    /// The commit that holds the files.
    pub commit: String,
    /// Their names there.
    pub names: Vec<String>,
    /// Where they lie, each under the digest of its content.
    pub files: Vec<PathBuf>,
}

/// How to reach a hub.
#[derive(Debug, Clone)]
pub struct Access {
    /// Its address.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<Secret>,
    /// Where what was fetched is kept.
    pub cache: PathBuf,
    /// Ask nobody: what is not in the cache is not to be had.
    pub offline: bool,
}

/// A hub, and what was fetched from it before.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    cache: Cache,
    offline: bool,
}

/// What a hub says of one revision.
#[derive(Debug)]
struct Revision {
    commit: String,
    files: Vec<String>,
    /// `configs` in the card of the data set: which files belong to which split.
    configs: Value,
}

impl Hub {
    /// Prepares; connects nowhere.
    ///
    /// # Errors
    /// [`HubError`] when the address or the token cannot be used.
    pub fn new(access: Access) -> Result<Self, HubError> {
        Ok(Self {
            client: Client::new(&access.endpoint, access.token)?,
            cache: Cache::new(access.cache),
            offline: access.offline,
        })
    }

    /// The files that hold the rows; `tell` hears what a person may want to know.
    ///
    /// # Errors
    /// [`HubError`] when they are neither to be had from the hub nor in the cache.
    pub async fn fetch(
        &self,
        wanted: &DataSet,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Fetched, HubError> {
        check_name(&wanted.name)?;
        let name = &wanted.name;
        let revision = wanted.revision.as_deref().unwrap_or(MAIN);
        let mut found = self.revision(name, revision, tell).await?;
        let mut chosen = select::files(
            &found.files,
            &found.configs,
            wanted.config.as_deref(),
            wanted.split.as_deref(),
        );
        // The conversion follows the main branch: it says nothing of another revision.
        if chosen.is_empty()
            && wanted.revision.is_none()
            && let Ok(converted) = self.revision(name, CONVERTED, tell).await
        {
            let (config, split) = (wanted.config.as_deref(), wanted.split.as_deref());
            chosen = select::converted(&converted.files, config, split);
            found = if chosen.is_empty() { found } else { converted };
        }
        if chosen.is_empty() || chosen.len() > MAX_FILES {
            return Err(HubError::NoFiles {
                name: name.clone(),
                config: wanted.config.clone().unwrap_or_else(|| "default".into()),
                split: wanted
                    .split
                    .clone()
                    .unwrap_or_else(|| "test or train".into()),
                known: select::known(&found.files, &found.configs),
            });
        }
        let mut files = Vec::new();
        for (at, path) in chosen.iter().enumerate() {
            let place = format!("file {} of {} of {name}", at + 1, chosen.len());
            files.push(self.file(name, &found.commit, path, &place, tell).await?);
        }
        Ok(Fetched {
            data_set: wanted.clone(),
            commit: found.commit,
            names: chosen,
            files,
        })
    }

    /// What the hub says of a revision, or what it said the last time when it cannot be reached. A commit never changes.
    async fn revision(
        &self,
        name: &str,
        revision: &str,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Revision, HubError> {
        let url = self
            .client
            .address(&["api", "datasets"], name, &["revision", revision]);
        let known = self.cache.answer(&url);
        let text = match known {
            Some(known) if is_commit(revision) || self.offline => known,
            None if self.offline => return Err(HubError::Offline(name.to_owned())),
            known => match (self.client.text(&url).await, known) {
                (Ok(text), _) => {
                    // A captive portal's page takes the place of nothing.
                    if parse(&text).is_some() {
                        self.cache.keep_answer(&url, &text)?;
                    }
                    text
                }
                (Err(error), Some(known)) if error.is_unreachable() => {
                    tell(&format!(
                        "the hub cannot be reached; {name} is taken as it was when it could"
                    ));
                    known
                }
                (Err(error), _) => return Err(error.of(name, revision)),
            },
        };
        let found = parse(&text).ok_or_else(|| HubError::Garbage(url.to_string()))?;
        // So that the commit is found again without the name that led to it.
        let rest = ["revision", &found.commit];
        let pinned = self.client.address(&["api", "datasets"], name, &rest);
        self.cache.keep_answer(&pinned, &text)?;
        Ok(found)
    }

    async fn file(
        &self,
        name: &str,
        commit: &str,
        path: &str,
        place: &str,
        tell: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, HubError> {
        let mut parts = vec!["resolve", commit];
        parts.extend(path.split('/'));
        let url = self.client.address(&["datasets"], name, &parts);
        if let Some(file) = self.cache.file(&url) {
            return Ok(file);
        }
        if self.offline {
            return Err(HubError::Offline(name.to_owned()));
        }
        tell(&format!("fetching {place}: {path}"));
        let part = self.cache.part(&url).await?;
        // Another process may have fetched it while this one waited.
        if let Some(file) = self.cache.file(&url) {
            return Ok(file);
        }
        let fetched = self.client.download(&url, &part).await;
        fetched.map_err(|error| error.of(name, commit))?;
        self.cache.keep(&url, part, path).await
    }
}

/// Names lead into addresses and files.
fn check_name(name: &str) -> Result<(), HubError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 && name.len() <= 200 && parts.iter().all(|name| part(name)) {
        return Ok(());
    }
    Err(HubError::Name(name.to_owned()))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse(text: &str) -> Option<Revision> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let commit = answer.get("sha")?.as_str()?.to_owned();
    let files = answer.get("siblings")?.as_array()?.iter();
    let files = files.filter_map(|file| file.get("rfilename")?.as_str());
    let safe = |path: &&str| {
        path.len() <= 1000 && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
    };
    let configs = answer.get("cardData").and_then(|card| card.get("configs"));
    is_commit(&commit).then(|| Revision {
        commit,
        files: files.filter(safe).map(str::to_owned).collect(),
        configs: configs.cloned().unwrap_or_default(),
    })
}
