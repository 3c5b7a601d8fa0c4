//! The host's side: starts the zygote, allots ids and cgroups, drives sandboxes. Asynchronous; forks nothing but, at the start of a program of root for one sandbox, its zygote.

mod ahead;
mod attach;
mod cgroup;
mod copying;
mod effects;
mod error;
mod exec;
mod files;
mod idle;
mod ids;
mod in_force;
mod init;
mod launcher;
mod leftover;
mod link;
mod network;
pub(crate) mod output;
pub mod probe;
mod process;
mod registry;
mod remains;
mod sandbox;
pub(crate) mod shell;
mod slot;
mod strikes;
mod upper;
mod walls;
mod zygote;

pub use attach::{Door, SHELL, Visit, enter};
pub use cgroup::{Cgroups, Controllers};
pub use copying::CopiedOut;
pub use error::HostError;
pub use in_force::InForce;
pub use launcher::{Launcher, LauncherConfig};
pub use process::{Patience, Process, Spawn, Terminal};
pub use registry::{EntryInfo, Reclaimed, Registry};
pub use remains::Remains;
pub use sandbox::Sandbox;
pub use shell::ShellMode;
pub use walls::Walls;
pub use zygote::ZygoteProcess;

/// Environment of every process inside, unless the image or the caller says otherwise.
///
/// No program asks a question or draws on a terminal that nobody looks at.
pub const DEFAULT_ENV: [(&str, &str); 16] = [
    (
        "PATH",
        "/root/.local/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("TERM", "dumb"),
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("MANPAGER", "cat"),
    ("PYTHONUNBUFFERED", "1"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("NO_COLOR", "1"),
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("PIP_ROOT_USER_ACTION", "ignore"),
    ("PIP_NO_WARN_SCRIPT_LOCATION", "1"),
    ("PIP_PROGRESS_BAR", "off"),
];
