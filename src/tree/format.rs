//! Reads the members of a tar stream, with every length bounded before it is believed.
//!
//! Understands v7, ustar, GNU (long names, old sparse files) and POSIX pax (long names, large
//! numbers, GNU sparse 0.1 and 1.0). Knows nothing of file systems.

use std::io::{ErrorKind, Read};

use tar::{EntryType, Header};

use super::extensions::{Extensions, NOT_A_RECORD, PaxRecords, until_nul};
use super::{UnpackError, UnpackErrorKind};

/// Size of a tar record.
pub(super) const BLOCK: usize = 512;
/// Names and pax records of one member take at most this many bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Zeros after the end mark that are read away, so that a writer at the other end of a pipe can finish.
const MAX_TRAILER: u64 = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device node, FIFO or socket.
    Special,
    /// A type that no supported format defines.
    Unknown(u8),
}

/// A region of data in a file: where it goes and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// One member of an archive.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// As written in the archive, not yet judged.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Target of a symbolic or hard link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: i64,
    /// Size once unpacked, holes included.
    pub(super) size: u64,
    /// Data regions in ascending order; everything else is a hole.
    pub(super) segments: Vec<Segment>,
}

/// A tar stream.
pub(super) struct Reader<R> {
    input: R,
    /// Bytes of the current member's data not yet read.
    pub(super) data: u64,
    /// Zeros that fill the last block of the current member.
    padding: u64,
    members: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            data: 0,
            padding: 0,
            members: 0,
        }
    }

    pub(super) fn input(&self) -> &R {
        &self.input
    }

    /// The next member; what is left of the previous one is skipped. `None` at the end mark.
    pub(super) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        let mut extensions = Extensions::default();
        let mut pending = false;
        loop {
            self.finish_member()?;
            let Some(header) = self.header()? else {
                if pending {
                    return Err(self.malformed("the archive ends after an extension record"));
                }
                self.drain_trailer()?;
                return Ok(None);
            };
            let size = self.number(header.entry_size(), "size")?;
            self.expect_data(size)?;
            // By letter: the enum of the crate has more names than the formats have letters.
            match header.entry_type().as_byte() {
                b'L' => extensions.path = Some(until_nul(self.extension(size)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(size)?)),
                b'x' => {
                    let record = self.extension(size)?;
                    extensions
                        .apply(&record)
                        .map_err(|what| self.malformed(what))?;
                }
                b'g' => self.global_pax(size)?,
                _ => return self.member(&header, size, extensions).map(Some),
            }
            pending = true;
        }
    }

    /// Reads data of the current member; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let wanted = usize::try_from(self.data)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(window) = buffer.get_mut(..wanted) else {
            return Ok(0);
        };
        if window.is_empty() {
            return Ok(0);
        }
        loop {
            match self.input.read(window) {
                Ok(0) => return Err(UnpackErrorKind::Truncated.alone()),
                Ok(count) => {
                    self.data -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackErrorKind::read(&error).alone()),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        stored: u64,
        extensions: Extensions,
    ) -> Result<Member, UnpackError> {
        let kind = match header.entry_type().as_byte() {
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'5' => Kind::Directory,
            b'2' => Kind::Symlink,
            b'1' => Kind::HardLink,
            b'3' | b'4' | b'6' => Kind::Special,
            other => Kind::Unknown(other),
        };
        let old_sparse = header.entry_type() == EntryType::GNUSparse;
        let new_sparse = extensions.sparse_map.is_some() || extensions.sparse_version.0.is_some();
        if extensions.sparse_blocks || (old_sparse && new_sparse) {
            return Err(UnpackErrorKind::UnsupportedSparse.at(&header.path_bytes()));
        }
        // The pax size wins over the header's; readers that disagree on this see different archives.
        let stored = extensions.size.unwrap_or(stored);
        // Links carry no data, whatever their header claims (pax writers record the target's size there).
        let stored = if matches!(kind, Kind::File | Kind::Unknown(_)) {
            stored
        } else {
            0
        };
        self.expect_data(stored)?;
        let path = match (extensions.sparse_name, extensions.path) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => header.path_bytes().into_owned(),
        };
        let is_directory = kind == Kind::File && path.last() == Some(&b'/');
        let kind = if is_directory && stored == 0 {
            Kind::Directory
        } else {
            kind
        };
        let old = header.as_old();
        let mode = self.field(&old.mode, header.mode(), "mode")?;
        let uid = self.field(&old.uid, header.uid(), "uid")?;
        let gid = self.field(&old.gid, header.gid(), "gid")?;
        let mtime = self.field(&old.mtime, header.mtime(), "mtime")?;
        let mut member = Member {
            link: extensions.link.unwrap_or_else(|| {
                header
                    .link_name_bytes()
                    .map(std::borrow::Cow::into_owned)
                    .unwrap_or_default()
            }),
            kind,
            mode: mode & 0o7777,
            uid: extensions.uid.unwrap_or(uid),
            gid: extensions.gid.unwrap_or(gid),
            mtime: extensions
                .mtime
                .unwrap_or(i64::try_from(mtime).unwrap_or(0)),
            size: stored,
            segments: vec![Segment {
                offset: 0,
                length: stored,
            }],
            path,
        };
        if old_sparse {
            self.old_sparse(header, &mut member)?;
        } else if new_sparse {
            let map = extensions.sparse_map;
            self.pax_sparse(
                extensions.sparse_version,
                map.as_deref(),
                extensions.sparse_size,
                &mut member,
            )?;
        }
        Ok(member)
    }

    /// A global record may comment on the archive; one that renames or resizes what follows is refused.
    fn global_pax(&mut self, size: u64) -> Result<(), UnpackError> {
        let record = self.extension(size)?;
        for pair in PaxRecords(&record) {
            let (key, _) = pair.ok_or_else(|| self.malformed(NOT_A_RECORD))?;
            if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
                return Err(
                    self.malformed("a global pax record changes the names or sizes of members")
                );
            }
        }
        Ok(())
    }

    /// Reads one header; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        self.exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        self.members += 1;
        let sum = header
            .as_bytes()
            .iter()
            .enumerate()
            .fold(0_u32, |sum, (index, byte)| {
                sum + if (148..156).contains(&index) {
                    u32::from(b' ')
                } else {
                    u32::from(*byte)
                }
            });
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed("the header checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION {
            return Err(self.malformed("a name or pax record is larger than 1 MiB"));
        }
        let mut content = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.read(&mut buffer)?;
            if count == 0 {
                return Ok(content);
            }
            content.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }

    fn expect_data(&mut self, size: u64) -> Result<(), UnpackError> {
        let block = BLOCK as u64;
        self.data = size;
        self.padding = (block - size % block) % block;
        if size.checked_add(self.padding).is_none() {
            return Err(self.malformed("a member is larger than a file can be"));
        }
        Ok(())
    }

    fn finish_member(&mut self) -> Result<(), UnpackError> {
        let mut buffer = [0; 16 * 1024];
        while self.read(&mut buffer)? > 0 {}
        let padding = usize::try_from(self.padding).unwrap_or(0).min(BLOCK);
        self.padding = 0;
        match buffer.get_mut(..padding) {
            Some(window) => self.exact(window),
            None => Ok(()),
        }
    }

    fn drain_trailer(&mut self) -> Result<(), UnpackError> {
        let mut rest = (&mut self.input).take(MAX_TRAILER);
        std::io::copy(&mut rest, &mut std::io::sink())
            .map(drop)
            .map_err(|error| UnpackErrorKind::read(&error).alone())
    }

    pub(super) fn exact(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        self.input.read_exact(buffer).map_err(|error| {
            if error.kind() == ErrorKind::UnexpectedEof {
                UnpackErrorKind::Truncated.alone()
            } else {
                UnpackErrorKind::read(&error).alone()
            }
        })
    }

    /// A field that a writer left blank is zero.
    fn field<T: Default>(
        &self,
        raw: &[u8],
        parsed: std::io::Result<T>,
        field: &str,
    ) -> Result<T, UnpackError> {
        if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(T::default());
        }
        self.number(parsed, field)
    }

    pub(super) fn number<T>(
        &self,
        parsed: std::io::Result<T>,
        field: &str,
    ) -> Result<T, UnpackError> {
        parsed.map_err(|_| self.malformed(&format!("the {field} of a header is not a number")))
    }

    fn malformed(&self, what: &str) -> UnpackError {
        UnpackErrorKind::Malformed(format!("{what} (header {})", self.members)).alone()
    }
}
