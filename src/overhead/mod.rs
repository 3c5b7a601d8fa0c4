//! What a sandbox costs: the one measurement behind `llm-in-sandbox overhead` and `benches/startup.rs`.
//!
//! All times stand beside E, the time of posix_spawn(3) and wait of `/bin/true`, which alternates with
//! every sample: ratios carry over to other machines, milliseconds do not. Whatever is timed has
//! passed the [`conformance`] check in the same run, or there is no figure.

pub mod bars;
mod beside;
mod conformance;
mod density;
mod floor;
mod machine;
mod peers;
mod phases;
pub mod plot;
mod rate;
mod sample;
mod scene;
pub mod table;

use std::path::PathBuf;

use serde::Serialize;

use crate::env::EnvError;
use crate::host::HostError;
use crate::spec::SandboxSpec;

pub use bars::Verdict;
pub use beside::peer_names;
pub use conformance::{Conformance, Wall};
pub use machine::{Machine, busy, used_by_others};
pub use sample::Figure;

/// What is measured, and on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Samples of each time.
    pub runs: usize,
    /// What to measure.
    pub phases: Vec<Phase>,
    /// How many sandboxes live at once when their memory is measured; a row each.
    pub density: Vec<usize>,
    /// This program: the zygote's, and the one that is measured as a whole process.
    pub program: PathBuf,
    /// The sandbox.
    pub spec: SandboxSpec,
    /// Root of the spec's image.
    pub rootfs: PathBuf,
    /// The peers to look for; all when absent.
    pub peers: Option<Vec<String>>,
    /// Where writable layers on disk are made.
    pub upper_directory: PathBuf,
    /// See [`LauncherConfig`](crate::host::LauncherConfig): only for the tests that a sandbox without a wall is not timed.
    #[doc(hidden)]
    pub without: Vec<String>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The same measured twice, which shows the noise.
    Noise,
    /// Cold starts, to the ready PID 1, `/bin/true`, the shell and Python.
    Start,
    /// The same with a pause before each; also of whole processes, where these are measured.
    Sparse,
    /// The hand-out of a sandbox whose shell is ready.
    Warm,
    /// Commands in a running sandbox.
    Exec,
    /// The same in bash alone, and its start: what no sandbox can do faster.
    Floor,
    /// A file of 1 MiB, in and out, and 100 MB of output.
    Data,
    /// From the order to end until nothing is left.
    Teardown,
    /// `exec` and each peer as whole processes, in turn.
    Process,
    /// Full cycles a second; also of whole processes, where these are measured.
    Rate,
    /// Memory and start of many at once.
    Density,
    /// Bytes on disk.
    Disk,
    /// What the host process needs for 64 busy sandboxes.
    Host,
}

impl Phase {
    /// All, in the order of the run.
    pub const ALL: [Self; 13] = [
        Self::Noise,
        Self::Start,
        Self::Warm,
        Self::Exec,
        Self::Floor,
        Self::Data,
        Self::Teardown,
        Self::Process,
        Self::Sparse,
        Self::Rate,
        Self::Host,
        Self::Disk,
        Self::Density,
    ];

    /// As in the command's flag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Start => "start",
            Self::Sparse => "sparse",
            Self::Warm => "warm",
            Self::Exec => "exec",
            Self::Floor => "floor",
            Self::Data => "data",
            Self::Teardown => "teardown",
            Self::Process => "process",
            Self::Rate => "rate",
            Self::Density => "density",
            Self::Disk => "disk",
            Self::Host => "host",
        }
    }
}

/// What a run has found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// Walls and limits of each configuration that was timed.
    pub conformance: Vec<Conformance>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// What they say of the bars.
    pub verdicts: Vec<Verdict>,
    /// What was not measured, and why.
    pub skipped: Vec<Skipped>,
}

/// Something that was not measured.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OverheadError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The sandbox.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A file or process of the host.
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
    /// A sandbox without a wall is not timed.
    #[error("{configuration} lacks a wall: {wall}; a figure without it would be worth nothing")]
    Wall {
        /// What was to be timed.
        configuration: String,
        /// What it lacks.
        wall: String,
    },
    /// What was timed did not do what it should.
    #[error("{0} did not do what is timed: {1}")]
    Failed(String, String),
}

impl OverheadError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io(what, error)
    }
}

/// Measures all that is asked for; tells what it is at.
///
/// # Errors
/// A sandbox did not start, lacks a wall, or did not do what was timed.
pub async fn measure(
    options: &Options,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, OverheadError> {
    let mut run = phases::Run::start(options).await?;
    for phase in Phase::ALL {
        if options.phases.contains(&phase) {
            tell(phase.name());
            Box::pin(run.phase(phase)).await?;
        }
    }
    let phases::Run {
        figures,
        conformance,
        skipped,
        ..
    } = run;
    let verdicts = bars::judge(&figures);
    Ok(Report {
        machine: Machine::here(),
        conformance,
        figures,
        verdicts,
        skipped,
    })
}
