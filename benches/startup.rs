//! How long a sandbox takes: `llm-in-sandbox overhead` as a benchmark.
//!
//! `cargo bench --bench startup [-- N]`, as root or as an ordinary user, on an idle machine. Needs the
//! default image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of its own for people at a terminal"
)]

mod common;

use llm_in_sandbox::overhead::{self, Options, Phase, table};

use common::{PROGRAM, image, rounds, runtime};

fn main() {
    llm_in_sandbox::sys::process::raise_open_files().unwrap();
    let image = image();
    let uppers = tempfile::tempdir().unwrap();
    let options = Options {
        runs: rounds(),
        phases: Phase::ALL.to_vec(),
        density: vec![rounds().min(100)],
        program: PROGRAM.into(),
        spec: image.spec(),
        rootfs: image.rootfs,
        peers: None,
        upper_directory: uppers.path().to_owned(),
        without: Vec::new(),
    };
    if let Some(why) = overhead::busy() {
        println!("warning: {why}: the figures are also those of the others");
    }
    let measured = runtime().block_on(overhead::measure(&options, &|phase| println!("{phase}")));
    println!("\n{}", table::render(&measured.unwrap()));
}
