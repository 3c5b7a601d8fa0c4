//! The end of sandboxes: whoever dies, and however, nothing is left.

use std::time::Duration;

use llm_in_sandbox::env::{Env, EnvError, ExecRequest, ExitStatus};
use llm_in_sandbox::host::{Registry, Sandbox, Spawn};

use crate::fixture::{
    Scene, alive, block_on, difference, exec, has, kill, listing, out, rootfs, sh, spec, text,
    until, with_spec,
};
use crate::traces::{Own, Traces, alone};

/// Ends what a test can end without being its parent.
fn gone(pids: &[i32]) {
    until(2, || !pids.iter().any(|pid| alive(*pid))).expect("processes are left");
}

fn init_of(scene: &Scene, sandbox: &Sandbox) -> [i32; 1] {
    [scene.init_pid(sandbox)]
}

#[test]
fn the_death_of_the_zygote_ends_every_sandbox() {
    block_on(async {
        let scene = Scene::new().await;
        let sandboxes = [scene.start(spec()).await, scene.start(spec()).await];
        let pids: Vec<i32> = sandboxes
            .iter()
            .flat_map(|one| init_of(&scene, one))
            .collect();
        let mut inside = Vec::new();
        for sandbox in &sandboxes {
            out(sandbox, "sleep 1000 & setsid sleep 1000 & true").await;
            inside.extend(Traces::of_init(scene.init_pid(sandbox)));
        }
        assert!(inside.len() >= 6, "{inside:?}");
        let slow = sandboxes[0].shell("sleep 100", Duration::from_secs(50));
        let zygote = scene.zygote_pid(&sandboxes[0]);
        let killer = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            kill(zygote);
        };
        let (result, ()) = tokio::join!(slow, killer);
        assert!(matches!(result, Err(EnvError::Died(_))), "{result:?}");
        gone(&pids);
        gone(&inside);
        let [one, other] = sandboxes;
        one.close().await.expect_err("it is not closed by us");
        drop(other);
        nothing_left(scene.registry());
    });
}

#[test]
fn the_death_of_pid_1_is_the_sandboxs() {
    if !has("the_death_of_pid_1_is_the_sandboxs", &["root"]) {
        return;
    }
    block_on(async {
        let scene = Scene::new().await;
        let (sandbox, other) = (scene.start(spec()).await, scene.start(spec()).await);
        out(&sandbox, "sleep 1000 & true").await;
        let inside = Traces::of_init(scene.init_pid(&sandbox));
        let pid = scene.init_pid(&sandbox);
        let slow = sandbox.shell("sleep 100", Duration::from_secs(50));
        let killer = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            kill(pid);
        };
        let (result, ()) = tokio::join!(slow, killer);
        assert!(matches!(result, Err(EnvError::Died(_))), "{result:?}");
        gone(&inside);
        sandbox.close().await.unwrap();
        assert_eq!(out(&other, "echo lives").await, "lives\n");
        other.close().await.unwrap();
        nothing_left(scene.registry());
    });
}

/// Nothing of the registry is left, at the latest after a clean-up.
fn nothing_left(registry: &Registry) {
    let done = until(3, || {
        registry.reclaim().unwrap();
        Own::entries(registry.directory()).is_empty()
    });
    done.unwrap_or_else(|e| panic!("{e}: {:?}", Own::entries(registry.directory())));
}

/// Nobody says so to its PID 1; one of which the program is only the first goes on.
#[test]
fn a_sandbox_ends_with_its_only_program() {
    block_on(async {
        let scene = Scene::new().await;
        for only in [true, false] {
            let [stdin, stdout, stderr] = [(); 3].map(|()| std::io::pipe().unwrap());
            let program = Spawn {
                argv: ["sh", "-c", "sleep 1000 & exit 7"]
                    .map(str::to_owned)
                    .to_vec(),
                env: Vec::new(),
                cwd: None,
                stdin: Some(stdin.0.into()),
                stdout: stdout.1.into(),
                stderr: stderr.1.into(),
            };
            let started = scene.launcher.run(spec(), program, only).await;
            let (sandbox, mut process) = started.unwrap();
            let init = init_of(&scene, &sandbox);
            assert_eq!(process.wait().await.unwrap(), ExitStatus::Code(7));
            if only {
                gone(&init);
            } else {
                assert_eq!(out(&sandbox, "echo lives").await, "lives\n");
            }
            sandbox.discard().await.unwrap();
            gone(&init);
            nothing_left(scene.registry());
        }
    });
}

/// In a process of its own: others start and end things meanwhile.
#[test]
fn two_hundred_sandboxes_leave_no_trace() {
    if !alone("lifetime::two_hundred_sandboxes_leave_no_trace") {
        return;
    }
    block_on(async {
        let scene = Scene::new().await;
        // The first uses things that stay: threads, caches, parents of cgroups.
        let first = scene.start(spec()).await;
        let zygote = scene.zygote_pid(&first);
        let parents = Own::cgroups(&Own::entries(scene.registry().directory()));
        first.close().await.unwrap();
        assert!(parents.iter().all(|group| !group.exists()), "{parents:?}");
        // The zygote closes what has served when nothing starts: on a busy machine not at once.
        let (mut before, mut alike) = (Own::count(&scene, zygote), 0);
        let settled = until(10, || {
            let last = std::mem::replace(&mut before, Own::count(&scene, zygote));
            alike = if last == before { alike + 1 } else { 0 };
            alike == 100
        });
        settled.unwrap();
        for _ in 0..40 {
            let starts = (0..5).map(|_| scene.start(spec()));
            let started = join_all(starts).await;
            for sandbox in started {
                sandbox.close().await.unwrap();
            }
        }
        let mut after = Own::count(&scene, zygote);
        let _ = until(2, || {
            after = Own::count(&scene, zygote);
            after == before
        });
        assert_eq!(after, before);
    });
}

/// All at once, on tasks of the same thread.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, result) in pending.iter_mut().zip(&mut done) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if done.iter().any(Option::is_none) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect())
    })
    .await
}

#[test]
fn thirty_start_at_once() {
    block_on(async {
        let scene = Scene::new().await;
        let sandboxes = join_all((0..30).map(|_| scene.start(spec()))).await;
        let ids: std::collections::BTreeSet<_> = sandboxes.iter().map(Sandbox::id).collect();
        assert_eq!(ids.len(), 30);
        let answers = join_all(
            sandboxes
                .iter()
                .map(|one| exec(one, "cat /etc/hostname /proc/uptime | wc -l")),
        )
        .await;
        assert!(
            answers.iter().all(|answer| answer.stdout.head == b"2\n"),
            "{answers:?}"
        );
        let closed = join_all(sandboxes.into_iter().map(Sandbox::close)).await;
        assert!(closed.iter().all(Result::is_ok), "{closed:?}");
        assert!(Own::entries(scene.registry().directory()).is_empty());
    });
}

#[test]
fn a_dropped_sandbox_leaves_nothing() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        sh(
            &sandbox,
            "for n in 1 2 3 4 5; do setsid sleep 1000 & done; head -c 100M /dev/zero > /tmp/f",
        )
        .await;
        let inside = Traces::of_init(scene.init_pid(&sandbox));
        assert!(inside.len() >= 6, "{inside:?}");
        let groups = Own::cgroups(&Own::entries(scene.registry().directory()));
        drop(sandbox);
        gone(&inside);
        nothing_left(scene.registry());
        assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");

        // A start that is broken off is no different.
        for microseconds in (0..20_000).step_by(997) {
            let limit = Duration::from_micros(microseconds);
            let _ = tokio::time::timeout(limit, scene.start(spec())).await;
        }
        nothing_left(scene.registry());
        let zygote = scene.start(spec()).await;
        let pid = scene.zygote_pid(&zygote);
        zygote.close().await.unwrap();
        until(2, || Traces::children(pid).is_empty()).unwrap();
    });
}

#[test]
fn sandboxes_leave_the_image_as_it_was() {
    block_on(async {
        let before = listing(&rootfs());
        let scene = Scene::new().await;
        for _ in 0..3 {
            let sandbox = scene.start(spec()).await;
            let script = "find / -xdev -type f -newermt 1980-01-01 2>/dev/null | head -2000 | xargs -d '\\n' touch 2>/dev/null; \
                find / -xdev -type d 2>/dev/null | head -500 | while read -r d; do : > \"$d/.lis\"; done 2>/dev/null; \
                chmod -R o+w /etc 2>/dev/null; rm -rf /usr/share /var/lib/dpkg; echo done";
            assert_eq!(text(&sh(&sandbox, script).await.stdout), "done\n");
            sandbox.close().await.unwrap();
        }
        let changed = difference(&before, &listing(&rootfs()));
        assert!(changed.is_empty(), "{changed:?}");
    });
}

/// Stops all others for twelve seconds, and meddles with what still shares PID 1's memory.
const STOPPER: &str = r#"
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
seen, done, room = 0, set(), ctypes.create_string_buffer(8)

def beginning():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if pid != '1' and open(f'/proc/{pid}/comm').read() == 'lis-init\n': yield int(pid)
        except OSError: pass

def refused(what, result):
    if result >= 0 or ctypes.get_errno() not in (1, 3): done.add(what)

end = time.time() + 12
while time.time() < end:
    try: os.kill(-1, 19)
    except ProcessLookupError: pass
    for pid in beginning():
        seen += 1
        for name in 'mem', 'environ', 'fd/0':
            try: done.add((name, os.open(f'/proc/{pid}/{name}', os.O_RDONLY)))
            except OSError: pass
        part = (ctypes.c_void_p * 2)(ctypes.addressof(room), 8)
        refused('process_vm_readv', libc.process_vm_readv(pid, part, 1, part, 1, 0))
        refused('ptrace', libc.ptrace(0x4206, pid, None, None))
    time.sleep(0.001)
print(seen > 0, done or 'nothing')
"#;

/// Until a new process executes its program it shares the memory of PID 1, which waits for it: whoever stops it stops PID 1 for a
/// while only, and has no way into that memory.
#[test]
fn a_program_that_is_stopped_before_it_begins_is_not_the_end_of_pid_1() {
    with_spec(spec(), |sandbox| async move {
        let stopper = ExecRequest::new(["python3", "-c", STOPPER]);
        let others = sandbox.exec(&stopper);
        let stopped = async {
            let mut request = ExecRequest::new(["no-such-program"]);
            // It is looked for in so many places that it is met at it.
            request.env = vec![("PATH".into(), "/x:".repeat(40_000))];
            loop {
                let status = sandbox.exec(&request).await.unwrap().status;
                if status != ExitStatus::Code(127) {
                    return status;
                }
            }
        };
        let (others, stopped) = tokio::join!(others, stopped);
        assert_eq!(stopped, ExitStatus::Signal(9));
        assert_eq!(text(&others.unwrap().stdout), "True nothing\n");
        assert_eq!(out(&*sandbox, "echo on").await, "on\n");
    });
}
