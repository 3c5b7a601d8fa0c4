//! How a command's end is told: the constant lines that bash gets, and the status line that comes back.

use tokio::net::unix::pipe;

use super::TURNS;
use crate::wire::SHELL_DIRECTORY;

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(i32),
    /// The shell itself ended, with this status.
    ShellExited(i32),
    /// The shell does not report any more.
    Broken,
    /// `eval` itself is out of order: the command never began.
    NotEvaluated,
    TimedOut {
        shell_lives: bool,
    },
}

/// The line that runs a command, and the one that tells its status. See the module's documentation.
pub(super) fn constant_lines(number: u64) -> String {
    let at = SHELL_DIRECTORY;
    format!(
        "POSIXLY_CORRECT=1; \\eval \"$(<{at}/c{number})\" </dev/null >{at}/o{number} 2>{at}/e{number}\n{}",
        status_line(number)
    )
}

/// See [`constant_lines`].
pub(super) fn status_line(number: u64) -> String {
    let at = SHELL_DIRECTORY;
    format!(
        "POSIXLY_CORRECT=$?:${{POSIXLY_CORRECT-}}; \\trap -- \"{number}:$POSIXLY_CORRECT\" 64; \
         \\trap -p 64 >{at}/s; \\trap - 64; \\unset POSIXLY_CORRECT\n"
    )
}

/// What has come through the status pipe so far. Anybody inside may write there.
#[derive(Default)]
pub(crate) struct StatusLine(Vec<u8>);

impl StatusLine {
    /// Bytes of a line that are kept, and one more to tell that there were more.
    const MAX: usize = 4096;

    pub(super) fn read(&mut self, pipe: &pipe::Receiver, number: u64) -> Option<End> {
        let mut buffer = [0; 4096];
        // Whoever writes faster than we read does not keep us from everything else.
        for _ in 0..TURNS {
            let Ok(count @ 1..) = pipe.try_read(&mut buffer) else {
                return None;
            };
            let end = self.push(buffer.get(..count).unwrap_or_default(), number);
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Takes bytes of the pipe. Of a line that is too long nothing counts.
    pub(crate) fn push(&mut self, bytes: &[u8], number: u64) -> Option<End> {
        let mut end = None;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0
                .extend(piece.iter().take(Self::MAX + 1 - self.0.len()));
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.0);
                let text = std::str::from_utf8(&line).unwrap_or_default();
                end = end.or_else(|| parse_status(text.trim_end_matches('\n'), number));
            }
        }
        end
    }
}

/// `trap -- 'NUMBER:STATUS:MARK' RTMAX`: the mark is empty when the command was evaluated.
fn parse_status(line: &str, number: u64) -> Option<End> {
    let quoted = line.strip_prefix("trap -- '")?.split('\'').next()?;
    let mut fields = quoted.split(':');
    if fields.next()?.parse() != Ok(number) {
        return None;
    }
    let status = fields.next()?.parse().ok()?;
    Some(if fields.next()?.is_empty() {
        End::Status(status)
    } else {
        End::NotEvaluated
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_status_line_counts() {
        assert_eq!(
            parse_status("trap -- '7:3:' RTMAX", 7),
            Some(End::Status(3))
        );
        assert_eq!(
            parse_status("trap -- '7:127:1' RTMAX", 7),
            Some(End::NotEvaluated)
        );
        for other in [
            "trap -- '6:0:' RTMAX",
            "trap -- '7:x:' RTMAX",
            "7:0:",
            "",
            "trap -- '",
        ] {
            assert_eq!(parse_status(other, 7), None, "{other}");
        }
    }
}
