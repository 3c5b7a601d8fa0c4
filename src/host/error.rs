//! What can go wrong on the host: never the model's business.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use crate::net::rules::RuleError;
use crate::outcome::{Cause, Outcome};
use crate::plan::PlanError;
use crate::spec::Usage;
use crate::wire::SetupFailure;

/// A failure of the host or of our own code.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or directory of ours.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Starting or talking to the zygote.
    #[error("{0}")]
    Zygote(&'static str, #[source] io::Error),
    /// The zygote did not come up, or is gone.
    #[error("the zygote {0}")]
    ZygoteGone(String),
    /// The program of the caller does not know how to be a zygote.
    #[error("this program was started as a zygote and does not behave like one")]
    NotHooked,
    /// A step of a sandbox's set-up was refused.
    #[error("set up the sandbox: {0}")]
    Setup(SetupFailure),
    /// A deadline passed.
    #[error("{0} took longer than {1} s")]
    TimedOut(&'static str, u64),
    /// No network device can be made here.
    #[error("open {}", super::network::NODE)]
    NoDevice(#[source] io::Error),
    /// The engine of sandboxes' networks, or the list of this host's addresses.
    #[error("serve the sandbox's network")]
    Network(#[source] io::Error),
    /// The rules of the network are none.
    #[error("rules of the network: {0}")]
    Rules(#[from] RuleError),
    /// The request contradicts itself.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// All ranges of ids are in use.
    #[error("all {0} ranges of ids are in use")]
    NoIds(u32),
    /// A limit that was required cannot be set here.
    #[error("this host cannot enforce: {0}")]
    Unenforceable(String),
    /// A writable layer on disk was asked for, and the launcher was given no directory for it.
    #[error("no directory for writable layers on disk")]
    NoUpperDirectory,
    /// Id maps of an ordinary user.
    #[error("newuidmap or newgidmap failed: {0}")]
    IdMap(String),
    /// After a sandbox's end something of it was still there.
    #[error("left behind by a sandbox: {}", .0.left_behind.unwrap_or_default())]
    LeftOver(Box<Usage>, #[source] Option<io::Error>),
}

impl HostError {
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Whose doing it is: never the model's.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let cause = match self {
            Self::File { source, .. }
            | Self::Zygote(_, source)
            | Self::NoDevice(source)
            | Self::Network(source) => Cause::of_errno(source.raw_os_error()),
            Self::Setup(failure) => Cause::of_errno(failure.errno),
            Self::ZygoteGone(_) => Cause::ZygoteGone,
            Self::TimedOut(..) => Cause::TimedOut,
            Self::LeftOver(..) => Cause::LeftBehind,
            Self::NotHooked
            | Self::Plan(_)
            | Self::Rules(_)
            | Self::NoIds(_)
            | Self::Unenforceable(_)
            | Self::NoUpperDirectory
            | Self::IdMap(_) => Cause::Other,
        };
        Outcome::infrastructure(cause, self.to_string())
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let fixed = match self {
            Self::File { source, .. } | Self::Zygote(_, source)
                if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) =>
            {
                Some("raise the limit of open files (`ulimit -Hn`)")
            }
            Self::Setup(failure) if failure.errno == Some(libc::EAGAIN) => {
                Some("no process is to be had: see `ulimit -u` and the pids.max of this cgroup")
            }
            Self::NoDevice(error) => {
                let (_, mend) = super::probe::no_device(error);
                return Some(format!("{mend}; or take --net none").into());
            }
            Self::Setup(failure) => return Some(super::probe::explain(failure).into()),
            Self::ZygoteGone(_) | Self::Zygote(..) | Self::IdMap(_) => {
                Some("run `llm-in-sandbox doctor`")
            }
            Self::Unenforceable(_) => {
                Some("see `llm-in-sandbox doctor`; --no-disk-limit lifts that of a disk upper")
            }
            Self::NotHooked => {
                Some("call `llm_in_sandbox::zygote_entry` first in `main`, or name the program")
            }
            Self::File { .. }
            | Self::Network(_)
            | Self::Rules(_)
            | Self::TimedOut(..)
            | Self::Plan(_)
            | Self::NoIds(_)
            | Self::NoUpperDirectory => None,
            Self::LeftOver(..) => Some("run `llm-in-sandbox gc`"),
        };
        fixed.map(Cow::Borrowed)
    }
}
