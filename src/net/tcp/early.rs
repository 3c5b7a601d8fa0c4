//! Data that came before what is missing: kept, so that only what was lost has to be sent again, and told of (RFC 2018).

use super::sequence::{before, behind, distance};

/// Pieces of one connection. Beyond these the sandbox sends again, as if nothing were kept.
const PIECES: usize = 64;
/// Ranges that fit the options of a segment.
pub(in crate::net) const RANGES: usize = 4;

/// The pieces, in their order; they may overlap.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: Vec<(u32, Vec<u8>)>,
    /// Where the latest piece began.
    latest: u32,
    bytes: usize,
}

impl Early {
    /// Keeps a piece, when there is `room` for it.
    pub(super) fn keep(&mut self, sequence: u32, data: &[u8], room: &mut usize) {
        let known = |(at, kept): &(u32, Vec<u8>)| *at == sequence && kept.len() >= data.len();
        self.latest = sequence;
        if data.len() > *room || self.pieces.len() >= PIECES || self.pieces.iter().any(known) {
            return;
        }
        *room -= data.len();
        self.bytes += data.len();
        let place = self
            .pieces
            .partition_point(|(at, _)| distance(*at, sequence) >= 0);
        self.pieces.insert(place, (sequence, data.to_vec()));
    }

    /// The first piece that holds the byte that is expected, from there on. Pieces that are all known by then go.
    pub(super) fn next(&mut self, expected: u32, room: &mut usize) -> Option<Vec<u8>> {
        while let Some((at, _)) = self.pieces.first() {
            let known = usize::try_from(distance(*at, expected)).ok()?;
            let (_, mut data) = self.pieces.remove(0);
            *room += data.len();
            self.bytes -= data.len();
            if known < data.len() {
                data.drain(..known);
                return Some(data);
            }
        }
        None
    }

    /// Ranges to tell of, the latest first.
    pub(super) fn ranges(&self) -> [Option<(u32, u32)>; RANGES] {
        let mut all: Vec<(u32, u32)> = Vec::new();
        for (at, data) in &self.pieces {
            let end = behind(*at, data.len());
            match all.last_mut() {
                Some((_, last)) if !before(*last, *at) => {
                    if before(*last, end) {
                        *last = end;
                    }
                }
                _ => all.push((*at, end)),
            }
        }
        let holds =
            |(start, end): &(u32, u32)| !before(self.latest, *start) && before(self.latest, *end);
        all.sort_by_key(|range| !holds(range));
        let mut ranges = all.into_iter().map(Some);
        std::array::from_fn(|_| ranges.next().flatten())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_over_the_wrap() {
        let (mut early, mut room) = (Early::default(), 100);
        let start = u32::MAX - 4;
        early.keep(behind(start, 8), b"ij", &mut room);
        early.keep(behind(start, 2), b"cdef", &mut room);
        early.keep(behind(start, 4), b"efgh", &mut room);
        early.keep(behind(start, 4), b"ef", &mut room);
        assert_eq!((early.bytes(), room), (10, 90));
        let whole = (behind(start, 2), behind(start, 10));
        assert_eq!(early.ranges(), [Some(whole), None, None, None]);
        assert_eq!(early.next(start, &mut room), None);
        let mut taken = Vec::new();
        let mut expected = behind(start, 2);
        while let Some(data) = early.next(expected, &mut room) {
            expected = behind(expected, data.len());
            taken.extend(data);
        }
        assert_eq!(
            (taken.as_slice(), early.bytes(), room),
            (&b"cdefghij"[..], 0, 100)
        );
    }

    #[test]
    fn the_latest_range_is_told_first_and_pieces_are_bounded() {
        let (mut early, mut room) = (Early::default(), 1000);
        for at in [10, 30, 50, 20] {
            early.keep(at, b"12345", &mut room);
        }
        let ranges = early.ranges().map(Option::unwrap);
        assert_eq!(ranges, [(20, 25), (10, 15), (30, 35), (50, 55)]);
        for at in 0..200 {
            early.keep(1000 + 2 * at, b"1", &mut room);
        }
        assert_eq!(early.pieces.len(), PIECES);
        let mut full = 3;
        early.keep(5000, b"1234", &mut full);
        assert_eq!(full, 3);
    }
}
