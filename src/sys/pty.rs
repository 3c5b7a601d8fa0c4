//! Pseudo-terminals of a given devpts instance.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// The two ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// Ours.
    pub master: OwnedFd,
    /// The terminal of the program.
    pub slave: OwnedFd,
}

/// Opens a pseudo-terminal of the devpts instance whose `ptmx` is given.
///
/// The slave comes from the master itself (`TIOCGPTPEER`, Linux 4.13), never from a path that
/// somebody inside may have replaced (CVE-2025-52565).
pub fn open(ptmx: &str) -> io::Result<Pty> {
    let master = File::options().read(true).write(true).open(ptmx);
    let master = OwnedFd::from(master.map_err(|error| named(ptmx, error))?);
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    super::check(result.into())?;
    let flags = (OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
    // SAFETY: TIOCGPTPEER takes flags by value and returns a new descriptor.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave = super::own(result.into())?;
    Ok(Pty { master, slave })
}

/// No terminal can be had.
#[derive(Debug, thiserror::Error)]
#[error("open a terminal at {ptmx}: {source}{why}")]
struct Unopened {
    ptmx: String,
    source: io::Error,
    why: &'static str,
}

/// The kernel's number for an error, also where it got words of ours.
#[must_use]
pub fn errno(error: &io::Error) -> Option<i32> {
    let unopened = || error.get_ref()?.downcast_ref::<Unopened>();
    error
        .raw_os_error()
        .or_else(|| unopened()?.source.raw_os_error())
}

/// ENOSPC of a devpts is no full disk (Linux, fs/devpts/inode.c: `devpts_new_index`).
fn named(ptmx: &str, source: io::Error) -> io::Error {
    let why = match source.raw_os_error() {
        Some(libc::ENOSPC) => ": all terminals of the sandbox, or of the host, are in use",
        _ => "",
    };
    let ptmx = ptmx.to_owned();
    io::Error::new(source.kind(), Unopened { ptmx, source, why })
}

/// Makes the terminal the controlling one of the calling session leader.
pub(super) fn make_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an int by value; 0 does not steal.
    super::check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Sets the size of the terminal in characters.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    super::check(result.into())?;
    Ok(())
}

/// The size of the terminal in characters: rows, columns.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ stores one winsize.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    super::check(result.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// A terminal that nobody looks at: no echo, but signals for the interrupt character, whatever was set before.
pub fn make_silent(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut modes = tcgetattr(terminal.as_fd())?;
    modes
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ECHOCTL);
    modes
        .local_flags
        .insert(LocalFlags::ISIG | LocalFlags::ICANON);
    modes.control_chars[libc::VINTR] = 3;
    tcsetattr(terminal.as_fd(), SetArg::TCSANOW, &modes)?;
    Ok(())
}
