//! One sandbox: its device, its flows, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::unistd;

use super::engine::Shared;
use super::flow::Flow;
use super::gate::{Gate, Protocol};
use super::ledger::{Ended, Ledger};
use super::link::{Link, ROOM};
use super::service::Service;
use super::{NetLimits, dns, gateway};

/// Packets and flows of one round: then it is another sandbox's turn.
const PACKETS: usize = 32;
const FLOWS: usize = 16;
/// Bytes of one: the most of a frame, and less than a connection's window as a rule. With more, a sandbox whose kernel offers large
/// windows would have many times the share of one whose kernel offers small ones.
const TURN: u64 = 64 << 10;
/// How far ahead of its bandwidth a sandbox may be.
const BURST: Duration = Duration::from_millis(50);
const BURSTS_A_SECOND: u64 = 20;

/// A flow, and what is known of it here.
#[derive(Debug)]
pub(super) struct Slot {
    pub flow: Flow,
    pub key: Option<Key>,
    /// When its timer goes off.
    armed: Option<Instant>,
    /// It is in [`Device::active`].
    queued: bool,
}

/// What packets of a flow have in common.
pub(super) type Key = (Protocol, SocketAddr, SocketAddr);

/// The wire into the sandbox.
#[derive(Debug)]
pub(super) struct Wire {
    tun: OwnedFd,
    room: usize,
    /// Bytes of this round, and how many there may be.
    traffic: u64,
    turn: u64,
    /// Bytes that it may use at all, this round's among them.
    left: u64,
    mtu: u16,
}

impl Wire {
    pub(super) fn link<'a>(&'a mut self, shared: &'a mut Shared) -> Link<'a> {
        Link {
            tun: self.tun.as_fd(),
            frame: &mut shared.frame,
            skipped: &mut shared.skipped,
            room: &mut self.room,
            share: usize::try_from(self.turn.min(self.left.saturating_sub(self.traffic)))
                .unwrap_or(usize::MAX),
            traffic: &mut self.traffic,
            mtu: self.mtu,
            now: shared.now,
        }
    }
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct Device {
    pub id: u32,
    pub wire: Wire,
    pub gate: Gate,
    pub limits: NetLimits,
    pub ledger: Ledger,
    pub service: Option<Box<dyn Service>>,
    pub flows: HashMap<u32, Slot>,
    pub keys: HashMap<Key, u32>,
    next: u32,
    /// Flows whose sockets have something to tell.
    active: VecDeque<u32>,
    /// Flows that packets of this batch belong to.
    touched: Vec<u32>,
    readable: bool,
    /// Bytes that it moved beyond its turn: the last frames and flow of one may. They are taken off the next.
    over: u64,
    /// It is in the engine's queue.
    pub queued: bool,
    /// When the bandwidth for all bytes so far will have been there.
    paid: Instant,
    /// Until when it was told that packets are held back.
    held: Instant,
    pub tcp_flows: usize,
    pub other_flows: usize,
}

impl Device {
    pub(super) fn new(
        id: u32,
        tun: OwnedFd,
        gate: Gate,
        limits: NetLimits,
        ledger: Ledger,
        now: Instant,
    ) -> Self {
        Self {
            id,
            wire: Wire {
                tun,
                room: ROOM,
                traffic: 0,
                turn: 0,
                left: limits.bytes.unwrap_or(u64::MAX),
                mtu: limits.mtu,
            },
            gate,
            limits,
            ledger,
            service: None,
            flows: HashMap::new(),
            keys: HashMap::new(),
            next: 0,
            active: VecDeque::new(),
            touched: Vec::new(),
            readable: true,
            over: 0,
            queued: false,
            paid: now,
            held: now,
            tcp_flows: 0,
            other_flows: 0,
        }
    }

    /// Has the kernel tell of it.
    pub(super) fn register(&self, shared: &Shared) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data(self.id, 0));
        Ok(shared.epoll.add(&self.wire.tun, event)?)
    }

    /// The kernel has told of a flow, or of the device itself, which is 0.
    pub(super) fn event(&mut self, token: u32) {
        if token == 0 {
            self.readable = true;
        } else {
            self.activate(token);
        }
    }

    pub(super) fn activate(&mut self, token: u32) {
        if let Some(slot) = self.flows.get_mut(&token)
            && !slot.queued
        {
            slot.queued = true;
            self.active.push_back(token);
        }
    }

    /// One turn. Whether there is more to do, and now.
    pub(super) fn round(&mut self, shared: &mut Shared) -> bool {
        if self.paid > shared.now {
            shared.timers.insert((self.paid, self.id, 0));
            let since = self.held.max(shared.now);
            self.ledger.held(self.paid.saturating_duration_since(since));
            self.held = self.held.max(self.paid);
            return false;
        }
        if self.over >= TURN {
            self.over -= TURN;
            return true;
        }
        self.wire.turn = self.turn();
        if self.readable {
            self.read(shared);
        }
        for done in 0..self.active.len().min(FLOWS) {
            // What comes in is not to starve of what goes out.
            if done > 0 && self.over + self.wire.traffic >= self.wire.turn {
                break;
            }
            if let Some(token) = self.active.pop_front() {
                self.host_ready(token, shared);
            }
        }
        self.account(shared);
        self.readable || !self.active.is_empty()
    }

    /// Bytes of the next round: no more than are left, and than its bandwidth has in a short time.
    fn turn(&self) -> u64 {
        let rate = self.limits.bandwidth.map(|rate| rate / BURSTS_A_SECOND);
        TURN.min(self.wire.left).min(rate.unwrap_or(TURN)).max(1)
    }

    fn read(&mut self, shared: &mut Shared) {
        let mut input = std::mem::take(&mut shared.input);
        for _ in 0..PACKETS {
            if self.over + self.wire.traffic >= self.wire.turn {
                break;
            }
            match unistd::read(&self.wire.tun, &mut input) {
                Ok(length) if length > 0 => {
                    self.wire.traffic += length as u64;
                    self.frame(input.get(..length).unwrap_or_default(), shared);
                }
                // Empty; or it is down or gone, and nothing more comes.
                _ => {
                    self.readable = false;
                    break;
                }
            }
        }
        shared.input = input;
        for token in std::mem::take(&mut self.touched) {
            let left = self.wire.turn.saturating_sub(self.over + self.wire.traffic);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            if let Some(Flow::Tcp(flow)) = self.flows.get_mut(&token).map(|slot| &mut slot.flow) {
                let mut link = self.wire.link(shared);
                // What is owed is acknowledged all the same; data beyond this is the next turn's.
                link.share = link.share.min(left);
                if flow.after_batch(&mut link) {
                    self.activate(token);
                }
                self.settle(token, shared);
            }
        }
    }

    /// A packet of the batch belongs to this flow.
    pub(super) fn touch(&mut self, token: u32) {
        if !self.touched.contains(&token) {
            self.touched.push(token);
        }
    }

    fn host_ready(&mut self, token: u32, shared: &mut Shared) {
        let Some(slot) = self.flows.get_mut(&token) else {
            return;
        };
        slot.queued = false;
        let more = match &mut slot.flow {
            Flow::Tcp(flow) => flow.host_ready(&mut self.wire.link(shared)),
            Flow::Udp(flow) => flow.host_ready(&mut self.wire.link(shared)),
            Flow::Echo(flow) => flow.host_ready(&mut self.wire.link(shared)),
            Flow::Lookup(lookup) => {
                let step = lookup.ready(&mut shared.frame);
                self.lookup_step(token, step, shared);
                false
            }
            Flow::Resolver(_) => {
                self.resolver_ready(token, shared);
                false
            }
        };
        if more {
            self.activate(token);
        }
        self.settle(token, shared);
    }

    /// Its timer went off.
    pub(super) fn timer(&mut self, token: u32, shared: &mut Shared) {
        let Some(slot) = self.flows.get_mut(&token) else {
            return;
        };
        slot.armed = None;
        if slot
            .flow
            .deadline(&self.limits)
            .is_none_or(|at| at > shared.now)
        {
            self.settle(token, shared);
            return;
        }
        match &mut slot.flow {
            Flow::Tcp(flow) => flow.timeout(self.limits.tcp_idle, &mut self.wire.link(shared)),
            Flow::Udp(flow) => flow.closed = Some(Ended::Done),
            Flow::Echo(flow) => flow.closed = Some(Ended::Done),
            Flow::Lookup(_) => self.lookup_step(token, dns::Step::Next, shared),
            Flow::Resolver(_) => {}
        }
        self.settle(token, shared);
    }

    /// Has a flow's socket watched, and the flow found by its packets.
    pub(super) fn add(&mut self, flow: Flow, key: Option<Key>, shared: &mut Shared) -> u32 {
        self.next = self.next.checked_add(1).unwrap_or(1);
        let token = self.next;
        *self.count(&flow) += 1;
        if let Some(key) = key {
            self.keys.insert(key, token);
        }
        let slot = Slot {
            flow,
            key,
            armed: None,
            queued: false,
        };
        self.flows.insert(token, slot);
        self.settle(token, shared);
        token
    }

    fn count(&mut self, flow: &Flow) -> &mut usize {
        match flow {
            Flow::Tcp(_) => &mut self.tcp_flows,
            Flow::Udp(_) | Flow::Echo(_) | Flow::Lookup(_) | Flow::Resolver(_) => {
                &mut self.other_flows
            }
        }
    }

    /// Has the kernel tell of a socket; the flow of that number will be asked.
    pub(super) fn watch(&self, fd: impl AsFd, token: u32, shared: &Shared) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        let event = EpollEvent::new(flags | EpollFlags::EPOLLET, data(self.id, token));
        Ok(shared.epoll.add(fd, event)?)
    }

    /// The number that the next flow will have.
    pub(super) fn next_token(&self) -> u32 {
        self.next.checked_add(1).unwrap_or(1)
    }

    /// After anything was done to a flow: takes it away when it is over, else sets its timer.
    pub(super) fn settle(&mut self, token: u32, shared: &mut Shared) {
        let Some(slot) = self.flows.get_mut(&token) else {
            return;
        };
        if !slot.flow.is_over() {
            let wanted = slot.flow.deadline(&self.limits);
            // A timer that goes off early costs less than one that is moved at each packet.
            if let Some(wanted) = wanted
                && slot.armed.is_none_or(|armed| wanted < armed)
            {
                if let Some(armed) = slot.armed.replace(wanted) {
                    shared.timers.remove(&(armed, self.id, token));
                }
                shared.timers.insert((wanted, self.id, token));
            }
            return;
        }
        if let Some(slot) = self.flows.remove(&token) {
            if let Some(armed) = slot.armed {
                shared.timers.remove(&(armed, self.id, token));
            }
            self.end(slot, shared.now);
        }
    }

    fn end(&mut self, slot: Slot, now: Instant) {
        *self.count(&slot.flow) -= 1;
        if let Some(key) = slot.key {
            self.keys.remove(&key);
        }
        if let Flow::Tcp(flow) = &slot.flow {
            self.wire.room += flow.waiting();
        }
        // The lookups on it have their entries, and so has what was asked of the service.
        let ours = slot
            .key
            .is_some_and(|(_, guest, to)| to.ip() == gateway(guest));
        if let Some(entry) = slot.flow.into_entry(now).filter(|_| !ours) {
            self.ledger.add(entry);
        }
    }

    fn account(&mut self, shared: &mut Shared) {
        let traffic = std::mem::take(&mut self.wire.traffic);
        self.over = (self.over + traffic).saturating_sub(TURN);
        if self.limits.bytes.is_some() {
            self.wire.left = self.wire.left.saturating_sub(traffic);
        }
        if let Some(rate) = self.limits.bandwidth {
            let cost = Duration::from_nanos(traffic.saturating_mul(1_000_000_000) / rate.max(1));
            let earliest = shared.now.checked_sub(BURST).unwrap_or(shared.now);
            self.paid = self.paid.max(earliest) + cost;
        }
        if self.is_spent() {
            self.ledger.spent();
            let tokens: Vec<u32> = self.flows.keys().copied().collect();
            for token in tokens {
                self.break_off(token, shared);
            }
        }
    }

    fn break_off(&mut self, token: u32, shared: &mut Shared) {
        let Some(slot) = self.flows.get_mut(&token) else {
            return;
        };
        match &mut slot.flow {
            Flow::Tcp(flow) => flow.break_off(Ended::Limited, &mut self.wire.link(shared)),
            Flow::Udp(flow) => flow.closed = Some(Ended::Limited),
            Flow::Echo(flow) => flow.closed = Some(Ended::Limited),
            Flow::Lookup(lookup) => lookup.ended = Some(Ended::Limited),
            // Goes with its connection.
            Flow::Resolver(_) => {}
        }
        self.settle(token, shared);
    }

    /// All that was lent is back.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_unused(&self) -> bool {
        (self.wire.room, self.tcp_flows, self.other_flows) == (ROOM, 0, 0)
    }

    /// When it goes on.
    #[cfg(any(test, fuzzing))]
    pub(super) fn paid(&self) -> Instant {
        self.paid
    }

    /// Whether all bytes that it may use are used.
    pub(super) fn is_spent(&self) -> bool {
        self.wire.left == 0
    }

    /// Ends everything; the device is to be closed where waiting harms nobody.
    pub(super) fn detach(mut self, shared: &mut Shared) -> OwnedFd {
        let flows = std::mem::take(&mut self.flows);
        for (token, mut slot) in flows {
            if let Some(armed) = slot.armed {
                shared.timers.remove(&(armed, self.id, token));
            }
            if let Flow::Tcp(flow) = &mut slot.flow {
                flow.detach();
            }
            self.end(slot, shared.now);
        }
        shared.timers.remove(&(self.paid, self.id, 0));
        self.wire.tun
    }
}

/// What the kernel tells with an event.
pub(super) fn data(device: u32, token: u32) -> u64 {
    u64::from(device) << 32 | u64::from(token)
}
