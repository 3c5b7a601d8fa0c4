//! Policy: may this connection be made, may this name be looked up. Pure: no I/O.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a connection is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A flow of datagrams between two ports.
    Udp,
    /// Echo requests.
    Icmp,
    /// A name that is looked up.
    Dns,
}

/// What is to be done with a connection or a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is made.
    Allow {
        /// The name for which it is.
        name: Option<Arc<str>>,
        /// The rule that says so, for the record.
        rule: Arc<str>,
    },
    /// It is refused.
    Deny {
        /// The name for which it is.
        name: Option<Arc<str>>,
        /// The rule that says so, for the record.
        rule: Arc<str>,
    },
    /// Of TCP only: the first bytes decide, see [`Gate::first_bytes`]. Nothing is connected before.
    Peek,
}

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// Never [`Decision::Peek`].
    Decided(Decision),
    /// Ask again with more of them. The engine asks at most [`PEEK_MAX`] bytes, then denies.
    NeedMore,
}

/// As many first bytes are shown at most: a `ClientHello` with keys against quantum computers has 2 KiB.
pub const PEEK_MAX: usize = 16 << 10;

/// What is allowed and denied.
#[derive(Debug, Clone, Default)]
pub struct Rules {}

/// The host's own addresses.
#[derive(Debug, Clone, Default)]
pub struct HostAddresses {}

/// The policy of one sandbox.
#[derive(Debug)]
pub struct Gate {}

impl Gate {
    /// Of one sandbox.
    #[must_use]
    pub fn new(_rules: Rules, _own: HostAddresses) -> Self {
        Self {}
    }

    /// Whether a connection may be made.
    pub fn open(&mut self, _protocol: Protocol, _to: SocketAddr, _now: Instant) -> Decision {
        allow()
    }

    /// Whether a connection may be made whose first bytes are these.
    pub fn first_bytes(&mut self, _to: SocketAddr, _bytes: &[u8]) -> Peeked {
        Peeked::Decided(allow())
    }

    /// Whether a name (lower case, without the final dot) may be looked up.
    pub fn question(&mut self, _name: &str, _now: Instant) -> Decision {
        allow()
    }

    /// The addresses that the sandbox may be told of those that an answer holds.
    pub fn answer(
        &mut self,
        _name: &str,
        addresses: &[(IpAddr, Duration)],
        _now: Instant,
    ) -> Vec<IpAddr> {
        addresses.iter().map(|(address, _)| *address).collect()
    }
}

fn allow() -> Decision {
    Decision::Allow {
        name: None,
        rule: Arc::from("all"),
    }
}
