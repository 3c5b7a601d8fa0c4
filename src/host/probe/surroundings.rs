//! In what this process runs: a container, a sandbox, a set of restrictions that no setting of the host names.

use std::fs;
use std::path::Path;

use super::read;
use crate::host::ids;

/// A container engine, or what looks like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Docker,
    Podman,
    Kubernetes,
    /// A filter and no new privileges: ours, or another sandbox.
    Sandbox,
}

impl Engine {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Kubernetes => "Kubernetes",
            Self::Sandbox => "a sandbox",
        }
    }

    /// How it is told to let sandboxes start.
    pub(super) const fn mend(self) -> &'static str {
        match self {
            Self::Docker => {
                "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined …"
            }
            Self::Podman => {
                "podman run --security-opt seccomp=unconfined --security-opt label=disable --security-opt unmask=ALL …"
            }
            Self::Kubernetes => {
                "in the pod: hostUsers: false; securityContext: {seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}, procMount: Unmasked}"
            }
            Self::Sandbox => "start it outside: sandboxes are not nested",
        }
    }
}

/// By the marks that engines leave.
pub(super) fn engine() -> Option<Engine> {
    let exists = |path: &str| Path::new(path).exists();
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() || exists("/run/secrets/kubernetes.io")
    {
        return Some(Engine::Kubernetes);
    }
    if exists("/run/.containerenv") {
        return Some(Engine::Podman);
    }
    if exists("/.dockerenv") {
        return Some(Engine::Docker);
    }
    let status = read("/proc/self/status").unwrap_or_default();
    (field(&status, "Seccomp") == Some("2") && field(&status, "NoNewPrivs") == Some("1"))
        .then_some(Engine::Sandbox)
}

/// Why the kernel refuses new namespaces, and what mends it where that is not the engine's business.
pub(super) fn namespaces_refused() -> (&'static str, Option<&'static str>) {
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return (
            "user.max_user_namespaces is 0 here",
            Some("sysctl -w user.max_user_namespaces=10000"),
        );
    }
    let status = read("/proc/self/status").unwrap_or_default();
    if field(&status, "Seccomp") == Some("2") {
        return (
            "a seccomp filter around this process refuses new namespaces",
            None,
        );
    }
    // user_namespaces(7): EPERM for a process whose root directory is not that of its mount namespace.
    (
        "the kernel refuses new user namespaces, as it does in a chroot or where a security module forbids them",
        None,
    )
}

/// Which of root's rights this process has, in words.
pub(super) fn rights() -> &'static str {
    if ids::privileged() {
        return "root of the host";
    }
    match (
        nix::unistd::geteuid().is_root(),
        read("/proc/self/uid_map").is_some_and(|map| map.ends_with("4294967295")),
    ) {
        (true, true) => "root without CAP_SYS_ADMIN",
        (true, false) => "root of a user namespace",
        (false, _) => "an ordinary user",
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// `/proc` shows everything: the kernel lets nobody mount a new one beside one with parts masked.
pub(super) fn proc_is_whole() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    !mounts.lines().any(|line| {
        let place = line.split(' ').nth(4).unwrap_or_default();
        // On this one systemd mounts for everybody, and the kernel lets it pass.
        place.starts_with("/proc/") && place != "/proc/sys/fs/binfmt_misc"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "Sec"), None);
    }
}
