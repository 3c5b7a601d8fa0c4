//! Names: the sandbox asks us, we ask whom the host asks, and the gate sees both question and answer.
//!
//! Nothing of an answer is passed on as it came: what is told is written from what was understood.

mod message;
mod resolvers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(super) use message::{
    Answer, NO_ERROR, NO_SUCH_NAME, QUESTION_MAX, Question, REFUSED, Record, SERVER_FAILURE,
    parse_answer, parse_question, write_answer,
};
pub(super) use resolvers::Resolvers;

use super::gate::Gate;
use super::ledger::{Attempt, Ended};
use super::link::{Counted, Socket};
use crate::sys::socket;
use message::{A, AAAA, Data, write_question};

pub(super) const PORT: u16 = 53;

/// One resolver is given so long, and all of them together.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_ALL: Duration = Duration::from_secs(10);
/// Bytes of an answer that are no addresses: a channel that no rule about addresses sees.
const OTHER_MAX: usize = 2048;
const TTL_MAX: u32 = 3600;
/// The largest message at all.
const MESSAGE_MAX: usize = 65_535;

/// Types that are looked up beside addresses: NS, CNAME, SOA, PTR, MX, TXT, SRV, NAPTR, DS, DNSKEY, CAA.
const KINDS: [u16; 13] = [A, AAAA, 2, 5, 6, 12, 15, 16, 33, 35, 43, 48, 257];
/// SVCB and HTTPS (RFC 9460) hold addresses of their own; without them, programs ask for A and AAAA.
const KINDS_WITHOUT: [u16; 2] = [64, 65];

/// Who wants to know.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// By datagram, from there, of us there.
    Datagram(SocketAddr, SocketAddr),
    /// Over a connection, which is this flow.
    Stream(u32),
}

/// What a type of question gets before any name is looked at.
pub(super) fn answer_by_kind(kind: u16) -> Option<Answer> {
    if KINDS.contains(&kind) {
        return None;
    }
    let empty = KINDS_WITHOUT.contains(&kind);
    Some(Answer::empty(if empty { NO_ERROR } else { REFUSED }))
}

impl Answer {
    pub(super) fn empty(code: u8) -> Self {
        Self {
            code,
            truncated: false,
            records: Vec::new(),
        }
    }

    /// What the host's own file says.
    pub(super) fn known(question: &Question, addresses: &[std::net::IpAddr]) -> Self {
        let of_kind = addresses
            .iter()
            .filter(|address| address.is_ipv4() == (question.kind == A))
            .filter(|_| matches!(question.kind, A | AAAA))
            .map(|address| Record::address(question, *address, 60));
        Self {
            records: of_kind.collect(),
            ..Self::empty(NO_ERROR)
        }
    }

    /// Its addresses, and how many seconds each holds.
    pub(super) fn addressed(&self) -> impl Iterator<Item = (std::net::IpAddr, u32)> {
        self.records.iter().filter_map(|record| match record.data {
            Data::Address(address) => Some((address, record.ttl)),
            Data::Named(..) | Data::Other(_) => None,
        })
    }

    /// What of it the sandbox may be told.
    pub(super) fn filtered(
        mut self,
        question: &Question,
        name: &str,
        gate: &mut Gate,
        now: Instant,
    ) -> Self {
        for record in &mut self.records {
            record.ttl = record.ttl.min(TTL_MAX);
        }
        let addresses: Vec<_> = self
            .addressed()
            .map(|(address, ttl)| (address, Duration::from_secs(ttl.into())))
            .collect();
        let allowed = gate.answer(name, &addresses, now);
        self.records.retain(|record| {
            record.answers(question)
                && match &record.data {
                    Data::Address(address) => allowed.contains(address),
                    Data::Named(..) | Data::Other(_) => true,
                }
        });
        if !addresses.is_empty() && allowed.is_empty() {
            self.records.clear();
        }
        if self.records.iter().map(Record::size).sum::<usize>() > OTHER_MAX {
            return Self::empty(REFUSED);
        }
        self
    }
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Lookup {
    pub question: Question,
    pub name: String,
    pub asker: Asker,
    pub attempt: Attempt,
    /// How, when it is over.
    pub ended: Option<Ended>,
    id: u16,
    socket: Option<Socket>,
    stage: Stage,
    /// How many resolvers were asked.
    asked: usize,
    patience: Instant,
    give_up: Instant,
}

#[derive(Debug)]
enum Stage {
    Datagram,
    /// The answer was too large for one: what is still to send, and what came.
    Stream(Vec<u8>, Vec<u8>),
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    /// Ask the next, or give up.
    Next,
    /// Ask the same over a connection.
    Stream,
    Done(Answer),
}

impl Lookup {
    pub(super) fn new(
        question: Question,
        name: String,
        asker: Asker,
        attempt: Attempt,
        id: u16,
        now: Instant,
    ) -> Self {
        Self {
            question,
            name,
            asker,
            attempt,
            ended: None,
            id,
            socket: None,
            stage: Stage::Datagram,
            asked: 0,
            patience: now,
            give_up: now + PATIENCE_ALL,
        }
    }

    /// Each is asked twice.
    pub(super) fn all_asked(&self, servers: &[SocketAddr]) -> bool {
        self.asked >= 2 * servers.len()
    }

    /// Asks the next resolver.
    pub(super) fn ask(
        &mut self,
        servers: &[SocketAddr],
        counted: Counted,
        now: Instant,
    ) -> io::Result<&Socket> {
        let server = servers.get(self.asked % servers.len().max(1)).copied();
        let server = server.ok_or(io::ErrorKind::NotFound)?;
        self.asked += 1;
        self.patience = (now + PATIENCE).min(self.give_up);
        self.stage = Stage::Datagram;
        self.attempt.to = server;
        let fd = socket::connect_udp(server)?;
        let message = write_question(&self.question, self.id);
        socket::send(fd.as_fd(), &message)?;
        self.attempt.up += message.len() as u64;
        Ok(self.socket.insert(Socket::new(counted, fd)))
    }

    /// Asks the same again over a connection.
    pub(super) fn ask_stream(&mut self, counted: Counted, now: Instant) -> io::Result<&Socket> {
        let message = write_question(&self.question, self.id);
        let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
        self.stage = Stage::Stream([&length[..], &message].concat(), Vec::new());
        self.patience = (now + PATIENCE).min(self.give_up);
        let fd = socket::connect_tcp(self.attempt.to)?;
        Ok(self.socket.insert(Socket::new(counted, fd)))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.patience
    }

    pub(super) fn given_up(&self, now: Instant) -> bool {
        self.give_up <= now
    }

    /// The resolver's socket has something to tell.
    pub(super) fn ready(&mut self, buffer: &mut [u8]) -> Step {
        let Some(socket) = &self.socket else {
            return Step::Next;
        };
        match &mut self.stage {
            Stage::Datagram => loop {
                match socket::receive(socket.as_fd(), buffer) {
                    Ok(length) => {
                        let message = buffer.get(..length).unwrap_or_default();
                        // Of somebody else, or to another question: the right one may still come.
                        let Some(answer) = parse_answer(message, &self.question, self.id) else {
                            continue;
                        };
                        self.attempt.down += length as u64;
                        return settle(answer, self.asked);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                    Err(_) => return Step::Next,
                }
            },
            Stage::Stream(out, received) => match stream(socket, out, received, buffer) {
                Ok(Some(message)) => {
                    self.attempt.down += message.len() as u64;
                    match parse_answer(&message, &self.question, self.id) {
                        Some(answer) if !answer.truncated => Step::Done(answer),
                        _ => Step::Next,
                    }
                }
                Ok(None) => Step::Wait,
                Err(_) => Step::Next,
            },
        }
    }
}

fn settle(answer: Answer, asked: usize) -> Step {
    match answer.code {
        _ if answer.truncated => Step::Stream,
        NO_ERROR | NO_SUCH_NAME => Step::Done(answer),
        // Another may know better.
        _ if asked <= 1 => Step::Next,
        _ => Step::Done(answer),
    }
}

/// Sends and receives on a connection to a resolver, until there is one message.
fn stream(
    socket: &Socket,
    out: &mut Vec<u8>,
    received: &mut Vec<u8>,
    buffer: &mut [u8],
) -> io::Result<Option<Vec<u8>>> {
    while !out.is_empty() {
        match socket::send(socket.as_fd(), out) {
            Ok(sent) => drop(out.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    loop {
        if let Some(message) = take_message(received) {
            return Ok(Some(message));
        }
        match socket::receive(socket.as_fd(), buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => received.extend(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The first message of a stream (RFC 1035, 4.2.2), when it is whole.
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = received
        .first_chunk::<2>()
        .copied()
        .map(u16::from_be_bytes)?;
    let end = 2 + usize::from(length);
    let message = received.get(2..end)?.to_vec();
    received.drain(..end);
    Some(message)
}

/// A connection of the sandbox to its resolver: our end.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    received: Vec<u8>,
    pub closed: bool,
}

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            received: Vec::new(),
            closed: false,
        }
    }

    /// The next question, when there is one.
    pub(super) fn question(&mut self, buffer: &mut [u8]) -> Option<Vec<u8>> {
        while !self.closed {
            let length = self
                .received
                .first_chunk::<2>()
                .copied()
                .map(u16::from_be_bytes);
            if length.is_some_and(|length| usize::from(length) > QUESTION_MAX) {
                self.closed = true;
                break;
            }
            if let Some(message) = take_message(&mut self.received) {
                return Some(message);
            }
            let room = buffer.get_mut(..QUESTION_MAX).unwrap_or_default();
            match socket::receive(self.socket.as_fd(), room) {
                Ok(length) if length > 0 => {
                    self.received.extend(room.get(..length).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => self.closed = true,
            }
        }
        None
    }

    /// Answers; a sandbox that does not read its answers gets no more.
    pub(super) fn answer(&mut self, question: &Question, answer: &Answer) {
        let message = write_answer(question, answer, MESSAGE_MAX);
        let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
        let message = [&length[..], &message].concat();
        let sent = socket::send(self.socket.as_fd(), &message);
        if sent.is_ok_and(|sent| sent == message.len()) {
            return;
        }
        self.closed = true;
    }
}

/// How a lookup ended.
pub(super) fn ended(answer: Option<&Answer>) -> Ended {
    match answer.map(|answer| answer.code) {
        Some(REFUSED) => Ended::Refused,
        Some(_) => Ended::Done,
        None => Ended::TimedOut,
    }
}
