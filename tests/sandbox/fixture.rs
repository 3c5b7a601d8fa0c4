//! A sandbox for a test, on the default image.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use llm_in_sandbox::env::{Captured, Env, ExecRequest, ExecResult, ShellResult};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Sandbox};
use llm_in_sandbox::image::{Store, state_dir};
use llm_in_sandbox::spec::{Limits, Network, Root, SandboxSpec, Upper};

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
        binds: Vec::new(),
        env: Vec::new(),
        workdir: "/testbed".into(),
        hostname: "sandbox".into(),
        purpose: "test".into(),
    }
}

pub(crate) async fn launcher() -> Launcher {
    let config = LauncherConfig {
        program: Some(program()),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

/// Runs a test in a sandbox, and then proves that the sandbox can be closed.
pub(crate) fn in_sandbox<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<Sandbox>) -> F) {
    with_spec(spec(), test);
}

pub(crate) fn with_spec<F: Future<Output = ()>>(
    spec: SandboxSpec,
    test: impl FnOnce(std::sync::Arc<Sandbox>) -> F,
) {
    block_on(async {
        let sandbox = std::sync::Arc::new(launcher().await.sandbox(spec).await.unwrap());
        test(std::sync::Arc::clone(&sandbox)).await;
        std::sync::Arc::into_inner(sandbox)
            .unwrap()
            .close()
            .await
            .unwrap();
    });
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
