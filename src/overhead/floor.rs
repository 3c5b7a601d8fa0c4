//! What the host's bash takes alone, without a sandbox and without this program's way to it: no sandbox with a shell takes less.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::OverheadError;
use super::phases::{PATIENCE, Run};
use super::sample::{alternate, e};
use crate::sys::process;

/// An interactive bash that reads lines from a socket, as a sandbox's shell does. Killed when dropped.
struct Bash {
    child: Child,
    socket: UnixStream,
}

impl Bash {
    fn start(mut command: Command) -> Result<Self, OverheadError> {
        let failed = |e| OverheadError::Io("start bash".into(), e);
        let (socket, other) = UnixStream::pair().map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let child = command
            .args(["--norc", "--noprofile", "--noediting", "-i"])
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
            Bash::start(Command::new("bash"))?.answer(":")?;
            Ok(began.elapsed())
        });
        let mut figures = vec![
            start
                .await?
                .figure("floor.shell", "bash alone: to its first answer"),
        ];
        let mut bash = Bash::start(Command::new("bash"))?;
        bash.answer(":")?;
        for (key, what, line) in [
            ("floor.builtin", "bash alone: a builtin", ":"),
            ("floor.true", "bash alone: /bin/true", "/bin/true"),
        ] {
            let series = alternate(launcher, n, async || bash.timed(line));
            figures.push(series.await?.figure(key, what));
        }
        let what = "bash alone in a user, pid and mount namespace: its end";
        // Not everybody may make these.
        match alternate(launcher, n, async || gone()).await {
            Ok(gone) => figures.push(gone.figure("floor.gone", what)),
            Err(error) => self.skip(what, error.to_string()),
        }
        self.figures.extend(figures);
        Ok(())
    }
}

/// From the signal until it and its namespaces are left.
fn gone() -> Result<Duration, OverheadError> {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--mount",
        "--fork",
        "bash",
    ]);
    let mut bash = Bash::start(unshare)?;
    bash.answer(":")?;
    let failed = |e| OverheadError::Io("find bash".into(), e);
    let id = bash.child.id();
    let child = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).map_err(failed)?;
    let child = child
        .trim()
        .parse()
        .map_err(|e| failed(std::io::Error::other(e)))?;
    let init = process::open_pidfd(child).map_err(failed)?;
    e()?;
    let began = Instant::now();
    process::signal_pidfd(init.as_fd(), libc::SIGKILL).map_err(failed)?;
    let mut ended = [PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::NONE);
    match poll(&mut ended, timeout).map_err(|e| failed(e.into()))? {
        0 => Err(OverheadError::Failed(
            "bash".into(),
            "it does not end".into(),
        )),
        _ => Ok(began.elapsed()),
    }
}
