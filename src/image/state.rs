//! Where the state is, and the file operations on it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither a flag, a variable nor a home directory says where the state is.
    #[error("find the state directory")]
    NoStateDirectory,
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// Which one.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest that cannot be read.
    #[error("read manifest {}: {problem}", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name that no image can have.
    #[error("image name `{0}` is not of the characters a-z 0-9 . _ -")]
    BadName(String),
    /// No image of this name or digest.
    #[error("no image `{0}`")]
    Unknown(String),
    /// A sandbox uses it.
    #[error("image `{0}` is in use")]
    InUse(String),
    /// Another process makes the same image and did not finish in time.
    #[error("wait for another process that makes image `{name}` for {seconds} s")]
    LockTimeout {
        /// Which one.
        name: String,
        /// How long.
        seconds: u64,
    },
}

impl StoreError {
    /// What a user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoStateDirectory => Some("set HOME, LLM_IN_SANDBOX_HOME or --state-dir"),
            Self::Unknown(_) => Some("`image ls` lists the images, `image build` makes one"),
            Self::InUse(_) => Some("end the sandboxes that use it; `ps` lists them"),
            Self::Io { .. }
            | Self::Manifest { .. }
            | Self::BadName(_)
            | Self::LockTimeout { .. } => None,
        }
    }
}

/// The state directory: the flag, else `LLM_IN_SANDBOX_HOME`, else `/var/lib/llm-in-sandbox` for
/// root and `llm-in-sandbox` in the XDG data directory for everybody else.
///
/// # Errors
///
/// When none of them is known.
pub fn state_dir(flag: Option<&Path>) -> Result<PathBuf, StoreError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = flag
        .map(Path::to_path_buf)
        .or_else(|| variable("LLM_IN_SANDBOX_HOME"))
    {
        return std::path::absolute(&path).map_err(|source| io("resolve", &path, source));
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/llm-in-sandbox"));
    }
    // The XDG specification has relative values ignored.
    let data = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    data.or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("llm-in-sandbox"))
        .ok_or(StoreError::NoStateDirectory)
}

/// Refuses a directory that somebody else owns or may write to: whose files would be `/` of sandboxes.
/// The state directory itself may be a link of ours or of root's.
pub(super) fn check_ours(path: &Path, link: bool) -> std::io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let named = fs::symlink_metadata(path)?;
    let target = fs::metadata(path)?;
    let link_is_fine = !named.is_symlink() || (link && [0, own].contains(&named.uid()));
    if link_is_fine && target.is_dir() && target.uid() == own && target.mode() & 0o002 == 0 {
        return Ok(());
    }
    Err(std::io::Error::other(
        "it is not a directory of this user's alone; name another by --state-dir",
    ))
}

pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    File::create(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(|source| io("write", path, source))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io("sync", path, source))
}

pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io("delete", path, source)),
    }
}

pub(super) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

pub(super) fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| io("open", path, source))
}

pub(super) fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(limit);
    // One byte more: the end is found without growing.
    let mut text = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

/// Whether an image can have this name.
pub(super) fn is_name(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(plain)
}
