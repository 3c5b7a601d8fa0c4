//! `execute_bash`: one command in the sandbox's shell.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Observation, string, within};
use crate::agent::observation::{Cleaned, Style, clean_stream, render_native, render_original};
use crate::env::{Captured, Env, EnvError, FullCopy, GuestPath, ShellResult};
use crate::trajectory::ToolErrorKind;

/// What a model is told of a shell that keeps its state.
pub(crate) const PERSISTENT: &str = "* The shell stays alive between calls: its working directory, variables and background jobs are kept.\n";
/// What a model is told of shells that do not.
pub(crate) const FRESH: &str = "* Every call gets a new shell in the working directory: changes of directory and variables do not last, files do.\n";
/// What a model is told of commands that each have a sandbox of their own.
pub(crate) const FORGETFUL: &str = "* Every call gets a new computer: no file, variable or process lasts until the next call, but answer.txt in the output directory does.\n";
/// What a model is told of all shells.
pub(crate) const DESCRIPTION: &str = "\
* There is nobody to type answers: standard input is empty, so use flags such as `-y`.\n\
* A command that takes too long is stopped. Start long-running programs in the background, for example `python server.py > server.log 2>&1 &`.\n\
* To run a Python program, write it to a file first, then run for example `python script.py`.";

/// How long after its own timeout a command's result may come: the sandbox needs time to stop it.
const GRACE: Duration = Duration::from_secs(60);

pub(crate) async fn call<E: Env>(
    env: &E,
    arguments: &Map<String, Value>,
    style: Style,
    timeout: Duration,
    copies: &mut u32,
) -> Result<Observation, EnvError> {
    let command = match string(arguments, "command") {
        Err(observation) => return Ok(observation),
        Ok(command) => command.unwrap_or(""),
    };
    if command.trim().is_empty() {
        return Ok(Observation::error(
            ToolErrorKind::BadArguments,
            "ERROR: `command` is missing or empty.",
        ));
    }
    if command.contains('\0') {
        return Ok(Observation::error(
            ToolErrorKind::BadArguments,
            "ERROR: `command` holds a NUL character; no shell can run it.",
        ));
    }
    let deadline = timeout.saturating_add(GRACE);
    let result = match within(deadline, "shell command", env.shell(command, timeout)).await {
        Ok(result) => result,
        Err(error) => return super::file_error(error, "run the command in"),
    };
    let text = match style {
        Style::Original => render_original(&result),
        Style::Native => {
            *copies += 1;
            let stdout = stream(env, &result.stdout, *copies, "stdout").await?;
            let stderr = stream(env, &result.stderr, *copies, "stderr").await?;
            render_native(&result, &stdout, &stderr)
        }
    };
    Ok(Observation {
        text,
        error: class(&result),
        submitted: false,
        struck: result.struck,
    })
}

fn class(result: &ShellResult) -> Option<ToolErrorKind> {
    if result.timed_out.is_some() {
        Some(ToolErrorKind::Timeout)
    } else if result.restarted.is_some() {
        Some(ToolErrorKind::ShellLost)
    } else {
        (result.status != Some(0)).then_some(ToolErrorKind::CommandFailed)
    }
}

/// Cleans a stream. When we cut what the sandbox gave whole, the whole is kept in a file there.
async fn stream<E: Env>(
    env: &E,
    captured: &Captured,
    number: u32,
    name: &str,
) -> Result<Cleaned, EnvError> {
    let mut cleaned = clean_stream(captured);
    let Some(cut) = &mut cleaned.cut else {
        return Ok(cleaned);
    };
    if captured.omitted > 0 || cut.full_copy.is_some() {
        return Ok(cleaned);
    }
    let path = GuestPath::from(format!("/tmp/command-output/{number:04}.{name}").as_str());
    let whole = [captured.head.as_slice(), captured.tail.as_slice()].concat();
    let written = env.write_file(&path, &whole, /*exclusive*/ false);
    match within(super::FILE_DEADLINE, "file operation", written).await {
        Ok(()) => {
            cut.full_copy = Some(FullCopy {
                path,
                partial: false,
            });
            Ok(cleaned)
        }
        // A full disk must not hide the result itself.
        Err(EnvError::File { .. } | EnvError::Limit(_)) => Ok(cleaned),
        Err(error) => Err(error),
    }
}
