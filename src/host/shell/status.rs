//! How a command's end is told: the constant lines that bash gets, and the status line that comes back.

use tokio::net::unix::pipe;

use crate::wire::SHELL_DIRECTORY;

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
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
pub(super) struct StatusLine(Vec<u8>);

impl StatusLine {
    const MAX: usize = 4096;

    pub(super) fn read(&mut self, pipe: &pipe::Receiver, number: u64) -> Option<End> {
        let mut buffer = [0; 512];
        while let Ok(count @ 1..) = pipe.try_read(&mut buffer) {
            self.0
                .extend_from_slice(buffer.get(..count).unwrap_or_default());
            if self.0.len() > Self::MAX {
                self.0.clear();
            }
        }
        let text = String::from_utf8_lossy(&self.0).into_owned();
        let end = text.lines().find_map(|line| parse_status(line, number));
        if let Some((_, rest)) = text.rsplit_once('\n') {
            self.0 = rest.as_bytes().to_vec();
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
