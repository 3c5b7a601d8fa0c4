//! The package cache: what many install is downloaded once, by the rules, without a password inside, and a kill leaves nothing half.
//!
//! The figures of docs/network.md: `LIS_TEST_INSTALLS=64 cargo test --test network packages::one_download -- --nocapture`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::index::{INDEX, Index, OPEN_INDEX, PAYLOAD, WHEEL};
use crate::world::{World, in_world, program};

const INSTALL: &str = "pip install --quiet --no-deps --no-compile --target /tmp/site";
/// So many wait for each other's processor.
const AT_ONCE: usize = 16;

/// The program in the world: with this index, and what else it is told.
fn exec(world: &World, index: &str, flags: &[&str], script: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["80".as_ref(), program().as_os_str()])
        .args(["exec", "--memory", "1g", "--disk", "256m"])
        .args(flags)
        .args(["--", "sh", "-ec", script])
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", world.path().join("run"))
        .env("PIP_INDEX_URL", index)
        .env("PIP_TRUSTED_HOST", "index.example")
        .env_remove("PIP_FIND_LINKS")
        .env_remove("PIP_EXTRA_INDEX_URL")
        .stdin(Stdio::null());
    command
}

fn text(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// As many sandboxes as that run it, each with a program of its own; how long all took.
fn many(world: &World, count: usize, index: &str, flags: &[&str], script: &str) -> Duration {
    let begun = Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            scope.spawn(|| {
                while next.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < count {
                    let (code, text) = text(&mut exec(world, index, flags, script));
                    assert_eq!(code, Some(0), "{text}");
                }
            });
        }
    });
    begun.elapsed()
}

fn files_in(directory: &Path) -> Vec<String> {
    let listing = std::fs::read_dir(directory).unwrap();
    listing
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn one_download_serves_all_sandboxes() {
    in_world("packages::one_download_serves_all_sandboxes", |world| {
        let index = Index::start(world);
        let asked = std::env::var("LIS_TEST_INSTALLS").ok();
        let count = asked.as_ref().map_or(8, |count| count.parse().unwrap());
        let cache = world.path().join("cache");
        let cache = cache.to_str().unwrap();
        let script = format!(
            "{INSTALL} demo && test $(wc -c < /tmp/site/demo/data.bin) = {PAYLOAD} && ! env | grep -q hunter2"
        );
        let flags = ["--net", "internet", "--package-cache", cache];
        let cached = many(world, count, INDEX, &flags, &script);
        assert_eq!(index.count(&format!("/files/{WHEEL}")), 1);
        // Without the cache each downloads it: the check above can fail. Without the password the index is not even this.
        let few = count.min(8);
        many(world, few, OPEN_INDEX, &["--net", "internet"], &script);
        assert_eq!(index.count(&format!("/open/files/{WHEEL}")), few);
        let (code, _) = text(&mut exec(world, INDEX, &["--net", "internet"], &script));
        assert_ne!(code, Some(0));
        if asked.is_some() {
            let wheels = world.path().join("wheels");
            std::fs::create_dir(&wheels).unwrap();
            std::fs::write(wheels.join(WHEEL), &*index.wheel).unwrap();
            let bind = format!("{}:/run/wheels", wheels.display());
            let flags = ["--net", "internet", "--ro-bind", &bind];
            let local = script.replace(" demo &&", " --no-index --find-links /run/wheels demo &&");
            let local = many(world, count, INDEX, &flags, &local);
            println!("{count} installs: cache {cached:.1?}, local wheels {local:.1?}");
            assert!(
                cached < local * 12 / 10,
                "{cached:?} with the cache, {local:?} from local wheels"
            );
        }
    });
}

#[test]
fn the_cache_obeys_the_rules_and_is_on_record() {
    in_world(
        "packages::the_cache_obeys_the_rules_and_is_on_record",
        |world| {
            let index = Index::start(world);
            let cache = world.path().join("cache");
            let cache = cache.to_str().unwrap();
            let with = |network| ["--json", "--net", network, "--package-cache", cache];
            let install = format!("{INSTALL} --retries 0 demo >&2");
            for (network, expected) in [
                ("allow:good.example", 1),
                ("none", 1),
                ("allow:index.example:3140", 0),
            ] {
                let mut command = exec(world, INDEX, &with(network), &install);
                let output = command.output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(expected), "{network}: {stderr}");
                assert_eq!(
                    index.count(&format!("/files/{WHEEL}")),
                    1 - usize::from(expected == 1)
                );
                let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                let listed = report["connections"]["listed"].as_array().unwrap();
                let of_cache: Vec<_> = listed.iter().filter(|one| one["port"] == 3141).collect();
                match network {
                    "none" => assert!(listed.is_empty(), "{listed:?}"),
                    "allow:good.example" => assert!(
                        of_cache.iter().all(|one| one["verdict"] == "denied"),
                        "{listed:?}"
                    ),
                    _ => {
                        assert!(of_cache.iter().all(|one| one["name"] == "index.example" && one["cache"] == "miss"), "{listed:?}");
                        assert!(
                            of_cache
                                .iter()
                                .any(|one| one["down"].as_u64() > Some(PAYLOAD as u64)),
                            "{listed:?}"
                        );
                    }
                }
                assert!(!of_cache.is_empty() || network == "none", "{listed:?}");
            }
            // What is there already is a hit, and nothing but an index is behind the address.
            let script = format!(
                "{INSTALL} --retries 0 demo >&2; for path in http://evil.example/ /0/simple/../../etc/passwd /9/simple/demo/ //evil.example/; do \
             curl -s -o /dev/null -w '%{{http_code}}\\n' --noproxy '*' --request-target $path http://100.96.0.1:3141/ >&2; done"
            );
            let output = exec(world, INDEX, &with("allow:index.example:3140"), &script)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("400\n404\n404\n404\n"), "{stderr}");
            assert!(
                String::from_utf8_lossy(&output.stdout).contains("\"cache\": \"hit\"")
                    || String::from_utf8_lossy(&output.stdout).contains("\"cache\":\"hit\"")
            );
            assert_eq!(index.count(&format!("/files/{WHEEL}")), 1);
        },
    );
}

#[test]
fn a_full_disk_keeps_nobody_from_installing() {
    let test = "packages::a_full_disk_keeps_nobody_from_installing";
    in_world(test, |world| {
        let index = Index::start(world);
        let cache = world.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        // Room for its directories, and for less than the wheel.
        let (kind, options) = (Some("tmpfs"), Some("size=1m,mode=700"));
        mount(kind, &cache, kind, MsFlags::empty(), options).unwrap();
        let flags = [
            "--net",
            "internet",
            "--package-cache",
            cache.to_str().unwrap(),
        ];
        let script =
            format!("{INSTALL} demo && test $(wc -c < /tmp/site/demo/data.bin) = {PAYLOAD}");
        for count in 1..=2 {
            let (code, text) = text(&mut exec(world, INDEX, &flags, &script));
            assert_eq!(code, Some(0), "{text}");
            let told = text
                .matches("packages are passed on without being kept")
                .count();
            assert_eq!(told, 1, "{text}");
            // Once for the part that found no room, and once for the sandbox.
            assert_eq!(index.count(&format!("/files/{WHEEL}")), 2 * count);
            assert!(files_in(&cache.join("files")).is_empty());
            assert!(files_in(&cache.join("incoming")).is_empty());
        }
        // With room it is kept, and nothing is told: the checks above can fail.
        mount(
            kind,
            &cache,
            kind,
            MsFlags::empty(),
            Some("size=8m,mode=700"),
        )
        .unwrap();
        let (code, text) = text(&mut exec(world, INDEX, &flags, &script));
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains("without being kept"), "{text}");
        assert_eq!(files_in(&cache.join("files")).len(), 1);
    });
}

/// Processes below this one, by `/proc`.
fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        at += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap()),
        );
    }
    found
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z')
}

#[test]
fn a_kill_during_transfers_leaves_nothing() {
    in_world(
        "packages::a_kill_during_transfers_leaves_nothing",
        |world| {
            let index = Index::start(world);
            let cache = world.path().join("cache");
            let flags = [
                "--net",
                "internet",
                "--package-cache",
                cache.to_str().unwrap(),
            ];
            // Each is in the middle when this was asked for, and goes on until it is killed.
            let transfers = [
                (
                    "/slow/data",
                    "curl -s http://index.example:3140/slow/data".to_owned(),
                ),
                (
                    "/sink",
                    "head -c 1000000000 /dev/zero | curl -s -T - http://index.example:3140/sink"
                        .to_owned(),
                ),
                (
                    "/files/slow-1.0-py3-none-any.whl",
                    format!("{INSTALL} slow"),
                ),
            ];
            for (path, script) in &transfers {
                let mut command = exec(world, INDEX, &flags, script);
                let mut child = command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let begun = Instant::now();
                while index.count(path) == 0 {
                    assert!(
                        begun.elapsed() < Duration::from_secs(60),
                        "{path} was not asked for"
                    );
                    assert!(child.try_wait().unwrap().is_none(), "{path}: it ended");
                    thread::sleep(Duration::from_millis(20));
                }
                let all = descendants(child.id());
                assert!(all.len() >= 4, "{path}: {all:?}");
                // The program; `timeout` is its parent.
                let host = nix::unistd::Pid::from_raw(i32::try_from(all[1]).unwrap());
                nix::sys::signal::kill(host, nix::sys::signal::Signal::SIGKILL).unwrap();
                let killed = Instant::now();
                while all.iter().any(|pid| lives(*pid)) {
                    assert!(
                        killed.elapsed() < Duration::from_secs(2),
                        "{path}: something of it lives on"
                    );
                    thread::sleep(Duration::from_millis(20));
                }
                child.wait().unwrap();
            }
            assert_eq!(files_in(&cache.join("incoming")).len(), 1);
            let (code, text) = text(&mut exec(world, INDEX, &flags, &format!("{INSTALL} demo")));
            assert_eq!(code, Some(0), "{text}");
            assert!(files_in(&cache.join("incoming")).is_empty());
            let gc = Command::new(program())
                .args(["gc", "--json"])
                .env("LLM_IN_SANDBOX_RUNTIME_DIR", world.path().join("run"))
                .output()
                .unwrap();
            let gc: Value = serde_json::from_slice(&gc.stdout).unwrap();
            assert_eq!(gc["left_behind"]["total"], 0, "{gc}");
        },
    );
}
