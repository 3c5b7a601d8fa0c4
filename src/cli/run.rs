//! `run`: one task, from the settings to the answer.
//!
//! Settings are resolved and everything that a person can get wrong is checked before anything starts. The sandbox itself is
//! the caller's: [`run`] is given a function that starts one, and hands it a [`Session`].

mod resolve;
mod session;

use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, ValueEnum};
use tokio::sync::watch;

pub use resolve::{ModelSettings, RunSettings, resolve};
pub use session::{SandboxFacts, Session};

use super::error::CliError;
use super::output;
use super::signals::Signals;
use crate::agent::{Cancel, PromptError};
use crate::llm::{LlmError, Secret};
use crate::settings::{Environment, SettingsError};
use crate::spec::Usage;
use crate::trajectory::RecorderError;

/// The model submitted.
pub const EXIT_SUBMITTED: u8 = 0;
/// The run ended in another way.
pub const EXIT_NOT_SUBMITTED: u8 = 1;
/// The settings cannot be used; nothing was started.
pub const EXIT_USAGE: u8 = 2;
/// 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;
/// 128 + SIGTERM.
pub const EXIT_TERMINATED: u8 = 143;

/// Flags of `run`. What is absent comes from the environment, the settings file or the defaults.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub struct RunArgs {
    /// The task
    #[arg(value_name = "QUERY", conflicts_with = "query")]
    pub task: Option<String>,
    /// The task, as a flag
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub query: Option<String>,
    /// Model name, or replay:FILE for recorded answers [env: LLM_NAME]
    #[arg(long, value_name = "NAME")]
    pub llm_name: Option<String>,
    /// Address of an OpenAI-compatible server, up to /v1 [env: LLM_BASE_URL] [default: http://localhost:8000/v1]
    #[arg(long, value_name = "URL")]
    pub llm_base_url: Option<String>,
    /// Key of the server [env: LLM_API_KEY, OPENAI_API_KEY]
    #[arg(long, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
    /// Image of the store
    #[arg(long, value_name = "NAME")]
    pub docker_image: Option<String>,
    /// Turns the model may take [default: 100]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u32>,
    /// Sampling temperature [env: LLM_TEMPERATURE] [default: 1.0]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Nucleus sampling
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Tokens to sample from
    #[arg(long, value_name = "K")]
    pub top_k: Option<u64>,
    /// Sampling seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Tokens of the conversation above which the run ends [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_token_limit: Option<u64>,
    /// Tokens of one answer [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_tokens_per_call: Option<u64>,
    /// Directory whose content is copied into the sandbox
    #[arg(long, value_name = "DIR")]
    pub input_dir: Option<PathBuf>,
    /// Directory that gets a folder for this run [default: ./output]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Prompts and directories, as YAML
    #[arg(long, value_name = "FILE")]
    pub prompt_config: Option<PathBuf>,
    /// Keep every request and its answer as files
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", ignore_case = true, value_name = "BOOL")]
    pub save_litellm_response: Option<Truth>,
    /// JSON object merged into each request
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
    /// Header of each request, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub extra_header: Vec<String>,
    /// Settings file [env: LLM_IN_SANDBOX_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Seconds one command may take [default: 120]
    #[arg(long, value_name = "S")]
    pub cmd_timeout: Option<f64>,
    /// Seconds the task may take [default: no limit]
    #[arg(long, value_name = "S")]
    pub task_timeout: Option<f64>,
    /// One shell for all commands, or a new one for each
    #[arg(long, value_name = "KIND", default_value = "persistent")]
    pub shell: ShellMode,
    /// Give observations the exact text of the original system
    #[arg(long, value_name = "SYSTEM")]
    pub compat: Option<Compat>,
    /// System calls that are refused: `default`, `strict` or a TOML file [env: LLM_IN_SANDBOX_SECCOMP]
    #[arg(long, value_name = "PROFILE")]
    pub seccomp: Option<String>,
    /// Network: `none`, `internet`, `allow:HOST,HOST…`, `allow:./FILE` or `host` [env: LLM_IN_SANDBOX_NET] [default: internet]
    #[arg(long, value_name = "MODE")]
    pub net: Option<String>,
    /// Tell and record at the end which system calls were refused, and by which rule
    #[arg(long, alias = "seccomp-log")]
    pub seccomp_log: bool,
    /// Leave the sandbox running afterwards
    #[arg(long)]
    pub keep: bool,
}

/// A flag that may be spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Truth {
    /// Yes.
    True,
    /// No.
    False,
}

/// What carries out commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ShellMode {
    /// One shell that keeps its state.
    #[default]
    Persistent,
    /// A new shell for each command.
    Fresh,
}

/// Systems whose texts can be imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    /// The Python system.
    Original,
}

/// A run could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings are unusable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The prompts are unusable.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The model is unusable.
    #[error(transparent)]
    Model(#[from] LlmError),
    /// The run folder cannot be made.
    #[error("make the run folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The record cannot be kept.
    #[error(transparent)]
    Record(#[from] RecorderError),
    /// The sandbox could not be made ready.
    #[error("{doing}")]
    Sandbox {
        /// What was being done, as in "start the sandbox".
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Exit code that fits.
        exit: u8,
    },
}

impl RunError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Prompt(_) | Self::Model(_) => EXIT_USAGE,
            Self::Folder { .. } | Self::Record(_) => EXIT_NOT_SUBMITTED,
            Self::Sandbox { exit, .. } => *exit,
        }
    }
}

/// Carries out `run` and returns the exit code. Errors are told on stderr.
///
/// `with_sandbox` starts a sandbox, calls [`Session::prepare`], copies [`RunSettings::input_dir`] in, calls
/// [`Session::work`], copies the output directory to [`Session::files_dir`], closes the sandbox and returns what it used. It
/// must return soon after its [`Cancel`] turned true. On a second signal it is dropped where it stands.
pub async fn run<F>(args: RunArgs, with_sandbox: F) -> u8
where
    F: AsyncFnOnce(&mut Session, Cancel) -> Result<Option<Usage>, RunError>,
{
    // From here on a signal finds its handler: what it interrupts leaves nothing half-made.
    let signals = Signals::listen();
    let environment = Environment::process();
    let begun = resolve(args, environment, std::env::home_dir().as_deref())
        .and_then(|settings| Session::begin(settings, environment));
    let mut session = match begun {
        Ok(session) => session,
        Err(error) => return fail(&error),
    };
    let (stop, cancel) = watch::channel(false);
    let caught = Mutex::new(None);
    let finished = {
        let work = Box::pin(with_sandbox(&mut session, cancel));
        tokio::select! {
            finished = work => finished,
            code = heed(signals, &stop, &caught) => return code,
        }
    };
    let caught = *caught
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match finished.and_then(|usage| session.finish(usage)) {
        // What had ended by itself before the signal keeps its own code.
        Ok(EXIT_INTERRUPTED) => caught.unwrap_or(EXIT_INTERRUPTED),
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            caught.unwrap_or(error.exit())
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the form that clap asks for; a key is never malformed"
)]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn fail(error: &RunError) -> u8 {
    output::error(error);
    if let RunError::Sandbox { source, .. } = error
        && let Some(hint) = source.downcast_ref().and_then(CliError::hint)
    {
        output::note(&format!("hint: {hint}"));
    }
    error.exit()
}

/// Waits for signals: the first asks the run to end, and what it means for the exit code is kept in `caught`; the second
/// ends the wait. Without signal handlers it waits for ever, and the signals keep their usual meaning.
async fn heed(
    signals: std::io::Result<Signals>,
    stop: &watch::Sender<bool>,
    caught: &Mutex<Option<u8>>,
) -> u8 {
    let Ok(mut signals) = signals else {
        return std::future::pending().await;
    };
    let code = signals.next().await;
    *caught
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(code);
    output::note("ending the run; once more to end at once");
    stop.send_replace(true);
    signals.next().await
}

#[cfg(test)]
mod tests;
