//! What the kernel counts of a sandbox: the evidence that a limit struck.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Sums since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::host) struct Counts {
    /// Processes killed for want of memory, by whomever.
    pub(in crate::host) killed: u64,
    /// Processes and threads refused.
    pub(in crate::host) refused: u64,
    /// Periods in which the CPU quota held something back.
    pub(in crate::host) throttled: u64,
    /// For how long, in microseconds, summed over CPUs.
    pub(in crate::host) throttled_us: u64,
}

impl Counts {
    /// What came since `before`.
    pub(in crate::host) fn since(self, before: Self) -> Self {
        Self {
            killed: self.killed.saturating_sub(before.killed),
            refused: self.refused.saturating_sub(before.refused),
            throttled: self.throttled.saturating_sub(before.throttled),
            throttled_us: self.throttled_us.saturating_sub(before.throttled_us),
        }
    }
}

/// A sandbox's counters, by the directories of its cgroups. No file stays open: with two thousand sandboxes three descriptors for
/// each are more than many a host allows, and to open one takes 2 µs.
#[derive(Debug, Default)]
pub(in crate::host) struct Events {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Events {
    pub(super) fn new(
        memory: Option<PathBuf>,
        pids: Option<PathBuf>,
        cpu: Option<PathBuf>,
    ) -> Self {
        Self { memory, pids, cpu }
    }

    /// Reads all counters; one that the kernel does not have stays 0.
    pub(in crate::host) fn read(&self) -> Counts {
        // Version 1, version 2.
        let memory = first(
            self.memory.as_deref(),
            &["memory.oom_control", "memory.events"],
        );
        let cpu = first(self.cpu.as_deref(), &["cpu.stat"]);
        Counts {
            killed: value(&memory, "oom_kill"),
            refused: match value(&first(self.pids.as_deref(), &["pids.events"]), "max") {
                0 => 0,
                refused => self.refused(refused),
            },
            throttled: value(&cpu, "nr_throttled"),
            // Version 1 counts nanoseconds.
            throttled_us: value(&cpu, "throttled_usec") + value(&cpu, "throttled_time") / 1000,
        }
    }

    /// Whether the kernel ever found the memory limit itself in the way. Where it never did and processes
    /// are killed, it was the host that had no memory left.
    ///
    /// Version 1: `memory.failcnt` would say it, but some kernels (6.18) leave it at 0. Memory is counted in
    /// batches, so that the last refused one ends a little below the limit.
    pub(in crate::host) fn was_at_memory_limit(&self) -> bool {
        const BATCHES: u64 = 4 << 20;
        let events = first(self.memory.as_deref(), &["memory.events"]);
        let names = ["memory.max_usage_in_bytes", "memory.limit_in_bytes"];
        let at_limit =
            |[most, limit]: [u64; 2]| limit > 0 && most + BATCHES.min(limit / 8) >= limit;
        value(&events, "oom") > 0 || numbers(self.memory.as_deref(), names).is_some_and(at_limit)
    }

    /// The most memory its processes ever held at once, in bytes.
    pub(in crate::host) fn peak_memory(&self) -> Option<u64> {
        let peak = first(
            self.memory.as_deref(),
            &["memory.peak", "memory.max_usage_in_bytes"],
        );
        peak.trim().parse().ok()
    }

    /// Processes and threads that live.
    pub(in crate::host) fn processes(&self) -> Option<u64> {
        first(self.pids.as_deref(), &["pids.current"])
            .trim()
            .parse()
            .ok()
    }

    /// Version 1, and version 2 before Linux 6.12, also count here what a limit above refused: where
    /// there never were as many as ours allows (Linux 6.6 tells), it was not ours.
    fn refused(&self, counted: u64) -> u64 {
        match numbers(self.pids.as_deref(), ["pids.peak", "pids.max"]) {
            Some([most, limit]) if most < limit => 0,
            _ => counted,
        }
    }
}

fn numbers(directory: Option<&Path>, names: [&str; 2]) -> Option<[u64; 2]> {
    let [one, two] = names.map(|name| first(directory, &[name]));
    let number = |text: String| (!text.is_empty()).then(|| text.trim().parse().unwrap_or(0));
    Some([number(one)?, number(two)?])
}

/// The first of these files that is there; nothing when none is. Two readings a call of the shell: no more system calls than it takes.
fn first(directory: Option<&Path>, names: &[&str]) -> String {
    let mut files = names.iter().filter_map(|name| {
        let path = directory?.join(name);
        File::open(path).ok()
    });
    let mut buffer = [0; 1024];
    let count = files
        .next()
        .and_then(|file| file.read_at(&mut buffer, 0).ok());
    let bytes = buffer.get(..count.unwrap_or(0)).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// Of a line `NAME VALUE`.
fn value(text: &str, name: &str) -> u64 {
    let of_line = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(of_line).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn both_versions_of_the_files_are_read_and_differences_taken() {
        let two = tempfile::tempdir().unwrap();
        let one = tempfile::tempdir().unwrap();
        let put = |directory: &tempfile::TempDir, name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
        };
        put(
            &two,
            "memory.events",
            "low 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n",
        );
        put(&two, "pids.events", "max 5\n");
        put(
            &two,
            "cpu.stat",
            "usage_usec 9\nnr_throttled 4\nthrottled_usec 800\n",
        );
        put(
            &one,
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        put(&one, "memory.max_usage_in_bytes", "1073700000\n");
        put(&one, "memory.limit_in_bytes", "1073741824\n");
        put(&one, "pids.events", "max 5\n");
        put(
            &one,
            "cpu.stat",
            "nr_periods 9\nnr_throttled 4\nthrottled_time 800000\n",
        );
        let expected = Counts {
            killed: 2,
            refused: 5,
            throttled: 4,
            throttled_us: 800,
        };
        for directory in [&two, &one] {
            let path = || Some(directory.path().to_path_buf());
            let events = Events::new(path(), path(), path());
            let before = events.read();
            assert_eq!(before, expected);
            assert!(events.was_at_memory_limit());
            put(directory, "pids.events", "max 6\n");
            let since = events.read().since(before);
            assert_eq!((since.refused, since.killed), (1, 0));
        }
        // Killed far below it: the host's memory was used up.
        put(&one, "memory.max_usage_in_bytes", "4096\n");
        let path = Some(one.path().to_path_buf());
        assert!(!Events::new(path, None, None).was_at_memory_limit());
        // Refused by a limit above.
        put(&one, "pids.peak", "3\n");
        put(&one, "pids.max", "513\n");
        let path = || Some(one.path().to_path_buf());
        assert_eq!(Events::new(None, path(), None).read().refused, 0);
        put(&one, "pids.peak", "513\n");
        assert_eq!(Events::new(None, path(), None).read().refused, 6);
        assert_eq!(Events::default().read(), Counts::default());
    }
}
