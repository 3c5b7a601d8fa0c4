//! Writable layers on disk.
//!
//! With a limit: a file system of that size in a file that has no name any more, on a loop device
//! that goes with its last mount; so it needs root, and leaves nothing. Without a limit: a directory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::HostError;
use crate::spec::Limits;
use crate::sys::loopdev::{self, LoopDevice};
use crate::wire::UpperSource;

/// Making an empty file system, without touching its inode tables.
const MKFS_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of an inode of ext4.
const INODE_BYTES: u64 = 256;
/// Inodes where no limit says how many.
const INODES: u64 = 1_000_000;

/// A layer, and what keeps it until it is mounted.
#[derive(Debug)]
pub(super) struct DiskUpper {
    pub(super) source: UpperSource,
    _device: Option<LoopDevice>,
}

/// Makes a layer at `path`, which nothing else uses.
pub(super) async fn make(
    path: &Path,
    limits: &Limits,
    privileged: bool,
) -> Result<DiskUpper, HostError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(HostError::file("make", parent))?;
    }
    let Some(bytes) = limits.disk_bytes else {
        fs::create_dir(path).map_err(HostError::file("make", path))?;
        return Ok(DiskUpper {
            source: UpperSource::Directory(path.to_owned()),
            _device: None,
        });
    };
    if !privileged {
        return Err(HostError::Unenforceable(
            "a limit of a writable layer on disk (it takes root, for a loop device)".into(),
        ));
    }
    let made = file_system(path, bytes, limits.inodes.unwrap_or(INODES)).await;
    // The loop device holds the file: without a name it goes with the device, whoever is killed.
    let _ = fs::remove_file(path);
    let device = made?;
    Ok(DiskUpper {
        source: UpperSource::Device(device.path.clone()),
        _device: Some(device),
    })
}

async fn file_system(path: &Path, bytes: u64, inodes: u64) -> Result<LoopDevice, HostError> {
    let failed = |action| HostError::file(action, path);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    let file = file.map_err(failed("create"))?;
    // What the file system needs for itself comes on top of what may be written.
    let size = bytes + inodes * INODE_BYTES + bytes / 64 + (1 << 20);
    file.set_len(size).map_err(failed("size"))?;
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let run = tokio::process::Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-E",
            options,
            "-N",
        ])
        .arg(inodes.to_string())
        .arg(path)
        .kill_on_drop(true)
        .output();
    let output = timeout(MKFS_DEADLINE, run)
        .await
        .map_err(|_| HostError::TimedOut("making a file system", MKFS_DEADLINE.as_secs()))?
        .map_err(failed("run mke2fs (package e2fsprogs) on"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed("run mke2fs on")(std::io::Error::other(said)));
    }
    loopdev::attach(file.as_fd()).map_err(failed("put a loop device over"))
}
