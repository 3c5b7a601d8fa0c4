//! What the runner of an evaluation costs: samples of many turns against a model server that answers in 50 ms.
//!
//! `cargo bench --bench evaluation [-- N]` (320 samples when nothing is said), as root or as an ordinary user, on an idle
//! machine. Needs the default image. With `--test` a small one, of which only the counts are looked at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program of its own for people at a terminal"
)]

#[allow(dead_code, reason = "shared with other benchmarks")]
mod common;
#[path = "common/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// Samples at work at once.
const AT_ONCE: usize = 16;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

fn main() {
    let small = std::env::args().any(|argument| argument == "--test");
    let given = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let (samples, turns) = if small {
        (32, 5)
    } else {
        (given.unwrap_or(320), 20)
    };
    common::image();
    let (url, counts) = server::serve(turns);
    let directory = tempfile::tempdir().unwrap();
    let rows: Vec<String> = (0..samples)
        .map(|at| {
            format!(r#"{{"id":"r{at:04}","problem_statement":"Say yes.","ground_truth":"yes"}}"#)
        })
        .collect();
    let task = directory.path().join("t");
    std::fs::create_dir(&task).unwrap();
    std::fs::write(task.join("rows.jsonl"), rows.join("\n")).unwrap();
    std::fs::write(
        task.join("config.yaml"),
        "dataset: json\ndata_files: rows.jsonl\nreward: exact\n",
    )
    .unwrap();

    let machine = machine_cpu();
    let begun = Instant::now();
    let mut child = start(directory.path(), &url);
    let seen = watch(&child);
    let wall = begun.elapsed().as_secs_f64();
    let busy = machine_cpu() - machine;
    let own = cpu(child.id()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "the run failed: {status}");

    let requests = counts.requests.load(Ordering::Relaxed);
    let lines = results(directory.path());
    assert_eq!(lines.len(), samples, "each sample has one line");
    assert!(lines.values().all(|score| *score == 1.0), "each is solved");
    assert_eq!(requests, samples * turns, "each turn is one request");
    let most = counts.most_at_once.load(Ordering::Relaxed);
    assert!(most <= AT_ONCE, "{most} requests at once");

    let turns_done = (samples * turns) as f64;
    let ideal = turns_done * server::LATENCY.as_secs_f64() / AT_ONCE.min(samples) as f64;
    println!(
        "samples {samples}, turns {turns}, at once {AT_ONCE}, answers after {:?}",
        server::LATENCY
    );
    println!(
        "wall             {wall:.2} s, {:.3} x ideal ({ideal:.2} s)",
        wall / ideal
    );
    println!(
        "runner           {:.3} ms CPU a turn ({own:.2} s)",
        own * 1e3 / turns_done
    );
    println!(
        "runner           {:.1} MB resident at most",
        seen.runner / 1e6
    );
    println!(
        "all of its       {:.1} MB at most (PSS of {} processes)",
        seen.all / 1e6,
        seen.processes
    );
    println!(
        "machine          {busy:.2} s CPU, {:.2} ms a turn, the server's with it",
        busy * 1e3 / turns_done
    );
    println!(
        "server           {requests} requests, at most {most} at once, {} connections",
        counts.connections.load(Ordering::Relaxed)
    );
}

fn start(directory: &Path, url: &str) -> Child {
    let state = llm_in_sandbox::image::state_dir(None).unwrap();
    Command::new(common::PROGRAM)
        .args(["benchmark", "t", "--llm_name", "m", "--llm_base_url", url])
        .args(["--num_workers", &AT_ONCE.to_string(), "--net", "none"])
        .args(["--output_dir", "out"])
        .current_dir(directory)
        .env("HOME", directory)
        .env("LLM_IN_SANDBOX_HOME", state)
        .env_remove("LLM_IN_SANDBOX_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("stderr")).unwrap())
        .spawn()
        .unwrap()
}

/// The largest memory that was seen, in bytes.
#[derive(Default)]
struct Seen {
    runner: f64,
    all: f64,
    processes: usize,
}

/// Looks at the program until it has ended, and leaves it a zombie, whose times can still be read.
fn watch(child: &Child) -> Seen {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let mut seen = Seen::default();
    let mut looked = Instant::now();
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => return seen,
            Err(error) => panic!("wait for the program: {error}"),
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            look(child.id(), &mut seen);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn look(pid: u32, seen: &mut Seen) {
    seen.runner = seen
        .runner
        .max(field(pid, "status", "VmHWM:").unwrap_or(0.0));
    let all: Vec<f64> = family(pid)
        .into_iter()
        .filter_map(|pid| field(pid, "smaps_rollup", "Pss:"))
        .collect();
    let sum = all.iter().sum();
    if sum > seen.all {
        seen.all = sum;
        seen.processes = all.len();
    }
}

/// A process and all that come from it.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// What follows the name in `/proc/PID/stat`: state, parent and so on, see proc_pid_stat(5).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(") ")?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Seconds of CPU of a process without its children.
fn cpu(pid: u32) -> Option<f64> {
    let stat = stat(pid)?;
    let ticks: f64 = stat.get(11)?.parse::<f64>().ok()? + stat.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Seconds of CPU of everything on the machine.
fn machine_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let line = text.lines().next().unwrap();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map(|tick| tick.parse().unwrap())
        .collect();
    // All but idle and waiting for disks; guests are counted in the first two already.
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0
}

/// A line of kilobytes in a file of a process.
fn field(pid: u32, file: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// The score of each sample; none is there twice.
fn results(directory: &Path) -> BTreeMap<String, f64> {
    let mut folders = std::fs::read_dir(directory.join("out")).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(folder.join("results.jsonl")).unwrap();
    let mut scores = BTreeMap::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = line["id"].as_str().unwrap().to_owned();
        let before = scores.insert(id, line["score"].as_f64().unwrap_or(-1.0));
        assert!(before.is_none(), "done twice");
    }
    scores
}
