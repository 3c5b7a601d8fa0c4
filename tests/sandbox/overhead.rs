//! The measurement of `llm-in-sandbox overhead`, through the library.

use llm_in_sandbox::overhead::{Options, OverheadError, Phase, Report, measure};

use llm_in_sandbox::spec::{Network, SandboxSpec};
use llm_in_sandbox::sys::process::raise_open_files;

use crate::fixture::{block_on, has, program, rootfs, spec};

/// The last is found on every host.
const PEERS: [&str; 3] = ["bubblewrap", "youki", "unshare"];

fn measured(
    phases: &[Phase],
    spec: SandboxSpec,
    without: &[&str],
) -> Result<Report, OverheadError> {
    raise_open_files().unwrap();
    let uppers = tempfile::tempdir().unwrap();
    let options = Options {
        runs: 3,
        phases: phases.to_vec(),
        density: vec![3],
        program: program(),
        spec,
        rootfs: rootfs(),
        peers: Some(PEERS.map(str::to_owned).to_vec()),
        upper_directory: uppers.path().to_owned(),
        without: without.iter().map(|&wall| wall.to_owned()).collect(),
    };
    block_on(measure(&options, &|_| {}))
}

fn refused(spec: SandboxSpec, without: &[&str], wall: &str) {
    match measured(&[Phase::Start], spec, without) {
        Err(OverheadError::Wall { wall: named, .. }) => {
            assert!(named.starts_with(wall), "{without:?}: {named}");
        }
        other => panic!("{without:?}: {other:?}"),
    }
}

#[test]
fn every_phase_gives_its_figures() {
    // Sixty-four sandboxes are more processes than a neighbour's limit, where limits are by user.
    let busy = has("every_phase_gives_its_figures: host", &["cgroup"]);
    let phases = Phase::ALL.into_iter();
    let phases: Vec<_> = phases
        .filter(|phase| busy || *phase != Phase::Host)
        .collect();
    let report = measured(&phases, spec(), &[]).unwrap();
    for phase in [
        "noise", "start", "warm", "exec", "floor", "data", "teardown", "process", "sparse", "rate",
        "host", "disk", "memory", "room", "nth", "down",
    ] {
        let dotted = format!("{phase}.");
        let found = report.figures.iter().filter(|f| f.key.starts_with(&dotted));
        let found: Vec<_> = found.collect();
        assert_eq!(found.is_empty(), phase == "host" && !busy, "{phase}");
        for figure in found {
            assert!(figure.n > 0 && figure.p50.is_finite(), "{figure:?}");
        }
    }
    let of = |name: &str| report.conformance.iter().find(|c| c.configuration == name);
    for ours in ["the library's sandboxes", "exec as a process"] {
        assert!(of(ours).unwrap().walls.iter().all(|wall| wall.holds));
    }
    for peer in PEERS {
        let told = report.skipped.iter().any(|skipped| skipped.what == peer);
        let figure = format!("process.{peer}");
        let measured = report.figures.iter().any(|f| f.key == figure);
        assert_eq!(measured, of(peer).is_some(), "{peer}");
        assert_ne!(measured, told, "{peer}");
    }
    for number in 1..=9 {
        let judged = report.verdicts.iter().any(|verdict| verdict.bar == number);
        assert!(judged, "bar {number}");
    }
}

#[test]
fn a_sandbox_without_a_wall_is_not_timed() {
    refused(spec(), &["InheritedSeccomp", "Seccomp"], "seccomp mode");
    refused(spec(), &["Capabilities"], "CapEff");
    refused(spec(), &["Limit"], "open files");
    let network = Network::Host;
    refused(SandboxSpec { network, ..spec() }, &[], "net namespace");
    if has("a_sandbox_without_a_wall_is_not_timed: ids", &["root"]) {
        refused(spec(), &["Ids"], "user outside");
    }
}
