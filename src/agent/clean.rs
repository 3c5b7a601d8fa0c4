//! Terminal output as plain text.
//!
//! Order matters: escape sequences go first (they may hold carriage returns), then lines are collapsed to what a terminal
//! would show last, then the bytes become text, then what is still invisible is made visible.

use std::fmt::Write as _;

/// What a person at a terminal would read in the end.
pub(crate) fn clean(bytes: &[u8]) -> String {
    let plain = strip_escapes(bytes);
    let mut shown = Vec::with_capacity(plain.len());
    for (at, line) in plain.split(|b| *b == b'\n').enumerate() {
        if at > 0 {
            shown.push(b'\n');
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let last = line.split(|b| *b == b'\r').rfind(|part| !part.is_empty());
        shown.extend_from_slice(last.unwrap_or_default());
    }
    visible(&String::from_utf8_lossy(&shown))
}

/// Removes CSI, OSC, DCS and all other escape sequences (ECMA-48), also unfinished ones.
fn strip_escapes(bytes: &[u8]) -> Vec<u8> {
    #[derive(Clone, Copy)]
    enum At {
        Text,
        Escape,
        Csi,
        /// A string that ends with BEL or ESC \.
        Text7,
        Text7Escape,
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = At::Text;
    for &byte in bytes {
        at = match (at, byte) {
            (At::Text, 0x1B) => At::Escape,
            (At::Text, _) => {
                out.push(byte);
                At::Text
            }
            (At::Escape, b'[') => At::Csi,
            (At::Escape, b']' | b'P' | b'X' | b'^' | b'_') => At::Text7,
            (At::Escape | At::Csi, 0x1B) => At::Escape,
            // Intermediates of a longer sequence, as in `ESC ( B`.
            (At::Escape, 0x20..=0x2F) => At::Escape,
            (At::Escape, _) => At::Text,
            (At::Csi, 0x20..=0x3F) => At::Csi,
            // A line end inside a sequence: it was not one.
            (At::Csi, b'\n' | b'\r') => {
                out.push(byte);
                At::Text
            }
            (At::Csi, _) => At::Text,
            (At::Text7, 0x07) => At::Text,
            (At::Text7, 0x1B) => At::Text7Escape,
            // Nothing real holds a line end: an unfinished string must not swallow the rest of the output.
            (At::Text7 | At::Text7Escape, b'\n') => {
                out.push(byte);
                At::Text
            }
            (At::Text7Escape, b'\\') => At::Text,
            (At::Text7, _) => At::Text7,
            (At::Text7Escape, _) => At::Text7,
        };
    }
    out
}

/// Applies backspaces, and writes other control characters as `\x00`.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{8}' => {
                if out.chars().next_back().is_some_and(|last| last != '\n') {
                    out.pop();
                }
            }
            '\u{7}' => {}
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
