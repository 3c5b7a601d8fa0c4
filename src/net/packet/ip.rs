//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Reader, Vnet, Writer, checksum, narrow};

/// Behind one header, options left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Ip<'a> {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    /// It may not be cut on its way. Always so with IPv6.
    pub whole: bool,
    pub payload: &'a [u8],
}

/// Extension headers of IPv6 that may stand before the payload, and how many are looked behind.
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
const EXTENSIONS_MAX: usize = 4;

const HOPS: u8 = 64;

/// Parses a packet; nothing for one that is malformed, or a fragment: a sandbox's own kernel makes none but of datagrams larger
/// than the device takes.
pub(in crate::net) fn parse(packet: &[u8]) -> Option<Ip<'_>> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Ip<'_>> {
    let header_length = usize::from(packet.first()? & 0x0f) * 4;
    let mut reader = Reader(packet);
    reader.take(2)?;
    let total = usize::from(reader.u16()?);
    reader.take(2)?;
    let fragment = reader.u16()?;
    reader.take(1)?;
    let protocol = reader.u8()?;
    reader.take(2)?;
    let (source, target) = (reader.array::<4>()?, reader.array::<4>()?);
    // More fragments, or not the first.
    if header_length < 20 || fragment & 0x3fff != 0 {
        return None;
    }
    Some(Ip {
        source: Ipv4Addr::from(source).into(),
        target: Ipv4Addr::from(target).into(),
        protocol,
        whole: fragment & 0x4000 != 0,
        payload: packet.get(header_length..total)?,
    })
}

fn parse_v6(packet: &[u8]) -> Option<Ip<'_>> {
    let mut reader = Reader(packet);
    reader.take(4)?;
    let length = usize::from(reader.u16()?);
    let mut protocol = reader.u8()?;
    reader.take(1)?;
    let (source, target) = (reader.array::<16>()?, reader.array::<16>()?);
    let mut payload = reader.0.get(..length)?;
    for _ in 0..EXTENSIONS_MAX {
        if !matches!(protocol, HOP_BY_HOP | DESTINATION) {
            break;
        }
        let mut extension = Reader(payload);
        protocol = extension.u8()?;
        let units = usize::from(extension.u8()?);
        payload = payload.get((units + 1) * 8..)?;
    }
    Some(Ip {
        source: Ipv6Addr::from(source).into(),
        target: Ipv6Addr::from(target).into(),
        protocol,
        whole: true,
        payload,
    })
}

/// How large the header of this family is.
pub(super) const fn header(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

/// Writes virtio-net and IP headers for a payload of `length` bytes; both addresses are of one family.
pub(super) fn write(
    to: &mut Writer<'_>,
    vnet: &Vnet,
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    length: usize,
) {
    vnet.write(to);
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut bytes = [0_u8; 20];
            let mut header = Writer::new(&mut bytes);
            header.bytes(&[0x45, 0]);
            header.u16(narrow(20 + length));
            // No identification: what may not be cut needs none (RFC 6864).
            header.u32(0x4000);
            header.bytes(&[HOPS, protocol, 0, 0]);
            header.bytes(&source.octets());
            header.bytes(&target.octets());
            let sum = checksum::finish(checksum::sum(&bytes, 0)).to_be_bytes();
            if let Some(field) = bytes.get_mut(10..12) {
                field.copy_from_slice(&sum);
            }
            to.bytes(&bytes);
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            to.u32(0x6000_0000);
            to.u16(narrow(length));
            to.bytes(&[protocol, HOPS]);
            to.bytes(&source.octets());
            to.bytes(&target.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}
