//! What the editor shows: numbered lines, listings and the lines around a change.

use std::fmt::Write as _;

use super::edit::Edited;
use crate::agent::observation::Style;
use crate::agent::tools::Observation;
use crate::env::{FileKind, GuestPath, Listing};
use crate::trajectory::ToolErrorKind;

/// Levels of a listing.
pub(super) const DEPTH: u32 = 2;
/// Entries that are asked for, hidden ones included.
pub(super) const MAX_LISTED: usize = 4000;
/// Lines of a listing that are shown.
const MAX_SHOWN: usize = 100;
/// Characters of a file that are shown.
const MAX_CHARS: usize = 10_000;
/// Lines before and after a change that are shown.
const AROUND: usize = 4;
/// Bytes at the beginning of a file that are searched for NUL.
const SNIFFED: usize = 8192;

const CLIPPED: &str = "<response clipped><NOTE>Only a part is shown here. Find the line numbers you need with `grep -n`, then view those lines with `view_range`.</NOTE>";

/// Lines with their ends; a trailing newline begins no further line.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|b| *b == b'\n')
}

pub(super) fn file(
    path: &GuestPath,
    bytes: &[u8],
    range: Option<(i64, i64)>,
    style: Style,
) -> Observation {
    if bytes.iter().take(SNIFFED).any(|b| *b == 0) {
        return Observation::error(
            ToolErrorKind::NotText,
            format!(
                "ERROR: {path} is not a text file. Look at it with `execute_bash`, for example with `file` or `xxd`."
            ),
        );
    }
    if bytes.is_empty() {
        return Observation::ok(format!("The file {path} is empty."));
    }
    let mut all: Vec<&[u8]> = lines(bytes).collect();
    if style == Style::Original && bytes.ends_with(b"\n") {
        all.push(b"");
    }
    let (first, shown) = match range {
        None => (1, all.as_slice()),
        Some((first, last)) => match pick(&all, first, last) {
            Ok(picked) => picked,
            Err(observation) => return observation,
        },
    };
    let mut text = format!("Lines of {path}, numbered as by `cat -n`:\n");
    text.push_str(&clip(&number(shown, first, style)));
    if String::from_utf8(shown.concat()).is_err() {
        text.push_str("\n(Some bytes are not UTF-8 and are shown as \u{fffd}; edits keep them.)");
    }
    Observation::ok(text)
}

fn pick<'a, 'b>(
    all: &'b [&'a [u8]],
    first: i64,
    last: i64,
) -> Result<(usize, &'b [&'a [u8]]), Observation> {
    let total = all.len();
    let wrong = |what: &str| {
        Observation::error(
            ToolErrorKind::OutOfRange,
            format!("ERROR: `view_range` [{first}, {last}]: {what}."),
        )
    };
    let start = usize::try_from(first)
        .ok()
        .filter(|n| (1..=total).contains(n));
    let start =
        start.ok_or_else(|| wrong(&format!("the first line must be between 1 and {total}")))?;
    let end = match usize::try_from(last) {
        Ok(end) if (start..=total).contains(&end) => end,
        Err(_) if last == -1 => total,
        _ => {
            return Err(wrong(&format!(
                "the last line must be between {start} and {total}, or -1"
            )));
        }
    };
    Ok((start, all.get(start - 1..end).unwrap_or_default()))
}

/// `     1<TAB>text`, one per line, without a newline at the end.
fn number(lines: &[&[u8]], first: usize, style: Style) -> String {
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line);
        let text = match style {
            Style::Native => text.into_owned(),
            Style::Original => expand_tabs(&text),
        };
        let _ = write!(out, "{:6}\t{text}", first + at);
    }
    out
}

fn expand_tabs(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        if c == '\t' {
            let width = 8 - column % 8;
            out.extend(std::iter::repeat_n(' ', width));
            column += width;
        } else {
            out.push(c);
            column += 1;
        }
    }
    out
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}{CLIPPED}", text.get(..at).unwrap_or(text)),
    }
}

pub(super) fn directory(path: &GuestPath, listing: &Listing, style: Style) -> String {
    let shown: Vec<_> = listing
        .entries
        .iter()
        .filter(|entry| !is_hidden(&entry.path))
        .filter(|entry| match style {
            Style::Native => true,
            Style::Original => {
                let name = entry.path.as_bytes();
                entry.stat.kind == FileKind::Directory
                    || name.ends_with(b".py")
                    || name.ends_with(b".rst")
            }
        })
        .collect();
    if shown.is_empty() {
        return format!("The directory {path} is empty, or all in it is hidden.");
    }
    let mut text = format!("What is in {path}, two levels deep, hidden entries left out:\n{path}");
    for entry in shown.iter().take(MAX_SHOWN - 1) {
        let mark = match (style, entry.stat.kind) {
            (Style::Native, FileKind::Directory) => "/",
            (Style::Native, FileKind::Symlink) => "@",
            (Style::Native, FileKind::File | FileKind::Other) | (Style::Original, _) => "",
        };
        let _ = write!(text, "\n{}{mark}", path.join(entry.path.as_bytes()));
    }
    if style == Style::Native && (listing.truncated || shown.len() >= MAX_SHOWN) {
        text.push_str("\n(There is more; list it with `execute_bash`.)");
    }
    text
}

fn is_hidden(path: &GuestPath) -> bool {
    path.as_bytes()
        .split(|b| *b == b'/')
        .any(|name| name.starts_with(b"."))
}

pub(super) fn created(path: &GuestPath, text: &str, style: Style) -> String {
    if text.is_empty() {
        return format!("The file {path} was created at this path, empty.");
    }
    let all: Vec<&[u8]> = lines(text.as_bytes()).collect();
    format!(
        "The file {path} was created. Its lines:\n{}\nCheck that it is what you meant.",
        clip(&number(&all, 1, style))
    )
}

pub(super) fn edited(path: &GuestPath, edited: &Edited, style: Style) -> String {
    let advice = if edited.inserted {
        "Check that the lines stand where they should, with the right indentation and not twice."
    } else {
        "Check that it is what you meant; edit again if not."
    };
    let first = edited.line.saturating_sub(AROUND);
    let count = edited.line - first + edited.lines + AROUND;
    let around: Vec<&[u8]> = lines(&edited.bytes).skip(first).take(count).collect();
    format!(
        "The file {path} was changed. The lines around the change:\n{}\n{advice}",
        clip(&number(&around, first + 1, style))
    )
}

pub(super) fn undone(path: &GuestPath, bytes: &[u8], style: Style) -> String {
    let all: Vec<&[u8]> = lines(bytes).collect();
    format!(
        "The last change of {path} was taken back. Its lines now:\n{}",
        clip(&number(&all, 1, style))
    )
}
