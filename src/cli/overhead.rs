//! `overhead`: what a sandbox costs on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::CliError;
use super::output;
use crate::exit;
use crate::image::{self, DEFAULT_NAME, Store};
use crate::overhead::{self, Options, Phase};

/// Arguments of `overhead`.
#[derive(Debug, Args)]
pub(super) struct OverheadArgs {
    /// Samples of each time
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..))]
    runs: u16,
    /// What to measure, separated by commas: noise, start, warm, exec, floor, data, teardown, process, sparse, rate, host, disk, density [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = phase, hide_default_value = true)]
    phases: Vec<Phase>,
    /// How many sandboxes live at once when their memory is measured; several, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100")]
    density: Vec<usize>,
    /// Peers to look for, separated by commas; `none` for none [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = peer)]
    peers: Vec<String>,
    /// Image of the store
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    image: String,
    /// Draw starts and commands against peers into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure also on a machine that has other work
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures; 3 where the machine has no time for it.
pub(super) async fn overhead(args: OverheadArgs, state: Option<&Path>) -> Result<u8, CliError> {
    let state = image::state_dir(state)?;
    let store = Store::open(&state)?;
    let found = store.find(super::image::local_name(&args.image))?;
    let Some(image) = found else {
        output::note(&format!(
            "error: there is no image `{}`\nhint: llm-in-sandbox image build",
            args.image
        ));
        return Ok(exit::HOST);
    };
    let _hold = store.hold(&image)?;
    if let Some(why) = overhead::busy() {
        if !args.force {
            output::note(&format!(
                "error: {why}: the figures would be those of the others\nhint: wait, or --force"
            ));
            return Ok(exit::HOST);
        }
        output::note(&format!("warning: {why}"));
    }
    let options = Options {
        runs: args.runs.into(),
        phases: match args.phases.as_slice() {
            [] => Phase::ALL.to_vec(),
            some => some.to_vec(),
        },
        density: args.density,
        program: std::env::current_exe().map_err(|e| CliError::Io("find this program", e))?,
        spec: image.spec(),
        rootfs: image.rootfs.clone(),
        peers: (!args.peers.is_empty()).then_some(args.peers),
        upper_directory: state.join("uppers"),
        without: Vec::new(),
    };
    let tell = |phase: &str| output::note(&format!("measuring: {phase}"));
    let report = overhead::measure(&options, &tell).await?;
    if let Some(why) = overhead::used_by_others() {
        output::note(&format!("warning: now {why}: was it so all the time?"));
    }
    if let Some(file) = &args.plot {
        match overhead::plot::svg(&report) {
            Some(svg) => fs::write(file, svg).map_err(|e| CliError::Io("write the plot", e))?,
            None => output::note(
                "warning: no plot: it needs the phases `start` and `process`, and a peer",
            ),
        }
    }
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&overhead::table::render(&report));
    }
    Ok(0)
}

fn phase(text: &str) -> Result<Phase, String> {
    let found = Phase::ALL.into_iter().find(|phase| phase.name() == text);
    found.ok_or_else(|| {
        let names = Phase::ALL.map(Phase::name).join(", ");
        format!("{text} is none of {names}")
    })
}

fn peer(text: &str) -> Result<String, String> {
    let names = overhead::peer_names();
    if text == "none" || names.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("{text} is none of none, {}", names.join(", ")))
}
