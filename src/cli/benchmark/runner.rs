//! The flags of `benchmark` that say how the work goes on, and what the model does without.

use std::time::Duration;

use clap::Args;

use super::super::run;
use crate::agent::Ablation;
use crate::settings::SettingsError;

/// A sample that waits for one thing as long is told of.
const STALLED_AFTER: f64 = 300.0;

/// Flags.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub(super) struct RunnerArgs {
    /// What the model has to do without: no-network, no-files, no-execution; several between commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) ablation: Vec<Ablation>,
    /// Seconds the run may take; then it ends in order, and `--resume` goes on [default: no limit]
    #[arg(long, value_name = "S")]
    pub(super) run_timeout: Option<f64>,
    /// Tell of a sample that has waited for one thing for so many seconds [default: 300]
    #[arg(long, value_name = "S")]
    pub(super) stalled_after: Option<f64>,
    /// Events as lines of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

impl RunnerArgs {
    /// Sorted, each once.
    pub(super) fn ablations(&self) -> Vec<Ablation> {
        let mut ablations = self.ablation.clone();
        ablations.sort_unstable();
        ablations.dedup();
        ablations
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, SettingsError> {
        let limit = self.run_timeout;
        limit.map(|s| run::seconds("--run_timeout", s)).transpose()
    }

    pub(super) fn stalled_after(&self) -> Result<Duration, SettingsError> {
        let limit = self.stalled_after.unwrap_or(STALLED_AFTER);
        run::seconds("--stalled_after", limit)
    }
}
