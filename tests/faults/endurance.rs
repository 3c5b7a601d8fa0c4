//! Thousands of sandboxes, several at a time, some killed: nothing is left, and the host does not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry};
use tokio::sync::Mutex;

use crate::Random;
use crate::fixture::{Place, exec, program, spec, text, until};
use crate::traces::{Own, Traces, alone, memory, mounts, own_pid};

const AT_A_TIME: usize = 8;
/// Set, it is the number of sandboxes: see docs/testing.md.
const COUNT: &str = "LIS_TEST_ENDURANCE";

async fn launcher(place: &Place) -> Launcher {
    let config = LauncherConfig {
        program: Some(program()),
        registry: Some(Registry::at(place.path().join("run")).unwrap()),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

/// Kills it if it is what it was thought to be: numbers of the dead are given anew.
fn kill(pid: i32, name: &str) {
    let found = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if found.trim() != name {
        return;
    }
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

#[derive(Debug, Default)]
struct Tally {
    done: AtomicUsize,
    closed: AtomicUsize,
    dropped: AtomicUsize,
    inits: AtomicUsize,
    zygotes: AtomicUsize,
    lost: AtomicUsize,
}

/// One sandbox, from start to whatever end it meets; false when that may have been its zygote's.
async fn one(launcher: &Launcher, fate: u64, tally: &Tally) -> bool {
    // Its zygote may be killed for another's sake, at any moment of it.
    let Ok(sandbox) = launcher.sandbox(spec()).await else {
        tally.lost.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    let init = {
        let all = launcher.registry().list().unwrap();
        let info = all.into_iter().find(|info| info.id == sandbox.id());
        info.and_then(|info| info.init_pid)
    };
    let parent = init.and_then(Traces::parent);
    match (fate, init, parent) {
        // 5 % of all, a third each.
        (0..17, _, _) => {
            tally.dropped.fetch_add(1, Ordering::Relaxed);
            drop(sandbox);
        }
        (17..34, Some(init), _) => {
            tally.inits.fetch_add(1, Ordering::Relaxed);
            kill(init, "lis-init");
            let _ = sandbox.close().await;
        }
        (34..50, _, Some(zygote)) if zygote != 1 && zygote != own_pid() => {
            tally.zygotes.fetch_add(1, Ordering::Relaxed);
            kill(zygote, "lis-zygote");
            let _ = sandbox.close().await;
            return false;
        }
        _ => {
            let request = ExecRequest::new(["echo", "alive"]);
            match sandbox.exec(&request).await {
                Ok(result)
                    if text(&result.stdout) == "alive\n" && sandbox.close().await.is_ok() =>
                {
                    tally.closed.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }
    true
}

async fn worker(
    place: Arc<Place>,
    shared: Arc<Mutex<Arc<Launcher>>>,
    mut random: Random,
    count: usize,
    tally: Arc<Tally>,
) {
    while tally.done.fetch_add(1, Ordering::Relaxed) < count {
        let current = Arc::clone(&*shared.lock().await);
        if one(&current, random.below(1000), &tally).await {
            continue;
        }
        // A dead zygote starts nothing any more: its launcher is replaced, as a host would.
        let mut slot = shared.lock().await;
        if Arc::ptr_eq(&slot, &current) && current.sandbox(spec()).await.is_err() {
            *slot = Arc::new(launcher(&place).await);
        }
    }
}

async fn endure(count: usize) {
    let place = Arc::new(Place::new());
    let random = Random::new("endurance");
    let shared = Arc::new(Mutex::new(Arc::new(launcher(&place).await)));
    let tally = Arc::new(Tally::default());
    let before = mounts();
    let mut early = 0;
    // A first part fills caches and pools; what grows after it would grow for ever.
    for target in [count / 5, count] {
        tally
            .done
            .store(if early == 0 { 0 } else { count / 5 }, Ordering::Relaxed);
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|lane| {
                let random = random.lane((lane + 1) as u64 + early);
                tokio::spawn(worker(
                    Arc::clone(&place),
                    Arc::clone(&shared),
                    random,
                    target,
                    Arc::clone(&tally),
                ))
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        if early == 0 {
            early = memory("VmRSS");
        }
    }
    let late = memory("VmRSS");
    let last = Arc::clone(&*shared.lock().await);
    let sandbox = last.sandbox(spec()).await.unwrap();
    assert_eq!(text(&exec(&sandbox, "echo on").await.stdout), "on\n");
    sandbox.close().await.unwrap();
    drop((last, Arc::into_inner(shared)));
    println!("{tally:?}; resident {early} then {late} bytes");
    let struck = tally.dropped.load(Ordering::Relaxed)
        + tally.inits.load(Ordering::Relaxed)
        + tally.zygotes.load(Ordering::Relaxed);
    assert!(struck >= count / 50, "{struck} of {count} met a death");
    assert!(
        tally.closed.load(Ordering::Relaxed) > count / 2,
        "{tally:?}"
    );
    // 2 MiB are the noise of an allocator; a leak of 1 KiB for each of 20,000 would be ten times that.
    assert!(late < early + (2 << 20), "{early} bytes grew to {late}");
    let registry = Registry::at(place.path().join("run")).unwrap();
    until(10, || {
        registry.reclaim().unwrap();
        Own::entries(registry.directory()).is_empty()
    })
    .expect("directories are left");
    until(2, || Traces::children(own_pid()).is_empty()).expect("processes are left");
    assert_eq!(mounts(), before);
}

#[test]
fn thousands_of_sandboxes_leave_nothing_and_cost_nothing() {
    if !alone("endurance::thousands_of_sandboxes_leave_nothing_and_cost_nothing") {
        return;
    }
    let usual = if nix::unistd::geteuid().is_root() {
        1000
    } else {
        200
    };
    let count = std::env::var(COUNT).map_or(usual, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // No wait of ours is longer than this for each.
    let limit = Duration::from_secs(60 + count as u64 / 2);
    let done = runtime.block_on(async { tokio::time::timeout(limit, endure(count)).await });
    done.expect("it hangs");
}
