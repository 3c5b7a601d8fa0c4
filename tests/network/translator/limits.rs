//! What one sandbox may use.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use llm_in_sandbox::net::gate::Rules;
use llm_in_sandbox::net::{Ended, NetLimits, Verdict};

use super::world::{DEADLINE, Guest, World, connect};

fn with_bytes(most: u64) -> NetLimits {
    NetLimits {
        bytes: Some(most),
        ..NetLimits::default()
    }
}

/// Reads until nothing more comes, however it ends.
pub(super) fn all_of(mut stream: TcpStream) -> u64 {
    let (mut buffer, mut all) = (vec![0; 64 << 10], 0);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        all += length as u64;
    }
    all
}

pub(super) fn pour(mut stream: TcpStream) -> u64 {
    let buffer = vec![5; 64 << 10];
    let mut all = 0;
    while let Ok(length) = stream.write(&buffer) {
        all += length as u64;
    }
    all
}

#[test]
fn when_all_bytes_are_used_connections_end_and_none_begins() {
    let test = "when_all_bytes_are_used_connections_end_and_none_begins";
    let Some(world) = World::new(test) else {
        return;
    };
    const MOST: u64 = 3 << 20;
    // What began before the last byte goes on to its end: a packet.
    const BEYOND: u64 = 128 << 10;
    let source = world.server(|stream| {
        pour(stream);
    });
    let (report, arrived) = channel();
    let sink = world.server(move |stream| report.send(all_of(stream)).unwrap());
    let echo = world.outside.run(|| {
        let socket = UdpSocket::bind("45.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut datagram = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(&datagram[..length], from);
            }
        });
        at
    });

    let guest = world.guest_with(Rules::internet(), with_bytes(MOST));
    let down = guest.place.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(echo).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send(b"before").unwrap();
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 6);
        let down = all_of(connect(source));
        assert!(TcpStream::connect(source).is_err(), "one more connection");
        socket.send(b"after").unwrap();
        assert!(
            socket.recv(&mut [0; 100]).is_err(),
            "a flow of before goes on"
        );
        down
    });
    assert!(
        (MOST / 2..MOST + BEYOND).contains(&down),
        "{down} bytes came"
    );
    assert!(guest.struck().spent);
    let entries = guest.detach();
    let limited = entries.iter().filter(|entry| entry.ended == Ended::Limited);
    assert_eq!(limited.count(), 2, "{entries:?}");
    assert!(
        entries
            .iter()
            .any(|entry| entry.verdict == Verdict::Limited)
    );

    let guest = world.guest_with(Rules::internet(), with_bytes(MOST));
    guest.place.run(move || pour(connect(sink)));
    let up = arrived.recv_timeout(DEADLINE).unwrap();
    // A server that has not read all yet loses the rest to the reset: what left is what was counted.
    let left: u64 = guest.detach().iter().map(|entry| entry.up).sum();
    assert!((MOST / 2..MOST + BEYOND).contains(&left), "{left} left");
    assert!(up <= left, "{up} bytes came, {left} left");

    // Without the limit there is no end.
    let guest = world.guest();
    let more = guest.place.run(move || {
        let mut all = vec![0; 4 * MOST as usize];
        connect(source).read_exact(&mut all).is_ok()
    });
    assert!(more && !guest.struck().spent);
}

#[test]
fn bandwidth_holds_both_ways_together() {
    let Some(world) = World::new("bandwidth_holds_both_ways_together") else {
        return;
    };
    const RATE: u64 = 4 << 20;
    let source = world.server(|stream| {
        pour(stream);
    });
    let sink = world.server(|stream| {
        all_of(stream);
    });
    let moved = |guest: &Guest, time: Duration| {
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        let _up = guest.place.start(move || pour(connect(sink)));
        guest.place.run(move || {
            let mut stream = connect(source);
            let (began, mut buffer) = (Instant::now(), vec![0; 64 << 10]);
            while began.elapsed() < time {
                let length = stream.read(&mut buffer).unwrap();
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        bytes.load(Ordering::Relaxed)
    };
    let limits = NetLimits {
        bandwidth: Some(RATE),
        ..NetLimits::default()
    };
    let guest = world.guest_with(Rules::internet(), limits);
    let began = Instant::now();
    let down = moved(&guest, Duration::from_secs(2));
    let held = guest.struck().held;
    let took = began.elapsed();
    let entries = guest.detach();
    let all: u64 = entries.iter().map(|entry| entry.up + entry.down).sum();
    // A burst of 50 ms and what one step of a flow may add.
    let most = RATE as f64 * (took.as_secs_f64() + 0.5) + f64::from(2 << 20);
    assert!((all as f64) < most, "{all} bytes in {took:?}");
    assert!(down > RATE / 4, "{down} bytes came in {took:?}");
    assert!(held > Duration::from_millis(500), "held back for {held:?}");
    let free = world.guest();
    let down = moved(&free, Duration::from_secs(1));
    assert!(
        down > 4 * RATE,
        "{down} bytes came where nothing is bounded"
    );
    assert_eq!(free.struck().held, Duration::ZERO);
}

#[test]
fn a_device_that_is_let_go_amid_transfers_ends_all_of_them() {
    let test = "a_device_that_is_let_go_amid_transfers_ends_all_of_them";
    let Some(world) = World::new(test) else {
        return;
    };
    let (report, ended) = channel();
    let told = report.clone();
    let source = world.server(move |stream| {
        pour(stream);
        let _ = told.send(());
    });
    let sink = world.server(move |stream| {
        all_of(stream);
        let _ = report.send(());
    });
    let guest = world.guest();
    let arrived = Arc::new(AtomicU64::new(0));
    for number in 0..4 {
        let arrived = Arc::clone(&arrived);
        guest.place.start(move || {
            if number % 2 == 0 {
                pour(connect(sink));
            }
            let (mut stream, mut buffer) = (connect(source), vec![0; 64 << 10]);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }
    let began = Instant::now();
    while arrived.load(Ordering::Relaxed) < 8 << 20 {
        assert!(began.elapsed() < DEADLINE);
        thread::sleep(Duration::from_millis(5));
    }
    let entries = guest.detach();
    assert_eq!(entries.len(), 4, "{entries:?}");
    assert!(entries.iter().all(|entry| entry.ended == Ended::Detached));
    assert!(entries.iter().any(|entry| entry.up > 0 && entry.down == 0));
    assert!(entries.iter().any(|entry| entry.down > 0));
    // Servers are told, too: nothing of the sandbox holds them.
    for _ in 0..4 {
        ended.recv_timeout(DEADLINE).unwrap();
    }
    // Others go on.
    let next = world.guest();
    let mut first = [0];
    next.place
        .run(move || connect(source).read_exact(&mut first).unwrap());
}
