//! Messages of the domain name system (RFC 1035), both ways hostile: read into values, and written anew from them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(in crate::net) const A: u16 = 1;
pub(in crate::net) const AAAA: u16 = 28;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const SRV: u16 = 33;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

pub(in crate::net) const NO_ERROR: u8 = 0;
pub(in crate::net) const SERVER_FAILURE: u8 = 2;
pub(in crate::net) const NO_SUCH_NAME: u8 = 3;
pub(in crate::net) const REFUSED: u8 = 5;

const IS_ANSWER: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const RECURSION_WANTED: u16 = 0x0100;
const RECURSION_THERE: u16 = 0x0080;

/// Header and one question with the longest name.
pub(in crate::net) const QUESTION_MAX: usize = 512;
/// Answers of one message that are looked at.
const RECORDS_MAX: usize = 256;
/// What a resolver is told that it may send in a datagram (RFC 9715).
const EDNS_SIZE: u16 = 1232;

/// A name as in a message: labels with their lengths, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) struct Name(Vec<u8>);

impl Name {
    /// As people write it, in lower case; nothing for a label that is no text or holds a dot.
    pub(in crate::net) fn text(&self) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.0.as_slice();
        while let Some((length, more)) = rest.split_first() {
            let (label, more) = more.split_at_checked((*length).into())?;
            if label.is_empty() {
                break;
            }
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                if !byte.is_ascii_graphic() || *byte == b'.' {
                    return None;
                }
                text.push(char::from(byte.to_ascii_lowercase()));
            }
            rest = more;
        }
        Some(text)
    }

    fn same(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(in crate::net) struct Question {
    pub id: u16,
    pub name: Name,
    pub kind: u16,
    /// What an answer in a datagram may be as large as.
    pub room: usize,
}

/// One record of an answer.
#[derive(Debug, Clone)]
pub(in crate::net) struct Record {
    owner: Name,
    kind: u16,
    pub ttl: u32,
    pub data: Data,
}

/// What it says.
#[derive(Debug, Clone)]
pub(in crate::net) enum Data {
    Address(IpAddr),
    /// Bytes, a name, bytes: all that may hold a compressed name.
    Named(Vec<u8>, Vec<Name>, Vec<u8>),
    Other(Vec<u8>),
}

/// What is answered.
#[derive(Debug, Clone)]
pub(in crate::net) struct Answer {
    pub code: u8,
    pub truncated: bool,
    pub records: Vec<Record>,
}

struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name; each pointer leads to before the last, so that it ends.
    fn name(&mut self) -> Option<Name> {
        let mut name = Vec::new();
        let (mut at, mut lowest, mut after) = (self.at, self.at, None);
        loop {
            let length = *self.message.get(at)?;
            at += 1;
            match length {
                0 => break,
                1..=63 => {
                    name.push(length);
                    name.extend(self.message.get(at..at + usize::from(length))?);
                    at += usize::from(length);
                }
                0xc0..=0xff => {
                    let low = *self.message.get(at)?;
                    after.get_or_insert(at + 1);
                    at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if at >= lowest {
                        return None;
                    }
                    lowest = at;
                }
                64..=0xbf => return None,
            }
            if name.len() > 254 {
                return None;
            }
        }
        name.push(0);
        self.at = after.unwrap_or(at);
        Some(Name(name))
    }
}

/// Reads a question of the sandbox.
pub(in crate::net) fn parse_question(message: &[u8]) -> Option<Question> {
    let mut cursor = Cursor { message, at: 0 };
    let id = cursor.u16()?;
    let flags = cursor.u16()?;
    let counts = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
    // A standard query with one question.
    if flags & (IS_ANSWER | 0x7800) != 0 || counts.first() != Some(&1) || counts.get(1) != Some(&0)
    {
        return None;
    }
    let name = cursor.name()?;
    let kind = cursor.u16()?;
    if cursor.u16()? != INTERNET {
        return None;
    }
    // RFC 6891: an additional record tells what the asker takes.
    let mut room = 512;
    if cursor.take(1) == Some(&[0]) && cursor.u16() == Some(OPT) {
        room = usize::from(cursor.u16()?.clamp(512, 4096));
    }
    Some(Question {
        id,
        name,
        kind,
        room,
    })
}

/// Writes the question for a resolver, with an id of our own.
pub(in crate::net) fn write_question(question: &Question, id: u16) -> Vec<u8> {
    let mut message = Vec::new();
    for field in [id, RECURSION_WANTED, 1, 0, 0, 1] {
        message.extend(field.to_be_bytes());
    }
    message.extend(&question.name.0);
    message.extend(question.kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    message.push(0);
    for field in [OPT, EDNS_SIZE, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    message
}

/// Reads a resolver's answer to that question; nothing when it is to another.
pub(in crate::net) fn parse_answer(message: &[u8], question: &Question, id: u16) -> Option<Answer> {
    let mut cursor = Cursor { message, at: 0 };
    let (its_id, flags) = (cursor.u16()?, cursor.u16()?);
    let (questions, answers) = (cursor.u16()?, usize::from(cursor.u16()?));
    cursor.take(4)?;
    if its_id != id || flags & IS_ANSWER == 0 || questions != 1 {
        return None;
    }
    let asked = cursor.name()?;
    if !asked.same(&question.name) || cursor.u16()? != question.kind || cursor.u16()? != INTERNET {
        return None;
    }
    let truncated = flags & TRUNCATED != 0;
    let [_, low] = flags.to_be_bytes();
    let mut records = Vec::new();
    for _ in 0..answers.min(RECORDS_MAX) {
        match parse_record(&mut cursor) {
            Some(record) => records.push(record),
            None if truncated => break,
            None => return None,
        }
    }
    Some(Answer {
        code: low & 0x0f,
        truncated,
        records,
    })
}

fn parse_record(cursor: &mut Cursor<'_>) -> Option<Record> {
    let owner = cursor.name()?;
    let kind = cursor.u16()?;
    cursor.u16()?;
    let ttl = cursor.u32()?;
    let length = usize::from(cursor.u16()?);
    let start = cursor.at;
    let bytes = cursor.take(length)?;
    let mut inner = Cursor {
        message: cursor.message.get(..cursor.at)?,
        at: start,
    };
    let data = match kind {
        A => Data::Address(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        AAAA => Data::Address(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        CNAME | NS | PTR => Data::Named(Vec::new(), vec![inner.name()?], Vec::new()),
        MX => Data::Named(inner.take(2)?.to_vec(), vec![inner.name()?], Vec::new()),
        SRV => Data::Named(inner.take(6)?.to_vec(), vec![inner.name()?], Vec::new()),
        SOA => {
            let names = vec![inner.name()?, inner.name()?];
            Data::Named(Vec::new(), names, inner.take(20)?.to_vec())
        }
        _ => Data::Other(bytes.to_vec()),
    };
    Some(Record {
        owner,
        kind,
        ttl,
        data,
    })
}

impl Record {
    /// An address of the name that was asked for.
    pub(in crate::net) fn address(question: &Question, address: IpAddr, ttl: u32) -> Self {
        Self {
            owner: question.name.clone(),
            kind: if address.is_ipv4() { A } else { AAAA },
            ttl,
            data: Data::Address(address),
        }
    }

    /// What may be told of it beside addresses: another name for what was asked, or what was asked itself.
    pub(in crate::net) fn answers(&self, question: &Question) -> bool {
        self.kind == CNAME || self.kind == question.kind
    }

    /// Bytes that it carries, beside names that lead to addresses.
    pub(in crate::net) fn size(&self) -> usize {
        match &self.data {
            Data::Address(_) => 0,
            Data::Named(before, names, after) => {
                before.len() + after.len() + names.iter().map(|name| name.0.len()).sum::<usize>()
            }
            Data::Other(bytes) => bytes.len(),
        }
    }
}

/// Writes an answer to the sandbox; one that is larger than `room` says so and holds nothing.
pub(in crate::net) fn write_answer(question: &Question, answer: &Answer, room: usize) -> Vec<u8> {
    let mut message = header(question, answer.code, 0, answer.records.len());
    for record in &answer.records {
        if record.owner.same(&question.name) {
            // Where the question's name is.
            message.extend([0xc0, 12]);
        } else {
            message.extend(&record.owner.0);
        }
        message.extend(record.kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message.extend(record.ttl.to_be_bytes());
        let data = match &record.data {
            Data::Address(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Data::Address(IpAddr::V6(v6)) => v6.octets().to_vec(),
            Data::Named(before, names, after) => {
                let names = names.iter().flat_map(|name| name.0.iter().copied());
                before
                    .iter()
                    .copied()
                    .chain(names)
                    .chain(after.iter().copied())
                    .collect()
            }
            Data::Other(bytes) => bytes.clone(),
        };
        message.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        message.extend(data);
    }
    if message.len() > room {
        return header(question, answer.code, TRUNCATED, 0);
    }
    message
}

fn header(question: &Question, code: u8, flags: u16, answers: usize) -> Vec<u8> {
    let flags = flags | IS_ANSWER | RECURSION_WANTED | RECURSION_THERE | u16::from(code);
    let answers = u16::try_from(answers).unwrap_or(0);
    let mut message = Vec::new();
    for field in [question.id, flags, 1, answers, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    message.extend(&question.name.0);
    message.extend(question.kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    message
}
