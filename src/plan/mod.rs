//! From what a caller wants and what the host offers to the steps that PID 1 carries out.
//!
//! Pure: no file, no system call, no clock. Snapshot tests show every step of every variant.

use std::net::IpAddr;

use crate::policy;
use crate::spec::{Limits, Network, Root, SandboxSpec, Seccomp, Upper};
use crate::wire::{
    ByteString, FilterSet, Groundwork, IdMap, MountSource, Mounts, NetworkDevice, NetworkSource,
    Profile, RootSource, SHELL_DIRECTORY, Setup, SetupOp, SetupPlan, Space, TERMINALS, UpperSource,
};

/// What a host offers to each of its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The zygote is root of the initial user namespace.
    pub privileged: bool,
    /// The zygote has network namespaces ready.
    pub networks_ahead: bool,
    /// The device of a network by rules.
    pub device: NetworkDevice,
    /// Where names are asked for in such a network.
    pub resolvers: Vec<IpAddr>,
    /// `setgroups` works in its user namespace.
    pub setgroups: bool,
    /// No cgroup bounds its processes: `RLIMIT_NPROC` has to.
    pub pids_by_rlimit: bool,
    /// Version of the kernel's Landlock; 0 where it has none.
    pub landlock: u32,
    /// The host is told of refused calls, and the zygote has no filters.
    pub report_refusals: bool,
}

/// A specification that no host can fulfil.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// A tmpfs upper may hold at most half of the memory, so that its files cannot starve the processes.
    #[error(
        "disk limit {disk} is more than half of memory limit {memory}: use a disk upper, or change one of them"
    )]
    DiskExceedsMemory {
        /// Bytes asked for.
        disk: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// A path inside has to be absolute and without `..`.
    #[error("{0} is not an absolute path without ..")]
    BadTarget(String),
    /// A profile names what is no system call.
    #[error("{0} is no system call of this architecture")]
    UnknownCall(String),
    /// A profile denies what nothing runs without.
    #[error("no sandbox works without the system call {0}: it cannot be denied")]
    NeededCall(String),
    /// A disk upper was asked for and none was allotted.
    #[error("no writable layer on disk was made")]
    NoDiskUpper,
}

/// Capabilities of the sandbox's root: Docker's default set less `NET_RAW`, `MKNOD` and
/// `AUDIT_WRITE`, which needs a socket that is refused. `docs/isolation.md` has the reason of each.
pub const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_SETFCAP",
];

/// Where mounts lie that need no image.
const SCAFFOLD: [&str; 5] = ["/proc", "/dev", "/sys", "/run", SHELL_DIRECTORY];
/// Of these, what a sandbox gets.
const MOVED: [&str; 4] = ["/proc", "/dev", "/sys", SHELL_DIRECTORY];

const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What the dynamic linker, a shell and most programs look for before they do anything.
const LOOKED_FOR: [&str; 12] = [
    "/bin/sh",
    "/bin/bash",
    "/lib64/ld-linux-x86-64.so.2",
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libtinfo.so.6",
    "/usr/lib/locale/locale-archive",
    "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
    "/var/run/nscd/socket",
    "/etc/nsswitch.conf",
    "/etc/passwd",
];

/// Files of proc that tell about the host or other sandboxes.
const MASKED_FILES: [&str; 9] = [
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/kallsyms",
    "/proc/locks",
    "/proc/sched_debug",
];
/// Pressure: anybody may write there, to have the kernel watch the load of the whole host (Linux 6.5).
const HIDDEN_DIRECTORIES: [&str; 4] =
    ["/proc/acpi", "/proc/asound", "/proc/pressure", "/proc/scsi"];
/// PID 1 first: of an ordinary user it belongs to the sandbox's root, who could have the kernel kill it
/// before all others when memory is short.
const READ_ONLY: [&str; 6] = [
    "/proc/1",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where a sandbox's network comes from.
#[must_use]
pub fn network(wanted: &Network, host: &Host) -> NetworkSource {
    let served = match wanted {
        Network::Host => return NetworkSource::Host,
        Network::None => false,
        Network::Rules(_) => true,
    };
    if host.networks_ahead {
        NetworkSource::MadeAhead { served }
    } else {
        NetworkSource::New { served }
    }
}

/// The steps that are the same for every sandbox: they can be done before one is asked for.
#[must_use]
pub fn groundwork(host: &Host, ids: IdMap, network: NetworkSource) -> Groundwork {
    let mut steps = vec![
        SetupOp::BecomeRoot {
            drop_groups: host.setgroups,
        },
        SetupOp::Guard,
        scaffold(),
        SetupOp::Proc,
    ];
    devices(&mut steps);
    if let NetworkSource::New { served } = network {
        steps.push(SetupOp::Loopback);
        steps.push(SetupOp::AllowPing { groups: ids.count });
        if served {
            steps.push(SetupOp::NetworkDevice(host.device.clone()));
        }
    }
    for path in MASKED_FILES {
        steps.push(SetupOp::MaskFile {
            path: path.to_owned(),
        });
    }
    for path in HIDDEN_DIRECTORIES {
        steps.push(SetupOp::EmptyDirectory {
            path: path.to_owned(),
        });
    }
    for path in READ_ONLY {
        steps.push(SetupOp::ReadOnly {
            path: path.to_owned(),
        });
    }
    steps.push(SetupOp::Pivot);
    steps.push(SetupOp::Keyring);
    steps.push(SetupOp::CapabilitiesBound(names(&CAPABILITIES)));
    if !host.report_refusals {
        steps.push(SetupOp::Seccomp(FilterSet::Unknown));
    }
    Groundwork {
        ids,
        network,
        device: (network == NetworkSource::MadeAhead { served: true }).then(|| host.device.clone()),
        steps,
    }
}

/// What is left to do for one sandbox. A writable layer on disk has to be there already.
///
/// # Errors
/// The specification contradicts itself; see [`PlanError`].
pub fn plan(
    spec: &SandboxSpec,
    host: &Host,
    disk_upper: Option<UpperSource>,
) -> Result<SetupPlan, PlanError> {
    check_target(&spec.workdir)?;
    let profile = profile(&spec.seccomp)?;
    let layers = spec.record_effects && matches!(spec.root, Root::Overlay { .. });
    let mut enter = vec![SetupOp::EnterRoot];
    enter.extend(layers.then_some(SetupOp::Layers));
    let moved = names(&MOVED).into_iter();
    enter.extend(moved.map(|path| SetupOp::Move { path }));
    enter.push(SetupOp::ChangeRoot);
    let mut steps = Vec::new();
    for bind in &spec.binds {
        check_target(&bind.target)?;
        steps.push(SetupOp::Bind {
            target: bind.target.clone(),
        });
    }
    steps.extend(resized(&spec.limits));
    steps.extend(resolvers(spec, host));
    steps.push(SetupOp::Hostname(spec.hostname.clone()));
    steps.push(SetupOp::Workdir(spec.workdir.clone()));
    limits(&spec.limits, host, &mut steps);
    steps.push(SetupOp::Capabilities(names(&CAPABILITIES)));
    // Version 1 (Linux 5.13) lets nobody rename from one directory into another.
    if host.landlock >= 2 {
        steps.push(SetupOp::Landlock {
            version: host.landlock,
            tcp: spec.seccomp.strict,
        });
    }
    filters(profile, host.report_refusals, &mut steps);
    let binds = spec.binds.iter().map(|bind| MountSource {
        path: bind.source.clone(),
    });
    let env = spec.env.iter();
    Ok(SetupPlan {
        mounts: Mounts {
            root: root(spec, host, disk_upper)?,
            layers,
            binds: binds.collect(),
        },
        root: enter,
        setup: Setup {
            steps,
            env: env
                .map(|(k, v)| (ByteString::from(k.as_str()), ByteString::from(v.as_str())))
                .collect(),
            workdir: spec.workdir.clone(),
        },
    })
}

/// What is done in a root that is entered before it is known for whom: the first command finds its way as soon as the second.
#[must_use]
pub fn look_up(setup: &Setup) -> SetupOp {
    let path = setup.env.iter().filter(|(name, _)| name.0 == b"PATH");
    let path = path.filter_map(|(_, value)| std::str::from_utf8(&value.0).ok());
    let directories = path.flat_map(|path| path.split(':'));
    let paths = directories.filter(|directory| directory.starts_with('/'));
    SetupOp::LookUp(paths.chain(LOOKED_FOR).map(str::to_owned).collect())
}

fn resolvers(spec: &SandboxSpec, host: &Host) -> Option<SetupOp> {
    let line = |resolver| format!("nameserver {resolver}\n");
    matches!(spec.network, Network::Rules(_)).then(|| SetupOp::File {
        path: "/etc/resolv.conf".to_owned(),
        content: host.resolvers.iter().map(line).collect(),
    })
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

/// The profile with numbers in place of names; [`plan`] asks it, too.
///
/// # Errors
/// [`PlanError::UnknownCall`], [`PlanError::NeededCall`].
pub fn profile(seccomp: &Seccomp) -> Result<Profile, PlanError> {
    let number = |name: &String| match policy::number(name) {
        None => Err(PlanError::UnknownCall(name.clone())),
        Some(_) if policy::is_needed(name) => Err(PlanError::NeededCall(name.clone())),
        Some(number) => Ok(number),
    };
    let mut deny: Vec<u32> = seccomp.deny.iter().map(number).collect::<Result<_, _>>()?;
    // Refused anyway, with the one answer that libc goes on after: a newer filter's would count.
    deny.retain(|number| *number != policy::CLONE3);
    Ok(Profile {
        strict: seccomp.strict,
        deny,
    })
}

fn filters(profile: Profile, report: bool, setup: &mut Vec<SetupOp>) {
    if report {
        return setup.push(SetupOp::Seccomp(FilterSet::Reported(profile)));
    }
    setup.push(SetupOp::Seccomp(FilterSet::SetupOnly));
    if profile != Profile::default() {
        setup.push(SetupOp::Seccomp(FilterSet::Profile(profile)));
    }
}

fn root(
    spec: &SandboxSpec,
    host: &Host,
    disk_upper: Option<UpperSource>,
) -> Result<RootSource, PlanError> {
    let (lower, upper) = match &spec.root {
        Root::Writable(directory) => return Ok(RootSource::Writable(directory.clone())),
        Root::Overlay { lower, upper } => (lower, upper),
    };
    let upper = match upper {
        Upper::Tmpfs => {
            check_tmpfs(&spec.limits)?;
            UpperSource::Tmpfs {
                bytes: spec.limits.disk_bytes.unwrap_or(0),
                inodes: spec.limits.inodes.unwrap_or(0),
            }
        }
        Upper::Disk => disk_upper.ok_or(PlanError::NoDiskUpper)?,
    };
    Ok(RootSource::Overlay {
        lower: lower.clone(),
        upper,
        user_xattr: !host.privileged,
    })
}

/// It lives on as `/dev`: so much room has that.
fn scaffold() -> SetupOp {
    let (bytes, inodes) = room(Space::Devices, &Limits::default());
    SetupOp::Scaffold {
        directories: names(&SCAFFOLD),
        bytes,
        inodes,
    }
}

fn devices(setup: &mut Vec<SetupOp>) {
    setup.push(SetupOp::Mount {
        path: Space::Devices.path().to_owned(),
    });
    for (name, major, minor) in DEVICES {
        setup.push(SetupOp::Device {
            name: name.to_owned(),
            major,
            minor,
        });
    }
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        setup.push(SetupOp::Symlink {
            path: path.to_owned(),
            target: target.to_owned(),
        });
    }
    setup.push(SetupOp::Devpts { max: TERMINALS });
    setup.push(tmpfs(Space::SharedMemory, 0o1777));
    setup.push(tmpfs(Space::ShellFiles, 0o700));
    setup.push(SetupOp::EmptyDirectory {
        path: "/sys".to_owned(),
    });
}

/// Bytes and inodes of a file system; 0 where no limit says how many.
///
/// All that lie in memory hold three quarters of it at most: what is in a tmpfs cannot be reclaimed,
/// and once it fills the memory the kernel has only processes to kill, PID 1 among them.
#[must_use]
pub fn room(space: Space, limits: &Limits) -> (u64, u64) {
    let eighth = limits.memory_bytes.map_or(u64::MAX, |memory| memory / 8);
    match space {
        Space::Root => (limits.disk_bytes.unwrap_or(0), limits.inodes.unwrap_or(0)),
        Space::SharedMemory => (eighth.min(64 << 20), 4096),
        Space::Devices => (64 << 10, 256),
        Space::ShellFiles => (eighth.min(16 << 20), 64),
    }
}

/// With the room that it mostly has; see [`resized`].
fn tmpfs(space: Space, mode: u32) -> SetupOp {
    let (bytes, inodes) = room(space, &Limits::default());
    SetupOp::Tmpfs {
        target: space.path().to_owned(),
        bytes,
        inodes,
        mode,
    }
}

fn resized(limits: &Limits) -> impl Iterator<Item = SetupOp> {
    [Space::SharedMemory, Space::ShellFiles]
        .into_iter()
        .map(|space| (space, room(space, limits).0))
        .filter(|(space, bytes)| *bytes != room(*space, &Limits::default()).0)
        .map(|(space, bytes)| SetupOp::Resize {
            target: space.path().to_owned(),
            bytes,
        })
}

fn limits(limits: &Limits, host: &Host, setup: &mut Vec<SetupOp>) {
    let mut limit = |name: &str, value| {
        setup.push(SetupOp::Limit {
            name: name.to_owned(),
            value,
        });
    };
    limit("NOFILE", limits.open_files);
    limit("CORE", 0);
    limit("SIGPENDING", 4096);
    limit("MSGQUEUE", 800 << 10);
    limit("MEMLOCK", 64 << 20);
    if let (true, Some(pids)) = (host.pids_by_rlimit, limits.pids) {
        limit("NPROC", pids);
    }
}

/// Whether a tmpfs can hold the writes of a sandbox with these limits; [`plan`] asks it, too.
///
/// # Errors
/// [`PlanError::DiskExceedsMemory`].
pub fn check_tmpfs(limits: &Limits) -> Result<(), PlanError> {
    if let (Some(disk), Some(memory)) = (limits.disk_bytes, limits.memory_bytes)
        && disk > memory / 2
    {
        return Err(PlanError::DiskExceedsMemory { disk, memory });
    }
    Ok(())
}

fn check_target(path: &str) -> Result<(), PlanError> {
    let absolute = path.starts_with('/') && !path.contains('\0');
    if absolute && !path.split('/').any(|part| part == "..") {
        return Ok(());
    }
    Err(PlanError::BadTarget(path.to_owned()))
}

#[cfg(test)]
mod tests;
