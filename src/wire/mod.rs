//! The only bridge between the processes: what host, zygote and PID 1 say to each other.
//!
//! Messages are JSON in packets of [`crate::sys::channel::Channel`]. The host and the zygote are of
//! one binary and trust each other. PID 1 runs our code beside hostile code: the host bounds and
//! checks all that it says, and an unknown word ends the sandbox.

mod bytes;
mod ops;
mod used_up;

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use bytes::ByteString;
pub use ops::{
    DEVICE_STEP, FilterSet, Groundwork, IdMap, MountSource, Mounts, NetworkDevice, NetworkSource,
    Profile, RootSource, Setup, SetupFailure, SetupOp, SetupPlan, Step, UpperSource,
};
pub use used_up::{Space, TERMINALS, UsedUp};

pub use crate::spec::{
    Bound, Change, ChangedKind, DirectoryChanges, Effects, FileChange, FileChanges, ProcessCounts,
};
use crate::tree::{PackOptions, UnpackPolicy};

/// Chosen by the host: names one process, command or file operation of a sandbox.
pub type RequestId = u64;

/// Host to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToZygote {
    /// Begin a sandbox. Descriptors: PID 1's end of its control channel; those of its cgroup.
    Begin {
        /// Names the sandbox.
        id: RequestId,
        /// What can be done now.
        groundwork: Groundwork,
        /// How it gets into its cgroup.
        cgroup: CgroupEntry,
        /// Its mounts, if they are known already: no [`ToZygote::Mount`] follows.
        mounts: Option<Mounts>,
    },
    /// Give it its mounts.
    Mount {
        /// Names the sandbox.
        id: RequestId,
        /// Which.
        mounts: Mounts,
    },
    /// Delete a tree of a stored image or a writable layer: its files may belong to ids that only the
    /// zygote's namespace has.
    Remove {
        /// Names the request.
        id: RequestId,
        /// The tree.
        path: PathBuf,
    },
    /// Make networks ahead with this device, if with one.
    Prepare {
        /// What the next sandbox is expected to have.
        device: Option<NetworkDevice>,
    },
    /// The id maps of the zygote's own user namespace are written.
    MapsWritten,
}

/// How a new process gets into its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupEntry {
    /// It stays in the zygote's.
    None,
    /// It is born there: one descriptor, of a directory (version 2, Linux 5.7).
    Born,
    /// It writes itself into files `tasks`, one descriptor each (version 1). A thread that moves itself
    /// need not wait for the kernel's `cgroup_threadgroup_rwsem`, which takes anybody else 10 ms.
    Writes,
}

/// Zygote to host.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromZygote {
    /// It sits in its new user namespace and waits for its id maps.
    NeedMaps {
        /// Its pid.
        pid: i32,
    },
    /// It is ready to start sandboxes.
    Ready,
    /// A sandbox's PID 1 runs. Descriptors: its pidfd; its network device, where the zygote made one.
    Begun {
        /// Of the request.
        id: RequestId,
        /// In the zygote's pid namespace.
        pid: i32,
    },
    /// A sandbox could not be begun or finished; whatever there was of it is being killed.
    SpawnFailed {
        /// Of the request; absent when the zygote itself could not start.
        id: Option<RequestId>,
        /// Why.
        failure: SetupFailure,
    },
    /// A tree is deleted, or why not.
    Removed {
        /// Of the request.
        id: RequestId,
        /// What the kernel said, in words.
        error: Option<String>,
    },
    /// A sandbox is gone, with all its processes.
    Exited {
        /// Of the request.
        id: RequestId,
        /// CPU time of all its processes that were waited for, microseconds.
        cpu_us: u64,
    },
}

/// Host to PID 1.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Enter the root now, and do the steps behind it that are known. The first message, where they are known before the rest.
    Prepare(Vec<SetupOp>),
    /// Finish the sandbox. The next message, and neither ever again.
    SetUp(Setup),
    /// Run a program. Descriptors: its stdin, where that is not the sandbox's null device, stdout, stderr.
    Exec(Exec),
    /// Kill every process of a running program's session.
    Kill {
        /// Of the program.
        id: RequestId,
        /// Signal number.
        signal: i32,
    },
    /// Do something to a file. Descriptors: where the reply goes; for contents, where data comes from or goes.
    File {
        /// Names the operation.
        id: RequestId,
        /// What to do.
        op: FileOp,
    },
    /// Start the persistent shell. Descriptor: the socket that it reads its lines from and tells their status to.
    StartShell {
        /// Names the shell.
        id: RequestId,
        /// Environment beside that of the sandbox.
        env: Vec<(ByteString, ByteString)>,
        /// Where it starts.
        cwd: ByteString,
    },
    /// Take down what runs before the shell's next command, and tell what the one before used up.
    PrepareCommand {
        /// Names the request.
        id: RequestId,
        /// Make new pipes for its output and errors.
        pipes: bool,
        /// Look at the processes, too, which takes longer.
        processes: bool,
    },
    /// Kill what the shell's command began: never older jobs.
    KillCommand {
        /// Names the request.
        id: RequestId,
        /// When it began, in clock ticks since boot. What ran at the last [`ToInit::PrepareCommand`] is older, whatever its tick.
        began: u64,
        /// Signal number.
        signal: i32,
        /// The shell itself, too.
        shell: bool,
    },
    /// Tell whether the shell waits for a line.
    IsShellIdle {
        /// Names the request.
        id: RequestId,
    },
    /// Tell what the sandbox holds.
    Usage {
        /// Names the request.
        id: RequestId,
    },
    /// The shell's next command begins: look at the programs from now on.
    CommandBegins,
    /// Tell what happened since this was asked last. Descriptor: where an [`Effects`] goes; nothing does when no account
    /// is kept.
    Effects {
        /// Names the request.
        id: RequestId,
    },
    /// Tell how much CPU time was used so far.
    CpuTime {
        /// Names the request.
        id: RequestId,
    },
    /// As [`ToInit::Exec`], and the sandbox ends with this program.
    ExecOnly(Exec),
}

/// A program to run inside.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Names it.
    pub id: RequestId,
    /// Program and arguments.
    pub argv: Vec<ByteString>,
    /// Added to the environment of the sandbox.
    pub env: Vec<(ByteString, ByteString)>,
    /// Working directory.
    pub cwd: Option<ByteString>,
    /// Standard input is a terminal of the sandbox, made for this program; its master comes with [`FromInit::Terminal`].
    pub terminal: bool,
}

/// PID 1 to host.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// Every step of the plan is done. Descriptors, where the plan has them: the device of [`SetupOp::NetworkDevice`],
    /// the listener of [`FilterSet::Reported`].
    Ready,
    /// A step failed.
    Failed(SetupFailure),
    /// A program, shell or file operation ended.
    Exited {
        /// Its name.
        id: RequestId,
        /// `Ok` is an exit code, `Err` a signal.
        status: Result<i32, i32>,
        /// At its end.
        #[serde(default, skip_serializing_if = "UsedUp::is_nothing")]
        used_up: UsedUp,
    },
    /// A request could not be carried out.
    Refused {
        /// Its name.
        id: RequestId,
        /// Why.
        reason: String,
        /// The kernel's number for it, when there is one.
        errno: Option<i32>,
        /// Just then.
        used_up: UsedUp,
    },
    /// A terminal was made. Descriptor: its master.
    Terminal {
        /// Of the program.
        id: RequestId,
    },
    /// The shell runs. Descriptors: master of its terminal, its commands' stdout, their stderr (to read).
    ShellStarted {
        /// Its name.
        id: RequestId,
    },
    /// Answer to [`ToInit::PrepareCommand`]. Descriptors, if new ones were wanted: the stdout and stderr of commands (to read).
    CommandPrepared {
        /// Of the request.
        id: RequestId,
        /// Just before.
        #[serde(default, skip_serializing_if = "UsedUp::is_nothing")]
        used_up: UsedUp,
    },
    /// Answer to [`ToInit::KillCommand`].
    Killed {
        /// Of the request.
        id: RequestId,
    },
    /// Answer to [`ToInit::IsShellIdle`].
    ShellIdle {
        /// Of the request.
        id: RequestId,
        /// The shell is between two lines, not in a command.
        idle: bool,
    },
    /// Answer to [`ToInit::Usage`].
    Usage {
        /// Of the request.
        id: RequestId,
        /// Bytes held by the writable layer.
        written_bytes: u64,
        /// Now.
        used_up: UsedUp,
    },
    /// Answer to [`ToInit::CpuTime`].
    CpuTime {
        /// Of the request.
        id: RequestId,
        /// Of all processes, those that ended included, in clock ticks.
        ticks: u64,
    },
}

impl FromInit {
    /// Which request this belongs to; 0 for what PID 1 says of itself.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::Ready | Self::Failed(_) => 0,
            Self::Exited { id, .. }
            | Self::Refused { id, .. }
            | Self::Terminal { id }
            | Self::ShellStarted { id }
            | Self::CommandPrepared { id, .. }
            | Self::Killed { id }
            | Self::ShellIdle { id, .. }
            | Self::Usage { id, .. }
            | Self::CpuTime { id, .. } => *id,
        }
    }
}

/// First argument of the program that is to be the zygote.
pub const ZYGOTE: &str = "__zygote";

/// Where PID 1 keeps the pipes of the persistent shell's commands.
pub const SHELL_DIRECTORY: &str = "/run/shell-io";

/// One file operation; see [`crate::env::Env`] for what each promises.
#[derive(Debug, Serialize, Deserialize)]
pub enum FileOp {
    /// Contents go to the second descriptor.
    Read {
        /// Which file.
        path: ByteString,
        /// Its largest size.
        max_bytes: u64,
    },
    /// Contents come from the second descriptor.
    Write {
        /// Which file.
        path: ByteString,
        /// It must not exist.
        exclusive: bool,
        /// Stop, and say so, after this many bytes.
        max_bytes: u64,
    },
    /// One path's facts.
    Stat {
        /// Which path.
        path: ByteString,
    },
    /// A tree's names.
    List {
        /// Which directory.
        path: ByteString,
        /// Levels below it.
        depth: u32,
        /// Most entries.
        max_entries: usize,
    },
    /// A tar archive comes from the second descriptor.
    Unpack {
        /// Into which directory; made when missing.
        path: ByteString,
        /// What is let through.
        policy: UnpackPolicy,
    },
    /// A tar archive goes to the second descriptor.
    Pack {
        /// Which directory.
        path: ByteString,
        /// What is taken.
        options: PackOptions,
    },
    /// Every process is ended; then a layer with all that the sandbox has changed goes to the second descriptor.
    Seal {
        /// The root.
        path: ByteString,
        /// What is taken.
        options: PackOptions,
    },
}

impl FileOp {
    /// What it is about.
    #[must_use]
    pub fn path(&self) -> &ByteString {
        match self {
            Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::Stat { path }
            | Self::List { path, .. }
            | Self::Unpack { path, .. }
            | Self::Pack { path, .. }
            | Self::Seal { path, .. } => path,
        }
    }
}

/// What a file operation answers on its reply descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FileReply<T> {
    /// It is done.
    Done(T),
    /// The kernel refused: an errno.
    Errno(i32),
    /// It is larger than the bound: its size.
    TooLarge(u64),
    /// It is not a regular file.
    NotRegular,
    /// Another failure, in words.
    Failed(String),
}

/// One entry of a listing, or the answer to a stat.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to what was asked for.
    pub path: ByteString,
    /// `st_mode`, with the type bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
}

/// Serialises a message.
///
/// # Errors
/// Only for types that JSON cannot hold; ours can all be held.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(message)
}

/// Reads a message.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}
