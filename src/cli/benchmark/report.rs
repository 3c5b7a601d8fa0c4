//! `report`: what a run came to, as Markdown and JSON.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::output::{result, to_json};
use super::settle::{self, Error};
use super::tell_error;
use crate::bench::{self, Ledger, Manifest, Side};
use crate::task::Task;

/// Flags of `report`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(in crate::cli) struct ReportArgs {
    /// Folder of a run
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Another run to compare it with, problem by problem
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,
}

/// Carries it out; gives the exit code.
pub(in crate::cli) fn report(args: &ReportArgs) -> u8 {
    match written(args) {
        Ok(()) => 0,
        Err(error) => tell_error(&error),
    }
}

/// A run that can be read.
struct Opened {
    ledger: Ledger,
    manifest: Manifest,
    task: Task,
    jobs: Vec<bench::Job>,
}

impl Opened {
    fn new(folder: &Path) -> Result<Self, Error> {
        let (manifest, task) = settle::reopen(folder, None)?;
        Ok(Self {
            ledger: Ledger::open(folder)?,
            jobs: bench::jobs(&task, &manifest),
            manifest,
            task,
        })
    }

    fn side(&self) -> Side<'_> {
        Side {
            ledger: &self.ledger,
            jobs: &self.jobs,
            task: &self.task,
        }
    }
}

fn written(args: &ReportArgs) -> Result<(), Error> {
    let mut run = Opened::new(&args.folder)?;
    let mut report = bench::report(&mut run.ledger, &run.manifest, &run.task, &run.jobs)?;
    if let Some(other) = &args.other {
        let other = Opened::new(other)?;
        report.comparison = Some(bench::compare(run.side(), other.side()));
    }
    let json = to_json(&report).unwrap_or_default();
    for (name, text) in [("report.json", json), ("report.md", report.to_markdown())] {
        let path = args.folder.join(name);
        std::fs::write(&path, text).map_err(|source| Error::folder(&path, source))?;
        result(&path.display().to_string());
    }
    Ok(())
}
