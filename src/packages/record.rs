//! What the record gets of the package cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::gate::Protocol;
use crate::net::{Connection, Ended, GATEWAY_V4, Ledger, SERVICE_PORT, Verdict};

/// The entry of one request, also of one that is broken off, and of a connection over which none came.
pub(super) struct Record<'a> {
    ledger: &'a Ledger,
    pub entry: Connection,
}

impl<'a> Record<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let entry = Connection {
            started: Instant::now(),
            lasted: Duration::ZERO,
            protocol: Protocol::Tcp,
            name: None,
            address: GATEWAY_V4.into(),
            port: SERVICE_PORT,
            up: 0,
            down: 0,
            verdict: Verdict::Denied,
            rule: Arc::from("package cache, no request for a package"),
            ended: Ended::Detached,
            cache_hit: None,
        };
        Self { ledger, entry }
    }

    /// Of a connection for which there is no room.
    pub(super) fn over(ledger: &'a Ledger) {
        let mut record = Self::new(ledger);
        record.entry.verdict = Verdict::Limited;
        record.entry.rule = Arc::from("package cache, too many connections at once");
        record.entry.ended = Ended::NotBegun;
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.entry.lasted = self.entry.started.elapsed();
        self.ledger.add(self.entry.clone());
    }
}
