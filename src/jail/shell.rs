//! PID 1's part of the persistent shell: its process, its terminal, and the files of each command.
//!
//! Bash takes constant lines from a pipe of the host's (see `host/shell.rs`). What varies goes
//! through three files that PID 1 makes anew for every command in a tmpfs of their own: `c` the
//! command's text, `o` and `e` named pipes for its output. A daemon that an earlier command left
//! holds that command's pipes, not the next one's. Status lines come through the named pipe `s`.

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
    /// The pipe of its lines, as `/proc/PID/fd/0` names it.
    lines: String,
    /// Held open: a terminal that nobody has open loses its session.
    _terminal: OwnedFd,
    /// Processes that were there before the current command.
    before: BTreeMap<i32, Process>,
}

impl Shell {
    /// Starts bash; gives its terminal's master and the pipe of its status lines.
    pub(super) fn start(
        context: &Context<'_>,
        env: &[(ByteString, ByteString)],
        cwd: &ByteString,
        fds: Vec<OwnedFd>,
    ) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let lines = fds
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("no pipe came"))?;
        let inode = nix::sys::stat::fstat(&lines)?.st_ino;
        clear()?;
        mkfifo(path('s', None).as_str(), Mode::from_bits_truncate(0o600))?;
        let status = open_pipe(&path('s', None), /*writable*/ true)?;
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
        // Prompts, traces and complaints about the constant lines are of no interest.
        let null = null()?;
        let stdio = [lines.as_fd(), null.as_fd(), null.as_fd()];
        let pid = exec::run(context, &request, stdio, Some(pty.slave.as_fd()))?;
        let shell = Self {
            pid,
            lines: format!("pipe:[{inode}]"),
            _terminal: pty.slave,
            before: BTreeMap::new(),
        };
        Ok((shell, pty.master, status.into()))
    }

    /// Makes the files of command `number`; gives the text's file and the reading ends of output and errors.
    pub(super) fn prepare(&mut self, number: u64) -> io::Result<[OwnedFd; 3]> {
        if let Some(last) = number.checked_sub(1) {
            for kind in ['c', 'o', 'e'] {
                let _ = fs::remove_file(path(kind, Some(last)));
            }
        }
        let files = match Self::make_files(number) {
            Ok(files) => files,
            Err(_) => {
                // Somebody filled the directory, which is for nothing else.
                for entry in fs::read_dir(SHELL_DIRECTORY)?.flatten() {
                    if entry.file_name() != "s" {
                        let _ = fs::remove_file(entry.path());
                        let _ = fs::remove_dir_all(entry.path());
                    }
                }
                Self::make_files(number)?
            }
        };
        self.before = processes::all();
        Ok(files)
    }

    fn make_files(number: u64) -> io::Result<[OwnedFd; 3]> {
        let text = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path('c', Some(number)))?;
        let pipe = |kind| {
            let path = path(kind, Some(number));
            mkfifo(path.as_str(), Mode::from_bits_truncate(0o666))?;
            open_pipe(&path, /*writable*/ false).map(OwnedFd::from)
        };
        Ok([text.into(), pipe('o')?, pipe('e')?])
    }

    /// Signals what began since [`Self::prepare`]; the shell itself only when asked.
    pub(super) fn kill_command(&self, signal: i32, shell: bool) {
        for pid in processes::began_since(&self.before, &processes::all(), self.pid) {
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

/// The path of one of the files; the same rule stands in `host/shell.rs`'s lines.
fn path(kind: char, number: Option<u64>) -> String {
    let number = number.map(|n| n.to_string()).unwrap_or_default();
    format!("{SHELL_DIRECTORY}/{kind}{number}")
}

fn open_pipe(path: &str, writable: bool) -> io::Result<File> {
    File::options()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}

fn clear() -> io::Result<()> {
    for entry in fs::read_dir(SHELL_DIRECTORY)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
