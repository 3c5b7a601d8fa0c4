//! The only way out to the person: results on stdout, everything else on stderr.
//!
//! All of it may hold what a sandbox, a model, a server or an archive said, so all of it is sanitized here.
//! A reader that is gone (a closed pipe) is no reason to stop working.

use std::io::{self, Write};

use super::sanitize::{Filter, Filtered, escape_json, sanitize};

/// Writes a line, or several, to stdout.
pub(super) fn result(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{}", sanitize(line));
}

/// Writes a value as JSON to stdout.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), super::error::CliError> {
    let text = to_json(value).map_err(|e| super::error::CliError::Io("write JSON", e.into()))?;
    let _ = writeln!(io::stdout().lock(), "{text}");
    Ok(())
}

/// Writes a value as one line of JSON to stdout, and sees that it leaves at once.
pub(super) fn json_line(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", escape_json(&value.to_string()));
    let _ = out.flush();
}

/// A value as JSON that can be shown on a terminal.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| escape_json(&text))
}

/// Writes a line, or several, to stderr.
pub(super) fn note(line: &str) {
    painted(&sanitize(line));
}

/// Writes a line to stderr that is sanitized already, and may hold colours of ours.
pub(super) fn painted(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes an error and its causes to stderr. No line but the first begins at the margin: none can pose as one of ours.
pub fn error(error: &dyn std::error::Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    painted(&sanitize(&text).replace('\n', "\n  "));
}

/// Where log lines go: stderr, sanitized.
#[must_use]
pub fn log() -> impl Write {
    Filtered::new(Filter::text(), io::stderr())
}
