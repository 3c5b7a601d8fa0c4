//! `run`: one task, from the settings to the answer.
//!
//! Settings are resolved and everything that a person can get wrong is checked before anything starts. The sandbox itself is
//! the caller's: [`run`] is given a function that starts one, and hands it a [`Session`].

mod args;
mod resolve;
mod session;

use std::path::PathBuf;
use std::sync::Mutex;

use clap::Args;
use tokio::sync::watch;

pub(super) use args::secret;
pub use args::{AgentArgs, Compat, ShellMode, Truth};
pub use resolve::{AgentSettings, RunSettings, resolve};
pub(super) use resolve::{object, provider_key, resolve_agent, seconds, value};
pub use session::Session;
pub(super) use session::make_folder;

pub use crate::agent::SandboxFacts;
pub use crate::llm::ModelSettings;

use super::error::CliError;
use super::output;
use super::signals::Signals;
use crate::agent::{Cancel, PromptError};
use crate::llm::LlmError;
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

/// Flags of `run`.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub struct RunArgs {
    /// The task
    #[arg(value_name = "QUERY", conflicts_with = "query")]
    pub task: Option<String>,
    /// The task, as a flag
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub query: Option<String>,
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Directory whose content is copied into the sandbox
    #[arg(long, value_name = "DIR")]
    pub input_dir: Option<PathBuf>,
    /// Prompts and directories, as YAML
    #[arg(long, value_name = "FILE")]
    pub prompt_config: Option<PathBuf>,
    /// Tell and record at the end which system calls were refused, and by which rule
    #[arg(long, alias = "seccomp-log")]
    pub seccomp_log: bool,
    /// Record what each call changed in files and computed
    #[arg(long, alias = "record-effects")]
    pub record_effects: bool,
    /// Leave the sandbox running afterwards
    #[arg(long)]
    pub keep: bool,
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
    let (usage, failed) = match finished {
        Ok(usage) => (usage, None),
        Err(error) => (None, Some(error)),
    };
    // A sandbox that does not end well costs no record.
    let ended = session.finish(usage);
    match failed.map_or(ended, Err) {
        // What had ended by itself before the signal keeps its own code.
        Ok(EXIT_INTERRUPTED) => caught.unwrap_or(EXIT_INTERRUPTED),
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            caught.unwrap_or(error.exit())
        }
    }
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
