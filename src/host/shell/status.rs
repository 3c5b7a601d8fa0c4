//! How a command's end is told: the lines that bash gets, and the status line that comes back.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use tokio::io::unix::AsyncFd;

use crate::host::output::TURNS;
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

/// The line that runs a command and tells its status. See the module's documentation.
pub(super) fn line(number: u64, command: &str) -> Vec<u8> {
    let at = SHELL_DIRECTORY;
    let mut line = "\\eval $'\\\\unset POSIXLY_CORRECT\\n".to_owned();
    line.reserve(command.len() + command.len() / 8 + 512);
    for character in command.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\'' => line.push_str("\\'"),
            '\n' => line.push_str("\\n"),
            // Bash leaves it out of a script, too.
            '\0' => {}
            other => line.push(other),
        }
    }
    line += &format!("' </dev/null >{at}/o 2>{at}/e; {}", status_line(number));
    line.into_bytes()
}

/// Tells the status only.
pub(super) fn status_line(number: u64) -> String {
    format!(
        "POSIXLY_CORRECT={number}:$?:${{POSIXLY_CORRECT-}}; \\trap -- \"$POSIXLY_CORRECT\" 64; \
         \\trap -p 64; \\trap - 64\n"
    )
}

/// What has come through the shell's socket so far. Anybody inside may write there.
#[derive(Default)]
pub(crate) struct StatusLine {
    line: Vec<u8>,
    /// Nobody holds the other side: the shell has ended, which is told elsewhere.
    pub(super) closed: bool,
}

impl StatusLine {
    /// Bytes of a line that are kept, the last ones.
    const MAX: usize = 4096;

    pub(super) async fn read(
        &mut self,
        socket: &AsyncFd<UnixStream>,
        number: u64,
    ) -> io::Result<Option<End>> {
        let mut ready = socket.readable().await?;
        let mut buffer = [0; 4096];
        // Whoever writes faster than we read does not keep us from everything else.
        for _ in 0..TURNS {
            let Ok(read) = ready.try_io(|socket| socket.get_ref().read(&mut buffer)) else {
                return Ok(None);
            };
            let count = read.unwrap_or(0);
            self.closed = count == 0;
            let end = self.push(buffer.get(..count).unwrap_or_default(), number);
            // All is taken: what comes now wakes us again.
            let all = count < buffer.len();
            if all {
                ready.clear_ready();
            }
            if all || end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Takes bytes of the socket. Of a line that is too long the end counts.
    pub(crate) fn push(&mut self, bytes: &[u8], number: u64) -> Option<End> {
        let mut end = None;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(piece);
            let surplus = self.line.len().saturating_sub(Self::MAX);
            self.line.drain(..surplus);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                end = end.or_else(|| parse_status(&String::from_utf8_lossy(&line), number));
            }
        }
        end
    }
}

/// `trap -- 'NUMBER:STATUS:MARK' RTMAX`. The mark is what was in the variable: nothing, or what the command put there; or, when it was
/// never evaluated, the status of the one before. What a prompt command has printed may stand in front.
fn parse_status(line: &str, number: u64) -> Option<End> {
    let (_, quoted) = line.rsplit_once("trap -- '")?;
    let mut fields = quoted.split('\'').next()?.splitn(3, ':');
    if fields.next()?.parse() != Ok(number) {
        return None;
    }
    let status = fields.next()?.parse().ok()?;
    Some(if fields.next()?.contains(':') {
        End::NotEvaluated
    } else {
        End::Status(status)
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
            parse_status("trap -- '7:127:6:0:' RTMAX", 7),
            Some(End::NotEvaluated)
        );
        assert_eq!(
            parse_status("trap -- '7:1:y' RTMAX", 7),
            Some(End::Status(1))
        );
        assert_eq!(
            parse_status("\u{1b}]0;title\u{7}trap -- '7:0:' RTMAX", 7),
            Some(End::Status(0))
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
