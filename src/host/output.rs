//! Capturing output in constant memory: the head and the tail of a stream.

use std::collections::VecDeque;
use std::time::Duration;

use crate::env::Captured;

/// Until then nobody waits for output: most commands end sooner, and what they have printed is read once. They write 64 KiB, as
/// much as a pipe holds, without us.
pub(crate) const UNWATCHED: Duration = Duration::from_millis(2);

/// Reads of one pipe or terminal before the others have their turn: what is in it at most, and no more of a writer without end.
pub(crate) const TURNS: usize = 64;

/// Keeps at most `limit` bytes of a stream: half from its head, half from its tail.
#[derive(Debug)]
pub(crate) struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    total: u64,
}

impl HeadTail {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: limit / 2,
            total: 0,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        let rest = rest
            .get(rest.len().saturating_sub(self.half)..)
            .unwrap_or_default();
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// Bytes seen, kept or not.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Something was left out.
    pub(crate) fn overflowed(&self) -> bool {
        self.total > (self.head.len() + self.tail.len()) as u64
    }

    pub(crate) fn finish(self) -> Captured {
        let mut head = self.head;
        let kept = (head.len() + self.tail.len()) as u64;
        let omitted = self.total - kept;
        let mut tail: Vec<u8> = self.tail.into();
        if omitted == 0 {
            head.append(&mut tail);
        }
        Captured {
            head,
            omitted,
            tail,
            full_copy: None,
        }
    }
}

/// Where a pipe is read into: little memory until a read fills it. Making 64 KiB takes longer than most commands' output.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: bool,
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; 4 << 10],
            filled: false,
        }
    }

    /// Room for the next read.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.filled {
            // As much as a pipe holds: pipe(7).
            self.bytes.resize(64 << 10, 0);
        }
        &mut self.bytes
    }

    /// What was read.
    pub(crate) fn read(&mut self, count: usize) -> &[u8] {
        self.filled = count == self.bytes.len();
        self.bytes.get(..count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(limit: usize, chunks: &[&[u8]]) -> (String, u64, String) {
        let mut buffer = HeadTail::new(limit);
        chunks.iter().for_each(|chunk| buffer.push(chunk));
        let captured = buffer.finish();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(captured.head), captured.omitted, text(captured.tail))
    }

    #[test]
    fn short_streams_are_whole() {
        assert_eq!(capture(8, &[]), (String::new(), 0, String::new()));
        assert_eq!(
            capture(8, &[b"abc", b"defgh"]),
            ("abcdefgh".into(), 0, String::new())
        );
    }

    #[test]
    fn long_streams_keep_both_ends_however_they_are_cut() {
        let expected = ("abcd".to_owned(), 18, "wxyz".to_owned());
        let whole: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
        for size in [1, 3, 5, 26] {
            let chunks: Vec<&[u8]> = whole.chunks(size).collect();
            assert_eq!(capture(8, &chunks), expected, "chunks of {size}");
        }
    }
}
