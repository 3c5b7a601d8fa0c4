//! What comes before the first turn: the directories of the sandbox, and the head of the record.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::prompt::PromptConfig;
use super::run::AgentConfig;
use super::tools;
use crate::env::{Env, EnvError, ExecRequest, ExitStatus};
use crate::llm::{ModelSettings, Sampling};
use crate::trajectory::{Header, SCHEMA, VERSION};

/// Time for each command that makes the sandbox ready.
const SETUP: Duration = Duration::from_secs(60);

/// What is known about the sandbox when the work begins.
#[derive(Debug, Clone, Default)]
pub struct SandboxFacts {
    /// Digest of the image.
    pub image_digest: Option<String>,
    /// Limits, network and whatever else was asked for.
    pub spec: Value,
}

/// The sandbox could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It is gone, or the host failed.
    #[error("make the sandbox ready")]
    Env(#[from] EnvError),
    /// It does not answer.
    #[error("make the sandbox ready: it does not answer")]
    Silent,
    /// A directory was refused.
    #[error("make the directories of the sandbox: mkdir ended with status {0}")]
    Mkdir(i32),
}

/// Makes the directories of the prompt configuration, and the working directory a git repository where git is there.
///
/// # Errors
/// [`PrepareError`] when the sandbox is gone or its directories cannot be made.
pub async fn prepare<E: Env>(env: &E, prompt: &PromptConfig) -> Result<(), PrepareError> {
    let mkdir = [
        "mkdir",
        "-p",
        "--",
        &prompt.working_dir,
        &prompt.input_dir,
        &prompt.output_dir,
    ];
    let made = setup(env, &mkdir).await?;
    if made != ExitStatus::Code(0) {
        return Err(PrepareError::Mkdir(made.code()));
    }
    let git = ["git", "init", "--quiet", "--", &prompt.working_dir];
    if setup(env, &git).await? != ExitStatus::Code(0) {
        tracing::info!("the working directory is no git repository: git is missing or refused");
    }
    Ok(())
}

/// Runs one program in the sandbox. A program that is missing counts as one that failed.
async fn setup<E: Env>(env: &E, argv: &[&str]) -> Result<ExitStatus, PrepareError> {
    let mut request = ExecRequest::new(argv.iter().copied());
    request.timeout = Some(SETUP);
    request.capture = 4096;
    match tokio::time::timeout(SETUP * 2, env.exec(&request)).await {
        Ok(Ok(result)) => Ok(result.status),
        Ok(Err(EnvError::File { .. })) => Ok(ExitStatus::Code(127)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(PrepareError::Silent),
    }
}

/// The first line of the record of a run that begins now.
#[must_use]
pub fn header(
    model: &ModelSettings,
    config: &AgentConfig,
    prompt: &PromptConfig,
    problem: &str,
    facts: SandboxFacts,
) -> Header {
    let (sampling, extra_body) = match model {
        ModelSettings::Http(config) => (config.sampling.clone(), config.extra_body.clone()),
        ModelSettings::Replay(_) => (Sampling::default(), Map::new()),
    };
    let limits = &config.limits;
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Header {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        package: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_s: started.as_secs_f64(),
        model: model.name(),
        base_url: model.shown_url(),
        sampling,
        extra_body,
        image_digest: facts.image_digest,
        spec: json!({
            "sandbox": facts.spec,
            "shell": format!("{:?}", config.shell).to_lowercase(),
            "style": format!("{:?}", config.style).to_lowercase(),
            "working_dir": prompt.working_dir,
            "input_dir": prompt.input_dir,
            "output_dir": prompt.output_dir,
            "max_steps": limits.max_steps,
            "max_token_limit": limits.max_token_limit,
            "max_tokens_per_call": limits.max_tokens_per_call,
            "cmd_timeout_s": limits.cmd_timeout.as_secs_f64(),
            "turn_timeout_s": limits.turn_timeout.map(|t| t.as_secs_f64()),
            "task_timeout_s": limits.task_timeout.map(|t| t.as_secs_f64()),
            "ablations": config.ablations,
        }),
        problem_statement: problem.to_owned(),
        tools: tools::schemas(config.style, config.shell, &config.ablations),
    }
}
