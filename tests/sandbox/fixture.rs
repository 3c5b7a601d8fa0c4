//! A sandbox for a test, on the default image.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Captured, Env, ExecRequest, ExecResult, ShellResult};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry, Sandbox};
use llm_in_sandbox::image::{Store, state_dir};
use llm_in_sandbox::spec::{Limits, Network, Root, SandboxSpec, Seccomp, Upper};

/// The real program: tests run in another one, which cannot be a zygote.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("LIS_TEST_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_llm-in-sandbox").into(),
        PathBuf::from,
    )
}

/// Root of the default image. A test without an image says so and fails: all of this crate needs one.
pub(crate) fn rootfs() -> PathBuf {
    let state = state_dir(None).unwrap();
    let image = Store::open(&state).unwrap().find("default").unwrap();
    image
        .expect("no default image: run scripts/test.sh, or `llm-in-sandbox image build`")
        .rootfs
}

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        root: Root::Overlay {
            lower: rootfs(),
            upper: Upper::Tmpfs,
        },
        network: Network::None,
        limits: Limits::default(),
        seccomp: Seccomp::default(),
        binds: Vec::new(),
        env: Vec::new(),
        workdir: "/testbed".into(),
        hostname: "sandbox".into(),
        purpose: "test".into(),
        record_effects: false,
    }
}

pub(crate) async fn launcher() -> Launcher {
    let config = LauncherConfig {
        program: Some(program()),
        ahead: Some(1),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

/// Runs a test in a sandbox that was begun before it was asked for, and then proves that it can be closed.
pub(crate) fn in_sandbox<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<Sandbox>) -> F) {
    with_spec(spec(), test);
}

pub(crate) fn with_spec<F: Future<Output = ()>>(
    spec: SandboxSpec,
    test: impl FnOnce(std::sync::Arc<Sandbox>) -> F,
) {
    block_on(async {
        let launcher = launcher().await;
        filled(&launcher, 1).await;
        let sandbox = std::sync::Arc::new(launcher.sandbox(spec).await.unwrap());
        test(std::sync::Arc::clone(&sandbox)).await;
        std::sync::Arc::into_inner(sandbox)
            .unwrap()
            .close()
            .await
            .unwrap();
    });
}

/// Waits until so many sandboxes are begun.
pub(crate) async fn filled(launcher: &Launcher, count: usize) {
    let full = async {
        while launcher.waiting() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), full).await;
    waited.expect("none was begun");
}

/// No test hangs: a minute is far more than any needs.
pub(crate) fn block_on<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await })
        .expect("the test took longer than a minute")
}

pub(crate) fn text(captured: &Captured) -> String {
    let mut bytes = captured.head.clone();
    bytes.extend(&captured.tail);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A command in the persistent shell, with ten seconds.
pub(crate) async fn sh(env: &impl Env, command: &str) -> ShellResult {
    env.shell(command, Duration::from_secs(10)).await.unwrap()
}

/// Its standard output, after checking that it went well.
pub(crate) async fn out(env: &impl Env, command: &str) -> String {
    let result = sh(env, command).await;
    assert_eq!(
        result.status,
        Some(0),
        "{command}: {}{}",
        text(&result.stdout),
        text(&result.stderr)
    );
    text(&result.stdout)
}

/// `sh -c` in a process of its own.
pub(crate) async fn exec(env: &impl Env, command: &str) -> ExecResult {
    env.exec(&ExecRequest::new(["sh", "-c", command]))
        .await
        .unwrap()
}

/// Whether the host offers what a test needs. Where it does not, one line says so, unless
/// `LIS_TEST_REQUIRE` names it: then the test fails.
pub(crate) fn has(test: &str, needs: &[&str]) -> bool {
    for need in needs {
        let lacking = match *need {
            "root" => (!nix::unistd::geteuid().is_root()).then_some("needs root"),
            "cgroup" => {
                let controllers = llm_in_sandbox::host::Cgroups::detect().controllers();
                (!(controllers.memory && controllers.pids))
                    .then_some("needs cgroups that it may make")
            }
            "landlock" => (llm_in_sandbox::sys::landlock::version() < 6)
                .then_some("needs Landlock of Linux 6.12"),
            other => panic!("nobody knows how to find out about {other}"),
        };
        let Some(why) = lacking else {
            continue;
        };
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == *need),
            "{test} {why}, and {need} is required"
        );
        println!("SKIP {test}: {why}");
        return false;
    }
    true
}

/// A file of the host that nobody inside may read, though every user of the host can.
#[derive(Debug)]
pub(crate) struct Canary {
    file: tempfile::NamedTempFile,
    content: String,
}

impl Canary {
    pub(crate) fn plant() -> Self {
        // Not in /tmp: inside there is one, too.
        let file = tempfile::Builder::new()
            .prefix("lis-canary-")
            .tempfile_in("/var/tmp")
            .unwrap();
        let content = format!("canary of {}", file.path().display());
        std::fs::write(file.path(), &content).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file.path(), open).unwrap();
        Self { file, content }
    }

    pub(crate) fn path(&self) -> &str {
        self.file.path().to_str().unwrap()
    }

    pub(crate) fn content(&self) -> &str {
        &self.content
    }
}

/// A launcher with a registry of its own, so that what it holds is this test's.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) launcher: Launcher,
    // After the launcher: fields are dropped in order.
    directory: Place,
}

/// The directory of a registry. What an abandoned sandbox has left is taken away before it goes.
#[derive(Debug)]
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Registry::at(self.path().join("run")).and_then(|registry| registry.reclaim());
    }
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::without(&[]).await
    }

    /// One whose sandboxes lack walls.
    pub(crate) async fn without(walls: &[&str]) -> Self {
        Self::with(walls, 0, None).await
    }

    /// One that begins so many sandboxes before they are asked for.
    pub(crate) async fn ahead(count: usize) -> Self {
        Self::with(&[], count, None).await
    }

    /// One whose writable layers may lie in a directory.
    pub(crate) async fn on_disk(uppers: &Path) -> Self {
        Self::with(&[], 0, Some(uppers)).await
    }

    async fn with(walls: &[&str], ahead: usize, uppers: Option<&Path>) -> Self {
        let directory = Place::new();
        let config = LauncherConfig {
            program: Some(program()),
            registry: Some(Registry::at(directory.path().join("run")).unwrap()),
            without: walls.iter().map(|wall| (*wall).to_owned()).collect(),
            ahead: Some(ahead),
            upper_directory: uppers.map(Path::to_owned),
            ..LauncherConfig::default()
        };
        Self {
            launcher: Launcher::start(config).await.unwrap(),
            directory,
        }
    }

    pub(crate) async fn start(&self, spec: SandboxSpec) -> Sandbox {
        self.launcher.sandbox(spec).await.unwrap()
    }

    pub(crate) fn take_apart(self) -> (Launcher, Place) {
        (self.launcher, self.directory)
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.launcher.registry()
    }

    /// PID 1 of a sandbox, as the host numbers it.
    pub(crate) fn init_pid(&self, sandbox: &Sandbox) -> i32 {
        let all = self.registry().list().unwrap();
        all.iter()
            .find(|info| info.id == sandbox.id())
            .unwrap()
            .init_pid
            .unwrap()
    }

    /// The zygote of a sandbox: the parent of its PID 1.
    pub(crate) fn zygote_pid(&self, sandbox: &Sandbox) -> i32 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.init_pid(sandbox))).unwrap();
        let after = stat.rsplit(") ").next().unwrap();
        after.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Namespaces of a sandbox, as a command of it sees them.
    pub(crate) async fn namespaces(&self, sandbox: &Sandbox) -> BTreeSet<String> {
        let listed = exec(
            sandbox,
            "readlink /proc/self/ns/[a-z]* | sort -u | grep -v time",
        )
        .await;
        text(&listed.stdout).lines().map(str::to_owned).collect()
    }
}

/// Everything that `ls -lR` could tell of a tree, times of change included.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let m = std::fs::symlink_metadata(&path).unwrap();
            let facts = format!(
                "{:o} {}:{} {} {}.{} {}.{} {}",
                m.mode(),
                m.uid(),
                m.gid(),
                m.size(),
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec(),
                m.nlink()
            );
            if m.is_dir() {
                directories.push(path.clone());
            }
            found.insert(path, facts);
        }
    }
    found
}

/// What is in one and not, or not the same, in the other.
pub(crate) fn difference(
    one: &BTreeMap<PathBuf, String>,
    other: &BTreeMap<PathBuf, String>,
) -> Vec<PathBuf> {
    let paths: BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    paths
        .into_iter()
        .filter(|path| one.get(*path) != other.get(*path))
        .cloned()
        .collect()
}

/// `kill -9` of a process that this test has started.
pub(crate) fn kill(pid: i32) {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// It exists and is no zombie.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(
        stat.rsplit(") ").next().unwrap_or("").chars().next(),
        None | Some('Z' | 'X')
    )
}

/// Waits until something holds; `Err` after so many seconds.
pub(crate) fn until(seconds: u64, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("not within {seconds} s"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
