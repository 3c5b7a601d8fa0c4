//! A cache of Python packages in the host's process, for all of its sandboxes.
//!
//! Each sandbox asks its own gateway ([`crate::net::SERVICE_PORT`]), which hands the connection over here. What is asked is hostile:
//! only the page of a project, and files that such a page names with a SHA-256, are ever fetched, with the host's certificates,
//! proxies and passwords, of which nothing goes inside. Files are kept by that digest and served when they have it.

mod address;
mod flights;
mod http;
mod page;
mod record;
mod requests;
mod store;
mod through;
#[cfg(any(test, fuzzing))]
pub(crate) mod trial;
mod upstream;

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tokio::task::JoinSet;

pub use address::{Address, BadAddress};
pub use store::{Store, Swept};

use crate::net::rules::Rules;
use crate::net::{Call, GATEWAY_V4, Ledger, SERVICE_PORT, Service};
use record::Record;
use requests::Desk;

/// Bytes that the files of a cache may have.
pub const MAX_BYTES: u64 = 8 << 30;
/// Connections of one sandbox that are served at once: uv opens fifty.
const CALLS: usize = 64;
/// Requests of one sandbox that wait for an index at once.
const WAITING: usize = 8;

/// Whether there is a cache, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// None.
    #[default]
    Off,
    /// In the state directory.
    On,
    /// In this directory.
    At(PathBuf),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            path if path.starts_with(['/', '.']) => Ok(Self::At(path.into())),
            _ => Err(format!(
                "{text} is not `on`, `off` or the path of a directory, which begins with / or ."
            )),
        }
    }
}

impl std::fmt::Display for Choice {
    /// As it is read from anywhere.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On => f.write_str("on"),
            Self::At(path) => {
                let absolute = std::path::absolute(path);
                write!(f, "{}", absolute.as_ref().unwrap_or(path).display())
            }
        }
    }
}

impl Choice {
    /// The directory, given that of the state.
    #[must_use]
    pub fn directory(&self, state: &Path) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::On => Some(state.join("packages")),
            Self::At(path) => std::path::absolute(path).ok(),
        }
    }
}

/// Where a cache is, and what is behind it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its files.
    pub directory: PathBuf,
    /// The indexes, in the order of [`index_address`].
    pub indexes: Vec<Address>,
    /// The proxy that pip alone is configured to use.
    pub proxy: Option<Address>,
}

/// What a sandbox is to use instead of the index of that number.
#[must_use]
pub fn index_address(number: usize) -> String {
    format!("http://{GATEWAY_V4}:{SERVICE_PORT}/{number}/simple/")
}

/// The host that [`index_address`] names.
#[must_use]
pub fn host() -> String {
    GATEWAY_V4.to_string()
}

/// A cache. Its thread starts with the first sandbox that uses it, and ends with this and the last of them.
#[derive(Debug)]
pub struct Cache {
    settings: Settings,
    guests: Mutex<Option<UnboundedSender<Guest>>>,
}

/// A sandbox that uses it.
#[derive(Debug)]
struct Guest {
    calls: Receiver<Call>,
    /// What the index is asked for on its behalf is allowed by these.
    rules: Rules,
    ledger: Ledger,
}

/// The sandbox's end.
#[derive(Debug)]
struct Door {
    calls: Sender<Call>,
    ledger: Ledger,
    /// The thread lives as long as somebody can write to it.
    _thread: UnboundedSender<Guest>,
}

impl Service for Door {
    fn accept(&self, call: Call) {
        // Nobody is there any more, or too many wait: the connection ends.
        if self.calls.try_send(call).is_err() {
            Record::over(&self.ledger);
        }
    }
}

impl Cache {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            guests: Mutex::new(None),
        }
    }

    /// What the gateway of a sandbox is to serve. What is asked for goes into the ledger.
    ///
    /// # Errors
    /// The directory cannot be used, or the host gives no thread.
    pub fn service(&self, rules: Rules, ledger: Ledger) -> io::Result<Box<dyn Service>> {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = match &*guests {
            Some(mailbox) => mailbox.clone(),
            None => guests.insert(start(&self.settings)?).clone(),
        };
        let (door, calls) = channel(CALLS);
        let guest = Guest {
            calls,
            rules,
            ledger: ledger.clone(),
        };
        let _ = mailbox.send(guest);
        Ok(Box::new(Door {
            calls: door,
            ledger,
            _thread: mailbox,
        }))
    }
}

/// A thread of its own: neither a flood of requests nor a slow disk holds the agents up.
fn start(settings: &Settings) -> io::Result<UnboundedSender<Guest>> {
    let store = Store::open(&settings.directory, MAX_BYTES)?;
    // What dead processes left.
    store.sweep()?;
    let desk = Desk::new(store, settings).map_err(io::Error::other)?;
    let desk = Arc::new(desk);
    let (mailbox, mut guests) = unbounded_channel::<Guest>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new().name("packages".to_owned());
    thread.spawn(move || {
        runtime.block_on(async {
            while let Some(guest) = guests.recv().await {
                tokio::spawn(attend(Arc::clone(&desk), guest));
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(mailbox)
}

/// Serves a sandbox until its device goes; then nothing of it is left.
async fn attend(desk: Arc<Desk>, mut guest: Guest) {
    let mut calls = JoinSet::new();
    let waiting = Arc::new(Semaphore::new(WAITING));
    let rules = Arc::new(guest.rules);
    loop {
        tokio::select! {
            call = guest.calls.recv() => {
                let Some(call) = call else { break };
                if calls.len() >= CALLS {
                    Record::over(&guest.ledger);
                } else {
                    let visitor = requests::Visitor {
                        rules: Arc::clone(&rules),
                        ledger: guest.ledger.clone(),
                        waiting: Arc::clone(&waiting),
                    };
                    calls.spawn(answer(Arc::clone(&desk), visitor, call));
                }
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn answer(desk: Arc<Desk>, visitor: requests::Visitor, call: Call) {
    let Call { stream, counted } = call;
    if let Ok(stream) = UnixStream::from_std(StdUnixStream::from(stream)) {
        // A connection that breaks is the sandbox's own affair.
        let _ = desk.serve(stream, &visitor).await;
    }
    drop(counted);
}
