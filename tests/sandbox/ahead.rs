//! Sandboxes that are begun before they are asked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use llm_in_sandbox::env::{Env, ExecRequest, ExecResult, GuestPath};
use llm_in_sandbox::host::Registry;
use llm_in_sandbox::spec::{Limits, Network, Root, SandboxSpec, Upper};

use crate::fixture::{Scene, alive, block_on, exec, filled, has, kill, out, spec, text, until};
use crate::traces::Own;
use crate::walls::small;

/// Nobody sees them but the kernel, and their end is the launcher's.
#[test]
fn those_that_wait_are_no_sandboxes_and_end_with_their_launcher() {
    block_on(async {
        let scene = Scene::ahead(3).await;
        filled(&scene.launcher, 3).await;
        assert_eq!(scene.registry().list().unwrap(), []);
        let entries = Own::entries(scene.registry().directory());
        assert_eq!(entries.len(), 3);
        let cgroups = Own::cgroups(&entries);
        let (launcher, place) = scene.take_apart();
        drop(launcher);
        // A loaded machine may take longer than a launcher's end waits: the rest is a clean-up's.
        let registry = Registry::at(place.path().join("run")).unwrap();
        let gone = || registry.reclaim().is_ok() && Own::entries(registry.directory()).is_empty();
        until(5, gone).unwrap();
        assert!(cgroups.iter().all(|group| !group.exists()), "{cgroups:?}");
    });
}

/// Taken from those that wait, each is what was asked for, and no two are one.
#[test]
fn each_becomes_what_was_asked_for() {
    block_on(async {
        let scene = Scene::ahead(2).await;
        filled(&scene.launcher, 2).await;
        let limits = Limits {
            pids: Some(33),
            disk_bytes: Some(3 << 20),
            ..Limits::default()
        };
        let first = SandboxSpec {
            hostname: "first".into(),
            env: vec![("NAME".into(), "one".into())],
            workdir: "/tmp/first".into(),
            ..small(limits)
        };
        let (one, other) = (scene.start(first).await, scene.start(spec()).await);
        let facts = "hostname; echo $NAME; pwd; stat -fc %b:%S /";
        assert_eq!(
            text(&exec(&one, facts).await.stdout),
            "first\none\n/tmp/first\n768:4096\n"
        );
        let others = text(&exec(&other, facts).await.stdout);
        assert!(
            others.ends_with(":4096\n") && !others.contains("first"),
            "{others}"
        );
        if has("each_becomes_what_was_asked_for", &["cgroup"]) {
            // Of its own cgroup and of no other.
            assert_eq!(one.in_force().unenforced, [] as [&str; 0]);
            let forks = "for n in $(seq 40); do sleep 5 & done; wait; echo done";
            let hits = |result: ExecResult| result.struck.len();
            assert!(hits(exec(&one, forks).await) > 0);
            assert_eq!(
                hits(exec(&other, "for n in $(seq 40); do true & done; wait").await),
                0
            );
        }
        one.close().await.unwrap();
        other.close().await.unwrap();
    });
}

/// After two that are alike the next are prepared for their image and settings; who asks for another gets it.
#[test]
fn one_that_is_prepared_for_others_is_not_taken() {
    block_on(async {
        let scene = Scene::ahead(2).await;
        let named = |hostname: &str, pids| SandboxSpec {
            hostname: hostname.into(),
            ..small(Limits {
                pids: Some(pids),
                ..Limits::default()
            })
        };
        let [usual, named, limited] = [named("usual", 40), named("named", 40), named("usual", 20)];
        // What waits is begun for anything, prepared for one like it, for its root alone, or for another.
        for spec in [
            &usual, &usual, &usual, &named, &usual, &named, &named, &limited,
        ] {
            filled(&scene.launcher, 2).await;
            let sandbox = scene.start(spec.clone()).await;
            assert_eq!(out(&sandbox, "hostname").await.trim(), spec.hostname);
            if has("one_that_is_prepared_for_others_is_not_taken", &["cgroup"]) {
                let forks = "for n in $(seq 30); do sleep 5 & done; true";
                let struck = exec(&sandbox, forks).await.struck;
                assert_eq!(struck.is_empty(), spec.limits.pids > Some(30), "{struck:?}");
            }
            sandbox.close().await.unwrap();
        }
    });
}

/// After two of one image the next are in its root already, and have done the first steps that those had in common, to the last filter;
/// another size of the layer is another root.
#[test]
fn what_two_have_in_common_is_done_ahead() {
    if !has("what_two_have_in_common_is_done_ahead", &["root", "cgroup"]) {
        return;
    }
    block_on(async {
        let scene = Scene::ahead(1).await;
        let spec = |number: u64, hostname: &str, disk_bytes| SandboxSpec {
            hostname: hostname.into(),
            env: vec![("NUMBER".into(), number.to_string())],
            ..small(Limits {
                pids: Some(30 + number),
                disk_bytes: Some(disk_bytes),
                ..Limits::default()
            })
        };
        let kinds = [
            ("one", 4, false, 2),
            ("one", 4, false, 2),
            ("one", 4, true, 3),
            ("other", 4, true, 3),
            ("other", 4, true, 2),
            ("other", 5, true, 3),
        ];
        for (number, (hostname, megabytes, in_root, filters)) in (0..).zip(kinds) {
            filled(&scene.launcher, 1).await;
            let cgroups = Own::cgroups(&Own::entries(scene.registry().directory()));
            let mut waits = (String::new(), String::new());
            until(2, || {
                let members = fs::read_to_string(cgroups.first().unwrap().join("cgroup.procs"));
                let init = members.unwrap().trim().to_owned();
                waits = ["mountinfo", "status"]
                    .map(|file| fs::read_to_string(format!("/proc/{init}/{file}")))
                    .map(Result::unwrap_or_default)
                    .into();
                let (mounts, status) = &waits;
                mounts.contains(" - overlay ") == in_root
                    && status.contains(&format!("Seccomp_filters:\t{filters}\n"))
            })
            .unwrap_or_else(|e| panic!("{e}: {number} {waits:?}"));
            let sandbox = scene.start(spec(number, hostname, megabytes << 20)).await;
            let is = out(&sandbox, "echo $(hostname) $NUMBER $(stat -fc %b:%S /)").await;
            let expected = format!("{hostname} {number} {}:4096\n", megabytes << 8);
            assert_eq!(is, expected);
            sandbox.close().await.unwrap();
        }
    });
}

/// An image may be removed, and another take its path.
#[test]
fn an_image_that_was_replaced_is_not_shown() {
    block_on(async {
        let scene = Scene::ahead(2).await;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        for (name, times) in [("one", 3), ("other", 1)] {
            let tree = place.path().join(name);
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("name"), name).unwrap();
            // At no moment is there none: one is being begun for it.
            let link = place.path().join("link");
            std::os::unix::fs::symlink(&tree, &link).unwrap();
            fs::rename(&link, &path).unwrap();
            for _ in 0..times {
                filled(&scene.launcher, 2).await;
                let root = Root::Overlay {
                    lower: path.clone(),
                    upper: Upper::Tmpfs,
                };
                let sandbox = scene.start(SandboxSpec { root, ..spec() }).await;
                let read = sandbox.read_file(&GuestPath::from("/name"), 9).await;
                assert_eq!(read.unwrap(), name.as_bytes());
                sandbox.close().await.unwrap();
            }
        }
    });
}

/// What waits has the usual network; who asks for another gets it all the same.
#[test]
fn another_network_than_was_expected() {
    block_on(async {
        let scene = Scene::ahead(2).await;
        filled(&scene.launcher, 2).await;
        let host = SandboxSpec {
            network: Network::Host,
            ..spec()
        };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        for (spec, is_ours) in [(host, true), (spec(), false)] {
            let sandbox = scene.start(spec).await;
            let request = ExecRequest::new(["readlink", "/proc/self/ns/net"]);
            let inside = text(&sandbox.exec(&request).await.unwrap().stdout);
            assert_eq!(inside.trim() == own.to_str().unwrap(), is_ours, "{inside}");
            sandbox.close().await.unwrap();
        }
    });
}

/// The kernel may take one of those that wait, as it may take any process: the next start does without it.
#[test]
fn the_death_of_one_that_waits_is_no_failure() {
    if !has(
        "the_death_of_one_that_waits_is_no_failure",
        &["root", "cgroup"],
    ) {
        return;
    }
    block_on(async {
        let scene = Scene::ahead(2).await;
        filled(&scene.launcher, 2).await;
        let cgroups = Own::cgroups(&Own::entries(scene.registry().directory()));
        let members = |group: &PathBuf| fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let mut pids = BTreeSet::new();
        // Each enters its cgroup itself.
        let entered = until(2, || {
            let all: String = cgroups.iter().map(members).collect();
            pids = all.lines().map(|pid| pid.parse().unwrap()).collect();
            pids.len() == 2
        });
        entered.unwrap_or_else(|e| panic!("{e}: {cgroups:?}"));
        for pid in pids {
            kill(pid);
            until(2, || !alive(pid)).unwrap();
        }
        let sandbox = scene.start(spec()).await;
        assert_eq!(out(&sandbox, "echo lives").await, "lives\n");
        sandbox.close().await.unwrap();
    });
}
