//! What of the sandbox is used up, as PID 1 can see it: the kernel keeps no count of these limits.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use crate::wire::{Space, TERMINALS, UsedUp};

/// Looks; with `processes` at each of them, too.
pub(super) fn now(processes: bool) -> UsedUp {
    let mut used_up = UsedUp::default();
    for space in Space::ALL {
        let Ok(stat) = statvfs(space.path()) else {
            continue;
        };
        // A file system without a limit has 0 of 0.
        if stat.blocks() > 0 && stat.blocks_available() == 0 {
            used_up.blocks.push(space);
        }
        if stat.files() > 0 && stat.files_free() == 0 {
            used_up.inodes.push(space);
        }
    }
    if processes {
        used_up.terminals = terminals() >= u64::from(TERMINALS);
        used_up.open_files = open_files();
    }
    used_up
}

fn terminals() -> u64 {
    let entries = fs::read_dir("/dev/pts").map_or(0, Iterator::count);
    // One of them is ptmx.
    (entries as u64).saturating_sub(1)
}

/// The size of `/proc/PID/fd` is the number of its entries (Linux 6.2; 0 before).
fn open_files() -> bool {
    let Ok((_, limit)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return false;
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::metadata(entry.path().join("fd")).ok())
        .any(|fds| fds.len() >= limit)
}
