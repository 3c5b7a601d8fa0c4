//! Writes a tree as a canonical tar: the same tree gives the same bytes everywhere.
//!
//! Entries ascend by the bytes of their names, a directory before what is in it. Hard links point
//! to the first name, owners are numbers, times whole seconds, holes are written as zeros, extended
//! attributes and the formats' optional fields are absent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::libc::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use tar::{EntryType, Header};

use super::format::BLOCK;
use super::{
    LeftOutReason, Owners, PackError, PackOptions, PackReport, PrivilegedBits, beneath, printable,
};

/// Writes everything below `root` to `out` as a plain tar.
///
/// What cannot be packed is left out and listed. Directories on which something else is mounted are
/// written as empty ones; other mount points are left out.
///
/// # Errors
///
/// When `out` cannot be written or a directory cannot be listed.
pub fn pack(
    root: BorrowedFd<'_>,
    out: impl Write,
    options: &PackOptions,
) -> Result<PackReport, PackError> {
    let mut packer = Packer::new(out, options);
    let stat = fstat(root).map_err(tree_error("stat", b""))?;
    // Making mount points in the root changes its time, which says nothing about the tree.
    let facts = Facts {
        mtime: 0,
        ..Facts::from(&stat)
    };
    packer.header(b"", &[], facts, EntryType::Directory, 0)?;
    let directory =
        beneath::open_directory(root, b"").map_err(tree_error("open directory", b""))?;
    packer.directory(&directory, b"", 0)?;
    packer.finish()
}

/// What a header says of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

impl Facts {
    /// Of a member that deletes.
    pub(super) const DELETED: Self = Self {
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: 0,
    };
    const MOUNT_POINT: Self = Self {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
    };
}

impl From<&FileStat> for Facts {
    fn from(stat: &FileStat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
        }
    }
}

pub(super) struct Packer<'a, W> {
    pub(super) out: W,
    pub(super) options: &'a PackOptions,
    pub(super) report: PackReport,
    /// First name of every file with several, by device and inode.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a, W: Write> Packer<'a, W> {
    pub(super) fn new(out: W, options: &'a PackOptions) -> Self {
        Self {
            out,
            options,
            report: PackReport::default(),
            first_names: HashMap::new(),
        }
    }

    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        depth: usize,
    ) -> Result<(), PackError> {
        let listing = directory.try_clone().map_err(|_| Errno::EMFILE);
        let names = listing
            .and_then(beneath::names)
            .map_err(tree_error("list", path))?;
        for name in names {
            let child = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", &name].concat()
            };
            self.entry(directory, &name, &child, depth + 1)?;
        }
        Ok(())
    }

    pub(super) fn entry(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), PackError> {
        if self.report.entries >= self.options.max_entries {
            self.report.left_out.add(path, LeftOutReason::TooMany);
            return Ok(());
        }
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Deleted since it was listed: the tree of a live sandbox may change under our hands.
            Err(Errno::ENOENT) => return Ok(()),
            // Its directory may be listed, not searched.
            Err(error) => return self.unopened(path, error),
        };
        match stat.st_mode & S_IFMT {
            S_IFDIR => self.subdirectory(parent, name, path, depth),
            S_IFREG => self.file(parent, name, path, &stat),
            S_IFLNK => self.symlink(parent, name, path, &stat),
            _ => {
                self.report.left_out.add(path, LeftOutReason::Special);
                Ok(())
            }
        }
    }

    fn subdirectory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), PackError> {
        if depth >= self.options.max_depth {
            self.report.left_out.add(path, LeftOutReason::TooDeep);
            return Ok(());
        }
        match beneath::open_directory(parent.as_fd(), name) {
            Ok(child) => {
                let stat = fstat(&child).map_err(tree_error("stat", path))?;
                self.header(path, &[], Facts::from(&stat), EntryType::Directory, 0)?;
                self.directory(&child, path, depth)
            }
            // What is mounted there is not of this tree, nor are its mode and times.
            Err(Errno::EXDEV) => {
                self.header(path, &[], Facts::MOUNT_POINT, EntryType::Directory, 0)
            }
            Err(error) => self.unopened(path, error),
        }
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
    ) -> Result<(), PackError> {
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.first_names.get(&id).cloned()
        {
            return self.header(path, &first, Facts::from(stat), EntryType::Link, 0);
        }
        // O_NONBLOCK: what was a file when it was listed may be a FIFO by now.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match beneath::open(parent.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(error) => return self.unopened(path, error),
        };
        let stat = fstat(&file).map_err(tree_error("stat", path))?;
        if stat.st_mode & S_IFMT != S_IFREG {
            self.report.left_out.add(path, LeftOutReason::Special);
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > self.options.max_bytes.saturating_sub(self.report.bytes) {
            self.report.left_out.add(path, LeftOutReason::TooLarge);
            return Ok(());
        }
        self.header(path, &[], Facts::from(&stat), EntryType::Regular, size)?;
        if stat.st_nlink > 1 {
            self.first_names.insert(id, path.to_vec());
        }
        self.content(&mut File::from(file), path, size)
    }

    /// Exactly `size` bytes: the header promised them, whatever happens to the file meanwhile.
    fn content(&mut self, file: &mut File, path: &[u8], size: u64) -> Result<(), PackError> {
        let mut buffer = vec![0; 128 * 1024];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let window = buffer.get_mut(..wanted).unwrap_or_default();
            let count = match file.read(window) {
                Ok(0) => {
                    self.report.left_out.add(path, LeftOutReason::Changed);
                    break;
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.report.left_out.add(path, LeftOutReason::Unreadable);
                    break;
                }
            };
            self.out
                .write_all(window.get(..count).unwrap_or_default())
                .map_err(PackError::Write)?;
            left -= count as u64;
        }
        buffer.fill(0);
        while left > 0 {
            let count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.write(buffer.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        self.report.bytes += size;
        self.pad(size)
    }

    fn symlink(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
    ) -> Result<(), PackError> {
        let target = match readlinkat(parent, name) {
            Ok(target) => std::os::unix::ffi::OsStringExt::into_vec(target),
            Err(Errno::ENOENT | Errno::EINVAL) => {
                self.report.left_out.add(path, LeftOutReason::Changed);
                return Ok(());
            }
            Err(error) => return Err(tree_error("read link", path)(error)),
        };
        self.header(path, &target, Facts::from(stat), EntryType::Symlink, 0)
    }

    pub(super) fn unopened(&mut self, path: &[u8], error: Errno) -> Result<(), PackError> {
        let reason = if error == Errno::EXDEV {
            LeftOutReason::OtherMount
        } else if [Errno::EACCES, Errno::EPERM, Errno::EIO].contains(&error) {
            LeftOutReason::Unreadable
        } else if [Errno::ENOENT, Errno::ELOOP, Errno::ENOTDIR, Errno::ENXIO].contains(&error) {
            LeftOutReason::Changed
        } else {
            return Err(tree_error("open", path)(error));
        };
        self.report.left_out.add(path, reason);
        Ok(())
    }

    pub(super) fn header(
        &mut self,
        path: &[u8],
        link: &[u8],
        facts: Facts,
        entry_type: EntryType,
        size: u64,
    ) -> Result<(), PackError> {
        let mut name = if path.is_empty() {
            b"./".to_vec()
        } else {
            path.to_vec()
        };
        if entry_type == EntryType::Directory && !path.is_empty() {
            name.push(b'/');
        }
        let mut header = Header::new_gnu();
        self.long_name(&name, EntryType::GNULongName)?;
        self.long_name(link, EntryType::GNULongLink)?;
        let old = header.as_old_mut();
        copy_head(&mut old.name, &name);
        copy_head(&mut old.linkname, link);
        let keep = self.options.owners != Owners::Caller;
        header.set_entry_type(entry_type);
        header.set_mode(self.mode(facts, entry_type));
        header.set_uid(if keep { u64::from(facts.uid) } else { 0 });
        header.set_gid(if keep { u64::from(facts.gid) } else { 0 });
        header.set_mtime(u64::try_from(facts.mtime).unwrap_or(0));
        header.set_size(size);
        header.set_cksum();
        self.report.entries += 1;
        self.write(header.as_bytes())
    }

    /// A name of more than 100 bytes goes into a member of its own, in front.
    fn long_name(&mut self, name: &[u8], entry_type: EntryType) -> Result<(), PackError> {
        if name.len() <= 100 {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        copy_head(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_entry_type(entry_type);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(name)?;
        self.write(&[0])?;
        self.pad(size)
    }

    fn mode(&self, facts: Facts, entry_type: EntryType) -> u32 {
        let mode = facts.mode;
        match (self.options.privileged_bits, entry_type) {
            // The mode of a link means nothing and differs between file systems.
            (_, EntryType::Symlink) => 0o777,
            (PrivilegedBits::Keep, _) => mode,
            (PrivilegedBits::Drop, EntryType::Directory) => mode & 0o3777,
            (PrivilegedBits::Drop, _) => mode & 0o1777,
        }
    }

    fn pad(&mut self, size: u64) -> Result<(), PackError> {
        let block = BLOCK as u64;
        let padding = usize::try_from((block - size % block) % block).unwrap_or(0);
        self.write([0; BLOCK].get(..padding).unwrap_or_default())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes).map_err(PackError::Write)
    }
}

fn copy_head<const N: usize>(field: &mut [u8; N], value: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(value) {
        *slot = *byte;
    }
}

pub(super) fn tree_error(operation: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> PackError {
    let path = printable(path);
    move |source| PackError::Tree {
        operation,
        path,
        source,
    }
}
