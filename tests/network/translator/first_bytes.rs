//! Connections whose first bytes decide: they are answered before the server is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use llm_in_sandbox::net::gate::Rules;
use llm_in_sandbox::net::{Ended, NetLimits, Verdict};

use super::tcp::pattern;
use super::world::{DEADLINE, Guest, World, connect};

/// By address; that a name is denied makes the first bytes matter.
const RULES: &str = "allow:deny evil.example,45.0.0.0/24:1-65535";

fn guest(world: &World) -> Guest {
    let rules: Rules = RULES.parse().unwrap();
    world.guest_with(rules, NetLimits::default())
}

#[test]
fn what_was_sent_before_the_server_was_asked_arrives_whole() {
    let test = "what_was_sent_before_the_server_was_asked_arrives_whole";
    let Some(world) = World::new(test) else {
        return;
    };
    const SIZE: usize = 4 << 20;
    let (report, done) = channel();
    let server = world.server(move |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&pattern(SIZE, 8)).unwrap();
        report.send(all).unwrap();
    });
    let guest = guest(&world);
    guest.place.run(move || {
        let mut stream = connect(server);
        // A request whose head comes in pieces, each decided on anew, and then more than any window.
        for piece in [
            &b"PO"[..],
            b"ST /up HTTP/1.1\r\nHo",
            b"st: 45.0.0.1\r\n",
            b"\r\n",
        ] {
            stream.set_nodelay(true).unwrap();
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(&pattern(SIZE, 7)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all == pattern(SIZE, 8), "{} bytes", all.len());
    });
    let all = done.recv_timeout(DEADLINE).unwrap();
    assert!(all.starts_with(b"POST /up HTTP/1.1\r\nHost: 45.0.0.1\r\n\r\n"));
    assert!(all.ends_with(&pattern(SIZE, 7)));
    let entry = guest.next_entry();
    assert_eq!(
        (entry.ended, entry.verdict),
        (Ended::Done, Verdict::Allowed)
    );
    assert_eq!(entry.up, all.len() as u64);
}

#[test]
fn a_server_that_refuses_is_told_of_after_the_first_bytes() {
    let test = "a_server_that_refuses_is_told_of_after_the_first_bytes";
    let Some(world) = World::new(test) else {
        return;
    };
    let guest = guest(&world);
    let kind = guest.place.run(|| {
        let mut stream = connect("45.0.0.1:9".parse().unwrap());
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: 45.0.0.1\r\n\r\n")
            .unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(kind, ErrorKind::ConnectionReset);
    assert_eq!(guest.next_entry().ended, Ended::Refused);
}

#[test]
fn what_the_first_bytes_forbid_reaches_nobody() {
    let Some(world) = World::new("what_the_first_bytes_forbid_reaches_nobody") else {
        return;
    };
    let (report, reached) = channel();
    let server = world.server(move |_: TcpStream| report.send(()).unwrap());
    let guest = guest(&world);
    let kind = guest.place.run(move || {
        let mut stream = connect(server);
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(kind, ErrorKind::ConnectionReset);
    let entry = guest.next_entry();
    assert_eq!(
        (entry.ended, entry.verdict),
        (Ended::NotBegun, Verdict::Denied)
    );
    assert_eq!(entry.name.as_deref(), Some("evil.example"));
    assert!(reached.try_recv().is_err(), "the server was reached");
}

/// A client that says nothing is not waited for any longer than for a server.
#[test]
fn first_bytes_that_never_come_end_at_the_deadline() {
    let Some(world) = World::new("first_bytes_that_never_come_end_at_the_deadline") else {
        return;
    };
    let limits = NetLimits {
        connect: Duration::from_millis(300),
        ..NetLimits::default()
    };
    let guest = world.guest_with(RULES.parse().unwrap(), limits);
    let kind = guest.place.run(|| {
        let mut stream = connect("45.0.0.1:9".parse().unwrap());
        stream.read(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(kind, ErrorKind::ConnectionReset);
    assert_eq!(guest.next_entry().ended, Ended::TimedOut);
}
