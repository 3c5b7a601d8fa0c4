//! Directories of state: stale, somebody else's, links; and many that start at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use llm_in_sandbox::host::Registry;

use crate::fixture::{Scene, block_on, has, out, program, spec, until};
use crate::traces::Own;
use crate::{Host, collect, finish, refused, stderr};

const TRUE: [&str; 3] = ["exec", "--", "true"];
const NOT_OURS: &str = "not a directory of this user's alone";

#[test]
fn a_registry_that_is_not_ours_alone_is_refused() {
    let host = Host::new();
    let with = |registry: &std::path::Path| {
        let mut command = host.command(&TRUE);
        command.env("LLM_IN_SANDBOX_RUNTIME_DIR", registry);
        finish(command)
    };
    let (link, open) = (host.path().join("link"), host.path().join("open"));
    symlink(host.path(), &link).unwrap();
    refused(&with(&link), &[link.to_str().unwrap(), NOT_OURS]);
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    refused(&with(&open), &[open.to_str().unwrap(), NOT_OURS]);
    let foreign = if nix::unistd::geteuid().is_root() {
        let foreign = host.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(4242), Some(4242)).unwrap();
        foreign
    } else {
        PathBuf::from("/usr")
    };
    let output = with(&foreign);
    refused(&output, &[foreign.to_str().unwrap()]);
    assert!(!foreign.join("lock").exists());
}

#[test]
fn no_lock_file_is_made_where_a_link_leads() {
    let host = Host::new();
    assert!(finish(host.command(&TRUE)).status.success());
    let (lock, target) = (host.registry().join("lock"), host.path().join("target"));
    fs::remove_file(&lock).unwrap();
    symlink(&target, &lock).unwrap();
    refused(&finish(host.command(&TRUE)), &[lock.to_str().unwrap()]);
    assert!(!target.exists());
    fs::remove_file(&lock).unwrap();
}

#[test]
fn a_state_directory_that_is_not_ours_is_refused() {
    let host = Host::new();
    let with = |state: &std::path::Path| {
        finish(host.command(&["--state-dir", state.to_str().unwrap(), "image", "ls"]))
    };
    let state = host.path().join("state");
    assert!(with(&state).status.success());
    // Our own link to it is as good.
    let link = host.path().join("link");
    symlink(&state, &link).unwrap();
    assert!(with(&link).status.success());
    fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
    refused(&with(&state), &[state.to_str().unwrap(), NOT_OURS]);
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    let (images, elsewhere) = (state.join("images"), host.path().join("elsewhere"));
    fs::rename(&images, &elsewhere).unwrap();
    symlink(&elsewhere, &images).unwrap();
    refused(&with(&state), &[images.to_str().unwrap(), NOT_OURS]);
    if has("a_state_directory_that_is_not_ours_is_refused", &["root"]) {
        let foreign = host.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(4242), Some(4242)).unwrap();
        refused(&with(&foreign), &[foreign.to_str().unwrap(), NOT_OURS]);
        // Somebody else's link, though it leads to a directory of ours.
        let planted = host.path().join("planted");
        symlink(&elsewhere, &planted).unwrap();
        std::os::unix::fs::lchown(&planted, Some(4242), Some(4242)).unwrap();
        refused(&with(&planted), &[planted.to_str().unwrap(), NOT_OURS]);
    }
}

/// What is in use by another process is known by its lock: here that process is this one.
#[test]
fn a_clean_up_spares_what_lives_and_what_is_not_ours() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let registry = scene.registry().directory().to_owned();
        let living = Own::entries(&registry);
        let groups = Own::cgroups(&living);
        // Planted beside ours: a file, a directory that a running process has as its own, a cgroup.
        fs::write(registry.join("sandboxes/notes"), "not ours").unwrap();
        let mut planted = Vec::new();
        for group in &groups {
            let foreign = group.with_file_name(format!("foreign-{}", std::process::id()));
            if fs::create_dir(&foreign).is_ok() {
                planted.push(foreign);
            }
        }
        // A dead one claims what is not its own.
        let precious = registry.join("precious");
        fs::create_dir(&precious).unwrap();
        let liar = registry.join("sandboxes/liar");
        fs::create_dir(&liar).unwrap();
        let claimed: Vec<String> = groups
            .iter()
            .chain(&planted)
            .map(|g| g.display().to_string())
            .collect();
        fs::write(liar.join("cgroups"), claimed.join("\n")).unwrap();
        fs::write(liar.join("upper"), precious.to_str().unwrap()).unwrap();
        // As another process would: with handles of its own.
        let output = Command::new(program())
            .arg("gc")
            .env("LLM_IN_SANDBOX_RUNTIME_DIR", &registry)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!liar.exists() && precious.exists());
        assert!(registry.join("sandboxes/notes").exists());
        for group in &planted {
            assert!(group.exists(), "{}", group.display());
            fs::remove_dir(group).unwrap();
        }
        assert_eq!(out(&sandbox, "echo lives").await, "lives\n");
        assert!(living.iter().all(|entry| entry.exists()));
        fs::remove_file(registry.join("sandboxes/notes")).unwrap();
        sandbox.close().await.unwrap();
    });
}

/// A process in cgroups that were made for it; it ends with its test, however that ends.
struct Holder(Child);

impl Holder {
    fn of(groups: &[PathBuf]) -> Self {
        let mut command = Command::new("sleep");
        let child = command
            .arg("1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let holder = Self(child.spawn().unwrap());
        for group in groups {
            fs::create_dir(group).unwrap();
            fs::write(group.join("cgroup.procs"), holder.0.id().to_string()).unwrap();
        }
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A dead sandbox of which something cannot go: as root with cgroups a process that is not its own
/// holds them, for others a directory that they may not enter is in its place.
#[test]
fn what_a_clean_up_cannot_remove_is_counted() {
    let root = nix::unistd::geteuid().is_root();
    if root && !has("what_a_clean_up_cannot_remove_is_counted", &["cgroup"]) {
        return;
    }
    block_on(async {
        let scene = Scene::new().await;
        let registry = scene.registry().directory().to_owned();
        let living = scene.start(spec()).await;
        let groups = Own::cgroups(&Own::entries(&registry));
        let id = format!("stale{}", std::process::id());
        let stale = registry.join("sandboxes").join(&id);
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join("lock"), "").unwrap();
        let groups: Vec<PathBuf> = groups.iter().map(|g| g.with_file_name(&id)).collect();
        let holder = Holder::of(&groups);
        let noted: Vec<String> = groups.iter().map(|g| g.display().to_string()).collect();
        fs::write(stale.join("cgroups"), noted.join("\n")).unwrap();
        let locked = stale.join("locked");
        if groups.is_empty() {
            fs::create_dir_all(locked.join("in")).unwrap();
            fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        }
        let program = |arguments: &[&str]| {
            let output = Command::new(program())
                .args(arguments)
                .env("LLM_IN_SANDBOX_RUNTIME_DIR", &registry)
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            (output.status.code().unwrap(), text)
        };
        let left = if groups.is_empty() {
            "1 (1 directory)".to_owned()
        } else {
            let cgroups = match groups.len() {
                1 => "1 cgroup".to_owned(),
                more => format!("{more} cgroups"),
            };
            format!("{} (1 process, {cgroups}, 1 directory)", 2 + groups.len())
        };
        let (status, told) = program(&["gc"]);
        assert_eq!(status, 1, "{told}");
        assert!(told.ends_with(&format!("left behind: {left}\n")), "{told}");
        let (_, told) = program(&["doctor"]);
        assert!(
            told.contains(&format!("degraded left behind          {left}")),
            "{told}"
        );
        let (status, told) = program(&["gc", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (status, &report["left_behind"]["directories"]),
            (1, &1.into())
        );
        assert!(
            report["failed"][0].as_str().unwrap().contains(&id),
            "{told}"
        );

        drop(holder);
        if groups.is_empty() {
            fs::set_permissions(&locked, Permissions::from_mode(0o700)).unwrap();
        }
        let (status, told) = program(&["gc", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((status, &report["left_behind"]["total"]), (0, &0.into()));
        assert_eq!(report["sandboxes"], serde_json::json!([id]));
        assert!(program(&["gc"]).1.ends_with("left behind: 0\n"));
        let (_, told) = program(&["doctor"]);
        assert!(told.contains("ok       left behind          0\n"), "{told}");
        assert!(!groups.iter().any(|group| group.exists()));
        living.close().await.unwrap();
    });
}

/// A process that stopped in the middle of a clean-up holds the gate.
#[test]
fn a_start_beside_a_stale_directory_reclaims_it() {
    let host = Host::new();
    let registry = Registry::at(host.registry()).unwrap();
    for number in 0..50 {
        let stale = registry
            .directory()
            .join(format!("sandboxes/stale{number}"));
        fs::create_dir(&stale).unwrap();
        // Half of them were killed before they had a lock.
        if number % 2 == 0 {
            fs::write(stale.join("lock"), "{").unwrap();
        }
    }
    let output = finish(host.command(&TRUE));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

#[test]
fn fifty_starts_of_two_versions_at_once() {
    let host = Host::new();
    // Another version: another file with another content, which starts from itself.
    let other = host.path().join("other");
    let script = "cp \"$1\" \"$2\" && echo another build >> \"$2\"";
    let made = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program())
        .arg(&other)
        .status();
    assert!(made.unwrap().success());
    let children: Vec<_> = (0..50)
        .map(|number| {
            let word = number.to_string();
            let arguments = ["exec", "--", "echo", &word];
            let mut command = if number % 2 == 0 {
                host.command(&arguments)
            } else {
                host.sh("exec \"$OTHER\" \"$@\"", &arguments)
            };
            command.env("OTHER", &other).spawn().unwrap()
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = collect(child, 60);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{number}\n")
        );
    }
    until(5, || host.entries().is_empty()).unwrap();
}
