//! What was fetched: answers by address, and files by the digest of their content.
//!
//! ```text
//! answers/A.json   what a hub said; A is the digest of the address
//! files/A          ending and digest of the file that an address names
//! blobs/D.parquet  that file; D is its digest
//! parts/A          the beginning of a file that is being fetched
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Url;
use sha2::{Digest, Sha256};

use super::HubError;
use super::select::ending;

/// How long another process may take for the same file.
const LOCKED: Duration = Duration::from_secs(3600);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
}

/// A file that is being fetched, by this process alone.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Cache {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn place(&self, kind: &str, name: &str) -> PathBuf {
        self.directory.join(kind).join(name)
    }

    pub(super) fn answer(&self, url: &Url) -> Option<String> {
        std::fs::read_to_string(self.place("answers", &format!("{}.json", key(url)))).ok()
    }

    pub(super) fn keep_answer(&self, url: &Url, text: &str) -> Result<(), HubError> {
        write(&self.place("answers", &format!("{}.json", key(url))), text)
    }

    /// The file that an address names, if it is here.
    pub(super) fn file(&self, url: &Url) -> Option<PathBuf> {
        let name = std::fs::read_to_string(self.place("files", &key(url))).ok()?;
        let path = self.place("blobs", &name);
        (!name.contains('/') && path.is_file()).then_some(path)
    }

    /// The beginning of a file, as far as it came the last time.
    pub(super) async fn part(&self, url: &Url) -> Result<Part, HubError> {
        let path = self.place("parts", &key(url));
        make_parent(&path)?;
        let begun = Instant::now();
        loop {
            let mut how = OpenOptions::new();
            how.read(true).append(true).create(true);
            let file = how.open(&path).map_err(HubError::cache("open", &path))?;
            match file.try_lock() {
                Ok(()) => return Ok(Part { file, path }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCKED => {}
                Err(TryLockError::WouldBlock) => return Err(HubError::Locked(path)),
                Err(TryLockError::Error(e)) => return Err(HubError::cache("lock", &path)(e)),
            }
            drop(file);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A whole file takes its place.
    pub(super) async fn keep(
        &self,
        url: &Url,
        part: Part,
        name: &str,
    ) -> Result<PathBuf, HubError> {
        let digest = digest(&part).await?;
        let name = format!("{digest}.{}", ending(name).unwrap_or("jsonl"));
        let blob = self.place("blobs", &name);
        make_parent(&blob)?;
        // The name first: whoever waits for the lock then finds the file, and not the place of another part.
        write(&self.place("files", &key(url)), &name)?;
        std::fs::rename(&part.path, &blob).map_err(HubError::cache("rename", &part.path))?;
        Ok(blob)
    }
}

/// Digest of what has come.
pub(super) async fn digest(part: &Part) -> Result<String, HubError> {
    let path = part.path.clone();
    let read = move || {
        let mut file = File::open(&path)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            let size = file.read(&mut buffer)?;
            match buffer.get(..size) {
                Some(bytes @ [_, ..]) => hash.update(bytes),
                _ => return Ok(hex(&hash.finalize())),
            }
        }
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(HubError::cache("read", &part.path))
}

fn key(url: &Url) -> String {
    hex(&Sha256::digest(url.as_str()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(HubError::cache("make", parent))
}

/// Whole or not at all: another process may read it at the same time.
fn write(path: &Path, text: &str) -> Result<(), HubError> {
    make_parent(path)?;
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    written().map_err(HubError::cache("write", path))
}
