//! Every limit that strikes is named, the sandbox or its successor shell goes on, and its end takes no longer.

use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, EnvError, ExecRequest, ExecResult, GuestPath};
use llm_in_sandbox::host::{HostError, Sandbox};
use llm_in_sandbox::outcome::{LimitHit, Outcome, Policy};
use llm_in_sandbox::spec::Limits;

use crate::fixture::{Scene, block_on, exec, has, kill, sh, spec, text};
use crate::walls::small;

const MIB: u64 = 1 << 20;

/// Bombs in Python. Each ends with status 1 once it is refused, or is killed.
const THREADS: &str = "
import threading, time
try:
    for _ in range(2000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError: os._exit(1)";
const FORKS: &str = "
try:
    for _ in range(200):
        if os.fork() == 0: time.sleep(60); os._exit(0)
except OSError: sys.exit(1)";
const HEAP: &str = "b = [bytearray(b'x') * (16 << 20) for _ in range(64)]";
const MEMFD: &str = "
b = bytearray(b'x') * (32 << 20) # a larger target than PID 1
fd = os.memfd_create('x')
for _ in range(256): os.write(fd, bytes(1 << 20))";
/// First all that a tmpfs takes, none of which can be reclaimed.
const SHARED: &str = "
for path in '/dev/shm/x', '/root/x':
    try:
        with open(path, 'wb', 0) as f:
            for _ in range(64): f.write(bytes(1 << 20))
    except OSError: pass
b = [bytearray(b'x') * (16 << 20) for _ in range(64)]";
fn python(script: &str) -> ExecRequest {
    let script = format!("import os, sys, time\n{script}");
    let mut request = ExecRequest::new(["python3", "-c", &script]);
    request.timeout = Some(Duration::from_secs(40));
    request
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn memory(bytes: u64) -> Limits {
    limits(|limits| {
        limits.memory_bytes = Some(bytes);
        limits.disk_bytes = Some(bytes / 4);
    })
}

fn names(hits: &[LimitHit]) -> Vec<&'static str> {
    hits.iter().map(LimitHit::name).collect()
}

/// Runs a bomb, and the same with a limit that it does not meet. What struck the first time.
fn strikes(limits: Limits, script: &str, name: &str) -> ExecResult {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(small(limits)).await;
        let result = sandbox.exec(&python(script)).await.unwrap();
        assert!(names(&result.struck).contains(&name), "{result:?}");
        let Outcome::Policy(Policy::Limit(hit)) = result.outcome() else {
            panic!("{result:?}");
        };
        assert_eq!(hit.name(), name, "{result:?}");
        goes_on_and_ends(sandbox, name).await;
        result
    })
}

/// A command after the bomb is carried out, and nothing strikes any more; the end is quick and tells all.
async fn goes_on_and_ends(sandbox: Sandbox, name: &str) {
    sandbox
        .exec(&python("os.kill(-1, 9)"))
        .await
        .expect("a process to clear up with");
    let after = sh(&sandbox, "echo on").await;
    assert_eq!(text(&after.stdout), "on\n", "{after:?}");
    assert!(!names(&after.struck).contains(&"memory"), "{after:?}");
    let began = Instant::now();
    let usage = sandbox.close().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{usage:?}");
    assert!(names(&usage.struck).contains(&name), "{usage:?}");
    assert_eq!(usage.left_behind.unwrap().total, 0);
}

/// The limit taken away: the same script is not told of it.
fn spares(limits: Limits, script: &str, name: &str) {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(small(limits)).await;
        let result = sandbox.exec(&python(script)).await.unwrap();
        assert!(!names(&result.struck).contains(&name), "{result:?}");
        let usage = sandbox.close().await.unwrap();
        assert!(!names(&usage.struck).contains(&name), "{usage:?}");
    });
}

/// Tests of limits that a cgroup enforces and counts.
macro_rules! counted {
    ($($test:ident: $limits:expr, $script:expr, $name:literal, else $loose:expr;)*) => {$(
        #[test]
        fn $test() {
            if has(stringify!($test), &["cgroup"]) {
                strikes($limits, $script, $name);
                spares($loose, $script, $name);
            }
        }
    )*};
}

counted! {
    a_fork_bomb_is_named: limits(|l| l.pids = Some(60)), FORKS, "pids",
        else Limits::default();
    a_thread_bomb_is_named: limits(|l| l.pids = Some(60)), THREADS, "pids",
        else limits(|l| l.pids = Some(4000));
    heap_is_named: memory(128 * MIB), HEAP, "memory", else Limits::default();
    memfd_is_named: memory(128 * MIB), MEMFD, "memory", else Limits::default();
    tmpfs_and_heap_are_named: memory(128 * MIB), SHARED, "memory", else Limits::default();
}

/// Cached files are no strike: the kernel takes them back.
#[test]
fn page_cache_is_not_a_strike() {
    let read = "
for root, _, files in os.walk('/usr'):
    for name in files:
        try: open(os.path.join(root, name), 'rb').read(1 << 20)
        except OSError: pass";
    spares(memory(64 * MIB), read, "memory");
}

/// The file systems and their limits, whoever the user is.
#[test]
fn full_file_systems_are_named() {
    let bytes = "
try:
    with open(PATH, 'wb', 0) as f:
        for _ in range(160): f.write(bytes(1 << 20))
except OSError: sys.exit(1)";
    let inodes = "
try:
    for n in range(6000): open(PATH + str(n), 'w').close()
except OSError: sys.exit(1)";
    block_on(async {
        let scene = Scene::new().await;
        for (script, name, path) in [
            (bytes, "disk", "/tmp/f"),
            (bytes, "disk", "/dev/shm/f"),
            (bytes, "disk", "/run/shell-io/f"),
            (bytes, "disk", "/dev/f"),
            (inodes, "inodes", "/tmp/f"),
            (inodes, "inodes", "/dev/shm/f"),
            (inodes, "inodes", "/run/shell-io/f"),
            (inodes, "inodes", "/dev/f"),
        ] {
            let tight = limits(|l| {
                l.disk_bytes = Some(16 * MIB);
                l.inodes = Some(1000);
            });
            let sandbox = scene.start(small(tight)).await;
            let script = format!("PATH = '{path}'\n{script}");
            let result = sandbox.exec(&python(&script)).await.unwrap();
            let mount = match path.rsplit_once('/').unwrap().0 {
                "/tmp" => "/",
                mount => mount,
            };
            assert_eq!(names(&result.struck), [name], "{path}: {result:?}");
            if let [LimitHit::Disk { path, max_bytes }] = &result.struck[..] {
                assert!(path == mount && *max_bytes <= 64 * MIB, "{result:?}");
            } else if let [LimitHit::Inodes { path, max }] = &result.struck[..] {
                assert!(path == mount && *max <= 4096, "{result:?}");
            }
            // Full once, told once; but a command that fails then is told why.
            let content = sandbox.exec(&ExecRequest::new(["true"])).await.unwrap();
            assert_eq!(content.struck, [], "{path}");
            let failing = sandbox.exec(&ExecRequest::new(["false"])).await.unwrap();
            assert_eq!(names(&failing.struck), [name], "{path}");
            goes_on_and_ends(sandbox, name).await;
        }
        let roomy = scene.start(spec()).await;
        let script = format!("PATH = '/tmp/f'\n{inodes}");
        let result = roomy.exec(&python(&script)).await.unwrap();
        assert_eq!(result.struck, []);
        roomy.close().await.unwrap();
    });
}

/// What a process that lives on holds can be seen; of one that ended the kernel keeps nothing.
#[test]
fn terminals_and_open_files_are_named_while_they_are_held() {
    let hold = "
held = []
try:
    while True: held.append(os.open(PATH, os.O_RDWR | os.O_NOCTTY))
except OSError as e:
    if os.fork(): os._exit(1)
    for fd in 0, 1, 2: os.dup2(held[0], fd)
    time.sleep(60)";
    block_on(async {
        let scene = Scene::new().await;
        for (path, name) in [("/dev/ptmx", "terminals"), ("/dev/null", "open_files")] {
            let sandbox = scene.start(spec()).await;
            let script = format!("PATH = '{path}'\n{hold}");
            let result = sandbox.exec(&python(&script)).await.unwrap();
            // Linux 6.2 began to tell how many files are open.
            if name == "open_files" && !kernel_counts_files() {
                println!("SKIP open_files: needs Linux 6.2");
            } else {
                assert_eq!(names(&result.struck), [name], "{result:?}");
            }
            goes_on_and_ends(sandbox, name).await;
        }
    });
}

fn kernel_counts_files() -> bool {
    std::fs::metadata("/proc/self/fd").unwrap().len() > 0
}

/// Limits that a program meets as an errno, and that nobody counts.
#[test]
fn limits_of_one_process_or_user_are_met_inside() {
    let script = r"
import ctypes, errno, resource, signal
c = ctypes.CDLL(None, use_errno=True)
def refused(what, wanted, call):
    ctypes.set_errno(0)
    if call() != -1 or ctypes.get_errno() not in wanted: print(what, ctypes.get_errno())
page = 65 << 20
p = c.mmap; p.restype = ctypes.c_void_p
area = p(None, ctypes.c_size_t(page), 3, 0x22, -1, 0)
refused('mlock', (errno.ENOMEM, errno.EPERM), lambda: c.mlock(ctypes.c_void_p(area), ctypes.c_size_t(page)))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
def signals():
    for _ in range(5000):
        if c.sigqueue(os.getpid(), signal.SIGRTMIN, None): return -1
    return 0
refused('signals', (errno.EAGAIN,), signals)
def queues():
    for n in range(400):
        if c.mq_open(b'/q%d' % n, 0o102, 0o600, None) < 0: return -1
    return 0
refused('queues', (errno.EMFILE, errno.ENOSPC, errno.ENOMEM), queues)
if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): print('core')
";
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let result = sandbox.exec(&python(script)).await.unwrap();
        assert_eq!(
            (text(&result.stdout), text(&result.stderr)),
            Default::default()
        );
        sandbox.close().await.unwrap();
        // Without them at least one of the calls succeeds.
        let walls = ["Limit { name: \"SIGPENDING\"", "Limit { name: \"MSGQUEUE\""];
        let scene = Scene::without(&walls).await;
        let sandbox = scene.start(spec()).await;
        let result = sandbox.exec(&python(script)).await.unwrap();
        assert!(text(&result.stdout).contains("signals 0"), "{result:?}");
        sandbox.close().await.unwrap();
    });
}

#[test]
fn the_cpu_quota_is_reported() {
    if !has("the_cpu_quota_is_reported", &["cgroup"]) {
        return;
    }
    let spin = "
end = time.monotonic() + 1
while time.monotonic() < end: pass
print(time.process_time())";
    block_on(async {
        let scene = Scene::new().await;
        let slow = scene.start(small(limits(|l| l.cpus = Some(0.05)))).await;
        let result = slow.exec(&python(spin)).await.unwrap();
        assert_eq!(names(&result.struck), ["cpu_throttled"]);
        assert_eq!(
            result.outcome(),
            Outcome::Policy(Policy::Exited { code: 0 })
        );
        let used: f64 = text(&result.stdout).trim().parse().unwrap();
        assert!(used < 0.5, "{used} s of CPU in one");
        slow.close().await.unwrap();
    });
    spares(Limits::default(), spin, "cpu_throttled");
}

#[test]
fn time_silence_and_too_much_output_are_named() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let run = async |script: &str, wall: u64, idle: u64| {
            let mut request = ExecRequest::new(["sh", "-c", script]);
            request.timeout = Some(Duration::from_millis(wall));
            request.idle_timeout = Some(Duration::from_millis(idle));
            request.capture = 1000;
            sandbox.exec(&request).await.unwrap()
        };
        let result = run("sleep 50", 500, 40_000).await;
        assert_eq!(
            (names(&result.struck), result.timed_out),
            (vec!["wall_time"], true)
        );
        let result = run("sleep 50", 40_000, 1000).await;
        assert_eq!(
            (names(&result.struck), result.timed_out),
            (vec!["idle_time"], true)
        );
        // Busy or talkative is not idle.
        let result = run("timeout 3 sh -c 'while :; do :; done'", 40_000, 2000).await;
        assert_eq!(names(&result.struck), [] as [&str; 0], "{result:?}");
        let result = run(
            "for i in 1 2 3 4 5 6; do echo; sleep 0.5; done",
            40_000,
            2000,
        )
        .await;
        assert_eq!(names(&result.struck), [] as [&str; 0], "{result:?}");
        let result = run("head -c 5000 /dev/zero", 40_000, 40_000).await;
        let hits = [LimitHit::Output {
            omitted_bytes: 4000,
        }];
        assert_eq!(result.struck, hits);
        assert_eq!(
            result.outcome(),
            Outcome::Policy(Policy::Exited { code: 0 })
        );
        // In the persistent shell, too.
        let shell = sandbox.shell("sleep 50", Duration::from_millis(500)).await;
        assert_eq!(names(&shell.unwrap().struck), ["wall_time"]);
        sandbox.close().await.unwrap();
    });
}

/// A bad call is the model's doing, and named.
#[test]
fn a_kill_by_seccomp_is_named() {
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let result = sh(&sandbox, "bash -c 'kill -SYS $$'").await;
        assert_eq!(
            result.outcome(),
            Outcome::Policy(Policy::Seccomp),
            "{result:?}"
        );
        // PID 1 has the ends of its own children from the kernel: a code is no signal there.
        for (command, outcome) in [
            ("kill -SYS $$", Policy::Seccomp),
            ("kill -SEGV $$", Policy::Signal { signal: 11 }),
            ("exit 159", Policy::Exited { code: 159 }),
            ("exit 139", Policy::Exited { code: 139 }),
        ] {
            let result = exec(&sandbox, command).await;
            assert_eq!(result.outcome(), Outcome::Policy(outcome), "{command}");
        }
        // A shell tells a code alone: docs/limits.md says so.
        let result = sh(&sandbox, "(exit 159)").await;
        assert_eq!(result.outcome(), Outcome::Policy(Policy::Seccomp));
        sandbox.close().await.unwrap();
    });
}

/// Where the memory limit takes PID 1, whoever waits is told that it was the limit.
#[test]
fn a_sandbox_that_its_memory_limit_ends_says_so() {
    if !has("a_sandbox_that_its_memory_limit_ends_says_so", &["cgroup"]) {
        return;
    }
    block_on(async {
        let scene = Scene::new().await;
        for in_shell in [false, true] {
            let sandbox = scene.start(small(memory(64 * MIB))).await;
            // The kernel takes the largest process, which PID 1 is not, unless something weighs heavier.
            let bomb =
                "touch /tmp/up; until [ -e /tmp/go ]; do sleep 0.02; done; exec tail /dev/zero";
            let waits = async {
                if in_shell {
                    sandbox.shell(bomb, Duration::from_secs(30)).await.map(drop)
                } else {
                    let mut request = ExecRequest::new(["bash", "-c", bomb]);
                    request.timeout = Some(Duration::from_secs(30));
                    sandbox.exec(&request).await.map(drop)
                }
            };
            let takes = async {
                let up = GuestPath::from("/tmp/up");
                while sandbox.stat(&up).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let init = scene.init_pid(&sandbox);
                std::fs::write(format!("/proc/{init}/oom_score_adj"), "1000").unwrap();
                let go = GuestPath::from("/tmp/go");
                sandbox.write_file(&go, b"", false).await.unwrap();
            };
            let (ended, ()) = tokio::join!(waits, takes);
            let Err(EnvError::Limit(hit)) = ended else {
                panic!("{ended:?}");
            };
            assert!(hit.ends_sandbox(), "{hit:?}");
            let began = Instant::now();
            let usage = sandbox.close().await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(5));
            assert!(usage.struck.iter().any(LimitHit::ends_sandbox), "{usage:?}");
        }
        // Killed by somebody else, it is not the model's doing.
        let sandbox = scene.start(small(memory(64 * MIB))).await;
        kill(scene.init_pid(&sandbox));
        let error = sandbox.exec(&ExecRequest::new(["true"])).await.unwrap_err();
        assert!(matches!(error, EnvError::Died(_)), "{error:?}");
        assert!(matches!(error.outcome(), Some(Outcome::Infrastructure(_))));
        let usage = sandbox.close().await.unwrap();
        assert_eq!(usage.struck, []);
    });
}

/// With no process left PID 1 cannot start one either: that is no failure of ours.
#[test]
fn a_request_without_room_for_a_process_is_the_models_doing() {
    let hold = "
while True:
    try:
        if os.fork() == 0: time.sleep(60); os._exit(0)
    except OSError: time.sleep(0.01) # and takes what a file operation leaves";
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(small(limits(|l| l.pids = Some(30)))).await;
        let bomb = python(hold);
        let path = GuestPath::from("/etc/hostname");
        let bombing = sandbox.exec(&bomb);
        let looking = async {
            loop {
                match sandbox.read_file(&path, 1000).await {
                    Err(EnvError::Limit(hit)) => return hit,
                    Err(EnvError::Infrastructure(why)) => panic!("{why}"),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let hit = tokio::select! {
            hit = looking => hit,
            result = bombing => panic!("{result:?}"),
        };
        assert_eq!(hit.name(), "pids");
        sandbox.close().await.unwrap();
    });
}

/// What is left is counted and is an error; what counts it is not the clean-up.
#[test]
fn what_is_left_behind_is_counted() {
    if !has("what_is_left_behind_is_counted", &["root", "cgroup"]) {
        return;
    }
    block_on(async {
        let scene = Scene::new().await;
        let sandbox = scene.start(spec()).await;
        let noted = scene
            .registry()
            .directory()
            .join("sandboxes")
            .join(sandbox.id());
        let groups = std::fs::read_to_string(noted.join("cgroups")).unwrap();
        // A process of the host joins one of its cgroups and survives it.
        let group = groups
            .lines()
            .find(|group| std::path::Path::new(group).exists())
            .unwrap();
        let mut stranger = std::process::Command::new("sleep")
            .arg("1047")
            .spawn()
            .unwrap();
        std::fs::write(format!("{group}/cgroup.procs"), stranger.id().to_string()).unwrap();
        let closed = sandbox.close_and_search().await;
        let Err(HostError::LeftOver(usage, _)) = closed else {
            panic!("{closed:?}");
        };
        let left = usage.left_behind.unwrap();
        assert_eq!(
            (left.processes, left.cgroups, left.directories, left.total),
            (1, 1, 1, 3),
            "{left:?}"
        );
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        std::fs::remove_dir(group).unwrap();

        let clean = scene.start(spec()).await;
        sh(&clean, "sleep 1000 & true").await;
        let usage = clean.close_and_search().await.unwrap();
        assert_eq!(usage.left_behind.unwrap().total, 0);
        // A terminal that the caller keeps is one that is left.
        let sandbox = scene.start(spec()).await;
        let argv = ["sleep", "1000"].map(str::to_owned);
        let terminal = sandbox.spawn_on_terminal(&argv, &[]).await.unwrap();
        let Err(HostError::LeftOver(usage, _)) = sandbox.close_and_search().await else {
            panic!("a terminal is open");
        };
        assert_eq!(usage.left_behind.unwrap().terminals, 1);
        drop(terminal);
    });
}
