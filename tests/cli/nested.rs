//! Where something of the host is missing: as in containers, chroots and our own sandbox.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::{code, command, finish, program, run, stderr};

/// The program with `arguments`, started by a shell in new namespaces, after `before`.
fn restricted(namespaces: &[&str], before: &str, arguments: &[&str]) -> Command {
    let inner = command(arguments);
    let mut outer = Command::new("unshare");
    outer
        .args(["--user", "--map-root-user"])
        .args(namespaces)
        .args(["sh", "-c", &format!("{before} exec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(arguments)
        .stdin(std::process::Stdio::null());
    take_environment(&mut outer, &inner);
    outer
}

fn take_environment(outer: &mut Command, inner: &Command) {
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
}

/// `exec` fails with our own status, an error on one line and a hint on one line that names the cause.
fn refused(output: &Output, cause: &str) {
    let text = stderr(output);
    assert_eq!(code(output), 125, "{text}");
    let hint: Vec<&str> = text.lines().filter(|l| l.starts_with("hint: ")).collect();
    assert!(hint.len() == 1 && hint[0].contains(cause), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
}

const NO_NAMESPACES: &str = "echo 0 >/proc/sys/user/max_user_namespaces &&";

#[test]
fn root_of_a_user_namespace_has_sandboxes_with_one_id() {
    let output = finish(restricted(
        &[],
        "",
        &["exec", "--", "cat", "/proc/self/uid_map"],
    ));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let map = String::from_utf8(output.stdout).unwrap();
    assert_eq!(map.split_whitespace().last(), Some("1"), "{map}");
}

#[test]
fn root_without_sys_admin_has_sandboxes_with_one_id() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP root_without_sys_admin_has_sandboxes_with_one_id: needs root");
        return;
    }
    let inner = command(&["exec", "--", "id", "-u"]);
    let mut outer = Command::new("setpriv");
    outer
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .arg(inner.get_program())
        .args(inner.get_args());
    take_environment(&mut outer, &inner);
    let output = finish(outer);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(output.stdout, b"0\n");
}

#[test]
fn without_user_namespaces_exec_and_doctor_name_the_setting() {
    let output = finish(restricted(&[], NO_NAMESPACES, &["exec", "--", "true"]));
    refused(&output, "sysctl -w user.max_user_namespaces=");
    let output = finish(restricted(&[], NO_NAMESPACES, &["doctor", "--json"]));
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |name: &str| {
        let mut all = findings.as_array().unwrap().iter();
        all.find(|f| f["name"] == name).unwrap().clone()
    };
    assert_eq!(found("user namespaces")["state"], "missing");
    assert_eq!(found("sandbox")["state"], "missing");
    // Nothing that edits /etc, which is the host's.
    assert_eq!(found("ids")["fix"], serde_json::json!([]));
}

#[test]
fn with_a_masked_proc_the_mask_is_named() {
    let mask = "mount -t tmpfs tmpfs /proc/fs &&";
    let output = finish(restricted(&["--mount"], mask, &["exec", "--", "true"]));
    refused(&output, "parts of /proc are masked");
}

#[test]
fn in_a_chroot_the_chroot_is_named() {
    let root = tempfile::tempdir().unwrap();
    let chroot = format!(
        "mount --rbind / {0} && set -- chroot {0} \"$@\" &&",
        root.path().display()
    );
    let output = finish(restricted(&["--mount"], &chroot, &["exec", "--", "true"]));
    refused(&output, "in a chroot");
}

#[test]
fn in_a_sandbox_of_ours_nesting_is_refused_clearly() {
    let bind = format!("{}:/lis", std::path::absolute(program()).unwrap().display());
    let output = run(&["exec", "--ro-bind", &bind, "--", "/lis", "doctor"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("sandboxes are not nested"));
    assert!(line.is_some() && text.contains("seccomp filter"), "{text}");
}

/// Programs that write down how they were called, and do nothing: no test changes the machine.
fn recorders(directory: &Path) {
    for name in ["sudo", "sysctl", "usermod", "modprobe", "apt-get"] {
        let path = directory.join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        let log = directory.join("log");
        writeln!(
            file,
            "#!/bin/sh\necho \"${{0##*/}} $*\" >>'{}'",
            log.display()
        )
        .unwrap();
        // The setting is that of the test's own namespace.
        if name == "sysctl" {
            writeln!(
                file,
                "echo \"${{2#*=}}\" >/proc/sys/user/max_user_namespaces"
            )
            .unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn fix_runs_the_commands_of_the_gaps_and_looks_again() {
    let directory = tempfile::tempdir().unwrap();
    recorders(directory.path());
    // The program alone has the recorders, and nothing else, on its path.
    let before = format!("{NO_NAMESPACES} PATH={} &&", directory.path().display());
    let output = finish(restricted(&[], &before, &["doctor", "--fix", "--yes"]));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 0, "{text}{}", stderr(&output));
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(log, "sysctl -w user.max_user_namespaces=10000\n");
    let (before, after) = text.split_once("afterwards:").unwrap();
    assert!(
        before.contains("missing  user namespaces") && !after.contains("missing "),
        "{text}"
    );
}

#[test]
fn fix_without_a_terminal_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    recorders(directory.path());
    let before = format!("{NO_NAMESPACES} PATH={} &&", directory.path().display());
    let output = finish(restricted(&[], &before, &["doctor", "--fix"]));
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("--yes"));
    assert!(!directory.path().join("log").exists());
}
