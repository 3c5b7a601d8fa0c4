//! The threads that serve devices: each has one epoll for many of them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::{Device, data};
use super::dns::Resolvers;
use super::gate::Gate;
use super::ledger::Ledger;
use super::link::Sockets;
use super::packet::PACKET_MAX;
use super::service::Service;
use super::tcp::First;
use super::{NetLimits, Settings};
use crate::sys::tun;

/// Events that the kernel tells at once.
const EVENTS: usize = 256;
/// How much of a socket's data is copied for nothing at most, on kernels that cannot read from behind it.
const SKIPPED: usize = 256 << 10;

/// The engine threads of the process. Dropping it lets all devices go.
#[derive(Debug)]
pub struct Net {
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
    attached: AtomicU32,
}

/// A device that is served; no longer, when dropped.
#[derive(Debug)]
pub struct Attachment {
    id: u32,
    mailbox: Option<Mailbox>,
}

/// Where a thread is told what to do.
#[derive(Debug, Clone)]
struct Mailbox {
    commands: Sender<Command>,
    bell: Arc<EventFd>,
}

/// A sandbox that comes.
#[derive(Debug)]
struct Guest {
    id: u32,
    tun: OwnedFd,
    gate: Gate,
    limits: NetLimits,
    ledger: Ledger,
    service: Option<Box<dyn Service>>,
}

#[derive(Debug)]
enum Command {
    Attach(Box<Guest>),
    Detach(u32),
    Stop,
}

impl Mailbox {
    fn send(&self, command: Command) {
        // A thread that is gone has let all of its devices go.
        if self.commands.send(command).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}

impl Net {
    /// Starts the threads.
    ///
    /// # Errors
    /// The host gives no thread or no descriptor.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let sockets = Sockets::new(settings);
        let (closing, closed) = channel();
        let mut net = Self {
            mailboxes: Vec::new(),
            threads: Vec::new(),
            attached: AtomicU32::new(0),
        };
        for number in 0..settings.threads.max(1) {
            let (commands, received) = channel();
            let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let bell = Arc::new(bell);
            let shared = Shared::new(settings, sockets.clone())?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, data(0, 0));
            shared.epoll.add(&*bell, event)?;
            let engine = Engine {
                shared,
                commands: received,
                bell: Arc::clone(&bell),
                devices: HashMap::new(),
                ready: VecDeque::new(),
                turns: settings.turns,
                closing: closing.clone(),
            };
            let name = format!("net-{number}");
            let thread = thread::Builder::new().name(name).spawn(|| engine.run())?;
            net.mailboxes.push(Mailbox { commands, bell });
            net.threads.push(thread);
        }
        let reaper = thread::Builder::new().name("net-reaper".to_owned());
        net.threads
            .push(reaper.spawn(move || closed.iter().for_each(tun::let_go))?);
        Ok(net)
    }

    /// Serves a device: `tun` is one of [`tun::make`].
    /// The sender side of `ledger` goes when the device has been let go: then all entries are there.
    #[must_use]
    pub fn attach(
        &self,
        tun: OwnedFd,
        gate: Gate,
        limits: NetLimits,
        ledger: Ledger,
    ) -> Attachment {
        self.attach_serving(tun, gate, limits, ledger, None)
    }

    /// The same, and has the gateway serve [`super::SERVICE_PORT`].
    #[must_use]
    pub fn attach_serving(
        &self,
        tun: OwnedFd,
        gate: Gate,
        limits: NetLimits,
        ledger: Ledger,
        service: Option<Box<dyn Service>>,
    ) -> Attachment {
        let number = self.attached.fetch_add(1, Ordering::Relaxed);
        // 0 is the bell.
        let id = number.checked_add(1).unwrap_or(1);
        let turn = usize::try_from(number).unwrap_or(0) % self.mailboxes.len().max(1);
        let mailbox = self.mailboxes.get(turn).cloned();
        if let Some(mailbox) = &mailbox {
            let guest = Guest {
                id,
                tun,
                gate,
                limits,
                ledger,
                service,
            };
            mailbox.send(Command::Attach(Box::new(guest)));
        }
        Attachment { id, mailbox }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for mailbox in self.mailboxes.drain(..) {
            mailbox.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.send(Command::Detach(self.id));
        }
    }
}

/// What the devices of a thread have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub epoll: Epoll,
    /// Of this round.
    pub now: Instant,
    /// Where packets are read into, and written from.
    pub input: Box<[u8]>,
    pub frame: Box<[u8]>,
    pub skipped: Box<[u8]>,
    pub first: First,
    pub resolvers: Resolvers,
    pub sockets: Sockets,
    /// When, of which device, which flow; or 0, the device itself.
    pub timers: BTreeSet<(Instant, u32, u32)>,
}

impl Shared {
    pub(super) fn new(settings: &Settings, sockets: Sockets) -> io::Result<Self> {
        let (resolv_conf, hosts) = (settings.resolv_conf.clone(), settings.hosts.clone());
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            now: Instant::now(),
            input: vec![0; PACKET_MAX].into(),
            frame: vec![0; PACKET_MAX].into(),
            skipped: vec![0; SKIPPED].into(),
            first: First::new(),
            resolvers: Resolvers::new(resolv_conf, hosts),
            sockets,
            timers: BTreeSet::new(),
        })
    }
}

/// One thread.
struct Engine {
    shared: Shared,
    commands: Receiver<Command>,
    bell: Arc<EventFd>,
    devices: HashMap<u32, Device>,
    /// Devices with something to do, in turn.
    ready: VecDeque<u32>,
    turns: bool,
    closing: Sender<OwnedFd>,
}

impl Engine {
    fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.shared.epoll.wait(&mut events, self.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // The descriptor is ours and valid: nothing else is left.
                Err(_) => break,
            };
            self.shared.now = Instant::now();
            for event in events.iter().take(count) {
                let (device, token) = split(event.data());
                if device == 0 {
                    let _ = self.bell.read();
                    if self.obey() {
                        self.let_all_go();
                        return;
                    }
                } else if let Some(known) = self.devices.get_mut(&device) {
                    known.event(token);
                    self.queue(device);
                }
            }
            self.timers();
            for _ in 0..self.ready.len() {
                self.turn();
            }
        }
        self.let_all_go();
    }

    /// Until the next timer, in whole milliseconds, not before it.
    fn patience(&self) -> EpollTimeout {
        if !self.ready.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some((at, ..)) = self.shared.timers.first() else {
            return EpollTimeout::NONE;
        };
        let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        EpollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
    }

    /// Whether it is to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach(guest) => {
                    let Guest {
                        id,
                        tun,
                        gate,
                        limits,
                        ledger,
                        service,
                    } = *guest;
                    let mut device = Device::new(id, tun, gate, limits, ledger, self.shared.now);
                    device.service = service;
                    // One that cannot be watched stays silent.
                    let _ = device.register(&self.shared);
                    self.devices.insert(id, device);
                    self.queue(id);
                }
                Command::Detach(id) => {
                    if let Some(device) = self.devices.remove(&id) {
                        let _ = self.closing.send(device.detach(&mut self.shared));
                    }
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn let_all_go(mut self) {
        for (_, device) in self.devices.drain() {
            let _ = self.closing.send(device.detach(&mut self.shared));
        }
    }

    fn queue(&mut self, id: u32) {
        if let Some(device) = self.devices.get_mut(&id)
            && !device.queued
        {
            device.queued = true;
            self.ready.push_back(id);
        }
    }

    fn turn(&mut self) {
        let Some(id) = self.ready.pop_front() else {
            return;
        };
        if let Some(device) = self.devices.get_mut(&id) {
            device.queued = false;
            let mut more = device.round(&mut self.shared);
            while more && !self.turns {
                more = device.round(&mut self.shared);
            }
            if more {
                self.queue(id);
            }
        }
    }

    fn timers(&mut self) {
        while let Some(timer) = self.shared.timers.first().copied() {
            let (at, id, token) = timer;
            if at > self.shared.now {
                break;
            }
            self.shared.timers.remove(&timer);
            if token == 0 {
                self.queue(id);
            } else if let Some(device) = self.devices.get_mut(&id) {
                device.timer(token, &mut self.shared);
            }
        }
    }
}

fn split(data: u64) -> (u32, u32) {
    let [a, b, c, d, rest @ ..] = data.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest))
}
