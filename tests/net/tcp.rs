//! Connections: every byte, both ways, and both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use llm_in_sandbox::net::{Ended, Verdict};

use crate::world::{World, connect};

/// Bytes that show where one is missing.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[test]
fn an_answer_and_its_end_arrive() {
    let Some(world) = World::new("an_answer_and_its_end_arrive") else {
        return;
    };
    let server = world.server(|mut stream| {
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(b"answer to ").unwrap();
        stream.write_all(&question).unwrap();
    });
    let guest = world.guest();
    let answer = guest.place.run(move || {
        let mut stream = connect(server);
        stream.write_all(b"question").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer, "answer to question");
    let entries = guest.detach();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = &entries[0];
    assert_eq!((entry.address, entry.port), (server.ip(), server.port()));
    assert_eq!((entry.up, entry.down), (8, 18));
    assert_eq!(
        (entry.verdict, entry.ended),
        (Verdict::Allowed, Ended::Done)
    );
}

#[test]
fn many_megabytes_are_exact_both_ways_at_once() {
    let Some(world) = World::new("many_megabytes_are_exact_both_ways_at_once") else {
        return;
    };
    const SIZE: usize = 24 << 20;
    let exchange = |mut stream: TcpStream, ours: u64, theirs: u64| {
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&pattern(SIZE, ours)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(
            received == pattern(SIZE, theirs),
            "{} bytes",
            received.len()
        );
    };
    let (report, done) = std::sync::mpsc::channel();
    let server = world.server(move |stream| {
        exchange(stream, 1, 2);
        report.send(()).unwrap();
    });
    let guest = world.guest();
    guest.place.run(move || exchange(connect(server), 2, 1));
    done.recv_timeout(crate::world::DEADLINE).unwrap();
    let entries = guest.detach();
    assert_eq!(entries[0].up, SIZE as u64);
    assert_eq!(entries[0].down, SIZE as u64);
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let Some(world) = World::new("a_closed_port_is_refused_at_once") else {
        return;
    };
    let guest = world.guest();
    let error = guest
        .place
        .run(|| TcpStream::connect(("45.0.0.1", 9)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(guest.detach()[0].ended, Ended::Refused);
}

#[test]
fn a_half_closed_connection_still_receives() {
    let Some(world) = World::new("a_half_closed_connection_still_receives") else {
        return;
    };
    let server = world.server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all.len().to_be_bytes()).unwrap();
    });
    let guest = world.guest();
    let told = guest.place.run(move || {
        let mut stream = connect(server);
        stream.write_all(&[7; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut told = [0; 8];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(stream.read(&mut told).unwrap(), 0);
        usize::from_be_bytes(told)
    });
    assert_eq!(told, 100_000);
}

#[test]
fn a_server_that_ends_first_still_receives() {
    let Some(world) = World::new("a_server_that_ends_first_still_receives") else {
        return;
    };
    let (report, received) = std::sync::mpsc::channel();
    let server = world.server(move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        report.send(all.len()).unwrap();
    });
    let guest = world.guest();
    guest.place.run(move || {
        let mut stream = connect(server);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        stream.write_all(&[7; 3 << 20]).unwrap();
    });
    let all = received.recv_timeout(crate::world::DEADLINE).unwrap();
    assert_eq!(all, 3 << 20);
}
