//! Network namespaces made ahead: making one is a third of a sandbox's start.
//!
//! Only root's zygote can: it enters one before it clones (a namespace made here does not belong to
//! the sandbox's user namespace, so that PID 1 could not), and it has to come back for sandboxes on
//! the host's network. Each serves one sandbox: a used one may carry state.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys::fork::{Cloned, Forked};
use crate::sys::mount::{NODEV, NOEXEC, NOSUID, new_fs};
use crate::sys::{process, tun};
use crate::wire::{Groundwork, NetworkDevice, NetworkSource};

/// A namespace, and the device in it that the host is to serve.
pub(super) type Network = (File, Option<OwnedFd>);

/// How many wait at most: a burst of starts of an evaluation. One idle takes 190 kB of the kernel's memory.
const READY: usize = 8;

/// The host's namespace, and fresh ones.
#[derive(Debug)]
pub(super) struct Networks {
    host: File,
    fresh: Vec<Network>,
    /// What the next ones get: what the last sandbox wanted.
    device: Option<NetworkDevice>,
    /// How many fresh ones are wanted now, and when the first has been used.
    wanted: usize,
    later: usize,
    /// Where the next ones are set up, and how many more. See [`Networks::proc`].
    proc: Option<(OwnedFd, usize)>,
}

/// So many share a procfs.
const SHARE: usize = 64;

impl Networks {
    /// `one`: for a zygote of one sandbox.
    pub(super) fn new(one: bool) -> io::Result<Self> {
        let host = current()?;
        // Whoever may not enter the host's namespace could not come back to it.
        let ahead = setns(&host, CloneFlags::CLONE_NEWNET).is_ok();
        let (wanted, later) = match (ahead, one) {
            (false, _) => (0, 0),
            (true, true) => (1, 0),
            (true, false) => (1, READY),
        };
        Ok(Self {
            host,
            fresh: Vec::new(),
            device: None,
            wanted,
            later,
            proc: None,
        })
    }

    /// None was asked for yet, or some were used.
    pub(super) fn is_short(&self) -> bool {
        self.fresh.len() < self.wanted
    }

    /// Makes one more. What fails here fails again, and is told, when it is needed.
    pub(super) fn refill(&mut self) {
        match self.make() {
            Ok(network) => self.fresh.push(network),
            Err(_) => self.wanted = self.fresh.len(),
        }
    }

    /// A network for the next sandbox, where it is to have one of ours.
    ///
    /// # Errors
    /// None can be made, or no device in it.
    pub(super) fn take(&mut self, groundwork: &Groundwork) -> io::Result<Option<Network>> {
        if !matches!(groundwork.network, NetworkSource::MadeAhead { .. }) {
            return Ok(None);
        }
        self.wanted = self.later;
        self.expect(groundwork.device.as_ref());
        let network = match self.fresh.pop() {
            Some(network) => network,
            None => self.make()?,
        };
        Ok(Some(network))
    }

    /// What those that are made from now on have.
    pub(super) fn expect(&mut self, device: Option<&NetworkDevice>) {
        if self.device.as_ref() != device {
            self.device = device.cloned();
            let devices = self.fresh.drain(..).filter_map(|(_, device)| device);
            devices.for_each(tun::let_go);
        }
    }

    /// Does `clone` in the network namespace that the new process is to be born in.
    pub(super) fn inside(
        &self,
        network: Option<&Network>,
        clone: impl FnOnce() -> io::Result<Forked<Cloned>>,
    ) -> io::Result<Forked<Cloned>> {
        let Some((namespace, _)) = network else {
            return clone();
        };
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let cloned = clone();
        if !matches!(cloned, Ok(Forked::Child)) {
            self.come_back()?;
        }
        cloned
    }

    /// With its loopback up, and ping for every group: no other than one sandbox's are in it.
    fn make(&mut self) -> io::Result<Network> {
        let proc = self.proc();
        unshare(CloneFlags::CLONE_NEWNET)?;
        let ping = format!("{proc}/sys/net/ipv4/ping_group_range");
        let device = self.device.as_ref();
        let made = process::loopback_up()
            .and_then(|()| fs::write(ping, "0 2147483647"))
            .and_then(|()| device.map(|device| make_device(device, &proc)).transpose())
            .and_then(|device| Ok((current()?, device)));
        self.come_back()?;
        made
    }

    /// A procfs for the settings of the next namespace. In one procfs the kernel keeps the files of a setting of all living
    /// namespaces in one list and goes through it at each open: with 2,000 sandboxes 0.3 ms for one file. Each mount is
    /// a procfs of its own since Linux 5.8.
    fn proc(&mut self) -> String {
        self.proc = match self.proc.take() {
            _ if self.later == 0 => None,
            Some((proc, left @ 1..)) => Some((proc, left - 1)),
            _ => new_fs(c"proc", &[], NODEV | NOSUID | NOEXEC)
                .ok()
                .map(|proc| (proc, SHARE - 1)),
        };
        let proc = self.proc.as_ref();
        proc.map_or_else(
            || "/proc".to_owned(),
            |(proc, _)| format!("/proc/self/fd/{}", proc.as_raw_fd()),
        )
    }

    /// A namespace lives as long as a process is in it.
    fn come_back(&self) -> io::Result<()> {
        Ok(setns(&self.host, CloneFlags::CLONE_NEWNET)?)
    }
}

/// The name of the device, as interfaces of the internet are often called.
const DEVICE: &str = "eth0";

/// Makes a device in the network namespace of this thread, with addresses and routes; `proc` is a procfs.
pub(super) fn make_device(device: &NetworkDevice, proc: &str) -> io::Result<OwnedFd> {
    let made = tun::make(DEVICE)?;
    let address = |(address, prefix): &(IpAddr, u8)| tun::Address {
        address: *address,
        prefix: *prefix,
    };
    let addresses: Vec<_> = device.addresses.iter().map(address).collect();
    tun::configure(DEVICE, device.mtu, &addresses)?;
    // The host's choice for long ways, and what it remembers of others, are wrong for a way of no length.
    // A kernel that lacks one of them does without; what the host allows to no namespace but its own (cubic, where its own is
    // another) is reno's to replace, which is allowed everywhere.
    let control = format!("{proc}/sys/net/ipv4/tcp_congestion_control");
    let _ = fs::write(&control, "cubic").or_else(|_| fs::write(&control, "reno"));
    let _ = fs::write(format!("{proc}/sys/net/ipv4/tcp_no_metrics_save"), "1");
    Ok(made)
}

fn current() -> io::Result<File> {
    File::open("/proc/self/ns/net")
}
