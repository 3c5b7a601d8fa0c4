//! The record of one sample, line by line: whatever it holds, one bounded line at a time is in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;

use crate::trajectory::{Event, Line};

/// Longest line that is read. The agent bounds observations; a model's own message may be larger.
const MAX_LINE: u64 = 8 << 20;

/// What is needed of a header.
#[derive(Deserialize)]
struct Header {
    started_unix_s: f64,
}

/// What a record was like.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Read {
    /// When it begins, in seconds since the epoch.
    pub(super) began: Option<f64>,
    /// A line could not be read: cut off, too long, or of another version.
    pub(super) incomplete: bool,
}

/// Gives all events of a record, in order. A record that is not there has none.
pub(super) fn read(path: &Path, mut each: impl FnMut(&Event)) -> Read {
    let mut told = Read::default();
    let Ok(file) = File::open(path) else {
        told.incomplete = true;
        return told;
    };
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    let mut first = true;
    while let Some(whole) = next(&mut reader, &mut line) {
        if std::mem::take(&mut first) {
            let header = serde_json::from_slice::<Header>(&line);
            told.began = header.ok().map(|header| header.started_unix_s);
            told.incomplete |= !whole || told.began.is_none();
        } else if let (true, Ok(line)) = (whole, serde_json::from_slice::<Line>(&line)) {
            each(&line.event);
        } else {
            told.incomplete = true;
        }
    }
    told.incomplete |= first;
    told
}

/// The next line, and whether all of it is there; the rest of one that is too long is passed over.
fn next(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> Option<bool> {
    line.clear();
    let mut limited = reader.by_ref().take(MAX_LINE);
    let size = limited.read_until(b'\n', line).ok()?;
    if size == 0 {
        return None;
    }
    if line.ends_with(b"\n") {
        return Some(true);
    }
    line.clear();
    reader.skip_until(b'\n').ok()?;
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_too_long_or_unknown_is_passed_over() {
        let warning = |text: &str| {
            format!(
                "{{\"n\":1,\"t_us\":1,\"event\":{{\"type\":\"warning\",\"text\":\"{text}\"}}}}\n"
            )
        };
        let read_text = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let mut texts = Vec::new();
            let told = read(file.path(), |event| {
                if let Event::Warning { text } = event {
                    texts.push(text.len());
                }
            });
            (texts, told.incomplete)
        };
        let header = "{\"started_unix_s\": 5.5}\n";
        let (one, long) = (warning("a"), warning(&"x".repeat(9 << 20)));
        assert_eq!(
            read_text(&format!("{header}{one}{one}")),
            (vec![1, 1], false)
        );
        let odd = format!(
            "{header}{one}{long}{{\"n\":1,\"t_us\":1,\"event\":{{\"type\":\"new\"}}}}\n\0\u{1b}\n{one}"
        );
        assert_eq!(read_text(&odd), (vec![1, 1], true));
        assert_eq!(
            read_text(&format!("{header}{one}{{\"n\": 1")),
            (vec![1], true)
        );
        assert_eq!(read_text(""), (vec![], true));
        let none = read(Path::new("/nonexistent/trajectory.jsonl"), |_| {});
        assert!(none.incomplete);
    }
}
