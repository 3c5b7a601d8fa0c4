//! Starting programs inside.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::zygote::exit_now;
use crate::sys::fork::{Forked, SingleThread, fork};
use crate::sys::{process, pty};
use crate::wire::{ByteString, Exec};

/// What every program gets.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) thread: SingleThread,
    pub(super) env: &'a [(ByteString, ByteString)],
    pub(super) workdir: &'a str,
}

/// As in sh: the program was found but could not be run.
const NOT_EXECUTABLE: u8 = 126;
/// As in sh: there is no such program.
const NOT_FOUND: u8 = 127;

/// Starts a program on three descriptors of the host: pipes, or its own null device.
pub(super) fn start(context: &Context<'_>, request: &Exec, fds: Vec<OwnedFd>) -> io::Result<i32> {
    let stdio: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| io::Error::other("three descriptors are needed"))?;
    match fork(context.thread)? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            let _ = nix::unistd::setsid();
            become_program(context, request, &stdio)
        }
    }
}

/// Starts a program on a new terminal of the sandbox, and gives the terminal's master.
pub(super) fn start_on_terminal(
    context: &Context<'_>,
    request: &Exec,
) -> io::Result<(i32, OwnedFd)> {
    let pty = pty::open("/dev/ptmx")?;
    match fork(context.thread)? {
        Forked::Parent(pid) => Ok((pid, pty.master)),
        Forked::Child => {
            let _ = nix::unistd::setsid();
            match pty::make_controlling(pty.slave.as_fd()).and_then(|()| copies(&pty.slave)) {
                Ok(stdio) => become_program(context, request, &stdio),
                Err(_) => exit_now(NOT_EXECUTABLE),
            }
        }
    }
}

fn copies(fd: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
    Ok([fd.try_clone()?, fd.try_clone()?, fd.try_clone()?])
}

/// Runs in the child. When the program could not be run it says so on its stderr and ends: it never
/// returns, for the descriptors that its caller would close are closed.
pub(super) fn become_program(context: &Context<'_>, request: &Exec, stdio: &[OwnedFd; 3]) -> ! {
    if take_stdio(stdio).is_err() {
        exit_now(NOT_EXECUTABLE);
    }
    process::reset_signals();
    exit_now(run(context, request))
}

/// Makes the three descriptors 0, 1 and 2 and closes all others.
fn take_stdio(stdio: &[OwnedFd; 3]) -> io::Result<()> {
    // PID 1 has 0 to 2 open, so none of the three can be one of those numbers.
    for (fd, number) in stdio.iter().zip(0..) {
        process::duplicate_to(fd.as_fd(), number)?;
    }
    process::close_all_but(&[0, 1, 2])
}

fn run(context: &Context<'_>, request: &Exec) -> u8 {
    let cwd = request
        .cwd
        .as_ref()
        .map_or(context.workdir.as_bytes(), |cwd| cwd.0.as_slice());
    if let Err(error) = nix::unistd::chdir(std::ffi::OsStr::from_bytes(cwd)) {
        return complain(cwd, &error.into(), NOT_EXECUTABLE);
    }
    let env = environment(context.env, &request.env);
    let argv: Result<Vec<CString>, _> = request
        .argv
        .iter()
        .map(|arg| CString::new(arg.0.clone()))
        .collect();
    let Ok(argv) = argv else {
        return complain(
            b"arguments",
            &io::Error::other("they hold a NUL"),
            NOT_EXECUTABLE,
        );
    };
    let Some(name) = argv.first() else {
        return complain(
            b"arguments",
            &io::Error::other("there are none"),
            NOT_EXECUTABLE,
        );
    };
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    for path in candidates(name, &env) {
        let failed = process::exec(&path, &argv, &env);
        match failed.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::ENOEXEC) => {
                // A script without #!, as execvp(3) treats it.
                let mut shell = vec![CString::from(c"sh"), path.clone()];
                shell.extend(argv.iter().skip(1).cloned());
                error = process::exec(c"/bin/sh", &shell, &env);
                break;
            }
            _ => error = failed,
        }
    }
    let missing = error.raw_os_error() == Some(libc::ENOENT);
    complain(
        name.as_bytes(),
        &error,
        if missing { NOT_FOUND } else { NOT_EXECUTABLE },
    )
}

fn complain(what: &[u8], error: &io::Error, code: u8) -> u8 {
    let what = String::from_utf8_lossy(what);
    let text = match error.raw_os_error() {
        Some(libc::ENOENT) if code == NOT_FOUND => format!("{what}: not found\n"),
        _ => format!("{what}: {error}\n"),
    };
    let _ = io::stderr().write_all(text.as_bytes());
    code
}

/// `KEY=VALUE` strings, later ones in place of earlier ones.
fn environment(
    base: &[(ByteString, ByteString)],
    added: &[(ByteString, ByteString)],
) -> Vec<CString> {
    let mut pairs: Vec<(&[u8], &[u8])> = Vec::new();
    for (key, value) in base.iter().chain(added) {
        pairs.retain(|(known, _)| *known != key.0.as_slice());
        pairs.push((&key.0, &value.0));
    }
    pairs
        .into_iter()
        .filter_map(|(key, value)| CString::new([key, b"=", value].concat()).ok())
        .collect()
}

fn candidates(name: &CString, env: &[CString]) -> Vec<CString> {
    if name.as_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let path = env
        .iter()
        .find_map(|pair| pair.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/bin:/bin");
    path.split(|byte| *byte == b':')
        .filter(|dir| !dir.is_empty() && !name.as_bytes().is_empty())
        .filter_map(|dir| CString::new([dir, b"/", name.as_bytes()].concat()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_replace_earlier_ones() {
        let pair = |k: &str, v: &str| (ByteString::from(k), ByteString::from(v));
        let env = environment(&[pair("A", "1"), pair("B", "2")], &[pair("A", "3")]);
        assert_eq!(env, [c"B=2".to_owned(), c"A=3".to_owned()]);
    }

    #[test]
    fn a_name_with_a_slash_is_not_searched() {
        let env = [c"PATH=/a:/b".to_owned()];
        assert_eq!(
            candidates(&c"x".to_owned(), &env),
            [c"/a/x".to_owned(), c"/b/x".to_owned()]
        );
        assert_eq!(candidates(&c"./x".to_owned(), &env), [c"./x".to_owned()]);
    }
}
