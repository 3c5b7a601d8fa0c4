//! Network namespaces made ahead: making one is a third of a sandbox's start.
//!
//! Only root's zygote can: it enters one before it clones (a namespace made here does not belong to
//! the sandbox's user namespace, so that PID 1 could not), and it has to come back for sandboxes on
//! the host's network. Each serves one sandbox: a used one may carry state.

use std::fs::{self, File};
use std::io;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys::fork::{Cloned, Forked};
use crate::sys::process;
use crate::wire::NetworkSource;

/// How many wait at most: a burst of starts of an evaluation. One idle takes 190 kB of the kernel's memory.
const READY: usize = 8;

/// The host's namespace, and fresh ones.
#[derive(Debug)]
pub(super) struct Networks {
    host: File,
    fresh: Vec<File>,
    /// How many fresh ones are wanted now, and when the first has been used.
    wanted: usize,
    later: usize,
}

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
            wanted,
            later,
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

    /// Does `clone` in the network namespace that the new process is to be born in.
    pub(super) fn inside(
        &mut self,
        source: NetworkSource,
        clone: impl FnOnce() -> io::Result<Forked<Cloned>>,
    ) -> io::Result<Forked<Cloned>> {
        if source != NetworkSource::MadeAhead {
            return clone();
        }
        self.wanted = self.later;
        let network = self.fresh.pop().map_or_else(|| self.make(), Ok)?;
        setns(network, CloneFlags::CLONE_NEWNET)?;
        let cloned = clone();
        if !matches!(cloned, Ok(Forked::Child)) {
            self.come_back()?;
        }
        cloned
    }

    /// With its loopback up, and ping for every group: no other than one sandbox's are in it.
    fn make(&self) -> io::Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = process::loopback_up()
            .and_then(|()| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"))
            .and_then(|()| current());
        self.come_back()?;
        made
    }

    /// A namespace lives as long as a process is in it.
    fn come_back(&self) -> io::Result<()> {
        Ok(setns(&self.host, CloneFlags::CLONE_NEWNET)?)
    }
}

fn current() -> io::Result<File> {
    File::open("/proc/self/ns/net")
}
