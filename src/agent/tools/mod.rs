//! The three functions that a model is offered, and what becomes of a call.
//!
//! A call can fail in ways that are the model's own (`Observation::error`) and in ways that are not ([`EnvError::Died`],
//! [`EnvError::Infrastructure`]): the latter never become an observation.

pub(crate) mod bash;
pub(crate) mod editor;
mod submit;

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ablations::Ablation;
use super::observation::Style;
use crate::env::{Env, EnvError, FileError};
use crate::outcome::LimitHit;
use crate::trajectory::ToolErrorKind;

/// Time for one file operation; far above what a live sandbox needs.
const FILE_DEADLINE: Duration = Duration::from_secs(120);

/// What the model is told of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The text.
    pub text: String,
    /// Its class, when it tells of an error.
    pub error: Option<ToolErrorKind>,
    /// The model declared its work finished.
    pub submitted: bool,
    /// Limits that struck meanwhile.
    pub struck: Vec<LimitHit>,
}

impl Observation {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            error: None,
            submitted: false,
            struck: Vec::new(),
        }
    }

    pub(crate) fn error(kind: ToolErrorKind, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            error: Some(kind),
            submitted: false,
            struck: Vec::new(),
        }
    }
}

/// What the tools of one run remember between calls.
#[derive(Debug)]
pub struct Tools {
    style: Style,
    cmd_timeout: Duration,
    history: editor::History,
    copies: u32,
    execution: bool,
}

impl Tools {
    /// Fresh tools; `cmd_timeout` bounds each command.
    #[must_use]
    pub fn new(style: Style, cmd_timeout: Duration) -> Self {
        Self {
            style,
            cmd_timeout,
            history: editor::History::default(),
            copies: 0,
            execution: true,
        }
    }

    /// Some of them are not there.
    #[must_use]
    pub fn without(mut self, ablations: &[Ablation]) -> Self {
        self.execution = !ablations.contains(&Ablation::NoExecution);
        self
    }

    /// Carries out one call.
    ///
    /// # Errors
    /// Only what ends the run: [`EnvError::Died`], [`EnvError::Infrastructure`], and a limit that ended the sandbox.
    pub async fn call<E: Env>(
        &mut self,
        env: &E,
        name: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Observation, EnvError> {
        match name {
            "execute_bash" if !self.execution => Ok(Observation::error(
                ToolErrorKind::UnknownTool,
                "Not run: there is no execute_bash here. The functions are str_replace_editor and submit.",
            )),
            "execute_bash" => {
                bash::call(
                    env,
                    arguments,
                    self.style,
                    self.cmd_timeout,
                    &mut self.copies,
                )
                .await
            }
            "str_replace_editor" => {
                let call = editor::call(env, arguments, self.style, &mut self.history);
                let observation = within(FILE_DEADLINE, "file operation", call).await?;
                Ok(Observation {
                    text: format!(
                        "{}\n{}",
                        self.style.header("str_replace_editor"),
                        observation.text
                    ),
                    ..observation
                })
            }
            // `finish` is the name of an earlier version.
            "submit" | "finish" => Ok(submit::call()),
            _ => Ok(Observation::error(
                ToolErrorKind::UnknownTool,
                match self.style {
                    Style::Original => format!("Unknown action: {name}"),
                    Style::Native => format!(
                        "Unknown action: {name}\nThe functions are execute_bash, str_replace_editor and submit."
                    ),
                },
            )),
        }
    }
}

/// What carries out commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shell {
    /// One shell that keeps its state.
    #[default]
    Persistent,
    /// A new shell for each command.
    Fresh,
}

/// The schemas as they are sent, in the original's order.
#[must_use]
pub fn schemas(style: Style, shell: Shell, ablations: &[Ablation]) -> Vec<Value> {
    let bash = format!(
        "Runs a bash command in the terminal of the computer and returns its exit code and output.\n{}{}",
        match shell {
            _ if ablations.contains(&Ablation::NoFiles) => bash::FORGETFUL,
            Shell::Persistent => bash::PERSISTENT,
            Shell::Fresh => bash::FRESH,
        },
        bash::DESCRIPTION
    );
    let mut commands = vec!["view", "create", "str_replace", "insert"];
    if style == Style::Native {
        commands.push("undo_edit");
    }
    let function = |name: &str, description: &str, properties: Value, required: Value| {
        json!({"type": "function", "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": required},
        }})
    };
    let all = [
        function(
            "str_replace_editor",
            editor::DESCRIPTION,
            json!({
                "command": {"type": "string", "enum": commands, "description": "What to do."},
                "path": {"type": "string", "description": "The file or directory, best as an absolute path."},
                "file_text": {"type": "string", "description": "Needed by `create`: the whole content of the new file."},
                "old_str": {"type": "string", "description": "Needed by `str_replace`: the exact text to be replaced."},
                "new_str": {"type": "string", "description": "For `str_replace`: what takes its place; left out, the text is deleted. For `insert`: the lines to be inserted."},
                "insert_line": {"type": "integer", "description": "Needed by `insert`: the number of the line to insert after; 0 is the beginning of the file."},
                "view_range": {"type": "array", "items": {"type": "integer"}, "description": "For `view` of a file: first and last line, counted from 1; -1 as the last means the end of the file."},
            }),
            json!(["command", "path"]),
        ),
        function(
            "execute_bash",
            &bash,
            json!({"command": {"type": "string", "description": "The command line, or several."}}),
            json!(["command"]),
        ),
        function("submit", submit::DESCRIPTION, json!({}), json!([])),
    ];
    let execution = !ablations.contains(&Ablation::NoExecution);
    let offered = |schema: &Value| {
        execution || schema.pointer("/function/name") != Some(&json!("execute_bash"))
    };
    all.into_iter().filter(offered).collect()
}

/// Waits for the sandbox, but not for ever: silence is a fault of ours, not of the task.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, EnvError>>,
) -> Result<T, EnvError> {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| {
            Err(EnvError::Infrastructure(format!(
                "no answer to a {what} within {limit:?}"
            )))
        })
}

/// A string argument: absent, or why it is unusable.
pub(crate) fn string<'a>(
    arguments: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, Observation> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(name, "a string", other)),
    }
}

/// An integer argument. Digits in a string are taken too: small models write them.
pub(crate) fn integer(
    arguments: &Map<String, Value>,
    name: &str,
) -> Result<Option<i64>, Observation> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => to_integer(value)
            .map(Some)
            .ok_or_else(|| wrong_type(name, "an integer", value)),
    }
}

pub(crate) fn to_integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

pub(crate) fn wrong_type(name: &str, wanted: &str, got: &Value) -> Observation {
    let kind = if got.is_string() {
        "a string"
    } else if got.is_number() {
        "a number"
    } else if got.is_array() {
        "a list"
    } else if got.is_object() {
        "an object"
    } else {
        "a boolean"
    };
    Observation::error(
        ToolErrorKind::BadArguments,
        format!("ERROR: `{name}` must be {wanted}, not {kind}."),
    )
}

/// Tells the model that its sandbox has no room for the call.
fn limited(hit: LimitHit) -> Observation {
    let text = format!(
        "ERROR: nothing was done, because a limit of the sandbox stands in the way: {hit}."
    );
    Observation {
        struck: vec![hit],
        ..Observation::error(ToolErrorKind::Limit, text)
    }
}

/// Tells the model of a file error, or passes on what is not its business.
pub(crate) fn file_error(error: EnvError, doing: &str) -> Result<Observation, EnvError> {
    let (path, error) = match error {
        EnvError::File { path, error } => (path, error),
        EnvError::Limit(hit) if !hit.ends_sandbox() => return Ok(limited(hit)),
        EnvError::Limit(_) | EnvError::Died(_) | EnvError::Infrastructure(_) => return Err(error),
    };
    let kind = match &error {
        FileError::NotFound => ToolErrorKind::NotFound,
        FileError::Exists => ToolErrorKind::Exists,
        FileError::IsDirectory | FileError::NotDirectory | FileError::NotRegular => {
            ToolErrorKind::WrongKind
        }
        FileError::Permission => ToolErrorKind::Permission,
        FileError::TooLarge { .. } => ToolErrorKind::TooLarge,
        FileError::NoSpace => ToolErrorKind::NoSpace,
        FileError::Other(_) => ToolErrorKind::Io,
    };
    Ok(Observation::error(
        kind,
        format!("ERROR: cannot {doing} {path}: {error}."),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_have_the_originals_names_and_types() {
        let fresh = schemas(Style::Native, Shell::Fresh, &[])[1].to_string();
        assert!(fresh.contains("new shell") && !fresh.contains("stays alive"));
        let schemas = schemas(Style::Original, Shell::Persistent, &[]);
        let names: Vec<_> = schemas
            .iter()
            .map(|s| s.pointer("/function/name").unwrap().as_str().unwrap())
            .collect();
        assert_eq!(names, ["str_replace_editor", "execute_bash", "submit"]);
        let parameters = schemas[0].pointer("/function/parameters").unwrap();
        let types: Vec<_> = parameters["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, p)| format!("{name}:{}", p["type"].as_str().unwrap()))
            .collect();
        assert_eq!(
            types,
            [
                "command:string",
                "path:string",
                "file_text:string",
                "old_str:string",
                "new_str:string",
                "insert_line:integer",
                "view_range:array"
            ]
        );
        assert_eq!(parameters["required"], json!(["command", "path"]));
        assert_eq!(
            parameters["properties"]["command"]["enum"],
            json!(["view", "create", "str_replace", "insert"])
        );
        assert_eq!(
            schemas[2].pointer("/function/parameters").unwrap(),
            &json!({"type": "object", "properties": {}, "required": []})
        );
    }
}
