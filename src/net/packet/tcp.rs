//! TCP segments (RFC 9293), with the options of a handshake.

use std::net::{IpAddr, SocketAddr};

use super::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, Ip, Reader, TCP, VNET, Vnet, Writer, checksum, ip};

pub(in crate::net) const FIN: u8 = 0x01;
pub(in crate::net) const SYN: u8 = 0x02;
pub(in crate::net) const RST: u8 = 0x04;
pub(in crate::net) const PSH: u8 = 0x08;
pub(in crate::net) const ACK: u8 = 0x10;

/// Options that both sides may offer in a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::net) struct Options {
    pub max_segment: Option<u16>,
    pub window_shift: Option<u8>,
    /// It understands which later parts have come (RFC 2018).
    pub selective: bool,
}

/// From, and up to but without.
pub(in crate::net) type Ranges = [Option<(u32, u32)>; 4];

/// A segment without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// As in the header, not yet scaled.
    pub window: u16,
    pub options: Options,
    /// Later parts that have come.
    pub ranges: Ranges,
}

impl Segment {
    pub(in crate::net) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Parses a segment and its data.
pub(in crate::net) fn parse<'a>(packet: &Ip<'a>) -> Option<(Segment, &'a [u8])> {
    let mut reader = Reader(packet.payload);
    let (source, target) = (reader.u16()?, reader.u16()?);
    let (sequence, acknowledged) = (reader.u32()?, reader.u32()?);
    let length = usize::from(reader.u8()? >> 4) * 4;
    let flags = reader.u8()?;
    let window = reader.u16()?;
    let options = packet.payload.get(20..length)?;
    let segment = Segment {
        from: (packet.source, source).into(),
        to: (packet.target, target).into(),
        sequence,
        acknowledged,
        flags,
        window,
        options: if flags & SYN != 0 {
            parse_options(options)
        } else {
            Options::default()
        },
        ranges: [None; 4],
    };
    Some((segment, packet.payload.get(length..)?))
}

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MAX_SEGMENT: u8 = 2;
const OPTION_WINDOW_SHIFT: u8 = 3;
const OPTION_SELECTIVE: u8 = 4;
const OPTION_RANGES: u8 = 5;
/// Most bytes of options.
const OPTIONS_MAX: usize = 40;

fn parse_options(bytes: &[u8]) -> Options {
    let mut options = Options::default();
    let mut reader = Reader(bytes);
    while let Some(kind) = reader.u8() {
        match kind {
            OPTION_END => break,
            OPTION_NOTHING => continue,
            _ => {}
        }
        let Some(value) = reader
            .u8()
            .and_then(|length| reader.take(usize::from(length).checked_sub(2)?))
        else {
            break;
        };
        match (kind, value) {
            (OPTION_MAX_SEGMENT, [high, low]) => {
                options.max_segment = Some(u16::from_be_bytes([*high, *low]));
            }
            // RFC 7323: more is taken as 14.
            (OPTION_SELECTIVE, []) => options.selective = true,
            (OPTION_WINDOW_SHIFT, [shift]) => options.window_shift = Some((*shift).min(14)),
            _ => {}
        }
    }
    options
}

/// Where the data of a segment without options begins in its frame.
pub(in crate::net) fn data_at(target: IpAddr) -> usize {
    VNET + ip::header(target) + 20
}

/// Writes the headers of a segment with `data` bytes after them, and tells their length. The receiver may cut it into segments of
/// `max_segment`.
pub(in crate::net) fn write(
    buffer: &mut [u8],
    segment: &Segment,
    data: usize,
    max_segment: u16,
) -> usize {
    let mut options = [0_u8; OPTIONS_MAX];
    let mut writer = Writer::new(&mut options);
    if let Some(size) = segment.options.max_segment {
        writer.bytes(&[OPTION_MAX_SEGMENT, 4]);
        writer.u16(size);
    }
    if let Some(shift) = segment.options.window_shift {
        writer.bytes(&[OPTION_NOTHING, OPTION_WINDOW_SHIFT, 3, shift]);
    }
    if segment.options.selective {
        writer.bytes(&[OPTION_NOTHING, OPTION_NOTHING, OPTION_SELECTIVE, 2]);
    }
    let ranges = segment.ranges.iter().flatten();
    let size = u8::try_from(2 + 8 * ranges.clone().count()).unwrap_or(2);
    if size > 2 {
        writer.bytes(&[OPTION_NOTHING, OPTION_NOTHING, OPTION_RANGES, size]);
    }
    for (from, to) in ranges {
        writer.u32(*from);
        writer.u32(*to);
    }
    let options_length = writer.at;
    let (source, target) = (segment.from.ip(), segment.to.ip());
    let (ip_header, header) = (ip::header(target), 20 + options_length);
    let gso = match target {
        _ if data <= usize::from(max_segment) => GSO_NONE,
        IpAddr::V4(_) => GSO_TCPV4,
        IpAddr::V6(_) => GSO_TCPV6,
    };
    let vnet = Vnet {
        gso,
        headers: ip_header + header,
        segment: if gso == GSO_NONE { 0 } else { max_segment },
        checksum: Some((ip_header, 16)),
    };
    let mut to = Writer::new(buffer);
    ip::write(&mut to, &vnet, source, target, TCP, header + data);
    to.u16(segment.from.port());
    to.u16(segment.to.port());
    to.u32(segment.sequence);
    to.u32(segment.acknowledged);
    to.bytes(&[u8::try_from(header / 4).unwrap_or(5) << 4, segment.flags]);
    to.u16(segment.window);
    // The pseudo header's part; the kernel adds the rest when it must.
    to.u16(!checksum::finish(checksum::pseudo(
        source,
        target,
        TCP,
        header + data,
    )));
    to.u16(0);
    to.bytes(options.get(..options_length).unwrap_or_default());
    to.at
}
