//! `merge`: the shards of one run become one run.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::super::output::result;
use super::super::run;
use super::settle::{self, Error};
use super::{make_parts, summary, summary_lines, tell_error};
use crate::bench::{self, Ledger};

/// Flags of `merge`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(in crate::cli) struct MergeArgs {
    /// Folders of the shards
    #[arg(value_name = "DIR", required = true)]
    shards: Vec<PathBuf>,
    /// Directory that gets a folder for the whole run
    #[arg(long, value_name = "DIR", default_value = "output")]
    output_dir: PathBuf,
}

/// Carries it out; gives the exit code: 0 when every sample has a result.
pub(in crate::cli) fn merge(args: &MergeArgs) -> u8 {
    merged(args).unwrap_or_else(|error| tell_error(&error))
}

fn merged(args: &MergeArgs) -> Result<u8, Error> {
    let mut whole = None;
    let mut judge = None;
    for shard in &args.shards {
        let opened = settle::reopen(shard, None)?;
        judge = judge.or_else(|| opened.0.judge.clone());
        whole.get_or_insert(opened);
    }
    let Some((mut manifest, task)) = whole else {
        return Err(run::value("DIR", "no shard is named".into()).into());
    };
    manifest.shard = None;
    manifest.judge = judge;
    let jobs = bench::jobs(&task, &manifest);
    let suffix = summary::suffix(&manifest);
    let folder = run::make_folder(&args.output_dir, SystemTime::now(), &suffix)?;
    let mut ledger = Ledger::create(&folder, &manifest)?;
    make_parts(&folder)?;
    bench::merge(&mut ledger, &manifest, &jobs, &args.shards)?;
    let summary = bench::write_results(&mut ledger, &manifest, &task, &jobs, Duration::ZERO)?;
    for line in summary_lines(&summary) {
        result(&line);
    }
    result(&format!("results:    {}", folder.display()));
    let complete = summary.missing + summary.infrastructure_failures == 0;
    Ok(u8::from(!complete))
}
