//! The bounded file systems of a sandbox, and what PID 1 tells of them.

use serde::{Deserialize, Serialize};

use super::SHELL_DIRECTORY;

/// What of a sandbox is used up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsedUp {
    /// Without a free block.
    pub blocks: Vec<Space>,
    /// Without a free inode.
    pub inodes: Vec<Space>,
    /// All terminals are in use.
    pub terminals: bool,
    /// A process has as many open files as it may.
    pub open_files: bool,
}

impl UsedUp {
    /// There is some of everything.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A bounded file system inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// The writable layer.
    Root,
    /// Of `shm_open`.
    SharedMemory,
    /// Device nodes.
    Devices,
    /// [`SHELL_DIRECTORY`].
    ShellFiles,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Root,
        Self::SharedMemory,
        Self::Devices,
        Self::ShellFiles,
    ];

    /// Where it is mounted.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::SharedMemory => "/dev/shm",
            Self::Devices => "/dev",
            Self::ShellFiles => SHELL_DIRECTORY,
        }
    }
}

/// Terminals of one sandbox.
pub const TERMINALS: u32 = 64;
