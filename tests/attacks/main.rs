//! The attack suite: one program for each row of the threat table, see docs/threat-model.md.
//!
//! Every program runs in a sandbox, where no attack may get through, and as root in a plain chroot and
//! in bubblewrap, too, where some must: a suite that calls everything safe would show nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod canaries;
mod controls;
mod environments;
mod planted;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llm_in_sandbox::host::{Cgroups, Registry};
use llm_in_sandbox::image::state_dir;
use serde_json::{Value, json};

use canaries::Canaries;
use environments::{Environment, rootfs};

const PRELUDE: &str = include_str!("prelude.py");
const HOST: &str = include_str!("host.py");
const NEIGHBOUR: &str = include_str!("neighbour.py");

/// `$bubblewrap`: whether something gets through there, too.
macro_rules! rows {
    ($($row:ident: bubblewrap $bubblewrap:expr;)*) => {$(
        #[test]
        fn $row() {
            let program = include_str!(concat!("programs/", stringify!($row), ".py"));
            run_row(stringify!($row), program, $bubblewrap);
        }
    )*};
}

rows! {
    host_file_read: bubblewrap true;
    host_file_write: bubblewrap true;
    processes: bubblewrap true;
    kernel_knobs: bubblewrap true;
    kernel_surface: bubblewrap true;
    network: bubblewrap true;
    // Of its raw sockets, for it has no network there.
    network_by_rules: bubblewrap true;
    secrets: bubblewrap true;
    neighbours: bubblewrap true;
    exhaustion: bubblewrap true;
    terminal: bubblewrap true;
    runtime: bubblewrap true;
}

/// Small enough to be reached in no time.
const SMALL: [&str; 8] = [
    "--memory", "256m", "--disk", "64m", "--pids", "64", "--inodes", "6000",
];

/// One attack's verdict.
#[derive(Debug, PartialEq)]
struct Line {
    verdict: String,
    name: String,
    why: String,
}

fn run_row(row: &str, program: &str, bubblewrap_lets_through: bool) {
    if row == "network_by_rules" && !has_device(row) {
        return;
    }
    let mut names = None;
    for environment in Environment::all(row) {
        let lines = attack(environment, row, program);
        for line in &lines {
            let place = environment.name();
            println!("{place}: {} {}: {}", line.verdict, line.name, line.why);
        }
        let with = |verdict| lines.iter().filter(move |line| line.verdict == verdict);
        match environment {
            Environment::Sandbox => {
                let bad: Vec<_> = with("ESCAPED").chain(with("BROKEN")).collect();
                assert!(bad.is_empty(), "{row}: {bad:#?}");
                assert!(with("SAFE").count() > 0, "{row}: nothing was attacked");
            }
            Environment::Chroot => assert!(
                with("ESCAPED").count() > 0,
                "{row}: nothing gets out of a plain chroot, so these attacks show nothing"
            ),
            Environment::Bubblewrap => assert_eq!(
                with("ESCAPED").count() > 0,
                bubblewrap_lets_through,
                "{row} in bubblewrap: {lines:#?}"
            ),
        }
        let these: Vec<_> = lines.iter().map(|line| line.name.clone()).collect();
        assert_eq!(
            *names.get_or_insert_with(|| these.clone()),
            these,
            "not the same attacks"
        );
    }
}

/// Whether network devices can be made.
fn has_device(test: &str) -> bool {
    let mut options = std::fs::File::options();
    let Err(error) = options.read(true).write(true).open("/dev/net/tun") else {
        return true;
    };
    let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "tun");
    assert!(!required, "{test} needs /dev/net/tun, and tun is required");
    println!("SKIP {test}: needs /dev/net/tun: {error}");
    false
}

/// Runs one program in one environment.
fn attack(environment: Environment, row: &str, program: &str) -> Vec<Line> {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let mut canaries = Canaries::plant(row);
    let mut facts = facts(environment, &canaries, &run);
    let neighbour = (row == "neighbours").then(|| {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        facts["neighbour_port"] = json!(port.local_addr().unwrap().port());
        drop(port);
        facts["neighbour_key"] = json!(std::process::id());
        facts["neighbour_name"] = json!(format!("{}-neighbour", canaries.mark));
        let told = json!({
            "neighbour_port": facts["neighbour_port"], "neighbour_key": facts["neighbour_key"],
            "neighbour_name": facts["neighbour_name"],
        });
        let place = tempfile::tempdir().unwrap();
        let words = environment.command(&[], place.path());
        let mut child = python(&words, &run, NEIGHBOUR, &told);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let found: Value = serde_json::from_str(&line).expect("the neighbour did not plant");
        for (name, value) in found.as_object().unwrap() {
            facts[name] = value.clone();
        }
        (child, place)
    });
    let flags: &[&str] = match row {
        "exhaustion" => &SMALL,
        "network_by_rules" => &["--net", "internet"],
        _ => &[],
    };
    let mounts = scratch.path().join("mounts");
    std::fs::create_dir(&mounts).unwrap();
    let kind = if row == "terminal" {
        "terminal"
    } else {
        "pipes"
    };
    let mut words: Vec<String> = ["python3", "-c", HOST, kind].map(str::to_owned).to_vec();
    words.extend(environment.command(flags, &mounts));
    // One that an attack writes to, in its own layer.
    let lower = rootfs().join("usr/lib/os-release");
    let before = std::fs::read(&lower).unwrap();
    let child = python(&words, &run, &format!("{PRELUDE}\n{program}"), &facts);
    let lines = listen(child);
    canaries.are_untouched();
    assert!(
        std::fs::read(&lower).unwrap() == before,
        "the image was written"
    );
    if let Some((mut child, _place)) = neighbour {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "the neighbour");
    }
    if environment == Environment::Sandbox {
        nothing_stays(&run);
    }
    lines
}

fn facts(environment: Environment, canaries: &Canaries, run: &Path) -> Value {
    let state = state_dir(None).unwrap();
    let mut facts = canaries.facts(&environment.runtime(), &rootfs(), &state);
    let controllers = Cgroups::detect().controllers();
    let ours = environment == Environment::Sandbox;
    facts["environment"] = json!(environment.name());
    facts["runtime_directory"] = json!(run);
    facts["bounds"] = json!({
        "memory": 256 << 20, "disk": 64 << 20, "pids": 64, "inodes": 6000,
        "memory_enforced": !ours || controllers.memory,
        // RLIMIT_NPROC stands in where there is no cgroup.
        "pids_enforced": true,
    });
    facts
}

/// Starts `words… python3 -c program facts`, with pipes.
fn python(words: &[String], run: &Path, program: &str, facts: &Value) -> Child {
    let (first, rest) = words.split_first().unwrap();
    Command::new(first)
        .args(rest)
        .args(["python3", "-c", program, &facts.to_string()])
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", run)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn parse(line: &str) -> Line {
    let parsed = line.split_once(' ').and_then(|(verdict, rest)| {
        let (name, why) = rest.split_once(": ")?;
        Some((verdict, name, why))
    });
    let (verdict, name, why) = parsed.unwrap_or_else(|| panic!("not a verdict: {line}"));
    Line {
        verdict: verdict.into(),
        name: name.into(),
        why: why.into(),
    }
}

/// Reads verdicts to the end. `HOLD` asks for the host's own view before the attack goes on.
fn listen(mut child: Child) -> Vec<Line> {
    let mut stdin = child.stdin.take().unwrap();
    let (mut lines, mut taken_away) = (Vec::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "HOLD" {
            let script = "import ctypes, sys; sys.exit(ctypes.CDLL(None).inotify_init1(0) < 0)";
            let status = Command::new("python3").args(["-c", script]).status();
            taken_away = !status.unwrap().success();
            stdin.write_all(b"\n").unwrap();
            continue;
        }
        let mut line = parse(&line);
        if std::mem::take(&mut taken_away) {
            line.verdict = "ESCAPED".into();
        }
        lines.push(line);
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {lines:?}");
    lines
}

/// The registry of a sandbox that has ended is empty.
fn nothing_stays(run: &Path) {
    let registry = Registry::at(run.to_owned()).unwrap();
    let left = registry.list().unwrap();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(registry.reclaim().unwrap().failed.is_empty());
}

/// Processes of the host with this in their command line.
fn processes_with(mark: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(mark) {
            found.push(pid);
        }
    }
    found
}

/// Row: what stays when the runtime is killed. Here the host judges: the program is dead.
#[test]
fn crash_leftovers() {
    let program = include_str!("programs/crash_leftovers.py");
    for environment in Environment::all("crash_leftovers") {
        let scratch = tempfile::tempdir().unwrap();
        let mark = format!("lis-crash-{}-{}", environment.name(), std::process::id());
        let mut facts = json!({"environment": environment.name(), "privilege": ""});
        facts["mark"] = json!(mark);
        let words = environment.command(&[], scratch.path());
        let run = scratch.path().join("run");
        let mut child = python(&words, &run, &format!("{PRELUDE}\n{program}"), &facts);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "READY\n");
        child.kill().unwrap();
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(3);
        let ours = environment == Environment::Sandbox;
        let mut left = processes_with(&mark);
        while ours && !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            left = processes_with(&mark);
        }
        println!("{}: {} processes left", environment.name(), left.len());
        for pid in &left {
            let pid = nix::unistd::Pid::from_raw(*pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        assert_eq!(left.is_empty(), ours, "{environment:?}: {left:?}");
        if ours {
            // What only a clean-up can take away; the registry goes with this test.
            let cgroups = noted_cgroups(&run);
            assert_eq!(cgroups.is_empty(), !Cgroups::detect().controllers().pids);
            Registry::at(run).unwrap().reclaim().unwrap();
            assert!(cgroups.iter().all(|group| !group.exists()), "{cgroups:?}");
        }
    }
}

fn noted_cgroups(registry: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(registry.join("sandboxes")).unwrap();
    let noted = entries.map(|entry| entry.unwrap().path().join("cgroups"));
    let noted: Vec<_> = noted
        .map(|file| std::fs::read_to_string(file).unwrap_or_default())
        .collect();
    noted.concat().lines().map(PathBuf::from).collect()
}
