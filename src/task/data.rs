//! Rows from files: JSON Lines, or one JSON list.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Row, TaskError};

/// Largest data file.
const MAX_BYTES: u64 = 4 << 30;

/// The rows of all files, in order.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Row>, TaskError> {
    let mut rows = Vec::new();
    for path in files {
        let error = |source| TaskError::Read {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(path).map_err(error)?.len();
        if size > MAX_BYTES {
            return Err(TaskError::Malformed {
                path: path.clone(),
                problem: format!("it has {size} bytes, more than {MAX_BYTES}"),
            });
        }
        let text = std::fs::read_to_string(path).map_err(error)?;
        add(path, &text, &mut rows)?;
    }
    Ok(rows)
}

/// The rows of a text.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Row>, TaskError> {
    let mut rows = Vec::new();
    add(path, text, &mut rows)?;
    Ok(rows)
}

fn add(path: &Path, text: &str, rows: &mut Vec<Row>) -> Result<(), TaskError> {
    let wrong = |problem: String| TaskError::Malformed {
        path: path.to_owned(),
        problem,
    };
    let mut push = |object: Map<String, Value>| {
        let at = rows.len();
        rows.push(Row::new(object, at));
    };
    if text.trim_start().starts_with('[') {
        let list: Vec<Map<String, Value>> = serde_json::from_str(text)
            .map_err(|e| wrong(format!("it is no list of JSON objects: {e}")))?;
        list.into_iter().for_each(push);
        return Ok(());
    }
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line)
            .map_err(|e| wrong(format!("line {} is no JSON object: {e}", at + 1)))?;
        push(object);
    }
    Ok(())
}
