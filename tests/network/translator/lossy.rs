//! A bad wire between the sandbox's kernel and the translator: packets are lost, doubled, delayed and overtake each other.
//!
//! Its own wire does none of that, but its queue can be full: what is lost then has to be sent again, and nothing may be torn.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use llm_in_sandbox::net::Ended;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd;

use super::tcp::pattern;
use super::world::{DEADLINE, SERVER_V4, SERVER_V6, World, connect};

/// Of a thousand packets.
#[derive(Clone, Copy)]
struct Wire {
    lost: u64,
    doubled: u64,
    /// Each is late by up to so much.
    late: Duration,
}

/// Carries frames between a device and a socket, whose other end it gives, and counts what it did to them.
fn bad_wire(device: OwnedFd, wire: Wire, seed: u64) -> (OwnedFd, Arc<AtomicUsize>) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let harmed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&harmed);
    thread::spawn(move || {
        let mut state = seed | 1;
        let mut dice = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let ends = [&device, &ours];
        let mut under_way: BTreeMap<(Instant, usize), (usize, Vec<u8>)> = BTreeMap::new();
        let mut number = 0;
        let mut buffer = vec![0; 70_000];
        loop {
            let wait = under_way
                .first_key_value()
                .map_or(PollTimeout::NONE, |((at, _), _)| {
                    let left = at.saturating_duration_since(Instant::now()).as_millis() as u16;
                    PollTimeout::from(left)
                });
            let mut ready = ends.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
            poll(&mut ready, wait).unwrap();
            for (end, other) in [(0, 1), (1, 0)] {
                while let Ok(length) = unistd::read(ends[end], &mut buffer) {
                    if length == 0 {
                        return;
                    }
                    let copies = match dice(1000) {
                        n if n < wire.lost => 0,
                        n if n < wire.lost + wire.doubled => 2,
                        _ => 1,
                    };
                    count.fetch_add(usize::from(copies != 1), Ordering::Relaxed);
                    for _ in 0..copies {
                        let late = dice(wire.late.as_micros() as u64 + 1);
                        number += 1;
                        let key = (Instant::now() + Duration::from_micros(late), number);
                        under_way.insert(key, (other, buffer[..length].to_vec()));
                    }
                }
            }
            while let Some(entry) = under_way.first_entry() {
                if entry.key().0 > Instant::now() {
                    break;
                }
                let (to, frame) = entry.remove();
                // A full queue loses it, too.
                let _ = unistd::write(ends[to], &frame);
            }
        }
    });
    (theirs, harmed)
}

fn exchange(mut stream: TcpStream, size: usize, ours: u64, theirs: u64) {
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&pattern(size, ours)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert_eq!(received.len(), size);
    assert!(received == pattern(size, theirs), "a byte is wrong");
}

fn survives(test: &str, wire: Wire, address: &'static str, size: usize) {
    if let Some(world) = World::new(test) {
        survives_in(&world, wire, address, size);
    }
}

fn survives_in(world: &World, wire: Wire, address: &'static str, size: usize) {
    let seed: u64 = std::env::var("LIS_TEST_SEED").map_or_else(
        |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().unwrap(),
    );
    println!("LIS_TEST_SEED={seed}");
    let (report, done) = channel();
    let server = world.server_at(address, move |stream| {
        exchange(stream, size, 1, 2);
        report.send(()).unwrap();
    });
    let (guest, harmed) = world.guest_over(|device| bad_wire(device, wire, seed));
    let streams: Vec<_> = (0..4)
        .map(|_| {
            guest
                .place
                .start(move || exchange(connect(server), size, 2, 1))
        })
        .collect();
    streams.into_iter().for_each(super::world::join);
    // What the sandbox has written may still be in its kernel.
    (0..4).for_each(|_| done.recv_timeout(DEADLINE).unwrap());
    for _ in 0..4 {
        let entry = guest.next_entry();
        assert_eq!((entry.up, entry.down), (size as u64, size as u64));
        assert_eq!(entry.ended, Ended::Done, "{entry:?}");
    }
    assert!(harmed.load(Ordering::Relaxed) > 5, "nothing was harmed");
}

#[test]
fn every_byte_arrives_although_packets_are_lost() {
    let wire = Wire {
        lost: 30,
        doubled: 0,
        late: Duration::ZERO,
    };
    survives(
        "every_byte_arrives_although_packets_are_lost",
        wire,
        SERVER_V4,
        2 << 20,
    );
}

#[test]
fn every_byte_arrives_over_ipv6_although_packets_are_lost() {
    let wire = Wire {
        lost: 30,
        doubled: 0,
        late: Duration::from_millis(2),
    };
    survives(
        "every_byte_arrives_over_ipv6_although_packets_are_lost",
        wire,
        SERVER_V6,
        1 << 20,
    );
}

/// As kernels before 6.9 do it.
#[test]
fn every_byte_arrives_over_a_bad_wire_where_sockets_are_read_from_their_start() {
    let test = "every_byte_arrives_over_a_bad_wire_where_sockets_are_read_from_their_start";
    let wire = Wire {
        lost: 20,
        doubled: 50,
        late: Duration::from_millis(3),
    };
    if let Some(world) = World::with(test, |settings| settings.peek_offset = false) {
        survives_in(&world, wire, SERVER_V4, 1 << 20);
        survives_in(&world, wire, SERVER_V6, 1 << 20);
    }
}

#[test]
fn every_byte_arrives_although_packets_are_doubled_and_overtaken() {
    let wire = Wire {
        lost: 0,
        doubled: 200,
        late: Duration::from_millis(4),
    };
    let test = "every_byte_arrives_although_packets_are_doubled_and_overtaken";
    survives(test, wire, SERVER_V6, 2 << 20);
}

#[test]
fn every_byte_arrives_over_the_worst_of_wires() {
    let wire = Wire {
        lost: 50,
        doubled: 50,
        late: Duration::from_millis(20),
    };
    if let Some(world) = World::new("every_byte_arrives_over_the_worst_of_wires") {
        survives_in(&world, wire, SERVER_V4, 256 << 10);
        survives_in(&world, wire, SERVER_V6, 256 << 10);
    }
}
