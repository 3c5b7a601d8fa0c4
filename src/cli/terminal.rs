//! Connects the person's terminal with one inside.
//!
//! What is drawn there is the sandbox's: programs move the cursor and choose colours, so this is no text that can be believed.
//! But nothing of it makes the terminal type, remember or print anything, see [`Filter::screen`].

use std::fs::File;
use std::future::Future;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::sanitize::{AFTER_SCREEN, Filter, Filtered};
use crate::sys::pty;

const LAST_WORDS: Duration = Duration::from_millis(200);
/// 128 + SIGHUP.
const HUNG_UP: i32 = 129;

/// Restores the person's terminal when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut modes) = before.clone() {
            cfmakeraw(&mut modes);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &modes);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, modes);
        }
        if io::stdout().is_terminal() {
            let _ = io::stdout().write_all(AFTER_SCREEN.as_bytes());
            let _ = io::stdout().flush();
        }
    }
}

/// Passes bytes both ways until `ended` tells the exit code.
///
/// # Errors
/// The terminal inside is gone before its program.
pub(super) async fn connect(
    master: OwnedFd,
    ended: impl Future<Output = io::Result<i32>>,
) -> io::Result<i32> {
    let _raw = Raw::enter();
    let mut resized = signal(SignalKind::window_change())?;
    copy_size(&master);
    // Threads, never joined: a read of a terminal cannot be broken off.
    let (from, to) = (
        File::from(master.try_clone()?),
        File::from(master.try_clone()?),
    );
    let mut output = tokio::task::spawn_blocking(move || {
        if io::stdout().is_terminal() {
            copy(from, Filtered::new(Filter::screen(), io::stdout()));
        } else {
            copy(from, io::stdout());
        }
    });
    std::thread::spawn(move || {
        let mut to = to;
        copy(io::stdin(), &mut to);
        // The person's side is at its end: so is the program's.
        let _ = to.write_all(b"\x04");
    });
    tokio::pin!(ended);
    loop {
        tokio::select! {
            status = &mut ended => {
                // The last words of the program are in the terminal still.
                let _ = tokio::time::timeout(LAST_WORDS, output).await;
                return status;
            }
            _ = &mut output => break,
            _ = resized.recv() => copy_size(&master),
        }
    }
    // Either the program has closed its terminal and ends now, or the person's is gone.
    match tokio::time::timeout(LAST_WORDS, ended).await {
        Ok(status) => status,
        Err(_) => Ok(HUNG_UP),
    }
}

fn copy_size(master: &OwnedFd) {
    if let Ok((rows, columns)) = pty::size(io::stdin().as_fd()) {
        let _ = pty::set_size(master.as_fd(), rows, columns);
    }
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let chunk = buffer.get(..count).unwrap_or_default();
        if to.write_all(chunk).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
