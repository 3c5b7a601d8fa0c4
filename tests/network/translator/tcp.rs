//! Connections: every byte, both ways, and both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use llm_in_sandbox::net::{Ended, Verdict};

use llm_in_sandbox::net::NetLimits;
use llm_in_sandbox::net::gate::Rules;

use super::world::{DEADLINE, SERVER_V6, World, connect};

/// Bytes that show where one is missing.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
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
    let entry = guest.next_entry();
    assert_eq!((entry.address, entry.port), (server.ip(), server.port()));
    assert_eq!((entry.up, entry.down), (8, 18));
    assert_eq!(
        (entry.verdict, entry.ended),
        (Verdict::Allowed, Ended::Done)
    );
}

#[test]
fn many_megabytes_are_exact_both_ways_at_once() {
    if let Some(world) = World::new("many_megabytes_are_exact_both_ways_at_once") {
        many_megabytes(&world);
    }
}

/// As kernels before 6.9 do it.
#[test]
fn many_megabytes_are_exact_where_sockets_are_read_from_their_start() {
    let test = "many_megabytes_are_exact_where_sockets_are_read_from_their_start";
    if let Some(world) = World::with(test, |settings| settings.peek_offset = false) {
        many_megabytes(&world);
    }
}

fn many_megabytes(world: &World) {
    const SIZE: usize = 24 << 20;
    let exchange = |mut stream: TcpStream, ours: u64, theirs: u64| {
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
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
    let (report, done) = channel();
    let server = world.server(move |stream| {
        exchange(stream, 1, 2);
        report.send(()).unwrap();
    });
    let guest = world.guest();
    guest.place.run(move || exchange(connect(server), 2, 1));
    done.recv_timeout(DEADLINE).unwrap();
    let entry = guest.next_entry();
    assert_eq!((entry.up, entry.down), (SIZE as u64, SIZE as u64));
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
    let (report, received) = channel();
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
    let all = received.recv_timeout(DEADLINE).unwrap();
    assert_eq!(all, 3 << 20);
}

#[test]
fn ipv6_is_as_good() {
    let Some(world) = World::new("ipv6_is_as_good") else {
        return;
    };
    let server = world.server_at(SERVER_V6, |mut stream| {
        stream.write_all(&pattern(5 << 20, 3)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all == pattern(1 << 20, 4));
    });
    let guest = world.guest();
    guest.place.run(move || {
        let mut stream = connect(server);
        let mut all = vec![0; 5 << 20];
        stream.read_exact(&mut all).unwrap();
        assert!(all == pattern(5 << 20, 3));
        stream.write_all(&pattern(1 << 20, 4)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut all).unwrap(), 0);
    });
    assert_eq!(guest.next_entry().ended, Ended::Done);
}

/// Nobody reads until the writer has had no room for a while: windows close, and have to open again.
fn written_until_full(mut stream: TcpStream, seed: u64, full: &std::sync::mpsc::Sender<usize>) {
    let data = pattern(64 << 20, seed);
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut stuck) = (0, 0);
    // No event tells that nothing more will fit: half a second without any.
    while stuck < 50 {
        match stream.write(&data[sent..]) {
            Ok(length) => (sent, stuck) = (sent + length, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stuck += 1;
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    full.send(sent).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&data[sent..][..1 << 20]).unwrap();
}

fn read_when_full(mut stream: TcpStream, seed: u64, full: &std::sync::mpsc::Receiver<usize>) {
    let sent = full.recv_timeout(DEADLINE).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all == pattern(64 << 20, seed)[..sent + (1 << 20)]);
}

#[test]
fn a_sandbox_that_reads_late_gets_everything() {
    let Some(world) = World::new("a_sandbox_that_reads_late_gets_everything") else {
        return;
    };
    let (full, is_full) = channel();
    let server = world.server(move |stream| written_until_full(stream, 5, &full));
    let guest = world.guest();
    guest
        .place
        .run(move || read_when_full(connect(server), 5, &is_full));
}

#[test]
fn a_server_that_reads_late_gets_everything() {
    let Some(world) = World::new("a_server_that_reads_late_gets_everything") else {
        return;
    };
    let (full, is_full) = channel();
    let (done, is_done) = channel();
    let is_full = std::sync::Mutex::new(is_full);
    let server = world.server(move |stream| {
        read_when_full(stream, 6, &is_full.lock().unwrap());
        done.send(()).unwrap();
    });
    let guest = world.guest();
    guest
        .place
        .run(move || written_until_full(connect(server), 6, &full));
    is_done.recv_timeout(DEADLINE).unwrap();
}

fn break_off(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(stream);
}

#[test]
fn a_reset_passes_both_ways() {
    let Some(world) = World::new("a_reset_passes_both_ways") else {
        return;
    };
    let (report, reported) = channel();
    let server = world.server(move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        if byte == [1] {
            break_off(stream);
            return;
        }
        report
            .send(stream.read(&mut byte).unwrap_err().kind())
            .unwrap();
    });
    let guest = world.guest();
    let seen = guest.place.run(move || {
        let mut first = connect(server);
        first.write_all(&[1]).unwrap();
        let seen = first.read(&mut [0]).unwrap_err().kind();
        let mut second = connect(server);
        second.write_all(&[2]).unwrap();
        break_off(second);
        seen
    });
    assert_eq!(seen, ErrorKind::ConnectionReset);
    let told = reported.recv_timeout(DEADLINE).unwrap();
    assert_eq!(told, ErrorKind::ConnectionReset);
    let ended = [(); 2].map(|()| guest.next_entry().ended);
    assert_eq!(ended, [Ended::ResetOutside, Ended::ResetInside]);
}

#[test]
fn deadlines_end_what_nobody_answers_or_uses() {
    let Some(world) = World::new("deadlines_end_what_nobody_answers_or_uses") else {
        return;
    };
    let limits = NetLimits {
        connect: Duration::from_millis(300),
        tcp_idle: Duration::from_millis(400),
        ..NetLimits::default()
    };
    let server = world.server(|mut stream| {
        let _ = stream.read(&mut [0]);
    });
    let guest = world.guest_with(Rules::internet(), limits);
    let (nobody, idle) = guest.place.run(move || {
        let nobody = TcpStream::connect("45.0.0.99:80").unwrap_err().kind();
        let idle = connect(server).read(&mut [0]).unwrap_err().kind();
        (nobody, idle)
    });
    let expected = (ErrorKind::HostUnreachable, ErrorKind::ConnectionReset);
    assert_eq!((nobody, idle), expected);
    let ended: Vec<_> = guest.detach().iter().map(|entry| entry.ended).collect();
    assert_eq!(ended, [Ended::TimedOut, Ended::TimedOut]);
}

#[test]
fn connections_are_bounded_and_all_of_them_work() {
    let Some(world) = World::new("connections_are_bounded_and_all_of_them_work") else {
        return;
    };
    const MOST: usize = 1000;
    let limits = NetLimits {
        tcp_flows: MOST,
        ..NetLimits::default()
    };
    let server = world.server(|mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let guest = world.guest_with(Rules::internet(), limits);
    guest.place.run(move || {
        let mut streams: Vec<_> = (0..MOST).map(|_| connect(server)).collect();
        for _ in 0..20 {
            let refused = TcpStream::connect(server).unwrap_err().kind();
            assert_eq!(refused, ErrorKind::ConnectionRefused);
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&[number as u8]).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number as u8]);
        }
        // One that ends makes room for another.
        drop(streams.pop());
        let again = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            TcpStream::connect(server).is_ok()
        });
        assert!(again);
    });
    let entries = guest.detach();
    let limited = |verdict| {
        entries
            .iter()
            .filter(|entry| entry.verdict == verdict)
            .count()
    };
    assert_eq!(limited(Verdict::Allowed), MOST + 1);
    assert!(limited(Verdict::Limited) >= 20);
}

#[test]
fn what_is_denied_is_seen_and_told() {
    let Some(world) = World::new("what_is_denied_is_seen_and_told") else {
        return;
    };
    let guest = world.guest();
    let kinds = guest.place.run(|| {
        [
            "10.0.0.1:80",
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "100.96.0.1:80",
        ]
        .map(|to| TcpStream::connect(to).unwrap_err().kind())
    });
    // Which of the two is told depends on whether the kernel was still in connect(2) when the error came.
    let either = |kind, other| kind == other || kind == ErrorKind::ConnectionRefused;
    assert!(either(kinds[0], ErrorKind::HostUnreachable), "{kinds:?}");
    assert!(either(kinds[1], ErrorKind::HostUnreachable), "{kinds:?}");
    assert!(either(kinds[2], ErrorKind::PermissionDenied), "{kinds:?}");
    assert_eq!(kinds[3], ErrorKind::ConnectionRefused);
    let entries = guest.detach();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry.verdict == Verdict::Denied));
    assert!(entries.iter().all(|entry| !entry.rule.is_empty()));
}
