//! Datagrams, pings, and the errors that belong to them.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use llm_in_sandbox::net::gate::{Protocol, Rules};
use llm_in_sandbox::net::{Ended, GATEWAY_V4, GATEWAY_V6, NetLimits, Verdict};
use llm_in_sandbox::sys::socket;

use super::world::{DEADLINE, SERVER_V4, SERVER_V6, World};

/// A server that sends each datagram back, longer by one byte.
fn echo(world: &World, address: &str) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    world.outside.run(move || {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..=length], from).unwrap();
            }
        });
        at
    })
}

fn connected(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn there_and_back(socket: &UdpSocket, length: usize) -> usize {
    socket.send(&vec![5; length]).unwrap();
    let mut buffer = [0; 65_536];
    socket.recv(&mut buffer).unwrap()
}

#[test]
fn datagrams_go_there_and_back() {
    let Some(world) = World::new("datagrams_go_there_and_back") else {
        return;
    };
    let servers = [echo(&world, SERVER_V4), echo(&world, SERVER_V6)];
    let guest = world.guest();
    let lengths = guest.place.run(move || {
        servers.map(|server| {
            let socket = connected(server);
            [0, 1, 1000, 1400].map(|length| there_and_back(&socket, length))
        })
    });
    assert_eq!(lengths, [[1, 2, 1001, 1401]; 2]);
    let entries = guest.detach();
    assert_eq!(entries.len(), 2, "{entries:?}");
    for entry in entries {
        assert_eq!((entry.up, entry.down), (2401, 2405));
        assert_eq!(
            (entry.protocol, entry.ended),
            (Protocol::Udp, Ended::Detached)
        );
    }
}

#[test]
fn a_port_where_nobody_listens_is_told_of() {
    let Some(world) = World::new("a_port_where_nobody_listens_is_told_of") else {
        return;
    };
    let guest = world.guest();
    let kinds = guest.place.run(|| {
        [SERVER_V4, SERVER_V6].map(|address| {
            let socket = connected((address.parse::<IpAddr>().unwrap(), 9).into());
            socket.send(b"x").unwrap();
            socket.recv(&mut [0]).unwrap_err().kind()
        })
    });
    assert_eq!(kinds, [ErrorKind::ConnectionRefused; 2]);
}

#[test]
fn what_does_not_fit_the_path_is_told_of() {
    let Some(world) = World::new("what_does_not_fit_the_path_is_told_of") else {
        return;
    };
    let guest = world.guest();
    let sizes = guest.place.run(|| {
        ["45.0.0.77:9", "[2a00::77]:9"].map(|to| {
            let to: SocketAddr = to.parse().unwrap();
            let socket = connected(to);
            socket::forbid_fragments(socket.as_fd(), to).unwrap();
            socket.send(&[0; 1400]).unwrap();
            let mut tries = 0;
            while socket::path_mtu(socket.as_fd(), to).unwrap() == 1500 && tries < 1000 {
                tries += 1;
                thread::sleep(Duration::from_millis(5));
            }
            socket::path_mtu(socket.as_fd(), to).unwrap()
        })
    });
    // The way out of the outside: see world.rs.
    assert_eq!(sizes, [1300, 1300]);
}

#[test]
fn idle_flows_are_forgotten_and_flows_are_bounded() {
    let Some(world) = World::new("idle_flows_are_forgotten_and_flows_are_bounded") else {
        return;
    };
    let server = echo(&world, SERVER_V4);
    let limits = NetLimits {
        udp_flows: 4,
        udp_idle: Duration::from_secs(2),
        ..NetLimits::default()
    };
    let guest = world.guest_with(Rules::internet(), limits);
    let refused = guest.place.run(move || {
        let sockets: Vec<_> = (0..5).map(|_| connected(server)).collect();
        for socket in &sockets[..4] {
            assert_eq!(there_and_back(socket, 10), 11);
        }
        sockets[4].send(b"x").unwrap();
        sockets[4].recv(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(refused, ErrorKind::HostUnreachable);
    let first: Vec<_> = (0..5).map(|_| guest.next_entry()).collect();
    assert_eq!(first[0].verdict, Verdict::Limited);
    assert!(first[1..].iter().all(|entry| entry.ended == Ended::Done));
    let again = guest
        .place
        .run(move || there_and_back(&connected(server), 10));
    assert_eq!(again, 11);
}

fn allow_pings() {
    // Of the namespace of the thread that writes.
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
}

/// Whether an echo request is answered with the same data, or what error comes instead.
fn ping(to: &str) -> Result<bool, ErrorKind> {
    let to: IpAddr = to.parse().unwrap();
    let socket = UdpSocket::from(socket::connect_ping((to, 0).into()).unwrap());
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let request = [&[kind, 0, 0, 0, 0, 0, 0, 7][..], b"are you there?"].concat();
    socket.send(&request).map_err(|error| error.kind())?;
    let mut reply = [0; 100];
    let length = socket.recv(&mut reply).map_err(|error| error.kind())?;
    Ok(reply[6..length] == request[6..])
}

#[test]
fn pings_are_answered_where_the_host_may_send_them() {
    let Some(world) = World::new("pings_are_answered_where_the_host_may_send_them") else {
        return;
    };
    let guest = world.guest();
    let all = [SERVER_V4, SERVER_V6];
    let before = guest.place.run(move || {
        allow_pings();
        all.map(ping)
    });
    world.outside.run(allow_pings);
    let after = guest.place.run(move || all.map(ping));
    let gateways = [GATEWAY_V4.to_string(), GATEWAY_V6.to_string()];
    let own = guest
        .place
        .run(move || gateways.map(|gateway| ping(&gateway)));
    assert_eq!((after, own), ([Ok(true); 2], [Ok(true); 2]));
    assert_eq!(
        before,
        [
            Err(ErrorKind::HostUnreachable),
            Err(ErrorKind::PermissionDenied)
        ]
    );
    assert_eq!(guest.detach().len(), 4);
}
