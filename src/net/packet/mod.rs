//! Packets of the sandbox: parsed without trust, written with the checksums left to its kernel.
//!
//! Each comes and goes with a virtio-net header, so that one packet holds a segment of up to 64 KiB.

mod checksum;
pub(super) mod icmp;
mod ip;
pub(super) mod tcp;
pub(super) mod udp;

pub(super) use ip::{Ip, parse};

/// `struct virtio_net_hdr` of linux/virtio_net.h, in the byte order of the machine.
pub(super) const VNET: usize = 10;
/// Room for all headers of a packet that we write.
pub(super) const HEADERS: usize = VNET + 40 + 60;
/// Room for any packet.
pub(super) const PACKET_MAX: usize = VNET + 65_535 + 40;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// The packet behind its virtio-net header, which says nothing that we need: sizes are in the packet itself.
pub(super) fn strip(frame: &[u8]) -> Option<&[u8]> {
    frame.get(VNET..)
}

/// Where the kernel is to complete a checksum, and into how many segments it may cut.
struct Vnet {
    gso: u8,
    headers: usize,
    segment: u16,
    checksum: Option<(usize, u8)>,
}

impl Vnet {
    fn write(&self, to: &mut Writer<'_>) {
        let (start, offset) = self.checksum.unwrap_or((0, 0));
        let flags = if self.checksum.is_some() {
            NEEDS_CSUM
        } else {
            0
        };
        to.bytes(&[flags, self.gso]);
        to.bytes(&narrow(self.headers).to_ne_bytes());
        to.bytes(&self.segment.to_ne_bytes());
        to.bytes(&narrow(start).to_ne_bytes());
        to.bytes(&u16::from(offset).to_ne_bytes());
    }
}

/// Fills a buffer from its start; what finds no room is left out, and [`Writer::written`] tells.
struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.at..end) {
            room.copy_from_slice(bytes);
        }
        self.at = end;
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }
}

/// A length that a header has 16 bits for; ours are below by construction.
fn narrow(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Takes fields off the front of hostile bytes.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}
