//! Messages with descriptors over a `SOCK_SEQPACKET` pair.
//!
//! A message keeps its bounds. One larger than [`INLINE_MAX`] travels in a sealed memfd beside an
//! empty packet, so that the size of a socket buffer never limits a request.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, accept4,
    recv, recvmsg, sendmsg, socketpair,
};

/// Largest message that travels in the packet itself.
pub const INLINE_MAX: usize = 32 << 10;
/// Largest message at all.
pub const MESSAGE_MAX: usize = 64 << 20;
/// Most descriptors of one message.
pub const FDS_MAX: usize = 16;

/// Most descriptors that the kernel passes at once (`SCM_MAX_FD`): room for fewer, and those that had room would arrive unseen.
const KERNEL_FDS_MAX: usize = 253;

const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// One end of a pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Two connected ends, close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Takes the next connection to a listening socket.
    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes an end that somebody else made.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The end that this process was started with as its standard input.
    #[must_use]
    pub fn stdin() -> Self {
        // SAFETY: descriptor 0 is the zygote's control socket from its first instruction on; nothing
        // else in that process uses or closes it.
        Self(unsafe { OwnedFd::from_raw_fd(0) })
    }

    /// Sends one message; waits for room unless the socket is non-blocking.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        if bytes.len() <= INLINE_MAX {
            return self.send_packet(INLINE, bytes, &raw);
        }
        let memfd = super::process::sealed_memfd(c"message", bytes)?;
        raw.push(memfd.as_raw_fd());
        self.send_packet(IN_MEMFD, &[], &raw)
    }

    fn send_packet(&self, kind: u8, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let kind = [kind];
        let iov = [IoSlice::new(&kind), IoSlice::new(bytes)];
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &iov,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// Receives one message; `None` when the peer is gone.
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking socket; `InvalidData` for a message that breaks a bound.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        // Its length first: room for the largest, which few are, costs a page fault for each page.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let Some(length) = recv(self.0.as_raw_fd(), &mut [], flags)?.checked_sub(1) else {
            return Ok(None);
        };
        let (mut kind, mut bytes) = ([0], vec![0; length.min(INLINE_MAX)]);
        let mut space = nix::cmsg_space!([RawFd; KERNEL_FDS_MAX]);
        let mut fds = Vec::new();
        let flags = {
            let mut iov = [IoSliceMut::new(&mut kind), IoSliceMut::new(&mut bytes)];
            let message = recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut iov,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(received) = control {
                    for fd in received {
                        // SAFETY: the kernel has just installed this descriptor for us.
                        fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
            }
            message.flags
        };
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(invalid("a message is larger than agreed"));
        }
        // Its body may come as one more.
        if fds.len() > FDS_MAX + 1 {
            return Err(invalid("a message has more descriptors than agreed"));
        }
        match kind {
            [INLINE] => Ok(Some(Received { bytes, fds })),
            [IN_MEMFD] => {
                let memfd = fds
                    .pop()
                    .ok_or_else(|| invalid("a large message lacks its body"))?;
                Ok(Some(Received {
                    bytes: read_body(memfd)?,
                    fds,
                }))
            }
            _ => Err(invalid("a message of unknown kind")),
        }
    }

    /// Switches between waiting and `WouldBlock`.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = if on {
            OFlag::O_NONBLOCK
        } else {
            OFlag::empty()
        };
        fcntl(&self.0, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

fn read_body(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    // Only a memfd has seals. A pipe, or a file of somebody's own file system, could make us wait for ever.
    let seals = fcntl(&memfd, FcntlArg::F_GET_SEALS)
        .map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK) {
        return Err(invalid("the body of a large message is not sealed"));
    }
    let mut bytes = Vec::new();
    let limit = MESSAGE_MAX as u64;
    let read = File::from(memfd).take(limit + 1).read_to_end(&mut bytes)?;
    if read as u64 > limit {
        return Err(invalid("a message is larger than agreed"));
    }
    Ok(bytes)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_keep_their_bounds_and_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        for size in [0, 1, INLINE_MAX, INLINE_MAX + 1, 1 << 20] {
            let bytes = vec![7_u8; size];
            a.send(&bytes, &[reader.as_fd()]).unwrap();
            let received = b.receive().unwrap().unwrap();
            assert_eq!((received.bytes, received.fds.len()), (bytes, 1));
        }
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn more_descriptors_than_agreed_are_refused_and_none_is_kept() {
        for count in [FDS_MAX + 2, FDS_MAX + 3, 100, KERNEL_FDS_MAX] {
            let (a, b) = Channel::pair().unwrap();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            a.send_packet(INLINE, b"x", &vec![writer.as_raw_fd(); count])
                .unwrap();
            drop(writer);
            assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
            drop((a, b));
            // The end of the pipe: no copy of its other side is left in this process.
            let mut ready = [nix::poll::PollFd::new(
                reader.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            nix::poll::poll(&mut ready, 0_u16).unwrap();
            let seen = ready[0].revents().unwrap();
            assert!(seen.contains(nix::poll::PollFlags::POLLHUP), "{count}");
        }
    }

    #[test]
    fn a_large_body_that_never_ends_is_not_waited_for() {
        let (a, b) = Channel::pair().unwrap();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        a.send_packet(IN_MEMFD, b"", &[reader.as_raw_fd()]).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
