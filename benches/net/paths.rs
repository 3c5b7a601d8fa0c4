//! The ways out of a sandbox that are compared.

use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use llm_in_sandbox::net::gate::{Gate, Rules};
use llm_in_sandbox::net::{
    Attachment, Entries, GUEST_V4, GUEST_V6, Ledger, MTU, Net, NetLimits, PREFIX_V4, PREFIX_V6,
};
use llm_in_sandbox::sys::tun;

use crate::place::{DEADLINE, Place};
use crate::transfers;

/// Where the servers are: an address of the internet, as far as these namespaces know.
pub(crate) const SERVER: &str = "45.0.0.1";

/// One way, as long as it is kept.
pub(crate) struct Path {
    pub(crate) name: String,
    pub(crate) place: Place,
    _holder: Holder,
}

#[expect(dead_code, reason = "held, not read")]
enum Holder {
    Ours(Attachment, Entries),
    Program(Program),
    Kernel,
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel's TCP inside does that may be behind a stall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) control: &'static str,
    pub(crate) remembers: bool,
}

impl Tcp {
    /// Whether it could be: a namespace may choose what the host allows, and reno.
    pub(crate) fn set(self) -> bool {
        let remembers = if self.remembers { "0" } else { "1" };
        let directory = "/proc/sys/net/ipv4";
        fs::write(format!("{directory}/tcp_congestion_control"), self.control).is_ok()
            && fs::write(format!("{directory}/tcp_no_metrics_save"), remembers).is_ok()
    }
}

/// The host of the benchmark, in the namespace of the calling thread, and its wire to the internet, where the servers are.
pub(crate) fn make_host() -> Place {
    let internet = Place::new();
    let thread = internet.thread.clone();
    ip(&format!(
        "link add up0 type veth peer name far0 netns {thread}"
    ));
    ip("address add 45.0.0.2/24 dev up0");
    ip("link set up0 up");
    internet.run(|| {
        ip(&format!("address add {SERVER}/24 dev far0"));
        ip("link set far0 up");
        // To the kernel's own sandbox, which nobody translates.
        ip("route add 10.8.0.0/24 via 45.0.0.2");
        wide_ports();
        transfers::serve(SERVER.parse().unwrap());
    });
    ip(&format!("route add default via {SERVER}"));
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    wide_ports();
    internet
}

/// More connections than usual are made to one server.
fn wide_ports() {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

/// A sandbox's device, in the namespace of the calling thread, as the zygote makes it.
pub(crate) fn device() -> OwnedFd {
    let device = tun::make("eth0").unwrap();
    let addresses = [(GUEST_V4.into(), PREFIX_V4), (GUEST_V6.into(), PREFIX_V6)]
        .map(|(address, prefix)| tun::Address { address, prefix });
    tun::configure("eth0", MTU, &addresses).unwrap();
    device
}

pub(crate) fn attach(net: &Net, device: OwnedFd) -> (Attachment, Entries) {
    let (ledger, entries) = Ledger::new(1000);
    let gate = Gate::new(Rules::internet(), [].into_iter().collect());
    (
        net.attach(device, gate, NetLimits::default(), ledger),
        entries,
    )
}

pub(crate) fn ours(net: &Net) -> Path {
    let place = Place::new();
    let (attachment, entries) = attach(net, place.run(device));
    ready("ours", place, Holder::Ours(attachment, entries)).unwrap()
}

pub(crate) fn pasta() -> Option<Path> {
    let place = Place::new();
    let program = started(
        Command::new("pasta")
            .args(["-f", "-q", "--config-net", "--netns-only", "--runas", "0"])
            .args(["-4", "-a", "10.9.9.2", "-n", "24", "-g", "10.9.9.1"])
            .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
            .arg("--netns")
            .arg(&place.path),
    )?;
    ready("pasta", place, Holder::Program(program))
}

pub(crate) fn slirp4netns() -> Option<Path> {
    let place = Place::new();
    let program = started(
        Command::new("slirp4netns")
            .args(["--configure", "--mtu=65520", "--netns-type=path"])
            .arg(&place.path)
            .arg("tap0"),
    )?;
    ready("slirp4netns", place, Holder::Program(program))
}

/// Without anything between: what the kernel itself gives.
pub(crate) fn veth() -> Option<Path> {
    let place = Place::new();
    let thread = &place.thread;
    ip(&format!(
        "link add near0 type veth peer name eth0 netns {thread}"
    ));
    ip("address add 10.8.0.1/24 dev near0");
    ip("link set near0 up");
    place.run(|| {
        ip("address add 10.8.0.2/24 dev eth0");
        ip("link set eth0 up");
        ip("route add default via 10.8.0.1");
    });
    ready("veth", place, Holder::Kernel)
}

fn started(command: &mut Command) -> Option<Program> {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().ok().map(Program)
}

impl Path {
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
}

/// Waits until a server is reached.
fn ready(name: &str, place: Place, holder: Holder) -> Option<Path> {
    let server: IpAddr = SERVER.parse().unwrap();
    // The same TCP at the sandboxes' end of every way: what ours have here, whatever the host's own is.
    let tcp = Tcp {
        control: "reno",
        remembers: false,
    };
    assert!(place.run(move || tcp.set()));
    let began = Instant::now();
    while !place.run(move || transfers::get(server)) {
        if began.elapsed() > DEADLINE / 3 {
            println!("going on without {name}: nothing is reached over it");
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Some(Path {
        name: name.to_owned(),
        place,
        _holder: holder,
    })
}
