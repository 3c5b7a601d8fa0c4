//! Memory, process and CPU limits through cgroups, version 1 or 2, where this process may make some.

mod detect;
mod events;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::Limits;
use crate::wire::CgroupEntry;
use detect::{v1, v2};
pub(super) use events::{Counts, Events};

/// The directory below our own cgroup, or below the top one, that holds those of all sandboxes.
const PARENT: &str = "llm-in-sandbox";
/// The directory beside it that holds our own processes: limits bind below cgroups without any.
const LEAF: &str = "host";

/// Where cgroups can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    hierarchy: Hierarchy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    None,
    /// One directory for each controller.
    V1 {
        memory: Option<PathBuf>,
        pids: Option<PathBuf>,
        cpu: Option<PathBuf>,
    },
    V2 {
        parent: PathBuf,
        controllers: Controllers,
    },
}

/// Which limits can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controllers {
    /// Memory and swap.
    pub memory: bool,
    /// Processes and threads.
    pub pids: bool,
    /// CPU time.
    pub cpu: bool,
    /// Version of the interface; 0 when there is none.
    pub version: u8,
}

/// One sandbox's cgroup, in each hierarchy; removed when dropped.
#[derive(Debug, Default)]
pub(super) struct Cgroup {
    /// Where each limit is enforced, once it is set.
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
    directories: Vec<PathBuf>,
    version: u8,
}

impl Cgroups {
    /// A host without.
    #[must_use]
    pub fn none() -> Self {
        Self {
            hierarchy: Hierarchy::None,
        }
    }

    /// Finds out what this process may use, by making its parent directories.
    #[must_use]
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let hierarchy = v2(&mounts, &own)
            .or_else(|| v1(&mounts, &own))
            .unwrap_or(Hierarchy::None);
        Self { hierarchy }
    }

    /// What can be limited.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        match &self.hierarchy {
            Hierarchy::None => Controllers {
                memory: false,
                pids: false,
                cpu: false,
                version: 0,
            },
            Hierarchy::V1 { memory, pids, cpu } => Controllers {
                memory: memory.is_some(),
                pids: pids.is_some(),
                cpu: cpu.is_some(),
                version: 1,
            },
            Hierarchy::V2 { controllers, .. } => *controllers,
        }
    }

    /// Every directory that [`Self::create`] may make for a sandbox.
    pub(super) fn places(&self, id: &str) -> Vec<PathBuf> {
        let parents = match &self.hierarchy {
            Hierarchy::None => Vec::new(),
            Hierarchy::V1 { memory, pids, cpu } => {
                [pids, memory, cpu].into_iter().flatten().collect()
            }
            Hierarchy::V2 { parent, .. } => vec![parent],
        };
        parents.into_iter().map(|parent| parent.join(id)).collect()
    }

    /// Makes the cgroup of a sandbox, which limits nothing yet.
    pub(super) fn create(&self, id: &str) -> io::Result<Cgroup> {
        let mut cgroup = Cgroup::default();
        cgroup.version = self.controllers().version;
        match &self.hierarchy {
            Hierarchy::None => {}
            Hierarchy::V1 { memory, pids, cpu } => {
                for (parent, limited) in [
                    (pids, &mut cgroup.pids),
                    (memory, &mut cgroup.memory),
                    // Without a quota, too: a group of its own gives it the weight of one sandbox,
                    // however many threads it has. Version 2 does so by itself.
                    (cpu, &mut cgroup.cpu),
                ] {
                    if let Some(parent) = parent {
                        *limited = Some(make(parent, id, &mut cgroup.directories)?);
                    }
                }
            }
            Hierarchy::V2 {
                parent,
                controllers,
            } => {
                let directory = make(parent, id, &mut cgroup.directories)?;
                let limited = |enabled: bool| enabled.then(|| directory.clone());
                cgroup.memory = limited(controllers.memory);
                cgroup.pids = limited(controllers.pids);
                cgroup.cpu = limited(controllers.cpu);
            }
        }
        Ok(cgroup)
    }
}

fn make(parent: &Path, id: &str, made: &mut Vec<PathBuf>) -> io::Result<PathBuf> {
    let directory = parent.join(id);
    fs::create_dir(&directory)?;
    made.push(directory.clone());
    Ok(directory)
}

const PERIOD_US: u64 = 100_000;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a number of CPUs is small and positive; `as` saturates"
)]
fn quota_us(cpus: f64) -> u64 {
    // The kernel refuses quotas below 1 ms.
    ((cpus * PERIOD_US as f64) as u64).max(1000)
}

impl Cgroup {
    /// Writes the limits that can be set here, and forgets where none is.
    pub(super) fn limit(&mut self, limits: &Limits) -> io::Result<()> {
        let limited = |directory: &mut Option<PathBuf>, wanted: bool| {
            *directory = directory.take().filter(|_| wanted);
            directory.clone()
        };
        if let (Some(directory), Some(bytes)) = (
            limited(&mut self.memory, limits.memory_bytes.is_some()),
            limits.memory_bytes,
        ) {
            self.limit_memory(&directory, bytes)?;
        }
        if let (Some(directory), Some(pids)) =
            (limited(&mut self.pids, limits.pids.is_some()), limits.pids)
        {
            // PID 1 of the sandbox counts, too.
            write(&directory, "pids.max", &(pids + 1).to_string())?;
        }
        if let (Some(directory), Some(cpus)) =
            (limited(&mut self.cpu, limits.cpus.is_some()), limits.cpus)
        {
            let quota = quota_us(cpus).to_string();
            if self.version == 2 {
                write(&directory, "cpu.max", &format!("{quota} {PERIOD_US}"))?;
            } else {
                write(&directory, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                write(&directory, "cpu.cfs_quota_us", &quota)?;
            }
        }
        Ok(())
    }

    /// Files about swap exist only where the kernel accounts it; then memory alone is no limit.
    fn limit_memory(&self, directory: &Path, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        let (memory, swap, swapped) = if self.version == 2 {
            ("memory.max", "memory.swap.max", "0")
        } else {
            (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                bytes.as_str(),
            )
        };
        write(directory, memory, &bytes)?;
        if directory.join(swap).exists() {
            write(directory, swap, swapped)?;
        }
        Ok(())
    }

    /// How a process gets in, and the descriptors for it.
    pub(super) fn entry(&self) -> io::Result<(CgroupEntry, Vec<OwnedFd>)> {
        match self.version {
            1 => {
                let tasks = self.directories.iter().map(|directory| {
                    let tasks = directory.join("tasks");
                    File::options().write(true).open(tasks).map(OwnedFd::from)
                });
                Ok((CgroupEntry::Writes, tasks.collect::<io::Result<_>>()?))
            }
            2 => {
                let directories = self
                    .directories
                    .iter()
                    .map(|d| File::open(d).map(OwnedFd::from));
                Ok((CgroupEntry::Born, directories.collect::<io::Result<_>>()?))
            }
            _ => Ok((CgroupEntry::None, Vec::new())),
        }
    }

    /// What the kernel counts in it.
    pub(super) fn events(&self) -> Events {
        let [memory, pids, cpu] = [&self.memory, &self.pids, &self.cpu].map(Clone::clone);
        Events::new(memory, pids, cpu)
    }

    /// Its directories that are still there, and the processes in them.
    pub(super) fn left(&self) -> (u64, u64) {
        let there = self.directories.iter().filter(|group| group.exists());
        there.fold((0, 0), |(groups, processes), group| {
            let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            (groups + 1, processes.max(inside.lines().count() as u64))
        })
    }

    /// Removes it: succeeds only when none of its processes is left. What can go, goes.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        let mut failed = Ok(());
        self.directories.retain(|directory| {
            let removed = remove(directory);
            let stays = removed.is_err();
            failed = std::mem::replace(&mut failed, Ok(())).and(removed);
            stays
        });
        failed
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// Removes one cgroup; one that is gone already is no error.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write(directory: &Path, name: &str, value: &str) -> io::Result<()> {
    let path = directory.join(name);
    fs::write(&path, value).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("write {value} to {}: {e}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let temporary = tempfile::tempdir().unwrap();
        let parent = temporary.path().to_path_buf();
        let controllers = Controllers {
            memory: true,
            pids: true,
            cpu: true,
            version: 2,
        };
        // What is noted for the clean-up is what is made.
        let cgroups = Cgroups {
            hierarchy: Hierarchy::V2 {
                parent: parent.clone(),
                controllers,
            },
        };
        let limits = Limits {
            cpus: Some(1.5),
            ..Limits::default()
        };
        let mut cgroup = cgroups.create("a").unwrap();
        cgroup.limit(&limits).unwrap();
        assert_eq!(cgroups.places("a"), cgroup.directories);
        let read = |name: &str| fs::read_to_string(parent.join("a").join(name)).unwrap();
        assert_eq!(read("memory.max"), "2147483648");
        assert_eq!(read("pids.max"), "513");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(cgroup.entry().unwrap().0, CgroupEntry::Born);
    }
}
