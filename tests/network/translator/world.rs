//! Two network namespaces: a sandbox's, and one that is the internet and its host at once.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use llm_in_sandbox::net::gate::{Gate, Rules};
use llm_in_sandbox::net::{
    Attachment, Connection, Entries, GUEST_V4, GUEST_V6, Ledger, MTU, Net, NetLimits, PREFIX_V4,
    PREFIX_V6, Settings, Struck,
};
use llm_in_sandbox::sys::{process, tun};
use nix::sched::{CloneFlags, unshare};

/// Nothing takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Where servers of the test are: addresses of the internet, as far as these namespaces know.
pub(crate) const SERVER_V4: &str = "45.0.0.1";
pub(crate) const SERVER_V6: &str = "2a00::1";

/// A thread that is in a namespace of its own, and starts others there.
pub(crate) struct Place(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Place {
    /// Enters a new network namespace; nothing, when this user may not.
    fn new() -> Option<Self> {
        let (jobs, received) = channel::<Job>();
        let (done, entered) = channel();
        thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).is_ok() && process::loopback_up().is_ok();
            done.send(made).unwrap();
            received.iter().for_each(|job| job());
        });
        entered.recv().unwrap().then_some(Self(jobs))
    }

    /// Begins something there.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (started, handle) = channel();
        let job = move || started.send(thread::spawn(what)).unwrap();
        self.0.send(Box::new(job)).unwrap();
        handle.recv_timeout(DEADLINE).unwrap()
    }

    /// Does something there. A panic there is one here.
    pub(crate) fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        join(self.start(what))
    }
}

pub(crate) fn join<T>(handle: JoinHandle<T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The internet and a host that serves sandboxes.
pub(crate) struct World {
    pub(crate) outside: Place,
    net: Net,
    /// Holds the addresses of the outside.
    _uplink: OwnedFd,
    _files: tempfile::TempDir,
}

/// A sandbox, as far as its network goes.
pub(crate) struct Guest {
    pub(crate) place: Place,
    pub(crate) entries: Entries,
    attachment: Option<Attachment>,
}

impl World {
    /// Nothing when it cannot be had: then the test says so and passes, but where `LIS_TEST_REQUIRE` names `tun`.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Self::with(test, |_| {})
    }

    /// With other settings than the usual ones.
    pub(crate) fn with(test: &str, change: impl FnOnce(&mut Settings)) -> Option<Self> {
        let world = Self::try_new(change);
        if world.is_none() {
            let why = "needs /dev/net/tun and the right to make network namespaces";
            // Its namespaces are made by threads, which for anybody but root would first need one of users.
            if nix::unistd::geteuid().is_root() {
                crate::world::lacks(test, "tun", why);
            } else {
                println!("SKIP {test}: {why}");
            }
        }
        world
    }

    fn try_new(change: impl FnOnce(&mut Settings)) -> Option<Self> {
        let outside = Place::new()?;
        let files = tempfile::tempdir().unwrap();
        let resolv_conf = files.path().join("resolv.conf");
        std::fs::write(&resolv_conf, format!("nameserver {SERVER_V4}\n")).unwrap();
        let hosts = files.path().join("hosts");
        std::fs::write(&hosts, "45.0.0.1 from-the-file.example\n").unwrap();
        let mut settings = Settings {
            threads: 1,
            resolv_conf,
            hosts,
            ..Settings::default()
        };
        change(&mut settings);
        let (net, uplink) = outside.run(move || {
            // Nobody reads what is sent over it: all other addresses are a black hole.
            let uplink = tun::make("uplink").ok()?;
            let addresses =
                [(SERVER_V4, 24), (SERVER_V6, 64)].map(|(address, prefix)| tun::Address {
                    address: address.parse().unwrap(),
                    prefix,
                });
            tun::configure("uplink", 1300, &addresses).unwrap();
            Some((Net::start(&settings).unwrap(), uplink))
        })?;
        Some(Self {
            outside,
            net,
            _uplink: uplink,
            _files: files,
        })
    }

    pub(crate) fn guest(&self) -> Guest {
        self.guest_with(Rules::internet(), NetLimits::default())
    }

    pub(crate) fn guest_with(&self, rules: Rules, limits: NetLimits) -> Guest {
        let place = Place::new().unwrap();
        let device = place.run(device);
        self.attach(place, device, rules, limits)
    }

    /// With something between the device and what serves it.
    pub(crate) fn guest_over<T>(
        &self,
        between: impl FnOnce(OwnedFd) -> (OwnedFd, T),
    ) -> (Guest, T) {
        let place = Place::new().unwrap();
        let (device, rest) = between(place.run(device));
        let limits = NetLimits::default();
        (self.attach(place, device, Rules::internet(), limits), rest)
    }

    fn attach(&self, place: Place, device: OwnedFd, rules: Rules, limits: NetLimits) -> Guest {
        let (ledger, entries) = Ledger::new(10_000);
        let gate = Gate::new(rules, [].into_iter().collect());
        Guest {
            place,
            entries,
            attachment: Some(self.net.attach(device, gate, limits, ledger)),
        }
    }

    /// A server outside whose connections are each given to `serve`.
    pub(crate) fn server(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        self.server_at(SERVER_V4, serve)
    }

    pub(crate) fn server_at(
        &self,
        address: &str,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> SocketAddr {
        let address: IpAddr = address.parse().unwrap();
        self.outside.run(move || {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let at = listener.local_addr().unwrap();
            let serve = std::sync::Arc::new(serve);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let serve = serve.clone();
                    thread::spawn(move || serve(stream.unwrap()));
                }
            });
            at
        })
    }
}

/// A sandbox's device, in the namespace of the calling thread.
pub(crate) fn device() -> OwnedFd {
    let device = tun::make("tun0").unwrap();
    let addresses = [(GUEST_V4.into(), PREFIX_V4), (GUEST_V6.into(), PREFIX_V6)]
        .map(|(address, prefix)| tun::Address { address, prefix });
    tun::configure("tun0", MTU, &addresses).unwrap();
    device
}

impl Guest {
    /// The entry of the next connection that ends.
    pub(crate) fn next_entry(&self) -> Connection {
        self.entries.next_within(DEADLINE).unwrap()
    }

    /// Which limits were met.
    pub(crate) fn struck(&self) -> Struck {
        self.entries.struck()
    }

    /// Lets the device go, and gives all entries of its ledger.
    pub(crate) fn detach(mut self) -> Vec<Connection> {
        self.attachment = None;
        std::iter::from_fn(|| self.entries.next_within(DEADLINE)).collect()
    }
}

/// Connects, and neither reads nor writes for ever.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}
