//! Who talked to whom: one entry for each connection, flow and lookup, also for the refused ones.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
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
    entries: Sender<Connection>,
    room: usize,
    counts: Arc<Counts>,
}

/// Where entries come from.
#[derive(Debug)]
pub struct Entries {
    entries: Receiver<Connection>,
    counts: Arc<Counts>,
}

// Not a bounded channel, which takes the memory of all its room at once: 150 kB of each sandbox.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicU64,
    over: AtomicU64,
    spent: AtomicBool,
    held_us: AtomicU64,
}

/// How often limits of a sandbox were met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    /// TCP connections that were refused because there were as many as there may be.
    pub over: u64,
    /// All bytes are used.
    pub spent: bool,
    /// How long packets were held back for want of bandwidth.
    pub held: Duration,
}

impl Ledger {
    /// Room for so many entries that nobody has taken yet.
    #[must_use]
    pub fn new(room: usize) -> (Self, Entries) {
        let (sender, entries) = channel();
        let counts = Arc::<Counts>::default();
        let ledger = Self {
            entries: sender,
            room,
            counts: Arc::clone(&counts),
        };
        (ledger, Entries { entries, counts })
    }

    /// One more entry; counted only, when there is no room.
    pub fn add(&self, entry: Connection) {
        let counts = &self.counts;
        if counts.waiting.fetch_add(1, Ordering::Relaxed) >= self.room {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = self.entries.send(entry);
        }
    }

    /// There were as many connections as there may be.
    pub(super) fn over(&self) {
        self.counts.over.fetch_add(1, Ordering::Relaxed);
    }

    /// All bytes are used.
    pub(super) fn spent(&self) {
        self.counts.spent.store(true, Ordering::Relaxed);
    }

    /// Packets were held back.
    pub(super) fn held(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts.held_us.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Entries {
    /// The next, in the order in which the connections ended; nothing when none comes in time, or when the device has been let go
    /// and all have been taken.
    pub fn next_within(&self, patience: Duration) -> Option<Connection> {
        self.taken(self.entries.recv_timeout(patience).ok())
    }

    /// Those that are there.
    pub fn at_hand(&self) -> impl Iterator<Item = Connection> {
        std::iter::from_fn(|| self.taken(self.entries.try_recv().ok()))
    }

    /// How many found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Which limits were met, from the beginning.
    #[must_use]
    pub fn struck(&self) -> Struck {
        Struck {
            over: self.counts.over.load(Ordering::Relaxed),
            spent: self.counts.spent.load(Ordering::Relaxed),
            held: Duration::from_micros(self.counts.held_us.load(Ordering::Relaxed)),
        }
    }

    fn taken(&self, entry: Option<Connection>) -> Option<Connection> {
        if entry.is_some() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }
}
