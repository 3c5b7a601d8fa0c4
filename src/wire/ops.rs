//! The plan that crosses from the host to PID 1: data that a dumb interpreter carries out in order.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ByteString;

/// What is done for a sandbox before anybody knows what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groundwork {
    /// Ids of its user namespace.
    pub ids: IdMap,
    /// Its network namespace.
    pub network: NetworkSource,
    /// The device in a network namespace that the zygote made; PID 1's own comes by [`SetupOp::NetworkDevice`].
    pub device: Option<NetworkDevice>,
    /// Done by PID 1, in order.
    pub steps: Vec<SetupOp>,
}

/// The rest of what the zygote and PID 1 do for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupPlan {
    /// The zygote's part.
    pub mounts: Mounts,
    /// PID 1's way into its root, in order: the same for all sandboxes of an image.
    pub root: Vec<SetupOp>,
    /// The rest of PID 1's.
    pub setup: Setup,
}

/// Made by the zygote, which can see the host's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// The tree that becomes `/`.
    pub root: RootSource,
    /// Its layers follow it, for [`SetupOp::Layers`].
    pub layers: bool,
    /// Host paths to show, opened with the caller's rights, in the order of [`SetupOp::Bind`].
    pub binds: Vec<MountSource>,
}

/// Done by PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// In order.
    pub steps: Vec<SetupOp>,
    /// Environment of every process.
    pub env: Vec<(ByteString, ByteString)>,
    /// Working directory of every process.
    pub workdir: String,
}

/// Where the network namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkSource {
    /// It is the host's.
    Host,
    /// A new one that belongs to the sandbox's user namespace; PID 1 sets it up.
    New {
        /// With a device that the host serves.
        served: bool,
    },
    /// A fresh one of the zygote's, set up.
    MadeAhead {
        /// With a device that the host serves.
        served: bool,
    },
}

/// A tun device whose other side the host serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDevice {
    /// Largest packet.
    pub mtu: u16,
    /// Addresses with the length of their prefix.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// How ids inside look outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// What 0 inside is in the zygote's user namespace.
    pub base: u32,
    /// How many ids follow.
    pub count: u32,
    /// The files of the root lie on disk with ids from 0 and are shown through an idmapped mount.
    pub shift_files: bool,
}

/// The tree that becomes `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSource {
    /// A read-only lower tree and a private upper.
    Overlay {
        /// Directory of the lower tree.
        lower: PathBuf,
        /// The writable layer.
        upper: UpperSource,
        /// The mounter has no rights outside of a user namespace: `user.overlay.*` instead of `trusted.overlay.*` (Linux 5.11).
        user_xattr: bool,
    },
    /// The directory itself.
    Writable(PathBuf),
}

/// The writable layer of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpperSource {
    /// A tmpfs of its own.
    Tmpfs {
        /// Its size; 0 is unlimited.
        bytes: u64,
        /// Its files; 0 is unlimited.
        inodes: u64,
    },
    /// A directory on disk that is ours alone.
    Directory(PathBuf),
    /// A block device with an empty ext4 file system.
    Device(PathBuf),
}

/// A host path to show inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSource {
    /// On the host.
    pub path: PathBuf,
}

/// One step of PID 1. The order is part of the security: see each variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetupOp {
    /// Become 0 in the new user namespace and drop all other groups. First: until then PID 1 owns nothing in it.
    BecomeRoot {
        /// `setgroups` is allowed in this namespace.
        drop_groups: bool,
    },
    /// Put a tmpfs over the old `/`, for the mounts that need no image. The old one is reachable
    /// until [`SetupOp::Pivot`]: steps before need its `/proc` and `/dev`.
    Scaffold {
        /// What is in it.
        directories: Vec<String>,
        /// Its size.
        bytes: u64,
        /// Its files.
        inodes: u64,
    },
    /// Make a directory of the scaffold a mount, which outlives it. For what could be a tmpfs of its own: each file system
    /// costs every memory cgroup of the machine, for as long as it runs, 16 bytes for its shrinker (mm/shrinker.c).
    Mount {
        /// Absolute path, in both.
        path: String,
    },
    /// Put the root mount over that.
    EnterRoot,
    /// Keep the next two mounts of the plan, the upper and the lower layer of the root, and account of what changes.
    Layers,
    /// Move a mount, with all on it, from the scaffold into the root.
    Move {
        /// Absolute path, in both.
        path: String,
    },
    /// A new proc. Before [`SetupOp::Pivot`]: the kernel wants to see a full proc in the mount namespace (`mount_too_revealing`).
    Proc,
    /// A tmpfs.
    Tmpfs {
        /// Absolute path inside.
        target: String,
        /// Its size.
        bytes: u64,
        /// Its files.
        inodes: u64,
        /// Permission bits of its root.
        mode: u32,
    },
    /// Another size for a tmpfs of the groundwork. After [`SetupOp::ChangeRoot`].
    Resize {
        /// Absolute path inside.
        target: String,
        /// Its size.
        bytes: u64,
    },
    /// A host device, verified by number (CVE-2025-31133: never trust a path for it). Before [`SetupOp::Pivot`].
    Device {
        /// Name below `/dev`, outside and inside.
        name: String,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Absolute path inside.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// An own instance of devpts.
    Devpts {
        /// Most terminals.
        max: u32,
    },
    /// The next of the plan's binds, read-only.
    Bind {
        /// Absolute path inside.
        target: String,
    },
    /// The scaffold's `/sys`, which is empty, over itself or a directory of the kernel's; read-only.
    EmptyDirectory {
        /// Absolute path inside; nothing is done where there is none.
        path: String,
    },
    /// The sandbox's null device over a file of the kernel's, read-only.
    MaskFile {
        /// Absolute path inside; nothing is done where there is none.
        path: String,
    },
    /// A path made read-only.
    ReadOnly {
        /// Absolute path inside; nothing is done where there is none.
        path: String,
    },
    /// Ping without `CAP_NET_RAW`: `net.ipv4.ping_group_range`. Before `/proc/sys` is made read-only.
    AllowPing {
        /// Groups of the namespace.
        groups: u32,
    },
    /// Make the mount that was entered last `/` and detach what it lies on: the host's tree, so that no path of it can be named.
    Pivot,
    /// Make the mount that was entered last `/`. What it lies on stays below it, and no path leads there: the scaffold, which is
    /// this sandbox's own and empty. A second [`SetupOp::Pivot`] would look at every task of the machine once more (`chroot_fs_refs`).
    ChangeRoot,
    /// Have the kernel look these up: the first to name a file in a fresh overlay waits ten times as long as the next. Whether they
    /// are there does not matter.
    LookUp(Vec<String>),
    /// Host name of the UTS namespace.
    Hostname(String),
    /// Set `lo` up in the own network namespace. Needs `CAP_NET_ADMIN`.
    Loopback,
    /// Make the device of the own network namespace, for the host. Before [`SetupOp::Pivot`]: the node is the host's.
    NetworkDevice(NetworkDevice),
    /// A file, in place of whatever is there. After [`SetupOp::ChangeRoot`]: links of the image lead nowhere else.
    File {
        /// Absolute path inside.
        path: String,
        /// What it holds.
        content: String,
    },
    /// Make the working directory.
    Workdir(String),
    /// A resource limit.
    Limit {
        /// `RLIMIT_*` by its name without the prefix.
        name: String,
        /// Soft and hard value.
        value: u64,
    },
    /// A new session keyring: keyrings are not namespaced.
    Keyring,
    /// What exec may ever give: these, by name. While PID 1 has `CAP_SETPCAP`.
    CapabilitiesBound(Vec<String>),
    /// Reduce capabilities to these, by name. After everything that mounts.
    Capabilities(Vec<String>),
    /// Not dumpable (nobody reads PID 1's memory), dies with the zygote. After the last change of ids, which clears both,
    /// as would one of capabilities that adds some.
    Guard,
    /// Give up what Landlock can take. After [`SetupOp::ChangeRoot`]: a domain cannot mount.
    Landlock {
        /// Version of the kernel's interface.
        version: u32,
        /// TCP, too.
        tcp: bool,
    },
    /// Install filters. [`FilterSet::SetupOnly`] and those behind it last: they refuse most of the steps above.
    Seccomp(FilterSet),
}

/// Which seccomp filters PID 1 installs on top of those it inherits; see [`crate::policy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterSet {
    /// Unknown calls and clone3 "not implemented".
    Unknown,
    /// What only PID 1 needed: mounts and namespaces refused.
    SetupOnly,
    /// What a profile refuses beside the default.
    Profile(Profile),
    /// All of these and those of the zygote, which has installed none, in one filter. The host is asked
    /// to refuse each call, and so learns of it.
    Reported(Profile),
}

/// What is refused beside the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What the strict profile refuses.
    pub strict: bool,
    /// Numbers of more calls.
    pub deny: Vec<u32>,
}

/// The step that makes a network device, whoever does it.
pub const DEVICE_STEP: &str = "make the network device";

/// Names a step in errors and timings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step(pub String);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SetupOp {
    /// Its name with the object it acts on.
    #[must_use]
    pub fn step(&self) -> Step {
        let name = match self {
            Self::BecomeRoot { .. } => "become root of the user namespace".to_owned(),
            Self::Scaffold { .. } => "mount a scaffold".to_owned(),
            Self::Mount { path } => format!("mount {path}"),
            Self::EnterRoot => "attach the root file system".to_owned(),
            Self::Layers => "keep the layers of the root".to_owned(),
            Self::Move { path } => format!("move {path}"),
            Self::Proc => "mount /proc".to_owned(),
            Self::Tmpfs { target, .. } => format!("mount tmpfs on {target}"),
            Self::Resize { target, .. } => format!("resize {target}"),
            Self::Device { name, .. } => format!("bind /dev/{name}"),
            Self::Symlink { path, .. } => format!("link {path}"),
            Self::Devpts { .. } => "mount /dev/pts".to_owned(),
            Self::Bind { target } => format!("bind {target}"),
            Self::EmptyDirectory { path } => format!("hide {path}"),
            Self::MaskFile { path } => format!("mask {path}"),
            Self::ReadOnly { path } => format!("make {path} read-only"),
            Self::AllowPing { .. } => "allow ping".to_owned(),
            Self::Pivot => "leave the host's tree".to_owned(),
            Self::ChangeRoot => "change to the new root".to_owned(),
            Self::LookUp(_) => "look up programs".to_owned(),
            Self::Hostname(_) => "set the host name".to_owned(),
            Self::Loopback => "set lo up".to_owned(),
            Self::NetworkDevice(_) => DEVICE_STEP.to_owned(),
            Self::File { path, .. } => format!("write {path}"),
            Self::Workdir(path) => format!("make {path}"),
            Self::Limit { name, .. } => format!("set RLIMIT_{name}"),
            Self::Keyring => "join a new session keyring".to_owned(),
            Self::CapabilitiesBound(_) => "bound capabilities".to_owned(),
            Self::Capabilities(_) => "reduce capabilities".to_owned(),
            Self::Guard => "guard PID 1".to_owned(),
            Self::Landlock { .. } => "give up rights through Landlock".to_owned(),
            Self::Seccomp(_) => "install seccomp filters".to_owned(),
        };
        Step(name)
    }
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupFailure {
    /// Which.
    pub step: Step,
    /// What the kernel said, in words.
    pub error: String,
    /// Its number, when there is one.
    pub errno: Option<i32>,
}

impl fmt::Display for SetupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}
