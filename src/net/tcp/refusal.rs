//! Answers to segments that lead to no connection.

use super::early::RANGES;
use super::write;
use crate::net::link::Link;
use crate::net::packet::icmp::{self, Failure};
use crate::net::packet::tcp::{self, ACK, Options, RST, SYN, Segment};
use crate::net::packet::{self, HEADERS};

/// Refuses a segment that belongs to no connection (RFC 9293, 3.10.7.1).
pub(in crate::net) fn refuse(segment: &Segment, data: usize, link: &mut Link<'_>) {
    if segment.has(RST) {
        return;
    }
    let length = u32::try_from(data).unwrap_or(0)
        + u32::from(segment.has(SYN))
        + u32::from(segment.has(tcp::FIN));
    let (sequence, flags) = if segment.has(ACK) {
        (segment.acknowledged, RST)
    } else {
        (0, RST | ACK)
    };
    let answer = Segment {
        from: segment.to,
        to: segment.from,
        sequence,
        acknowledged: segment.sequence.wrapping_add(length),
        flags,
        window: 0,
        options: Options::default(),
        ranges: [None; RANGES],
    };
    write(&answer, link);
}

/// Refuses a SYN with an error that says why.
pub(in crate::net) fn write_failure(syn: &Segment, failure: Failure, link: &mut Link<'_>) {
    let mut quoted = [0_u8; HEADERS];
    let length = tcp::write(&mut quoted, syn, 0, u16::MAX);
    let gateway = crate::net::gateway(syn.from);
    let written = quoted
        .get(..length)
        .and_then(packet::strip)
        .and_then(|packet| icmp::write_failure(link.frame, gateway, packet, failure));
    if let Some(length) = written {
        link.write(length);
    }
    // The sandbox's kernel takes no note of an error that comes while the caller is still in connect(2), and would ask again a
    // second later (Linux, tcp_v4_err: sock_owned_by_user). A reset waits for it, and finds nobody when the error was noted.
    refuse(syn, 0, link);
}
