//! `str_replace_editor`: views and changes files as bytes, through the sandbox's file operations.
//!
//! Nothing but the edit itself changes: bytes that are not UTF-8, tabs, line ends and a missing last newline stay.

mod edit;
mod view;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::{Observation, file_error, integer, string, to_integer, wrong_type};
use crate::agent::observation::Style;
use crate::env::{Env, EnvError, FileKind, GuestPath};
use crate::trajectory::ToolErrorKind;

pub(crate) const DESCRIPTION: &str = "Shows, creates and changes text files, and lists directories. Files keep their state between calls.\n\
* `view`: shows a file with line numbers (only some lines with `view_range`), or what is in a directory, two levels deep.\n\
* `create`: makes a new file from `file_text`, and its directories. It does not overwrite an existing file.\n\
* `str_replace`: replaces `old_str` by `new_str`. `old_str` must be in the file exactly once, with the same spaces and line breaks; add neighbouring lines until it is unique.\n\
* `insert`: inserts `new_str` after line `insert_line`.\n\
* `undo_edit`: takes back the last change that this tool made to the file, where it is offered.\n\
* Long output is cut, and marked with `<response clipped>`.";

/// Largest file that is edited or shown.
const MAX_FILE: u64 = 16 << 20;
/// Changes of one file that can be taken back.
const MAX_UNDO: usize = 16;
/// Bytes of all remembered contents.
const MAX_UNDO_BYTES: usize = 64 << 20;

/// Contents before each change, the latest last.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: HashMap<GuestPath, VecDeque<Change>>,
    bytes: usize,
}

#[derive(Debug)]
struct Change {
    before: Vec<u8>,
    after: u64,
}

impl History {
    fn push(&mut self, path: &GuestPath, before: Vec<u8>, after: &[u8]) {
        self.bytes += before.len();
        let changes = self.changes.entry(path.clone()).or_default();
        changes.push_back(Change {
            before,
            after: fingerprint(after),
        });
        if changes.len() > MAX_UNDO
            && let Some(oldest) = changes.pop_front()
        {
            self.bytes -= oldest.before.len();
        }
        // Rarely reached, so which file forgets first does not matter.
        while self.bytes > MAX_UNDO_BYTES {
            let Some(changes) = self.changes.values_mut().find(|c| !c.is_empty()) else {
                break;
            };
            if let Some(oldest) = changes.pop_front() {
                self.bytes -= oldest.before.len();
            }
        }
    }

    fn pop(&mut self, path: &GuestPath) -> Option<Change> {
        let change = self.changes.get_mut(path)?.pop_back()?;
        self.bytes -= change.before.len();
        Some(change)
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The arguments, checked.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    View { range: Option<(i64, i64)> },
    Create { text: &'a str },
    Replace { old: &'a str, new: &'a str },
    Insert { line: i64, text: &'a str },
    Undo,
}

/// Carries out one call; the observation has no header yet.
pub(crate) async fn call<E: Env>(
    env: &E,
    arguments: &Map<String, Value>,
    style: Style,
    history: &mut History,
) -> Result<Observation, EnvError> {
    let (command, path) = match parse(arguments, style) {
        Ok(parsed) => parsed,
        Err(observation) => return Ok(observation),
    };
    match command {
        Command::View { range } => view(env, &path, range, style).await,
        Command::Create { text } => create(env, &path, text, style).await,
        Command::Replace { old, new } => {
            change(env, &path, style, history, |bytes| {
                edit::replace(bytes, old, new)
            })
            .await
        }
        Command::Insert { line, text } => {
            change(env, &path, style, history, |bytes| {
                edit::insert(bytes, line, text)
            })
            .await
        }
        Command::Undo => undo(env, &path, style, history).await,
    }
}

fn parse<'a>(
    arguments: &'a Map<String, Value>,
    style: Style,
) -> Result<(Command<'a>, GuestPath), Observation> {
    let missing =
        |what: &str| Observation::error(ToolErrorKind::BadArguments, format!("ERROR: {what}."));
    let (Some(command), Some(path)) = (string(arguments, "command")?, string(arguments, "path")?)
    else {
        return Err(missing("`command` and `path` are both needed"));
    };
    if path.is_empty() || path.contains('\0') {
        return Err(missing("`path` is empty or holds a NUL character"));
    }
    let new = string(arguments, "new_str")?;
    let command = match command {
        "view" => Command::View {
            range: range(arguments.get("view_range"), style)?,
        },
        "create" => Command::Create {
            text: string(arguments, "file_text")?
                .ok_or_else(|| missing("`create` needs `file_text`"))?,
        },
        "str_replace" => {
            let old = string(arguments, "old_str")?
                .filter(|old| !old.is_empty())
                .ok_or_else(|| missing("`str_replace` needs an `old_str` that is not empty"))?;
            Command::Replace {
                old,
                new: new.unwrap_or(""),
            }
        }
        "insert" => Command::Insert {
            line: integer(arguments, "insert_line")?.unwrap_or(0),
            text: new.ok_or_else(|| missing("`insert` needs `new_str`"))?,
        },
        "undo_edit" if style == Style::Native => Command::Undo,
        other => {
            return Err(Observation::error(
                ToolErrorKind::BadArguments,
                format!("Unknown command: {other}"),
            ));
        }
    };
    Ok((command, GuestPath::from(path)))
}

fn range(value: Option<&Value>, style: Style) -> Result<Option<(i64, i64)>, Observation> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let wrong = || wrong_type("view_range", "a list of two integers", value);
    let list = value.as_array().ok_or_else(wrong)?;
    match list.as_slice() {
        [first, last] => match (to_integer(first), to_integer(last)) {
            (Some(first), Some(last)) => Ok(Some((first, last))),
            _ => Err(wrong()),
        },
        [] => Ok(None),
        _ if style == Style::Original => Ok(None),
        _ => Err(Observation::error(
            ToolErrorKind::BadArguments,
            format!(
                "ERROR: `view_range` must hold two integers, not {}.",
                list.len()
            ),
        )),
    }
}

async fn view<E: Env>(
    env: &E,
    path: &GuestPath,
    range: Option<(i64, i64)>,
    style: Style,
) -> Result<Observation, EnvError> {
    let stat = match env.stat(path).await {
        Ok(stat) => stat,
        Err(error) => return file_error(error, "view"),
    };
    if stat.kind == FileKind::Directory {
        return match env.list(path, view::DEPTH, view::MAX_LISTED).await {
            Ok(listing) => Ok(Observation::ok(view::directory(path, &listing, style))),
            Err(error) => file_error(error, "list"),
        };
    }
    match env.read_file(path, MAX_FILE).await {
        Ok(bytes) => Ok(view::file(path, &bytes, range, style)),
        Err(error) => too_large(error, path, "view"),
    }
}

async fn create<E: Env>(
    env: &E,
    path: &GuestPath,
    text: &str,
    style: Style,
) -> Result<Observation, EnvError> {
    match env
        .write_file(path, text.as_bytes(), /*exclusive*/ true)
        .await
    {
        Ok(()) => Ok(Observation::ok(view::created(path, text, style))),
        Err(error) => {
            let mut observation = file_error(error, "create")?;
            if observation.error == Some(ToolErrorKind::Exists) {
                observation
                    .text
                    .push_str(" Change it with `str_replace` or `insert`, or choose another name.");
            }
            Ok(observation)
        }
    }
}

/// Reads, changes in memory, writes, and shows the changed lines.
async fn change<E: Env>(
    env: &E,
    path: &GuestPath,
    style: Style,
    history: &mut History,
    action: impl Fn(&[u8]) -> Result<edit::Edited, Observation>,
) -> Result<Observation, EnvError> {
    let before = match env.read_file(path, MAX_FILE).await {
        Ok(bytes) => bytes,
        Err(error) => return too_large(error, path, "edit"),
    };
    let edited = match action(&before) {
        Ok(edited) => edited,
        Err(observation) => return Ok(observation),
    };
    if let Err(error) = env
        .write_file(path, &edited.bytes, /*exclusive*/ false)
        .await
    {
        return file_error(error, "write");
    }
    let text = view::edited(path, &edited, style);
    history.push(path, before, &edited.bytes);
    Ok(Observation::ok(text))
}

async fn undo<E: Env>(
    env: &E,
    path: &GuestPath,
    style: Style,
    history: &mut History,
) -> Result<Observation, EnvError> {
    let Some(change) = history.pop(path) else {
        return Ok(Observation::error(
            ToolErrorKind::NoHistory,
            format!("ERROR: this tool has made no change to {path} that could be taken back."),
        ));
    };
    let now = match env.read_file(path, MAX_FILE).await {
        Ok(bytes) => bytes,
        Err(error) => return too_large(error, path, "undo the edit of"),
    };
    if fingerprint(&now) != change.after {
        return Ok(Observation::error(
            ToolErrorKind::NoHistory,
            format!(
                "ERROR: {path} was changed by something else since; undoing would lose that. Edit it instead."
            ),
        ));
    }
    if let Err(error) = env
        .write_file(path, &change.before, /*exclusive*/ false)
        .await
    {
        return file_error(error, "write");
    }
    Ok(Observation::ok(view::undone(path, &change.before, style)))
}

fn too_large(error: EnvError, path: &GuestPath, doing: &str) -> Result<Observation, EnvError> {
    let mut observation = file_error(error, doing)?;
    if observation.error == Some(ToolErrorKind::TooLarge) {
        observation.text = format!(
            "{} Use `execute_bash` with grep, sed, head or tail on {path}.",
            observation.text
        );
    }
    Ok(observation)
}

#[cfg(test)]
mod tests;
