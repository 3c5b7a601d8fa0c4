//! The network of a sandbox by rules: the device that the zygote or PID 1 made, served by this process.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::HostError;
use crate::env::MAX_CONNECTIONS;
use crate::net::gate::{HostAddresses, Protocol};
use crate::net::rules::Rules;
use crate::net::{self, Attachment, Ended, Entries, Gate, Ledger, Net, NetLimits, Struck, Verdict};
use crate::outcome::{Connection, Connections, LimitHit};
use crate::packages::Cache;
use crate::spec::NetworkLimits;
use crate::sys::{socket, tun};
use crate::wire::NetworkDevice;

/// Entries that wait until somebody asks: those of one command, and of a flood its beginning.
const ROOM: usize = MAX_CONNECTIONS;
/// The engine lets a device go within this time.
const DETACH: Duration = Duration::from_secs(2);
/// The node from which network devices are made.
pub(super) const NODE: &str = "/dev/net/tun";

/// The device of every sandbox whose network has rules, and the addresses of its resolver.
pub(super) fn device() -> (NetworkDevice, Vec<IpAddr>) {
    let device = NetworkDevice {
        mtu: NetLimits::default().mtu,
        addresses: vec![
            (IpAddr::V4(net::GUEST_V4), net::PREFIX_V4),
            (IpAddr::V6(net::GUEST_V6), net::PREFIX_V6),
        ],
    };
    let resolvers = vec![IpAddr::V4(net::GATEWAY_V4), IpAddr::V6(net::GATEWAY_V6)];
    (device, resolvers)
}

/// The host's end of a sandbox's device, until it is served.
#[derive(Debug, Default)]
pub(super) struct Device(Option<OwnedFd>);

impl From<Option<OwnedFd>> for Device {
    fn from(device: Option<OwnedFd>) -> Self {
        Self(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(device) = self.0.take() {
            tun::let_go(device);
        }
    }
}

impl Device {
    /// Has the engine serve it. `protect_host`: this host's own addresses are refused.
    pub(super) fn serve(
        mut self,
        rules: Rules,
        limits: NetworkLimits,
        protect_host: bool,
        packages: Option<&Cache>,
    ) -> Result<Network, HostError> {
        let device = self.0.take();
        let device =
            device.ok_or_else(|| HostError::ZygoteGone("sent no network device".into()))?;
        let own = match protect_host {
            true => own_addresses().map_err(HostError::Network)?,
            false => HostAddresses::default(),
        };
        let (ledger, entries) = Ledger::new(ROOM);
        let packages = packages.map(|cache| cache.service(rules.clone(), ledger.clone()));
        let packages = packages.transpose().map_err(HostError::Network)?;
        let gate = Gate::new(rules, own);
        let bounds = bounds(limits);
        let attachment = engine()?.attach_serving(device, gate, bounds, ledger, packages);
        Ok(Network {
            attachment: Some(attachment),
            entries: Mutex::new(Taken {
                entries,
                told: 0,
                struck: Struck::default(),
            }),
            limits,
            began: Instant::now(),
        })
    }
}

/// All addresses of this host's interfaces now.
fn own_addresses() -> io::Result<HostAddresses> {
    Ok(socket::interface_addresses()?.into_iter().collect())
}

fn bounds(limits: NetworkLimits) -> NetLimits {
    let default = NetLimits::default();
    let connections = usize::try_from(limits.connections).unwrap_or(usize::MAX);
    let idle = Duration::from_secs(limits.idle_seconds);
    NetLimits {
        mtu: default.mtu,
        tcp_flows: connections,
        udp_flows: default.udp_flows,
        connect: Duration::from_secs(limits.connect_seconds),
        tcp_idle: idle,
        udp_idle: default.udp_idle.min(idle),
        bandwidth: limits.bytes_per_second,
        bytes: limits.bytes,
    }
}

/// Whether this user may make devices.
pub(super) fn open_node() -> io::Result<()> {
    let opened = std::fs::File::options().read(true).write(true).open(NODE);
    opened.map(drop)
}

/// The engine, started for the first sandbox that needs it.
fn engine() -> Result<&'static Net, HostError> {
    static ENGINE: OnceLock<Net> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine = Net::start(&net::Settings::default()).map_err(HostError::Network)?;
    Ok(ENGINE.get_or_init(|| engine))
}

/// Starts it while the zygote prepares itself. What fails here fails again when it is needed, and is told.
pub(super) fn start_engine() {
    std::thread::spawn(|| drop(engine()));
}

/// A device that is served, and what is known of its connections.
#[derive(Debug)]
pub(super) struct Network {
    attachment: Option<Attachment>,
    entries: Mutex<Taken>,
    limits: NetworkLimits,
    began: Instant,
}

#[derive(Debug)]
struct Taken {
    entries: Entries,
    /// Of those that found no room, how many were told of.
    told: u64,
    /// What had struck when it was asked last.
    struck: Struck,
}

impl Network {
    /// What has ended since it was asked last.
    pub(super) fn connections(&self) -> Connections {
        let mut taken = self.taken();
        let listed: Vec<_> = taken.entries.at_hand().take(ROOM).collect();
        self.told(&mut taken, listed)
    }

    /// Limits that struck since it was asked last. That all bytes are used is told again to a command that failed.
    pub(super) fn struck(&self, failed: bool) -> Vec<LimitHit> {
        let mut taken = self.taken();
        let now = taken.entries.struck();
        let before = std::mem::replace(&mut taken.struck, now);
        self.hits(Struck {
            over: now.over - before.over,
            spent: now.spent && (failed || !before.spent),
            held: now.held.saturating_sub(before.held),
        })
    }

    /// Limits that struck at any time.
    pub(super) fn all_struck(&self) -> Vec<LimitHit> {
        self.hits(self.taken().entries.struck())
    }

    fn hits(&self, struck: Struck) -> Vec<LimitHit> {
        let over = (struck.over > 0).then_some(LimitHit::NetworkConnections {
            max: self.limits.connections,
            refused: struck.over,
        });
        let bytes = self.limits.bytes.filter(|_| struck.spent);
        let bytes = bytes.map(|max_bytes| LimitHit::NetworkBytes { max_bytes });
        let rate = self.limits.bytes_per_second;
        let rate = rate.filter(|_| !struck.held.is_zero());
        let rate = rate.map(|bytes_per_second| LimitHit::NetworkBandwidth {
            bytes_per_second,
            time: struck.held,
        });
        [over, bytes, rate].into_iter().flatten().collect()
    }

    /// Lets the device go; gives what was not told yet. Waits for the engine, on no thread of the runtime's.
    pub(super) fn detach(mut self) -> Connections {
        drop(self.attachment.take());
        let mut taken = self.taken();
        let deadline = Instant::now() + DETACH;
        let mut listed = Vec::new();
        while listed.len() < ROOM {
            let left = deadline.saturating_duration_since(Instant::now());
            match taken.entries.next_within(left) {
                Some(entry) => listed.push(entry),
                None => break,
            }
        }
        self.told(&mut taken, listed)
    }

    fn told(&self, taken: &mut Taken, listed: Vec<net::Connection>) -> Connections {
        let dropped = taken.entries.dropped();
        let omitted = dropped - std::mem::replace(&mut taken.told, dropped);
        let listed = listed.into_iter().map(|entry| self.plain(&entry)).collect();
        Connections { listed, omitted }
    }

    fn plain(&self, entry: &net::Connection) -> Connection {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Connection {
            started: Some(entry.started),
            started_us: micros(entry.started.saturating_duration_since(self.began)),
            lasted_us: micros(entry.lasted),
            protocol: protocol(entry.protocol).to_owned(),
            name: entry.name.as_deref().map(str::to_owned),
            address: entry.address,
            port: entry.port,
            up: entry.up,
            down: entry.down,
            verdict: verdict(entry.verdict).to_owned(),
            rule: entry.rule.to_string(),
            ended: ended(entry.ended).to_owned(),
            cache: entry.cache_hit.map(|hit| cache(hit).to_owned()),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Dns => "dns",
    }
}

fn cache(hit: bool) -> &'static str {
    if hit { "hit" } else { "miss" }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Limited => "limited",
    }
}

fn ended(ended: Ended) -> &'static str {
    match ended {
        Ended::Done => "done",
        Ended::NotBegun => "not_begun",
        Ended::Refused => "refused",
        Ended::Unreachable => "unreachable",
        Ended::TimedOut => "timed_out",
        Ended::ResetInside => "reset_inside",
        Ended::ResetOutside => "reset_outside",
        Ended::Limited => "limited",
        Ended::Detached => "detached",
    }
}
