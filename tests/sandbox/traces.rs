//! What a host process, its zygote and its sandboxes are, seen from outside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fixture::{Scene, alive};

/// Processes found by what they are rather than by whose child they are: parents change.
#[derive(Debug)]
pub(crate) struct Traces;

impl Traces {
    fn all() -> Vec<i32> {
        let entries = fs::read_dir("/proc").unwrap();
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    pub(crate) fn parent(pid: i32) -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ")
            .next()?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    }

    pub(crate) fn children(pid: i32) -> Vec<i32> {
        Self::all()
            .into_iter()
            .filter(|child| Self::parent(*child) == Some(pid) && alive(*child))
            .collect()
    }

    /// PID 1 of a sandbox and all that runs in it: its descendants, for orphans come to it.
    pub(crate) fn of_init(init: i32) -> Vec<i32> {
        let parents: BTreeMap<i32, i32> = Self::all()
            .into_iter()
            .filter_map(|pid| Some((pid, Self::parent(pid)?)))
            .collect();
        let mut found = vec![init];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(
                parents
                    .iter()
                    .filter(|(_, p)| **p == parent)
                    .map(|(pid, _)| *pid),
            );
            next += 1;
        }
        found
    }

    pub(crate) fn has_argument(pid: i32, word: &str) -> bool {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == word.as_bytes())
    }

    /// Living processes that run `program` (as zygote or PID 1 too) or have `marker` among their arguments.
    pub(crate) fn of(program: &Path, marker: &str) -> Vec<i32> {
        let wanted = fs::metadata(program).map(|m| (m.dev(), m.ino())).unwrap();
        let runs = |pid: &i32| {
            let exe = fs::metadata(format!("/proc/{pid}/exe")).ok();
            Self::has_argument(*pid, marker) || exe.is_some_and(|m| (m.dev(), m.ino()) == wanted)
        };
        Self::all()
            .into_iter()
            .filter(|pid| runs(pid) && alive(*pid))
            .collect()
    }
}

/// What belongs to one registry or one process, counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Own {
    processes: usize,
    zygote_descriptors: usize,
    mounts: Vec<String>,
    entries: Vec<PathBuf>,
    cgroups: Vec<PathBuf>,
    descriptors: usize,
}

impl Own {
    /// Of this process, in which no other test may run, and of its only zygote.
    pub(crate) fn count(scene: &Scene, zygote: i32) -> Self {
        let registry = scene.registry().directory();
        let entries = Self::entries(registry);
        Self {
            processes: Traces::of_init(own_pid()).len(),
            zygote_descriptors: descriptors(zygote),
            mounts: mounts(),
            cgroups: Self::cgroups(&entries),
            entries,
            descriptors: descriptors(own_pid()),
        }
    }

    /// Directories of sandboxes.
    pub(crate) fn entries(registry: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(registry.join("sandboxes")).unwrap();
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// The cgroups that they may have, as far as they exist.
    pub(crate) fn cgroups(entries: &[PathBuf]) -> Vec<PathBuf> {
        let noted = entries
            .iter()
            .filter_map(|entry| fs::read_to_string(entry.join("cgroups")).ok());
        let paths: Vec<PathBuf> = noted
            .flat_map(|text| text.lines().map(PathBuf::from).collect::<Vec<_>>())
            .collect();
        paths.into_iter().filter(|path| path.exists()).collect()
    }
}

/// Mounts of this process's namespace, the host's.
pub(crate) fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Open files of a process; without the network namespaces that a zygote holds ready, which come and
/// go, but are few.
fn descriptors(pid: i32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let (networks, others): (Vec<_>, Vec<_>) =
        targets.partition(|target| target.to_string_lossy().starts_with("net:"));
    assert!(networks.len() <= 9, "{} networks are held", networks.len());
    others.len()
}

pub(crate) fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

/// A line of our own `/proc/self/status` that counts memory (`VmRSS`, `VmHWM`), in bytes.
pub(crate) fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// Runs a test again in a process of its own, where no other starts and ends things; true in that process.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "LIS_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{output:?}");
    false
}
