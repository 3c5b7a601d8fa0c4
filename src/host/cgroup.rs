//! Memory, process and CPU limits through cgroups, version 1 or 2, where this process may make some.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::Limits;
use crate::wire::CgroupEntry;

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
#[derive(Debug)]
pub(super) struct Cgroup {
    memory: Option<PathBuf>,
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

    /// Makes the cgroup of a sandbox with its limits written; what cannot be limited is left out.
    pub(super) fn create(&self, id: &str, limits: &Limits) -> io::Result<Cgroup> {
        let mut cgroup = Cgroup {
            memory: None,
            directories: Vec::new(),
            version: self.controllers().version,
        };
        // PID 1 of the sandbox counts, too.
        let pids = limits.pids.map(|pids| (pids + 1).to_string());
        match &self.hierarchy {
            Hierarchy::None => {}
            Hierarchy::V1 {
                memory,
                pids: pids_parent,
                cpu,
            } => {
                if let (Some(parent), Some(pids)) = (pids_parent, pids) {
                    let directory = cgroup.make(parent, id)?;
                    write(&directory, "pids.max", &pids)?;
                }
                if let (Some(parent), Some(bytes)) = (memory, limits.memory_bytes) {
                    let directory = cgroup.make(parent, id)?;
                    write(&directory, "memory.limit_in_bytes", &bytes.to_string())?;
                    // Exists only where the kernel accounts swap; then memory alone is no limit.
                    if directory.join("memory.memsw.limit_in_bytes").exists() {
                        write(
                            &directory,
                            "memory.memsw.limit_in_bytes",
                            &bytes.to_string(),
                        )?;
                    }
                    cgroup.memory = Some(directory);
                }
                if let (Some(parent), Some(cpus)) = (cpu, limits.cpus) {
                    let directory = cgroup.make(parent, id)?;
                    write(&directory, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    write(&directory, "cpu.cfs_quota_us", &quota_us(cpus).to_string())?;
                }
            }
            Hierarchy::V2 {
                parent,
                controllers,
            } => {
                let directory = cgroup.make(parent, id)?;
                if let (true, Some(bytes)) = (controllers.memory, limits.memory_bytes) {
                    write(&directory, "memory.max", &bytes.to_string())?;
                    if directory.join("memory.swap.max").exists() {
                        write(&directory, "memory.swap.max", "0")?;
                    }
                    cgroup.memory = Some(directory.clone());
                }
                if let (true, Some(pids)) = (controllers.pids, pids) {
                    write(&directory, "pids.max", &pids)?;
                }
                if let (true, Some(cpus)) = (controllers.cpu, limits.cpus) {
                    write(
                        &directory,
                        "cpu.max",
                        &format!("{} {PERIOD_US}", quota_us(cpus)),
                    )?;
                }
            }
        }
        Ok(cgroup)
    }
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
    fn make(&mut self, parent: &Path, id: &str) -> io::Result<PathBuf> {
        let directory = parent.join(id);
        fs::create_dir(&directory)?;
        self.directories.push(directory.clone());
        Ok(directory)
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

    /// The most memory its processes ever held at once, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        let directory = self.memory.as_ref()?;
        ["memory.peak", "memory.max_usage_in_bytes"]
            .iter()
            .find_map(|name| {
                fs::read_to_string(directory.join(name))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            })
    }

    /// Removes it: succeeds only when none of its processes is left.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        while let Some(directory) = self.directories.last() {
            remove(directory)?;
            self.directories.pop();
        }
        Ok(())
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

/// Mount point and root of the mounts of a type: of a hierarchy with `controller` among its options (version 1).
fn mount_point(mounts: &str, fstype: &str, controller: Option<&str>) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        if after.next()? != fstype {
            return None;
        }
        let options = after.nth(1)?;
        if controller.is_some_and(|wanted| !options.split(',').any(|option| option == wanted)) {
            return None;
        }
        before.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Our own cgroup, of `/proc/self/cgroup`: of version 2 for `None`.
fn own_path<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let ours = match controller {
            None => names.is_empty(),
            Some(wanted) => names.split(',').any(|name| name == wanted),
        };
        ours.then_some(path.trim_start_matches('/'))
    })
}

fn v1(mounts: &str, own: &str) -> Option<Hierarchy> {
    let parent = |controller: &str| {
        let mount = mount_point(mounts, "cgroup", Some(controller))?;
        let parent = mount.join(own_path(own, Some(controller))?).join(PARENT);
        usable(&parent).then_some(parent)
    };
    let (memory, pids, cpu) = (parent("memory"), parent("pids"), parent("cpu"));
    let any = memory.is_some() || pids.is_some() || cpu.is_some();
    any.then_some(Hierarchy::V1 { memory, pids, cpu })
}

fn v2(mounts: &str, own: &str) -> Option<Hierarchy> {
    let mount = mount_point(mounts, "cgroup2", None)?;
    // Processes may live only in leaves: our sandboxes cannot be below our own cgroup unless it was
    // delegated to us with nobody else in it. Root uses the top.
    let home = if nix::unistd::geteuid().is_root() {
        mount
    } else {
        let own = mount.join(own_path(own, None)?);
        match own.parent() {
            // An earlier launcher of this process, or of one that has started us, has moved us here.
            Some(home) if own.ends_with(LEAF) && home.join(PARENT).is_dir() => home.to_owned(),
            _ => {
                make_leaf(&own).ok()?;
                own
            }
        }
    };
    enable(&home);
    let parent = home.join(PARENT);
    if !usable(&parent) {
        return None;
    }
    enable(&parent);
    let offered = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |name: &str| offered.split_whitespace().any(|offer| offer == name);
    let controllers = Controllers {
        memory: has("memory"),
        pids: has("pids"),
        cpu: has("cpu"),
        version: 2,
    };
    (controllers.memory || controllers.pids).then_some(Hierarchy::V2 {
        parent,
        controllers,
    })
}

/// Moves this process into a leaf of its own delegated cgroup.
fn make_leaf(home: &Path) -> io::Result<()> {
    let leaf = home.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())
}

fn enable(directory: &Path) {
    for controller in ["+memory", "+pids", "+cpu"] {
        // One that is not there, or not ours, is found missing afterwards.
        let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
    }
}

fn usable(parent: &Path) -> bool {
    match fs::create_dir(parent) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).is_ok()
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
37 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user.slice\n";

    #[test]
    fn hierarchies_are_found_by_type_and_controller() {
        let at = |fstype, controller| mount_point(MOUNTS, fstype, controller);
        assert_eq!(at("cgroup", Some("cpu")), Some("/sys/fs/cgroup/cpu".into()));
        assert_eq!(
            at("cgroup", Some("memory")),
            Some("/sys/fs/cgroup/memory".into())
        );
        assert_eq!(at("cgroup2", None), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(at("cgroup", Some("pids")), None);
        assert_eq!(own_path(OWN, Some("cpu")), Some(""));
        assert_eq!(own_path(OWN, Some("memory")), Some("a/b"));
        assert_eq!(own_path(OWN, None), Some("user.slice"));
    }

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
        let cgroup = cgroups.create("a", &limits).unwrap();
        assert_eq!(cgroups.places("a"), cgroup.directories);
        let read = |name: &str| fs::read_to_string(parent.join("a").join(name)).unwrap();
        assert_eq!(read("memory.max"), "2147483648");
        assert_eq!(read("pids.max"), "513");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(cgroup.entry().unwrap().0, CgroupEntry::Born);
    }
}
