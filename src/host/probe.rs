//! What this host can do, found out by trying where it can be tried.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::ids;
use super::{Cgroups, Launcher, LauncherConfig, Registry};
use crate::spec::SandboxSpec;

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
    /// What mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            mend: None,
        }
    }

    fn mend(self, mend: &str) -> Self {
        Self {
            mend: Some(mend.to_owned()),
            ..self
        }
    }
}

/// Looks at everything.
pub async fn all() -> Vec<Finding> {
    vec![
        kernel(),
        user_namespaces(),
        ids_of_user(),
        cgroups(),
        runtime_directory(),
        sandbox().await,
    ]
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let root = nix::unistd::geteuid().is_root();
    // Root shows images through idmapped mounts below an overlay (5.19); others keep the overlay's
    // marks in user.* attributes of a tmpfs (6.6).
    let needed = if root { (5, 19) } else { (6, 6) };
    if version >= needed {
        return Finding::new("kernel", State::Ok, release);
    }
    let detail = format!("{release}; {}.{} is needed here", needed.0, needed.1);
    Finding::new("kernel", State::Missing, detail).mend("boot a newer kernel")
}

fn user_namespaces() -> Finding {
    let read = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let name = "user namespaces";
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Finding::new(name, State::Missing, "user.max_user_namespaces is 0")
            .mend("sysctl -w user.max_user_namespaces=10000");
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Finding::new(
            name,
            State::Missing,
            "kernel.unprivileged_userns_clone is 0",
        )
        .mend("sysctl -w kernel.unprivileged_userns_clone=1");
    }
    let restricted = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    if !root && read(restricted).as_deref() == Some("1") {
        return Finding::new(
            name,
            State::Degraded,
            "AppArmor gives unprivileged user namespaces no rights, unless a profile names this program",
        )
        .mend("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile with `userns,`");
    }
    Finding::new(name, State::Ok, "allowed")
}

fn ids_of_user() -> Finding {
    let name = "ids";
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
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
        Some(_) => Finding::new(
            name,
            State::Degraded,
            "one only: newuidmap is not installed; apt and su fail inside",
        )
        .mend("apt-get install uidmap"),
        None => Finding::new(
            name,
            State::Degraded,
            "one only: no range in /etc/subuid and /etc/subgid; apt and su fail inside",
        )
        .mend(&format!(
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        )),
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
    Finding::new(name, State::Degraded, detail)
        .mend("run as root, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes …")
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
            let finding = Finding::new(name, State::Missing, error);
            finding.mend("mend what is missing above; in a container, allow user namespaces, mounts and an unmasked /proc")
        }
    }
}

async fn try_sandbox(tree: &Path) -> Result<(), String> {
    // The sandbox's root has another id than we: it must be able to look.
    let _ = fs::set_permissions(tree, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let launcher = Launcher::start(LauncherConfig::default())
        .await
        .map_err(|e| e.to_string())?;
    let spec = SandboxSpec {
        workdir: "/work".into(),
        purpose: "doctor".into(),
        ..SandboxSpec::new(tree)
    };
    let sandbox = launcher.sandbox(spec).await.map_err(|e| e.to_string())?;
    sandbox.close().await.map(|_| ()).map_err(|e| e.to_string())
}
