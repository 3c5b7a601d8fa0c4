//! A path of a layer as it was seen, and what of it tells that it is another.

use nix::sys::stat::FileStat;

use super::content::Content;

/// Seconds and nanoseconds since the epoch.
pub(super) type Time = (i64, i64);

/// A path as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) size: u64,
    owner: (u32, u32),
    device: u64,
    pub(super) inode: u64,
    pub(super) changed: Time,
    read: Time,
    written: Time,
    /// Nothing of the image is seen below it.
    pub(super) opaque: bool,
    /// Number of the look.
    pub(super) look: u64,
    /// Its content may have changed since it was read, and its time need not tell.
    pub(super) unsettled: bool,
    pub(super) content: Option<Content>,
}

impl Node {
    pub(super) fn new(stat: &FileStat, look: u64) -> Self {
        Self {
            mode: stat.st_mode,
            size: stat.st_size.unsigned_abs(),
            owner: (stat.st_uid, stat.st_gid),
            device: stat.st_rdev,
            inode: stat.st_ino,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            read: (stat.st_atime, stat.st_atime_nsec),
            written: (stat.st_mtime, stat.st_mtime_nsec),
            opaque: false,
            look,
            unsettled: false,
            content: None,
        }
    }

    fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }

    /// Hides a name of the image.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == libc::S_IFCHR && self.device == 0
    }

    /// Whose it is and what may be done with it.
    pub(super) fn has_rights_of(&self, other: &Self) -> bool {
        self.mode == other.mode && self.owner == other.owner
    }

    /// A directory changes with each name in it, which is told of by itself.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.has_rights_of(other)
            && (self.is_directory()
                || (self.inode, self.changed, self.size)
                    == (other.inode, other.changed, other.size))
    }

    /// It was read after it was written. The kernel notes only the first time (`relatime`).
    pub(super) fn was_read(&self, before: Option<&Self>, since: Time) -> bool {
        self.is_file()
            && self.read > self.written
            && self.read >= since
            && before.is_none_or(|before| before.read != self.read)
    }
}
