//! Who talked to whom.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A connection, a flow of datagrams or a lookup of a sandbox, also one that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// When it was asked for.
    #[serde(skip)]
    pub started: Option<Instant>,
    /// The same, in microseconds since the sandbox began.
    pub started_us: u64,
    /// From then to its end.
    pub lasted_us: u64,
    /// `tcp`, `udp`, `icmp` or `dns`.
    pub protocol: String,
    /// The name that was looked up or sent; of a lookup, the one that was asked for.
    pub name: Option<String>,
    /// Where it went.
    pub address: IpAddr,
    /// There.
    pub port: u16,
    /// Bytes that left the sandbox.
    pub up: u64,
    /// Bytes that came in.
    pub down: u64,
    /// `allowed`, `denied`, or `limited` where a limit was reached.
    pub verdict: String,
    /// The rule that said so.
    pub rule: String,
    /// How it ended.
    pub ended: String,
    /// `hit` or `miss`, of what the package cache was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

/// Connections that were not told before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// In the order of their ends.
    pub listed: Vec<Connection>,
    /// How many more there were.
    pub omitted: u64,
}

impl Connections {
    /// There was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.omitted == 0
    }
}
