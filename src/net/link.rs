//! What a flow works with: the wire into the sandbox, sockets of the host, and what both may cost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::unistd;

use super::Settings;
use super::service::Call;
use crate::sys::socket;

/// Bytes that a device may keep for all servers that do not read.
pub(super) const ROOM: usize = 8 << 20;

/// Bytes of the kernel's for each way of a connection's socket, where there are many: it gives a socket as much as 32 MiB
/// for a server that does not read, or a sandbox that does not. The first ones have what the kernel gives them.
fn buffer(of_device: usize, of_all: usize) -> Option<usize> {
    match (of_device, of_all) {
        (0..16, 0..=1024) => None,
        (0..64, 0..=1024) => Some(256 << 10),
        _ => Some(32 << 10),
    }
}

/// Lent to a flow for one step.
pub(super) struct Link<'a> {
    pub tun: BorrowedFd<'a>,
    /// Where frames are written, and their data is read into.
    pub frame: &'a mut [u8],
    /// Where data goes that is read only to get behind it.
    pub skipped: &'a mut [u8],
    /// How much more the device may keep.
    pub room: &'a mut usize,
    /// Bytes that one flow may move in this step.
    pub share: usize,
    /// Bytes that went into the sandbox.
    pub traffic: &'a mut u64,
    pub mtu: u16,
    pub now: Instant,
}

impl Link<'_> {
    /// Writes the frame. One that the kernel has no memory for is lost, as on any wire.
    pub(super) fn write(&mut self, length: usize) {
        if let Some(frame) = self.frame.get(..length) {
            *self.traffic += length as u64;
            let _ = unistd::write(self.tun, frame);
        }
    }
}

/// A socket of the host, counted.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    reads: Reads,
    _counted: Counted,
}

/// How data is read that stays in the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// The kernel remembers where (Linux 6.9, for IPv6 6.11).
    AtOffset,
    /// All before it is copied, too.
    FromStart,
    /// Of our own process, where taking means copying.
    Local,
}

impl Socket {
    /// Of which is read by taking.
    pub(super) fn new(counted: Counted, fd: OwnedFd) -> Self {
        Self {
            fd,
            reads: Reads::FromStart,
            _counted: counted,
        }
    }

    /// Of which is read by [`Socket::peek`]. `of_device`: how many other connections its device has.
    pub(super) fn stream(
        counted: Counted,
        fd: OwnedFd,
        of_device: usize,
        of_all: &Sockets,
    ) -> Self {
        let mut socket = Self::new(counted, fd);
        if let Some(bytes) = buffer(of_device, of_all.open.load(Ordering::Relaxed))
            && of_all.bound_buffers
        {
            socket::bound_buffers(socket.as_fd(), bytes);
        }
        if of_all.peek_offset && socket::set_peek_offset(socket.as_fd(), 0).is_ok() {
            socket.reads = Reads::AtOffset;
        }
        socket
    }

    /// Two ends of a connection within this process: one that is read by [`Socket::peek`], one by taking.
    pub(super) fn pair(sockets: &Sockets) -> io::Result<(Self, Self)> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
        let room = || sockets.one_more().ok_or(nix::Error::ENFILE);
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        socket::set_peek_offset(one.as_fd(), 0)?;
        let mut one = Self::new(room()?, one);
        one.reads = Reads::Local;
        Ok((one, Self::new(room()?, other)))
    }

    /// To be served by others.
    pub(super) fn into_call(self) -> Call {
        Call {
            stream: self.fd,
            counted: self._counted,
        }
    }

    /// Reads what is `offset` bytes behind what was taken: where the last reading ended, or [`Socket::rewind`] put it.
    pub(super) fn peek(
        &self,
        skipped: &mut [u8],
        offset: usize,
        into: &mut [u8],
    ) -> io::Result<usize> {
        if self.reads != Reads::FromStart || offset == 0 {
            return socket::peek(self.as_fd(), into);
        }
        let skipped = skipped.get_mut(..offset).unwrap_or_default();
        // Nothing behind what is skipped: the end, or nothing yet? Asked again when all before is taken.
        match socket::peek_after(self.as_fd(), skipped, into)? {
            Some(length) if length > 0 => Ok(length),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The next reading is to begin `offset` bytes behind what was taken.
    pub(super) fn rewind(&self, offset: usize) {
        if self.reads != Reads::FromStart {
            let offset = i32::try_from(offset).unwrap_or(i32::MAX);
            let _ = socket::set_peek_offset(self.as_fd(), offset);
        }
    }

    /// How far behind what was taken can be read.
    pub(super) fn reach(&self, skipped: &[u8]) -> usize {
        match self.reads {
            Reads::AtOffset | Reads::Local => usize::MAX,
            Reads::FromStart => skipped.len(),
        }
    }

    /// Takes bytes that were read.
    pub(super) fn discard(&self, bytes: usize) -> io::Result<usize> {
        if self.reads == Reads::Local {
            let mut taken = [0_u8; 4096];
            let most = bytes.min(taken.len());
            return socket::receive(self.as_fd(), taken.get_mut(..most).unwrap_or_default());
        }
        socket::discard(self.as_fd(), bytes)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sockets that the process has open for its sandboxes.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    open: Arc<AtomicUsize>,
    most: usize,
    peek_offset: bool,
    bound_buffers: bool,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Sockets {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            open: Arc::default(),
            most: settings.sockets,
            peek_offset: settings.peek_offset,
            bound_buffers: settings.bound_buffers,
        }
    }

    /// One more, if there may be.
    pub(super) fn one_more(&self) -> Option<Counted> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&self.open));
        (before < self.most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
