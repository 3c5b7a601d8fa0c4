//! How long a sandbox takes, beside what a plain process and bubblewrap take in the same run.
//!
//! `cargo bench --bench startup [-- N]`, as root or as an ordinary user, on an idle machine. The
//! measured commands alternate, so that a drift of the machine meets all of them. Needs the default
//! image; bubblewrap 0.11 is measured when it is on the PATH or named by `BWRAP`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of its own for people at a terminal"
)]

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llm_in_sandbox::env::Env;
use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::image::Image;

use common::{PROGRAM, image, percentile, rounds, runtime};

/// Sandboxes that are begun before they are asked for.
const AHEAD: usize = 8;

fn main() {
    let (n, image) = (rounds(), image());
    let bwrap = bubblewrap(&image);
    println!("{}", machine());
    println!("n = {n}; times in ms; the ratio is that of the medians to bubblewrap's\n");
    println!("{:44} {:>8} {:>8} {:>8}", "what", "p50", "p95", "ratio");
    whole_processes(n, bwrap);
    library(n, &image);
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    format!(
        "kernel {}, {} CPUs, load {}, uid {}",
        read("/proc/sys/kernel/osrelease").trim(),
        std::thread::available_parallelism().map_or(0, usize::from),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        nix::unistd::getuid(),
    )
}

fn bubblewrap(image: &Image) -> Option<Command> {
    let named = std::env::var_os("BWRAP").map(PathBuf::from);
    let program = named.unwrap_or_else(|| "bwrap".into());
    let version = Command::new(&program).arg("--version").output().ok()?;
    println!("peer: {}", String::from_utf8_lossy(&version.stdout).trim());
    let mut command = Command::new(program);
    command
        .args(["--unshare-all", "--overlay-src"])
        .arg(&image.rootfs);
    command.args([
        "--tmp-overlay",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "/bin/true",
    ]);
    Some(command)
}

fn whole_processes(n: usize, bwrap: Option<Command>) {
    let mut exec = Command::new(PROGRAM);
    exec.args(["exec", "--", "/bin/true"]);
    let mut commands = vec![("/bin/true", Command::new("/bin/true"))];
    commands.extend(bwrap.map(|bwrap| ("bwrap --tmp-overlay / … /bin/true", bwrap)));
    commands.push(("llm-in-sandbox exec -- /bin/true", exec));
    let mut times = vec![Vec::new(); commands.len()];
    for _ in 0..=n {
        for ((name, command), times) in commands.iter_mut().zip(&mut times) {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let began = Instant::now();
            let status = command.status().unwrap();
            times.push(began.elapsed());
            assert!(status.success(), "{name}: {status}");
        }
    }
    // The first round warms the caches.
    for times in &mut times {
        times.remove(0);
    }
    let peer = commands
        .iter()
        .position(|(name, _)| name.starts_with("bwrap"));
    let base = peer.map(|at| percentile(&mut times[at].clone(), 50));
    for ((name, _), mut times) in commands.into_iter().zip(times) {
        row(name, &mut times, base);
    }
}

fn library(n: usize, image: &Image) {
    runtime().block_on(async {
        let config = LauncherConfig {
            program: Some(PROGRAM.into()),
            ahead: Some(AHEAD),
            ..LauncherConfig::default()
        };
        let launcher = Launcher::start(config).await.unwrap();
        while launcher.waiting() < AHEAD {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut starts, mut ends, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let began = Instant::now();
            let sandbox = launcher.sandbox(image.spec()).await.unwrap();
            starts.push(began.elapsed());
            let began = Instant::now();
            sandbox.close().await.unwrap();
            ends.push(began.elapsed());
        }
        row("Launcher::sandbox, until it serves", &mut starts, None);
        row("Sandbox::close, until nothing is left", &mut ends, None);
        let sandbox = launcher.sandbox(image.spec()).await.unwrap();
        for _ in 0..=n {
            let began = Instant::now();
            let result = sandbox
                .shell("true", Duration::from_secs(10))
                .await
                .unwrap();
            commands.push(began.elapsed());
            assert_eq!(result.status, Some(0));
        }
        commands.remove(0);
        row("Sandbox::shell(\"true\"), persistent", &mut commands, None);
        sandbox.close().await.unwrap();
    });
}

fn row(name: &str, times: &mut [Duration], base: Option<f64>) {
    let (p50, p95) = (percentile(times, 50), percentile(times, 95));
    let ratio = base.map_or_else(String::new, |base| format!("{:.2}", p50 / base));
    println!("{name:44} {p50:8.2} {p95:8.2} {ratio:>8}");
}
