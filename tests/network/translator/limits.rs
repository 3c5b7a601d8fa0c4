//! What one sandbox may use, and what it may not take from another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use llm_in_sandbox::net::gate::Rules;
use llm_in_sandbox::net::{Ended, GATEWAY_V4, NetLimits, Verdict};

use super::world::{DEADLINE, Guest, World, connect};

fn with_bytes(most: u64) -> NetLimits {
    NetLimits {
        bytes: Some(most),
        ..NetLimits::default()
    }
}

/// Reads until nothing more comes, however it ends.
fn all_of(mut stream: TcpStream) -> u64 {
    let (mut buffer, mut all) = (vec![0; 64 << 10], 0);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        all += length as u64;
    }
    all
}

fn pour(mut stream: TcpStream) -> u64 {
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
    assert!((MOST / 2..MOST + BEYOND).contains(&up), "{up} bytes left");

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

/// As fast as it can, until told to end.
fn again_and_again(
    guest: &Guest,
    stop: &Arc<AtomicBool>,
    mut what: impl FnMut() + Send + 'static,
) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    guest.place.start(move || {
        while !stop.load(Ordering::Relaxed) {
            what();
        }
    })
}

/// Of new connections with an answer each, one after the other; the middle one and the tenth-slowest of a hundred.
fn latencies(guest: &Guest, server: SocketAddr) -> (Duration, Duration) {
    guest.place.run(move || {
        let mut times: Vec<_> = (0..100)
            .map(|_| {
                let began = Instant::now();
                let mut stream = connect(server);
                stream.write_all(&[1]).unwrap();
                stream.read_exact(&mut [0]).unwrap();
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        (times[50], times[90])
    })
}

/// Servers that pour, and that swallow.
type Servers = [SocketAddr; 2];
/// What one sandbox floods with.
type Flood = fn(&Guest, &Arc<AtomicBool>, Servers) -> Vec<JoinHandle<()>>;

fn bulk(guest: &Guest, stop: &Arc<AtomicBool>, [source, sink]: Servers) -> Vec<JoinHandle<()>> {
    let one = |number: u32| {
        let stop = Arc::clone(stop);
        guest.place.start(move || {
            let down = number.is_multiple_of(2);
            let mut stream = connect(if down { source } else { sink });
            let mut buffer = vec![0; 64 << 10];
            while !stop.load(Ordering::Relaxed) {
                let done = match down {
                    true => stream.read(&mut buffer),
                    false => stream.write(&buffer),
                };
                done.unwrap();
            }
        })
    };
    (0..8).map(one).collect()
}

fn connections(guest: &Guest, stop: &Arc<AtomicBool>, [_, sink]: Servers) -> Vec<JoinHandle<()>> {
    let closed: SocketAddr = "45.0.0.1:9".parse().unwrap();
    let one = |number: u32| {
        let to = if number.is_multiple_of(2) {
            sink
        } else {
            closed
        };
        again_and_again(guest, stop, move || drop(TcpStream::connect(to)))
    };
    (0..8).map(one).collect()
}

fn datagrams(guest: &Guest, stop: &Arc<AtomicBool>, _: Servers) -> Vec<JoinHandle<()>> {
    let one = |_| {
        let socket = guest.place.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let mut port = 0_u16;
        again_and_again(guest, stop, move || {
            port = port.wrapping_add(1).max(1);
            let _ = socket.send_to(&[9; 1400], ("45.0.0.7", port));
        })
    };
    (0..4).map(one).collect()
}

fn questions(guest: &Guest, stop: &Arc<AtomicBool>, _: Servers) -> Vec<JoinHandle<()>> {
    let one = |_| {
        let socket = guest.place.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let mut question = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4].to_vec();
        question.extend(b"aaaa\x07example\0\0\x01\0\x01");
        again_and_again(guest, stop, move || {
            question[13] = question[13].wrapping_add(1) % 26 + b'a';
            let _ = socket.send_to(&question, (GATEWAY_V4, 53));
        })
    };
    (0..4).map(one).collect()
}

/// One thread serves both; what one floods with is what the other would wait behind.
#[test]
fn a_flood_from_one_sandbox_does_not_starve_another() {
    let test = "a_flood_from_one_sandbox_does_not_starve_another";
    let Some(world) = World::new(test) else {
        return;
    };
    let answers = world.server(|mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let source = world.server(|stream| {
        pour(stream);
    });
    let sink = world.server(|stream| {
        all_of(stream);
    });
    let victim = world.guest();
    let alone = latencies(&victim, answers);
    let flooder = world.guest();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: [(&str, Flood); 4] = [
        ("bulk", bulk),
        ("connections", connections),
        ("datagrams", datagrams),
        ("questions", questions),
    ];
    for (name, flood) in floods {
        stop.store(false, Ordering::Relaxed);
        let running = flood(&flooder, &stop, [source, sink]);
        let (middle, slow) = latencies(&victim, answers);
        stop.store(true, Ordering::Relaxed);
        running.into_iter().for_each(super::world::join);
        println!("{name}: {middle:?}, {slow:?}; alone {alone:?}");
        // Threads of the flood and of the test share the processors, too.
        assert!(middle < Duration::from_millis(300), "{name}: {middle:?}");
        assert!(slow < Duration::from_millis(1000), "{name}: {slow:?}");
    }
}

/// One connection beside 16 of another sandbox has more than one connection's part of what both get.
#[test]
fn two_sandboxes_share_the_bandwidth_of_a_thread() {
    let test = "two_sandboxes_share_the_bandwidth_of_a_thread";
    let Some(world) = World::new(test) else {
        return;
    };
    let source = world.server(|stream| {
        pour(stream);
    });
    let (greedy, modest) = (world.guest(), world.guest());
    let stop = Arc::new(AtomicBool::new(false));
    let pull = |guest: &Guest, streams: usize| {
        let bytes = Arc::new(AtomicU64::new(0));
        let running: Vec<_> = (0..streams)
            .map(|_| {
                let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
                guest.place.start(move || {
                    let (mut stream, mut buffer) = (connect(source), vec![0; 64 << 10]);
                    while !stop.load(Ordering::Relaxed) {
                        let length = stream.read(&mut buffer).unwrap();
                        bytes.fetch_add(length as u64, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        (bytes, running)
    };
    let (much, many) = pull(&greedy, 16);
    let (little, few) = pull(&modest, 1);
    let both = [&much, &little];
    thread::sleep(Duration::from_millis(300));
    let before = both.map(|bytes| bytes.load(Ordering::Relaxed));
    thread::sleep(Duration::from_secs(1));
    let after = both.map(|bytes| bytes.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    many.into_iter().chain(few).for_each(super::world::join);
    let [much, little] = [0, 1].map(|at| (after[at] - before[at]) as f64);
    println!("16 connections {much}, one {little}");
    // The kernel gives 17 reading threads the same time each, so that one of them has less than half.
    assert!(
        little * 16.0 > much,
        "one connection has {little}, 16 have {much}"
    );
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
