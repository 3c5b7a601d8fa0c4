//! What devices and connections take of this process. Measured in one of its own, where no other test runs.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use llm_in_sandbox::net::gate::Gate;
use llm_in_sandbox::net::rules::Rules;
use llm_in_sandbox::net::{Attachment, Entries, Ledger, Net, NetLimits, Settings};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

const MARK: &str = "LIS_TEST_MEMORY";

/// Of this process, in bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Needs no device: the other end of a socket pair is as silent as an idle sandbox.
#[test]
fn an_idle_device_takes_little_memory() {
    if std::env::var_os(MARK).is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "translator::memory::an_idle_device_takes_little_memory",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(MARK, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        print!("{said}");
        assert!(output.status.success(), "{said}");
        assert!(said.contains("bytes each"), "it did not run: {said}");
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
