//! The sandbox's network: a translator between its tun device and sockets of the host.
//!
//! Packets of the sandbox end here. Each of its TCP connections and UDP flows becomes a socket of the host's, so that the host's
//! kernel does routing, congestion control and buffering, and the sandbox needs no address, bridge or filter outside.
//! [`Gate`] decides, the engine carries out, [`Ledger`] tells who talked to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

mod budget;
mod device;
mod dispatch;
mod dns;
mod echo;
mod engine;
mod flow;
pub mod gate;
mod hello;
mod ledger;
mod link;
mod lookups;
pub mod names;
mod packet;
pub mod ranges;
pub mod rules;
mod service;
mod tcp;
#[cfg(any(test, fuzzing))]
pub(crate) mod trial;
mod udp;

pub use engine::{Attachment, Net};
pub use gate::Gate;
pub use ledger::{Connection, Ended, Entries, Ledger, Struck, Verdict};
pub use service::{Call, SERVICE_PORT, Service};

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
    /// Have the kernel remember how far a socket was read, where it can. Without, as before Linux 6.9, all before is copied, too.
    pub peek_offset: bool,
    /// Whether the kernel's buffers are bounded for connections behind the first. Without, each has what the kernel gives: so tests
    /// see what that would be.
    pub bound_buffers: bool,
    /// Whether sandboxes take turns. Without, one that is busy keeps its thread: so tests see what turns are for.
    pub turns: bool,
    /// Where the host's resolvers are named: resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Where it names other hosts itself: hosts(5).
    pub hosts: PathBuf,
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
            peek_offset: true,
            bound_buffers: true,
            turns: true,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
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

/// The gateway of an address's family.
fn gateway(of: SocketAddr) -> IpAddr {
    match of {
        SocketAddr::V4(_) => GATEWAY_V4.into(),
        SocketAddr::V6(_) => GATEWAY_V6.into(),
    }
}
