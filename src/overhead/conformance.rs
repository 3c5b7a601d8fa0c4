//! The walls and limits of what is timed, looked at from inside and from the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::Serialize;

use super::OverheadError;
use super::machine::{field, read};
use crate::env::{Env, ExecRequest};
use crate::host::{Launcher, Sandbox};
use crate::plan::CAPABILITIES;
use crate::spec::Limits;

const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

/// Prints `NAME:VALUE` lines, those of `/proc/self/status` among them.
pub(super) const LOOK: &str = r#"
for n in user mnt pid ipc uts net cgroup; do echo "ns/$n:$(readlink /proc/self/ns/$n)"; done
cat /proc/self/status
echo "routes:$(tail -n +2 /proc/net/route | wc -l)"
echo "devices:$(tail -n +3 /proc/net/dev | wc -l)"
echo "root:$(stat -f -c '%T %b %S %c' /)"
echo "files:$(ulimit -n)"
"#;

/// One configuration that may be timed.
#[derive(Debug, Clone, Serialize)]
pub struct Conformance {
    /// What it is.
    pub configuration: String,
    /// What was seen; of a sandbox of ours all hold.
    pub walls: Vec<Wall>,
    /// Limits that this host cannot enforce.
    pub unenforced: Vec<String>,
}

/// A wall or limit, and what was seen of it.
#[derive(Debug, Clone, Serialize)]
pub struct Wall {
    /// Which.
    pub name: String,
    /// Value.
    pub seen: String,
    /// Whether it is what it has to be.
    pub holds: bool,
}

impl Wall {
    fn new(name: impl Into<String>, seen: impl Into<String>, holds: bool) -> Self {
        Self {
            name: name.into(),
            seen: seen.into(),
            holds,
        }
    }
}

impl Conformance {
    /// Looks at a running sandbox.
    ///
    /// # Errors
    /// It lacks a wall.
    pub(super) async fn of(
        launcher: &Launcher,
        sandbox: &Sandbox,
        configuration: &str,
    ) -> Result<Self, OverheadError> {
        let look = ExecRequest::new(["sh", "-c", LOOK]);
        let seen = sandbox.exec(&look).await?.stdout.head;
        let in_force = sandbox.in_force();
        let mut walls = inside(&String::from_utf8_lossy(&seen), &in_force.limits);
        let landlock = sandbox.walls().landlock;
        walls.push(Wall::new("Landlock", format!("version {landlock}"), true));
        let all = launcher.registry().list()?;
        let entry = all.iter().find(|entry| entry.id == sandbox.id());
        if let Some(pid) = entry.and_then(|entry| entry.init_pid) {
            walls.extend(nobody_outside(pid));
            walls.extend(in_cgroups(pid, &in_force.limits, &in_force.unenforced));
        }
        Self::when_all_hold(configuration, walls, in_force.unenforced.clone())
    }

    /// Looks at what `exec` starts, with its own report of limits.
    pub(super) fn of_exec(program: &Path) -> Result<Self, OverheadError> {
        let name = "exec as a process";
        let output = Command::new(program)
            .args(["exec", "--json", "--", "sh", "-c", LOOK])
            .stdin(Stdio::null())
            .output()
            .map_err(OverheadError::io(name))?;
        let walls = inside(&String::from_utf8_lossy(&output.stderr), &Limits::default());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| OverheadError::Failed(name.into(), e.to_string()))?;
        let unenforced = report.pointer("/limits/unenforced").cloned();
        let unenforced = serde_json::from_value(unenforced.unwrap_or_default())
            .map_err(|e| OverheadError::Failed(name.into(), e.to_string()))?;
        Self::when_all_hold(name, walls, unenforced)
    }

    /// What a peer has of the same, for the record.
    pub(super) fn of_peer(name: &str, seen: &str) -> Self {
        Self {
            configuration: name.into(),
            walls: inside(seen, &Limits::default()),
            unenforced: Vec::new(),
        }
    }

    /// Those that it lacks, or has in another form.
    pub(super) fn missing(&self) -> Vec<&Wall> {
        self.walls.iter().filter(|wall| !wall.holds).collect()
    }

    fn when_all_hold(
        configuration: &str,
        walls: Vec<Wall>,
        unenforced: Vec<String>,
    ) -> Result<Self, OverheadError> {
        if let Some(missing) = walls.iter().find(|wall| !wall.holds) {
            return Err(OverheadError::Wall {
                configuration: configuration.into(),
                wall: format!("{} is {:?}", missing.name, missing.seen),
            });
        }
        Ok(Self {
            configuration: configuration.into(),
            walls,
            unenforced,
        })
    }
}

/// What can be seen from inside.
fn inside(text: &str, limits: &Limits) -> Vec<Wall> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let seen: BTreeMap<&str, &str> = lines.map(|(k, v)| (k, v.trim())).collect();
    let get = |name: &str| (*seen.get(name).unwrap_or(&"")).to_owned();
    let mut walls = Vec::new();
    for name in NAMESPACES {
        let theirs = get(&format!("ns/{name}"));
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
        let own = !theirs.is_empty() && *theirs != *ours.to_string_lossy();
        walls.push(Wall::new(format!("{name} namespace"), theirs, own));
    }
    let is = |name: &str, field: &str, wanted: &str| {
        let value = get(field);
        let holds = value == wanted;
        Wall::new(name, value, holds)
    };
    walls.push(is("seccomp mode", "Seccomp", "2"));
    walls.push(is("no_new_privs", "NoNewPrivs", "1"));
    let few = format!("{:016x}", capability_mask());
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        walls.push(is(set, set, &few));
    }
    walls.push(is("CapAmb", "CapAmb", "0000000000000000"));
    walls.push(is("routes", "routes", "0"));
    walls.push(is("network devices", "devices", "1"));
    walls.push(is("open files", "files", &limits.open_files.to_string()));
    let root = get("root");
    let holds = root_is_bounded(&root, limits);
    walls.push(Wall::new("root file system", root, holds));
    walls
}

/// `TYPE BLOCKS SIZE FILES` of an overlay, whose numbers are those of its writable layer.
fn root_is_bounded(seen: &str, limits: &Limits) -> bool {
    let mut parts = seen.split(' ');
    let overlay = parts.next().is_some_and(|kind| kind.starts_with("overlay"));
    let mut number = || -> Option<u64> { parts.next()?.parse().ok() };
    let (Some(blocks), Some(size), Some(files)) = (number(), number(), number()) else {
        return false;
    };
    let within = |limit: Option<u64>, value: u64| limit.is_none_or(|limit| value <= limit);
    overlay && within(limits.disk_bytes, blocks * size) && within(limits.inodes, files)
}

fn capability_mask() -> u64 {
    let known = CAPABILITIES
        .iter()
        .filter_map(|name| caps::Capability::from_str(name).ok());
    known.map(|capability| capability.bitmask()).sum()
}

/// Root inside is not root outside; an ordinary user is himself in any case.
fn nobody_outside(pid: i32) -> Option<Wall> {
    let status = read(&format!("/proc/{pid}/status"));
    let uid = field(&status, "Uid")?;
    nix::unistd::getuid()
        .is_root()
        .then(|| Wall::new("user outside", uid.to_string(), uid != 0))
}

/// The limits that cgroups enforce, read where the kernel keeps them; not those that the host cannot.
fn in_cgroups(pid: i32, limits: &Limits, unenforced: &[String]) -> Vec<Wall> {
    let wanted = [
        (
            "memory",
            limits.memory_bytes,
            ["memory.limit_in_bytes", "memory.max"],
        ),
        ("pids", limits.pids, ["pids.max", "pids.max"]),
    ];
    let mut walls = Vec::new();
    for (controller, limit, names) in wanted {
        let Some(limit) = limit else { continue };
        if unenforced.iter().any(|name| name.starts_with(controller)) {
            continue;
        }
        let seen = cgroup_file(pid, controller, names).unwrap_or_default();
        // A slot may hold a process of ours beside them.
        let holds = seen
            .parse()
            .is_ok_and(|seen: u64| (limit..=limit + 16).contains(&seen));
        walls.push(Wall::new(format!("{controller} limit"), seen, holds));
    }
    walls
}

/// A file in the cgroup of a process: its name in version 1 or in version 2.
fn cgroup_file(pid: i32, controller: &str, [one, two]: [&str; 2]) -> Option<String> {
    let places = read(&format!("/proc/{pid}/cgroup"));
    for line in read("/proc/self/mounts").lines() {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        let (name, own) = match kind {
            "cgroup" if options.split(',').any(|o| o == controller) => (one, controller),
            "cgroup2" => (two, ""),
            _ => continue,
        };
        let place = places.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let path = parts.next()?;
            controllers.split(',').any(|c| c == own).then_some(path)
        });
        let Some(place) = place else { continue };
        if let Ok(text) = fs::read_to_string(format!("{at}{place}/{name}")) {
            return Some(text.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> String {
        let spaces = NAMESPACES.map(|name| format!("ns/{name}:{name}:[1]\n"));
        let mask = format!("{:016x}", capability_mask());
        format!(
            "{}CapPrm:\t{mask}\nCapEff:\t{mask}\nCapBnd:\t{mask}\nCapAmb:\t0000000000000000\n\
             NoNewPrivs:\t1\nSeccomp:\t2\nroutes:0\ndevices:1\nroot:overlayfs 262144 4096 200000\nfiles:4096\n",
            spaces.concat()
        )
    }

    #[test]
    fn each_wall_that_is_missing_is_seen() {
        let limits = Limits::default();
        let holds = |text: &str| inside(text, &limits).iter().all(|wall| wall.holds);
        assert!(holds(&sound()), "{:?}", inside(&sound(), &limits));
        let host = fs::read_link("/proc/self/ns/net").unwrap();
        let worse = [
            ("net:[1]", &*host.to_string_lossy()),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("CapEff:\t0", "CapEff:\tf"),
            ("CapBnd:\t0", "CapBnd:\tf"),
            ("routes:0", "routes:1"),
            ("devices:1", "devices:2"),
            ("overlayfs 262144", "overlayfs 262145"),
            ("overlayfs", "ext2/ext3"),
            ("200000", "200001"),
            ("files:4096", "files:20000"),
            ("files:4096", ""),
        ];
        for (good, bad) in worse {
            let text = sound().replace(good, bad);
            assert_ne!(text, sound(), "{good}");
            assert!(!holds(&text), "{good} -> {bad}");
        }
        assert!(!holds(""));
    }
}
