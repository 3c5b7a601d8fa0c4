//! SIGINT, SIGTERM and SIGHUP in every phase: the exit code tells which, and nothing is left.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{has, until};
use crate::small_system::small_system;
use crate::traces::Traces;
use crate::{Host, Random, finish, stderr};

const SIGNALS: [(Signal, i32); 3] = [
    (Signal::SIGINT, 130),
    (Signal::SIGTERM, 143),
    (Signal::SIGHUP, 129),
];

fn send(child: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), signal);
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until(15, || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .unwrap_or_else(|e| {
        let _ = child.kill();
        panic!("it does not end: {e}")
    });
    status.unwrap()
}

/// A sleeper that is no other test's.
fn marker(number: u64) -> String {
    format!("1000.{}{number:06}", std::process::id())
}

fn start(host: &Host, arguments: &[&str]) -> Child {
    host.command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn runs(marker: &str) -> bool {
    let host = i32::try_from(std::process::id()).unwrap();
    let inside = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "sleep\n" && Traces::has_argument(*pid, marker)
    };
    Traces::of_init(host).iter().any(inside)
}

/// Sleepers anywhere on the host.
fn sleepers(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "sleep\n" && Traces::has_argument(*pid, marker)
    })
    .count()
}

#[test]
fn exec_ends_with_the_signals_code_and_leaves_nothing() {
    let host = Host::new();
    for (number, (signal, code)) in (0..).zip(SIGNALS) {
        let marker = marker(number);
        let mut child = start(&host, &["exec", "--", "sleep", &marker]);
        until(15, || runs(&marker)).unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(code));
        assert_eq!(host.entries(), Vec::<PathBuf>::new(), "without a clean-up");
        assert!(!runs(&marker));
    }
}

#[test]
fn a_start_ends_with_the_signals_code_and_leaves_nothing() {
    let mut random = Random::new("signals");
    let host = Host::new();
    for (number, (signal, code)) in (0..60).zip(SIGNALS.into_iter().cycle()) {
        let marker = marker(1000 + number);
        let mut child = start(&host, &["exec", "--", "sleep", &marker]);
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        send(&child, signal);
        let status = ended(&mut child);
        // In its first instants the program has not yet said what it wants of a signal.
        let by_default = status.signal() == Some(signal as i32);
        assert!(by_default || status.code() == Some(code), "{status:?}");
        assert_eq!(host.entries(), Vec::<PathBuf>::new(), "without a clean-up");
        until(2, || !runs(&marker)).unwrap();
    }
}

#[test]
fn a_shell_ends_with_the_signals_code_and_leaves_nothing() {
    let host = Host::new();
    for (number, (signal, code)) in (0..).zip(SIGNALS) {
        let marker = marker(2000 + number);
        let mut child = start(&host, &["shell"]);
        // Kept open: the end of its input would be the end of the shell.
        let mut keys = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut keys, format!("sleep {marker}\n").as_bytes()).unwrap();
        until(15, || runs(&marker)).unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(code));
        assert_eq!(host.entries(), Vec::<PathBuf>::new(), "without a clean-up");
        until(2, || !runs(&marker)).unwrap();
    }
}

#[test]
fn an_import_ends_with_the_signals_code_and_leaves_no_image() {
    let host = Host::new();
    let archive = host.path().join("tree.tar");
    // One file of a gigabyte, which takes a while; on this disk it is a hole.
    let size: u64 = 1 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    std::fs::write(&archive, header.as_bytes()).unwrap();
    let file = std::fs::File::options().write(true).open(&archive).unwrap();
    file.set_len(512 + size + 1024).unwrap();
    let state = host.path().join("state");
    for (signal, code) in SIGNALS {
        let file = archive.to_str().unwrap();
        let state_dir = state.to_str().unwrap();
        let mut child = start(
            &host,
            &[
                "--state-dir",
                state_dir,
                "image",
                "import",
                "--name",
                "x",
                file,
            ],
        );
        let drafts = || std::fs::read_dir(state.join("tmp")).map_or(0, Iterator::count);
        until(15, || drafts() > 0).unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(code));
        assert_eq!(drafts(), 0);
        assert_eq!(host.entries(), Vec::<PathBuf>::new());
        assert_eq!(std::fs::read_dir(state.join("images")).unwrap().count(), 0);
    }
}

/// A recipe whose only package manager does this instead.
fn recipe(host: &Host, apt_get: &str) -> String {
    let base = host.path().join("base.tar");
    let apt_get = format!("#!/bin/sh\n{apt_get}\n");
    let system = small_system().program("usr/bin/apt-get", apt_get.as_bytes());
    std::fs::write(&base, system.bytes()).unwrap();
    let file = host.path().join("recipe.toml");
    let text = format!(
        "name = \"small\"\napt = [\"x\"]\n[base]\nkind = \"tar\"\nlocation = \"{}\"\n",
        base.display()
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What a build has left: drafts, images, and sandboxes.
fn of_a_build(host: &Host) -> (usize, usize, Vec<PathBuf>) {
    let state = host.path().join("state");
    let count = |part| std::fs::read_dir(state.join(part)).map_or(0, Iterator::count);
    (count("tmp"), count("images"), host.entries())
}

#[test]
fn a_build_ends_with_the_signals_code_and_leaves_no_image() {
    let host = Host::new();
    let state = host.path().join("state").to_str().unwrap().to_owned();
    let build = |recipe: &str| {
        let arguments = ["--state-dir", &state, "image", "build", "--recipe", recipe];
        host.command(&arguments)
    };
    for (number, (signal, code)) in (0..).zip(SIGNALS) {
        let marker = marker(5000 + number);
        // What the step starts holds the tree as well.
        let recipe = recipe(&host, &format!("sleep {marker} & sleep {marker}"));
        let mut child = build(&recipe).stderr(Stdio::piped()).spawn().unwrap();
        let mut begun = None;
        let running = until(15, || {
            begun = child.try_wait().unwrap();
            begun.is_some() || runs(&marker)
        });
        if begun.is_some() {
            let said = stderr(&child.wait_with_output().unwrap());
            assert!(said.contains("only one id is mapped"), "{said}");
            println!(
                "SKIP a_build_ends_with_the_signals_code: only one id is mapped for this user"
            );
            return;
        }
        running.unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(code));
        assert_eq!(of_a_build(&host), (0, 0, Vec::new()), "without a clean-up");
        until(2, || !runs(&marker)).unwrap();
    }
    let output = finish(build(&recipe(&host, "true")));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(of_a_build(&host), (0, 1, Vec::new()));
}

/// The base system of Debian is fetched by programs of the host, which no sandbox ends.
#[test]
fn a_bootstrap_ends_with_all_that_it_started() {
    if !has("a_bootstrap_ends_with_all_that_it_started", &["root"]) {
        return;
    }
    let host = Host::new();
    let recipe = host.path().join("recipe.toml");
    let base = "name = \"small\"\n[base]\nkind = \"mmdebstrap\"\nsuite = \"trixie\"\n";
    std::fs::write(&recipe, base).unwrap();
    let state = host.path().join("state");
    let temporary = host.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    std::fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (number, (signal, code)) in (0..).zip(SIGNALS) {
        let marker = marker(6000 + number);
        // As apt's methods do, one goes on though its parent is gone.
        let script = "mount -t tmpfs tmpfs /usr/local/sbin
            printf '#!/bin/sh\nsleep %s & sleep %s\n' \"$MARKER\" \"$MARKER\" > /usr/local/sbin/mmdebstrap
            chmod 755 /usr/local/sbin/mmdebstrap; exec \"$0\" \"$@\"";
        let recipe = recipe.to_str().unwrap();
        let state = state.to_str().unwrap();
        let arguments = ["--state-dir", state, "image", "build", "--recipe", recipe];
        let mut command = host.unshared(script, &arguments);
        command.env("MARKER", &marker).env("TMPDIR", &temporary);
        let mut child = command.spawn().unwrap();
        until(15, || sleepers(&marker) == 2).unwrap();
        send(&child, signal);
        assert_eq!(ended(&mut child).code(), Some(code));
        assert_eq!(sleepers(&marker), 0);
        assert_eq!(of_a_build(&host), (0, 0, Vec::new()), "without a clean-up");
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    }
}

#[test]
fn two_signals_end_it_at_once() {
    let host = Host::new();
    let marker = marker(3000);
    let mut child = start(&host, &["exec", "--", "sleep", &marker]);
    until(15, || runs(&marker)).unwrap();
    send(&child, Signal::SIGTERM);
    send(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child).code(), Some(143));
    until(2, || !runs(&marker)).unwrap();
}

#[test]
fn what_nohup_started_lives_through_a_hangup() {
    let host = Host::new();
    let marker = marker(4000);
    let mut command = host.sh(
        "trap '' HUP; exec \"$0\" \"$@\"",
        &["exec", "--", "sleep", &marker],
    );
    let mut child = command.spawn().unwrap();
    until(15, || runs(&marker)).unwrap();
    for _ in 0..20 {
        send(&child, Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.try_wait().unwrap().is_none() && runs(&marker));
    send(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child).code(), Some(143));
}
