//! The checks can fail: each wall is taken away once, and the check of that name sees it.
//!
//! Where one wall stands behind another, both go: the one behind is what the check is about.

use std::future::Future;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::spec::{Limits, Network, SandboxSpec};

use crate::checks::{Check, bounds, calls, files, neighbours, processes};
use crate::fixture::{Canary, Scene, alive, block_on, has, kill, spec, text, until};
use crate::host_view::ids_mean_nothing_on_the_host;
use crate::walls::small;

/// The check failed, and because of `sign`.
fn sees(check: Check, sign: &str) {
    match check {
        Ok(()) => panic!("the wall is missing and the check is content"),
        Err(breach) => assert!(breach.contains(sign), "no {sign:?} in:\n{breach}"),
    }
}

/// A test for each wall that a sandbox can be started without.
macro_rules! sees {
    ($($test:ident: without $walls:expr, $module:ident :: $check:ident sees $sign:literal;)*) => {$(
        #[test]
        fn $test() {
            block_on(async {
                let scene = Scene::without(&$walls).await;
                let sandbox = scene.start(spec()).await;
                sees($module::$check(&sandbox).await, $sign);
                sandbox.close().await.unwrap();
            });
        }
    )*};
}

sees! {
    seccomp_setup_only: without ["Seccomp(SetupOnly"],
        calls::mounts_and_namespaces_are_refused sees "NEWUSER succeeded";
    seccomp_unknown: without ["Seccomp(Unknown"],
        calls::unknown_calls_do_not_exist sees "clone3";
    seccomp_inherited_calls: without ["InheritedSeccomp"],
        calls::dangerous_calls_are_refused sees "bpf";
    seccomp_inherited_pid_1: without ["InheritedSeccomp"],
        calls::dangerous_calls_are_refused sees "prlimit64 of PID 1 succeeded";
    seccomp_inherited_protocols: without ["InheritedSeccomp"],
        calls::other_socket_families_are_refused sees "protocol 262";
    seccomp_inherited_devices: without ["InheritedSeccomp", "Landlock"],
        files::devices_cannot_be_made sees "made /dev/shm/node (0, 0)";
    seccomp_inherited_terminals: without ["InheritedSeccomp"],
        calls::terminals_cannot_be_typed_into sees "TIOCSTI";
    seccomp_inherited_families: without ["InheritedSeccomp"],
        calls::other_socket_families_are_refused sees "AF_";
    seccomp_is_in_every_process: without ["Seccomp(SetupOnly"],
        processes::every_process_is_restricted sees "filters";
    seccomp_architecture: without ["InheritedSeccomp", "Seccomp"],
        calls::calls_of_other_architectures_kill sees "Code(42)";
    capabilities: without ["Capabilities"],
        processes::every_process_is_restricted sees "CapEff";
    capabilities_for_raw_sockets: without ["Capabilities"],
        calls::other_socket_families_are_refused sees "raw socket succeeded";
    masks: without ["MaskFile"],
        files::masked_files_hold_nothing sees "/proc/keys can be read";
    read_only_sys: without ["ReadOnly"],
        files::kernel_settings_are_read_only sees "/proc/sys is not read-only";
    read_only_sys_and_capabilities: without ["ReadOnly", "Capabilities"],
        files::kernel_settings_are_read_only sees "writable /proc/sys/net";
    empty_sys: without ["EmptyDirectory { path: \"/sys\"", "Move { path: \"/sys\""],
        files::sys_is_empty_and_read_only sees "made /sys/x";
    limits: without ["Limit { name: \"NOFILE\""],
        processes::resource_limits_are_set sees "instead of";
    loopback: without ["Loopback"],
        processes::only_loopback_exists sees "lo is down";
    ping: without ["AllowPing"],
        processes::only_loopback_exists sees "Permission denied";
    devpts: without ["Devpts"],
        files::terminals_are_its_own_and_few sees "failed";
}

async fn on_the_hosts_network<F: Future<Output = ()>>(test: impl FnOnce(Scene, SandboxSpec) -> F) {
    let scene = Scene::new().await;
    test(
        scene,
        SandboxSpec {
            network: Network::Host,
            ..spec()
        },
    )
    .await;
}

#[test]
fn own_network() {
    block_on(on_the_hosts_network(async |scene, spec| {
        let sandbox = scene.start(spec).await;
        let check = processes::only_loopback_exists(&sandbox).await;
        assert!(
            check.is_err(),
            "it has the host's interfaces or routes, and cannot ping"
        );
        sandbox.close().await.unwrap();
    }));
}

#[test]
fn own_network_of_neighbours() {
    block_on(on_the_hosts_network(async |scene, spec| {
        let (one, other) = (scene.start(spec.clone()).await, scene.start(spec).await);
        let key = std::process::id();
        neighbours::plant(&one, key).await.unwrap();
        let check = neighbours::nothing_is_shared(&other, key).await;
        sees(check, "loopback port");
        one.close().await.unwrap();
        other.close().await.unwrap();
    }));
}

/// Planting and looking in the same sandbox: everything is found.
#[test]
fn own_everything() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let key = std::process::id();
        neighbours::plant(&sandbox, key).await.unwrap();
        let check = neighbours::nothing_is_shared(&sandbox, key).await;
        for sign in [
            "shm",
            "sem",
            "msg",
            "message queue",
            "/dev/shm",
            "/tmp",
            "abstract",
            "IPv6",
        ] {
            sees(check.clone(), sign);
        }
        sandbox.close().await.unwrap();
    });
}

#[test]
fn ids() {
    if !has("ids", &["root"]) {
        return;
    }
    block_on(async {
        let scene = Scene::without(&["Ids"]).await;
        let sandbox = scene.start(spec()).await;
        sees(ids_mean_nothing_on_the_host(&scene, &sandbox), "Uid: 0");
        sandbox.close().await.unwrap();
    });
}

/// Without these PID 1 stays in the host's root; only `exec` of a program of the host works then.
#[test]
fn pivot() {
    let canary = Canary::plant();
    block_on(async {
        let scene = Scene::without(&["Pivot", "ChangeRoot"]).await;
        let sandbox = scene
            .start(SandboxSpec {
                workdir: "/".into(),
                ..spec()
            })
            .await;
        let check =
            files::host_files_are_out_of_reach(&sandbox, canary.path(), canary.content()).await;
        sees(check, "read by its path");
        sandbox.close().await.unwrap();
    });
}

/// `keyctl` is let through here: what it then finds is the keyring's own wall.
#[test]
fn keyring() {
    block_on(async {
        // The zygote inherits the one of this thread.
        llm_in_sandbox::sys::process::join_new_session_keyring().unwrap();
        for (walls, shared) in [
            (&["Seccomp(SetupOnly"][..], false),
            (&["Seccomp(SetupOnly", "Keyring"][..], true),
        ] {
            let scene = Scene::without(walls).await;
            let (one, other) = (scene.start(spec()).await, scene.start(spec()).await);
            let serials = (
                neighbours::session_keyring(&one).await.unwrap(),
                neighbours::session_keyring(&other).await.unwrap(),
            );
            assert_eq!(serials.0 == serials.1, shared, "{walls:?}: {serials:?}");
            one.close().await.unwrap();
            other.close().await.unwrap();
        }
    });
}

#[test]
fn disk_limit() {
    let limits = Limits {
        disk_bytes: Some(256 << 20),
        ..Limits::default()
    };
    loose(
        limits,
        async |env| bounds::disk_is_bounded(env).await,
        "took 64 MiB",
    );
}

#[test]
fn file_limit() {
    loose(
        Limits::default(),
        async |env| bounds::files_are_bounded(env).await,
        "made 5000 files",
    );
}

#[test]
fn process_limit() {
    let limits = Limits {
        pids: Some(1000),
        ..Limits::default()
    };
    loose(
        limits,
        async |env| bounds::processes_are_bounded(env).await,
        "400 processes",
    );
}

#[test]
fn memory_limit() {
    if !has("memory_limit", &["cgroup"]) {
        return;
    }
    loose(
        Limits::default(),
        async |env| bounds::memory_is_bounded(env).await,
        "got 1 GiB",
    );
}

/// The limit is more than the check knows of.
fn loose(
    limits: Limits,
    check: impl AsyncFnOnce(&llm_in_sandbox::host::Sandbox) -> Check,
    sign: &str,
) {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(small(limits)).await;
        sees(check(&sandbox).await, sign);
        sandbox.close().await.unwrap();
    });
}

/// PID 1 asks to die with the zygote and to be read by nobody. The second shows for users alone:
/// where ids change, the kernel has made PID 1 unreadable already.
#[test]
fn guard() {
    block_on(async {
        let scene = Scene::without(&["Guard"]).await;
        let sandbox = scene.start(spec()).await;
        let request = ExecRequest::new(["cat", "/proc/self/uid_map"]);
        let inside = text(&sandbox.exec(&request).await.unwrap().stdout);
        let single = inside.split_whitespace().last() == Some("1");
        if single && !nix::unistd::geteuid().is_root() {
            sees(processes::pid_1_is_out_of_reach(&sandbox).await, "/proc/1/");
        }
        let (pid, zygote) = (scene.init_pid(&sandbox), scene.zygote_pid(&sandbox));
        kill(zygote);
        until(2, || !alive(zygote)).unwrap();
        let died = until(1, || !alive(pid));
        assert!(died.is_err(), "it died with the zygote all the same");
        drop(sandbox);
        until(2, || !alive(pid)).unwrap();
    });
}
