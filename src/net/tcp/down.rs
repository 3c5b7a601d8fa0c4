//! From the server to the sandbox.

use std::io;

use super::sequence::{before, behind, distance};
use super::{Flow, Phase, RESEND, RESEND_MAX, RESENDS};
use crate::net::ledger::Ended;
use crate::net::link::Link;
use crate::net::packet::tcp::{self, ACK, FIN, PSH, SYN, Segment};

/// A step's share of one connection.
const SHARE: usize = 256 << 10;
/// With all headers no more than an IP packet holds.
const DATA_MAX: usize = 65_535 - 60;

/// What reading gave.
enum Read {
    Data(usize),
    End,
    Nothing,
    Failed,
}

impl Flow {
    /// Sends what the server sent, as far as the sandbox's window takes it. Whether there is more than one step's share.
    pub(super) fn deliver(&mut self, link: &mut Link<'_>) -> bool {
        let mut share = SHARE.min(link.share);
        while self.phase == Phase::Open && self.established && self.closed.is_none() {
            if self.fin.is_some_and(|fin| before(fin, self.next)) {
                return false;
            }
            let flight = self.flight();
            let room = (self.window as usize)
                .min(self.socket.as_ref().map_or(0, |s| s.reach(link.skipped)))
                .saturating_sub(flight);
            if room == 0 || (room < self.max_segment.into() && flight > 0) {
                if flight == 0 && self.probe_at.is_none() {
                    self.probe_at = Some(link.now + self.resend);
                }
                return false;
            }
            if share == 0 {
                return true;
            }
            let most = room.min(share);
            match self.send_from(self.next, flight, most, link) {
                Read::Data(length) => {
                    self.next = behind(self.next, length);
                    share = share.saturating_sub(length);
                }
                Read::End => {
                    self.fin = Some(self.next);
                    self.next = self.next.wrapping_add(1);
                }
                Read::Nothing => return false,
                Read::Failed => {
                    self.break_off(Ended::ResetOutside, link);
                    return false;
                }
            }
            if before(self.highest, self.next) {
                self.highest = self.next;
            }
            self.await_answer(link.now);
        }
        false
    }

    /// Sends one frame of what is `offset` bytes behind what was acknowledged.
    fn send_from(
        &mut self,
        sequence: u32,
        offset: usize,
        most: usize,
        link: &mut Link<'_>,
    ) -> Read {
        let segment_size = usize::from(self.max_segment);
        let mut most = most.min(DATA_MAX);
        if most > segment_size {
            most -= most % segment_size;
        }
        let at = tcp::data_at(self.guest.ip());
        let (Some(socket), Some(into)) = (&self.socket, link.frame.get_mut(at..at + most)) else {
            return Read::Failed;
        };
        match socket.peek(link.skipped, offset, into) {
            Ok(0) => {
                let segment = self.header(sequence, FIN | ACK);
                super::write(&segment, link);
                self.owes_ack = false;
                Read::End
            }
            Ok(length) => {
                let push = if length < most { PSH } else { 0 };
                let segment = self.header(sequence, ACK | push);
                let headers = tcp::write(link.frame, &segment, length, self.max_segment);
                link.write(headers + length);
                self.owes_ack = false;
                Read::Data(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::Failed,
        }
    }

    /// Sent and not acknowledged, without SYN and FIN.
    fn flight(&self) -> usize {
        let end = match self.fin {
            Some(fin) if before(fin, self.next) => fin,
            _ => self.next,
        };
        usize::try_from(distance(self.una, end)).unwrap_or(0)
    }

    /// The sandbox tells how far it has come, and how much more it takes.
    pub(super) fn acknowledged(&mut self, segment: &Segment, data: usize, link: &mut Link<'_>) {
        let ack = segment.acknowledged;
        let window = u32::from(segment.window) << self.shift;
        if before(self.highest, ack) {
            // Never sent.
            self.owes_ack = true;
            return;
        }
        if before(self.una, ack) {
            self.advance(ack, link);
        } else if self.established
            && ack == self.una
            && data == 0
            && window == self.window
            && !segment.has(SYN | FIN)
            && self.flight() > 0
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == 3 && self.recover.is_none() {
                self.recover = Some(self.highest);
                self.resend_first(link);
            }
        }
        let from = (segment.sequence, ack);
        let (sequence, acknowledged) = self.window_from;
        if before(sequence, from.0) || (sequence == from.0 && !before(ack, acknowledged)) {
            self.window_from = from;
            self.window = window;
            if window > 0 && self.probe_at.take().is_some() {
                self.resend = RESEND;
            }
        }
    }

    /// Something new is acknowledged: the server's socket gets room for more.
    fn advance(&mut self, ack: u32, link: &mut Link<'_>) {
        let mut taken = usize::try_from(distance(self.una, ack)).unwrap_or(0);
        if !self.established {
            self.established = true;
            taken -= 1;
        }
        if self.fin.is_some_and(|fin| before(fin, ack)) {
            self.finished = true;
            taken -= 1;
        }
        self.una = ack;
        if before(self.next, ack) {
            self.next = ack;
        }
        self.duplicates = 0;
        self.resend = RESEND;
        self.resends = 0;
        self.resend_at = (self.una != self.highest).then_some(link.now + self.resend);
        self.attempt.down += taken as u64;
        while taken > 0 {
            let Some(socket) = &self.socket else { break };
            match socket.discard(taken) {
                Ok(discarded) if discarded > 0 => taken -= discarded,
                _ => {
                    self.break_off(Ended::ResetOutside, link);
                    return;
                }
            }
        }
        match self.recover {
            Some(recover) if before(ack, recover) => self.resend_first(link),
            Some(_) => self.recover = None,
            None => {}
        }
    }

    /// Sends once more what the sandbox waits for (RFC 6582), and goes on where it was.
    fn resend_first(&mut self, link: &mut Link<'_>) {
        let Some(socket) = &self.socket else { return };
        socket.rewind(0);
        let most = self.flight().min(usize::from(self.max_segment) * 8).max(1);
        self.send_from(self.una, 0, most, link);
        let flight = self.flight();
        if let Some(socket) = &self.socket {
            socket.rewind(flight);
        }
    }

    /// No answer came: begins again behind what was acknowledged.
    pub(super) fn send_again(&mut self, link: &mut Link<'_>) {
        self.resends += 1;
        self.resend_at = None;
        if self.resends > RESENDS {
            self.break_off(Ended::TimedOut, link);
            return;
        }
        self.resend = (self.resend * 2).min(RESEND_MAX);
        if !self.established {
            self.answer_syn(link);
            return;
        }
        self.next = self.una;
        self.duplicates = 0;
        self.recover = None;
        if let Some(socket) = &self.socket {
            socket.rewind(0);
        }
        self.deliver(link);
    }

    /// Asks for the window: a segment that was before what is expected has to be answered.
    pub(super) fn probe(&mut self, link: &mut Link<'_>) {
        self.resend = (self.resend * 2).min(RESEND_MAX);
        self.probe_at = Some(link.now + self.resend);
        let segment = self.header(self.next.wrapping_sub(1), ACK);
        super::write(&segment, link);
    }
}
