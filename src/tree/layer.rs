//! Taking away: what a member replaces, and what a layer deletes of the layers below it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{S_IFDIR, S_IFMT};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::names::join;
use super::unpack::{Outcome, Place, Unpacker, existing, parent_error};
use super::{UnpackErrorKind, beneath};

/// Prefix by which a layer deletes what lower layers made.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// A layer hides all that lower layers made in the directory of this member.
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Unpacker<'_> {
    /// Takes away what a new file or link may replace; refuses where it may not.
    pub(super) fn make_free(&mut self, parent: &OwnedFd, place: &Place<'_>) -> Outcome<()> {
        match existing(parent, place.name)? {
            None => Ok(()),
            Some(stat) if stat.st_mode & S_IFMT == S_IFDIR => self.displace(parent, place),
            Some(_) if !self.policy.replace => Err(UnpackErrorKind::Duplicate),
            Some(_) => unlinkat(parent, place.name, UnlinkatFlags::NoRemoveDir)
                .map_err(|error| UnpackErrorKind::system("replace the file", error)),
        }
    }

    /// Takes away something of another kind, which only a layer may do, and only to lower layers.
    pub(super) fn displace(&mut self, parent: &OwnedFd, place: &Place<'_>) -> Outcome<()> {
        if !self.policy.layer || self.made.contains(&place.path) {
            return Err(UnpackErrorKind::Collision);
        }
        self.delete(parent, place.name, &place.path)
    }

    pub(super) fn whiteout(&mut self, place: &Place<'_>) -> Outcome<()> {
        let target = place.name.get(WHITEOUT.len()..).unwrap_or_default();
        if place.name != OPAQUE && (target.is_empty() || target == b"." || target == b"..") {
            return Err(UnpackErrorKind::BadWhiteout);
        }
        // The other names of this form are notes that one storage driver left for itself.
        if place.name != OPAQUE && target.starts_with(WHITEOUT) {
            return Ok(());
        }
        let directory = match beneath::open_directory(self.root, place.parent) {
            Ok(directory) => directory,
            Err(Errno::ENOENT | Errno::EXDEV) => return Ok(()),
            Err(error) => return Err(parent_error(error)),
        };
        self.remember(place.parent, &directory)?;
        self.report.whiteouts += 1;
        let names = if place.name == OPAQUE {
            let copy = directory
                .try_clone()
                .map_err(|_| UnpackErrorKind::system("list the directory", Errno::EMFILE))?;
            beneath::names(copy)
                .map_err(|error| UnpackErrorKind::system("list the directory", error))?
        } else {
            vec![target.to_vec()]
        };
        for name in names {
            let path = join(place.parent, &name);
            if !self.made.contains(&path) {
                self.delete(&directory, &name, &path)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Outcome<()> {
        beneath::remove_tree(directory.as_fd(), name, self.policy.max_depth + 1)
            .map_err(|error| UnpackErrorKind::system("delete what a lower layer made", error))?;
        let below = join(path, b"");
        self.directories
            .retain(|known, _| known != path && !known.starts_with(&below));
        Ok(())
    }
}
