//! The internet checksum (RFC 1071).

use std::net::IpAddr;

/// Ones' complement sum, not yet complemented; chain it to sum several parts, all but the last of even length.
pub(super) fn sum(bytes: &[u8], start: u32) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut sum = u64::from(start);
    for pair in pairs {
        sum += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    fold(sum)
}

fn fold(mut sum: u64) -> u32 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::try_from(sum).unwrap_or_default()
}

/// What a header holds.
pub(super) fn finish(sum: u32) -> u16 {
    !super::narrow(usize::try_from(fold(u64::from(sum))).unwrap_or_default())
}

/// Sum over the pseudo header of RFC 9293 and RFC 8200.
pub(super) fn pseudo(source: IpAddr, target: IpAddr, protocol: u8, length: usize) -> u32 {
    let length = u32::try_from(length).unwrap_or_default();
    let start = fold(u64::from(length) + u64::from(protocol));
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            sum(&target.octets(), sum(&source.octets(), start))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            sum(&target.octets(), sum(&source.octets(), start))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_and_odd_lengths() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes, 0), 0xddf2);
        assert_eq!(finish(sum(&bytes, 0)), !0xddf2);
        assert_eq!(sum(&[0xff, 0xff, 1], 0), sum(&[1], 0xffff));
        assert_eq!(sum(&[1], 0), 0x100);
    }
}
