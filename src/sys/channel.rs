//! Messages with descriptors over a `SOCK_SEQPACKET` pair.
//!
//! A message keeps its bounds. One larger than [`INLINE_MAX`] travels in a sealed memfd beside an
//! empty packet, so that the size of a socket buffer never limits a request.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, accept4, recv, sendmsg, socketpair,
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
    /// `WouldBlock` on a non-blocking socket; `InvalidData` for a message that breaks a bound; `EMFILE` where this process may open no
    /// more descriptors.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        // Its length first: room for the largest, which few are, costs a page fault for each page.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let Some(length) = recv(self.0.as_raw_fd(), &mut [], flags)?.checked_sub(1) else {
            return Ok(None);
        };
        let (mut kind, mut bytes) = ([0], vec![0; length.min(INLINE_MAX)]);
        let (mut fds, flags) =
            self.receive_packet(&mut [IoSliceMut::new(&mut kind), IoSliceMut::new(&mut bytes)])?;
        if flags.contains(MsgFlags::MSG_CTRUNC) {
            // There was room for all that the kernel passes, so the process may open no more.
            return Err(Errno::EMFILE.into());
        }
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

    /// A packet's descriptors and flags. Not through nix: of a packet for whose descriptors the process has no room it gives none, and
    /// those that the kernel had installed by then would stay open.
    fn receive_packet(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<(Vec<OwnedFd>, MsgFlags)> {
        // Words, for alignment: the header, and two descriptors in each.
        let mut space = [0_u64; size_of::<libc::cmsghdr>() / 8 + KERNEL_FDS_MAX.div_ceil(2)];
        // SAFETY: all zeros is a valid message, of no parts.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = parts.len();
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&space);
        // SAFETY: an IoSliceMut is an iovec; parts and room outlive the call.
        Errno::result(unsafe {
            libc::recvmsg(self.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
        })?;
        let mut fds = Vec::new();
        // SAFETY: what the kernel has written are whole messages, each with its length, within the length that it left in `message`.
        let mut control = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: null, or such a message.
        while let Some(header) = unsafe { control.as_ref() } {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                // SAFETY: arithmetic on a length.
                let bytes = header.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
                // SAFETY: arithmetic on the address of a message.
                let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
                // SAFETY: so many bytes of descriptors follow the header.
                let raw = unsafe { std::slice::from_raw_parts(data, bytes / size_of::<RawFd>()) };
                // SAFETY: each is new, and ours.
                fds.extend(raw.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
            }
            // SAFETY: as above.
            control = unsafe { libc::CMSG_NXTHDR(&raw const message, control) };
        }
        Ok((fds, MsgFlags::from_bits_retain(message.msg_flags)))
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
            assert!(is_let_go(&reader), "{count}");
        }
    }

    #[test]
    fn no_descriptor_of_a_packet_that_the_process_has_no_room_for_is_kept() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        const ALONE: &str = "LIS_TEST_ALONE";
        let name = "sys::channel::tests::no_descriptor_of_a_packet_that_the_process_has_no_room_for_is_kept";
        if std::env::var_os(ALONE).is_none() {
            // The limit is the process's: in one of its own.
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name]).env(ALONE, "1").output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
            return;
        }
        let (a, b) = Channel::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        a.send_packet(INLINE, b"x", &[writer.as_raw_fd(); 9])
            .unwrap();
        let room = u64::try_from(writer.as_raw_fd()).unwrap() + 4;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, room, hard).unwrap();
        drop(writer);
        assert_eq!(b.receive().unwrap_err().raw_os_error(), Some(libc::EMFILE));
        drop((a, b));
        assert!(is_let_go(&reader));
    }

    /// Whether the pipe has come to its end: no copy of its other side is left in this process. Not at once where somebody looks at
    /// the descriptors of all processes in procfs, who holds the one that he looks at.
    fn is_let_go(reader: &OwnedFd) -> bool {
        use nix::poll::{PollFd, PollFlags, poll};
        let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, 5_000_u16).unwrap();
        ready[0].revents().unwrap().contains(PollFlags::POLLHUP)
    }

    #[test]
    fn a_large_body_that_never_ends_is_not_waited_for() {
        let (a, b) = Channel::pair().unwrap();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        a.send_packet(IN_MEMFD, b"", &[reader.as_raw_fd()]).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
