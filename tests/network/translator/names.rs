//! Names: what is asked, what is told, and what is kept back.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use llm_in_sandbox::net::gate::Protocol;
use llm_in_sandbox::net::{GATEWAY_V4, GATEWAY_V6, Verdict};

use super::world::{DEADLINE, SERVER_V4, World, connect};

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.');
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

fn question(of: &str, kind: u16) -> Vec<u8> {
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &name(of), &kind.to_be_bytes(), &[0, 1]].concat()
}

fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 60]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The answer to a question: its header and question, then these records.
fn answer(question: &[u8], flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut bytes = question[..end].to_vec();
    bytes[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    bytes[8..12].fill(0);
    bytes.extend(records.concat());
    bytes
}

/// A resolver outside that answers with what `reply` makes of each question; over a connection, too.
fn resolver(world: &World, reply: impl Fn(&[u8], bool) -> Option<Vec<u8>> + Send + Sync + 'static) {
    world.outside.run(move || {
        let reply = Arc::new(reply);
        let socket = UdpSocket::bind((SERVER_V4, 53)).unwrap();
        let by_datagram = Arc::clone(&reply);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = by_datagram(&buffer[..length], false) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        let listener = TcpListener::bind((SERVER_V4, 53)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = reply(&question, true).unwrap();
                let length = (answer.len() as u16).to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        });
    });
}

fn ask_at(address: IpAddr, question: &[u8]) -> Vec<u8> {
    let any: IpAddr = if address.is_ipv4() {
        "0.0.0.0".parse().unwrap()
    } else {
        "::".parse().unwrap()
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect((address, 53)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send(question).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn ask(question: &[u8]) -> Vec<u8> {
    ask_at(GATEWAY_V4.into(), question)
}

/// Response code, whether it is cut, number of records, and all bytes after the question.
fn read(question: &[u8], answer: &[u8]) -> (u8, bool, u16, Vec<u8>) {
    assert_eq!(&answer[..2], &question[..2], "another id");
    assert_eq!(&answer[12..question.len()], &question[12..]);
    (
        answer[3] & 15,
        answer[2] & 2 != 0,
        u16::from_be_bytes([answer[6], answer[7]]),
        answer[question.len()..].to_vec(),
    )
}

#[test]
fn a_name_is_looked_up_where_the_host_does() {
    let Some(world) = World::new("a_name_is_looked_up_where_the_host_does") else {
        return;
    };
    resolver(&world, |asked, _| {
        // An alias, whose name is where its data is.
        let alias = record(5, &name("www.example.net"));
        let mut address = record(A, &[45, 0, 0, 1]);
        address.splice(0..2, name("www.example.net"));
        Some(answer(asked, 0, &[alias, address]))
    });
    let guest = world.guest();
    for gateway in [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()] {
        let (code, cut, count, rest) = guest.place.run(move || {
            let asked = question("Example.COM", A);
            read(&asked, &ask_at(gateway, &asked))
        });
        assert_eq!((code, cut, count), (0, false, 2));
        assert!(rest.ends_with(&[0, 4, 45, 0, 0, 1]), "{rest:?}");
    }
    let entries = guest.detach();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].name.as_deref(), Some("example.com"));
    assert_eq!(entries[0].protocol, Protocol::Dns);
}

#[test]
fn an_answer_that_leads_inside_is_kept_back() {
    let Some(world) = World::new("an_answer_that_leads_inside_is_kept_back") else {
        return;
    };
    resolver(&world, |asked, _| {
        let addresses = [
            [127, 0, 0, 1],
            [10, 0, 0, 1],
            [45, 0, 0, 9],
            [169, 254, 169, 254],
        ];
        let records: Vec<_> = addresses.iter().map(|a| record(A, a)).collect();
        Some(answer(asked, 0, &records))
    });
    let guest = world.guest();
    let (code, _, count, rest) = guest.place.run(|| {
        let asked = question("rebind.example", A);
        read(&asked, &ask(&asked))
    });
    assert_eq!((code, count), (0, 1));
    assert!(rest.ends_with(&[45, 0, 0, 9]));
}

#[test]
fn what_is_too_large_for_a_datagram_comes_over_a_connection() {
    let Some(world) = World::new("what_is_too_large_for_a_datagram_comes_over_a_connection") else {
        return;
    };
    resolver(&world, |asked, connected| {
        let records: Vec<_> = (0..40).map(|n| record(A, &[45, 0, 1, n])).collect();
        let records = if connected { &records[..] } else { &[] };
        Some(answer(asked, if connected { 0 } else { 0x0200 }, records))
    });
    let guest = world.guest();
    let (cut, count) = guest.place.run(|| {
        let asked = question("large.example", A);
        // More than 512 bytes, and the asker has not said that it takes more.
        let by_datagram = read(&asked, &ask(&asked));
        let mut stream = connect((GATEWAY_V4, 53).into());
        let length = (asked.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &asked].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        (by_datagram.1, read(&asked, &answer).2)
    });
    // Of one answer, the gate passes on no more.
    assert_eq!((cut, count), (true, 32));
}

#[test]
fn a_silent_resolver_is_asked_again_and_given_up() {
    let Some(world) = World::new("a_silent_resolver_is_asked_again_and_given_up") else {
        return;
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    resolver(&world, move |question, _| {
        let before = counted.fetch_add(1, Ordering::SeqCst);
        let silent = question.windows(6).any(|part| part == b"silent");
        (before > 0 && !silent).then(|| answer(question, 0, &[record(A, &[45, 0, 0, 1])]))
    });
    let guest = world.guest();
    let (second, silent) = guest.place.run(|| {
        let once = question("again.example", A);
        let never = question("silent.example", A);
        (read(&once, &ask(&once)).2, read(&never, &ask(&never)).0)
    });
    assert_eq!((second, silent), (1, 2), "SERVFAIL");
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[test]
fn other_types_are_bounded_and_hints_are_left_out() {
    let Some(world) = World::new("other_types_are_bounded_and_hints_are_left_out") else {
        return;
    };
    resolver(&world, |asked, _| {
        let length = if asked.windows(5).any(|part| part == b"large") {
            255
        } else {
            20
        };
        let text = [&[length][..], &vec![b'x'; length.into()]].concat();
        Some(answer(
            asked,
            0,
            &vec![record(TXT, &text); if length == 255 { 9 } else { 1 }],
        ))
    });
    let guest = world.guest();
    let read = guest.place.run(|| {
        let of = |name, kind| {
            let asked = question(name, kind);
            let (code, _, count, _) = read(&asked, &ask(&asked));
            (code, count)
        };
        [
            of("small.example", TXT),
            of("large.example", TXT),
            of("small.example", HTTPS),
            of("small.example", 255),
            of("from-the-file.example", A),
            of("from-the-file.example", AAAA),
        ]
    });
    assert_eq!(read, [(0, 1), (5, 0), (0, 0), (5, 0), (0, 1), (0, 0)]);
}

#[test]
fn a_denied_name_is_not_asked_for() {
    let Some(world) = World::new("a_denied_name_is_not_asked_for") else {
        return;
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    resolver(&world, move |question, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(answer(question, 0, &[record(A, &[45, 0, 0, 1])]))
    });
    let rules = "allow:good.example".parse().unwrap();
    let guest = world.guest_with(rules, llm_in_sandbox::net::NetLimits::default());
    let codes = guest.place.run(|| {
        ["good.example", "bad.example"].map(|name| {
            let asked = question(name, A);
            read(&asked, &ask(&asked)).0
        })
    });
    assert_eq!((codes, asked.load(Ordering::SeqCst)), ([0, 5], 1));
    let entries = guest.detach();
    assert_eq!(entries[1].verdict, Verdict::Denied);
    assert!(
        entries
            .iter()
            .all(|entry| entry.lasted < Duration::from_secs(30))
    );
}
