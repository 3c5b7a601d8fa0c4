//! The images of this host, below one state directory.
//!
//! ```text
//! images/<digest>/{rootfs/,manifest.json,use}   finished, never changed again
//! names/<name>                                  a digest
//! locks/<name>                                  flock(2): one process at a time makes this name
//! tmp/<id>/, tmp/<id>.lock                      unfinished; garbage as soon as nobody holds the lock
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::draft::Draft;
use super::manifest::{MANIFEST_FORMAT, Manifest};
use super::state::{
    StoreError, check_ours, io, is_digest, is_name, open_lock, read_bounded, remove_directory,
    sync_directory, write_synced,
};
use crate::spec::SandboxSpec;

/// A manifest is no larger than this.
const MAX_MANIFEST: u64 = 4 << 20;

/// How often a clean-up may come between the making of a file and its lock.
const DRAFT_TRIES: usize = 100;

/// The store of one state directory.
#[derive(Debug, Clone)]
pub struct Store {
    state: PathBuf,
    reclaimed: usize,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is.
    pub manifest: Manifest,
    /// Its tree.
    pub rootfs: PathBuf,
}

impl Image {
    /// A sandbox on this image with its environment, bounded and without network.
    #[must_use]
    pub fn spec(&self) -> SandboxSpec {
        let env = &self.manifest.env;
        SandboxSpec {
            env: env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            ..SandboxSpec::new(&self.rootfs)
        }
    }
}

/// Held by the process that makes an image of this name.
#[derive(Debug)]
pub struct NameLock {
    _lock: Flock<File>,
}

/// Held as long as a sandbox uses an image, which then cannot be removed.
#[derive(Debug)]
pub struct ImageHold {
    _lock: Flock<File>,
}

/// A directory that a process which died has left; nobody else cleans it up meanwhile.
#[derive(Debug)]
pub struct Unfinished {
    directory: PathBuf,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Unfinished {
    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// After its directory: until then the next start finds the rest.
    pub fn forget(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}

impl Store {
    /// Opens the store of a state directory, making what is missing, and reclaims what processes
    /// that died have left.
    ///
    /// # Errors
    ///
    /// When a directory cannot be made.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        for part in ["", "images", "names", "locks", "tmp"] {
            // Without a slash at its end: lstat(2) would follow a link.
            let path = if part.is_empty() {
                state.to_path_buf()
            } else {
                state.join(part)
            };
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| io("make directory", &path, source))?;
            check_ours(&path, /*link*/ part.is_empty())
                .map_err(|source| io("use directory", &path, source))?;
        }
        let mut store = Self {
            state: state.to_path_buf(),
            reclaimed: 0,
        };
        store.reclaimed = store.reclaim()?;
        Ok(store)
    }

    /// How many unfinished images of dead processes [`Store::open`] has deleted.
    #[must_use]
    pub fn reclaimed(&self) -> usize {
        self.reclaimed
    }

    /// The image of a name, a digest or the first 12 or more digits of one.
    ///
    /// # Errors
    ///
    /// When what is stored under it cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        if let Some(digest) = self.named(name)? {
            return self.image(&digest);
        }
        let hexadecimal = name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal {
            return Ok(None);
        }
        Ok(self
            .list()?
            .into_iter()
            .find(|image| image.manifest.digest.starts_with(name)))
    }

    /// All finished images, by digest.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for digest in self.entries("images")? {
            images.extend(self.image(&digest)?);
        }
        Ok(images)
    }

    /// All names and the digests they stand for.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub fn names(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut names = Vec::new();
        for name in self.entries("names")? {
            if let Some(digest) = self.named(&name)? {
                names.push((name, digest));
            }
        }
        Ok(names)
    }

    /// Starts an image.
    ///
    /// # Errors
    ///
    /// When its directory cannot be made.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        let (lock, lock_path) = self.draft_lock()?;
        let directory = lock_path.with_extension("");
        let draft = Draft {
            directory,
            lock_path,
            _lock: lock,
        };
        let rootfs = draft.rootfs();
        DirBuilder::new()
            .mode(0o700)
            .create(&draft.directory)
            .and_then(|()| fs::create_dir(&rootfs))
            // Whatever the umask: this is `/` for every user inside.
            .and_then(|()| fs::set_permissions(&rootfs, Permissions::from_mode(0o755)))
            .map_err(|source| io("make directory", &rootfs, source))?;
        Ok(draft)
    }

    /// A new lock file, held. A clean-up that finds it before we hold it takes it for garbage: it has the
    /// lock for a moment, and unlinks the file. The next try has another name.
    fn draft_lock(&self) -> Result<(Flock<File>, PathBuf), StoreError> {
        let tmp = self.state.join("tmp");
        for _ in 0..DRAFT_TRIES {
            let lock = tempfile::Builder::new()
                .prefix("draft-")
                .suffix(".lock")
                .tempfile_in(&tmp)
                .map_err(|source| io("make a file in", &tmp, source))?;
            let (file, path) = lock
                .keep()
                .map_err(|error| io("keep a file in", &tmp, error.error))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if path.exists() => return Ok((lock, path)),
                Ok(_) | Err((_, Errno::EAGAIN | Errno::EINTR)) => {}
                Err((_, error)) => return Err(io("lock", &path, error.into())),
            }
        }
        Err(io("lock a file in", &tmp, Errno::EAGAIN.into()))
    }

    /// Makes a draft an image, in one step. Where the same image exists already, that one is kept.
    ///
    /// # Errors
    ///
    /// When the manifest cannot be written or the directory not be moved.
    pub fn commit(&self, draft: Draft, manifest: &Manifest) -> Result<Image, StoreError> {
        if !is_digest(&manifest.digest) {
            return Err(StoreError::BadName(manifest.digest.clone()));
        }
        let path = draft.directory.join("manifest.json");
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| StoreError::Manifest {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        write_synced(&path, &text)?;
        write_synced(&draft.directory.join("use"), b"")?;
        let target = self.state.join("images").join(&manifest.digest);
        match fs::rename(&draft.directory, &target) {
            Ok(()) => sync_directory(&self.state.join("images"))?,
            Err(_) if target.join("manifest.json").exists() => {}
            Err(source) => return Err(io("move the image to", &target, source)),
        }
        drop(draft);
        self.image(&manifest.digest)?
            .ok_or_else(|| StoreError::Unknown(manifest.digest.clone()))
    }

    /// Lets a name stand for an image.
    ///
    /// # Errors
    ///
    /// When the name is none or cannot be written.
    pub fn set_name(&self, name: &str, digest: &str) -> Result<(), StoreError> {
        let path = self.name_path("names", name)?;
        let directory = self.state.join("names");
        let mut file = tempfile::NamedTempFile::new_in(self.state.join("tmp"))
            .map_err(|source| io("make a file in", &directory, source))?;
        file.write_all(digest.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|source| io("write", &path, source))?;
        file.persist(&path)
            .map_err(|error| io("write", &path, error.error))?;
        Ok(())
    }

    /// Waits until no other process makes an image of this name. Blocks the thread.
    ///
    /// # Errors
    ///
    /// When that takes longer than `patience`.
    pub fn lock_name(&self, name: &str, patience: Duration) -> Result<NameLock, StoreError> {
        let path = self.name_path("locks", name)?;
        let mut file = open_lock(&path)?;
        let deadline = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(NameLock { _lock: lock }),
                Err((again, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => {
                    file = again;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err((_, Errno::EAGAIN | Errno::EINTR)) => {
                    return Err(StoreError::LockTimeout {
                        name: name.to_owned(),
                        seconds: patience.as_secs(),
                    });
                }
                Err((_, error)) => return Err(io("lock", &path, error.into())),
            }
        }
    }

    /// Keeps an image from being removed.
    ///
    /// # Errors
    ///
    /// When it is being removed at this moment.
    pub fn hold(&self, image: &Image) -> Result<ImageHold, StoreError> {
        let path = self
            .state
            .join("images")
            .join(&image.manifest.digest)
            .join("use");
        let file = open_lock(&path)?;
        Flock::lock(file, FlockArg::LockSharedNonblock)
            .map(|lock| ImageHold { _lock: lock })
            .map_err(|_| StoreError::Unknown(image.manifest.name.clone()))
    }

    /// Removes an image and all its names.
    ///
    /// # Errors
    ///
    /// When it is in use, or its files cannot be deleted.
    pub fn remove(&self, image: &Image) -> Result<(), StoreError> {
        let digest = &image.manifest.digest;
        let directory = self.state.join("images").join(digest);
        let file = open_lock(&directory.join("use"))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::InUse(image.manifest.name.clone()))?;
        let draft = self.draft()?;
        let grave = draft.directory.join("removed");
        fs::rename(&directory, &grave).map_err(|source| io("move away", &directory, source))?;
        for (name, named) in self.names()? {
            if named == *digest {
                let path = self.name_path("names", &name)?;
                fs::remove_file(&path).map_err(|source| io("remove", &path, source))?;
            }
        }
        // Files of subordinate ids are not ours to delete here: `reclaim` in `image` does it.
        let _ = remove_directory(&grave);
        Ok(())
    }

    /// Deletes what processes that died have left unfinished; returns how much that was.
    ///
    /// # Errors
    ///
    /// When the temporary directory cannot be listed.
    fn reclaim(&self) -> Result<usize, StoreError> {
        let unfinished = self.unfinished()?;
        let gone = unfinished
            .into_iter()
            .filter(|left| remove_directory(left.directory()).is_ok() && left.forget());
        Ok(gone.count())
    }

    /// What processes that died have left unfinished.
    ///
    /// # Errors
    ///
    /// When the temporary directory cannot be listed.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let tmp = self.state.join("tmp");
        let mut unfinished = Vec::new();
        for name in self.entries("tmp")? {
            let path = tmp.join(&name);
            if path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            let Ok(file) = OpenOptions::new().read(true).open(&path) else {
                continue;
            };
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                unfinished.push(Unfinished {
                    directory: path.with_extension(""),
                    path,
                    _lock: lock,
                });
            }
        }
        Ok(unfinished)
    }

    fn image(&self, digest: &str) -> Result<Option<Image>, StoreError> {
        if !is_digest(digest) {
            return Ok(None);
        }
        let directory = self.state.join("images").join(digest);
        let path = directory.join("manifest.json");
        let text = match read_bounded(&path, MAX_MANIFEST) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &path, source)),
        };
        let problem = |problem| StoreError::Manifest {
            path: path.clone(),
            problem,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| problem(error.to_string()))?;
        if manifest.format > MANIFEST_FORMAT {
            return Err(problem(format!(
                "its format {} is newer than {MANIFEST_FORMAT}",
                manifest.format
            )));
        }
        Ok(Some(Image {
            manifest,
            rootfs: directory.join("rootfs"),
        }))
    }

    fn named(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.name_path("names", name)?;
        match read_bounded(&path, 128) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io("read", &path, source)),
        }
    }

    fn name_path(&self, part: &str, name: &str) -> Result<PathBuf, StoreError> {
        if !is_name(name) {
            return Err(StoreError::BadName(name.to_owned()));
        }
        Ok(self.state.join(part).join(name))
    }

    fn entries(&self, part: &str) -> Result<Vec<String>, StoreError> {
        let path = self.state.join(part);
        let listing = fs::read_dir(&path).map_err(|source| io("list", &path, source))?;
        let mut names: Vec<_> = listing
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }
}
