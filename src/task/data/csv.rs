//! Rows from CSV and TSV: the first line names the columns, each cell is a text, an empty one is nothing.

use std::collections::BTreeSet;
use std::io::{self, Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::{MAX_ROW, Rows};

/// A reader that gives so much and no more until it is allowed again: a quote that is never closed makes one row of a whole file.
struct Bounded<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(size).ok_or_else(|| {
            io::Error::other(format!(
                "a row has more than {MAX_ROW} bytes: is a quote missing?"
            ))
        })?;
        Ok(size)
    }
}

pub(super) fn add(from: impl Read, tabs: bool, rows: &mut Rows) -> Result<(), String> {
    let bounded = Bounded {
        inner: from,
        left: MAX_ROW,
    };
    let mut reader = ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .from_reader(bounded);
    let names: Vec<String> = match reader.headers() {
        Ok(names) => names.iter().map(str::to_owned).collect(),
        Err(error) => return Err(problem(&error, 0, &[])),
    };
    if let Some(twice) = twice(&names) {
        return Err(format!("line 1: the column {twice:?} is there twice"));
    }
    let mut record = StringRecord::new();
    for number in 1.. {
        reader.get_mut().left = MAX_ROW;
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(problem(&error, number, &names)),
        }
        let cell = |text: &str| match text {
            "" => Value::Null,
            text => Value::String(text.to_owned()),
        };
        let object: Map<String, Value> = (names.iter().cloned())
            .zip(record.iter().map(cell))
            .collect();
        rows.push(object)
            .map_err(|e| format!("row {number}: {e}"))?;
    }
    Ok(())
}

fn twice(names: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    names.iter().find(|name| !seen.insert(*name))
}

/// What is wrong, with line, row and column.
fn problem(error: &csv::Error, row: usize, names: &[String]) -> String {
    let line = error.position().map_or(1, csv::Position::line);
    if let ErrorKind::Utf8 { err, .. } = error.kind() {
        let at = err.field();
        let column = match names.get(at) {
            Some(name) => format!("{name:?}"),
            None => (at + 1).to_string(),
        };
        return format!("line {line} (row {row}), column {column}: it is no UTF-8 text");
    }
    if let ErrorKind::UnequalLengths {
        expected_len, len, ..
    } = error.kind()
    {
        return format!(
            "line {line} (row {row}) has {len} columns and not {expected_len}: is a comma or a quote missing?"
        );
    }
    format!("after row {}: {error}", row.saturating_sub(1))
}
