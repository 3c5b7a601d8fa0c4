//! Which ids a sandbox gets.
//!
//! As root every sandbox has a range of its own, so that two sandboxes share no id and no id of the
//! host's; a byte of one lock file stands for each range, for all our processes. An ordinary user has
//! the ids of `/etc/subuid` once, for the zygote's namespace, or his own alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HostError;
use super::registry::open_shared;
use crate::sys::process::{try_lock_byte, unlock_byte};
use crate::wire::IdMap;

/// First id of the first range: above what systemd and container engines allot (below 0x7000_0000).
const FIRST: u32 = 0x7000_0000;
/// Ids of a range.
pub(super) const RANGE: u32 = 65_536;
/// Ranges up to systemd's "foreign" ids at 0x7ffe_0000.
const RANGES: u32 = 0xffe;

/// The ranges that one launcher gives out. A lock belongs to the open file (`F_OFD_SETLK`): other
/// launchers see what we took, and what we took ourselves is noted here.
#[derive(Debug)]
pub(super) struct Ranges {
    file: File,
    taken: Mutex<BTreeSet<u32>>,
}

/// A range of ids, ours as long as this lives.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) map: IdMap,
    index: u32,
    of: Arc<Ranges>,
}

impl Ranges {
    pub(super) fn open(runtime: &Path) -> Result<Arc<Self>, HostError> {
        let path = runtime.join("ids");
        let file = open_shared(&path).map_err(HostError::file("open", &path))?;
        Ok(Arc::new(Self {
            file,
            taken: Mutex::default(),
        }))
    }

    /// Takes a free range, or fails when all are in use.
    pub(super) fn allot(self: &Arc<Self>) -> Result<Range, HostError> {
        // From a start of our own, and from behind the last one: nobody need try all that we took.
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id()
            .wrapping_mul(2_654_435_761)
            .wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed))
            % RANGES;
        let mut taken = self.taken();
        for offset in 0..RANGES {
            let index = (start + offset) % RANGES;
            if taken.contains(&index) {
                continue;
            }
            let locked = try_lock_byte(self.file.as_fd(), index);
            if locked.map_err(HostError::file("lock", "the file of ids"))? {
                taken.insert(index);
                return Ok(Range {
                    map: range(index),
                    index,
                    of: Arc::clone(self),
                });
            }
        }
        Err(HostError::NoIds(RANGES))
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        // One that stays locked is no one's until this launcher ends.
        if unlock_byte(self.of.file.as_fd(), self.index).is_ok() {
            taken.remove(&self.index);
        }
    }
}

/// Whether this process may give sandboxes ids of their own, and mount what it likes: root of the
/// host, with the capability for it. Root of a container has one of the two at most, and gets the
/// sandboxes of an ordinary user.
pub(super) fn privileged() -> bool {
    let all = |map: &str| {
        let map = fs::read_to_string(map).unwrap_or_default();
        map.split_whitespace().eq(["0", "0", "4294967295"])
    };
    nix::unistd::geteuid().is_root()
        && caps::has_cap(
            None,
            caps::CapSet::Effective,
            caps::Capability::CAP_SYS_ADMIN,
        )
        .unwrap_or(false)
        && all("/proc/self/uid_map")
        && all("/proc/self/gid_map")
}

/// What an id of this user namespace is in the one around it.
pub(super) fn outside(id: u32) -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines()
        .find_map(|line| outside_by(line, id))
        .unwrap_or(id)
}

/// Of a line `INSIDE OUTSIDE COUNT` of user_namespaces(7).
fn outside_by(line: &str, id: u32) -> Option<u32> {
    let mut numbers = line.split_whitespace().map(str::parse::<u32>);
    let (Ok(inside), Ok(outside), Ok(count)) = (numbers.next()?, numbers.next()?, numbers.next()?)
    else {
        return None;
    };
    let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
    outside.checked_add(offset)
}

fn range(index: u32) -> IdMap {
    IdMap {
        base: FIRST + index * RANGE,
        count: RANGE,
        shift_files: true,
    }
}

/// A line of `/etc/subuid` or `/etc/subgid`: first id and how many.
pub(super) fn subordinate(file: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    parse_subordinate(&fs::read_to_string(file).ok()?, user, uid)
}

/// A range for `usermod` that no line of either file overlaps.
pub(super) fn free_subordinate_range() -> String {
    let texts =
        ["/etc/subuid", "/etc/subgid"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let first = first_free(&texts.concat());
    format!("{first}-{}", first + RANGE - 1)
}

fn first_free(lines: &str) -> u32 {
    let ends = lines.lines().filter_map(|line| {
        let mut numbers = line.trim().split(':').skip(1);
        let first: u32 = numbers.next()?.parse().ok()?;
        first.checked_add(numbers.next()?.parse().ok()?)
    });
    // Where useradd begins.
    ends.max().unwrap_or(0).max(100_000)
}

fn parse_subordinate(text: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            (owner == user || owner == uid.to_string()).then_some((first, count))
        })
        // Not what no map can hold, and never the host's own root.
        .filter(|&(first, count): &(u32, u32)| {
            first > 0 && count > 0 && first.checked_add(count).is_some()
        })
        .max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_a_user_namespace_are_others_outside() {
        assert_eq!(
            outside_by("         0       1001          1", 0),
            Some(1001)
        );
        assert_eq!(outside_by("1 100000 65536", 2), Some(100_001));
        assert_eq!(outside_by("1 100000 65536", 0), None);
        assert_eq!(outside_by("0 1001 1", 1), None);
        assert_eq!(outside_by("", 1), None);
    }

    #[test]
    fn all_ranges_lie_side_by_side_and_none_leaves_its_place() {
        let mut end = u64::from(FIRST);
        for index in 0..RANGES {
            let map = range(index);
            assert_eq!(u64::from(map.base), end, "range {index}");
            end += u64::from(map.count);
        }
        assert!(FIRST >= 0x7000_0000 && end <= 0x7ffe_0000);
    }

    proptest! {
        #[test]
        fn a_subordinate_range_is_one_of_the_file_and_can_be_mapped(
            lines in proptest::collection::vec(
                ("(me|you|1000|7|#me|)", "(0|1|100000|4294967295|4294967296|-1|x|)", "(0|1|65536|4294967295|9{20}|)", "(:x)?"),
                0..8,
            ),
            noise in "\\PC{0,40}",
        ) {
            let mut text = noise;
            text.push('\n');
            for (owner, first, count, rest) in &lines {
                text.push_str(&format!("{owner}:{first}:{count}{rest}\n"));
            }
            let mine: Vec<(u32, u32)> = lines
                .iter()
                .filter(|(owner, ..)| owner == "me" || owner == "1000")
                .filter_map(|(_, first, count, _)| Some((first.parse().ok()?, count.parse().ok()?)))
                .filter(|&(first, count): &(u32, u32)| first > 0 && count > 0 && u64::from(first) + u64::from(count) <= u64::from(u32::MAX))
                .collect();
            let found = parse_subordinate(&text, "me", 1000);
            prop_assert_eq!(found.is_some(), !mine.is_empty());
            if let Some(range) = found {
                prop_assert!(mine.contains(&range));
                prop_assert!(mine.iter().all(|(_, count)| *count <= range.1));
            }
        }
    }

    #[test]
    fn two_sandboxes_never_share_a_range() {
        let directory = tempfile::tempdir().unwrap();
        // Two launchers know of each other through the locks alone.
        let launchers = [(); 2].map(|()| Ranges::open(directory.path()).unwrap());
        let ranges: Vec<Range> = (0..50).map(|n| launchers[n % 2].allot().unwrap()).collect();
        let mut bases: Vec<u32> = ranges.iter().map(|range| range.map.base).collect();
        bases.sort_unstable();
        bases.dedup();
        assert_eq!(bases.len(), 50);
        assert!(
            bases
                .iter()
                .all(|base| *base >= FIRST && *base < 0x7ffe_0000)
        );
    }

    #[test]
    fn a_range_that_is_given_back_is_free_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Ranges::open(directory.path()).unwrap());
        let range = one.allot().unwrap();
        let index = range.index;
        let free = || try_lock_byte(other.file.as_fd(), index).unwrap();
        assert!(!free());
        drop(range);
        assert!(free());
    }

    #[test]
    fn the_largest_subordinate_range_of_the_user_counts() {
        let text = "other:1:2\nme:100000:10\n1000:200000:65536\n# me\n";
        assert_eq!(parse_subordinate(text, "me", 1000), Some((200_000, 65_536)));
        assert_eq!(parse_subordinate(text, "nobody", 7), None);
        assert_eq!(first_free(text), 265_536);
        assert_eq!(first_free(""), 100_000);
    }
}
