//! Echo requests and errors of ICMP (RFC 792) and ICMPv6 (RFC 4443).

use std::net::IpAddr;

use super::{GSO_NONE, ICMP, ICMPV6, Ip, Reader, VNET, Vnet, Writer, checksum, ip};

/// An echo request: what it asks to have sent back, behind number and sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Echo<'a> {
    pub id: u16,
    pub sequence: u16,
    pub data: &'a [u8],
}

/// Why a packet goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Failure {
    /// No way to that network or host.
    Unreachable,
    /// Nobody listens there.
    Port,
    /// A rule says so.
    Prohibited,
    /// The path takes no more than this.
    TooBig(u32),
}

/// An error quotes so much of the packet: with that it fits any path (RFC 4443, RFC 1812).
const QUOTED_V6: usize = 1280 - 40 - 8;
const QUOTED_V4: usize = 576 - 20 - 8;

/// Parses an echo request of either family.
pub(in crate::net) fn parse<'a>(packet: &Ip<'a>) -> Option<Echo<'a>> {
    let request = match packet.target {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    parse_kind(packet.payload, request)
}

/// Parses what a socket for echo requests gives: the reply from its own header on.
pub(in crate::net) fn parse_reply(of: IpAddr, message: &[u8]) -> Option<Echo<'_>> {
    let reply = match of {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 129,
    };
    parse_kind(message, reply)
}

fn parse_kind(message: &[u8], kind: u8) -> Option<Echo<'_>> {
    let mut reader = Reader(message);
    if reader.u8()? != kind || reader.u8()? != 0 {
        return None;
    }
    reader.take(2)?;
    Some(Echo {
        id: reader.u16()?,
        sequence: reader.u16()?,
        data: reader.0,
    })
}

/// An echo request as a socket for them takes it: the kernel fills in number and checksum.
pub(in crate::net) fn request(to: IpAddr, echo: &Echo<'_>) -> Vec<u8> {
    let kind = match to {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    message(kind, 0, echo)
}

fn message(kind: u8, id: u16, echo: &Echo<'_>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(echo.sequence.to_be_bytes());
    message.extend(echo.data);
    message
}

/// Writes an echo reply, and tells the length of the frame.
pub(in crate::net) fn write_reply(
    buffer: &mut [u8],
    source: IpAddr,
    target: IpAddr,
    echo: &Echo<'_>,
) -> usize {
    let kind = match target {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 129,
    };
    write(buffer, source, target, message(kind, echo.id, echo))
}

/// Writes an error about a packet of the sandbox, as from `source`, and tells the length of the frame.
pub(in crate::net) fn write_failure(
    buffer: &mut [u8],
    source: IpAddr,
    packet: &[u8],
    failure: Failure,
) -> Option<usize> {
    let target = ip::parse(packet)?.source;
    let v4 = target.is_ipv4();
    let (kind, code, value) = match (failure, v4) {
        (Failure::Unreachable, true) => (3, 1, 0),
        (Failure::Unreachable, false) => (1, 0, 0),
        (Failure::Port, true) => (3, 3, 0),
        (Failure::Port, false) => (1, 4, 0),
        (Failure::Prohibited, true) => (3, 13, 0),
        (Failure::Prohibited, false) => (1, 1, 0),
        (Failure::TooBig(mtu), true) => (3, 4, mtu.min(0xffff)),
        (Failure::TooBig(mtu), false) => (2, 0, mtu),
    };
    let most = if v4 { QUOTED_V4 } else { QUOTED_V6 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(value.to_be_bytes());
    message.extend(packet.get(..most).unwrap_or(packet));
    Some(write(buffer, source, target, message))
}

fn write(buffer: &mut [u8], source: IpAddr, target: IpAddr, mut message: Vec<u8>) -> usize {
    let (protocol, start) = match target {
        IpAddr::V4(_) => (ICMP, 0),
        IpAddr::V6(_) => (
            ICMPV6,
            checksum::pseudo(source, target, ICMPV6, message.len()),
        ),
    };
    let sum = checksum::finish(checksum::sum(&message, start));
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let vnet = Vnet {
        gso: GSO_NONE,
        headers: 0,
        segment: 0,
        checksum: None,
    };
    let mut to = Writer::new(buffer);
    ip::write(&mut to, &vnet, source, target, protocol, message.len());
    to.bytes(&message);
    VNET + ip::header(target) + message.len()
}
