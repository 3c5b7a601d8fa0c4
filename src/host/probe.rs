//! What this host can do, found out by trying where it can be tried.

mod device;
mod packages;
mod surroundings;

use std::fs;
use std::path::Path;

use serde::Serialize;

pub(super) use device::no_device;

use super::ids;
use super::{Cgroups, HostError, Launcher, LauncherConfig, Registry, Remains};
use crate::spec::SandboxSpec;
use crate::sys::landlock;
use crate::wire::SetupFailure;

/// How well a capability of the host serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All of it.
    Ok,
    /// Sandboxes start, with less.
    Degraded,
    /// Sandboxes do not start.
    Missing,
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub name: &'static str,
    /// How well it serves.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What mends it, in words or as a command.
    pub mend: Option<String>,
    /// Commands of root's that mend it, as `doctor --fix` runs them.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            mend: None,
            fix: Vec::new(),
        }
    }

    fn mend(self, mend: &str) -> Self {
        Self {
            mend: Some(mend.to_owned()),
            ..self
        }
    }

    /// Mended by commands alone.
    fn fix(self, commands: &[&str]) -> Self {
        Self {
            mend: Some(commands.join(" && ")),
            fix: commands
                .iter()
                .map(|command| (*command).to_owned())
                .collect(),
            ..self
        }
    }
}

/// Looks at everything. `state` is the directory of images, or where it will be.
pub async fn all(state: &Path) -> Vec<Finding> {
    let remains = Registry::open().and_then(|registry| Remains::of(&registry));
    let mut findings = vec![
        kernel(),
        overlay(),
        seccomp(),
        user_namespaces(),
        container(),
        ids_of_user(),
        cgroups(),
        landlock(),
        open_files(),
        terminals(),
        device::finding(),
        state_directory(state),
        runtime_directory(),
        sandbox().await,
    ];
    findings.extend(packages::finding(state));
    // After the sandbox: each start cleans up.
    findings.extend(remains.map(left_behind));
    findings
}

fn left_behind(remains: Remains) -> Finding {
    let left = remains.count();
    if left.total == 0 {
        return Finding::new("left behind", State::Ok, left.to_string());
    }
    Finding::new("left behind", State::Degraded, left.to_string())
        .mend("`llm-in-sandbox gc` names what cannot be removed, and why")
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let root = ids::privileged();
    // Root shows images through idmapped mounts below an overlay (5.19); others need mount_setattr.
    let needed = if root { (5, 19) } else { (5, 12) };
    if version < needed {
        let detail = format!("{release}; {}.{} is needed here", needed.0, needed.1);
        return Finding::new("kernel", State::Missing, detail).mend("boot a newer kernel");
    }
    // Others keep the overlay's marks in user.* attributes, which a tmpfs has since 6.6.
    if !root && version < (6, 6) {
        let detail =
            format!("{release}; before 6.6 no user's sandbox replaces a directory of the image");
        return Finding::new("kernel", State::Degraded, detail)
            .mend("boot kernel 6.6 or newer, or run as root");
    }
    Finding::new("kernel", State::Ok, release)
}

fn overlay() -> Finding {
    let known = read("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|name| name == "overlay") {
        return Finding::new("overlayfs", State::Ok, "known to the kernel");
    }
    Finding::new(
        "overlayfs",
        State::Degraded,
        "not loaded; the first mount may load it",
    )
    .fix(&["modprobe overlay"])
}

fn seccomp() -> Finding {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if ["errno", "kill_process"]
        .iter()
        .all(|action| actions.split(' ').any(|a| a == *action))
    {
        return Finding::new("seccomp", State::Ok, "filters");
    }
    // In containers this file may be hidden.
    if read("/proc/self/status").is_some_and(|status| status.contains("Seccomp:")) {
        return Finding::new(
            "seccomp",
            State::Ok,
            "filters; which actions is not shown here",
        );
    }
    Finding::new("seccomp", State::Missing, "this kernel has none")
        .mend("boot a kernel with CONFIG_SECCOMP_FILTER")
}

/// Ubuntu's restriction, which other distributions take over.
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

fn user_namespaces() -> Finding {
    let name = "user namespaces";
    let missing = |detail: &str| Finding::new(name, State::Missing, detail);
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return missing("user.max_user_namespaces is 0")
            .fix(&["sysctl -w user.max_user_namespaces=10000"]);
    }
    if ids::privileged() {
        return Finding::new(name, State::Ok, "allowed to root");
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return missing("kernel.unprivileged_userns_clone is 0")
            .fix(&["sysctl -w kernel.unprivileged_userns_clone=1"]);
    }
    match read(APPARMOR).as_deref() {
        Some("1") => Finding::new(
            name,
            State::Degraded,
            "AppArmor gives them no rights unless a profile names this program (packaging/apparmor)",
        )
        .mend("install packaging/apparmor/llm-in-sandbox in /etc/apparmor.d and run apparmor_parser -r on it; or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        Some(_) => Finding::new(name, State::Ok, "allowed, AppArmor does not restrict them"),
        None => Finding::new(name, State::Ok, "allowed; this kernel has no restriction by AppArmor"),
    }
}

fn container() -> Finding {
    let (name, rights) = ("surroundings", surroundings::rights());
    let Some(engine) = surroundings::engine() else {
        let hidden = !surroundings::proc_is_whole() && !ids::privileged();
        return match hidden {
            false => Finding::new(name, State::Ok, format!("{rights}, in no container")),
            true => Finding::new(
                name,
                State::Degraded,
                format!("{rights}; parts of /proc are masked, no new /proc can be mounted"),
            )
            .mend("start it where /proc is whole"),
        };
    };
    let detail = format!(
        "{rights}, in {}{}",
        engine.name(),
        if surroundings::proc_is_whole() {
            ""
        } else {
            "; parts of /proc are masked"
        }
    );
    if ids::privileged() {
        return Finding::new(name, State::Ok, detail);
    }
    Finding::new(name, State::Degraded, detail).mend(engine.mend())
}

fn ids_of_user() -> Finding {
    let name = "ids";
    let uid = nix::unistd::geteuid();
    if ids::privileged() {
        return Finding::new(name, State::Ok, "65,536 of its own for each sandbox");
    }
    let user = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map(|u| u.name)
        .unwrap_or_default();
    let granted = ids::subordinate("/etc/subuid", &user, uid.as_raw())
        .filter(|_| ids::subordinate("/etc/subgid", &user, uid.as_raw()).is_some());
    let tool = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("newuidmap").exists()));
    match granted {
        Some((first, count)) if tool => Finding::new(
            name,
            State::Ok,
            format!("{count} from {first}, by newuidmap"),
        ),
        _ if uid.is_root() => Finding::new(
            name,
            State::Degraded,
            "one only, as root has no rights here; apt and su fail inside",
        )
        // In words: /etc may be that of the host, whose root this is not.
        .mend("run as root of the host, or as an ordinary user with a range in /etc/subuid"),
        Some(_) => Finding::new(
            name,
            State::Degraded,
            "one only: newuidmap is not installed; apt and su fail inside",
        )
        .fix(&["apt-get install -y uidmap"]),
        None => Finding::new(
            name,
            State::Degraded,
            "one only: no range in /etc/subuid and /etc/subgid; apt and su fail inside",
        )
        .fix(&[&format!(
            "usermod --add-subuids {range} --add-subgids {range} {user}",
            range = ids::free_subordinate_range()
        )]),
    }
}

fn cgroups() -> Finding {
    let controllers = Cgroups::detect().controllers();
    let name = "limits";
    let parts = [
        (controllers.memory, "memory"),
        (controllers.pids, "pids"),
        (controllers.cpu, "cpu"),
    ];
    let missing: Vec<&str> = parts
        .iter()
        .filter(|(has, _)| !has)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        let detail = format!("memory, pids and cpu by cgroup v{}", controllers.version);
        return Finding::new(name, State::Ok, detail);
    }
    let detail = format!(
        "not enforced: {}; disk and inodes are (tmpfs), processes by RLIMIT_NPROC for the user",
        missing.join(", ")
    );
    let mend = if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "mount cgroup version 2 on /sys/fs/cgroup, or run as root on a host with version 1"
    } else if nix::unistd::geteuid().is_root() {
        "make /sys/fs/cgroup writable: docker run --cgroupns=private and a writable /sys/fs/cgroup, podman run --cgroups=split"
    } else {
        "systemd-run --user --scope -p Delegate=yes llm-in-sandbox …; for cpu, too: packaging/systemd"
    };
    Finding::new(name, State::Degraded, detail).mend(mend)
}

fn open_files() -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    let name = "open files";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let wanted = crate::spec::Limits::default().open_files;
    let detail = format!("{soft} for us, {hard} at most");
    if hard < wanted {
        return Finding::new(name, State::Degraded, format!("{detail}; sandboxes get {wanted} elsewhere"))
            .mend("raise the hard limit: `ulimit -Hn 1048576` as root, or nofile in /etc/security/limits.conf");
    }
    // A sandbox takes about ten of ours.
    if soft < 1024 {
        return Finding::new(name, State::Degraded, detail).mend("ulimit -n 4096");
    }
    Finding::new(name, State::Ok, detail)
}

fn terminals() -> Finding {
    let number = |name: &str| {
        read(&format!("/proc/sys/kernel/pty/{name}"))?
            .parse::<u64>()
            .ok()
    };
    let (used, most) = (number("nr").unwrap_or(0), number("max").unwrap_or(0));
    let detail = format!("{used} of {most} in use");
    // Each sandbox takes one, and may make 64 itself.
    if most > 0 && used + 64 > most {
        return Finding::new("terminals", State::Degraded, detail)
            .fix(&["sysctl -w kernel.pty.max=16384"]);
    }
    Finding::new("terminals", State::Ok, detail)
}

/// Images lie there, and are built there in place.
fn state_directory(state: &Path) -> Finding {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let name = "state directory";
    let existing = state.ancestors().find(|path| path.exists());
    let flags = existing
        .and_then(|path| statvfs(path).ok())
        .map(|stat| stat.flags());
    let shown = state.display();
    match flags {
        None => Finding::new(name, State::Missing, format!("{shown} cannot be looked at"))
            .mend("set LLM_IN_SANDBOX_HOME to a directory of your own"),
        Some(flags) if flags.contains(FsFlags::ST_RDONLY) => {
            Finding::new(name, State::Degraded, format!("{shown} is read-only: no new images"))
                .mend("set LLM_IN_SANDBOX_HOME to a directory that can be written")
        }
        Some(flags) if flags.contains(FsFlags::ST_NOEXEC) => {
            Finding::new(name, State::Degraded, format!("{shown} is mounted noexec: no image can be built"))
                .mend("set LLM_IN_SANDBOX_HOME to a directory on another file system, or remount it with exec")
        }
        Some(_) => Finding::new(name, State::Ok, shown.to_string()),
    }
}

fn landlock() -> Finding {
    let version = landlock::version();
    let detail = format!("version {version}");
    match version {
        6.. => Finding::new("landlock", State::Ok, detail),
        2.. => {
            let detail =
                format!("{detail}; with --net host, abstract sockets of the host can be reached");
            Finding::new("landlock", State::Degraded, detail).mend("boot Linux 6.12 or newer")
        }
        _ => Finding::new(
            "landlock",
            State::Degraded,
            "none that serves: one layer less",
        )
        .mend("boot Linux 6.12 or newer, with landlock in lsm= of its command line"),
    }
}

fn runtime_directory() -> Finding {
    match Registry::open() {
        Ok(registry) => Finding::new(
            "runtime directory",
            State::Ok,
            registry.directory().display().to_string(),
        ),
        Err(error) => Finding::new("runtime directory", State::Missing, error.to_string())
            .mend("set XDG_RUNTIME_DIR to a directory of your own"),
    }
}

/// The whole: a real sandbox on an empty tree.
async fn sandbox() -> Finding {
    let name = "sandbox";
    let Ok(tree) = tempfile::tempdir() else {
        return Finding::new(name, State::Missing, "no temporary directory can be made");
    };
    match try_sandbox(tree.path()).await {
        Ok(()) => Finding::new(name, State::Ok, "started and ended, with every wall"),
        Err(error) => {
            let hint = error
                .hint()
                .unwrap_or_else(|| "mend what is missing above".into());
            Finding::new(name, State::Missing, error.to_string()).mend(&hint)
        }
    }
}

/// Why the set-up of a sandbox was refused and what to do about it, on one line.
pub(super) fn explain(failure: &SetupFailure) -> String {
    let step = &*failure.step.0;
    let mend =
        surroundings::engine().map_or("run `llm-in-sandbox doctor`", surroundings::Engine::mend);
    if step.contains("namespaces") || step.contains("clone") {
        let (cause, own) = surroundings::namespaces_refused();
        return format!("{cause}; {}", own.unwrap_or(mend));
    }
    if step.contains("/proc") && !surroundings::proc_is_whole() {
        return format!("parts of /proc are masked here, so no new /proc can be mounted; {mend}");
    }
    mend.into()
}

async fn try_sandbox(tree: &Path) -> Result<(), HostError> {
    // The sandbox's root has another id than we: it must be able to look.
    let _ = fs::set_permissions(tree, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let launcher = Launcher::start(LauncherConfig::default()).await?;
    let spec = SandboxSpec {
        workdir: "/work".into(),
        purpose: "doctor".into(),
        ..SandboxSpec::new(tree)
    };
    launcher.sandbox(spec).await?.close().await.map(|_| ())
}
