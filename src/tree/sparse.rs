//! Files with holes: three formats of the same idea.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::extensions::decimal;
use super::format::{BLOCK, Member, Reader, Segment};
use super::{UnpackError, UnpackErrorKind};

/// Data regions of one sparse member.
const MAX_SEGMENTS: usize = 65_536;

impl<R: Read> Reader<R> {
    /// The format in which the map is in the header and the blocks behind it.
    pub(super) fn old_sparse(
        &mut self,
        header: &Header,
        member: &mut Member,
    ) -> Result<(), UnpackError> {
        let Some(gnu) = header.as_gnu() else {
            return Err(UnpackErrorKind::UnsupportedSparse.at(&member.path));
        };
        let stored = self.data;
        let mut segments = Vec::new();
        sparse_blocks(&gnu.sparse, &mut segments).map_err(|kind| kind.at(&member.path))?;
        let mut more = gnu.is_extended();
        while more {
            let known = segments.len();
            let mut block = GnuExtSparseHeader::new();
            self.exact(block.as_mut_bytes())?;
            sparse_blocks(block.sparse(), &mut segments).map_err(|kind| kind.at(&member.path))?;
            // A chain of empty blocks has no end.
            if segments.len() == known {
                return Err(UnpackErrorKind::UnsupportedSparse.at(&member.path));
            }
            more = block.is_extended();
        }
        member.size = self.number(gnu.real_size(), "real size")?;
        check_segments(&segments, member.size, stored).map_err(|kind| kind.at(&member.path))?;
        member.segments = segments;
        Ok(())
    }

    /// The formats 0.1 (map in the pax record) and 1.0 (map in front of the data).
    pub(super) fn pax_sparse(
        &mut self,
        version: (Option<u64>, Option<u64>),
        map: Option<&[u8]>,
        real_size: Option<u64>,
        member: &mut Member,
    ) -> Result<(), UnpackError> {
        let unsupported = || UnpackErrorKind::UnsupportedSparse.at(&member.path);
        let numbers = match (version, map) {
            ((Some(1), Some(0)), None) => self.sparse_preamble(member)?,
            ((None, None) | (Some(0), Some(1)), Some(map)) => map
                .split(|byte| *byte == b',')
                .map(decimal)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(unsupported)?,
            _ => return Err(unsupported()),
        };
        if numbers.len() % 2 != 0 || numbers.len() / 2 > MAX_SEGMENTS {
            return Err(unsupported());
        }
        let segments: Vec<_> = numbers
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [offset, length] => Some(Segment {
                    offset: *offset,
                    length: *length,
                }),
                _ => None,
            })
            .collect();
        member.size = real_size.ok_or_else(unsupported)?;
        check_segments(&segments, member.size, self.data).map_err(|kind| kind.at(&member.path))?;
        member.segments = segments;
        Ok(())
    }

    /// Sparse 1.0 keeps its map in front of the data: decimal lines, filled to whole blocks.
    fn sparse_preamble(&mut self, member: &Member) -> Result<Vec<u64>, UnpackError> {
        let unsupported = || UnpackErrorKind::UnsupportedSparse.at(&member.path);
        let mut numbers = Vec::new();
        let mut expected: Option<usize> = None;
        let mut digits = Vec::new();
        while expected.is_none_or(|count| numbers.len() < count) {
            let mut block = [0; BLOCK];
            if self.data < BLOCK as u64 {
                return Err(unsupported());
            }
            self.exact(&mut block)?;
            self.data -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > BLOCK {
                        return Err(unsupported());
                    }
                    continue;
                }
                let value = decimal(&digits).ok_or_else(unsupported)?;
                digits.clear();
                match expected {
                    None => {
                        let count = usize::try_from(value)
                            .ok()
                            .filter(|count| *count <= MAX_SEGMENTS);
                        expected = Some(count.ok_or_else(unsupported)? * 2);
                    }
                    Some(count) if numbers.len() < count => numbers.push(value),
                    Some(_) => return Err(unsupported()),
                }
                if expected.is_some_and(|count| numbers.len() == count) {
                    break;
                }
            }
        }
        Ok(numbers)
    }
}

/// Writes the data of a member where it belongs; the rest of the file is a hole.
pub(super) fn copy_content<R: Read>(
    member: &Member,
    reader: &mut Reader<R>,
    file: &mut File,
) -> Result<(), UnpackErrorKind> {
    let failed = |error: std::io::Error| UnpackErrorKind::System {
        operation: "write the file".to_owned(),
        error: error.to_string(),
    };
    let mut buffer = vec![0; 128 * 1024];
    for segment in &member.segments {
        file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
        let mut left = segment.length;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let window = buffer.get_mut(..wanted).unwrap_or_default();
            let count = reader.read(window).map_err(|error| error.kind)?;
            if count == 0 {
                return Err(UnpackErrorKind::Truncated);
            }
            file.write_all(window.get(..count).unwrap_or_default())
                .map_err(failed)?;
            left -= count as u64;
        }
    }
    file.set_len(member.size).map_err(failed)
}

fn sparse_blocks(
    blocks: &[GnuSparseHeader],
    segments: &mut Vec<Segment>,
) -> Result<(), UnpackErrorKind> {
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        let (Ok(offset), Ok(length)) = (block.offset(), block.length()) else {
            return Err(UnpackErrorKind::UnsupportedSparse);
        };
        segments.push(Segment { offset, length });
        if segments.len() > MAX_SEGMENTS {
            return Err(UnpackErrorKind::UnsupportedSparse);
        }
    }
    Ok(())
}

/// Segments ascend, stay inside the file and use up exactly the stored bytes.
fn check_segments(segments: &[Segment], size: u64, stored: u64) -> Result<(), UnpackErrorKind> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for segment in segments {
        let next = segment
            .offset
            .checked_add(segment.length)
            .ok_or(UnpackErrorKind::UnsupportedSparse)?;
        if segment.offset < end || next > size {
            return Err(UnpackErrorKind::UnsupportedSparse);
        }
        end = next;
        total += segment.length;
    }
    if total == stored {
        Ok(())
    } else {
        Err(UnpackErrorKind::UnsupportedSparse)
    }
}
