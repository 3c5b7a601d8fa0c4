//! What a call did inside, by the kernel's account and not by the words of its command.

use serde::{Deserialize, Serialize};

/// What happened inside since this was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// On the writable layer.
    pub files: FileChanges,
    /// What was computed.
    pub processes: ProcessCounts,
    /// Microseconds that finding it out took.
    pub took_us: u64,
}

/// Changes of the writable layer. All are counted; the first ones are listed, the others summed by directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChanges {
    /// Paths that were not there.
    pub created: u64,
    /// Paths with another content, kind, owner or mode.
    pub changed: u64,
    /// Paths that are gone; a directory of the image counts once, with all in it.
    pub deleted: u64,
    /// Files that were read, as far as is known: the kernel notes the first reading after a change.
    pub read: u64,
    /// Each with what is known of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<FileChange>,
    /// Those that are not listed, by directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<DirectoryChanges>,
    /// Bounds that were reached: what lies beyond them was not looked at, and may be told later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Bound>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there.
    Created,
    /// It is another than before.
    Changed,
    /// It is gone.
    Deleted,
    /// It was read.
    Read,
}

/// What a path names, or named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Other,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// From `/`. A byte that is no UTF-8 is `\xNN`, a backslash `\\`.
    pub path: String,
    /// What happened to it.
    pub change: Change,
    /// What it is; of one that is gone, what it was.
    pub kind: ChangedKind,
    /// Bytes of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of the content, where it was not too much to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Lines that went (`-`) and came (`+`), of a small text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// Changes below a directory that are not listed one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryChanges {
    /// As in [`FileChange::path`].
    pub path: String,
    /// Paths that were not there.
    pub created: u64,
    /// Paths that are others than before.
    pub changed: u64,
    /// Paths that are gone.
    pub deleted: u64,
    /// Files that were read.
    pub read: u64,
    /// Sum of the sizes of what was created or changed.
    pub bytes: u64,
}

/// What kept the whole from being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// There are too many paths.
    Entries,
    /// A directory lies too deep.
    Depth,
    /// It took too long.
    Time,
}

/// What was computed, by the counts of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessCounts {
    /// CPU time of all processes, in microseconds; the kernel tells it in steps of 10 ms.
    pub cpu_us: u64,
    /// Processes and threads that began.
    pub started: u64,
    /// Programs that were seen to run; one that is over within milliseconds may not be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<String>,
}

impl FileChanges {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created + self.changed + self.deleted + self.read == 0
    }
}
