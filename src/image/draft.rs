//! An unfinished image.

use std::fs::{self, File};
use std::path::PathBuf;

use nix::fcntl::Flock;

use super::state::remove_directory;

/// An image being made; gone when dropped.
#[derive(Debug)]
pub struct Draft {
    pub(super) directory: PathBuf,
    pub(super) lock_path: PathBuf,
    /// Held for its whole life: without it the draft is garbage.
    pub(super) _lock: Flock<File>,
}

impl Draft {
    /// The tree under construction.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// A file for what is needed only while the image is made.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory
            .join("rootfs")
            .with_file_name(format!("scratch-{name}"))
    }

    /// Deletes a scratch file, which must not become part of the image's directory.
    pub fn discard(&self, name: &str) {
        let _ = fs::remove_file(self.scratch(name));
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be deleted now stays for the next start, which finds it by the lock file.
        if remove_directory(&self.directory).is_ok() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}
