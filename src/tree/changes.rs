//! What a writable layer changes of the tree below it, as a layer of an image.
//!
//! Which paths those are is told by comparing names; what is there now is read of the whole that the two layers make.
//! So nothing depends on how overlayfs notes deletions, replaced directories, renames or copied metadata.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc::{S_IFDIR, S_IFMT};
use nix::sys::stat::{fstat, fstatat};
use tar::EntryType;

use super::format::BLOCK;
use super::layer::WHITEOUT;
use super::pack::{Facts, Packer, tree_error};
use super::{LeftOutReason, PackError, PackOptions, PackReport, beneath};

/// The directories of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// What its users see.
    pub whole: BorrowedFd<'a>,
    /// Its writable layer.
    pub upper: BorrowedFd<'a>,
    /// The tree below.
    pub lower: BorrowedFd<'a>,
}

/// Writes a layer that makes of the lower tree what the whole is now.
///
/// # Errors
/// When `out` cannot be written or a directory cannot be listed.
pub fn pack_changes(
    overlay: Overlay<'_>,
    out: impl Write,
    options: &PackOptions,
) -> Result<PackReport, PackError> {
    let mut packer = Packer::new(out, options);
    let open = |directory| {
        beneath::open_directory(directory, b"").map_err(tree_error("open directory", b""))
    };
    let whole = open(overlay.whole)?;
    let (upper, lower) = (open(overlay.upper)?, open(overlay.lower)?);
    packer.changes(&whole, [Some(&upper), Some(&lower)], b"", 0)?;
    packer.finish()
}

impl<W: Write> Packer<'_, W> {
    /// One directory, as it is seen, and what it is in the two layers.
    fn changes(
        &mut self,
        whole: &OwnedFd,
        [upper, lower]: [Option<&OwnedFd>; 2],
        path: &[u8],
        depth: usize,
    ) -> Result<(), PackError> {
        let list = |directory: Option<&OwnedFd>| match directory {
            None => Ok(BTreeSet::new()),
            Some(directory) => names(directory).map_err(tree_error("list", path)),
        };
        let (seen, above, below) = (list(Some(whole))?, list(upper)?, list(lower)?);
        for name in above
            .iter()
            .chain(&below)
            .chain(&seen)
            .collect::<BTreeSet<_>>()
        {
            let child = match path {
                b"" => name.clone(),
                _ => [path, b"/", name].concat(),
            };
            match (
                seen.contains(name),
                above.contains(name),
                below.contains(name),
            ) {
                (true, false, true) | (false, _, false) => {}
                (false, _, true) => self.deleted(path, name)?,
                // As a member it would delete another file.
                (true, ..) if name.starts_with(WHITEOUT) => {
                    self.leave_out(&child, LeftOutReason::ReservedName);
                }
                (true, ..) => self.changed(whole, [upper, lower], (name, &child), depth + 1)?,
            }
        }
        Ok(())
    }

    fn changed(
        &mut self,
        whole: &OwnedFd,
        layers: [Option<&OwnedFd>; 2],
        (name, path): (&[u8], &[u8]),
        depth: usize,
    ) -> Result<(), PackError> {
        let stat = fstatat(whole, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let directory = stat.is_ok_and(|stat| stat.st_mode & S_IFMT == S_IFDIR);
        if !directory {
            return self.entry(whole, name, path, depth);
        }
        if depth >= self.options.max_depth {
            self.leave_out(path, LeftOutReason::TooDeep);
            return Ok(());
        }
        let child = match beneath::open_directory(whole.as_fd(), name) {
            Ok(child) => child,
            // What is mounted there is of no layer.
            Err(Errno::EXDEV) => return Ok(()),
            Err(error) => return self.unopened(path, error),
        };
        let stat = fstat(&child).map_err(tree_error("stat", path))?;
        self.header(path, &[], Facts::from(&stat), EntryType::Directory, 0)?;
        let [upper, lower] = layers
            .map(|layer| layer.and_then(|layer| beneath::open_directory(layer.as_fd(), name).ok()));
        self.changes(&child, [upper.as_ref(), lower.as_ref()], path, depth)
    }

    fn deleted(&mut self, parent: &[u8], name: &[u8]) -> Result<(), PackError> {
        let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        let path = [parent, slash, WHITEOUT, name].concat();
        self.header(&path, &[], Facts::DELETED, EntryType::Regular, 0)
    }

    fn leave_out(&mut self, path: &[u8], reason: LeftOutReason) {
        self.report.left_out.add(path, reason);
    }

    /// The end mark.
    pub(super) fn finish(mut self) -> Result<PackReport, PackError> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(PackError::Write)?;
        Ok(self.report)
    }
}

fn names(directory: &OwnedFd) -> Result<BTreeSet<Vec<u8>>, Errno> {
    // A second descriptor of the same opening would share its place in the listing.
    let again = beneath::open_directory(directory.as_fd(), b"")?;
    Ok(beneath::names(again)?.into_iter().collect())
}
