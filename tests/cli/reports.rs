//! `ps`, `gc`, `doctor` and the reports of `image`.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{code, command, ended, eventually, run, stderr, stdout};

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// The sandbox whose purpose holds `mark`, as `ps` shows it.
fn shown(mark: &str) -> Option<Value> {
    let all = json(&["ps", "--json"]);
    let found = all.as_array().unwrap().iter().find(|info| {
        let purpose = info["purpose"].as_str().unwrap();
        purpose.contains(mark)
    });
    found.cloned()
}

#[test]
fn ps_shows_a_running_command_until_it_ends() {
    let mark = format!("ps-test-{}", std::process::id());
    let mut child = command(&["exec", "--", "sh", "-c", &format!("sleep 600; : {mark}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut info = Value::Null;
    let running = || {
        info = shown(&mark).unwrap_or_default();
        info["init_pid"].is_u64()
    };
    assert!(eventually(running), "it never ran");
    assert_eq!(info["host_pid"], child.id());
    assert!(info["id"].is_string() && info["started"].is_u64() && info["root"].is_string());
    assert!(stdout(&["ps"]).contains(info["id"].as_str().unwrap()));
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(ended(&mut child).code(), Some(130));
    assert!(shown(&mark).is_none());
}

#[test]
fn what_a_killed_host_leaves_is_taken_away() {
    let mark = format!("gc-test-{}", std::process::id());
    let mut child = command(&["exec", "--", "sh", "-c", &format!("sleep 600; : {mark}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut init = None;
    assert!(eventually(|| {
        init = shown(&mark).and_then(|info| info["init_pid"].as_i64());
        init.is_some()
    }));
    child.kill().unwrap();
    child.wait().unwrap();
    let process = format!("/proc/{}", init.unwrap());
    assert!(
        eventually(|| !std::path::Path::new(&process).exists()),
        "PID 1 lives on"
    );
    assert!(shown(&mark).is_none());
    // Another test's start may take it away before this one does: only that it works is certain.
    let text = stdout(&["gc"]);
    assert!(text.contains("dead sandboxes"), "{text}");
}

#[test]
fn doctor_names_every_capability() {
    let output = run(&["doctor", "--json"]);
    assert!([0, 3].contains(&code(&output)), "{}", stderr(&output));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let names: Vec<&str> = findings
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    for name in [
        "kernel",
        "overlayfs",
        "seccomp",
        "user namespaces",
        "surroundings",
        "ids",
        "limits",
        "open files",
        "terminals",
        "state directory",
        "runtime directory",
        "sandbox",
        "left behind",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let broken = findings.iter().any(|f| f["state"] == "missing");
    assert_eq!(code(&output), if broken { 3 } else { 0 });
    for finding in findings {
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "degraded", "missing"].contains(&state), "{finding}");
        assert!(finding["detail"].is_string() && finding["fix"].is_array());
        assert!(state == "ok" || finding["mend"].is_string(), "{finding}");
    }
    assert!(!broken, "sandboxes start in these tests: {findings:?}");
}

#[test]
fn images_are_listed_and_inspected() {
    let listed = json(&["image", "ls", "--json"]);
    let is_default = |image: &&Value| {
        let names = image["names"].as_array().unwrap();
        names.iter().any(|name| name == "default")
    };
    let default = listed
        .as_array()
        .unwrap()
        .iter()
        .find(is_default)
        .expect("a default image");
    let inspected = json(&["image", "inspect", "--json", "default"]);
    for member in ["digest", "rootfs", "size"] {
        assert_eq!(inspected[member], default[member], "{member}");
    }
    assert!(inspected["recipe"].is_object() || inspected["recipe"].is_null());
    assert!(inspected["packages"].is_object(), "{inspected}");
    let rootfs = std::path::Path::new(inspected["rootfs"].as_str().unwrap());
    assert!(rootfs.join("etc/passwd").exists());
    assert!(stdout(&["image", "ls"]).contains("default"));
    assert!(
        stdout(&["image", "inspect", "default"]).contains(inspected["digest"].as_str().unwrap())
    );
}
