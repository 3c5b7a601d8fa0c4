//! The sandbox around one `run`.

use std::future::Future;
use std::path::Path;

use serde_json::json;

use super::run::{self, RunArgs, RunError, SandboxFacts, Session};
use super::sandbox::{SandboxArgs, launcher_config};
use super::sanitize::one_line;
use crate::agent::Cancel;
use crate::exit;
use crate::host::{Sandbox, ShellMode};
use crate::image::DEFAULT_NAME;
use crate::spec::Usage;
use crate::tree::LeftOut;

/// Runs one task; gives the exit code.
pub(super) async fn run(args: RunArgs, state: Option<&Path>) -> u8 {
    let with_sandbox = async |session: &mut Session, cancel: Cancel| {
        Box::pin(in_sandbox(session, cancel, state)).await
    };
    Box::pin(run::run(args, with_sandbox)).await
}

async fn in_sandbox(
    session: &mut Session,
    mut cancel: Cancel,
    state: Option<&Path>,
) -> Result<Option<Usage>, RunError> {
    let settings = session.settings();
    let image = settings
        .agent
        .image
        .clone()
        .unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let mut arguments = SandboxArgs::defaults(image);
    arguments.workdir.clone_from(&settings.prompt.working_dir);
    arguments.seccomp.clone_from(&settings.agent.seccomp);
    arguments.net.clone_from(&settings.agent.net);
    arguments.package_cache = settings.agent.package_cache.clone().unwrap_or_default();
    arguments.net_limits = Some(settings.agent.net_limits);
    arguments.seccomp_log = settings.seccomp_log;
    arguments.record_effects = settings.record_effects;
    let mode = match settings.agent.shell {
        crate::agent::Shell::Persistent => ShellMode::Persistent,
        crate::agent::Shell::Fresh => ShellMode::Fresh,
    };
    let keep = settings.keep;
    // A start may build an image first: an interrupt does not wait for that.
    let start = Box::pin(arguments.start(state, "run", launcher_config()));
    let Some(started) = unless(&mut cancel, start).await else {
        return Ok(None);
    };
    let started = started.map_err(failed("start the sandbox"))?;
    let sandbox = started.sandbox.with_shell(mode);
    let facts = SandboxFacts {
        image_digest: Some(started.image.manifest.digest.clone()),
        spec: json!({ "network": started.network, "limits": sandbox.in_force(), "walls": sandbox.walls() }),
    };
    let mut worked = Box::pin(work(session, &sandbox, facts, cancel.clone())).await;
    if keep && worked.is_ok() && !*cancel.borrow() {
        worked = hold(session, &sandbox, &mut cancel).await;
    }
    let closed = sandbox.close_and_search().await;
    // The first failure is the one to tell.
    worked?;
    closed.map(Some).map_err(failed("end the sandbox"))
}

/// Keeps a sandbox until an interrupt, and lets others in.
async fn hold(session: &Session, sandbox: &Sandbox, cancel: &mut Cancel) -> Result<(), RunError> {
    let _door = sandbox.open_door().map_err(failed("keep the sandbox"))?;
    let id = sandbox.id();
    super::output::note(&format!(
        "the run is over, its files are in {}\n\
         sandbox {id} is kept: enter it with `llm-in-sandbox shell --in {id}`; an interrupt here ends it",
        session.files_dir().display()
    ));
    stopped(cancel).await;
    Ok(())
}

/// Makes the sandbox ready, lets the agent work, and takes the results out.
///
/// An interrupt cuts the preparation short; the agent then ends at once, so that its record is kept.
async fn work(
    session: &mut Session,
    sandbox: &Sandbox,
    facts: SandboxFacts,
    mut cancel: Cancel,
) -> Result<(), RunError> {
    let prepare = Box::pin(prepare(session, sandbox));
    unless(&mut cancel, prepare).await.transpose()?;
    Box::pin(session.work(sandbox, facts, cancel)).await?;
    let files = session.files_dir();
    std::fs::create_dir_all(&files).map_err(failed("make the directory of results"))?;
    match sandbox.copy_out(&session.output_dir(), &files).await {
        Ok(copied) => tell_left_out("out", &copied.report.left_out),
        // The record of the run is worth more than its files.
        Err(error) => super::output::error(&error),
    }
    Ok(())
}

async fn prepare(session: &Session, sandbox: &Sandbox) -> Result<(), RunError> {
    session.prepare(sandbox).await?;
    if let Some(input) = &session.settings().input_dir {
        let copied = sandbox.copy_in(input, &session.input_dir()).await;
        let report = copied.map_err(failed("copy the input directory in"))?;
        tell_left_out("in", &report.left_out);
    }
    Ok(())
}

fn tell_left_out(way: &str, left_out: &LeftOut) {
    for left in &left_out.listed {
        let path = one_line(&left.path);
        super::output::note(&format!("not copied {way}: {path} ({:?})", left.reason));
    }
    let more = left_out
        .total()
        .saturating_sub(left_out.listed.len() as u64);
    if more > 0 {
        super::output::note(&format!("not copied {way}: {more} more"));
    }
}

/// What `work` gives, or nothing as soon as the run is to end.
async fn unless<T>(cancel: &mut Cancel, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stopped(cancel) => None,
        done = work => Some(done),
    }
}

/// Waits until the run is to end.
async fn stopped(cancel: &mut Cancel) {
    if cancel.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could end it.
        std::future::pending::<()>().await;
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> RunError {
    move |source| RunError::Sandbox {
        doing: doing.into(),
        source: Box::new(source),
        exit: exit::FAILED,
    }
}
