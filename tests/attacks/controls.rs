//! Two controls for each of the gravest attacks: either is taken away, and the other still holds.

use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry};
use llm_in_sandbox::spec::SandboxSpec;
use serde_json::json;

use crate::canaries::Canaries;
use crate::environments::{Environment, program, spec};
use crate::{Line, PRELUDE, facts, parse};

macro_rules! programs {
    ($($row:ident)*) => { [$((stringify!($row), include_str!(concat!("programs/", stringify!($row), ".py")))),*] };
}

/// Some attacks of one row, in a sandbox that lacks walls.
fn without(walls: &[&str], row: &str, attacks: &[&str]) -> Vec<Line> {
    let programs = programs!(host_file_read host_file_write processes kernel_knobs kernel_surface);
    let (_, text) = programs.iter().find(|(name, _)| *name == row).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let mut canaries = Canaries::plant(row);
    canaries.hide();
    let mut facts = facts(Environment::Sandbox, &canaries, &run);
    facts["only"] = json!(attacks);
    let config = LauncherConfig {
        program: Some(program()),
        registry: Some(Registry::at(run).unwrap()),
        without: walls.iter().map(|wall| (*wall).to_owned()).collect(),
        ..LauncherConfig::default()
    };
    // Without a pivot the root is still the host's.
    let spec = SandboxSpec {
        workdir: "/".into(),
        ..spec()
    };
    let mut request = ExecRequest::new([
        "python3",
        "-c",
        &format!("{PRELUDE}\n{text}"),
        &facts.to_string(),
    ]);
    request.timeout = Some(Duration::from_secs(40));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(async {
        let launcher = Launcher::start(config).await.unwrap();
        let sandbox = launcher.sandbox(spec).await.unwrap();
        let result = sandbox.exec(&request).await.unwrap();
        sandbox.close().await.unwrap();
        result
    });
    canaries.are_untouched();
    let mut out = result.stdout.head.clone();
    out.extend(&result.stdout.tail);
    let out = String::from_utf8_lossy(&out).into_owned();
    let lines: Vec<Line> = out.lines().map(parse).collect();
    assert_eq!(lines.len(), attacks.len(), "{out}");
    lines
}

/// `one` and `other` are the controls; `further` must go, too, before the attack gets through. `None`:
/// what holds then is the user namespace, which every sandbox has.
fn either(row: &str, attacks: &[&str], one: &[&str], other: &[&str], further: Option<&[&str]>) {
    let ids = |walls: &[&str]| walls.contains(&"Ids");
    let root = nix::unistd::geteuid().is_root();
    for (gone, left) in [(one, other), (other, one)] {
        // Ids of its own are root's control: a user's sandbox has the user's.
        if !root && (ids(gone) || ids(left)) {
            println!("SKIP {row} without {gone:?}: needs root");
            continue;
        }
        for line in without(gone, row, attacks) {
            println!(
                "without {gone:?}: {} {}: {}",
                line.verdict, line.name, line.why
            );
            assert_eq!(
                line.verdict, "SAFE",
                "without {gone:?} {left:?} must hold: {line:?}"
            );
        }
    }
    // With these gone as well the attack gets through: it can.
    if let (Some(further), true) = (further, root) {
        let lines = without(&[one, other, further].concat(), row, attacks);
        assert!(
            lines.iter().any(|line| line.verdict == "ESCAPED"),
            "without {one:?}, {other:?} and {further:?} something else holds: {lines:?}"
        );
    }
}

macro_rules! either {
    ($($test:ident: $row:ident $attacks:expr; $one:expr, or $other:expr, then $fall:expr;)*) => {$(
        #[test]
        fn $test() {
            either(stringify!($row), &$attacks, &$one, &$other, $fall);
        }
    )*};
}

either! {
    host_files: host_file_read ["its_own_path", "dot_dot", "proc_root_and_cwd_of_every_process", "double_chroot"];
        ["Pivot", "ChangeRoot"], or ["Ids"], then Some(&[]);
    writing_host_files: host_file_write ["by_every_path"];
        ["Pivot", "ChangeRoot"], or ["Ids"], then Some(&[]);
    files_by_handle: host_file_read ["file_handles"];
        ["InheritedSeccomp"], or ["Capabilities"], then None;
    program_and_memory_of_pid_1: host_file_write ["program_of_pid_1_for_writing", "memory_of_pid_1_for_writing"];
        ["Guard"], or ["Ids"], then None;
    tracing_pid_1: processes ["ptrace_attach", "ptrace_seize", "process_vm_readv", "process_vm_writev"];
        ["Guard"], or ["Ids"], then Some(&["InheritedSeccomp"]);
    descriptors_of_pid_1: processes ["pidfd_getfd"];
        ["InheritedSeccomp"], or ["Guard"], then None;
    kernel_switches: kernel_knobs ["core_pattern", "modprobe", "host_wide_sysctls"];
        ["ReadOnly"], or ["Ids"], then Some(&[]);
    mounting: kernel_surface ["mount"];
        ["Seccomp(SetupOnly"], or ["Capabilities"], then Some(&["Landlock"]);
    peeling_off_masks: kernel_knobs ["masks_cannot_be_peeled_off", "another_proc_without_masks", "release_agent"];
        ["Seccomp(SetupOnly"], or ["Capabilities"], then Some(&["Landlock"]);
    kernel_modules: kernel_surface ["modules_and_other_kernels"];
        ["InheritedSeccomp"], or ["Capabilities"], then None;
}
