//! What an agent needs from an environment, whoever provides it.
//!
//! The sandbox implements this trait in `host/`; tests implement it in memory.
//! Everything that comes back is bounded by the request: an implementation never
//! buffers more than the caller asked for.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::outcome::{Cause, Connections, Ending, LimitHit, Outcome, Policy};
use crate::spec::Effects;

/// A computer that an agent can use.
pub trait Env: Sync {
    /// Runs one command in the persistent shell (or a fresh one, by configuration).
    ///
    /// A command that fails, is killed or runs out of time is an `Ok`: it is data for the model.
    fn shell(
        &self,
        command: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<ShellResult, EnvError>> + Send;

    /// Runs a program to its end with empty stdin and captures at most `request.capture` bytes of each stream.
    fn exec(
        &self,
        request: &ExecRequest,
    ) -> impl Future<Output = Result<ExecResult, EnvError>> + Send;

    /// Reads a regular file of at most `max_bytes`; a larger one is [`FileError::TooLarge`].
    fn read_file(
        &self,
        path: &GuestPath,
        max_bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>, EnvError>> + Send;

    /// Creates or replaces a regular file, and its missing parent directories.
    ///
    /// An existing file keeps its mode; with `exclusive` it is [`FileError::Exists`] instead.
    fn write_file(
        &self,
        path: &GuestPath,
        content: &[u8],
        exclusive: bool,
    ) -> impl Future<Output = Result<(), EnvError>> + Send;

    /// Describes one path; the last component is followed when it is a symbolic link.
    fn stat(&self, path: &GuestPath) -> impl Future<Output = Result<FileStat, EnvError>> + Send;

    /// Lists a tree, depth first in byte order of the names, at most `max_entries` entries, links not followed.
    fn list(
        &self,
        path: &GuestPath,
        depth: u32,
        max_entries: usize,
    ) -> impl Future<Output = Result<Listing, EnvError>> + Send;

    /// The connections that ended since this was asked last; at most [`MAX_CONNECTIONS`] at once.
    fn connections(&self) -> Connections {
        Connections::default()
    }

    /// What happened inside since this was asked last; `None` where nobody keeps account of it.
    ///
    /// Never fails and never takes long: what cannot be found out is left out.
    fn effects(&self) -> impl Future<Output = Option<Effects>> + Send {
        std::future::ready(None)
    }
}

/// Connections that are told of at once.
pub const MAX_CONNECTIONS: usize = 1000;

/// A path as seen inside; bytes, because file names need not be UTF-8. The host never resolves it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// Wraps the bytes of a path. Relative paths are resolved against the working directory of the sandbox.
    #[must_use]
    pub fn new(path: impl Into<Vec<u8>>) -> Self {
        Self(path.into())
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `self/name`.
    #[must_use]
    pub fn join(&self, name: impl AsRef<[u8]>) -> Self {
        let mut bytes = self.0.clone();
        if bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.as_ref());
        Self(bytes)
    }
}

impl From<&str> for GuestPath {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; the program is looked up in the `PATH` of the sandbox.
    pub argv: Vec<String>,
    /// Added to the environment of the sandbox.
    pub env: Vec<(String, String)>,
    /// Working directory; the sandbox's own when absent.
    pub cwd: Option<GuestPath>,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Killed when for this long the program prints nothing and no process of the sandbox uses CPU time.
    pub idle_timeout: Option<Duration>,
    /// Bytes kept of each stream, half from the head and half from the tail.
    pub capture: usize,
}

impl ExecRequest {
    /// A command with the default environment, no timeout and 1 MiB of captured output.
    #[must_use]
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            timeout: None,
            idle_timeout: None,
            capture: 1 << 20,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The code as a shell reports it: 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Code(code) => Self::Exited(code),
            ExitStatus::Signal(signal) => Self::Signal(signal),
        }
    }
}

/// What one exec gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// How it ended.
    pub status: ExitStatus,
    /// Captured standard output.
    pub stdout: Captured,
    /// Captured standard error.
    pub stderr: Captured,
    /// The timeout struck; `status` is then that of the kill.
    pub timed_out: bool,
    /// From start to end.
    pub wall: Duration,
    /// Limits that struck since the command before it ended.
    pub struck: Vec<LimitHit>,
}

impl ExecResult {
    /// How it ended, with the limit that ended it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::of_command(self.status.into(), &self.struck)
    }
}

/// A byte stream cut to a bound: its head, its tail and how much is missing between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The first bytes.
    pub head: Vec<u8>,
    /// Bytes between head and tail that were not kept.
    pub omitted: u64,
    /// The last bytes; empty when nothing was omitted.
    pub tail: Vec<u8>,
    /// File inside the sandbox that holds the full stream, when something was omitted and it could be kept.
    pub full_copy: Option<FullCopy>,
}

/// Where the whole of a cut stream is kept, inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullCopy {
    /// Path inside the sandbox.
    pub path: GuestPath,
    /// The copy stops early: it met its own bound or a full disk.
    pub partial: bool,
}

/// What one command in the persistent shell gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellResult {
    /// Exit status as `$?` shows it; absent when the command did not end by itself.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// What was written to the terminal (`/dev/tty`).
    pub tty: Captured,
    /// The timeout struck, and after how long.
    pub timed_out: Option<Duration>,
    /// The shell was lost with this command and a new one took its place: working directory, variables and jobs are gone.
    pub restarted: Option<String>,
    /// From start to end.
    pub wall: Duration,
    /// Limits that struck since the command before it ended.
    pub struck: Vec<LimitHit>,
}

impl ShellResult {
    /// How it ended, with the limit that ended it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let ending = self.status.map_or(Ending::Lost, Ending::Reported);
        Outcome::of_command(ending, &self.struck)
    }
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Other,
}

/// One path's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Its kind.
    pub kind: FileKind,
    /// Bytes of a regular file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Path relative to the listed directory.
    pub path: GuestPath,
    /// Its facts.
    pub stat: FileStat,
}

/// A bounded listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, without the directory itself.
    pub entries: Vec<DirEntry>,
    /// There were more than asked for.
    pub truncated: bool,
}

/// Why a file operation was refused: data for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Nothing is there.
    #[error("no such file or directory")]
    NotFound,
    /// Something is there already.
    #[error("the file exists already")]
    Exists,
    /// A directory where a file is needed.
    #[error("it is a directory")]
    IsDirectory,
    /// A file where a directory is needed.
    #[error("it is not a directory")]
    NotDirectory,
    /// A device, FIFO or socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// Not allowed.
    #[error("permission denied")]
    Permission,
    /// Larger than the caller accepts.
    #[error("it has {size} bytes, more than the {limit} that can be read at once")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The sandbox's disk or inode limit struck.
    #[error("no space left in the sandbox")]
    NoSpace,
    /// Another error of the kernel, by its name.
    #[error("{0}")]
    Other(String),
}

/// Why an environment could not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The request itself was at fault; the model may see this.
    #[error("{path}: {error}")]
    File {
        /// The path asked for.
        path: GuestPath,
        /// What the kernel said.
        error: FileError,
    },
    /// A limit of the sandbox kept the request from being carried out, and may have ended the sandbox:
    /// the model's doing.
    #[error("{0}")]
    Limit(LimitHit),
    /// The sandbox is gone, by no limit of its own; the sample failed.
    #[error("the sandbox died: {0}")]
    Died(String),
    /// The host or our own code failed; never shown to the model and never scored.
    #[error("sandbox infrastructure failed: {0}")]
    Infrastructure(String),
}

impl EnvError {
    /// Whose doing it is; nothing for a file operation that was refused, which ends nothing.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::File { .. } => None,
            Self::Limit(hit) => Some(Outcome::Policy(Policy::Limit(hit.clone()))),
            Self::Died(why) => Some(Outcome::infrastructure(Cause::SandboxDied, why)),
            Self::Infrastructure(why) => Some(Outcome::infrastructure(Cause::Other, why)),
        }
    }
}
