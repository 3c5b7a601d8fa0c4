//! What a caller asks of a sandbox, as plain data. Sizes are bytes, times are [`Duration`]s.

mod effects;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use effects::{
    Bound, Change, ChangedKind, DirectoryChanges, Effects, FileChange, FileChanges, ProcessCounts,
};

use crate::outcome::{Connections, LeftBehind, LimitHit, Refused};

/// One sandbox to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// What it sees as `/`.
    pub root: Root,
    /// Its network.
    pub network: Network,
    /// Its limits.
    pub limits: Limits,
    /// System calls that it refuses beside those that every sandbox does.
    pub seccomp: Seccomp,
    /// Host paths shown inside, read-only.
    pub binds: Vec<BindMount>,
    /// Environment of every process, added to the defaults.
    pub env: Vec<(String, String)>,
    /// Working directory; created when missing.
    pub workdir: String,
    /// Host name inside.
    pub hostname: String,
    /// What it is for, as `ps` shows it.
    pub purpose: String,
    /// Keep account of what each call does, see [`Effects`]; only of a root with a writable layer.
    pub record_effects: bool,
}

impl SandboxSpec {
    /// A sandbox of its own, bounded and without network, on a shared tree. `Image::spec` makes one on an image.
    #[must_use]
    pub fn new(rootfs: impl Into<PathBuf>) -> Self {
        Self {
            root: Root::Overlay {
                lower: rootfs.into(),
                upper: Upper::Tmpfs,
            },
            network: Network::None,
            limits: Limits::default(),
            seccomp: Seccomp::default(),
            binds: Vec::new(),
            env: Vec::new(),
            workdir: "/testbed".into(),
            hostname: "sandbox".into(),
            purpose: String::new(),
            record_effects: false,
        }
    }
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A shared, immutable tree below a private writable layer that goes with the sandbox.
    Overlay {
        /// Directory of the tree.
        lower: PathBuf,
        /// Where writes go.
        upper: Upper,
    },
    /// The tree itself, written in place: for building and unpacking images.
    Writable(PathBuf),
}

/// Where the writes of a sandbox go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upper {
    /// A sized tmpfs: counts to the memory limit, leaves nothing to delete.
    Tmpfs,
    /// A directory of the state directory.
    Disk,
}

/// How a sandbox is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Its own loopback only.
    None,
    /// Through the host's process, by rules: `internet`, or `allow:` and a list; see `docs/network.md`.
    Rules(String),
    /// The host's network, unprotected.
    Host,
}

impl Network {
    /// Everything but the host and what is near it.
    #[must_use]
    pub fn internet() -> Self {
        Self::Rules("internet".to_owned())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Rules(rules) => rules,
            Self::Host => "host",
        })
    }
}

/// System calls that a sandbox refuses beside those that every sandbox does: nothing here loosens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seccomp {
    /// No sockets but those of files, no process looks into another, no `chroot`.
    pub strict: bool,
    /// Names of more calls.
    pub deny: Vec<String>,
}

/// What a sandbox may use up. `None` means no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory and swap of all processes, tmpfs included.
    pub memory_bytes: Option<u64>,
    /// Bytes written to the root file system.
    pub disk_bytes: Option<u64>,
    /// Files made in the root file system.
    pub inodes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// CPUs' worth of time; 1.5 is one and a half.
    pub cpus: Option<f64>,
    /// Open files of one process.
    pub open_files: u64,
    /// Bytes of all files that are copied out.
    pub copied_bytes: u64,
    /// Files, directories and links that are copied out.
    pub copied_entries: u64,
    /// Its network, where that has rules.
    #[serde(default)]
    pub network: NetworkLimits,
}

/// What a sandbox may use of a network by rules. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkLimits {
    /// TCP connections at once. Flows of datagrams, pings and lookups have a limit of their own.
    pub connections: u64,
    /// Bytes at all, both ways together, headers included.
    pub bytes: Option<u64>,
    /// The same in a second.
    pub bytes_per_second: Option<u64>,
    /// Until a connection stands.
    pub connect_seconds: u64,
    /// A connection on which nothing happens for so long is reset.
    pub idle_seconds: u64,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            bytes: None,
            bytes_per_second: None,
            connect_seconds: 30,
            idle_seconds: 2 * 60 * 60,
        }
    }
}

impl Eq for Limits {}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: Some(2 << 30),
            disk_bytes: Some(1 << 30),
            inodes: Some(200_000),
            pids: Some(512),
            cpus: None,
            open_files: 4096,
            copied_bytes: 10 << 30,
            copied_entries: 200_000,
            network: NetworkLimits::default(),
        }
    }
}

impl fmt::Display for NetworkLimits {
    /// As the flags take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections={},connect={},idle={}",
            self.connections, self.connect_seconds, self.idle_seconds
        )?;
        if let Some(bytes) = self.bytes {
            write!(f, ",bytes={bytes}")?;
        }
        if let Some(bytes) = self.bytes_per_second {
            write!(f, ",bandwidth={bytes}")?;
        }
        Ok(())
    }
}

/// A host path shown inside, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// On the host.
    pub source: PathBuf,
    /// Absolute path inside; made when missing.
    pub target: String,
}

/// What a sandbox used, told when it is closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all processes; absent where the host counts none.
    pub cpu: Option<Duration>,
    /// Peak memory in bytes; absent where the host counts none.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes held by the writable layer at the end.
    pub written_bytes: Option<u64>,
    /// From start to close.
    pub wall: Duration,
    /// Limits that struck at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub struck: Vec<LimitHit>,
    /// What was still there after the end; absent in records of before it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_behind: Option<LeftBehind>,
    /// Connections that were not told before; a record has them as lines of their own.
    #[serde(skip)]
    pub connections: Connections,
    /// System calls that were refused; absent where nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Vec<Refused>>,
}

impl Usage {
    /// Together with that of one that was there before: sums, and the higher of two peaks.
    #[must_use]
    pub fn after(mut self, before: Option<Self>) -> Self {
        let Some(mut before) = before else {
            return self;
        };
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        self.cpu = self.cpu.zip(before.cpu).map(|(a, b)| a + b);
        self.peak_memory_bytes = self.peak_memory_bytes.max(before.peak_memory_bytes);
        self.written_bytes = both(self.written_bytes, before.written_bytes);
        self.wall += before.wall;
        before.struck.retain(|hit| !self.struck.contains(hit));
        self.struck.append(&mut before.struck);
        self
    }
}
