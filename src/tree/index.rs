//! Where the files of an archive are in it, so that they can be read without unpacking.

use std::collections::HashMap;
use std::io::Read;

use super::format::{Kind, Reader, Segment};
use super::{UnpackError, UnpackErrorKind};

/// Files of one archive.
const MAX_FILES: usize = 20_000;

/// Offset and length, in bytes, of every regular file of a plain tar, by its name without `./`.
///
/// # Errors
///
/// When the archive is malformed or has more than 20,000 files. Names are not judged: they serve
/// for looking up only.
pub fn index(archive: impl Read) -> Result<HashMap<Vec<u8>, (u64, u64)>, UnpackError> {
    let mut reader = Reader::new(Counting {
        inner: archive,
        position: 0,
    });
    let mut files = HashMap::new();
    while let Some(member) = reader.next()? {
        let contiguous = member.segments
            == [Segment {
                offset: 0,
                length: member.size,
            }];
        if member.kind != Kind::File || !contiguous {
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(UnpackErrorKind::TooManyEntries(MAX_FILES as u64).alone());
        }
        let name = member
            .path
            .strip_prefix(b"./")
            .unwrap_or(&member.path)
            .to_vec();
        files.insert(name, (reader.input().position, member.size));
    }
    Ok(files)
}

pub(super) struct Counting<R> {
    inner: R,
    position: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}
