//! What one sandbox may not take from another: time of the thread that serves both, and bandwidth.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use llm_in_sandbox::net::{GATEWAY_V4, GUEST_V4};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd;

use super::limits::{all_of, pour};
use super::world::{Guest, World, connect, join};

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

/// Of new connections with an answer each, one after the other; the middle one and the tenth-slowest of a hundred. One that takes
/// longer than [`SLOW`] ends it: then nobody is served.
fn latencies(guest: &Guest, server: SocketAddr) -> (Duration, Duration) {
    let one = move || {
        let mut stream = TcpStream::connect_timeout(&server, SLOW)?;
        stream.set_read_timeout(Some(SLOW))?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])
    };
    guest.place.run(move || {
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            if one().is_err() {
                return (SLOW, SLOW);
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        (times[50], times[90])
    })
}

/// Nobody has to wait so long.
const SLOW: Duration = Duration::from_secs(3);

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

/// A datagram of the sandbox's to an address that is refused, as its kernel would write it.
fn refused_datagram() -> Vec<u8> {
    let mut frame = vec![0; 10];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(GUEST_V4.octets());
    frame.extend([10, 0, 0, 1]);
    frame.extend([0, 9, 0, 9, 0, 8, 0, 0]);
    frame
}

/// A sandbox whose wire never runs empty: threads of the test write to it what a kernel would send.
fn endless(world: &World, stop: &Arc<AtomicBool>) -> (Guest, Vec<JoinHandle<()>>) {
    let (flags, kind) = (SockFlag::SOCK_CLOEXEC, SockType::SeqPacket);
    let (wire, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (guest, device) = world.guest_over(|device| (theirs, device));
    let wire = Arc::new((wire, device));
    let one = |_| {
        let (stop, wire) = (Arc::clone(stop), Arc::clone(&wire));
        thread::spawn(move || {
            let frame = refused_datagram();
            while !stop.load(Ordering::Relaxed) {
                unistd::write(&wire.0, &frame).unwrap();
            }
        })
    };
    (guest, (0..4).map(one).collect())
}

/// How long another sandbox waits beside each flood; one thread serves both.
fn waits_beside_floods(
    world: &World,
    floods: &[(&str, Flood)],
) -> Vec<(String, Duration, Duration)> {
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
    let stop = Arc::new(AtomicBool::new(false));
    let flooder = world.guest();
    let mut seen = Vec::new();
    let mut beside = |name: &str, running: Vec<JoinHandle<()>>| {
        let (middle, slow) = latencies(&victim, answers);
        stop.store(true, Ordering::Relaxed);
        running.into_iter().for_each(join);
        stop.store(false, Ordering::Relaxed);
        println!("{name}: {middle:?}, {slow:?}; alone {alone:?}");
        seen.push((name.to_owned(), middle, slow));
    };
    for (name, flood) in floods {
        beside(name, flood(&flooder, &stop, [source, sink]));
    }
    let (_kept, running) = endless(world, &stop);
    beside("a wire that never runs empty", running);
    seen
}

/// Threads of the flood and of the test share the processors, too.
fn is_fair((_, middle, slow): &(String, Duration, Duration)) -> bool {
    *middle < Duration::from_millis(100) && *slow < Duration::from_millis(400)
}

#[test]
fn a_flood_from_one_sandbox_does_not_starve_another() {
    let test = "a_flood_from_one_sandbox_does_not_starve_another";
    let Some(world) = World::new(test) else {
        return;
    };
    let floods: [(&str, Flood); 4] = [
        ("bulk", bulk),
        ("connections", connections),
        ("datagrams", datagrams),
        ("questions", questions),
    ];
    let seen = waits_beside_floods(&world, &floods);
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(is_fair), "{seen:?}");
}

/// Who keeps the thread for as long as there is something to do keeps it for ever.
#[test]
fn without_turns_a_flood_starves_another() {
    let test = "without_turns_a_flood_starves_another";
    let Some(world) = World::with(test, |settings| settings.turns = false) else {
        return;
    };
    // Beside other tests the flood may get so little time that its wire runs empty.
    let starves = |_| !waits_beside_floods(&world, &[]).iter().all(is_fair);
    assert!((0..20).any(starves));
}

/// One connection beside 16 of another sandbox has its sandbox's half, not one connection's part of what both get.
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
    many.into_iter().chain(few).for_each(join);
    let [much, little] = [0, 1].map(|at| (after[at] - before[at]) as f64);
    println!("16 connections {much}, one {little}");
    // Measured: half, also beside other work. One of 17 threads that read may have to wait for a processor.
    assert!(
        little * 3.0 > much,
        "one connection has {little}, 16 have {much}"
    );
}

/// Of many sandboxes that pull at once over a connection each: Jain's index, and the least share in the largest.
fn shares(world: &World) -> (f64, f64) {
    const MANY: usize = 64;
    const TIME: Duration = Duration::from_secs(2);
    let source = world.server(|stream| {
        pour(stream);
    });
    let guests: Vec<_> = (0..MANY).map(|_| world.guest()).collect();
    let connected = |guest: &Guest| guest.place.run(move || connect(source));
    let streams: Vec<_> = guests.iter().map(connected).collect();
    let mut bytes = [0_u64; MANY];
    let mut buffer = vec![0; 64 << 10];
    let began = Instant::now();
    // One thread reads for all of them in turn, so that their shares are the engine's and not those of threads.
    while began.elapsed() < TIME {
        let mut ready: Vec<_> = streams
            .iter()
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut ready, 1000_u16).unwrap();
        let ready: Vec<_> = ready.iter().map(|one| one.any().unwrap()).collect();
        for ((mut stream, ready), bytes) in streams.iter().zip(ready).zip(&mut bytes) {
            if ready {
                *bytes += stream.read(&mut buffer).unwrap() as u64;
            }
        }
    }
    let shares = bytes.map(|bytes| bytes as f64);
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.map(|one| one * one));
    let index = sum * sum / (MANY as f64 * squares.iter().sum::<f64>());
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    let ratio = *least as f64 / *most as f64;
    println!("{sum} bytes, Jain's index {index:.3}, least/most {ratio:.2}");
    (index, ratio)
}

fn are_alike((index, ratio): (f64, f64)) -> bool {
    index > 0.95 && ratio > 0.5
}

#[test]
fn many_sandboxes_have_like_shares() {
    if let Some(world) = World::new("many_sandboxes_have_like_shares") {
        assert!(are_alike(shares(&world)));
    }
}

#[test]
fn without_turns_shares_differ() {
    let test = "without_turns_shares_differ";
    if let Some(world) = World::with(test, |settings| settings.turns = false) {
        assert!(!are_alike(shares(&world)));
    }
}
