//! What a sandbox, a model, a server or an archive says, on its way to a person's terminal.
//!
//! A terminal obeys what it is sent: it can be told to fill the clipboard (OSC 52), to type an answer as if the person had
//! (DECRQSS, title reports, the answerback of ENQ), to overwrite what was read a moment ago, and to show letters in another order
//! than they stand (CVE-2021-42574). [`Filter`] lets text pass and nothing of this. It parses as ECMA-48 and the DEC
//! terminals do, but its soundness needs no agreement with the terminal: what it gives is text and, for a screen, whole sequences
//! of a short list, so that the terminal is never left inside of one.

use std::io::{self, Write};

const ESC: char = '\u{1b}';
/// No sequence that is let through is longer.
const MAX_SEQUENCE: usize = 64;
/// Digits of a number in a sequence: no screen has more lines or columns, and `REP` repeats no more often.
const MAX_DIGITS: usize = 4;
/// Private modes that a program may switch: keypad, wrapping, cursor, mouse, focus, other screen, bracketed paste, synchronous
/// updates. Not mode 2, which changes the language that the terminal speaks.
const MODES: [&str; 18] = [
    "1", "6", "7", "12", "25", "47", "66", "1000", "1002", "1003", "1004", "1006", "1015", "1047",
    "1048", "1049", "2004", "2026",
];
/// Takes back what would annoy the person's own shell after one inside: colours, a drawing character set, a hidden cursor, and
/// a mouse whose every move is typed.
pub(super) const AFTER_SCREEN: &str = "\u{1b}[m\u{1b}(B\u{f}\u{1b}[?25h\u{1b}[?1000l\u{1b}[?1002l\u{1b}[?1003l\u{1b}[?1004l\u{1b}[?1006l\u{1b}[?1015l\u{1b}[?2004l";

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Text, line ends and tabs.
    Text,
    /// What programs draw screens with, too.
    Screen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Text,
    Escape,
    Csi,
    /// Inside OSC, DCS, SOS, PM or APC.
    String,
    StringEscape,
}

/// Removes control sequences from a stream, however it is cut into pieces.
#[derive(Debug)]
pub(crate) struct Filter {
    keep: Keep,
    at: At,
    /// What has come of a sequence.
    sequence: String,
    /// The beginning of a character.
    partial: Vec<u8>,
    /// The cursor is at the beginning of a line; and a carriage return has brought it there.
    line_start: bool,
    after_return: bool,
}

impl Filter {
    /// Lets text through: a carriage return begins a line, other controls are written as `\x00`, a character that turns the
    /// direction of writing becomes U+FFFD.
    pub(crate) fn text() -> Self {
        Self::new(Keep::Text)
    }

    /// Lets the movements and colours of full-screen programs through, too; nothing that has the terminal answer (but where the
    /// cursor is), remember, print or change its title, size or clipboard.
    pub(crate) fn screen() -> Self {
        Self::new(Keep::Screen)
    }

    fn new(keep: Keep) -> Self {
        Self {
            keep,
            at: At::Text,
            sequence: String::new(),
            partial: Vec::new(),
            line_start: true,
            after_return: false,
        }
    }

    /// Takes the next bytes, and adds to `out` what passes.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut pending = std::mem::take(&mut self.partial);
        pending.extend_from_slice(bytes);
        let mut chunks = pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for c in chunk.valid().chars() {
                self.take(c, out);
            }
            let invalid = chunk.invalid();
            let unfinished =
                || std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if chunks.peek().is_none() && unfinished() {
                self.partial = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.take('\u{fffd}', out);
            }
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            self.take('\u{fffd}', out);
        }
    }

    fn take(&mut self, c: char, out: &mut String) {
        self.at = match (self.at, c) {
            (At::Text | At::Escape | At::Csi, ESC) => {
                self.sequence.clear();
                At::Escape
            }
            (At::Text, _) => {
                self.character(c, out);
                At::Text
            }
            // CAN and SUB break off any sequence.
            (_, '\u{18}' | '\u{1a}') => At::Text,
            // Nothing real holds a line end but pictures: an unfinished sequence must not swallow the rest of the output.
            (at, '\n' | '\r') if at != At::String || self.keep == Keep::Text => {
                self.character(c, out);
                At::Text
            }
            (At::Escape, '[') if self.sequence.is_empty() => At::Csi,
            (At::Escape, ']' | 'P' | 'X' | '^' | '_') if self.sequence.is_empty() => At::String,
            // Intermediates of a longer sequence, as in `ESC ( B`.
            (At::Escape, ' '..='/') => self.remember(c, At::Escape),
            (At::Escape, '0'..='~') => self.end(c, "", is_harmless_escape, out),
            (At::Csi, ' '..='?') => self.remember(c, At::Csi),
            (At::Csi, '@'..='~') => self.end(c, "[", is_harmless_csi, out),
            (At::Escape | At::Csi, _) => At::Text,
            (At::String, '\u{7}' | '\u{9c}') => At::Text,
            (At::String, ESC) => At::StringEscape,
            (At::String, _) => At::String,
            (At::StringEscape, '\\') => At::Text,
            // It was no end of the string but the beginning of something else.
            (At::StringEscape, _) => {
                self.sequence.clear();
                self.at = At::Escape;
                return self.take(c, out);
            }
        };
    }

    fn remember(&mut self, c: char, next: At) -> At {
        if self.sequence.len() < MAX_SEQUENCE {
            self.sequence.push(c);
        }
        next
    }

    fn end(
        &mut self,
        last: char,
        kind: &str,
        is_harmless: fn(&str, char) -> bool,
        out: &mut String,
    ) -> At {
        let body = std::mem::take(&mut self.sequence);
        if self.keep == Keep::Screen && body.len() < MAX_SEQUENCE && is_harmless(&body, last) {
            out.extend([ESC]);
            out.push_str(kind);
            out.push_str(&body);
            out.push(last);
        }
        At::Text
    }

    fn character(&mut self, c: char, out: &mut String) {
        match (self.keep, c) {
            // BS, VT, FF and both shifts among them; not ENQ, to which a terminal answers.
            (Keep::Screen, '\u{7}'..='\u{f}') => out.push(c),
            (Keep::Screen, _) if c.is_control() => {}
            (Keep::Text, '\r') => {
                // What stood there is not overwritten: it may have been read by nobody.
                if !self.line_start {
                    out.push('\n');
                    (self.line_start, self.after_return) = (true, true);
                }
            }
            (Keep::Text, '\n') => {
                if !std::mem::take(&mut self.after_return) {
                    out.push('\n');
                }
                self.line_start = true;
            }
            (Keep::Text, '\u{7}') => {}
            _ => {
                (self.line_start, self.after_return) = (false, false);
                if c != '\t' && c.is_control() {
                    out.push_str(&format!("\\x{:02x}", u32::from(c)));
                } else {
                    out.push(if misleads(c) { '\u{fffd}' } else { c });
                }
            }
        }
    }
}

/// Turns the direction of writing, ends lines where nobody expects it, or hides text as a note to other text.
fn misleads(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

fn is_harmless_escape(body: &str, last: char) -> bool {
    match body {
        // Cursor, tabulators, keypad, reset.
        "" => matches!(last, '7' | '8' | 'D' | 'E' | 'H' | 'M' | '=' | '>' | 'c'),
        // Character sets: ASCII and line drawing.
        "(" | ")" => matches!(last, 'B' | '0'),
        _ => false,
    }
}

fn is_harmless_csi(body: &str, last: char) -> bool {
    let (private, rest) = match body.strip_prefix('?') {
        Some(rest) => (true, rest),
        None => (false, body),
    };
    let numbers = rest.trim_end_matches(|c: char| (' '..='/').contains(&c));
    let intermediate = rest.get(numbers.len()..).unwrap_or_default();
    let mut parameters = numbers.split([';', ':']);
    if !parameters.all(|n| n.len() <= MAX_DIGITS && n.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    match (private, intermediate, last) {
        (
            false,
            "",
            '@'..='M' | 'P' | 'S' | 'T' | 'X' | 'Z' | '`' | 'a' | 'b' | 'd' | 'e' | 'f',
        ) => true,
        (false, "", 'g' | 'm' | 'r' | 's' | 'u') | (false, " ", 'q') | (false, "!", 'p') => true,
        // Where the cursor is: digits alone, and full-screen programs wait for it.
        (false, "", 'n') => numbers == "6",
        (false, "", 'h' | 'l') => numbers == "4",
        (true, "", 'J' | 'K') => true,
        (true, "", 'h' | 'l') => numbers.split(';').all(|mode| MODES.contains(&mode)),
        _ => false,
    }
}

/// Text made safe for a terminal, see [`Filter::text`].
#[must_use]
pub(crate) fn sanitize(text: &str) -> String {
    let (mut filter, mut safe) = (Filter::text(), String::with_capacity(text.len()));
    filter.push(text.as_bytes(), &mut safe);
    filter.finish(&mut safe);
    safe
}

/// A name or short text that cannot pose as a line of ours either.
pub(super) fn one_line(text: &str) -> String {
    sanitize(text).replace(['\n', '\t'], " ")
}

/// JSON whose strings hold nothing that a terminal obeys: JSON itself escapes only what is below U+0020.
pub(super) fn escape_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if ('\u{7f}'..='\u{9f}').contains(&c) || misleads(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Writes through a [`Filter`].
#[derive(Debug)]
pub(super) struct Filtered<W: Write> {
    filter: Filter,
    to: W,
}

impl<W: Write> Filtered<W> {
    pub(super) fn new(filter: Filter, to: W) -> Self {
        Self { filter, to }
    }
}

impl<W: Write> Write for Filtered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut safe = String::with_capacity(bytes.len());
        self.filter.push(bytes, &mut safe);
        self.to.write_all(safe.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Filtered<W> {
    fn drop(&mut self) {
        let mut rest = String::new();
        self.filter.finish(&mut rest);
        // A reader that is gone is no reason to complain.
        let _ = self
            .to
            .write_all(rest.as_bytes())
            .and_then(|()| self.to.flush());
    }
}

#[cfg(test)]
mod tests;
