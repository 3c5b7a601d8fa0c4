//! Seccomp profiles, the report of refusals, and Landlock where it stands alone.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use llm_in_sandbox::host::{Launcher, LauncherConfig, Sandbox};
use llm_in_sandbox::spec::{Network, SandboxSpec, Seccomp};

use crate::checks::{calls, files};
use crate::fixture::{Scene, block_on, exec, has, program, spec, text};
use crate::walls::holds;

fn strict() -> SandboxSpec {
    SandboxSpec {
        seccomp: Seccomp {
            strict: true,
            ..Seccomp::default()
        },
        ..spec()
    }
}

async fn start(walls: &[&str], spec: SandboxSpec) -> Sandbox {
    Scene::without(walls).await.start(spec).await
}

#[test]
fn strict_refuses_networks_and_looks_into_others() {
    block_on(async {
        let sandbox = start(&[], strict()).await;
        holds(calls::neither_networks_nor_other_processes(&sandbox).await);
        holds(calls::threads_and_processes_work(&sandbox).await);
        sandbox.close().await.unwrap();
        let sandbox = start(&[], spec()).await;
        let breach = calls::neither_networks_nor_other_processes(&sandbox)
            .await
            .unwrap_err();
        for sign in [
            "family 2",
            "family 10",
            "NETLINK",
            "ptrace",
            "chroot",
            "pidfd_open",
        ] {
            assert!(breach.contains(sign), "no {sign} in {breach}");
        }
        sandbox.close().await.unwrap();
    });
}

/// No filter is in the way: what refuses is Landlock.
#[test]
fn landlock_alone_keeps_strict_sandboxes_from_tcp() {
    if !has(
        "landlock_alone_keeps_strict_sandboxes_from_tcp",
        &["landlock"],
    ) {
        return;
    }
    let script = "python3 -c 'import socket; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); print(\"bound\")' 2>&1";
    block_on(async {
        for (walls, sign) in [
            (&["Seccomp(Profile"][..], "Permission denied"),
            (&["Seccomp(Profile", "Landlock"][..], "bound"),
        ] {
            let sandbox = start(walls, strict()).await;
            let told = text(&exec(&sandbox, script).await.stdout);
            assert!(told.contains(sign), "{walls:?}: {told}");
            sandbox.close().await.unwrap();
        }
    });
}

#[test]
fn landlock_alone_refuses_devices() {
    if !has("landlock_alone_refuses_devices", &["landlock"]) {
        return;
    }
    block_on(async {
        let sandbox = start(&["InheritedSeccomp"], spec()).await;
        holds(files::devices_cannot_be_made(&sandbox).await);
        sandbox.close().await.unwrap();
    });
}

/// With the host's network nothing else stands before the abstract sockets of its services (CVE-2020-15257).
#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    if !has(
        "abstract_sockets_of_the_host_are_out_of_reach",
        &["landlock"],
    ) {
        return;
    }
    let name = format!("lis-abstract-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"\\0{name}\"); print(\"connected\")' 2>&1"
    );
    let spec = SandboxSpec {
        network: Network::Host,
        ..spec()
    };
    block_on(async {
        for (walls, sign) in [
            (&[][..], "Operation not permitted"),
            (&["Landlock"][..], "connected"),
        ] {
            let sandbox = start(walls, spec.clone()).await;
            let told = text(&exec(&sandbox, &script).await.stdout);
            assert!(told.contains(sign), "{walls:?}: {told}");
            sandbox.close().await.unwrap();
        }
    });
}

/// A rename into another directory is what Landlock refuses first where a rule is forgotten.
#[test]
fn files_move_and_link_between_directories() {
    block_on(async {
        let sandbox = start(&[], spec()).await;
        let script = "set -e; mkdir -p /tmp/a /tmp/b /dev/shm/a; echo x >/tmp/a/f; mv /tmp/a/f /tmp/b/g; \
            ln /tmp/b/g /tmp/a/h; mv /tmp/b /tmp/a/b; mv /usr/share/doc /opt/doc; mkfifo /tmp/fifo; cat /tmp/a/b/g";
        let result = exec(&sandbox, script).await;
        assert_eq!(text(&result.stdout), "x\n", "{}", text(&result.stderr));
        sandbox.close().await.unwrap();
    });
}

#[test]
fn a_profile_denies_what_it_names_and_nothing_more() {
    let seccomp = Seccomp {
        strict: false,
        deny: vec!["symlinkat".into(), "symlink".into()],
    };
    block_on(async {
        let sandbox = start(&[], SandboxSpec { seccomp, ..spec() }).await;
        let result = exec(
            &sandbox,
            "ln -s a /tmp/b; echo link $?; ln /etc/passwd /tmp/c; echo hard $?",
        )
        .await;
        assert_eq!(text(&result.stdout), "link 1\nhard 0\n");
        sandbox.close().await.unwrap();
    });
}

/// Reported refusals are refusals: every check that holds without a report holds with one.
#[test]
fn refusals_are_counted_and_remain_refusals() {
    block_on(async {
        let config = LauncherConfig {
            program: Some(program()),
            report_refusals: true,
            ..LauncherConfig::default()
        };
        let launcher = Launcher::start(config).await.unwrap();
        let sandbox = launcher.sandbox(spec()).await.unwrap();
        holds(calls::mounts_and_namespaces_are_refused(&sandbox).await);
        holds(calls::dangerous_calls_are_refused(&sandbox).await);
        holds(calls::terminals_cannot_be_typed_into(&sandbox).await);
        holds(calls::other_socket_families_are_refused(&sandbox).await);
        holds(calls::unknown_calls_do_not_exist(&sandbox).await);
        holds(calls::threads_and_processes_work(&sandbox).await);
        holds(calls::calls_of_other_architectures_kill(&sandbox).await);
        let walls = sandbox.walls().clone();
        sandbox.close().await.unwrap();
        let refused = walls.refused().unwrap();
        let count = |call: &str, errno: &str, rule: &str| {
            let mut found = refused.iter().filter(|r| {
                (r.call.as_str(), r.errno.as_str()) == (call, errno) && r.rule.contains(rule)
            });
            found.next().map_or(0, |refused| refused.count)
        };
        assert_eq!(count("bpf", "EPERM", "code"), 1, "{refused:#?}");
        assert_eq!(count("ioctl", "EPERM", "TIOCSTI"), 3, "{refused:#?}");
        assert!(count("socket", "EAFNOSUPPORT", "families") > 0);
        assert!(count("clone3", "ENOSYS", "libc") > 0);
        assert!(count("471", "ENOSYS", "newer") > 0);
        assert_eq!(count("openat", "EPERM", ""), 0);
    });
}

#[test]
fn without_a_report_nothing_is_counted() {
    block_on(async {
        let sandbox = start(&[], spec()).await;
        exec(&sandbox, "dmesg; unshare -r true").await;
        assert_eq!(sandbox.walls().refused(), None);
        assert_eq!(sandbox.close().await.unwrap().refused, None);
    });
}
