//! What devices and connections take of this process. Measured in one of its own, where no other test runs.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use llm_in_sandbox::net::gate::Gate;
use llm_in_sandbox::net::rules::Rules;
use llm_in_sandbox::net::{Attachment, Entries, Ledger, Net, NetLimits, Settings};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::world::{SERVER_V4, World, connect};

const MARK: &str = "LIS_TEST_MEMORY";
/// Bytes that wait in this process for all servers of a sandbox that do not read.
const ROOM: usize = 8 << 20;
/// What the kernel takes of what is sent at once.
const PIECE: usize = 64 << 10;

/// Of this process, in bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Whether this is a process of this test's own. Else it is run in one, and what it prints has to hold `mark`.
fn is_alone(test: &str, mark: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("translator::memory::{test}")])
        .args(["--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let ran = said.contains(mark) || said.contains("SKIP ");
    assert!(ran, "it did not run: {said}");
    false
}

/// Needs no device: the other end of a socket pair is as silent as an idle sandbox.
#[test]
fn an_idle_device_takes_little_memory() {
    if !is_alone("an_idle_device_takes_little_memory", "bytes each") {
        return;
    }
    llm_in_sandbox::sys::process::raise_open_files().unwrap();
    const MANY: usize = 400;
    let settings = Settings {
        threads: 1,
        ..Settings::default()
    };
    let net = Net::start(&settings).unwrap();
    let attached = |count: usize| {
        let all: Vec<_> = (0..count).map(|_| attach(&net)).collect();
        // One thread serves them in their order: when it lets the last one go, it has taken on all others.
        let (wire, last, _) = attach(&net);
        drop(last);
        let mut wire = [PollFd::new(wire.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut wire, 10_000_u16), Ok(1));
        all
    };
    // Whatever the first ones need.
    let first = attached(50);
    let before = resident();
    let rest = attached(MANY);
    let each = resident().saturating_sub(before) / MANY;
    println!("{each} bytes each");
    assert!(each <= 8 << 10, "{each} bytes for each idle device");
    drop((first, rest));
}

fn attach(net: &Net) -> (OwnedFd, Attachment, Entries) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (wire, device) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let (ledger, entries) = Ledger::new(1000);
    let gate = Gate::new(Rules::internet(), [].into_iter().collect());
    let attachment = net.attach(device, gate, NetLimits::default(), ledger);
    (wire, attachment, entries)
}

/// A server that keeps its connections and does nothing with them.
fn keeper(world: &World) -> (SocketAddr, Receiver<TcpStream>) {
    let (keep, kept) = channel();
    let at = world.outside.run(move || {
        let listener = TcpListener::bind((SERVER_V4, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut streams = listener.incoming().map(Result::unwrap);
            streams.try_for_each(|stream| keep.send(stream))
        });
        at
    });
    (at, kept)
}

/// Writes to all of them until nothing more goes.
fn fill(streams: &[TcpStream]) {
    let data = vec![6; PIECE];
    for stream in streams {
        stream.set_nonblocking(true).unwrap();
    }
    loop {
        let mut ready: Vec<_> = streams
            .iter()
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLOUT))
            .collect();
        if poll(&mut ready, 1000_u16).unwrap() == 0 {
            return;
        }
        let ready: Vec<_> = ready.iter().map(|one| one.any().unwrap()).collect();
        for (mut stream, _) in streams.iter().zip(ready).filter(|(_, ready)| *ready) {
            match stream.write(&data) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Bytes of the kernel's for the translator's sockets to this server: what ss(8) tells of those whose peer it is.
fn of_kernel(world: &World, server: SocketAddr) -> usize {
    let output = world.outside.run(move || {
        let mut ss = Command::new("ss");
        ss.args(["--tcp", "--numeric", "--memory", "--no-header", "dst"])
            .arg(server.to_string());
        ss.output().unwrap()
    });
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.split("skmem:(").skip(1).map(|of| {
        let fields = of.split(')').next().unwrap().split(',');
        let value = |field: &str, name: &str| field.strip_prefix(name)?.parse::<usize>().ok();
        // Received, kept for later, and to be sent.
        let counted =
            fields.filter_map(|field| ["r", "f", "w"].iter().find_map(|name| value(field, name)));
        counted.sum::<usize>()
    });
    all.sum()
}

/// What connections of one sandbox take of this process, and of the kernel beside the sandbox's own, when nobody reads: what it
/// sends; or what it is sent.
fn taken(world: &World, count: usize, up: bool) -> (usize, usize) {
    llm_in_sandbox::sys::process::raise_open_files().unwrap();
    let (server, kept) = keeper(world);
    let guest = world.guest();
    let streams: Vec<_> = guest
        .place
        .run(move || (0..count).map(|_| connect(server)).collect());
    let served: Vec<_> = kept.iter().take(count).collect();
    let before = resident();
    fill(if up { &streams } else { &served });
    let process = resident().saturating_sub(before);
    let kernel = of_kernel(world, server);
    println!("{count} connections, up {up}: process {process}, kernel {kernel} bytes");
    (process, kernel)
}

/// What the last of three values of a setting of the kernel's says: the most that it gives a socket.
fn most_of(world: &World, setting: &'static str) -> usize {
    let read = move || fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}")).unwrap();
    let text = world.outside.run(read);
    text.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// What the kernel may keep for so many connections of one sandbox, one way: the kernel doubles what is asked for, and keeps one
/// piece more than fits.
fn bound(count: usize, of_first: usize) -> usize {
    let (first, next) = (count.min(16), count.clamp(16, 64) - 16);
    let rest = count - first - next;
    let of = |buffer: usize| 2 * buffer + PIECE;
    first * (of_first + PIECE) + next * of(256 << 10) + rest * of(32 << 10)
}

#[test]
fn a_thousand_connections_of_one_sandbox_are_bounded() {
    let test = "a_thousand_connections_of_one_sandbox_are_bounded";
    if !is_alone(test, "1000 connections") {
        return;
    }
    if Command::new("ss").arg("--version").output().is_err() {
        return crate::world::lacks(test, "tun", "needs ss(8)");
    }
    let Some(world) = World::new(test) else {
        return;
    };
    for (up, setting) in [(true, "tcp_wmem"), (false, "tcp_rmem")] {
        let (process, kernel) = taken(&world, 1000, up);
        let most = bound(1000, most_of(&world, setting));
        assert!(kernel > 10 << 20, "they are full");
        assert!(kernel <= most, "{kernel} bytes of the kernel, not {most}");
        // Queues double as they grow.
        assert!(process <= 2 * ROOM + (4 << 20), "{process} bytes");
    }
    drop(world);
    // With the kernel's own buffers much fewer take more.
    let Some(world) = World::with(test, |settings| settings.bound_buffers = false) else {
        return;
    };
    let (_, kernel) = taken(&world, 150, true);
    let most = bound(150, most_of(&world, "tcp_wmem"));
    assert!(kernel > most, "{kernel} bytes, and no more than {most}");
}
