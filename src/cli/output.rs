//! The only way out to the person: results on stdout, everything else on stderr.
//!
//! A reader that is gone (a closed pipe) is no reason to stop working.

use std::io::{self, Write};

/// Writes a line to stdout.
pub fn result(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a value as JSON to stdout.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), super::error::CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| super::error::CliError::Io("write JSON", e.into()))?;
    result(&text);
    Ok(())
}

/// Writes a line to stderr.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes an error and its causes to stderr, on one line.
pub fn error(error: &dyn std::error::Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    note(&sanitize(&text));
}

/// Text that comes from a model, a server or a sandbox, made safe for a terminal: no escape sequences, no control characters
/// but line ends and tabs, nothing that turns the direction of writing.
#[must_use]
pub fn sanitize(text: &str) -> String {
    crate::agent::clean(text.as_bytes())
        .chars()
        .map(|c| match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                '\u{fffd}'
            }
            '\u{2028}' | '\u{2029}' => '\n',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let hostile = "a\u{1b}]52;c;ZXZpbA==\u{7}b\u{1b}[2Jc\u{9b}31md\u{202e}e\r\nf";
        let safe = sanitize(hostile);
        assert_eq!(safe, "abc\\x9b31md\u{fffd}e\nf");
        assert!(!safe.contains('\u{1b}'));
    }
}
