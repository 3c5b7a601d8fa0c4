//! From the sandbox to the server.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;

use super::sequence::{before, behind, distance};
use super::{Flow, PEEK_MAX, Phase, WINDOW};
use crate::net::ledger::Ended;
use crate::net::link::Link;
use crate::net::packet::tcp::{ACK, FIN, Segment};
use crate::sys::socket;

impl Flow {
    /// Takes the data of a segment, as far as it is new and within the window; what is early waits.
    pub(super) fn accept(&mut self, segment: &Segment, data: &[u8], link: &mut Link<'_>) {
        let fin = segment.has(FIN);
        let known = distance(segment.sequence, self.expected);
        if data.is_empty() && !fin && known == 0 {
            return;
        }
        if fin && !self.ended {
            self.end = Some(behind(segment.sequence, data.len()));
        }
        let within = self.within(segment.sequence, data);
        match usize::try_from(known) {
            Ok(known) if self.ended || known > data.len() || (known == data.len() && !fin) => {
                // All of it is known: a probe, or our answer was lost.
                self.acknowledge(link);
                return;
            }
            Ok(known) => {
                let new = within.get(known..).unwrap_or_default();
                self.take_in_order(new, link);
            }
            Err(_) => {
                if !within.is_empty() {
                    self.early.keep(segment.sequence, within, link.room);
                }
                // At once, and for each: so the sandbox learns what is missing.
                self.acknowledge(link);
                return;
            }
        }
        while let Some(next) = self.early.next(self.expected, link.room) {
            self.take_in_order(&next, link);
        }
        if self.end == Some(self.expected) && !self.ended && self.closed.is_none() {
            self.expected = self.expected.wrapping_add(1);
            self.ended = true;
            self.end_if_flushed();
        }
    }

    /// The part of a segment's data that is not behind the window.
    fn within<'a>(&self, sequence: u32, data: &'a [u8]) -> &'a [u8] {
        let room = usize::try_from(distance(sequence, self.edge)).unwrap_or(0);
        data.get(..room).unwrap_or(data)
    }

    fn take_in_order(&mut self, new: &[u8], link: &mut Link<'_>) {
        self.owes_ack = true;
        match self.take(new, link) {
            Ok(taken) => {
                self.expected = behind(self.expected, taken);
                self.attempt.up += taken as u64;
            }
            Err(_) => self.break_off(Ended::ResetOutside, link),
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
        self.pending.len() + self.early.bytes()
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
        let edge = behind(self.expected, free);
        if before(self.edge, edge) {
            self.edge = edge;
        }
        u32::try_from(distance(self.expected, self.edge)).unwrap_or(0)
    }

    pub(super) fn acknowledge(&mut self, link: &mut Link<'_>) {
        self.owes_ack = false;
        let mut segment = self.header(self.next, ACK);
        if self.selective {
            segment.ranges = self.early.ranges();
        }
        super::write(&segment, link);
    }

    /// What is left of it when the sandbox goes away.
    pub(in crate::net) fn detach(&mut self) {
        self.forget(Ended::Detached);
    }
}
