//! The samples of a run: names, keys and seeds follow from the configuration, whatever the order of the work.

use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use crate::task::{self, Task};

/// Longest part of a name that comes from an id.
const MAX_NAME: usize = 100;

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Place of its row.
    pub row: usize,
    /// From 0.
    pub repeat: u32,
    /// What its results are found by.
    pub key: String,
    /// Its name among files.
    pub name: String,
    /// Sampling seed.
    pub seed: Option<u64>,
}

/// All samples of a run or of its shard, by repeat and row.
#[must_use]
pub fn jobs(task: &Task, manifest: &Manifest) -> Vec<Job> {
    let config = &manifest.config;
    let digest = config.digest();
    let one = |repeat: u32, at: usize, id: &str| Job {
        row: at,
        repeat,
        key: task::hex(&hash(&[&digest, id, &repeat.to_string()])[..12]),
        name: name(id, repeat),
        seed: config.sampling.seed.map(|run| seed(run, id, repeat)),
    };
    (0..config.repeat.max(1))
        .flat_map(|repeat| {
            let rows = task.rows.iter().enumerate();
            rows.map(move |(at, row)| (repeat, at, row.id()))
        })
        .enumerate()
        .filter(|(place, _)| {
            let shard = manifest.shard;
            shard.is_none_or(|shard| place % shard.of.max(1) + 1 == shard.number)
        })
        .map(|(_, (repeat, at, id))| one(repeat, at, id))
        .collect()
}

/// 31 bits, which every server takes.
fn seed(run: u64, id: &str, repeat: u32) -> u64 {
    let hash = hash(&[&run.to_string(), id, &repeat.to_string()]);
    let four = [hash[0], hash[1], hash[2], hash[3]];
    u64::from(u32::from_be_bytes(four) >> 1)
}

fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().into()
}

/// A file name for the first sample of this id.
#[must_use]
pub fn file_name(id: &str) -> String {
    name(id, 0)
}

/// A file name for an id: letters, digits and `._-` stay; anything else is replaced, and a digest keeps names apart.
pub(crate) fn name(id: &str, repeat: u32) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let plain: String = id
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .take(MAX_NAME)
        .collect();
    let mut name = if plain == id && !id.starts_with('.') && !id.is_empty() {
        plain
    } else {
        let digest = task::hex(&hash(&[id])[..4]);
        format!("{}~{digest}", plain.trim_start_matches('.'))
    };
    if repeat > 0 {
        name = format!("{name}#{}", u64::from(repeat) + 1);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_and_apart() {
        assert_eq!(name("aime25_1-0.x", 0), "aime25_1-0.x");
        assert_eq!(name("a", 1), "a#2");
        for id in ["../x", "..", ".", "a/b", "", "ä", "a#2"] {
            let name = name(id, 0);
            assert!(
                !name.contains('/') && !name.starts_with('.') && name.contains('~'),
                "{name}"
            );
        }
        assert_ne!(name("a/b", 0), name("a:b", 0));
        assert!(name(&"x".repeat(5000), 3).len() < 120);
    }

    #[test]
    fn seeds_follow_from_run_row_and_repeat() {
        let seeds = [
            seed(1, "a", 0),
            seed(1, "a", 1),
            seed(1, "b", 0),
            seed(2, "a", 0),
        ];
        let apart: std::collections::BTreeSet<_> = seeds.iter().collect();
        assert_eq!(apart.len(), 4);
        assert_eq!(seed(1, "a", 0), seeds[0]);
        assert!(seeds.iter().all(|seed| *seed < 1 << 31));
    }
}
