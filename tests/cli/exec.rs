//! `exec`: the command's streams and status pass through.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::{DEADLINE, code, collect, command, eventually, run, stderr, stdout};

fn exec_sh(script: &str) -> String {
    stdout(&["exec", "--", "sh", "-c", script])
}

#[test]
fn the_status_of_the_command_is_ours() {
    for (argv, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = run(&[&["exec", "--"], argv].concat());
        assert_eq!(code(&output), expected, "{argv:?}: {}", stderr(&output));
    }
}

/// The zygote of one sandbox is kept off its host's processor; what runs inside is not.
#[test]
fn a_command_may_run_on_every_processor_that_we_may() {
    let allowed = |status: &str| {
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
        line.map(str::to_owned).unwrap()
    };
    let ours = allowed(&std::fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(allowed(&exec_sh("cat /proc/self/status")), ours);
}

#[test]
fn a_failure_of_ours_is_125() {
    let output = run(&["exec", "--ro-bind", "/no/such/path:/x", "--", "true"]);
    assert_eq!(code(&output), 125);
    assert!(stderr(&output).contains("/no/such/path"));
}

#[test]
fn a_command_that_runs_out_of_time_is_killed_and_is_124() {
    let begun = Instant::now();
    let output = run(&[
        "exec",
        "--timeout",
        "0.3",
        "--",
        "sh",
        "-c",
        "trap '' TERM INT; echo begun; sleep 600",
    ]);
    assert_eq!((code(&output), &*output.stdout), (124, &b"begun\n"[..]));
    assert!(begun.elapsed() < DEADLINE / 2);
}

#[test]
fn stdin_is_empty_unless_asked_for() {
    for (flags, expected) in [(&["exec"][..], "0\n"), (&["exec", "-i"], "6\n")] {
        let mut command = command(&[flags, &["--", "wc", "-c"]].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Without -i nobody reads it: the program may be gone already.
        let _ = child.stdin.take().unwrap().write_all(b"hello\n");
        let output = collect(child);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

#[test]
fn both_streams_are_exact_to_the_byte() {
    const MIB: usize = 5 << 20;
    let script = "import os,sys\n\
        block = bytes(range(256)) * 4096\n\
        for _ in range(5): sys.stdout.buffer.write(block); sys.stderr.buffer.write(block[::-1])";
    let output = run(&["exec", "--", "python3", "-c", script]);
    assert_eq!(code(&output), 0);
    let up: Vec<u8> = (0..MIB).map(|at| (at % 256).try_into().unwrap()).collect();
    assert!(
        output.stdout == up,
        "{} bytes on stdout",
        output.stdout.len()
    );
    let down: Vec<u8> = up.iter().rev().copied().collect();
    // A host that cannot enforce a limit says so before the command begins.
    assert!(
        output.stderr.ends_with(&down),
        "{} bytes on stderr",
        output.stderr.len()
    );
}

#[test]
fn json_tells_status_usage_and_limits() {
    let flags = [
        "exec", "--json", "--memory", "512M", "--disk", "64m", "--pids", "40", "--inodes", "1000",
        "--cpus", "0.5",
    ];
    let output = run(&[&flags[..], &["--", "sh", "-c", "echo out; exit 3"]].concat());
    assert_eq!(code(&output), 3);
    assert!(
        stderr(&output).contains("out"),
        "the command's own output goes to stderr"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], 3);
    assert_eq!(report["timed_out"], false);
    assert!(report["usage"]["wall"]["nanos"].is_u64());
    for member in ["cpu", "peak_memory_bytes", "written_bytes"] {
        assert!(
            report["usage"].as_object().unwrap().contains_key(member),
            "{member}"
        );
    }
    let limits = &report["limits"];
    assert_eq!(limits["memory_bytes"], 512 << 20);
    assert_eq!(limits["disk_bytes"], 64 << 20);
    assert_eq!(
        (&limits["pids"], &limits["inodes"]),
        (&40.into(), &1000.into())
    );
    assert_eq!(limits["cpus"], 0.5);
    assert!(limits["unenforced"].is_array() && limits["cgroup"].is_u64());
    assert_eq!(report["outcome"]["kind"], "exited");
    assert_eq!(report["left_behind"]["total"], 0);
}

#[test]
fn a_limit_that_strikes_is_told_in_a_line_and_in_json() {
    let fill = ["--", "dd", "if=/dev/zero", "of=/f", "bs=1M", "count=9"];
    let small = ["exec", "--disk", "8m", "--memory", "64m"];
    let output = run(&[&small[..], &fill[..]].concat());
    let line = "disk limit 8m struck: / is full\n";
    assert!(stderr(&output).ends_with(line), "{}", stderr(&output));
    let output = run(&[&small[..], &["--json"], &fill[..]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcome = &report["outcome"];
    assert_eq!(
        (&outcome["family"], &outcome["limit"]),
        (&"policy".into(), &"disk".into())
    );
    assert_eq!(report["struck"][0]["max_bytes"], 8 << 20);
    // With room for it, not a word.
    let output = run(&[&["exec"][..], &fill[..]].concat());
    assert!(!stderr(&output).contains("limit"), "{}", stderr(&output));
}

#[test]
fn a_command_that_is_silent_and_does_nothing_is_stopped() {
    let flags = ["exec", "--json", "--idle-timeout", "1", "--"];
    let output = run(&[&flags[..], &["sleep", "600"]].concat());
    assert_eq!(code(&output), 124);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["timed_out"], true);
    assert_eq!(report["outcome"]["limit"], "idle_time");
}

#[test]
fn the_disk_has_the_size_asked_for() {
    let flags = ["exec", "--disk", "8m", "--memory", "64m", "--"];
    let output = run(&[
        &flags[..],
        &["dd", "if=/dev/zero", "of=/testbed/f", "bs=1M", "count=9"],
    ]
    .concat());
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("No space left"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_bind_is_seen_and_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), mode).unwrap();
    std::fs::write(directory.path().join("note"), "from the host").unwrap();
    let bind = format!("{}:/data", directory.path().display());
    let script = "cat /data/note; ! touch /data/new";
    let text = stdout(&["exec", "--ro-bind", &bind, "--", "sh", "-c", script]);
    assert_eq!(text, "from the host");
    assert!(!directory.path().join("new").exists());
}

#[test]
fn variables_and_the_working_directory_are_set() {
    let flags = [
        "exec",
        "--env",
        "A=b c=d",
        "--env",
        "PAGER=less",
        "--workdir",
        "/made/for it",
        "--",
    ];
    let text = stdout(&[&flags[..], &["sh", "-c", "echo $A:$PAGER; pwd; echo $HOME"]].concat());
    assert_eq!(text, "b c=d:less\n/made/for it\n/root\n");
}

#[test]
fn nothing_of_the_callers_environment_comes_along() {
    let mut command = command(&["exec", "--", "env"]);
    command.env("MY_SECRET", "hunter2").stdout(Stdio::piped());
    let output = collect(command.spawn().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("PATH=") && !text.contains("hunter2"),
        "{text}"
    );
}

/// Root's zygote is a fork of the program, whose arguments anybody could read in /proc/1/cmdline.
#[test]
fn pid_1_shows_nothing_of_the_callers_arguments_and_environment() {
    let script = "tr -d '\\0' </proc/1/cmdline; cat /proc/1/environ /proc/1/maps /proc/1/exe /proc/1/fd/0; true";
    let mut command = command(&["exec", "--env", "INSIDE=hunter2", "--", "sh", "-c", script]);
    command
        .env("MY_SECRET", "hunter2")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = collect(command.spawn().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.is_empty() || text == "llm-in-sandbox__zygoteserve",
        "{text}"
    );
    let refused = String::from_utf8(output.stderr).unwrap();
    assert_eq!(refused.matches("ermission denied").count(), 4, "{refused}");
}

#[test]
fn no_network_means_no_route() {
    let text =
        exec_sh("tail -n +2 /proc/net/route | wc -l; cat /proc/net/dev | tail -n +3 | wc -l");
    assert_eq!(text, "0\n1\n", "no route, and no device but loopback");
}

#[test]
fn the_hosts_network_reaches_the_hosts_loopback_and_none_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let connect = format!(
        "import socket; socket.create_connection(('127.0.0.1', {}), 5)",
        listener.local_addr().unwrap().port()
    );
    let output = run(&["exec", "--net", "none", "--", "python3", "-c", &connect]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(listener.accept().is_err(), "nobody came");
    let output = run(&["exec", "--net", "host", "--", "python3", "-c", &connect]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("shares the host's network"));
    assert!(eventually(|| listener.accept().is_ok()));
}

#[test]
fn refused_calls_are_told_with_the_rule_that_refused_them() {
    let script = "dmesg; unshare -r true; echo end";
    let output = run(&["exec", "--seccomp-log", "--", "sh", "-c", script]);
    assert_eq!(code(&output), 0);
    let told = stderr(&output);
    for sign in ["syslog (EPERM)", "unshare (EPERM): namespaces"] {
        assert!(told.contains(sign), "no {sign} in {told}");
    }
    let flags = ["exec", "--json", "--seccomp", "strict", "--seccomp_log"];
    let script = "import socket; socket.socket(socket.AF_INET)";
    let output = run(&[&flags[..], &["--", "python3", "-c", script]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["walls"]["seccomp"]["strict"], true);
    assert!(report["walls"]["landlock"].is_u64());
    let refused = report["refused"].as_array().unwrap();
    let socket = refused.iter().find(|r| r["call"] == "socket").unwrap();
    assert_eq!(
        (&socket["errno"], &socket["count"]),
        (&"EAFNOSUPPORT".into(), &1.into())
    );
    let plain = run(&["exec", "--json", "--", "true"]);
    let report: Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert!(report.get("refused").is_none());
}
