//! Which hierarchies there are, and where in them cgroups may be made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Controllers, Hierarchy, LEAF, PARENT};

/// The controllers that the children of a cgroup have.
const SUBTREE: &str = "cgroup.subtree_control";

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

pub(super) fn v1(mounts: &str, own: &str) -> Option<Hierarchy> {
    let parent = |controller: &str| {
        let mount = mount_point(mounts, "cgroup", Some(controller))?;
        let parent = mount.join(own_path(own, Some(controller))?).join(PARENT);
        usable(&parent).then_some(parent)
    };
    let (memory, pids, cpu) = (parent("memory"), parent("pids"), parent("cpu"));
    let any = memory.is_some() || pids.is_some() || cpu.is_some();
    any.then_some(Hierarchy::V1 { memory, pids, cpu })
}

pub(super) fn v2(mounts: &str, own: &str) -> Option<Hierarchy> {
    let mount = mount_point(mounts, "cgroup2", None)?;
    // On a hybrid host version 1 has the controllers: nothing is to be made here then.
    if !["memory", "pids"]
        .iter()
        .any(|name| lists(&mount, "cgroup.controllers", name))
    {
        return None;
    }
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
    let has = |name: &str| lists(&parent, SUBTREE, name);
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

/// Whether a file of a cgroup lists a controller.
fn lists(directory: &Path, file: &str, controller: &str) -> bool {
    let listed = fs::read_to_string(directory.join(file)).unwrap_or_default();
    listed.split_whitespace().any(|name| name == controller)
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
    for name in ["memory", "pids", "cpu"] {
        // Every write takes the one lock that the kernel has for cgroups, also one that changes nothing.
        if !lists(directory, SUBTREE, name) {
            // One that is not there, or not ours, is found missing afterwards.
            let _ = fs::write(directory.join(SUBTREE), format!("+{name}"));
        }
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
}
