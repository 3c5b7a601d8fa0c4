//! What is in a file, and how two texts differ; bounded in bytes and in work.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::{Digest, Sha256};

/// Largest file that is read.
const MAX_FILE: u64 = 8 << 20;
/// Largest text of which differences are shown.
const MAX_TEXT: usize = 16 << 10;
/// Bytes of the differences of one file.
const MAX_DIFF: usize = 2 << 10;
/// Pairs of lines that are compared; texts that differ in more are shown as replaced.
const MAX_PAIRS: usize = 40_000;

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) sha256: [u8; 32],
    /// All of it, when it is a small text.
    pub(super) text: Option<Box<str>>,
}

/// Reads a file of at most `budget` bytes, which become less. Nothing but a regular file is opened for longer than a look.
pub(super) fn read(root: BorrowedFd<'_>, path: &[u8], budget: &mut u64) -> Option<Content> {
    // A FIFO that takes the place of a file must not hold PID 1 up.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let file = match openat2(root, path, how) {
        Ok(file) => File::from(file),
        // A rename went on meanwhile (openat2(2)).
        Err(Errno::EAGAIN) => File::from(openat2(root, path, how).ok()?),
        Err(_) => return None,
    };
    let metadata = file.metadata().ok()?;
    let bound = MAX_FILE.min(*budget);
    if !metadata.is_file() || metadata.len() > bound {
        return None;
    }
    let mut hash = Sha256::new();
    let mut start = Vec::new();
    let mut file = file.take(bound);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).ok()?;
        let read = buffer.get(..count).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        *budget = budget.saturating_sub(count as u64);
        hash.update(read);
        if start.len() <= MAX_TEXT {
            start.extend_from_slice(read);
        }
    }
    let text = (start.len() <= MAX_TEXT && !start.contains(&0)).then_some(start);
    let text = text.and_then(|text| String::from_utf8(text).ok());
    Some(Content {
        sha256: hash.finalize().into(),
        text: text.map(String::into_boxed_str),
    })
}

pub(super) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lines that went and came, below the numbers of the first line on both sides; `None` when there are none.
pub(super) fn diff(old: &str, new: &str) -> Option<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (old.get(head..)?, new.get(head..)?);
    let ends = old.iter().rev().zip(new.iter().rev());
    let tail = ends.take_while(|(a, b)| a == b).count();
    let old = old.get(..old.len() - tail)?;
    let new = new.get(..new.len() - tail)?;
    let mut shown = Shown::default();
    let (mut at, mut to) = (0, 0);
    for (i, j) in common(old, new) {
        shown.hunk((head, at, to), old.get(at..i)?, new.get(to..j)?);
        (at, to) = (i + 1, j + 1);
    }
    shown.hunk((head, at, to), old.get(at..)?, new.get(to..)?);
    (!shown.text.is_empty()).then_some(shown.text)
}

#[derive(Default)]
struct Shown {
    text: String,
    full: bool,
}

impl Shown {
    fn hunk(&mut self, (head, at, to): (usize, usize, usize), old: &[&str], new: &[&str]) {
        if old.is_empty() && new.is_empty() {
            return;
        }
        self.line(&format!("@@ -{} +{} @@", head + at + 1, head + to + 1), "");
        for line in old {
            self.line("-", line);
        }
        for line in new {
            self.line("+", line);
        }
    }

    fn line(&mut self, mark: &str, line: &str) {
        if self.full {
            return;
        }
        if self.text.len() + mark.len() + line.len() >= MAX_DIFF {
            self.full = true;
            self.text.push_str("…\n");
            return;
        }
        let _ = writeln!(self.text, "{mark}{line}");
    }
}

/// The longest common subsequence, as pairs of places; nothing where it would be too much work.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if old.len() * new.len() > MAX_PAIRS {
        return Vec::new();
    }
    let mut lengths = vec![0_u16; (old.len() + 1) * width];
    let at = |lengths: &[u16], i: usize, j: usize| lengths.get(i * width + j).copied();
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let length = if a == b {
                at(&lengths, i + 1, j + 1).map(|length| length + 1)
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let (Some(cell), Some(length)) = (lengths.get_mut(i * width + j), length) {
                *cell = length;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
        if a == b {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_lines_with_their_numbers() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), None);
        let seen = diff("", "x\ny\n").unwrap();
        assert_eq!(seen, "@@ -1 +1 @@\n+x\n+y\n");
        let seen = diff("1\n2\n3\n4\n5\n6\n", "1\n2\nthree\n4\n6\n7\n").unwrap();
        assert_eq!(
            seen,
            "@@ -3 +3 @@\n-3\n+three\n@@ -5 +5 @@\n-5\n@@ -7 +6 @@\n+7\n"
        );
    }

    #[test]
    fn much_work_and_much_text_are_bounded() {
        let many = |mark: &str| -> String { (0..400).map(|n| format!("{mark}{n}\n")).collect() };
        let seen = diff(&many("a"), &many("b")).unwrap();
        assert!(seen.len() <= MAX_DIFF + 8, "{}", seen.len());
        assert!(seen.ends_with("…\n"));
        assert_eq!(common(&["a"; 300], &["a"; 300]), []);
        let long = "x".repeat(MAX_TEXT);
        assert_eq!(diff("", &long).unwrap(), "@@ -1 +1 @@\n…\n");
    }

    /// The text that the shown lines make of an old one.
    fn patched(old: &[&str], shown: &str) -> Vec<String> {
        let mut new: Vec<String> = Vec::new();
        let mut at = 0;
        for line in shown.lines() {
            let (mark, rest) = line.split_at(1);
            match mark {
                "@" => {
                    let number: usize = rest.split(['-', ' ']).nth(2).unwrap().parse().unwrap();
                    new.extend(old[at..number - 1].iter().map(|&line| line.to_owned()));
                    at = number - 1;
                }
                "-" => {
                    assert_eq!(old[at], rest);
                    at += 1;
                }
                "+" => new.push(rest.to_owned()),
                other => panic!("{other}"),
            }
        }
        new.extend(old[at..].iter().map(|&line| line.to_owned()));
        new
    }

    #[test]
    fn the_lines_that_are_shown_make_the_new_text_of_the_old() {
        let texts: Vec<Vec<&str>> = (0..81_usize)
            .map(|n| {
                let digits = [n % 3, n / 3 % 3, n / 9 % 3, n / 27];
                let lines = digits.map(|digit| [None, Some("a"), Some("b")][digit]);
                lines.into_iter().flatten().collect()
            })
            .collect();
        for old in &texts {
            for new in &texts {
                let shown = diff(&old.join("\n"), &new.join("\n")).unwrap_or_default();
                assert_eq!(patched(old, &shown), *new, "{old:?} {shown}");
                assert_eq!(shown.is_empty(), old == new);
            }
        }
    }
}
