//! Sequence numbers: RFC 9293 arithmetic, RFC 6528 choice of the first.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

/// How far `b` is behind `a`; of two that are more than half of the space apart, the nearer way.
pub(super) fn distance(a: u32, b: u32) -> i64 {
    i64::from(b.wrapping_sub(a).cast_signed())
}

/// What is `length` bytes behind; no segment and no window is half as large as the space.
pub(super) fn behind(a: u32, length: usize) -> u32 {
    a.wrapping_add(u32::try_from(length).unwrap_or(0))
}

pub(super) fn before(a: u32, b: u32) -> bool {
    distance(a, b) > 0
}

/// First sequence numbers that nobody guesses who does not see them.
#[derive(Debug)]
pub(in crate::net) struct First {
    /// SipHash with a random key of the process.
    key: RandomState,
    since: Instant,
}

impl First {
    pub(in crate::net) fn new() -> Self {
        Self {
            key: RandomState::new(),
            since: Instant::now(),
        }
    }

    /// A clock of 4 microseconds, and a hash of the two ends.
    pub(in crate::net) fn of(&self, from: SocketAddr, to: SocketAddr, now: Instant) -> u32 {
        let clock = now.saturating_duration_since(self.since).as_micros() / 4;
        let [.., a, b, c, d] = clock.to_be_bytes();
        let [a2, b2, c2, d2, ..] = self.key.hash_one((from, to)).to_be_bytes();
        u32::from_be_bytes([a, b, c, d]).wrapping_add(u32::from_be_bytes([a2, b2, c2, d2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn order_holds_over_the_wrap() {
        assert!(before(u32::MAX, 0) && before(u32::MAX - 5, 10) && !before(10, 10));
        assert_eq!((distance(u32::MAX, 1), distance(1, u32::MAX)), (2, -2));
    }

    #[test]
    fn the_first_number_follows_the_clock_and_the_ends() {
        let first = First::new();
        let (a, b): (SocketAddr, SocketAddr) =
            ("1.2.3.4:5".parse().unwrap(), "1.2.3.4:6".parse().unwrap());
        let now = Instant::now();
        let later = now + Duration::from_millis(4);
        let moved = first.of(a, b, later).wrapping_sub(first.of(a, b, now));
        assert!((999..=1001).contains(&moved), "{moved}");
        assert_ne!(first.of(a, b, now), first.of(b, a, now));
        assert_ne!(first.of(a, b, now), First::new().of(a, b, now));
    }
}
