//! Pings: echo requests of one program of the sandbox to one address, sent through a socket for them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ledger::{Attempt, Ended};
use super::link::{Link, Socket};
use super::packet::icmp::{self, Echo};
use crate::sys::socket;

/// Replies of one step.
const SHARE: usize = 32;
/// Larger ones are not passed on.
const DATA_MAX: usize = 16 << 10;

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    guest: IpAddr,
    id: u16,
    remote: IpAddr,
    socket: Socket,
    pub attempt: Attempt,
    heard: Instant,
    pub closed: Option<Ended>,
}

impl Flow {
    /// `guest` has the number of the requests as its port.
    pub(super) fn new(
        guest: SocketAddr,
        remote: IpAddr,
        socket: Socket,
        attempt: Attempt,
        now: Instant,
    ) -> Self {
        Self {
            guest: guest.ip(),
            id: guest.port(),
            remote,
            socket,
            attempt,
            heard: now,
            closed: None,
        }
    }

    pub(super) fn request(&mut self, echo: &Echo<'_>, now: Instant) {
        self.heard = now;
        if echo.data.len() <= DATA_MAX
            && socket::send(self.socket.as_fd(), &icmp::request(self.remote, echo)).is_ok()
        {
            self.attempt.up += echo.data.len() as u64;
        }
    }

    /// Something came. Whether there is more than one step's share.
    pub(super) fn host_ready(&mut self, link: &mut Link<'_>) -> bool {
        let mut message = vec![0_u8; DATA_MAX + 8];
        for _ in 0..SHARE {
            let length = match socket::receive(self.socket.as_fd(), &mut message) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Of a router on the way: the ping goes unanswered.
                Err(_) => continue,
            };
            let reply = message
                .get(..length)
                .and_then(|message| icmp::parse_reply(self.remote, message));
            if let Some(reply) = reply {
                self.heard = link.now;
                self.attempt.down += reply.data.len() as u64;
                // The host's kernel has given it a number of its own.
                let echo = Echo {
                    id: self.id,
                    ..reply
                };
                let length = icmp::write_reply(link.frame, self.remote, self.guest, &echo);
                link.write(length);
            }
        }
        true
    }

    pub(super) fn deadline(&self, idle: Duration) -> Instant {
        self.heard + idle
    }
}
