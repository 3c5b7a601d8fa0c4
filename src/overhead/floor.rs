//! What the host's bash takes alone, without a sandbox and without this program's way to it: no sandbox with a shell takes less.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::OverheadError;
use super::phases::{PATIENCE, Run};
use super::sample::alternate;

/// A bash that reads lines from a socket, as the shell of a sandbox does, but not an interactive one: that would take over the
/// terminal of whoever measures. Killed when dropped.
struct Bash {
    child: Child,
    socket: UnixStream,
}

impl Bash {
    fn start() -> Result<Self, OverheadError> {
        let failed = |e| OverheadError::Io("start bash".into(), e);
        let (socket, other) = UnixStream::pair().map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let child = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .stdin(OwnedFd::from(other))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.map_err(failed)?;
        Ok(Self { child, socket })
    }

    /// Has it carry out a line, and answer.
    fn answer(&mut self, line: &str) -> Result<(), OverheadError> {
        let asked = self
            .socket
            .write_all(format!("{line}; echo >&0\n").as_bytes());
        let answered = asked.and_then(|()| self.socket.read_exact(&mut [0]));
        answered.map_err(OverheadError::io("talk with bash"))
    }

    fn timed(&mut self, line: &str) -> Result<Duration, OverheadError> {
        let began = Instant::now();
        self.answer(line)?;
        Ok(began.elapsed())
    }
}

impl Drop for Bash {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run<'_> {
    pub(super) async fn floor(&mut self) -> Result<(), OverheadError> {
        let (launcher, n) = (&self.launcher, self.options.runs);
        let start = alternate(launcher, n, async || {
            let began = Instant::now();
            Bash::start()?.answer(":")?;
            Ok(began.elapsed())
        });
        let mut figures = vec![
            start
                .await?
                .figure("floor.shell", "bash alone: to its first answer"),
        ];
        let mut bash = Bash::start()?;
        bash.answer(":")?;
        for (key, what, line) in [
            ("floor.builtin", "bash alone: a builtin", ":"),
            ("floor.true", "bash alone: /bin/true", "/bin/true"),
        ] {
            let series = alternate(launcher, n, async || bash.timed(line));
            figures.push(series.await?.figure(key, what));
        }
        self.figures.extend(figures);
        Ok(())
    }
}
