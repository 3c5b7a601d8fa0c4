//! What the translator of packets needs of sockets: reading without taking, and taking without reading.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::sockopt;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect,
    getsockopt, recvmsg, setsockopt, socket,
};

/// Size of an option that is an int.
const INT: libc::socklen_t = 4;
/// Neither waits nor raises SIGPIPE.
const AT_ONCE: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Makes reads and writes of a descriptor answer `WouldBlock` instead of waiting.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Begins a TCP connection; it stands when the socket is writable and [`error`] is none.
pub fn connect_tcp(to: SocketAddr) -> io::Result<OwnedFd> {
    let fd = open(to, SockType::Stream, None)?;
    // What comes from inside has its own idea of when to send.
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// A UDP socket that talks to one address and port, and hears nobody else.
pub fn connect_udp(to: SocketAddr) -> io::Result<OwnedFd> {
    let fd = open(to, SockType::Datagram, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

/// A socket for echo requests to one address: icmp(7), `ping_group_range`.
pub fn connect_ping(to: SocketAddr) -> io::Result<OwnedFd> {
    let protocol = match to {
        SocketAddr::V4(_) => SockProtocol::Icmp,
        SocketAddr::V6(_) => SockProtocol::IcmpV6,
    };
    let fd = open(to, SockType::Datagram, Some(protocol))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

fn open(to: SocketAddr, kind: SockType, protocol: Option<SockProtocol>) -> nix::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, kind, flags, protocol)
}

/// Takes the error that waits in a socket.
#[must_use]
pub fn error(fd: BorrowedFd<'_>) -> Option<io::Error> {
    match getsockopt(&fd, sockopt::SocketError) {
        Ok(0) => None,
        Ok(errno) => Some(io::Error::from_raw_os_error(errno)),
        Err(error) => Some(error.into()),
    }
}

/// Sends as much as there is room for.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::send(fd.as_raw_fd(), bytes, AT_ONCE)?)
}

/// Takes what is there.
pub fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::recv(fd.as_raw_fd(), into, AT_ONCE)?)
}

/// Reads from the socket's peek offset on, which moves; takes nothing.
pub fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let flags = AT_ONCE | MsgFlags::MSG_PEEK;
    Ok(nix::sys::socket::recv(fd.as_raw_fd(), into, flags)?)
}

/// The same for kernels without that offset: what is before `into` is copied to `skipped`.
pub fn peek_after(
    fd: BorrowedFd<'_>,
    skipped: &mut [u8],
    into: &mut [u8],
) -> io::Result<Option<usize>> {
    let before = skipped.len();
    let mut parts = [IoSliceMut::new(skipped), IoSliceMut::new(into)];
    let flags = AT_ONCE | MsgFlags::MSG_PEEK;
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, flags)?;
    Ok(message.bytes.checked_sub(before))
}

/// Takes so many bytes of a TCP socket without copying them: tcp(7), `MSG_TRUNC`.
pub fn discard(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC the kernel writes nothing to the buffer of a TCP socket. Of any other it would: the null
    // pointer makes that EFAULT.
    let result = unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut(), bytes, flags) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets where [`peek`] reads next (Linux 6.9 for TCP over IPv4, 6.11 over IPv6).
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// Datagrams are sent whole or not at all: `EMSGSIZE` tells of a path that they do not fit.
pub fn forbid_fragments(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    match to {
        SocketAddr::V4(_) => {
            let mode = libc::IP_PMTUDISC_DO;
            set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
        }
        SocketAddr::V6(_) => {
            let mode = libc::IPV6_PMTUDISC_DO;
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, mode)
        }
    }
}

/// What fits the path to where the socket is connected.
pub fn path_mtu(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<u32> {
    let (level, name) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut length = INT;
    // SAFETY: the kernel stores one int, as `length` says.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    super::check(result.into())?;
    Ok(value.cast_unsigned())
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = INT;
    // SAFETY: the kernel reads one int, as `length` says.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    super::check(result.into())?;
    Ok(())
}

/// Bounds what the kernel keeps for each way of a socket; it takes twice as much for its own needs.
pub fn bound_buffers(fd: BorrowedFd<'_>, bytes: usize) {
    let _ = setsockopt(&fd, sockopt::SndBuf, &bytes);
    let _ = setsockopt(&fd, sockopt::RcvBuf, &bytes);
}

/// Closing breaks the connection off instead of ending it.
pub fn reset_on_close(fd: BorrowedFd<'_>) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(&fd, sockopt::Linger, &linger);
}

/// All addresses of this host's interfaces now.
///
/// # Errors
/// The kernel does not tell.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(interfaces.filter_map(address).collect())
}
