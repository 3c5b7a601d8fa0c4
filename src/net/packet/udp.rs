//! Datagrams (RFC 768).

use std::net::{IpAddr, SocketAddr};

use super::{GSO_NONE, Ip, Reader, UDP, VNET, Vnet, Writer, checksum, ip, narrow};

/// Parses a datagram: its ports and its data.
pub(in crate::net) fn parse<'a>(packet: &Ip<'a>) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
    let mut reader = Reader(packet.payload);
    let (source, target) = (reader.u16()?, reader.u16()?);
    let length = usize::from(reader.u16()?);
    let data = packet.payload.get(8..length)?;
    Some((
        (packet.source, source).into(),
        (packet.target, target).into(),
        data,
    ))
}

/// Where the data begins in its frame.
pub(in crate::net) fn data_at(target: IpAddr) -> usize {
    VNET + ip::header(target) + 8
}

/// Writes the headers of a datagram with `data` bytes after them.
pub(in crate::net) fn write(buffer: &mut [u8], from: SocketAddr, to: SocketAddr, data: usize) {
    let (source, target) = (from.ip(), to.ip());
    let vnet = Vnet {
        gso: GSO_NONE,
        headers: 0,
        segment: 0,
        checksum: Some((ip::header(target), 6)),
    };
    let mut writer = Writer::new(buffer);
    ip::write(&mut writer, &vnet, source, target, UDP, 8 + data);
    writer.u16(from.port());
    writer.u16(to.port());
    writer.u16(narrow(8 + data));
    writer.u16(!checksum::finish(checksum::pseudo(
        source,
        target,
        UDP,
        8 + data,
    )));
}
