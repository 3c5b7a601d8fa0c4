//! `ps` and `gc`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::output;
use super::sanitize::one_line;
use crate::host::{Reclaimed, Registry, Remains};
use crate::image::{self, Store, state_dir};
use crate::outcome::LeftBehind;
use crate::packages::{self, Choice, Swept};

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

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Cleaned {
    #[serde(flatten)]
    reclaimed: Reclaimed,
    unfinished_images: usize,
    packages: Swept,
    left_behind: LeftBehind,
}

/// Takes away what killed processes have left: cgroups, directories, half-made images; then counts
/// what is there of them all the same.
pub(super) async fn gc(args: &GcArgs, state: Option<&Path>) -> Result<u8, CliError> {
    let remains = Remains::of(&Registry::open()?)?;
    let (reclaimed, unfinished_images) = sweep(state).await?;
    let packages = sweep_packages(state)?;
    let left_behind = remains.count();
    let failed = !reclaimed.failed.is_empty() || left_behind.total > 0;
    if args.json {
        output::json(&Cleaned {
            reclaimed,
            unfinished_images,
            packages,
            left_behind,
        })?;
        return Ok(u8::from(failed));
    }
    for failed in &reclaimed.failed {
        output::note(&one_line(&format!("not removed: {failed}")));
    }
    if packages.unfinished > 0 {
        let unfinished = packages.unfinished;
        output::result(&format!(
            "{unfinished} unfinished downloads of packages removed"
        ));
    }
    output::result(&format!(
        "{} dead sandboxes and {unfinished_images} unfinished images removed\nleft behind: {left_behind}",
        reclaimed.sandboxes.len()
    ));
    Ok(u8::from(failed))
}

/// What killed processes left in the package cache of the state directory.
fn sweep_packages(state: Option<&Path>) -> Result<Swept, CliError> {
    let Some(directory) = Choice::On
        .directory(&state_dir(state)?)
        .filter(|path| path.exists())
    else {
        return Ok(Swept::default());
    };
    let store = packages::Store::open(&directory, packages::MAX_BYTES);
    let swept = store.and_then(|store| store.sweep());
    swept.map_err(|error| CliError::Io("clean up the package cache", error))
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
