//! Starting programs inside.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fork::SingleThread;
use crate::sys::pty;
use crate::sys::spawn::{Failure, Program, spawn};
use crate::wire::{ByteString, Exec};

/// What every program gets.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) thread: SingleThread,
    pub(super) env: &'a [(ByteString, ByteString)],
    pub(super) workdir: &'a str,
}

/// Starts a program on three descriptors of the host: pipes, or its own null device. Without the first it reads the sandbox's.
pub(super) fn start(context: &Context<'_>, request: &Exec, fds: &[OwnedFd]) -> io::Result<i32> {
    let null = io::stdin();
    let stdio = match fds {
        [stdin, out, err] => [stdin.as_fd(), out.as_fd(), err.as_fd()],
        [out, err] => [null.as_fd(), out.as_fd(), err.as_fd()],
        _ => return Err(io::Error::other("two or three descriptors are needed")),
    };
    run(context, request, stdio, None)
}

/// Starts a program on a new terminal of the sandbox, and gives the terminal's master.
pub(super) fn start_on_terminal(
    context: &Context<'_>,
    request: &Exec,
) -> io::Result<(i32, OwnedFd)> {
    let pty = pty::open("/dev/ptmx")?;
    let slave = pty.slave.as_fd();
    let pid = run(context, request, [slave; 3], Some(slave))?;
    Ok((pid, pty.master))
}

/// Starts a program. One that cannot be run ends as a shell would say it: with 126 or 127, and a line on its standard error.
pub(super) fn run(
    context: &Context<'_>,
    request: &Exec,
    stdio: [BorrowedFd<'_>; 3],
    terminal: Option<BorrowedFd<'_>>,
) -> io::Result<i32> {
    let directory = request
        .cwd
        .as_ref()
        .map_or(context.workdir.as_bytes(), |cwd| &cwd.0);
    // What holds a NUL is no string of a program: such a request has no path, and ends as what cannot be run.
    let strings = request.argv.iter().map(|arg| CString::new(&*arg.0));
    let argv: Vec<CString> = strings.collect::<Result<_, _>>().unwrap_or_default();
    let name = argv.first().map_or(c"arguments", CString::as_c_str);
    let path = CString::new(directory).unwrap_or_default();
    let env = environment(context.env, &request.env);
    let paths = argv
        .first()
        .map_or_else(Vec::new, |name| candidates(name, &env));
    let program = Program {
        paths: &paths,
        argv: &argv,
        env: &env,
        directory: &path,
        stdio,
        terminal,
    };
    let mut spawned = spawn(context.thread, &program)?;
    if let Some(Failure::Format(index)) = spawned.failure {
        // A script without #!, as execvp(3) treats it. The process that found it so ends as an orphan.
        let mut argv = vec![CString::from(c"sh")];
        argv.extend(paths.get(index).cloned());
        argv.extend(program.argv.iter().skip(1).cloned());
        spawned = spawn(
            context.thread,
            &Program {
                paths: &[CString::from(c"/bin/sh")],
                argv: &argv,
                ..program
            },
        )?;
    }
    if let Some(failure) = spawned.failure {
        let _ = nix::unistd::write(stdio[2], complaint(name, directory, failure).as_bytes());
    }
    Ok(spawned.pid)
}

fn complaint(name: &CStr, directory: &[u8], failure: Failure) -> String {
    let (what, errno) = match failure {
        Failure::Directory(errno) => (directory, errno),
        Failure::Program(libc::ENOENT) => {
            return format!("{}: not found\n", name.to_string_lossy());
        }
        Failure::Format(_) => (name.to_bytes(), libc::ENOEXEC),
        Failure::Streams(errno) | Failure::Program(errno) => (name.to_bytes(), errno),
    };
    let what = String::from_utf8_lossy(what);
    format!("{what}: {}\n", io::Error::from_raw_os_error(errno))
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
