//! Unpacks a hostile tar below a directory descriptor.
//!
//! Nothing that exists is ever opened for writing: a file is made anew under a name that is free,
//! so neither a link nor a second name of a file outside can catch what is written. Modes and times
//! of directories are set last, when nothing is made in them any more.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use nix::sys::stat::{
    FileStat, Mode, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchown, fchownat, linkat, symlinkat};

use super::format::{Kind, Member, Reader};
use super::layer::WHITEOUT;
use super::names::{clean, may_leave, split};
use super::sparse::copy_content;
use super::{
    LeftOutReason, Links, Owners, PrivilegedBits, Special, UnpackError, UnpackErrorKind,
    UnpackPolicy, UnpackReport, beneath, printable,
};

/// Unpacks a plain tar below `root`, which is a directory that need not be empty.
///
/// # Errors
///
/// The first member that the policy refuses, or that the kernel does. What was unpacked before it
/// stays: the caller throws the tree away.
pub fn unpack(
    archive: impl Read,
    root: BorrowedFd<'_>,
    policy: &UnpackPolicy,
) -> Result<UnpackReport, UnpackError> {
    let mut reader = Reader::new(archive);
    let mut unpacker = Unpacker {
        root,
        policy,
        report: UnpackReport::default(),
        directories: BTreeMap::new(),
        made: HashSet::new(),
    };
    while let Some(member) = reader.next()? {
        unpacker
            .member(&member, &mut reader)
            .map_err(|kind| kind.at(&member.path))?;
    }
    unpacker.finish_directories()?;
    Ok(unpacker.report)
}

pub(super) type Outcome<T> = Result<T, UnpackErrorKind>;

pub(super) struct Unpacker<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) policy: &'a UnpackPolicy,
    pub(super) report: UnpackReport,
    /// What directories get at the end; also those that existed, whose times we disturb.
    pub(super) directories: BTreeMap<Vec<u8>, Attributes>,
    /// Paths that this layer made; empty unless the policy says that it is one.
    pub(super) made: HashSet<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

/// A judged name: the directory it is in, and the name there.
pub(super) struct Place<'a> {
    pub(super) path: Vec<u8>,
    pub(super) parent: &'a [u8],
    pub(super) name: &'a [u8],
}

impl Unpacker<'_> {
    fn member<R: Read>(&mut self, member: &Member, reader: &mut Reader<R>) -> Outcome<()> {
        self.report.entries += 1;
        if self.report.entries > self.policy.max_entries {
            return Err(UnpackErrorKind::TooManyEntries(self.policy.max_entries));
        }
        let path = clean(&member.path, self.policy.max_path, self.policy.max_depth)?;
        let Some((parent, name)) = split(&path) else {
            // `./`: the root itself.
            if member.kind != Kind::Directory {
                return Err(UnpackErrorKind::BadName);
            }
            let attributes = self.attributes(member);
            self.directories.insert(Vec::new(), attributes);
            return Ok(());
        };
        let place = Place {
            path: path.clone(),
            parent,
            name,
        };
        if self.policy.layer && name.starts_with(WHITEOUT) {
            return self.whiteout(&place);
        }
        match member.kind {
            Kind::Unknown(byte) => return Err(UnpackErrorKind::UnsupportedType(byte)),
            Kind::Special if self.policy.special == Special::Refuse => {
                return Err(UnpackErrorKind::SpecialFile);
            }
            Kind::Special => {
                self.report.left_out.add(&path, LeftOutReason::Special);
                return Ok(());
            }
            Kind::Symlink
                if self.policy.links == Links::Inside && may_leave(&member.link, parent) =>
            {
                self.report.left_out.add(&path, LeftOutReason::LeavingLink);
                return Ok(());
            }
            Kind::File | Kind::Directory | Kind::Symlink | Kind::HardLink => {}
        }
        let Some(parent) = self.parent(place.parent)? else {
            self.report.left_out.add(&path, LeftOutReason::OtherMount);
            return Ok(());
        };
        match member.kind {
            Kind::Directory => self.directory(&parent, &place, member)?,
            Kind::File => self.file(&parent, &place, member, reader)?,
            Kind::Symlink => self.symlink(&parent, &place, member)?,
            Kind::HardLink => self.hard_link(&parent, &place, member)?,
            Kind::Special | Kind::Unknown(_) => {}
        }
        if self.policy.layer {
            self.made.insert(path);
        }
        Ok(())
    }

    /// Opens a parent directory, making what is missing of it. `None`: it lies on another mount.
    fn parent(&mut self, path: &[u8]) -> Outcome<Option<OwnedFd>> {
        match beneath::open_directory(self.root, path) {
            Ok(directory) => {
                self.remember(path, &directory)?;
                return Ok(Some(directory));
            }
            Err(Errno::ENOENT) => {}
            Err(Errno::EXDEV) => return Ok(None),
            Err(error) => return Err(parent_error(error)),
        }
        let Some((above, name)) = split(path) else {
            return Err(UnpackErrorKind::system("open the tree", Errno::ENOENT));
        };
        let Some(above) = self.parent(above)? else {
            return Ok(None);
        };
        let new = Attributes {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
        };
        self.make_directory(&above, name, path, new)?;
        if self.policy.layer {
            self.made.insert(path.to_vec());
        }
        beneath::open_directory(above.as_fd(), name)
            .map(Some)
            .map_err(parent_error)
    }

    /// A directory that existed keeps its mode and times, though we change what is in it.
    pub(super) fn remember(&mut self, path: &[u8], directory: &OwnedFd) -> Outcome<()> {
        if !self.directories.contains_key(path) {
            let stat = fstat(directory)
                .map_err(|error| UnpackErrorKind::system("stat the parent directory", error))?;
            let attributes = Attributes {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: stat.st_mtime,
            };
            self.directories.insert(path.to_vec(), attributes);
        }
        Ok(())
    }

    fn directory(&mut self, parent: &OwnedFd, place: &Place<'_>, member: &Member) -> Outcome<()> {
        let attributes = self.attributes(member);
        match existing(parent, place.name)? {
            Some(stat) if stat.st_mode & S_IFMT == S_IFDIR => {
                match beneath::open_directory(parent.as_fd(), place.name) {
                    Err(Errno::EXDEV) => self
                        .report
                        .left_out
                        .add(&place.path, LeftOutReason::OtherMount),
                    _ => drop(self.directories.insert(place.path.clone(), attributes)),
                }
                return Ok(());
            }
            Some(_) => self.displace(parent, place)?,
            None => {}
        }
        self.make_directory(parent, place.name, &place.path, attributes)
    }

    fn make_directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        attributes: Attributes,
    ) -> Outcome<()> {
        mkdirat(parent, name, Mode::S_IRWXU)
            .map_err(|error| UnpackErrorKind::system("make the directory", error))?;
        self.directories.insert(path.to_vec(), attributes);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        place: &Place<'_>,
        member: &Member,
        reader: &mut Reader<R>,
    ) -> Outcome<()> {
        if member.size > self.policy.max_bytes.saturating_sub(self.report.bytes) {
            return Err(UnpackErrorKind::TooManyBytes(self.policy.max_bytes));
        }
        self.report.bytes += member.size;
        self.make_free(parent, place)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = beneath::open(
            parent.as_fd(),
            place.name,
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )
        .map_err(|error| UnpackErrorKind::system("create the file", error))?;
        let mut file = File::from(file);
        copy_content(member, reader, &mut file)?;
        let attributes = self.attributes(member);
        self.set_attributes(file.as_fd(), attributes)
    }

    fn symlink(&mut self, parent: &OwnedFd, place: &Place<'_>, member: &Member) -> Outcome<()> {
        if member.link.is_empty() || member.link.contains(&0) {
            return Err(UnpackErrorKind::BadName);
        }
        self.make_free(parent, place)?;
        let failed = |operation, error| UnpackErrorKind::system(operation, error);
        symlinkat(member.link.as_slice(), parent, place.name)
            .map_err(|error| failed("make the symbolic link", error))?;
        let attributes = self.attributes(member);
        if self.policy.owners != Owners::Caller {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let result = fchownat(parent, place.name, Some(uid), Some(gid), flags);
            if !owner_set(self.policy.owners, result)? {
                self.report.owners_lost += 1;
            }
        }
        let time = TimeSpec::new(attributes.mtime, 0);
        utimensat(
            parent,
            place.name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(|error| failed("set the time", error))
    }

    fn hard_link(&mut self, parent: &OwnedFd, place: &Place<'_>, member: &Member) -> Outcome<()> {
        let bad = || UnpackErrorKind::BadHardLink(printable(&member.link));
        // A name that leaves the tree is no name of a file in it; that is the same fault.
        let target =
            clean(&member.link, self.policy.max_path, self.policy.max_depth).map_err(|_| bad())?;
        let (target_parent, target_name) = split(&target).ok_or_else(bad)?;
        let target_directory =
            beneath::open_directory(self.root, target_parent).map_err(|_| bad())?;
        let stat = existing(&target_directory, target_name)?.ok_or_else(bad)?;
        let linkable = match stat.st_mode & S_IFMT {
            S_IFREG => true,
            // Under `Inside` a link is safe only at the depth for which it was judged.
            S_IFLNK => self.policy.links == Links::Keep,
            _ => false,
        };
        if !linkable {
            return Err(bad());
        }
        if target == place.path {
            return Ok(());
        }
        self.make_free(parent, place)?;
        linkat(
            &target_directory,
            target_name,
            parent,
            place.name,
            LinkatFlags::empty(),
        )
        .map_err(|error| UnpackErrorKind::system("make the hard link", error))
    }

    fn attributes(&mut self, member: &Member) -> Attributes {
        let privileged = if member.kind == Kind::Directory {
            0o4000
        } else {
            0o6000
        };
        let mut mode = member.mode;
        if self.policy.privileged_bits == PrivilegedBits::Drop && mode & privileged != 0 {
            mode &= !privileged;
            self.report.cleared_bits += 1;
        }
        Attributes {
            mode,
            // Ids beyond 32 bits cannot exist; the kernel refuses the overflow id of its own accord.
            uid: u32::try_from(member.uid).unwrap_or(u32::MAX - 1),
            gid: u32::try_from(member.gid).unwrap_or(u32::MAX - 1),
            mtime: member.mtime.clamp(0, i64::from(u32::MAX)),
        }
    }

    /// Owner before mode: chown(2) clears the set-id bits that the mode may carry.
    fn set_attributes(&mut self, file: BorrowedFd<'_>, attributes: Attributes) -> Outcome<()> {
        if self.policy.owners != Owners::Caller {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            if !owner_set(self.policy.owners, fchown(file, Some(uid), Some(gid)))? {
                self.report.owners_lost += 1;
            }
        }
        fchmod(file, Mode::from_bits_truncate(attributes.mode))
            .map_err(|error| UnpackErrorKind::system("set the mode", error))?;
        let time = TimeSpec::new(attributes.mtime, 0);
        futimens(file, &time, &time).map_err(|error| UnpackErrorKind::system("set the time", error))
    }

    /// Deepest first: a directory that forbids its owner to enter it must come after what is in it.
    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let result = beneath::open_directory(self.root, &path)
                .map_err(|error| UnpackErrorKind::system("open the directory", error))
                .and_then(|directory| self.set_attributes(directory.as_fd(), attributes));
            result.map_err(|kind| kind.at(&path))?;
        }
        Ok(())
    }
}

/// Whether the owner could be set.
fn owner_set(owners: Owners, result: Result<(), Errno>) -> Outcome<bool> {
    match result {
        Ok(()) => Ok(true),
        // EINVAL: the id has no mapping in this user namespace (user_namespaces(7)).
        Err(Errno::EPERM | Errno::EINVAL) if owners == Owners::KeepWherePossible => Ok(false),
        Err(error) => Err(UnpackErrorKind::system("set the owner", error)),
    }
}

pub(super) fn existing(directory: &OwnedFd, name: &[u8]) -> Outcome<Option<FileStat>> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(UnpackErrorKind::system("stat what is there", error)),
    }
}

pub(super) fn parent_error(error: Errno) -> UnpackErrorKind {
    if error == Errno::ELOOP {
        UnpackErrorKind::ThroughLink
    } else if error == Errno::ENOTDIR {
        UnpackErrorKind::Collision
    } else {
        UnpackErrorKind::system("open the parent directory", error)
    }
}
