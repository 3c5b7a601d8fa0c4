//! `ps` and `gc`.

use std::path::Path;

use clap::Args;

use super::error::CliError;
use super::output;
use super::sanitize::one_line;
use crate::host::{Reclaimed, Registry};
use crate::image::{self, Store, state_dir};

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists running sandboxes of this user.
pub(super) fn ps(args: &PsArgs) -> Result<u8, CliError> {
    let running = Registry::open()?.list()?;
    if args.json {
        output::json(&running)?;
        return Ok(0);
    }
    output::result(&format!(
        "{:12} {:>8} {:>8}  {}",
        "ID", "HOST", "PID 1", "COMMAND"
    ));
    for info in running {
        let init = info
            .init_pid
            .map_or_else(String::new, |pid| pid.to_string());
        let purpose: String = one_line(&info.purpose).chars().take(60).collect();
        output::result(&format!(
            "{:12} {:>8} {init:>8}  {purpose}",
            info.id, info.host_pid
        ));
    }
    Ok(0)
}

/// Takes away what killed processes have left: cgroups, directories, half-made images.
pub(super) async fn gc(state: Option<&Path>) -> Result<u8, CliError> {
    let (reclaimed, drafts) = sweep(state).await?;
    for failed in &reclaimed.failed {
        output::note(&one_line(&format!("not removed: {failed}")));
    }
    output::result(&format!(
        "{} dead sandboxes and {drafts} unfinished images removed",
        reclaimed.sandboxes.len()
    ));
    Ok(u8::from(!reclaimed.failed.is_empty()))
}

/// The work of [`gc`]: what went, and how many unfinished images.
pub(super) async fn sweep(state: Option<&Path>) -> Result<(Reclaimed, usize), CliError> {
    let reclaimed = Registry::open()?.reclaim()?;
    let state = state_dir(state)?;
    let drafts = if state.exists() {
        let store = Store::open(&state)?;
        store.reclaimed() + image::reclaim(&store, super::sandbox::launcher_config()).await?
    } else {
        0
    };
    Ok((reclaimed, drafts))
}
