//! The directory of running sandboxes: who lives, and what the dead have left.
//!
//! Each sandbox has a directory with a file that its host keeps locked, and that tells of it once it
//! serves. The kernel drops the lock with the host, however it dies; whoever comes next takes away what
//! is left. A process id would not do: it may be somebody else's by then.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::HostError;
use super::{cgroup, ids};

/// What `ps` shows of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// Its name.
    pub id: String,
    /// Process id of its host.
    pub host_pid: u32,
    /// Process id of its PID 1, seen from the host.
    pub init_pid: Option<i32>,
    /// Its root file system.
    pub root: String,
    /// Start, seconds since the epoch.
    pub started: u64,
    /// What runs in it, in words.
    pub purpose: String,
}

/// What a clean-up took away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reclaimed {
    /// Sandboxes whose host had died.
    pub sandboxes: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

/// One sandbox's place in it; taken away when dropped.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    directory: PathBuf,
    upper: Option<PathBuf>,
    abandoned: bool,
    lock: File,
}

/// The registry of root.
const ROOTS: &str = "/run/llm-in-sandbox";
const LOCK: &str = "lock";
/// One path a line: another process may not find them again, its own cgroup being another.
const CGROUPS: &str = "cgroups";
/// A clean-up waits for 2 s for each sandbox that will not go: far longer than any is expected to.
const GATE_DEADLINE: Duration = Duration::from_secs(30);
/// Path of a writable layer on disk.
const UPPER: &str = "upper";

impl Registry {
    /// Opens it: `$LLM_IN_SANDBOX_RUNTIME_DIR` where that is set, else `/run/llm-in-sandbox` for
    /// root and a directory in `$XDG_RUNTIME_DIR` or `/tmp` for others. Wherever it lies, it must be
    /// its user's alone.
    ///
    /// # Errors
    /// It cannot be made, or belongs to somebody else.
    pub fn open() -> Result<Self, HostError> {
        let uid = nix::unistd::geteuid();
        if let Some(directory) = std::env::var_os("LLM_IN_SANDBOX_RUNTIME_DIR")
            && !directory.is_empty()
        {
            return Self::at(directory.into());
        }
        // Root of a user namespace may have no rights in /run; the host's root must be told why.
        let roots = || make_private(Path::new(ROOTS)).is_ok() || ids::privileged();
        let directory = if uid.is_root() && roots() {
            PathBuf::from(ROOTS)
        } else {
            match std::env::var_os("XDG_RUNTIME_DIR") {
                Some(runtime) if Path::new(&runtime).is_dir() => {
                    PathBuf::from(runtime).join("llm-in-sandbox")
                }
                // Everybody is root of a user namespace of his own.
                _ => format!("/tmp/llm-in-sandbox-{}", ids::outside(uid.as_raw())).into(),
            }
        };
        Self::at(directory)
    }

    /// The same in a given directory.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn at(directory: PathBuf) -> Result<Self, HostError> {
        make_private(&directory)?;
        make_private(&directory.join("sandboxes"))?;
        Ok(Self { directory })
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where ranges of ids are allotted: in one place for all registries of the host's root, or two of
    /// them could give out the same range.
    pub(super) fn ids_directory(&self) -> PathBuf {
        let shared = PathBuf::from(ROOTS);
        // On a host whose /run cannot be written nobody allots there.
        if make_private(&shared).is_ok() {
            shared
        } else {
            self.directory.clone()
        }
    }

    /// Makes a place for a new sandbox.
    pub(super) fn register(&self) -> Result<Entry, HostError> {
        let gate = self.gate()?;
        enter(&gate).map_err(HostError::file("lock", self.directory.join(LOCK)))?;
        let directory = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(10)
            .tempdir_in(self.sandboxes())
            .map_err(HostError::file("make a directory in", self.sandboxes()))?;
        let path = directory.path().join(LOCK);
        let lock = File::create(&path).map_err(HostError::file("create", &path))?;
        lock.lock().map_err(HostError::file("lock", &path))?;
        // Until here it goes with its value: a disk that is full keeps no half of it.
        let directory = directory.keep();
        let id = directory
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Entry {
            id,
            directory,
            upper: None,
            abandoned: false,
            lock,
        })
    }

    /// The living.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<EntryInfo>, HostError> {
        let mut found = Vec::new();
        for directory in self.entries()? {
            if lives(&directory)
                && let Ok(text) = fs::read(directory.join(LOCK))
                && let Ok(info) = serde_json::from_slice(&text)
            {
                found.push(info);
            }
        }
        found.sort_by_key(|info: &EntryInfo| (info.started, info.id.clone()));
        Ok(found)
    }

    /// Takes away what dead hosts have left: cgroups and directories. Waits up to 2 s for their
    /// last processes, which the kernel is killing.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn reclaim(&self) -> Result<Reclaimed, HostError> {
        let mut result = Reclaimed::default();
        if self.entries()?.is_empty() {
            return Ok(result);
        }
        let gate = self.gate()?;
        // Somebody makes a new one, or cleans up already: the next start will do it.
        if gate.try_lock().is_err() {
            return Ok(result);
        }
        for directory in self.entries()? {
            let id = directory
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            // Behind the gate nobody is between making a directory and locking it: one without a lock
            // file is of a host that was killed there.
            if lives(&directory) {
                continue;
            }
            match remove(&directory) {
                Ok(()) => result.sandboxes.push(id),
                Err(error) => result.failed.push(format!("{id}: {error}")),
            }
        }
        Ok(result)
    }

    /// Places of the dead, not yet taken away.
    pub(super) fn dead(&self) -> Result<Vec<PathBuf>, HostError> {
        let mut entries = self.entries()?;
        entries.retain(|directory| !lives(directory));
        Ok(entries)
    }

    /// Where a sandbox has its place.
    pub(super) fn place(&self, id: &str) -> PathBuf {
        // A name with a slash is no name; it would lead elsewhere.
        self.sandboxes().join(id.replace('/', "_"))
    }

    fn gate(&self) -> Result<File, HostError> {
        let path = self.directory.join(LOCK);
        open_shared(&path).map_err(HostError::file("open", path))
    }

    fn sandboxes(&self) -> PathBuf {
        self.directory.join("sandboxes")
    }

    fn entries(&self) -> Result<Vec<PathBuf>, HostError> {
        let directory = self.sandboxes();
        let entries = fs::read_dir(&directory).map_err(HostError::file("list", &directory))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    }
}

impl Entry {
    /// Notes which cgroups go with it. Before any process is in them.
    pub(super) fn note_cgroups(&self, directories: &[PathBuf]) -> Result<(), HostError> {
        let path = self.directory.join(CGROUPS);
        let lines: Vec<String> = directories
            .iter()
            .map(|d| d.display().to_string())
            .collect();
        fs::write(&path, lines.join("\n")).map_err(HostError::file("write", path))
    }

    /// Notes the path of a writable layer on disk. Before it is made.
    pub(super) fn note_upper(&mut self, upper: PathBuf) -> Result<(), HostError> {
        let path = self.directory.join(UPPER);
        fs::write(&path, upper.as_os_str().as_bytes()).map_err(HostError::file("write", path))?;
        self.upper = Some(upper);
        Ok(())
    }

    /// Its writable layer on disk, as long as there is one.
    pub(super) fn upper(&self) -> Option<&Path> {
        self.upper.as_deref().filter(|upper| upper.exists())
    }

    /// Leaves the rest to the next clean-up.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Lists it from now on.
    pub(super) fn describe(&self, info: &EntryInfo) -> Result<(), HostError> {
        let text = serde_json::to_vec(info).map_err(io::Error::from);
        text.and_then(|text| (&self.lock).write_all(&text))
            .map_err(HostError::file("write", self.directory.join(LOCK)))
    }

    /// A directory of the sandbox's own, gone with it.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Entry {
    /// Takes it away now, as dropping it does.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        // A layer that is still there takes a zygote, or the next clean-up, to remove.
        if !self.abandoned && self.upper().is_none() {
            fs::remove_dir_all(&self.directory)?;
            // Gone: what takes the same name next is another's.
            self.abandoned = true;
        }
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// Opens a file that several processes lock, never what a link leads to.
pub(super) fn open_shared(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Takes the gate beside others. Only a clean-up keeps us out, and that ends.
fn enter(gate: &File) -> io::Result<()> {
    let deadline = Instant::now() + GATE_DEADLINE;
    loop {
        match gate.try_lock_shared() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "another process keeps it and does not go on",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Its host holds the lock.
pub(super) fn lives(directory: &Path) -> bool {
    match File::open(directory.join(LOCK)).map(|lock| lock.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// What goes with a place by what is noted there: its cgroups, and its writable layer on disk. Whatever
/// a file says: what has another name is not of this sandbox.
pub(super) fn noted(directory: &Path) -> (Vec<PathBuf>, Option<PathBuf>) {
    let own = |path: &PathBuf| path.file_name() == directory.file_name();
    let cgroups = fs::read_to_string(directory.join(CGROUPS)).unwrap_or_default();
    let cgroups = cgroups.lines().map(PathBuf::from).filter(own).collect();
    let upper = fs::read(directory.join(UPPER)).ok();
    let upper = upper.map(|path| PathBuf::from(OsStr::from_bytes(&path)));
    (cgroups, upper.filter(own))
}

fn remove(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let (cgroups, upper) = noted(directory);
    for path in cgroups {
        // The kernel refuses while the last processes are dying.
        while let Err(error) = cgroup::remove(&path) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if let Some(upper) = upper {
        match fs::symlink_metadata(&upper) {
            Ok(metadata) if metadata.is_dir() => crate::tree::remove(&upper)?,
            Ok(_) => fs::remove_file(&upper)?,
            Err(_) => {}
        }
    }
    match fs::remove_dir_all(directory) {
        // Its host closed it just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a directory for us alone, and refuses one of somebody else's (a link in /tmp, say).
fn make_private(path: &Path) -> Result<(), HostError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).recursive(true).create(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
    .map_err(HostError::file("make", path))?;
    let metadata = fs::symlink_metadata(path).map_err(HostError::file("look at", path))?;
    let ours = metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw();
    if !ours || metadata.mode() & 0o022 != 0 {
        let error = io::Error::other("it is not a directory of this user's alone");
        return Err(HostError::file("use", path)(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_listed_and_the_dead_reclaimed() {
        let temporary = tempfile::tempdir().unwrap();
        let registry = Registry::at(temporary.path().join("run")).unwrap();
        let info = |id: &str| EntryInfo {
            id: id.into(),
            host_pid: 1,
            init_pid: None,
            root: "/".into(),
            started: 0,
            purpose: "test".into(),
        };
        let living = registry.register().unwrap();
        living.describe(&info(&living.id)).unwrap();
        // A host that was killed runs no destructor, and its lock is gone.
        let dead = registry.register().unwrap();
        let dead_id = dead.id.clone();
        let cgroup = temporary.path().join(&dead_id);
        fs::create_dir(&cgroup).unwrap();
        dead.note_cgroups(std::slice::from_ref(&cgroup)).unwrap();
        let lock = dead.lock.try_clone().unwrap();
        std::mem::forget(dead);
        lock.unlock().unwrap();
        // One that was killed before it had made its lock file.
        let unborn = "~unborn".to_owned();
        fs::create_dir(registry.place(&unborn)).unwrap();

        assert_eq!(registry.list().unwrap(), [info(&living.id)]);
        let mut reclaimed = registry.reclaim().unwrap();
        reclaimed.sandboxes.sort();
        assert_eq!(
            reclaimed,
            Reclaimed {
                sandboxes: vec![dead_id, unborn],
                failed: vec![]
            }
        );
        assert!(!cgroup.exists());
        assert_eq!(
            registry.entries().unwrap(),
            std::slice::from_ref(&living.directory)
        );
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", temporary.path().join("run")).unwrap();
        assert!(Registry::at(temporary.path().join("run")).is_err());
    }
}
