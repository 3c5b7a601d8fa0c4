//! Rows from files: CSV, TSV and Parquet by the ending of the name; anything else is JSON Lines, or one JSON list.

mod csv;
mod parquet;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Row, TaskError};

/// Largest data file, and most of what all rows hold together.
const MAX_BYTES: u64 = 4 << 30;
/// Most rows.
const MAX_ROWS: usize = 2_000_000;
/// Most of what one row holds.
const MAX_ROW: usize = 64 << 20;

/// The rows that are read, within bounds.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Row>,
    bytes: u64,
}

impl Rows {
    fn push(&mut self, object: Map<String, Value>) -> Result<(), String> {
        let size = object.iter().map(|(name, value)| name.len() + size(value));
        let size = size.sum::<usize>();
        self.bytes += size as u64;
        if self.rows.len() >= MAX_ROWS {
            return Err(format!("there are more than {MAX_ROWS} rows"));
        }
        if size > MAX_ROW || self.bytes > MAX_BYTES {
            return Err(format!(
                "a row holds more than {MAX_ROW} bytes, or all of them more than {MAX_BYTES}"
            ));
        }
        self.rows.push(Row::new(object, self.rows.len()));
        Ok(())
    }
}

/// About what a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 8 + size(item)).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum(),
    }
}

/// The rows of all files, in order.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Row>, TaskError> {
    let mut rows = Rows::default();
    for path in files {
        let error = |source| TaskError::Read {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(path).map_err(error)?.len();
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let added = match ending.to_str() {
            _ if size > MAX_BYTES => Err(format!("it has {size} bytes, more than {MAX_BYTES}")),
            Some("parquet") => {
                let file = std::fs::File::open(path).map_err(error)?;
                parquet::add(file, &mut rows)
            }
            Some(kind @ ("csv" | "tsv")) => {
                let file = std::fs::File::open(path).map_err(error)?;
                csv::add(file, kind == "tsv", &mut rows)
            }
            _ => {
                let text = std::fs::read_to_string(path).map_err(error)?;
                json(&text, &mut rows)
            }
        };
        added.map_err(|problem| malformed(path, problem))?;
    }
    Ok(rows.rows)
}

/// The rows of a JSON text.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Row>, TaskError> {
    let mut rows = Rows::default();
    json(text, &mut rows).map_err(|problem| malformed(path, problem))?;
    Ok(rows.rows)
}

fn malformed(path: &Path, problem: String) -> TaskError {
    TaskError::Malformed {
        path: path.to_owned(),
        problem,
    }
}

fn json(text: &str, rows: &mut Rows) -> Result<(), String> {
    if text.trim_start().starts_with('[') {
        let list: Vec<Map<String, Value>> = serde_json::from_str(text)
            .map_err(|e| format!("it is no list of JSON objects: {e}"))?;
        return list.into_iter().try_for_each(|object| rows.push(object));
    }
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line)
            .map_err(|e| format!("line {} is no JSON object: {e}", at + 1))?;
        rows.push(object)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
