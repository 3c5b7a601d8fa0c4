//! The sandbox's network: a translator between its tun device and sockets of the host.
//!
//! Packets of the sandbox end here. Each of its TCP connections and UDP flows becomes a socket of the host's, so that the host's
//! kernel does routing, congestion control and buffering, and the sandbox needs no address, bridge or filter outside.
//! [`Gate`] decides, the engine carries out, [`Ledger`] tells who talked to whom.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

mod budget;
pub mod gate;
mod hello;
mod ledger;
pub mod names;
pub mod ranges;
pub mod rules;

pub use gate::Gate;
pub use ledger::{Connection, Ended, Entries, Ledger, Verdict};

/// The sandbox's address. Shared address space (RFC 6598) is refused as a destination, so this hides none.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 2);
/// The gateway, which is also the resolver.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
/// Of both.
pub const PREFIX_V4: u8 = 30;
/// The sandbox's address. Unique local addresses (RFC 4193) are refused as a destination, so this hides none.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd6c, 0x6973, 0x6e65, 0, 0, 0, 0, 2);
/// The gateway, which is also the resolver.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd6c, 0x6973, 0x6e65, 0, 0, 0, 0, 1);
/// Of both.
pub const PREFIX_V6: u8 = 64;
/// Of the device, unless said otherwise. Segments are larger: the device offloads them.
pub const MTU: u16 = 1500;

/// What holds for all sandboxes of the process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Engine threads; each serves many sandboxes.
    pub threads: usize,
    /// Most sockets of the host that all sandboxes together have open.
    pub sockets: usize,
}

/// What one sandbox may use. `None` means no limit.
#[derive(Debug, Clone)]
pub struct NetLimits {
    /// Of its device.
    pub mtu: u16,
    /// Most TCP connections at once.
    pub tcp_flows: usize,
    /// Most UDP flows, pings and lookups at once.
    pub udp_flows: usize,
    /// Until a connection stands.
    pub connect: Duration,
    /// A TCP connection on which nothing happens for so long is reset.
    pub tcp_idle: Duration,
    /// A UDP flow on which nothing happens for so long is forgotten.
    pub udp_idle: Duration,
    /// Bytes a second, both ways together.
    pub bandwidth: Option<u64>,
    /// Bytes at all, both ways together.
    pub bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
            sockets: 16 << 10,
        }
    }
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            mtu: MTU,
            tcp_flows: 1024,
            udp_flows: 256,
            connect: Duration::from_secs(30),
            tcp_idle: Duration::from_secs(2 * 60 * 60),
            udp_idle: Duration::from_secs(60),
            bandwidth: None,
            bytes: None,
        }
    }
}

/// The engine threads of the process.
#[derive(Debug)]
pub struct Net {}

/// A device that is served; no longer, when dropped.
#[derive(Debug)]
pub struct Attachment {}

impl Net {
    /// Starts the threads.
    ///
    /// # Errors
    /// The host gives no thread or no descriptor.
    pub fn start(_settings: Settings) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Serves a device: `tun` is made with `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR` ([`crate::sys::tun`]).
    /// The sender side of `ledger` goes when the device has been let go: then all entries are there.
    #[must_use]
    pub fn attach(
        &self,
        _tun: OwnedFd,
        _gate: Gate,
        _limits: NetLimits,
        _ledger: Ledger,
    ) -> Attachment {
        Attachment {}
    }
}
