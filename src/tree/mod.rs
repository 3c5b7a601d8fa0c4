//! Directory trees as tar streams, both ways.
//!
//! Runs inside the sandbox (PID 1 unpacks and packs images there) and on the host (for files that
//! leave a sandbox). Synchronous; does not log. Every object is reached from the directory
//! descriptor it is given, by openat2(2) with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//! RESOLVE_NO_XDEV` (Linux 5.6): no name of an archive and no link of a tree can lead out of it.

mod beneath;
mod changes;
mod error;
mod extensions;
mod format;
mod index;
mod layer;
mod names;
mod pack;
#[cfg(test)]
mod property_tests;
mod remove;
mod sparse;
mod unpack;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use changes::{Overlay, pack_changes};
pub use error::{PackError, UnpackError, UnpackErrorKind};
pub use index::index;
pub use pack::pack;
pub use remove::remove;
pub use unpack::unpack;

use error::printable;

/// At most this many members are named in a report; the rest is only counted.
pub const MAX_LISTED: usize = 100;

/// What `unpack` accepts and how it treats what it does not keep as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackPolicy {
    /// Owners of what is made.
    pub owners: Owners,
    /// Device nodes, FIFOs and sockets.
    pub special: Special,
    /// Set-user-id and set-group-id bits of files.
    pub privileged_bits: PrivilegedBits,
    /// Symbolic links.
    pub links: Links,
    /// The archive is a layer of an image: `.wh.` members delete what lower layers made, and a
    /// member may replace what a lower layer made by something of another kind.
    pub layer: bool,
    /// A file may replace a file or link of the same name; otherwise a second one is refused.
    pub replace: bool,
    /// Bytes of all files together, holes included.
    pub max_bytes: u64,
    /// Members of the archive.
    pub max_entries: u64,
    /// Bytes of one path.
    pub max_path: usize,
    /// Names in one path.
    pub max_depth: usize,
}

impl UnpackPolicy {
    /// For the tree of an image, which only sandboxes will ever see as `/`.
    #[must_use]
    pub fn image() -> Self {
        Self {
            owners: Owners::KeepWherePossible,
            special: Special::Drop,
            privileged_bits: PrivilegedBits::Drop,
            links: Links::Keep,
            layer: false,
            replace: true,
            max_bytes: 64 << 30,
            max_entries: 4_000_000,
            max_path: 4095,
            max_depth: 128,
        }
    }

    /// For a layer of an image, on top of the layers before it.
    #[must_use]
    pub fn layer() -> Self {
        Self {
            layer: true,
            ..Self::image()
        }
    }

    /// For what one sandbox has changed, in another sandbox on the same image: as it was, as far as it can be.
    #[must_use]
    pub fn changes() -> Self {
        Self {
            privileged_bits: PrivilegedBits::Keep,
            ..Self::layer()
        }
    }

    /// For files that leave a sandbox: hostile, and unpacked where the host will use them.
    #[must_use]
    pub fn copy_out() -> Self {
        Self {
            owners: Owners::Caller,
            special: Special::Refuse,
            privileged_bits: PrivilegedBits::Drop,
            links: Links::Inside,
            layer: false,
            replace: false,
            max_bytes: 10 << 30,
            max_entries: 200_000,
            max_path: 4095,
            max_depth: 64,
        }
    }
}

/// Who owns what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// The numbers of the archive or tree; they must exist in the user namespace.
    Keep,
    /// Unpacked: the numbers of the archive where they exist in the user namespace, else whoever
    /// unpacks; counted. Packed: as `Keep`.
    KeepWherePossible,
    /// Unpacked: whoever unpacks. Packed: 0 and 0.
    Caller,
}

/// Device nodes, FIFOs and sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Special {
    /// Left out and counted.
    Drop,
    /// The whole archive is refused.
    Refuse,
}

/// Set-user-id bits, and set-group-id bits of anything but a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivilegedBits {
    /// Kept.
    Keep,
    /// Cleared and counted.
    Drop,
}

/// Symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Made as they are, wherever they point; nothing is ever created through one.
    Keep,
    /// Those that could lead out of the tree are left out and listed.
    Inside,
}

/// What `unpack` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackReport {
    /// Members read.
    pub entries: u64,
    /// Bytes of files made, holes included.
    pub bytes: u64,
    /// Whiteouts applied.
    pub whiteouts: u64,
    /// Set-id bits cleared.
    pub cleared_bits: u64,
    /// Entries whose owner could not be kept.
    pub owners_lost: u64,
    /// What was left out.
    pub left_out: LeftOut,
}

/// What `pack` takes into the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackOptions {
    /// Owners written.
    pub owners: Owners,
    /// Set-user-id and set-group-id bits of files.
    pub privileged_bits: PrivilegedBits,
    /// Bytes of all files together; a file that does not fit any more is left out, so that the
    /// hole of a sparse file is never read for an hour.
    pub max_bytes: u64,
    /// Entries; what comes after them is left out.
    pub max_entries: u64,
    /// Names in one path; deeper trees are left out.
    pub max_depth: usize,
}

impl PackOptions {
    /// The canonical archive of an image, of which its digest is taken. No tree is stored with a set-id
    /// bit, so one that appears makes it another tree.
    #[must_use]
    pub fn image() -> Self {
        Self {
            owners: Owners::Keep,
            privileged_bits: PrivilegedBits::Keep,
            max_bytes: 64 << 30,
            max_entries: 4_000_000,
            max_depth: 128,
        }
    }

    /// For files that leave a sandbox.
    #[must_use]
    pub fn copy_out() -> Self {
        Self {
            owners: Owners::Caller,
            privileged_bits: PrivilegedBits::Drop,
            max_bytes: 10 << 30,
            max_entries: 200_000,
            max_depth: 64,
        }
    }
}

/// What `pack` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Members written.
    pub entries: u64,
    /// Bytes of files written.
    pub bytes: u64,
    /// What was left out.
    pub left_out: LeftOut,
}

/// What did not go with the rest, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many for each reason.
    pub counts: BTreeMap<LeftOutReason, u64>,
    /// The first [`MAX_LISTED`] of them.
    pub listed: Vec<LeftOutEntry>,
}

impl LeftOut {
    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().copied().fold(0, u64::saturating_add)
    }

    /// How many for this reason.
    #[must_use]
    pub fn count(&self, reason: LeftOutReason) -> u64 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// Adds what the other side of a copy left out.
    pub fn merge(&mut self, other: Self) {
        for (reason, count) in other.counts {
            let all = self.counts.entry(reason).or_default();
            *all = all.saturating_add(count);
        }
        self.listed.extend(other.listed);
        self.listed.truncate(MAX_LISTED);
    }

    fn add(&mut self, path: &[u8], reason: LeftOutReason) {
        *self.counts.entry(reason).or_default() += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(LeftOutEntry {
                path: printable(path),
                reason,
            });
        }
    }
}

/// One path that did not go with the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutEntry {
    /// Its path; bytes that are not printable are escaped.
    pub path: String,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a path did not go with the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// A device node, FIFO or socket.
    Special,
    /// A link that could lead out of the tree.
    LeavingLink,
    /// Something else is mounted there.
    OtherMount,
    /// Does not fit into the bytes allowed.
    TooLarge,
    /// More entries than allowed.
    TooMany,
    /// Deeper than allowed.
    TooDeep,
    /// Cannot be read by the one who packs.
    Unreadable,
    /// Changed while it was read; its member is cut or filled with zeros.
    Changed,
    /// A name that in a layer means a deletion.
    ReservedName,
}

impl LeftOutReason {
    /// The tree is whole without it: what it stood for is not a file of the tree.
    #[must_use]
    pub fn is_harmless(self) -> bool {
        matches!(self, Self::Special | Self::OtherMount)
    }
}
