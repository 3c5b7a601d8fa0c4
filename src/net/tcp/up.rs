//! From the sandbox to the server.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;

use super::sequence::{before, distance};
use super::{Flow, PEEK_MAX, Phase, WINDOW};
use crate::net::ledger::Ended;
use crate::net::link::Link;
use crate::net::packet::tcp::{ACK, FIN, Segment};
use crate::sys::socket;

impl Flow {
    /// Takes the data of a segment, as far as it is new, in order and within the window.
    pub(super) fn accept(&mut self, segment: &Segment, data: &[u8], link: &mut Link<'_>) {
        let fin = segment.has(FIN);
        let known = distance(segment.sequence, self.expected);
        if data.is_empty() && !fin && known == 0 {
            return;
        }
        let new = usize::try_from(known)
            .ok()
            .and_then(|known| data.get(known..))
            .filter(|new| (fin || !new.is_empty()) && !self.ended);
        // Something is missing before it, or all of it is known: a probe, or our answer was lost. What came out of order is not
        // kept: it would be hostile bytes to count, and this wire loses next to nothing.
        let Some(new) = new else {
            self.acknowledge(link);
            return;
        };
        let room = usize::try_from(distance(self.expected, self.edge)).unwrap_or(0);
        let within = new.get(..room.min(new.len())).unwrap_or_default();
        let Ok(taken) = self.take(within, link) else {
            self.break_off(Ended::ResetOutside, link);
            return;
        };
        self.expected = self.expected.wrapping_add(taken as u32);
        self.attempt.up += taken as u64;
        self.owes_ack = true;
        if fin && taken == new.len() {
            self.expected = self.expected.wrapping_add(1);
            self.ended = true;
            self.end_if_flushed();
        }
    }

    /// Hands bytes to the server's socket and keeps what it does not take, as far as there is room for it.
    fn take(&mut self, data: &[u8], link: &mut Link<'_>) -> io::Result<usize> {
        let sent = if self.phase == Phase::Open && self.pending.is_empty() {
            self.send(data)?
        } else {
            0
        };
        let rest = data.get(sent..).unwrap_or_default();
        let kept = rest.get(..(*link.room).min(rest.len())).unwrap_or_default();
        self.pending.extend(kept);
        *link.room -= kept.len();
        Ok(sent + kept.len())
    }

    /// What the socket took.
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        let Some(socket) = self.socket.as_ref().filter(|_| !data.is_empty()) else {
            return Ok(0);
        };
        match socket::send(socket.as_fd(), data) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// The socket has room again.
    pub(super) fn flush(&mut self, link: &mut Link<'_>) {
        let before_it = self.pending.len();
        while !self.pending.is_empty() {
            match self.send(self.pending.as_slices().0) {
                Ok(0) => break,
                Ok(sent) => drop(self.pending.drain(..sent)),
                Err(_) => {
                    self.break_off(Ended::ResetOutside, link);
                    break;
                }
            }
        }
        *link.room += before_it - self.pending.len();
        self.end_if_flushed();
        if self.pending.len() < before_it && self.closed.is_none() {
            // The sandbox may be waiting for the window to open.
            self.acknowledge(link);
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(0);
        }
    }

    /// All of what waits is the device's to give away again.
    pub(in crate::net) fn waiting(&self) -> usize {
        self.pending.len()
    }

    fn end_if_flushed(&mut self) {
        if self.ended && !self.shut && self.pending.is_empty() && self.phase == Phase::Open {
            self.shut = true;
            if let Some(socket) = &self.socket {
                let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Write);
            }
        }
    }

    /// The window that is offered: what is offered once is not taken back.
    pub(super) fn offer(&mut self) -> u32 {
        let most = match self.phase {
            Phase::Open => WINDOW,
            Phase::Connecting | Phase::Peeking | Phase::Joining => PEEK_MAX,
        };
        let most = if self.scaled { most } else { most.min(65_535) };
        let free = most.saturating_sub(self.pending.len());
        let edge = self.expected.wrapping_add(free as u32);
        if before(self.edge, edge) {
            self.edge = edge;
        }
        u32::try_from(distance(self.expected, self.edge)).unwrap_or(0)
    }

    pub(super) fn acknowledge(&mut self, link: &mut Link<'_>) {
        self.owes_ack = false;
        let segment = self.header(self.next, ACK);
        super::write(&segment, link);
    }

    /// What is left of it when the sandbox goes away.
    pub(in crate::net) fn detach(&mut self) {
        self.forget(Ended::Detached);
    }
}
