//! Compressed archives as streams of plain bytes, hashed on the way.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::fetch::hex;

/// Plain bytes that may follow after the reader has seen enough: the padding of an archive.
const MAX_TRAILER: u64 = 64 << 20;

/// A part of a file: an archive of its own, or one in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Section {
    /// The whole of a file.
    pub(super) fn whole(path: &Path) -> Result<Self, ImageError> {
        let length = std::fs::metadata(path)
            .map_err(|source| io("read", path, source))?
            .len();
        Ok(Self {
            path: path.to_path_buf(),
            offset: 0,
            length,
        })
    }

    pub(super) fn open(&self) -> Result<SectionReader, ImageError> {
        let file = File::open(&self.path).map_err(|source| io("open", &self.path, source))?;
        Ok(SectionReader {
            file,
            offset: self.offset,
            left: self.length,
        })
    }

    /// Its compression by its first bytes.
    pub(super) fn compression(&self) -> Result<Compression, ImageError> {
        let mut magic = [0; 6];
        let mut reader = self.open()?;
        let mut filled = 0;
        while let Some(rest) = magic.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader
                .read(rest)
                .map_err(|source| io("read", &self.path, source))?
            {
                0 => break,
                count => filled += count,
            }
        }
        let refused = |format| {
            Err(ImageError::Compression {
                path: self.path.clone(),
                format,
            })
        };
        match magic {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => refused("xz"),
            [b'B', b'Z', b'h', ..] => refused("bzip2"),
            _ => Ok(Compression::None),
        }
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What went through [`pump`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pumped {
    /// SHA-256 of the section as it is stored.
    pub(super) stored: String,
    /// SHA-256 of the plain bytes.
    pub(super) plain: String,
    /// Plain bytes.
    pub(super) bytes: u64,
}

/// Writes the plain bytes of a section to `out`. Blocks the thread.
///
/// A reader that has seen enough and closes its end does not end it: the rest is hashed.
pub(super) fn pump(
    section: &Section,
    mut out: impl Write,
    max_bytes: u64,
) -> Result<Pumped, ImageError> {
    let failed = |source| io("read", &section.path, source);
    let mut stored = Hashing {
        inner: section.open()?,
        hash: Sha256::new(),
    };
    let mut plain = Sha256::new();
    let mut bytes = 0_u64;
    let mut bound = max_bytes;
    let mut open = true;
    {
        let mut decoder: Box<dyn Read + '_> = match section.compression()? {
            Compression::None => Box::new(&mut stored),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(&mut stored)),
            Compression::Zstd => {
                Box::new(zstd::stream::read::Decoder::new(&mut stored).map_err(failed)?)
            }
        };
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let window = buffer.get(..count).unwrap_or_default();
            bytes += count as u64;
            if bytes > bound {
                return Err(failed(std::io::Error::other(format!(
                    "more than {bound} bytes when unpacked"
                ))));
            }
            plain.update(window);
            match if open { out.write_all(window) } else { Ok(()) } {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    open = false;
                    bound = bytes.saturating_add(MAX_TRAILER).min(max_bytes);
                }
                Err(error) => return Err(io("pass on", &section.path, error)),
            }
        }
    }
    std::io::copy(&mut stored, &mut std::io::sink()).map_err(failed)?;
    Ok(Pumped {
        stored: hex(&stored.hash.finalize()),
        plain: hex(&plain.finalize()),
        bytes,
    })
}

/// Reads a section without moving the position of a file that others read too.
#[derive(Debug)]
pub(super) struct SectionReader {
    file: File,
    offset: u64,
    left: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self
            .file
            .read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// A writer that only hashes.
#[derive(Default)]
pub(super) struct HashSink(pub(super) Sha256);

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> ImageError {
    ImageError::Io {
        operation,
        path: path.to_path_buf(),
        source,
    }
}
