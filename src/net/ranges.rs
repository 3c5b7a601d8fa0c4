//! Addresses that no sandbox reaches, in every spelling, and blocks of addresses in rules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why an address is refused whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The kind of address.
    pub what: &'static str,
    /// An index or proxy that the host itself is configured to use may be there.
    pub may_be_configured: bool,
}

type Block4 = ([u8; 4], u8, &'static str);
type Block6 = ([u16; 8], u8, &'static str);

const PRIVATE: &str = "private";
const SHARED: &str = "shared (CGNAT)";
const METADATA: &str = "metadata";

/// RFC 6890 and its registry, and the services that clouds put at addresses of their own choice.
///
/// Not here: the ranges for documentation (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32) and for
/// benchmarks (198.18.0.0/15). Nothing of the host's is there by any standard, some networks do
/// route them, and [`DOCUMENTATION`] in a rule refuses them.
const REFUSED_4: [Block4; 14] = [
    ([0, 0, 0, 0], 8, "this host"),
    ([10, 0, 0, 0], 8, PRIVATE),
    // Of Alibaba; also in the shared range, whose other addresses may be configured.
    ([100, 100, 100, 200], 32, METADATA),
    ([100, 64, 0, 0], 10, SHARED),
    ([127, 0, 0, 0], 8, "loopback"),
    // Of Azure: a public address that its hosts answer.
    ([168, 63, 129, 16], 32, METADATA),
    ([169, 254, 0, 0], 16, "link-local and metadata"),
    ([172, 16, 0, 0], 12, PRIVATE),
    // With 192.0.0.192, the metadata of Oracle's older hosts.
    ([192, 0, 0, 0], 24, "protocol assignment and metadata"),
    ([192, 88, 99, 0], 24, "6to4 relay"),
    ([192, 168, 0, 0], 16, PRIVATE),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

const REFUSED_6: [Block6; 7] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "this host"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    // Of Amazon; also among the unique local ones, whose others may be configured.
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, PRIVATE),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// What `deny documentation` refuses.
pub const DOCUMENTATION: [&str; 8] = [
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "198.18.0.0/15",
    "2001:db8::/32",
    "3fff::/20",
    "2001:2::/48",
    "64:ff9b::c612:0/111",
];

/// Whether an address is one that no sandbox may reach; nothing for those of the internet.
#[must_use]
pub fn refused(address: IpAddr) -> Option<Refused> {
    match address {
        IpAddr::V4(v4) => refused_4(v4),
        IpAddr::V6(v6) => refused_6(v6),
    }
}

/// The address as it is: a v4 one that is written as a v6 one is the v4 one.
#[must_use]
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn refused_4(address: Ipv4Addr) -> Option<Refused> {
    let found = REFUSED_4.iter().find(|(network, length, _)| {
        same_prefix(
            &network.map(u16::from),
            &address.octets().map(u16::from),
            8,
            *length,
        )
    });
    found.map(|(_, _, what)| reason(what))
}

fn refused_6(address: Ipv6Addr) -> Option<Refused> {
    let segments = address.segments();
    let found = REFUSED_6
        .iter()
        .find(|(network, length, _)| same_prefix(network, &segments, 16, *length));
    if let Some((_, _, what)) = found {
        return Some(reason(what));
    }
    if let Some(refused) = carried(IpAddr::V6(address)).find_map(refused_4) {
        return Some(Refused {
            may_be_configured: false,
            ..refused
        });
    }
    // All that is routed is of 2000::/3, but for NAT64, whose v4 address was looked at above.
    let nat64 = matches!(segments, [0x64, 0xff9b, 0, 0, 0, 0, _, _]);
    let global = segments.first().is_some_and(|first| first >> 13 == 1);
    (!nat64 && !global).then_some(Refused {
        what: "not of the internet",
        may_be_configured: false,
    })
}

fn reason(what: &'static str) -> Refused {
    Refused {
        what,
        may_be_configured: matches!(what, PRIVATE | SHARED),
    }
}

/// The v4 addresses that a v6 one leads to, by every way that gateways know.
pub(super) fn carried(address: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    let segments = match address {
        IpAddr::V6(v6) => v6.segments(),
        IpAddr::V4(_) => [u16::MAX; 8],
    };
    let [a, b, c, d, e, f, g, h] = segments;
    let by_prefix = match segments {
        // ::/96 and ::ffff:0:0/96, mapped; 64:ff9b::/96, NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [v4(g, h), None],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [v4(b, c), None],
        // Teredo (RFC 4380): the server, and the client with every bit turned.
        [0x2001, 0, ..] => [v4(c, d), v4(!g, !h)],
        _ => [None, None],
    };
    // ISATAP (RFC 5214), below any prefix.
    let isatap = (a != 0 && e & !0x0200 == 0 && f == 0x5efe).then(|| v4(g, h));
    by_prefix.into_iter().chain([isatap.flatten()]).flatten()
}

/// The first `length` bits of both are equal; each word holds `bits` of them.
fn same_prefix(one: &[u16], other: &[u16], bits: u8, length: u8) -> bool {
    let mut left = length;
    for (one, other) in one.iter().zip(other) {
        let now = left.min(bits);
        left -= now;
        // At most 16 of 16 bits.
        let shift = u32::from(bits - now);
        if u32::from(one ^ other) >> shift != 0 {
            return false;
        }
    }
    true
}

/// A block of addresses in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    base: IpAddr,
    length: u8,
}

impl Block {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, plain(address)) {
            (IpAddr::V4(base), IpAddr::V4(v4)) => same_prefix(
                &base.octets().map(u16::from),
                &v4.octets().map(u16::from),
                8,
                self.length,
            ),
            (IpAddr::V6(base), IpAddr::V6(v6)) => {
                same_prefix(&base.segments(), &v6.segments(), 16, self.length)
            }
            _ => false,
        }
    }

    /// Its first address.
    #[must_use]
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Its last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) | host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) | host))
            }
        }
    }

    fn is_one(&self) -> bool {
        self.length == if self.base.is_ipv4() { 32 } else { 128 }
    }
}

/// A text is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not even an address.
    #[error("is no address")]
    NoAddress,
    /// `/` is followed by something else than a length.
    #[error("has no length of 0 to {0} bits behind its /")]
    Length(u8),
    /// Bits behind the length are set: perhaps another length is meant.
    #[error("has bits set behind its length: did you mean {0}?")]
    Beyond(Block),
}

impl FromStr for Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| BlockError::NoAddress)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => all,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|length| *length <= all && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or(BlockError::Length(all))?,
        };
        let base = masked(address, length);
        if base != address {
            return Err(BlockError::Beyond(Self { base, length }));
        }
        Ok(Self { base, length })
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.is_one()) {
            (base, true) => write!(f, "{base}"),
            (base, false) => write!(f, "{base}/{}", self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what(text: &str) -> Option<&'static str> {
        refused(text.parse().unwrap()).map(|refused| refused.what)
    }

    #[test]
    fn every_spelling_of_what_is_near_the_host_is_refused() {
        for near in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "192.0.0.192",
            "192.88.99.1",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "::10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::1.1.1.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2002:c0a8:101::",
            // Teredo whose client is 192.168.0.1, and whose server is 127.0.0.1.
            "2001:0:102:304:0:0:3f57:fffe",
            "2001:0:7f00:1:0:0:fefe:fefe",
            "2001:470::5efe:10.0.0.1",
            "2001:470::200:5efe:127.0.0.1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(what(near).is_some(), "{near}");
        }
    }

    #[test]
    fn the_internet_is_not_refused() {
        for far in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
            // Routed by some networks: a rule refuses them where one wants that.
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.80",
            "198.18.0.1",
            "2001:db8::1",
        ] {
            let address: IpAddr = far.parse().unwrap();
            assert_eq!(refused(plain(address)), None, "{far}");
        }
    }

    #[test]
    fn only_private_addresses_may_be_configured() {
        let configured = |text: &str| refused(text.parse().unwrap()).unwrap().may_be_configured;
        for text in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::5",
        ] {
            assert!(configured(text), "{text}");
        }
        for text in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "100.100.100.200",
            "fd00:ec2::254",
            "fe80::1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::",
        ] {
            assert!(!configured(text), "{text}");
        }
    }

    #[test]
    fn blocks_are_read_and_written() {
        for text in [
            "1.2.3.4",
            "1.2.0.0/16",
            "0.0.0.0/0",
            "2001:db8::/32",
            "::/0",
            "2a00::1",
        ] {
            assert_eq!(text.parse::<Block>().unwrap().to_string(), text);
        }
        let block: Block = "1.2.0.0/16".parse().unwrap();
        assert!(block.contains("1.2.255.1".parse().unwrap()));
        assert!(block.contains("::ffff:1.2.3.4".parse().unwrap()));
        assert!(!block.contains("1.3.0.0".parse().unwrap()));
        assert_eq!(
            "1.2.3.4/16".parse::<Block>().unwrap_err().to_string(),
            "has bits set behind its length: did you mean 1.2.0.0/16?"
        );
        for bad in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/",
            "::/129",
            "x/8",
        ] {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
        for text in DOCUMENTATION {
            text.parse::<Block>().unwrap();
        }
    }

    /// What the standard library says of v4.
    fn near() -> impl Strategy<Value = Ipv4Addr> {
        let starts = [
            (0, 32),
            (10, 8),
            (127, 8),
            (0xac1, 12),
            (0xc0a8, 16),
            (0xa9fe, 16),
            (0xe, 4),
        ];
        let network = prop::sample::select(starts.to_vec());
        let near = (network, any::<u32>()).prop_map(|((start, bits), host): ((u32, u32), u32)| {
            let low = host.checked_shr(bits).unwrap_or(0);
            Ipv4Addr::from(start.checked_shl(32 - bits).unwrap_or(start) | low)
        });
        near.prop_filter("as the standard library sees it", |v4| {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_unspecified()
        })
    }

    proptest! {
        #[test]
        fn an_address_near_the_host_is_near_in_every_spelling(near in near(), more: u64) {
            let v4 = near;
            let [a, b, c, d] = v4.octets().map(u128::from);
            let low = a << 24 | b << 16 | c << 8 | d;
            let more = u128::from(more);
            let spellings = [
                low,
                0xffff << 32 | low,
                0x0064_ff9b << 96 | low,
                0x2002 << 112 | low << 80 | more,
                0x2001_0000 << 96 | low << 64 | (more & 0xffff_ffff),
                0x2001_0000 << 96 | 0x0101_0101 << 64 | (!low & 0xffff_ffff),
                0x2a00 << 112 | 0x5efe << 32 | low,
            ];
            prop_assert!(refused(IpAddr::V4(v4)).is_some());
            for spelling in spellings {
                let v6 = IpAddr::V6(Ipv6Addr::from(spelling));
                prop_assert!(refused(v6).is_some(), "{v6} for {v4}");
            }
        }

        #[test]
        fn a_block_holds_its_first_address_and_no_other_of_its_length(bits: u32, length in 1_u8..=32) {
            let base = masked(IpAddr::V4(Ipv4Addr::from(bits)), length);
            let block = Block { base, length };
            prop_assert_eq!(block.to_string().parse::<Block>().unwrap(), block);
            prop_assert!(block.contains(IpAddr::V4(Ipv4Addr::from(bits))));
            let next = bits ^ (1 << (32 - u32::from(length)));
            prop_assert!(!block.contains(IpAddr::V4(Ipv4Addr::from(next))));
        }
    }
}
