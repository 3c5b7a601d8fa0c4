//! Memory, start and end of many sandboxes at once, and their bytes on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::resource::{Resource, getrlimit};
use tokio::task::JoinSet;

use super::machine::{field, kilobytes, read};
use super::phases::{Run, shell};
use super::rate::{died, entries};
use super::sample::filled;
use super::{Figure, OverheadError};
use crate::host::Sandbox;
use crate::spec::{Root, SandboxSpec, Upper};

/// Memory of the kernel that belongs to processes, mounts, namespaces and cgroups.
const KERNEL: [(&str, &str, &str); 4] = [
    ("PageTables", "pages", "page tables"),
    ("KernelStack", "stacks", "kernel stacks"),
    ("SUnreclaim", "slab", "slab that cannot be reclaimed"),
    ("Percpu", "percpu", "memory of each processor"),
];

/// Milliseconds until the last of so many has ended, or something is wrong.
const END: u16 = 60_000;

/// What is held at one moment, in kB.
struct Held {
    host: Option<u64>,
    processes: Option<u64>,
    kernel: [Option<u64>; 4],
    pids: usize,
    descriptors: usize,
}

impl Run<'_> {
    pub(super) async fn densities(&mut self) -> Result<(), OverheadError> {
        for &count in &self.options.density {
            Box::pin(self.density(count)).await?;
        }
        Ok(())
    }

    async fn density(&mut self, count: usize) -> Result<(), OverheadError> {
        filled(&self.launcher).await?;
        let before = Held::now();
        let (mut starts, mut sandboxes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let spec = self.unlike_others();
            let began = Instant::now();
            let sandbox = self.launcher.sandbox(spec).await?;
            starts.push(began.elapsed());
            shell(&sandbox, ":").await?;
            sandboxes.push(sandbox);
        }
        filled(&self.launcher).await?;
        let after = Held::now();
        let (gone, down) = all_down(sandboxes).await?;
        self.memory(count, &before, &after);
        let edge = (count / 20).max(20).min(count);
        let last = starts.split_off(count - edge);
        starts.truncate(edge);
        for (name, mut times) in [("first", starts), ("last", last)] {
            if !times.is_empty() {
                let what = format!("{count} at once: start of the {name} {edge}");
                let figure = Figure::times(format!("nth.{count}.{name}"), what, &mut times);
                self.figures.push(figure);
            }
        }
        let ends = [
            ("gone", "processes and mounts gone", gone),
            ("down", "cgroups and directories gone, too", Some(down)),
        ];
        for (key, what, time) in ends {
            let time = time.map(|time| {
                let (key, what) = (format!("{key}.{count}"), format!("{count} at once: {what}"));
                Figure::value(key, what, "s", count, time.as_secs_f64())
            });
            self.figures.extend(time);
        }
        Ok(())
    }

    fn memory(&mut self, count: usize, before: &Held, after: &Held) {
        let each = |before: Option<u64>, after: Option<u64>| {
            Some((after? as f64 - before? as f64) / count as f64)
        };
        let parts = [
            ("host", "in the host process", each(before.host, after.host)),
            (
                "pss",
                "PSS of its processes",
                each(before.processes, after.processes),
            ),
        ];
        let kernel = KERNEL.iter().zip(before.kernel.iter().zip(after.kernel));
        let kernel = kernel.map(|((_, key, what), (b, a))| (*key, *what, each(*b, a)));
        let mut sum = Some(0.0);
        for (key, what, value) in parts.into_iter().chain(kernel) {
            sum = sum.and_then(|sum: f64| Some(sum + value?));
            match value {
                Some(value) => self.figures.push(Figure::value(
                    format!("memory.{count}.{key}"),
                    format!("{count} idle with a shell: {what}, each"),
                    "kB",
                    count,
                    value,
                )),
                None => self.skip(&format!("{what} of {count}"), "this user may not read it"),
            }
        }
        self.room(count, sum, before, after);
        if let Some(sum) = sum {
            self.figures.push(Figure::value(
                format!("memory.{count}"),
                format!("{count} idle with a shell: all memory, each"),
                "MB",
                count,
                sum * 1024.0 / 1e6,
            ));
        }
    }

    /// How many sandboxes with a shell each limit of this host has room for, by what these took.
    fn room(&mut self, count: usize, kilobytes_each: Option<f64>, before: &Held, after: &Held) {
        let number = |path: &str| read(path).trim().parse::<f64>().ok();
        let each = |before: usize, after: usize| after.saturating_sub(before) as f64 / count as f64;
        // Terminals of all mounts but the first: Documentation/filesystems/devpts.rst.
        let reserved = number("/proc/sys/kernel/pty/reserve").unwrap_or_default();
        let ptys = number("/proc/sys/kernel/pty/max").map(|max| max - reserved);
        let open = getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(_, hard)| hard as f64);
        let memory = kilobytes("MemTotal").map(|total| total as f64);
        for (key, what, limit, each) in [
            ("ptys", "terminals (kernel.pty.max)", ptys, Some(1.0)),
            (
                "descriptors",
                "descriptors of one host process (RLIMIT_NOFILE)",
                open,
                Some(each(before.descriptors, after.descriptors)),
            ),
            (
                "pids",
                "processes (kernel.pid_max)",
                number("/proc/sys/kernel/pid_max"),
                Some(each(before.pids, after.pids)),
            ),
            ("memory", "memory of this machine", memory, kilobytes_each),
        ] {
            if let (Some(limit), Some(each)) = (limit, each.filter(|each| *each > 0.0)) {
                let what = format!("room for, by {what}");
                let figure = Figure::value(
                    format!("room.{count}.{key}"),
                    what,
                    "sandboxes",
                    count,
                    limit / each,
                );
                self.figures.push(figure);
            }
        }
    }

    /// Bytes that file systems hold for a sandbox in which nothing was written.
    pub(super) async fn disk(&mut self) -> Result<(), OverheadError> {
        let spec = self.options.spec.clone();
        self.disk_of("default", "disk a sandbox", spec.clone())
            .await?;
        if !nix::unistd::geteuid().is_root() {
            self.skip("disk of --upper disk", "its limit needs root");
            return Ok(());
        }
        let mut on_disk = spec;
        if let Root::Overlay { upper, .. } = &mut on_disk.root {
            *upper = Upper::Disk;
        }
        let what = "disk a sandbox with --upper disk";
        self.disk_of("upper", what, on_disk).await
    }

    async fn disk_of(
        &mut self,
        key: &str,
        what: &str,
        spec: SandboxSpec,
    ) -> Result<(), OverheadError> {
        // Many, for those that are made ahead are there in any number up to eight.
        const COUNT: usize = 50;
        let directories = [
            self.launcher.registry().directory().to_owned(),
            self.options.upper_directory.clone(),
        ];
        let held = || directories.iter().map(|d| allocated(d)).sum::<u64>();
        filled(&self.launcher).await?;
        let before = held();
        let mut sandboxes = Vec::new();
        for _ in 0..COUNT {
            sandboxes.push(self.launcher.sandbox(spec.clone()).await?);
        }
        filled(&self.launcher).await?;
        let bytes = held().saturating_sub(before);
        all_down(sandboxes).await?;
        let each = bytes as f64 / 1024.0 / COUNT as f64;
        let key = format!("disk.{key}");
        self.figures
            .push(Figure::value(key, what, "kB", COUNT, each));
        Ok(())
    }
}

/// Until the last PID 1 has ended, where so many can be watched, and until nothing of them is left.
async fn all_down(sandboxes: Vec<Sandbox>) -> Result<(Option<Duration>, Duration), OverheadError> {
    let watched: Option<Vec<_>> = sandboxes.iter().map(|one| one.pidfd().ok()).collect();
    let began = Instant::now();
    let watch = std::thread::spawn(move || {
        for pidfd in watched? {
            let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], END);
            ended.ok().filter(|ended| *ended == 1)?;
        }
        Some(began.elapsed())
    });
    let mut ends = JoinSet::new();
    for sandbox in sandboxes {
        ends.spawn(async move { Ok::<_, OverheadError>(sandbox.discard().await.map(|_| ())?) });
    }
    while let Some(joined) = ends.join_next().await {
        joined.map_err(died)??;
    }
    let down = began.elapsed();
    Ok((watch.join().unwrap_or_default(), down))
}

impl Held {
    fn now() -> Self {
        let own = std::process::id().cast_signed();
        let mut sum = Some(0);
        let all = descendants(own);
        for &pid in &all {
            // One that has just ended holds nothing.
            let alive = Path::new(&format!("/proc/{pid}")).exists();
            sum = sum.and_then(|sum| Some(sum + pss(pid).or((!alive).then_some(0))?));
        }
        Self {
            host: pss(own),
            processes: sum,
            kernel: KERNEL.map(|(name, ..)| kilobytes(name)),
            pids: all.len(),
            descriptors: entries("/proc/self/fd"),
        }
    }
}

fn pss(pid: i32) -> Option<u64> {
    field(&read(&format!("/proc/{pid}/smaps_rollup")), "Pss")
}

/// All processes that a process has started, and theirs.
fn descendants(of: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = read(&format!("/proc/{pid}/stat"));
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if let Some(parent) = after.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![of]);
    while let Some(pid) = open.pop() {
        let theirs = children.remove(&pid).unwrap_or_default();
        found.extend(&theirs);
        open.extend(theirs);
    }
    found
}

/// Bytes that the files below a directory occupy.
fn allocated(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.path().symlink_metadata().ok()?)))
        .map(|(path, found)| {
            let below = if found.is_dir() { allocated(&path) } else { 0 };
            found.blocks() * 512 + below
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_their_memory_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let found = descendants(std::process::id().cast_signed());
        assert!(found.contains(&pid), "{found:?}");
        assert!(pss(pid).is_some_and(|kb| kb > 0));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn holes_occupy_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = fs::File::create(directory.path().join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        fs::write(directory.path().join("full"), vec![1; 100_000]).unwrap();
        let bytes = allocated(directory.path());
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}
