//! The sandbox around one `run`.

use std::path::Path;

use serde_json::json;

use super::run::{self, RunArgs, RunError, SandboxFacts, Session};
use super::sandbox::{Running, SandboxArgs};
use crate::agent::Cancel;
use crate::exit;
use crate::host::{Sandbox, ShellMode};
use crate::image::DEFAULT_NAME;
use crate::spec::Usage;

/// Runs one task; gives the exit code.
pub(super) async fn run(args: RunArgs, state: Option<&Path>) -> u8 {
    run::run(args, async |session, cancel| in_sandbox(session, cancel, state).await).await
}

async fn in_sandbox(
    session: &mut Session,
    cancel: Cancel,
    state: Option<&Path>,
) -> Result<Option<Usage>, RunError> {
    let settings = session.settings();
    let image = settings.image.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let mut arguments = SandboxArgs::defaults(image);
    arguments.workdir.clone_from(&settings.prompt.working_dir);
    let mode = match settings.shell {
        crate::agent::Shell::Persistent => ShellMode::Persistent,
        crate::agent::Shell::Fresh => ShellMode::Fresh,
    };
    let keep = settings.keep;
    let Running { sandbox, image, _hold } =
        arguments.start(state, "run").await.map_err(failed("start the sandbox"))?;
    let sandbox = sandbox.with_shell(mode);
    let facts = SandboxFacts {
        image_digest: Some(image.manifest.digest.clone()),
        spec: json!({ "network": "none", "limits": sandbox.in_force() }),
    };
    let worked = work(session, &sandbox, facts, cancel).await;
    if keep {
        hold(&sandbox).await?;
    }
    let closed = sandbox.close().await;
    // The first failure is the one to tell.
    worked?;
    closed.map(Some).map_err(failed("end the sandbox"))
}

/// Keeps a sandbox until an interrupt, and lets others in.
async fn hold(sandbox: &Sandbox) -> Result<(), RunError> {
    let _door = sandbox.open_door().map_err(failed("keep the sandbox"))?;
    let id = sandbox.id();
    super::output::note(&format!(
        "sandbox {id} is kept: enter it with `llm-in-sandbox shell --in {id}`; an interrupt here ends it"
    ));
    tokio::signal::ctrl_c().await.map_err(failed("wait for an interrupt"))
}

async fn work(
    session: &mut Session,
    sandbox: &Sandbox,
    facts: SandboxFacts,
    cancel: Cancel,
) -> Result<(), RunError> {
    session.prepare(sandbox).await?;
    if let Some(input) = &session.settings().input_dir {
        sandbox
            .copy_in(input, &session.input_dir())
            .await
            .map_err(failed("copy the input directory in"))?;
    }
    session.work(sandbox, facts, cancel).await?;
    let files = session.files_dir();
    std::fs::create_dir_all(&files).map_err(failed("make the directory of results"))?;
    match sandbox.copy_out(&session.output_dir(), &files).await {
        Ok(report) => {
            for left in &report.left_out.listed {
                super::output::note(&format!("not copied: {} ({:?})", left.path, left.reason));
            }
        }
        // The record of the run is worth more than its files.
        Err(error) => super::output::error(&error),
    }
    Ok(())
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> RunError {
    move |source| RunError::Sandbox { doing: doing.into(), source: Box::new(source), exit: exit::FAILED }
}
