//! What each wall and limit adds to the start of a sandbox.
//!
//! `cargo bench --bench layers [-- N]` on an idle machine. Sandboxes with all walls and with one of them
//! taken away start in turn, so that a drift of the machine meets all of them; what is missing in a row
//! is what that wall costs. Needs the default image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of its own for people at a terminal"
)]

mod common;

use std::time::{Duration, Instant};

use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::spec::{Limits, Network, SandboxSpec};

use common::{PROGRAM, image, rounds, runtime};

/// A wall, and the beginnings of the steps that make it.
const WALLS: [(&str, &[&str]); 9] = [
    // Naming a step that does not exist changes nothing but this: no network is made ahead.
    ("all walls, its network made at its start", &["Nothing"]),
    ("without the inherited filter", &["InheritedSeccomp"]),
    ("without the last two filters", &["Seccomp"]),
    ("without Landlock", &["Landlock"]),
    (
        "without masked and read-only paths",
        &["MaskFile", "EmptyDirectory", "ReadOnly"],
    ),
    ("without fewer capabilities", &["Capabilities"]),
    ("without resource limits", &["Limit"]),
    ("without a session keyring", &["Keyring"]),
    ("without ids of its own", &["Ids"]),
];

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
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..=n {
        for ((_, launcher, spec), times) in rows.iter().zip(&mut times) {
            let began = Instant::now();
            let sandbox = launcher.sandbox((*spec).clone()).await.unwrap();
            times.push(began.elapsed());
            sandbox.close().await.unwrap();
        }
    }
    println!("n = {n}; Launcher::sandbox until it serves, in ms\n");
    println!("{:44} {:>8} {:>8}", "what", "p50", "p95");
    for ((name, ..), mut times) in rows.into_iter().zip(times) {
        // The first round warms the caches.
        times.remove(0);
        let (p50, p95) = (percentile(&mut times, 50), percentile(&mut times, 95));
        println!("{name:44} {p50:8.2} {p95:8.2}");
    }
}

async fn launcher(without: &[&str]) -> Launcher {
    let config = LauncherConfig {
        program: Some(PROGRAM.into()),
        without: without.iter().map(|&wall| wall.to_owned()).collect(),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

/// Milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}
