//! A tun device that carries virtio-net headers, with addresses and routes, in the network namespace of the calling thread.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Checksums and segmentation of both TCPs are ours: `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`.
const OFFLOADS: libc::c_ulong = 0x1 | 0x2 | 0x4;

/// What a device is given.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Its own.
    pub address: IpAddr,
    /// Of its subnet.
    pub prefix: u8,
}

/// Makes a device in the namespace in which the calling thread is: that of the time of `open`, whatever is entered later.
///
/// # Errors
/// `/dev/net/tun` is missing or closed to this user, or the caller may not administrate the namespace.
pub fn make(name: &str) -> io::Result<OwnedFd> {
    make_from("/dev/net/tun", name)
}

/// The same with a node elsewhere.
///
/// # Errors
/// Those of [`make`].
pub fn make_from(node: &str, name: &str) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(node)?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        super::process::constant(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    // SAFETY: TUNSETIFF reads and writes the ifreq passed.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    super::check(result.into())?;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, OFFLOADS) };
    super::check(result.into())?;
    let device = OwnedFd::from(device);
    super::socket::set_nonblocking(device.as_fd())?;
    Ok(device)
}

/// Closes a device, which dies with its namespace: closing one that is not persistent waits for the kernel, 20 ms each.
pub fn let_go(device: OwnedFd) {
    // SAFETY: TUNSETPERSIST takes its flag by value.
    unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    drop(device);
}

/// Gives the device of this name its addresses, sets it up and routes everything over it.
///
/// # Errors
/// What the kernel refuses. Where it has no IPv6, those addresses are left out.
pub fn configure(name: &str, mtu: u16, addresses: &[Address]) -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let index = nix::net::if_::if_nametoindex(name)?;
    let requests = requests(index, mtu, addresses);
    let all: Vec<u8> = requests
        .iter()
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &all, &kernel, MsgFlags::empty())?;
    // The kernel has carried all of them out, and answers each in its order.
    for (of_v6, _) in requests {
        let mut answer = [0_u8; 1024];
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        // `struct nlmsgerr` after the header: an errno, negative.
        let errno = answer
            .get(16..20)
            .filter(|_| length >= 20)
            .and_then(|bytes| Some(-i32::from_ne_bytes(bytes.try_into().ok()?)));
        match errno {
            Some(0) => {}
            Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::ENODEV) if of_v6 => {}
            Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            None => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
    Ok(())
}

/// Messages of rtnetlink(7), and whether each is about IPv6: the link, then each address with its default route.
fn requests(index: u32, mtu: u16, addresses: &[Address]) -> Vec<(bool, Vec<u8>)> {
    const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let link = |flags: libc::c_int| {
        let flags = flags.cast_unsigned().to_ne_bytes();
        [&[0; 4][..], &index.to_ne_bytes(), &flags, &flags].concat()
    };
    // No link-local address, nor the solicitations that come with it; said before the device is up, else it comes too late.
    let mode = attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
    let mut quiet = link(0);
    quiet.extend(attribute(
        libc::IFLA_AF_SPEC,
        &attribute(u16::from(AF_INET6), &mode),
    ));
    let mut up = link(libc::IFF_UP);
    up.extend(attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes()));
    up.extend(attribute(libc::IFLA_TXQLEN, &QUEUE.to_ne_bytes()));
    let mut messages = vec![
        (true, message(libc::RTM_NEWLINK, 0, &quiet)),
        (false, message(libc::RTM_NEWLINK, 0, &up)),
    ];
    let over = attribute(libc::RTA_OIF, &index.to_ne_bytes());
    for given in addresses {
        let (family, bytes) = match given.address {
            IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
        };
        let of_v6 = family == AF_INET6;
        // Nobody else is on the wire who could have the same.
        let flags = if of_v6 { NO_DUPLICATE_DETECTION } else { 0 };
        let mut address = vec![family, given.prefix, flags, libc::RT_SCOPE_UNIVERSE];
        address.extend(index.to_ne_bytes());
        address.extend(attribute(libc::IFA_LOCAL, &bytes));
        address.extend(attribute(libc::IFA_ADDRESS, &bytes));
        messages.push((of_v6, message(libc::RTM_NEWADDR, CREATE, &address)));
        if of_v6 {
            // A worker of the kernel makes it local, some time later; until then answers would not be ours
            // (Linux, addrconf_dad_work).
            let route = route(AF_INET6, 128, libc::RT_TABLE_LOCAL, libc::RTN_LOCAL);
            let to = attribute(libc::RTA_DST, &bytes);
            messages.push((
                true,
                message(
                    libc::RTM_NEWROUTE,
                    CREATE,
                    &[route, to, over.clone()].concat(),
                ),
            ));
        }
        let route = route(family, 0, libc::RT_TABLE_MAIN, libc::RTN_UNICAST);
        let body = [route, over.clone()].concat();
        messages.push((of_v6, message(libc::RTM_NEWROUTE, CREATE, &body)));
    }
    messages
}

/// `struct rtmsg` of a route to a prefix of this length.
fn route(family: u8, prefix: u8, table: u8, kind: u8) -> Vec<u8> {
    let (by, scope) = (libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE);
    vec![family, prefix, 0, 0, table, by, scope, kind, 0, 0, 0, 0]
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `IFLA_INET6_ADDR_GEN_MODE` and `IN6_ADDR_GEN_MODE_NONE` of linux/if_link.h.
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
/// `IFA_F_NODAD` of linux/if_addr.h.
const NO_DUPLICATE_DETECTION: u8 = 2;
/// Packets that wait for us: the default of 500 was seen to drop some under load.
const QUEUE: u32 = 1000;

fn message(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
    let flags = super::process::constant(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags);
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
