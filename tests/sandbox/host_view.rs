//! Walls as the host sees them: ids, the lower tree, descriptors and variables of the program.

use std::fs;
use std::process::{Command, Stdio};

use llm_in_sandbox::env::Env;
use llm_in_sandbox::host::Sandbox;

use crate::checks::{Check, neighbours};
use crate::fixture::{Canary, Scene, block_on, exec, has, program, rootfs, sh, spec};
use crate::walls::holds;

fn status_ids(pid: i32, field: &str) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// No process of a sandbox has an id that means something on the host: none of root's, and none of the user's but his own.
pub(crate) fn ids_mean_nothing_on_the_host(scene: &Scene, sandbox: &Sandbox) -> Check {
    let pid = scene.init_pid(sandbox);
    let own = nix::unistd::geteuid().as_raw();
    for field in ["Uid:", "Gid:"] {
        for id in status_ids(pid, field) {
            if id == 0 || (own == 0 && id < 0x7000_0000) {
                return Err(format!("PID 1 has {field} {id} on the host"));
            }
        }
    }
    if !status_ids(pid, "Groups:").is_empty() && own == 0 {
        return Err("PID 1 has groups of the host".into());
    }
    Ok(())
}

#[test]
fn root_inside_is_nobody_on_the_host() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        holds(ids_mean_nothing_on_the_host(&scene, &sandbox));
        sandbox.close().await.unwrap();
    });
}

#[test]
fn two_sandboxes_share_nothing() {
    block_on(async {
        let scene = Scene::new().await;
        let (one, other) = (scene.start(spec()).await, scene.start(spec()).await);
        let key = std::process::id();
        holds(neighbours::plant(&one, key).await);
        holds(neighbours::nothing_is_shared(&other, key).await);
        let (first, second) = (scene.namespaces(&one).await, scene.namespaces(&other).await);
        assert!(first.len() >= 7 && second.len() >= 7, "{first:?}");
        assert!(first.is_disjoint(&second), "{first:?} {second:?}");
        one.close().await.unwrap();
        other.close().await.unwrap();
    });
}

#[test]
fn two_sandboxes_of_root_share_no_id() {
    if !has("two_sandboxes_of_root_share_no_id", &["root"]) {
        return;
    }
    block_on(async {
        // Registries of their own do not make them give out the same range.
        let (scene, another) = (Scene::new().await, Scene::new().await);
        let sandboxes = [
            scene.start(spec()).await,
            scene.start(spec()).await,
            another.start(spec()).await,
        ];
        let mut bases = Vec::new();
        for sandbox in &sandboxes {
            let maps = String::from_utf8(
                exec(sandbox, "cat /proc/self/uid_map /proc/self/gid_map")
                    .await
                    .stdout
                    .head,
            );
            let maps = maps.unwrap();
            let fields: Vec<u32> = maps
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            // Users and groups, on one line each or more.
            let counts: u32 = fields.chunks(3).map(|line| line[2]).sum();
            assert_eq!((fields[0], counts), (0, 2 * 65536), "{maps}");
            assert!(fields[1] >= 0x7000_0000);
            bases.push(fields[1]);
        }
        bases.sort_unstable();
        assert!(
            bases.windows(2).all(|pair| pair[1] - pair[0] >= 65536),
            "{bases:?}"
        );
        for sandbox in sandboxes {
            sandbox.close().await.unwrap();
        }
    });
}

#[test]
fn the_image_below_cannot_be_written() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let before = crate::fixture::listing(&rootfs());
        let script = "rm -rf /usr/share/doc /opt /boot; echo x >> /etc/passwd; echo x > /etc/new; chmod 777 /etc; \
            chown 5 /etc/group 2>/dev/null; touch -d 1999-01-01 /usr/bin/env; mv /usr/games /usr/gone; truncate -s 0 /bin/bash; \
            ln /etc/hostname /etc/linked; setfattr -n user.x -v y /etc/shadow; grep -c x /etc/passwd >/dev/null && echo written";
        let result = sh(&sandbox, script).await;
        assert_eq!(result.status, Some(0), "{result:?}");
        let changed = crate::fixture::difference(&before, &crate::fixture::listing(&rootfs()));
        assert!(changed.is_empty(), "{changed:?}");
        sandbox.close().await.unwrap();
        // And the next one sees nothing of it.
        let next = scene.start(spec()).await;
        assert!(!next.exists_inside("/etc/new").await);
        next.close().await.unwrap();
    });
}

trait Exists {
    async fn exists_inside(&self, path: &str) -> bool;
}

impl Exists for Sandbox {
    async fn exists_inside(&self, path: &str) -> bool {
        self.stat(&path.into()).await.is_ok()
    }
}

/// Runs the program from a shell that has descriptors of the host open and a key in its environment.
#[test]
fn descriptors_and_variables_of_the_caller_stay_outside() {
    let canary = Canary::plant();
    let script = r#"exec 7</ 8>>"$3" 9<"$2"; "$0" exec -- sh -c "$1" 5<"$2" </"#;
    let inside = format!(
        "ls /proc/self/fd; for f in /proc/[0-9]*/fd/*; do cat $f{path}; done 2>/dev/null; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; env; readlink /proc/self/cwd",
        path = canary.path()
    );
    let scratch = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(program())
        .args([&inside, canary.path()])
        .arg(scratch.path())
        .env("OPENAI_API_KEY", "lis-secret-canary")
        .env("LIS_ORDINARY", "lis-secret-canary")
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", scratch_directory().path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");
    assert!(
        out.starts_with("0\n1\n2\n3\n") && out.ends_with("/testbed\n"),
        "{out}"
    );
    assert!(!out.starts_with("0\n1\n2\n3\n4"), "{out}");
    assert!(out.contains("PATH="), "environments were read: {out}");
    for secret in ["lis-secret-canary", canary.content(), "LIS_ORDINARY"] {
        assert!(!out.contains(secret), "{secret} in {out}");
    }
}

fn scratch_directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
