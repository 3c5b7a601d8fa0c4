//! Writable layers on disk.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{code, command, eventually, run, stderr, stdout};

const LIMIT: u64 = 64 << 20;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What lies where these layers are made.
fn layers() -> Vec<PathBuf> {
    let state = llm_in_sandbox::image::state_dir(None).unwrap();
    fs::read_dir(state.join("uppers")).map_or_else(
        |_| Vec::new(),
        |entries| entries.map(|entry| entry.unwrap().path()).collect(),
    )
}

/// Files behind loop devices, of ours also those that have no name any more.
fn loop_files() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap();
    let files = devices.filter_map(|device| {
        fs::read_to_string(device.ok()?.path().join("loop/backing_file")).ok()
    });
    files.filter(|file| file.contains("/uppers/")).collect()
}

#[test]
fn a_disk_upper_holds_its_limit_and_no_more() {
    let arguments = ["exec", "--upper", "disk", "--disk", "64m", "--"];
    if !is_root() {
        let output = run(&[&arguments[..], &["true"]].concat());
        assert_eq!(code(&output), 125, "{}", stderr(&output));
        assert!(
            stderr(&output).contains("takes root"),
            "{}",
            stderr(&output)
        );
        return;
    }
    let script = "head -c 200m /dev/zero >/testbed/f; stat -c %s /testbed/f";
    let written = stdout(&[&arguments[..], &["sh", "-c", script]].concat());
    let written: u64 = written.trim().parse().unwrap();
    assert!(
        (LIMIT * 15 / 16..=LIMIT * 17 / 16).contains(&written),
        "{written} bytes were written where {LIMIT} may be"
    );
}

#[test]
fn a_disk_upper_may_be_larger_than_the_memory_and_leaves_nothing() {
    let script = "head -c 300m /dev/zero >/testbed/f; stat -c %s /testbed/f";
    let arguments = [
        "exec", "--upper", "disk", "--memory", "128m", "--disk", "1g", "--", "sh", "-c", script,
    ];
    let unlimited = [
        "exec",
        "--upper",
        "disk",
        "--no-disk-limit",
        "--memory",
        "128m",
        "--",
        "sh",
        "-c",
        script,
    ];
    if is_root() {
        assert_eq!(stdout(&arguments).trim(), (300 << 20).to_string());
    }
    assert_eq!(stdout(&unlimited).trim(), (300 << 20).to_string());
    // Other tests have layers, too; ours were the only ones with a file of that size.
    let large = |path: &PathBuf| {
        fs::metadata(path.join("upper/testbed/f")).is_ok_and(|file| file.len() == 300 << 20)
    };
    assert!(!layers().iter().any(large), "{:?}", layers());
}

#[test]
fn a_killed_host_leaves_no_layer_and_no_loop_device() {
    let mut arguments = vec!["exec", "--upper", "disk"];
    if !is_root() {
        arguments.push("--no-disk-limit");
    }
    let script = format!("echo up; sleep 600; : upper-kill-{}", std::process::id());
    arguments.extend(["--", "sh", "-c", &script]);
    let mut child = command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let running: serde_json::Value = serde_json::from_str(&stdout(&["ps", "--json"])).unwrap();
    let ours = |info: &&serde_json::Value| info["host_pid"] == child.id();
    let id = running.as_array().unwrap().iter().find(ours).unwrap()["id"].clone();
    let id = id.as_str().unwrap();
    // A layer with a limit has no name any more, only a device.
    let traces = || {
        let layers = layers().into_iter().map(|path| path.display().to_string());
        let all = layers.chain(loop_files());
        all.filter(|name| name.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(traces().len(), 1, "{:?}", traces());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    assert!(eventually(|| {
        // The clean-up of the next start.
        stdout(&["exec", "--", "true"]);
        traces().is_empty()
    }));
}
