//! The two edits, as pure functions on bytes.

use crate::agent::tools::Observation;
use crate::trajectory::ToolErrorKind;

/// A changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edited {
    /// Its content.
    pub(super) bytes: Vec<u8>,
    /// First changed line, from 0.
    pub(super) line: usize,
    /// Lines of the new text.
    pub(super) lines: usize,
    /// Lines were inserted, none replaced.
    pub(super) inserted: bool,
}

/// Replaces the one place that equals `old`. In a file whose line ends are all CRLF, text written with LF fits too.
pub(super) fn replace(bytes: &[u8], old: &str, new: &str) -> Result<Edited, Observation> {
    let mut found = places(bytes, old.as_bytes());
    let (mut old, mut new) = (old.to_owned(), new.to_owned());
    if found.is_empty() && is_crlf(bytes) && !old.contains('\r') {
        old = old.replace('\n', "\r\n");
        found = places(bytes, old.as_bytes());
        if !new.contains('\r') {
            new = new.replace('\n', "\r\n");
        }
    }
    let at = match found.as_slice() {
        [at] => *at,
        [] => {
            return Err(Observation::error(
                ToolErrorKind::NoMatch,
                "ERROR: nothing was replaced, because `old_str` is not in the file. It must be exactly the same, with all spaces, tabs and line breaks.",
            ));
        }
        many => {
            let lines: Vec<String> = many
                .iter()
                .take(20)
                .map(|at| (count_lines(bytes, *at) + 1).to_string())
                .collect();
            return Err(Observation::error(
                ToolErrorKind::Ambiguous,
                format!(
                    "ERROR: nothing was replaced, because `old_str` is in the file {} times (beginning in lines {}). Add neighbouring lines to make it unique.",
                    many.len(),
                    lines.join(", ")
                ),
            ));
        }
    };
    let head = bytes.get(..at).unwrap_or_default();
    let tail = bytes.get(at + old.len()..).unwrap_or_default();
    Ok(Edited {
        line: count_lines(bytes, at),
        lines: new.matches('\n').count() + 1,
        bytes: [head, new.as_bytes(), tail].concat(),
        inserted: false,
    })
}

/// Inserts whole lines after line `line`. The text gets the file's line end; only at the end of a file without a last
/// newline it stays as it is.
pub(super) fn insert(bytes: &[u8], line: i64, text: &str) -> Result<Edited, Observation> {
    let total = super::view::lines(bytes).count();
    let line = usize::try_from(line)
        .ok()
        .filter(|line| *line <= total)
        .ok_or_else(|| {
            Observation::error(
                ToolErrorKind::OutOfRange,
                format!("ERROR: `insert_line` is {line}; it must be between 0 and {total}, the number of lines."),
            )
        })?;
    let end = if is_crlf(bytes) { "\r\n" } else { "\n" };
    let mut text = text.to_owned();
    if end == "\r\n" && !text.contains('\r') {
        text = text.replace('\n', end);
    }
    let lines = text
        .strip_suffix('\n')
        .unwrap_or(&text)
        .matches('\n')
        .count()
        + 1;
    let at = super::view::lines(bytes).take(line).map(<[u8]>::len).sum();
    let (head, tail) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
    let mut out = head.to_vec();
    if !head.is_empty() && !head.ends_with(b"\n") {
        out.extend_from_slice(end.as_bytes());
    } else if !text.ends_with('\n') {
        text.push_str(end);
    }
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(tail);
    Ok(Edited {
        bytes: out,
        line,
        lines,
        inserted: true,
    })
}

fn is_crlf(bytes: &[u8]) -> bool {
    let mut any = false;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if line.ends_with(b"\n") {
            if !line.ends_with(b"\r\n") {
                return false;
            }
            any = true;
        }
    }
    any
}

/// Where `needle` begins, overlaps left out.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut from = 0;
    let Some(first) = needle.first() else {
        return found;
    };
    while let Some(rest) = bytes.get(from..) {
        let Some(at) = rest.iter().position(|b| b == first) else {
            break;
        };
        let start = from + at;
        if bytes.get(start..).is_some_and(|b| b.starts_with(needle)) {
            found.push(start);
            from = start + needle.len();
        } else {
            from = start + 1;
        }
    }
    found
}

fn count_lines(bytes: &[u8], at: usize) -> usize {
    bytes.iter().take(at).filter(|b| **b == b'\n').count()
}
