//! Who talked to whom: one entry for each connection, flow and lookup, also for the refused ones.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::gate::{Decision, Protocol};

/// An entry, made when the connection has ended.
#[derive(Debug, Clone)]
pub struct Connection {
    /// When it was asked for.
    pub started: Instant,
    /// From then to its end.
    pub lasted: Duration,
    /// How it was asked for.
    pub protocol: Protocol,
    /// The name that was looked up, or sent in its first bytes; of a lookup, the one that was asked for.
    pub name: Option<Arc<str>>,
    /// Where it went; of a lookup, the resolver's.
    pub address: IpAddr,
    /// There; nothing of a ping.
    pub port: u16,
    /// Bytes that left the sandbox, without headers.
    pub up: u64,
    /// Bytes that came in.
    pub down: u64,
    /// Whether it was let through.
    pub verdict: Verdict,
    /// The rule that said so.
    pub rule: Arc<str>,
    /// How it ended.
    pub ended: Ended,
    /// Of what the package cache was asked for: whether it had it.
    pub cache_hit: Option<bool>,
}

/// Whether a connection was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// By the gate.
    Allowed,
    /// Refused by the gate.
    Denied,
    /// Refused because a limit of the sandbox, or of the host, was reached.
    Limited,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides were done; a flow was forgotten; a lookup was answered.
    Done,
    /// It was never begun: denied, or over a limit.
    NotBegun,
    /// A limit was reached.
    Limited,
    /// The other side refused.
    Refused,
    /// No way there, or none that was known.
    Unreachable,
    /// No answer in time, or nothing happened for too long.
    TimedOut,
    /// The sandbox broke it off.
    ResetInside,
    /// The other side broke it off.
    ResetOutside,
    /// The sandbox went away.
    Detached,
}

/// An entry in the making.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub started: Instant,
    pub protocol: Protocol,
    pub to: SocketAddr,
    pub name: Option<Arc<str>>,
    pub verdict: Verdict,
    pub rule: Arc<str>,
    pub up: u64,
    pub down: u64,
}

impl Attempt {
    pub(super) fn new(
        protocol: Protocol,
        to: SocketAddr,
        decision: &Decision,
        now: Instant,
    ) -> Self {
        let mut attempt = Self {
            started: now,
            protocol,
            to,
            name: None,
            verdict: Verdict::Allowed,
            rule: Arc::from(""),
            up: 0,
            down: 0,
        };
        attempt.decided(decision);
        attempt
    }

    /// Takes over what was decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        let (name, rule, verdict) = match decision {
            Decision::Allow { name, rule } => (name, rule, Verdict::Allowed),
            Decision::Deny { name, rule } => (name, rule, Verdict::Denied),
            Decision::Peek => return,
        };
        self.name.clone_from(name);
        self.rule = Arc::clone(rule);
        self.verdict = verdict;
    }

    pub(super) fn end(self, ended: Ended, now: Instant) -> Connection {
        Connection {
            started: self.started,
            lasted: now.saturating_duration_since(self.started),
            protocol: self.protocol,
            name: self.name,
            address: self.to.ip(),
            port: self.to.port(),
            up: self.up,
            down: self.down,
            verdict: self.verdict,
            rule: self.rule,
            ended,
            cache_hit: None,
        }
    }
}

/// Where entries go; never waits.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: SyncSender<Connection>,
    dropped: Arc<AtomicU64>,
}

/// Where entries come from; disconnected when the device has been let go.
#[derive(Debug)]
pub struct Entries {
    /// In the order in which the connections ended.
    pub entries: Receiver<Connection>,
    dropped: Arc<AtomicU64>,
}

impl Ledger {
    /// Room for so many entries that nobody has taken yet.
    #[must_use]
    pub fn new(room: usize) -> (Self, Entries) {
        let (sender, entries) = sync_channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        let ledger = Self {
            entries: sender,
            dropped: Arc::clone(&dropped),
        };
        (ledger, Entries { entries, dropped })
    }

    /// One more entry; counted only, when there is no room.
    pub fn add(&self, entry: Connection) {
        if self.entries.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Entries {
    /// How many found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
