//! What each wall and limit adds to the start of a sandbox, and takes from the cycles a second.
//!
//! `cargo bench --bench layers [-- N]` on an idle machine. Sandboxes with all walls and with one of them
//! taken away start in turn, so that a drift of the machine meets all of them; what is missing in a row
//! is what that wall costs. A cycle is a start, `/bin/true` and the end of all. Needs the default image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of its own for people at a terminal"
)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, ExecRequest, ExitStatus};
use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::spec::{Limits, Network, SandboxSpec};
use tokio::task::JoinSet;

use common::{PROGRAM, image, rounds, runtime};

/// Not the one on /sys, which all others show.
const EMPTY: &str = "EmptyDirectory { path: \"/proc";

/// A wall, and the beginnings of the steps that make it.
const WALLS: [(&str, &[&str]); 9] = [
    // Naming a step that does not exist changes nothing but this: no network is made ahead.
    ("all walls, its network made at its start", &["Nothing"]),
    ("without the inherited filter", &["InheritedSeccomp"]),
    ("without the last two filters", &["Seccomp"]),
    ("without Landlock", &["Landlock"]),
    (
        "without masked and read-only paths",
        &["MaskFile", EMPTY, "ReadOnly"],
    ),
    ("without fewer capabilities", &["Capabilities"]),
    ("without resource limits", &["Limit"]),
    ("without a session keyring", &["Keyring"]),
    ("without ids of its own", &["Ids"]),
];

/// How many cycles are under way at once, and how many rounds of them a row has: each takes as many cycles as there are samples.
const IN_FLIGHT: usize = 8;
const CYCLE_ROUNDS: usize = 9;

fn main() {
    runtime().block_on(measure(rounds(), &image().spec()));
}

async fn measure(n: usize, spec: &SandboxSpec) {
    let host_network = SandboxSpec {
        network: Network::Host,
        ..spec.clone()
    };
    let unlimited = SandboxSpec {
        limits: Limits {
            memory_bytes: None,
            pids: None,
            ..Limits::default()
        },
        ..spec.clone()
    };
    let mut rows = vec![
        ("all walls", launcher(&[]).await, spec),
        ("on the host's network", launcher(&[]).await, &host_network),
        ("without cgroups", launcher(&[]).await, &unlimited),
    ];
    for (name, steps) in WALLS {
        rows.push((name, launcher(steps).await, spec));
    }
    let bare = SandboxSpec {
        network: Network::Host,
        ..unlimited.clone()
    };
    let all: Vec<_> = WALLS
        .iter()
        .flat_map(|(_, steps)| *steps)
        .copied()
        .collect();
    rows.push((
        "without any of these, network and cgroups",
        launcher(&all).await,
        &bare,
    ));
    let mut times = vec![Vec::new(); rows.len()];
    for round in 0..=n {
        for ((_, launcher, spec), times) in rows.iter().zip(&mut times) {
            // Cold: its limits are unlike those of the thousand before, so that no more than its root was made ahead.
            let mut spec = (*spec).clone();
            spec.limits.open_files -= (round % 1000) as u64;
            let began = Instant::now();
            let sandbox = launcher.sandbox(spec).await.unwrap();
            times.push(began.elapsed());
            sandbox.close().await.unwrap();
        }
    }
    let mut rates = vec![Vec::new(); rows.len()];
    for _ in 0..CYCLE_ROUNDS {
        for ((_, launcher, spec), rates) in rows.iter().zip(&mut rates) {
            rates.push(cycles_a_second(launcher, spec, n).await);
        }
    }
    println!(
        "n = {n}; Launcher::sandbox until it serves, cold, in ms; cycles a second, {IN_FLIGHT} in flight: median and spread of {CYCLE_ROUNDS}\n"
    );
    println!(
        "{:44} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "what", "p50", "p95", "cycles", "least", "most"
    );
    for (((name, ..), mut times), mut rates) in rows.into_iter().zip(times).zip(rates) {
        // The first round warms the caches.
        times.remove(0);
        let (p50, p95) = (percentile(&mut times, 50), percentile(&mut times, 95));
        rates.sort_unstable_by(f64::total_cmp);
        let (median, least, most) = (rates[CYCLE_ROUNDS / 2], rates[0], rates[CYCLE_ROUNDS - 1]);
        println!("{name:44} {p50:8.2} {p95:8.2} {median:8.0} {least:8.0} {most:8.0}");
    }
}

async fn cycles_a_second(launcher: &Arc<Launcher>, spec: &SandboxSpec, n: usize) -> f64 {
    let began = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (launcher, spec) = (Arc::clone(launcher), spec.clone());
        loops.spawn(async move {
            for _ in 0..n.div_ceil(IN_FLIGHT) {
                let sandbox = launcher.sandbox(spec.clone()).await.unwrap();
                let done = sandbox.exec(&ExecRequest::new(["/bin/true"])).await;
                assert_eq!(done.unwrap().status, ExitStatus::Code(0));
                sandbox.discard().await.unwrap();
            }
        });
    }
    while let Some(done) = loops.join_next().await {
        done.unwrap();
    }
    (n.div_ceil(IN_FLIGHT) * IN_FLIGHT) as f64 / began.elapsed().as_secs_f64()
}

async fn launcher(without: &[&str]) -> Arc<Launcher> {
    let config = LauncherConfig {
        program: Some(PROGRAM.into()),
        without: without.iter().map(|&wall| wall.to_owned()).collect(),
        ..LauncherConfig::default()
    };
    Arc::new(Launcher::start(config).await.unwrap())
}

/// Milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}
