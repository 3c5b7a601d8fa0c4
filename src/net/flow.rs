//! The kinds of flows, and what all of them have.

use std::time::Instant;

use super::ledger::{Connection, Ended};
use super::{NetLimits, dns, echo, tcp, udp};

/// What a flow is.
#[derive(Debug)]
pub(super) enum Flow {
    Tcp(Box<tcp::Flow>),
    Udp(udp::Flow),
    Echo(echo::Flow),
    Lookup(Box<dns::Lookup>),
    /// The resolver's end of a connection to it.
    Resolver(dns::Stream),
}

impl Flow {
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Tcp(flow) => flow.closed().is_some(),
            Self::Udp(flow) => flow.closed.is_some(),
            Self::Echo(flow) => flow.closed.is_some(),
            Self::Lookup(lookup) => lookup.ended.is_some(),
            Self::Resolver(stream) => stream.closed,
        }
    }

    /// When its timer is to go off.
    pub(super) fn deadline(&self, limits: &NetLimits) -> Option<Instant> {
        match self {
            Self::Tcp(flow) => Some(flow.deadline(limits.tcp_idle)),
            Self::Udp(flow) => Some(flow.deadline(limits.udp_idle)),
            Self::Echo(flow) => Some(flow.deadline(limits.udp_idle)),
            Self::Lookup(lookup) => Some(lookup.deadline()),
            // Its connection has one.
            Self::Resolver(_) => None,
        }
    }

    /// What is to be told of it.
    pub(super) fn into_entry(self, now: Instant) -> Option<Connection> {
        let (attempt, ended) = match self {
            Self::Tcp(flow) => return Some(flow.into_entry(now)),
            Self::Udp(flow) => (flow.attempt, flow.closed),
            Self::Echo(flow) => (flow.attempt, flow.closed),
            Self::Lookup(lookup) => (lookup.attempt, lookup.ended),
            Self::Resolver(_) => return None,
        };
        Some(attempt.end(ended.unwrap_or(Ended::Detached), now))
    }
}
