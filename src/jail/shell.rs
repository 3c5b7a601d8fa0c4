//! PID 1's part of the persistent shell: its process, its terminal, and the pipes of its commands.
//!
//! Bash takes its lines from a socket of the host's (see `host/shell/mod.rs`). What commands print goes
//! through two named pipes in a tmpfs of their own, `o` and `e`, which serve one command after the other. A
//! daemon that an earlier command left holds that command's pipes: then new ones take their names.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::exec::{self, Context};
use super::processes::{self, Process};
use crate::sys::pty;
use crate::wire::{ByteString, Exec, SHELL_DIRECTORY};

/// A running shell.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) pid: i32,
    /// The socket of its lines, as `/proc/PID/fd/0` names it.
    lines: String,
    /// Held open: a terminal that nobody has open loses its session.
    _terminal: OwnedFd,
    /// Processes that were there when last asked: before the current command.
    before: BTreeMap<i32, Process>,
}

impl Shell {
    /// Starts bash; gives its terminal's master, and the reading ends of the pipes of its commands.
    pub(super) fn start(
        context: &Context<'_>,
        env: &[(ByteString, ByteString)],
        cwd: &ByteString,
        fds: Vec<OwnedFd>,
    ) -> io::Result<(Self, [OwnedFd; 3])> {
        let lines = fds
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("no socket came"))?;
        let inode = nix::sys::stat::fstat(&lines)?.st_ino;
        let [out, err] = new_pipes()?;
        let before = processes::all();
        let pty = pty::open("/dev/ptmx")?;
        pty::make_silent(pty.slave.as_fd())?;
        let request = Exec {
            id: 0,
            argv: ["bash", "--norc", "--noprofile", "--noediting", "-i"]
                .map(ByteString::from)
                .to_vec(),
            env: env.to_vec(),
            // Deleted by a command: a shell that could not start would never make it again.
            cwd: Some(if is_directory(cwd) {
                cwd.clone()
            } else {
                ByteString::from("/")
            }),
            terminal: true,
        };
        // Prompts, traces and complaints about our lines are of no interest.
        let null = null()?;
        let stdio = [lines.as_fd(), lines.as_fd(), null.as_fd()];
        let pid = exec::run(context, &request, stdio, Some(pty.slave.as_fd()))?;
        let shell = Self {
            pid,
            lines: format!("socket:[{inode}]"),
            _terminal: pty.slave,
            before,
        };
        Ok((shell, [pty.master, out, err]))
    }

    /// Takes down what runs before the next command; gives new pipes if it needs them.
    pub(super) fn prepare(&mut self, new: bool) -> io::Result<Vec<OwnedFd>> {
        let pipes = if new { new_pipes()?.into() } else { Vec::new() };
        self.before = processes::all();
        Ok(pipes)
    }

    /// Signals what began since `began` and since [`Self::prepare`]; the shell itself only when asked.
    pub(super) fn kill_command(&self, began: u64, signal: i32, shell: bool) {
        let now = processes::all();
        for pid in processes::began_since(began, &self.before, &now, self.pid) {
            processes::signal(pid, signal);
        }
        if shell {
            processes::signal(self.pid, signal);
        }
    }

    /// It reads lines: a command has another standard input.
    pub(super) fn is_idle(&self) -> bool {
        fs::read_link(format!("/proc/{}/fd/0", self.pid))
            .is_ok_and(|link| link.as_os_str() == self.lines.as_str())
    }
}

fn is_directory(path: &ByteString) -> bool {
    fs::metadata(OsStr::from_bytes(&path.0)).is_ok_and(|metadata| metadata.is_dir())
}

/// Makes the pipes of the next commands, in place of whatever is in their directory, which is for nothing else.
fn new_pipes() -> io::Result<[OwnedFd; 2]> {
    for entry in fs::read_dir(SHELL_DIRECTORY)?.flatten() {
        let _ = fs::remove_file(entry.path());
        let _ = fs::remove_dir_all(entry.path());
    }
    let pipe = |name| {
        let path = format!("{SHELL_DIRECTORY}/{name}");
        mkfifo(path.as_str(), Mode::from_bits_truncate(0o666))?;
        let reader = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)?;
        Ok::<_, io::Error>(reader.into())
    };
    Ok([pipe('o')?, pipe('e')?])
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}
