//! A device without a kernel behind it, for tests and fuzzing: frames go in and come out by hand, and time passes when told to.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests and fuzz targets are made with it: a panic is how they fail"
)]

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd;

use super::device::Device;
use super::engine::Shared;
use super::gate::{Decision, Peeked, Protocol};
use super::ledger::{Entries, Ledger};
use super::link::Sockets;
use super::packet::{self, PACKET_MAX, VNET};
use super::{GUEST_V4, GUEST_V6, Gate, NetLimits, Settings, dns, hello};

/// The device, and the other end of its wire.
pub(crate) struct Trial {
    shared: Shared,
    device: Device,
    wire: OwnedFd,
    _entries: Entries,
}

impl Trial {
    /// With these rules, and so many sockets of the host at most.
    pub(crate) fn new(rules: &str, sockets: usize) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = SockType::SeqPacket;
        let (wire, tun) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
        let settings = Settings {
            sockets,
            resolv_conf: PathBuf::from("/nonexistent"),
            hosts: PathBuf::from("/nonexistent"),
            ..Settings::default()
        };
        let shared = Shared::new(&settings, Sockets::new(&settings)).unwrap();
        let (ledger, entries) = Ledger::new(100);
        let gate = Gate::new(rules.parse().unwrap(), [].into_iter().collect());
        let device = Device::new(1, tun, gate, NetLimits::default(), ledger, shared.now);
        Self {
            shared,
            device,
            wire,
            _entries: entries,
        }
    }

    /// A packet comes out of the sandbox.
    pub(crate) fn give(&mut self, packet: &[u8]) {
        let frame = [&[0; VNET][..], packet].concat();
        if unistd::write(&self.wire, &frame).is_ok() {
            self.device.event(0);
        }
        self.work();
    }

    /// All that is to be done now, what sockets of the host tell included.
    pub(crate) fn work(&mut self) {
        let tokens: Vec<u32> = self.device.flows.keys().copied().collect();
        tokens
            .into_iter()
            .for_each(|token| self.device.event(token));
        let mut rounds = 0;
        while self.device.round(&mut self.shared) && self.device.paid() <= self.shared.now {
            rounds += 1;
            assert!(rounds < 10_000, "a device that is never done");
        }
    }

    /// Time passes, and timers go off.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.shared.now + time;
        let mut timers = 0;
        while let Some((at, _, token)) = self.shared.timers.first().copied() {
            if at > until {
                break;
            }
            self.shared.timers.remove(&(at, 1, token));
            self.shared.now = self.shared.now.max(at);
            self.device.timer(token, &mut self.shared);
            timers += 1;
            assert!(timers < 10_000, "a timer that never rests");
        }
        self.shared.now = until;
        self.work();
    }

    /// The packets that went into the sandbox; each is one that its kernel takes.
    pub(crate) fn taken(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; PACKET_MAX];
        while let Ok(length) = unistd::read(&self.wire, &mut buffer) {
            let packet = packet::strip(&buffer[..length]).unwrap();
            let ip = packet::parse(packet).unwrap();
            assert!([IpAddr::V4(GUEST_V4), IpAddr::V6(GUEST_V6)].contains(&ip.target));
            assert!(ip.source != ip.target, "{packet:02x?}");
            let header = if ip.target.is_ipv4() { 20 } else { 40 };
            assert_eq!(header + ip.payload.len(), packet.len());
            if ip.protocol == packet::TCP {
                packet::tcp::parse(&ip).unwrap();
            }
            packets.push(packet.to_vec());
        }
        packets
    }

    /// Nothing is left of what was begun.
    pub(crate) fn is_idle(&self) -> bool {
        self.device.flows.is_empty()
            && self.device.keys.is_empty()
            && self.shared.timers.is_empty()
            && self.device.is_unused()
    }
}

/// Gives packets, each behind its length in one byte and a time to wait in another.
pub(crate) fn packets(choice: u8, mut rest: &[u8]) {
    let mut trial = if choice.is_multiple_of(2) {
        Trial::new("allow:45.0.0.0/8,2a00::/16", 0)
    } else {
        Trial::new("allow:45.0.0.1:9", 2)
    };
    let mut given = 0_usize;
    let mut taken = 0;
    while let [length, wait, after @ ..] = rest {
        let length = usize::from(*length).min(after.len());
        let (packet, after) = after.split_at(length);
        given += 1;
        trial.give(packet);
        trial.pass(Duration::from_millis(u64::from(*wait) * u64::from(*wait)));
        taken += trial.taken().len();
        rest = after;
    }
    // Two for each that comes, and what is sent again.
    trial.pass(Duration::from_secs(3 * 60 * 60));
    taken += trial.taken().len();
    assert!(taken <= 32 * (given + 1), "{taken} packets for {given}");
    assert!(trial.is_idle(), "something is left after three hours");
}

/// Reads an answer to a question for `example.com`, and looks at what the sandbox would be told.
pub(crate) fn answer(kind: u8, message: &[u8]) {
    let asked = [
        &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7][..],
        b"example\x03com\0\0",
        &[kind, 0, 1],
    ];
    let question = dns::parse_question(&asked.concat()).unwrap();
    let mut message = message.to_vec();
    // No fuzzer guesses the id.
    if let Some(id) = message.get_mut(..2) {
        id.copy_from_slice(&[0, 7]);
    }
    let Some(answer) = dns::parse_answer(&message, &question, 7) else {
        return;
    };
    let mut gate = Gate::new("internet".parse().unwrap(), [].into_iter().collect());
    let told = answer.filtered(&question, "example.com", &mut gate, Instant::now());
    let written = dns::write_answer(&question, &told, 65_535);
    assert!(written.len() <= 65_535);
    let again = dns::parse_answer(&written, &question, 7).unwrap();
    assert_eq!(dns::write_answer(&question, &again, 65_535), written);
    assert!(dns::write_answer(&question, &told, 512).len() <= 512);
    for (address, _) in again.addressed() {
        assert!(super::ranges::refused(address).is_none(), "{address}");
    }
}

/// Reads the first bytes of a connection at every length. What was decided stays decided, and nothing is let through that does not
/// name what is allowed.
pub(crate) fn first_bytes(data: &[u8]) {
    let data = &data[..data.len().min(4096)];
    let whole = hello::read(data);
    for end in 0..data.len() {
        let part = hello::read(&data[..end]);
        assert!(
            part == hello::Hello::NeedMore || part == whole,
            "{end}: {part:?}"
        );
    }
    let mut gate = Gate::new(
        "allow:example.com".parse().unwrap(),
        [].into_iter().collect(),
    );
    let (now, to) = (Instant::now(), "45.0.0.1:443".parse().unwrap());
    gate.question("example.com", now);
    gate.answer(
        "example.com",
        &[("45.0.0.1".parse().unwrap(), Duration::ZERO)],
        now,
    );
    assert_eq!(gate.open(Protocol::Tcp, to, now), Decision::Peek);
    if let Peeked::Decided(Decision::Allow { name, .. }) = gate.first_bytes(to, data) {
        assert_eq!(name.as_deref(), Some("example.com"));
        // What is said in TLS may be cut into records.
        let said = data.to_ascii_lowercase();
        let names_it = said.windows(11).any(|part| part == b"example.com");
        assert!(names_it || data[0] == 0x16, "{data:02x?}");
    }
}
