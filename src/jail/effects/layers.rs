//! The writable layer, looked at again and again: what differs from one look to the next. Reads metadata only.
//!
//! Both layers come as directories of mounts that nobody can write to, where reading leaves no trace either. What
//! overlayfs keeps there is understood: a device 0:0 hides what the image has, and a directory that is opaque hides all of it.
//! The mark of the latter is an extended attribute that PID 1 may not read (`trusted.*` takes privileges), so it is told by
//! what it does: names of the image are not to be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat, lstat};

use super::node::{Node, Time};
use crate::wire::{Bound, Change};

/// Paths that are kept in mind, at about 150 bytes each.
const MAX_ENTRIES: usize = 50_000;
/// Directories below each other; each holds a descriptor while it is looked at.
const MAX_DEPTH: usize = 64;
/// Bytes of the path of a directory that is looked into.
const MAX_LENGTH: usize = 1024;
/// Time for one look.
const TIME: Duration = Duration::from_millis(250);
/// Before Linux 6.13 two changes within a tick of the kernel's clock have the same time.
const TICK: (i64, i64) = (0, 20_000_000);

/// The two trees that a sandbox's root is made of.
#[derive(Debug)]
pub(in crate::jail) struct Layers {
    pub(in crate::jail) upper: OwnedFd,
    pub(in crate::jail) lower: OwnedFd,
}

impl Layers {
    /// For whoever closes all others.
    pub(in crate::jail) fn descriptors(&self) -> [RawFd; 2] {
        [self.upper.as_raw_fd(), self.lower.as_raw_fd()]
    }
}

/// What was there before.
#[derive(Debug, Clone)]
pub(super) enum Before {
    Nothing,
    /// In the image.
    Lower(Node),
    /// In the layer.
    Upper(Node),
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Difference {
    /// Without the leading slash.
    pub(super) path: Vec<u8>,
    pub(super) change: Change,
    pub(super) before: Before,
    /// What is there now.
    pub(super) now: Option<Node>,
    /// Its metadata is as before: only a look at its content can tell.
    pub(super) suspected: bool,
}

/// All paths of the layer, as they were seen last.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) nodes: BTreeMap<Vec<u8>, Node>,
    look: u64,
    /// When the last look began, but for a tick: the kernel notes readings by a clock that runs behind by as much.
    since: Time,
}

impl Known {
    /// Looks at all of the layer.
    pub(super) fn look(&mut self, layers: &Layers) -> (Vec<Difference>, Vec<Bound>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let now = (now.as_secs().cast_signed(), i64::from(now.subsec_nanos()));
        let settled = earlier(now, TICK);
        self.look += 1;
        let mut walk = Walk {
            first: self.look == 1,
            known: self,
            settled,
            deadline: Instant::now() + TIME,
            found: Vec::new(),
            bounds: BTreeSet::new(),
            count: 0,
        };
        let lower = layers.lower.try_clone().ok();
        if let Ok(upper) = open_directory(layers.upper.as_fd(), c".") {
            walk.directory(&mut Vec::new(), upper, lower, false);
        }
        let Walk {
            mut found, bounds, ..
        } = walk;
        // With a part of the layer not looked at, nobody knows what is gone.
        if !bounds.contains(&Bound::Time) {
            found.extend(self.gone());
        }
        self.since = settled;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        (found, bounds.into_iter().collect())
    }

    /// What was seen in earlier looks only.
    fn gone(&mut self) -> Vec<Difference> {
        let gone = |node: &Node| node.look != self.look;
        let paths: Vec<_> = self.nodes.iter().filter(|(_, node)| gone(node)).collect();
        let paths: Vec<Vec<u8>> = paths.into_iter().map(|(path, _)| path.clone()).collect();
        let removed = paths.into_iter().filter_map(|path| {
            let node = self.nodes.remove(&path)?;
            (!node.is_whiteout()).then_some((path, node))
        });
        removed
            .map(|(path, node)| Difference {
                path,
                change: Change::Deleted,
                before: Before::Upper(node),
                now: None,
                suspected: false,
            })
            .collect()
    }
}

fn earlier((seconds, nanoseconds): Time, (_, by): Time) -> Time {
    if nanoseconds >= by {
        (seconds, nanoseconds - by)
    } else {
        (seconds - 1, nanoseconds + 1_000_000_000 - by)
    }
}

/// One look.
struct Walk<'a> {
    known: &'a mut Known,
    /// Nothing was known before.
    first: bool,
    /// What changed before this has another time when it changes again.
    settled: Time,
    deadline: Instant,
    found: Vec<Difference>,
    bounds: BTreeSet<Bound>,
    count: u64,
}

impl Walk<'_> {
    /// `lower` is the directory of the image that was seen through this one; `fresh` says that this one is another than at
    /// the last look.
    fn directory(
        &mut self,
        path: &mut Vec<u8>,
        mut upper: Dir,
        lower: Option<OwnedFd>,
        fresh: bool,
    ) -> bool {
        let mut names = BTreeSet::new();
        let mut below = Vec::new();
        let length = path.len();
        let Ok(directory) = upper.as_fd().try_clone_to_owned() else {
            return false;
        };
        for entry in upper.iter() {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if self.is_late() {
                return false;
            }
            if fresh && names.len() < MAX_ENTRIES {
                names.insert(name.to_bytes().to_vec());
            }
            push(path, name.to_bytes());
            if let Some(seen) = self.entry(path, directory.as_fd(), lower.as_ref(), name) {
                below.push((name.to_owned(), seen));
            }
            path.truncate(length);
        }
        drop(upper);
        for (name, seen) in below {
            push(path, name.to_bytes());
            self.below(path, &directory, lower.as_ref(), &name, seen);
            path.truncate(length);
        }
        match lower {
            Some(lower) if fresh && !self.first => self.hides(path, lower, &names),
            _ => false,
        }
    }

    /// Goes into a directory.
    fn below(
        &mut self,
        path: &mut Vec<u8>,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        name: &CStr,
        seen: SeenDirectory,
    ) {
        let levels = path.iter().filter(|byte| **byte == b'/').count() + 1;
        if levels >= MAX_DEPTH || path.len() > MAX_LENGTH {
            self.bounds.insert(Bound::Depth);
            return;
        }
        let Ok(child) = open_directory(upper.as_fd(), name) else {
            return;
        };
        let lower = lower.filter(|_| seen.image_shows);
        let lower = lower.and_then(|lower| open_directory(lower.as_fd(), name).ok());
        let lower = lower.and_then(|lower| lower.as_fd().try_clone_to_owned().ok());
        let opaque = self.directory(path, child, lower, seen.fresh);
        if let Some(node) = self.known.nodes.get_mut(path) {
            node.opaque |= opaque;
        }
    }

    /// One name; says of a directory how to go into it.
    fn entry(
        &mut self,
        path: &[u8],
        upper: BorrowedFd<'_>,
        lower: Option<&OwnedFd>,
        name: &CStr,
    ) -> Option<SeenDirectory> {
        let stat = fstatat(upper, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let mut node = Node::new(&stat, self.known.look);
        let mut old = self.known.nodes.get_mut(path).map(|old| {
            // Not a clone of its content, which stays with what is known.
            let content = old.content.take();
            let mut old = old.clone();
            old.content = content;
            old
        });
        if old.is_none() && self.known.nodes.len() >= MAX_ENTRIES {
            self.bounds.insert(Bound::Entries);
            return None;
        }
        let same = old.as_ref().is_some_and(|old| old.is_as(&node));
        let moved = old.as_ref().is_none_or(|old| old.inode != node.inode);
        let read = !self.first && node.was_read(old.as_ref(), self.known.since);
        let hidden = old
            .as_ref()
            .is_some_and(|old| old.is_whiteout() || !old.is_directory() || old.opaque);
        node.opaque = hidden && node.is_directory();
        let mut suspected = false;
        if let Some(old) = old.as_mut().filter(|_| same) {
            suspected = old.unsettled && old.content.is_some();
            if !suspected {
                node.content = old.content.take();
            }
        }
        node.unsettled = node.changed >= self.settled;
        let before = match old {
            Some(old) if old.is_whiteout() => Before::Nothing,
            Some(old) => Before::Upper(old),
            None => lower
                .and_then(|lower| fstatat(lower, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok())
                .map_or(Before::Nothing, |stat| Before::Lower(Node::new(&stat, 0))),
        };
        let change = match (&before, node.is_whiteout()) {
            (Before::Nothing, true) => None,
            (Before::Nothing, false) => Some(Change::Created),
            (Before::Lower(_) | Before::Upper(_), true) => Some(Change::Deleted),
            (Before::Upper(_), false) => (!same || suspected).then_some(Change::Changed),
            (Before::Lower(old), false) if node.is_directory() => {
                (!node.has_rights_of(old)).then_some(Change::Changed)
            }
            (Before::Lower(_), false) => Some(Change::Changed),
        };
        let deeper = node.is_directory().then_some(SeenDirectory {
            fresh: moved,
            image_shows: !hidden,
        });
        self.tell(path, (change, suspected), read, before, &node);
        self.known.nodes.insert(path.to_vec(), node);
        deeper
    }

    fn tell(
        &mut self,
        path: &[u8],
        (change, suspected): (Option<Change>, bool),
        read: bool,
        before: Before,
        now: &Node,
    ) {
        let mut add = |change, before, suspected| {
            self.found.push(Difference {
                path: path.to_vec(),
                change,
                before,
                now: Some(now.clone()),
                suspected,
            });
        };
        if read {
            add(Change::Read, Before::Nothing, false);
        }
        if let Some(change) = change {
            add(change, before, suspected);
        }
    }

    /// Whether a new directory hides that of the image; its names are then gone, but those that it has itself.
    fn hides(&mut self, path: &[u8], lower: OwnedFd, names: &BTreeSet<Vec<u8>>) -> bool {
        let Ok(mut lower) = Dir::from_fd(lower) else {
            return false;
        };
        let Ok(directory) = lower.as_fd().try_clone_to_owned() else {
            return false;
        };
        let mut seen_through = false;
        for entry in lower.iter() {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." || names.contains(name.to_bytes()) {
                continue;
            }
            let mut child = path.to_vec();
            push(&mut child, name.to_bytes());
            if !seen_through && is_there(&child) {
                return false;
            }
            seen_through = true;
            if self.is_late() {
                break;
            }
            let Ok(stat) = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            self.found.push(Difference {
                path: child,
                change: Change::Deleted,
                before: Before::Lower(Node::new(&stat, 0)),
                now: None,
                suspected: false,
            });
        }
        seen_through
    }

    fn is_late(&mut self) -> bool {
        self.count += 1;
        if self.count.is_multiple_of(64) && Instant::now() > self.deadline {
            self.bounds.insert(Bound::Time);
        }
        self.bounds.contains(&Bound::Time)
    }
}

#[derive(Debug, Clone, Copy)]
struct SeenDirectory {
    /// Another one than at the last look.
    fresh: bool,
    /// The image's directory of this name was seen through it.
    image_shows: bool,
}

fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<Dir, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Dir::openat(at, name, flags, Mode::empty())
}

/// Whether the sandbox sees it, in all its layers.
fn is_there(path: &[u8]) -> bool {
    let path = [b"/", path].concat();
    lstat(OsStr::from_bytes(&path)).is_ok()
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
