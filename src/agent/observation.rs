//! From raw bytes to what the model reads: cleaned, bounded, in the original's layout.

use std::fmt::Write as _;

use super::clean::{clean, visible};
use crate::env::{Captured, FullCopy, ShellResult};
use crate::outcome::LimitHit;

/// Lines of one stream that are kept: half from the head, half from the tail.
pub(crate) const MAX_LINES: usize = 80;
/// Bytes of one stream that are kept, in the same way.
pub(crate) const MAX_BYTES: usize = 16_000;
/// Width of the rule around a cut.
const RULE: usize = 50;

/// How observations are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Our own: everything that the sandbox tells.
    #[default]
    Native,
    /// The original's text, its stray backslashes and losses included.
    Original,
}

impl Style {
    /// The line that begins an observation of `tool`.
    pub(crate) fn header(self, tool: &str) -> String {
        format!("Execution output of {}:", self.tag(tool))
    }

    fn tag(self, name: &str) -> String {
        match self {
            Self::Native => format!("[{name}]"),
            Self::Original => format!("\\[{name}]"),
        }
    }
}

/// One stream ready to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// All of it, or its head.
    pub(crate) head: String,
    /// What was left out between head and tail.
    pub(crate) cut: Option<Cut>,
    /// Its tail; empty when nothing was left out.
    pub(crate) tail: String,
}

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Lines, where all of them were seen.
    pub(crate) lines: Option<usize>,
    /// Where the whole can be read.
    pub(crate) full_copy: Option<FullCopy>,
}

impl Cleaned {
    fn is_blank(&self) -> bool {
        self.cut.is_none() && self.head.trim().is_empty()
    }

    fn write(&self, out: &mut String) {
        out.push_str(self.head.strip_suffix('\n').unwrap_or(&self.head));
        let Some(cut) = &self.cut else { return };
        let rule = "-".repeat(RULE);
        let lines = cut
            .lines
            .map_or(String::new(), |n| format!(" in {n} lines"));
        let _ = write!(out, "\n{rule}\n<{} bytes{lines} left out here", cut.bytes);
        if let Some(copy) = &cut.full_copy {
            let how = if copy.partial {
                "as much as could be kept is"
            } else {
                "the whole is"
            };
            let _ = write!(out, "; {how} in {}", copy.path);
        }
        let _ = write!(
            out,
            ">\n{rule}\n{}",
            self.tail.strip_suffix('\n').unwrap_or(&self.tail)
        );
    }
}

/// Cleans and bounds one stream.
pub(crate) fn clean_stream(stream: &Captured) -> Cleaned {
    if stream.omitted == 0 {
        let mut bytes = stream.head.clone();
        bytes.extend_from_slice(&stream.tail);
        let text = clean(&bytes);
        return bound(text);
    }
    let mut cut = Cut {
        bytes: stream.omitted,
        lines: None,
        full_copy: stream.full_copy.clone(),
    };
    let (whole_head, lost_head) = trim_char_end(&stream.head);
    let (whole_tail, lost_tail) = trim_char_start(&stream.tail);
    let head = clean(whole_head);
    let tail = clean(whole_tail);
    let kept_head = take_head(&head);
    let kept_tail = take_tail(&tail);
    let lost = lost_head + lost_tail + head.len() - kept_head.len() + tail.len() - kept_tail.len();
    cut.bytes = cut
        .bytes
        .saturating_add(u64::try_from(lost).unwrap_or(u64::MAX));
    Cleaned {
        head: kept_head.to_owned(),
        cut: Some(cut),
        tail: kept_tail.to_owned(),
    }
}

fn bound(text: String) -> Cleaned {
    let lines = text.lines().count();
    if lines <= MAX_LINES && text.len() <= MAX_BYTES {
        return Cleaned {
            head: text,
            ..Cleaned::default()
        };
    }
    let head = take_head(&text);
    let rest = text.get(head.len()..).unwrap_or("");
    let tail = take_tail(rest);
    let middle = rest.get(..rest.len() - tail.len()).unwrap_or("");
    let cut = Cut {
        bytes: u64::try_from(middle.len()).unwrap_or(u64::MAX),
        lines: Some(middle.lines().count()),
        full_copy: None,
    };
    Cleaned {
        head: head.to_owned(),
        cut: Some(cut),
        tail: tail.to_owned(),
    }
}

fn take_head(text: &str) -> &str {
    let by_lines = text
        .match_indices('\n')
        .nth(MAX_LINES / 2 - 1)
        .map_or(text.len(), |(at, _)| at + 1);
    let mut end = by_lines.min(MAX_BYTES / 2);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

fn take_tail(text: &str) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let by_lines = body
        .rmatch_indices('\n')
        .nth(MAX_LINES / 2 - 1)
        .map_or(0, |(at, _)| at + 1);
    let mut start = by_lines.max(text.len().saturating_sub(MAX_BYTES / 2));
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or(text)
}

/// Leaves out the beginning of a character whose end is missing.
fn trim_char_end(bytes: &[u8]) -> (&[u8], usize) {
    let start = bytes.len().saturating_sub(3);
    for at in (start..bytes.len()).rev() {
        let byte = bytes.get(at).copied().unwrap_or(0);
        if byte & 0xC0 == 0x80 {
            continue;
        }
        let needed = match byte {
            0xF0.. => 4,
            0xE0.. => 3,
            0xC0.. => 2,
            _ => 1,
        };
        if at + needed > bytes.len() {
            return (bytes.get(..at).unwrap_or(bytes), bytes.len() - at);
        }
        break;
    }
    (bytes, 0)
}

/// Leaves out the end of a character whose beginning is missing.
fn trim_char_start(bytes: &[u8]) -> (&[u8], usize) {
    let lost = bytes
        .iter()
        .take(3)
        .take_while(|b| **b & 0xC0 == 0x80)
        .count();
    (bytes.get(lost..).unwrap_or(bytes), lost)
}

/// The observation of one command; `stdout` and `stderr` are its cleaned streams.
pub(crate) fn render_native(result: &ShellResult, stdout: &Cleaned, stderr: &Cleaned) -> String {
    let style = Style::Native;
    let mut text = format!(
        "Exit code: {}\n{}\n{}\n",
        exit_code(result.status.filter(|_| result.timed_out.is_none())),
        style.header("execute_bash"),
        style.tag("STDOUT")
    );
    stdout.write(&mut text);
    for (name, stream) in [("STDERR", stderr), ("TERMINAL", &clean_stream(&result.tty))] {
        if !stream.is_blank() {
            let _ = write!(text, "\n{}\n", style.tag(name));
            stream.write(&mut text);
        }
    }
    let mut notices = Vec::new();
    if let Some(after) = result.timed_out {
        notices.push(format!(
            "The command was stopped because it ran longer than {} s. What it wrote until then is shown above.",
            seconds(after)
        ));
    }
    if let Some(why) = &result.restarted {
        notices.push(format!(
            "The shell ended ({}) and a new one was started: its working directory, variables, functions and jobs are gone; files are kept.",
            visible(why)
        ));
    }
    notices.extend(result.struck.iter().filter_map(limit_notice));
    if !notices.is_empty() {
        let _ = write!(text, "\n{}\n{}", style.tag("NOTICE"), notices.join("\n"));
    }
    text
}

/// What the model is told of a limit; time and cut output are told elsewhere, and being slow is no news.
fn limit_notice(hit: &LimitHit) -> Option<String> {
    let told = hit.can_end() && !matches!(hit, LimitHit::WallTime { .. });
    told.then(|| format!("LIMIT {}: {hit}.", hit.name()))
}

/// The observation of one command as the original would have written it.
pub(crate) fn render_original(result: &ShellResult) -> String {
    let style = Style::Original;
    let (code, stdout, stderr) = match result.timed_out {
        Some(after) => (
            None,
            format!("The command took too long (>{} s)", seconds(after)),
            String::new(),
        ),
        None => (
            result.status,
            original_stream(&result.stdout),
            original_stream(&result.stderr),
        ),
    };
    let mut text = format!(
        "Exit code: {}\n{}\n{}\n{stdout}",
        exit_code(code),
        style.header("execute_bash"),
        style.tag("STDOUT")
    );
    if !stderr.trim().is_empty() {
        let _ = write!(text, "\n{}\n{stderr}", style.tag("STDERR"));
    }
    text
}

fn exit_code(status: Option<i32>) -> String {
    match status {
        Some(0) => "0".to_owned(),
        Some(code) => format!("Error: Exit code {code}"),
        None => "-1".to_owned(),
    }
}

/// Colours and carriage returns removed, and the middle of more than eighty lines.
fn original_stream(stream: &Captured) -> String {
    let mut bytes = stream.head.clone();
    if stream.omitted > 0 {
        bytes.extend_from_slice(format!("\n<{} bytes left out here>\n", stream.omitted).as_bytes());
    }
    bytes.extend_from_slice(&stream.tail);
    let decoded = String::from_utf8_lossy(&bytes).replace('\r', "");
    let text = strip_colours(&decoded);
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= MAX_LINES {
        return text;
    }
    let half = MAX_LINES / 2;
    let head = lines.get(..half).unwrap_or_default().join("\n");
    let tail = lines
        .get(lines.len() - half..)
        .unwrap_or_default()
        .join("\n");
    let rule = "-".repeat(RULE);
    format!("{head}\n{rule}\n<the middle of the output was left out>\n{rule}\n{tail}")
}

fn strip_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let body = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match body.strip_prefix('m') {
            Some(next) => rest = next,
            None => {
                out.push_str("\u{1b}[");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn seconds(time: std::time::Duration) -> String {
    let text = format!("{:.3}", time.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
