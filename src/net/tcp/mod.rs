//! One TCP connection of a sandbox, and the socket of the host that stands for it.
//!
//! The sockets' own buffers are the queues. What the server sent stays in the host's socket until the sandbox has acknowledged it,
//! so that socket is what is sent again from ([`down`]). What the sandbox sent goes to the socket at once, and only what finds no
//! room there waits here, no more than the window that was offered ([`up`]).
//!
//! The sandbox's SYN is answered when the server has answered ours: it sees refusals, and policy comes before any of it. Only where
//! the first bytes are to decide it is answered before.

mod down;
mod early;
mod refusal;
mod sequence;
mod up;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use early::Early;
pub(super) use refusal::{refuse, write_failure};
pub(super) use sequence::First;

use super::gate::PEEK_MAX;
use super::ledger::{Attempt, Connection, Ended};
use super::link::{Link, Socket};
use super::packet::icmp::Failure;
use super::packet::tcp::{self, ACK, Options, RST, SYN, Segment};
use crate::sys::socket;

/// The window is told in units of 128 bytes.
const SHIFT: u8 = 7;
/// What a sandbox may send before it is acknowledged.
const WINDOW: usize = 1 << 20;
/// Before anything is sent again. The sandbox's kernel acknowledges at once, or after 40 to 200 ms.
const RESEND: Duration = Duration::from_millis(300);
const RESEND_MAX: Duration = Duration::from_secs(20);
/// Nobody's segments are smaller: more of them would only cost the sandbox's kernel.
const MAX_SEGMENT_LEAST: u16 = 216;
/// So many times without an answer, and the sandbox is taken to be gone.
const RESENDS: u32 = 10;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the server; the sandbox waits, too.
    Connecting,
    /// The sandbox was answered, and its first bytes are to decide.
    Peeking,
    /// They did; waiting for the server.
    Joining,
    /// Bytes pass.
    Open,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Flow {
    guest: SocketAddr,
    remote: SocketAddr,
    phase: Phase,
    socket: Option<Socket>,
    pub attempt: Attempt,
    closed: Option<Ended>,
    connect_by: Instant,
    heard: Instant,

    // To the sandbox.
    /// Not yet acknowledged; the next to send; behind all that was ever sent.
    una: u32,
    next: u32,
    highest: u32,
    /// The sandbox has acknowledged our SYN, or our FIN.
    established: bool,
    finished: bool,
    /// Where our FIN is, when the server has ended.
    fin: Option<u32>,
    /// What the sandbox's window takes, its unit, and the sequence numbers of the segment that told it.
    window: u32,
    shift: u8,
    window_from: (u32, u32),
    max_segment: u16,
    duplicates: u8,
    /// Behind a loss, until this is acknowledged.
    recover: Option<u32>,
    resend: Duration,
    resends: u32,
    resend_at: Option<Instant>,
    /// When to ask for a window again that was closed.
    probe_at: Option<Instant>,

    // From the sandbox.
    /// The next to come, and the right edge of the window that was offered last.
    expected: u32,
    edge: u32,
    /// Whether it takes a scaled window.
    scaled: bool,
    /// Whether it understands which later parts have come, and those.
    selective: bool,
    early: Early,
    /// Where its end is, when that has come.
    end: Option<u32>,
    pending: VecDeque<u8>,
    /// It has ended; the server was told.
    ended: bool,
    shut: bool,
    owes_ack: bool,
}

impl Flow {
    /// It was answered before the server was asked.
    pub(super) fn is_peeking(&self) -> bool {
        self.phase == Phase::Peeking
    }

    /// For a SYN that was let through.
    pub(super) fn new(
        syn: &Segment,
        first: u32,
        attempt: Attempt,
        connect_by: Instant,
        link: &Link<'_>,
    ) -> Self {
        let own = link.mtu.saturating_sub(headers(syn.to));
        let offered = syn.options.max_segment.unwrap_or(536);
        let expected = syn.sequence.wrapping_add(1);
        Self {
            guest: syn.from,
            remote: syn.to,
            phase: Phase::Connecting,
            socket: None,
            attempt,
            closed: None,
            connect_by,
            heard: link.now,
            una: first,
            next: first,
            highest: first,
            established: false,
            finished: false,
            fin: None,
            window: 0,
            shift: syn.options.window_shift.unwrap_or(0),
            window_from: (syn.sequence, 0),
            max_segment: offered.min(own).max(MAX_SEGMENT_LEAST),
            duplicates: 0,
            recover: None,
            resend: RESEND,
            resends: 0,
            resend_at: None,
            probe_at: None,
            expected,
            edge: expected,
            scaled: syn.options.window_shift.is_some(),
            selective: syn.options.selective,
            early: Early::default(),
            end: None,
            pending: VecDeque::new(),
            ended: false,
            shut: false,
            owes_ack: false,
        }
    }

    /// Answers before anything is connected, so that the first bytes come.
    pub(super) fn answer_early(&mut self, link: &mut Link<'_>) {
        self.phase = Phase::Peeking;
        self.answer_syn(link);
    }

    /// This socket is being connected for it.
    pub(super) fn join(&mut self, socket: Socket) {
        self.socket = Some(socket);
        if self.phase == Phase::Peeking {
            self.phase = Phase::Joining;
        }
    }

    /// The sandbox sent a segment.
    pub(super) fn segment(&mut self, segment: &Segment, data: &[u8], link: &mut Link<'_>) {
        self.heard = link.now;
        if segment.has(RST) {
            // RFC 5961: one that nobody can have guessed; of what we have offered, that is the sandbox's own kernel.
            let near = (0..=i64::try_from(WINDOW).unwrap_or(0))
                .contains(&sequence::distance(self.expected, segment.sequence));
            if near {
                self.forget(Ended::ResetInside);
            }
            return;
        }
        if self.phase == Phase::Connecting {
            // Its SYN again: the server has not answered.
            return;
        }
        if segment.has(SYN) {
            if self.established {
                self.acknowledge(link);
            } else {
                self.answer_syn(link);
            }
            return;
        }
        if segment.has(ACK) {
            self.acknowledged(segment, data.len(), link);
        }
        if self.established && self.closed.is_none() {
            self.accept(segment, data, link);
            self.settle();
        }
    }

    /// After a batch of segments: one answer for all of them, and what a larger window lets through.
    pub(super) fn after_batch(&mut self, link: &mut Link<'_>) -> bool {
        let more = self.deliver(link);
        if self.owes_ack && self.closed.is_none() {
            self.acknowledge(link);
        }
        more
    }

    /// The host's socket has something to tell. Whether there is more than one step's share.
    pub(super) fn host_ready(&mut self, link: &mut Link<'_>) -> bool {
        if self.closed.is_some() {
            return false;
        }
        match self.phase {
            Phase::Peeking => false,
            Phase::Connecting | Phase::Joining => {
                if let Some(error) = self.socket.as_ref().and_then(|s| socket::error(s.as_fd())) {
                    self.refuse(&error, link);
                    return false;
                }
                self.connected(link)
            }
            Phase::Open => {
                self.flush(link);
                let more = self.deliver(link);
                self.settle();
                more
            }
        }
    }

    fn connected(&mut self, link: &mut Link<'_>) -> bool {
        let joined = self.phase == Phase::Joining;
        self.phase = Phase::Open;
        if !joined {
            self.answer_syn(link);
            return false;
        }
        self.flush(link);
        self.acknowledge(link);
        self.deliver(link)
    }

    /// The bytes that are to decide, when they are what is waited for.
    pub(super) fn first_bytes(&mut self) -> Option<(SocketAddr, &[u8])> {
        if self.phase != Phase::Peeking || self.closed.is_some() || self.pending.is_empty() {
            return None;
        }
        Some((self.remote, self.pending.make_contiguous()))
    }

    /// No more than these will come.
    pub(super) fn first_bytes_end(&self) -> bool {
        self.ended || self.pending.len() >= PEEK_MAX
    }

    /// The server, or the way to it, refused.
    pub(super) fn refuse(&mut self, error: &io::Error, link: &mut Link<'_>) {
        let (ended, failure) = match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::EACCES) => {
                (Ended::Unreachable, Some(Failure::Unreachable))
            }
            Some(libc::ETIMEDOUT) => (Ended::TimedOut, Some(Failure::Unreachable)),
            _ => (Ended::Refused, None),
        };
        match failure.filter(|_| self.phase == Phase::Connecting) {
            Some(failure) => {
                let syn = self.syn();
                self.forget(ended);
                write_failure(&syn, failure, link);
            }
            None => self.break_off(ended, link),
        }
    }

    /// The SYN that began it, as far as an error has to quote it.
    fn syn(&self) -> Segment {
        Segment {
            from: self.guest,
            to: self.remote,
            sequence: self.expected.wrapping_sub(1),
            acknowledged: 0,
            flags: SYN,
            window: 0,
            options: Options::default(),
            ranges: [None; early::RANGES],
        }
    }

    /// When [`Flow::timeout`] has something to do.
    pub(super) fn deadline(&self, idle: Duration) -> Instant {
        let last = if self.phase == Phase::Open {
            self.heard + idle
        } else {
            self.connect_by
        };
        [self.resend_at, self.probe_at]
            .into_iter()
            .flatten()
            .fold(last, Instant::min)
    }

    /// Something did not happen in time.
    pub(super) fn timeout(&mut self, idle: Duration, link: &mut Link<'_>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= link.now);
        let (resend, probe) = (due(self.resend_at), due(self.probe_at));
        if self.phase != Phase::Open && self.connect_by <= link.now {
            self.refuse(&io::Error::from_raw_os_error(libc::ETIMEDOUT), link);
        } else if self.phase == Phase::Open && self.heard + idle <= link.now {
            self.break_off(Ended::TimedOut, link);
        } else if resend {
            self.send_again(link);
        } else if probe {
            self.probe(link);
        }
    }

    /// How it ended, when it has.
    pub(super) fn closed(&self) -> Option<Ended> {
        self.closed
    }

    /// The entry of one that has ended.
    pub(super) fn into_entry(self, now: Instant) -> Connection {
        let ended = self.closed.unwrap_or(Ended::Detached);
        self.attempt.end(ended, now)
    }

    /// Tells the sandbox and the server that it is over.
    pub(super) fn break_off(&mut self, ended: Ended, link: &mut Link<'_>) {
        if self.closed.is_none() {
            let segment = self.header(self.next, RST | ACK);
            write(&segment, link);
        }
        self.forget(ended);
    }

    /// Tells the server that it is over.
    fn forget(&mut self, ended: Ended) {
        if self.closed.is_none() {
            self.closed = Some(ended);
            if let Some(socket) = &self.socket {
                socket::reset_on_close(socket.as_fd());
            }
        }
    }

    /// Whether both sides are done.
    fn settle(&mut self) {
        if self.ended && self.shut && self.finished && self.closed.is_none() {
            self.closed = Some(Ended::Done);
        }
    }

    fn answer_syn(&mut self, link: &mut Link<'_>) {
        let own = link.mtu.saturating_sub(headers(self.remote));
        let mut segment = self.header(self.una, SYN | ACK);
        // This one window is not scaled.
        segment.window = u16::try_from(self.offer()).unwrap_or(u16::MAX);
        segment.options = Options {
            max_segment: Some(own),
            window_shift: self.scaled.then_some(SHIFT),
            selective: self.selective,
        };
        write(&segment, link);
        self.next = self.una.wrapping_add(1);
        self.highest = self.next;
        self.await_answer(link.now);
    }

    fn await_answer(&mut self, now: Instant) {
        if self.resend_at.is_none() {
            self.resend_at = Some(now + self.resend);
        }
    }

    fn header(&mut self, sequence: u32, flags: u8) -> Segment {
        let offer = self.offer();
        let window = if self.scaled { offer >> SHIFT } else { offer };
        Segment {
            from: self.remote,
            to: self.guest,
            sequence,
            acknowledged: self.expected,
            flags,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            options: Options::default(),
            ranges: [None; early::RANGES],
        }
    }
}

/// IP and TCP headers without options.
fn headers(of: SocketAddr) -> u16 {
    if of.is_ipv4() { 40 } else { 60 }
}

/// Writes a segment without data.
pub(super) fn write(segment: &Segment, link: &mut Link<'_>) {
    let length = tcp::write(link.frame, segment, 0, u16::MAX);
    link.write(length);
}
