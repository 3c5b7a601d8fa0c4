//! `report`: what a run came to, as one page, Markdown and JSON, alone or beside others.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::output::{result, to_json};
use super::settle::{self, Error};
use super::tell_error;
use crate::bench::{self, Ledger, Mode, Source, Trajectories};
use crate::image;

/// Flags of `report`.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(in crate::cli) struct ReportArgs {
    /// Folder of a run; the report is written into it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Other runs to put it beside, problem by problem
    #[arg(value_name = "OTHER", num_args = 1..=bench::MAX_OTHERS)]
    others: Vec<PathBuf>,
    /// Room for trajectories in the page, in MiB: what failed first, then the lowest scores
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(0..=1024))]
    trajectory_mib: u16,
}

/// Carries it out; gives the exit code.
pub(in crate::cli) fn report(args: &ReportArgs, state: Option<&Path>) -> u8 {
    match written(args, state) {
        Ok(()) => 0,
        Err(error) => tell_error(&error),
    }
}

fn open(folder: &Path, state: Option<&Path>) -> Result<Source, Error> {
    let (manifest, task) = settle::reopen(folder, None)?;
    Ok(Source {
        ledger: Ledger::open(folder)?,
        jobs: bench::jobs(&task, &manifest),
        image_bytes: image_bytes(&manifest, state),
        manifest,
        task,
    })
}

/// Size of the image that the run had, where it is still there: the report needs nothing else of it.
fn image_bytes(manifest: &bench::Manifest, state: Option<&Path>) -> Option<u64> {
    if manifest.config.mode == Mode::Llm {
        return None;
    }
    let digest = manifest.config.image_digest.as_ref()?;
    let state = image::state_dir(state).ok()?;
    // Nothing is made only to look.
    let store = state.is_dir().then(|| image::Store::open(&state).ok())??;
    let images = store.list().ok()?;
    let found = images.iter().find(|image| image.manifest.digest == *digest);
    found.map(|image| image.manifest.size_bytes)
}

fn written(args: &ReportArgs, state: Option<&Path>) -> Result<(), Error> {
    let mut run = open(&args.folder, state)?;
    let mut page = Trajectories::new(usize::from(args.trajectory_mib) << 20);
    let mut report = bench::report(&mut run, Some(&mut page))?;
    for other in &args.others {
        let mut other = open(other, state)?;
        report.others.push(bench::beside(&run, &mut other)?);
    }
    let json = to_json(&report).unwrap_or_default();
    write(&args.folder.join("report.json"), |out| {
        out.write_all(json.as_bytes())
    })?;
    write(&args.folder.join("report.md"), |out| {
        out.write_all(report.to_markdown().as_bytes())
    })?;
    write(&args.folder.join("report.html"), |out| {
        report.to_html(&page, out)
    })
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()
    });
    written.map_err(|source| Error::folder(path, source))?;
    result(&path.display().to_string());
    Ok(())
}
