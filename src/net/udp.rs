//! Datagrams between one port of the sandbox and one outside: a socket of the host that talks to nobody else.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ledger::{Attempt, Ended};
use super::link::{Link, Socket};
use super::packet::icmp::{self, Failure};
use super::packet::{self, HEADERS, udp};
use crate::sys::socket;

/// Datagrams of one step.
const SHARE: usize = 32;

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    guest: SocketAddr,
    remote: SocketAddr,
    socket: Socket,
    pub attempt: Attempt,
    heard: Instant,
    /// Whether the host's kernel may cut what it sends.
    cut: bool,
    pub closed: Option<Ended>,
}

impl Flow {
    pub(super) fn new(
        guest: SocketAddr,
        remote: SocketAddr,
        socket: Socket,
        attempt: Attempt,
        now: Instant,
    ) -> Self {
        Self {
            guest,
            remote,
            socket,
            attempt,
            heard: now,
            cut: true,
            closed: None,
        }
    }

    /// The sandbox sent a datagram, which is `packet` as a whole.
    pub(super) fn datagram(
        &mut self,
        data: &[u8],
        whole: bool,
        packet: &[u8],
        link: &mut Link<'_>,
    ) {
        self.heard = link.now;
        if whole && self.cut {
            self.cut = socket::forbid_fragments(self.socket.as_fd(), self.remote).is_err();
        }
        let mut sent = socket::send(self.socket.as_fd(), data);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            // That was about one before.
            self.failed(Failure::Port, link);
            sent = socket::send(self.socket.as_fd(), data);
        }
        match sent {
            Ok(_) => self.attempt.up += data.len() as u64,
            Err(error) => {
                let failure = match error.raw_os_error() {
                    Some(libc::EMSGSIZE) => {
                        let mtu = socket::path_mtu(self.socket.as_fd(), self.remote);
                        Failure::TooBig(mtu.unwrap_or(1280).max(576))
                    }
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => Failure::Unreachable,
                    Some(libc::EPERM | libc::EACCES) => Failure::Prohibited,
                    // No room: lost on the way.
                    _ => return,
                };
                let gateway = super::gateway(self.guest);
                if let Some(length) = icmp::write_failure(link.frame, gateway, packet, failure) {
                    link.write(length);
                }
            }
        }
    }

    /// Something came. Whether there is more than one step's share.
    pub(super) fn host_ready(&mut self, link: &mut Link<'_>) -> bool {
        let at = udp::data_at(self.guest.ip());
        for _ in 0..SHARE {
            let Some(room) = link.frame.get_mut(at..) else {
                return false;
            };
            match socket::receive(self.socket.as_fd(), room) {
                Ok(length) => {
                    self.heard = link.now;
                    self.attempt.down += length as u64;
                    udp::write(link.frame, self.remote, self.guest, length);
                    link.write(at + length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.failed(Failure::Port, link);
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Tells the sandbox what became of one that is no longer at hand.
    fn failed(&mut self, failure: Failure, link: &mut Link<'_>) {
        let mut quoted = [0_u8; HEADERS];
        udp::write(&mut quoted, self.guest, self.remote, 0);
        let length = udp::data_at(self.guest.ip());
        let written = quoted
            .get(..length)
            .and_then(packet::strip)
            .and_then(|packet| icmp::write_failure(link.frame, self.remote.ip(), packet, failure));
        if let Some(length) = written {
            link.write(length);
        }
    }

    pub(super) fn deadline(&self, idle: Duration) -> Instant {
        self.heard + idle
    }
}
