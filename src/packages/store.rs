//! Files by their SHA-256, bounded, used by several processes at once.
//!
//! A file is written under `incoming` by whoever holds its lock, and renamed when its digest is right, so that what has a name under
//! `files` is whole. The kernel gives locks back when their holder dies.

use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The files of a cache.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    limit: u64,
    /// Bytes of unfinished downloads of this process.
    arriving: Arc<AtomicU64>,
}

/// What [`Store::sweep`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Downloads that nobody goes on with, removed.
    pub unfinished: usize,
    /// Files that are kept.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A file that is being downloaded, by nobody else.
#[derive(Debug)]
pub(super) struct Incoming {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
    arriving: Arc<AtomicU64>,
    most: u64,
}

impl Store {
    /// Makes the directories. They are this user's alone.
    ///
    /// # Errors
    /// They cannot be made, or somebody else may write there.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        let make = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            let found = made.and_then(|()| fs::metadata(path));
            let own = nix::unistd::geteuid().as_raw();
            match found {
                Ok(found) if found.uid() == own && found.mode() & 0o022 == 0 => Ok(()),
                Ok(_) => Err(at(path, "is not a directory of this user's alone")),
                Err(error) => Err(at(path, &error.to_string())),
            }
        };
        let store = Self {
            directory: directory.to_owned(),
            limit,
            arriving: Arc::default(),
        };
        make(directory)?;
        make(&store.files())?;
        make(&store.incoming())?;
        Ok(store)
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn incoming(&self) -> PathBuf {
        self.directory.join("incoming")
    }

    /// Of a single file.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// A file and its length. It is the one that was used last from now on.
    pub(super) fn get(&self, sha256: &str) -> Option<(File, u64)> {
        let file = File::open(self.files().join(sha256)).ok()?;
        let length = file.metadata().ok()?.len();
        // Its owner may always do that.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Some((file, length))
    }

    /// Begins a download; nothing while another process is at it.
    pub(super) fn begin(&self, sha256: &str) -> io::Result<Option<Incoming>> {
        let path = self.incoming().join(sha256);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held the lock before may have renamed or removed it.
        if !is_at(&file, &path) {
            return Ok(None);
        }
        file.set_len(0)?;
        Ok(Some(Incoming {
            file,
            path,
            hash: Sha256::new(),
            bytes: 0,
            arriving: Arc::clone(&self.arriving),
            most: self.limit,
        }))
    }

    /// Keeps what came, when it is what was asked for, and makes room for it.
    pub(super) fn keep(&self, incoming: &Incoming, sha256: &str) -> io::Result<bool> {
        if hex(&incoming.hash.clone().finalize()) != sha256 {
            return Ok(false);
        }
        // Else a name could outlive what it stands for.
        incoming.file.sync_all()?;
        fs::rename(&incoming.path, self.files().join(sha256))?;
        self.make_room()?;
        Ok(true)
    }

    /// Removes the files that were not used for the longest time.
    fn make_room(&self) -> io::Result<()> {
        let mut all = listed(&self.files())?;
        let mut bytes: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
        all.sort();
        for (_, path, size) in all {
            if bytes <= self.limit {
                break;
            }
            // Another process may have been faster. Who reads it goes on reading.
            let _ = fs::remove_file(path);
            bytes -= size;
        }
        Ok(())
    }

    /// Removes what dead processes have left, and counts the rest.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep(&self) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for (_, path, _) in listed(&self.incoming())? {
            let Ok(file) = OpenOptions::new()
                .write(true)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&path)
            else {
                continue;
            };
            if file.try_lock().is_ok() && is_at(&file, &path) && fs::remove_file(&path).is_ok() {
                swept.unfinished += 1;
            }
        }
        self.make_room()?;
        for (_, _, bytes) in listed(&self.files())? {
            swept.files += 1;
            swept.bytes += bytes;
        }
        Ok(swept)
    }
}

impl Incoming {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = bytes.len() as u64;
        self.bytes += more;
        if self.arriving.fetch_add(more, Ordering::Relaxed) + more > self.most {
            return Err(io::Error::other("too much is downloaded at once"));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
        // While the lock is held; after a rename it is somewhere else.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// When they were used last, where they are, how large they are.
fn listed(directory: &Path) -> io::Result<Vec<(SystemTime, PathBuf, u64)>> {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((found.modified().ok()?, entry.path(), found.len()))
    };
    let listing = fs::read_dir(directory).map_err(|error| at(directory, &error.to_string()))?;
    Ok(listing.filter_map(entry).collect())
}

fn is_at(file: &File, path: &Path) -> bool {
    let one = |found: fs::Metadata| (found.dev(), found.ino());
    let there = fs::symlink_metadata(path).map(one);
    let ours = file.metadata().map(one);
    matches!((there, ours), (Ok(there), Ok(ours)) if there == ours)
}

fn at(path: &Path, problem: &str) -> io::Error {
    io::Error::other(format!("package cache: {}: {problem}", path.display()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(store: &Store, content: &[u8]) -> String {
        let sha256 = hex(&Sha256::digest(content));
        let mut incoming = store.begin(&sha256).unwrap().unwrap();
        incoming.write(content).unwrap();
        assert!(store.keep(&incoming, &sha256).unwrap());
        sha256
    }

    #[test]
    fn a_file_is_there_when_its_digest_is_right_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 100).unwrap();
        let wrong = "0".repeat(64);
        let mut incoming = store.begin(&wrong).unwrap().unwrap();
        incoming.write(b"something else").unwrap();
        // Another process waits meanwhile.
        assert!(store.begin(&wrong).unwrap().is_none());
        assert_eq!(store.sweep().unwrap(), Swept::default());
        assert!(!store.keep(&incoming, &wrong).unwrap());
        drop(incoming);
        assert!(store.get(&wrong).is_none());
        assert_eq!(fs::read_dir(store.incoming()).unwrap().count(), 0);
        let right = put(&store, b"content");
        assert_eq!(store.get(&right).unwrap().1, 7);
        // What a dead process left is taken over, and swept.
        fs::write(store.incoming().join(&wrong), "half").unwrap();
        drop(store.begin(&wrong).unwrap().unwrap());
        fs::write(store.incoming().join(&wrong), "half").unwrap();
        let swept = store.sweep().unwrap();
        assert_eq!((swept.unfinished, swept.files, swept.bytes), (1, 1, 7));
    }

    #[test]
    fn the_files_used_least_lately_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 10).unwrap();
        let age = |sha256: &str, seconds| {
            let file = File::open(store.files().join(sha256)).unwrap();
            let then = SystemTime::now() - Duration::from_secs(seconds);
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        };
        let (one, two) = (put(&store, b"1111"), put(&store, b"2222"));
        age(&one, 100);
        age(&two, 50);
        assert!(store.get(&one).is_some());
        let three = put(&store, b"3333");
        let there = |sha256: &str| store.files().join(sha256).exists();
        assert!(there(&one) && !there(&two) && there(&three));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Store::open(directory.path(), 10).unwrap_err();
        assert!(error.to_string().contains("this user's alone"), "{error}");
    }
}
