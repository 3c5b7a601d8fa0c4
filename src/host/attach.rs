//! Entering a running sandbox from another process, through a socket in its place of the registry.
//!
//! A guest gets the master of a terminal made inside, and at the end the exit status of its shell.
//! Only the owner of the registry can reach the socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::init::Init;
use super::process::{self, Process};
use super::registry::Registry;
use super::{HostError, Sandbox};
use crate::sys::channel::Channel;

const SOCKET: &str = "attach";

/// Lets guests in until dropped.
#[derive(Debug)]
pub struct Door(JoinHandle<()>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A guest's hold on a shell inside.
#[derive(Debug)]
pub struct Visit {
    /// The terminal's master.
    pub master: OwnedFd,
    end: Channel,
}

impl Visit {
    /// Waits for the shell's end; gives its exit code. Blocks.
    ///
    /// # Errors
    /// The sandbox ended first.
    pub fn wait(&self) -> io::Result<i32> {
        let message = self
            .end
            .receive()?
            .ok_or_else(|| io::Error::other("the sandbox ended"))?;
        let text = String::from_utf8_lossy(&message.bytes).into_owned();
        text.parse().map_err(io::Error::other)
    }
}

impl Sandbox {
    /// Lets other processes of this user enter, see [`enter`].
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open_door(&self) -> Result<Door, HostError> {
        let path = self.directory().join(SOCKET);
        let listener = listener(&path).map_err(HostError::file("listen on", &path))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps its number all its life"
        )]
        let listener = AsyncFd::new(listener).map_err(HostError::file("watch", &path))?;
        Ok(Door(tokio::spawn(serve(listener, Arc::clone(&self.link)))))
    }
}

/// Starts a program on a terminal of the sandbox `id`.
///
/// # Errors
/// No such sandbox lives, or it lets nobody in.
pub fn enter(registry: &Registry, id: &str) -> Result<Visit, HostError> {
    let path = registry.place(id).join(SOCKET);
    let joined = || -> io::Result<Visit> {
        let socket = seqpacket(SockFlag::SOCK_CLOEXEC)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
        let end = Channel::from_fd(socket);
        let greeting = end
            .receive()?
            .ok_or_else(|| io::Error::other("it lets nobody in"))?;
        let master = greeting.fds.into_iter().next();
        let master = master.ok_or_else(|| io::Error::other("it has no terminal left"))?;
        Ok(Visit { master, end })
    };
    joined().map_err(HostError::file("enter the sandbox at", &path))
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags,
        None,
    )?)
}

fn listener(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

async fn serve(listener: AsyncFd<OwnedFd>, link: Arc<Init>) {
    loop {
        let Ok(mut ready) = listener.readable().await else {
            return;
        };
        match ready.try_io(accept) {
            Ok(Ok(guest)) => {
                tokio::spawn(welcome(guest, Arc::clone(&link)));
            }
            // Out of descriptors, say: the guest waits, and we do not spin.
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_would_block) => {}
        }
    }
}

fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<Channel> {
    Channel::accept(listener.get_ref().as_fd())
}

async fn welcome(guest: Channel, link: Arc<Init>) {
    let mut exec = process::exec(
        &SHELL.map(str::to_owned),
        &[("TERM".into(), "xterm".into())],
        None,
    );
    exec.terminal = true;
    let Ok(started) = Process::start(&link, exec, Vec::new()).await else {
        return;
    };
    let Ok(mut terminal) = started.terminal().await else {
        return;
    };
    if guest.send(b"welcome", &[terminal.master.as_fd()]).is_err() {
        let _ = terminal.process.kill(libc::SIGKILL).await;
        return;
    }
    drop(terminal.master);
    if let Ok(status) = terminal.process.wait().await {
        let _ = guest.send(status.code().to_string().as_bytes(), &[]);
    }
}

/// What a guest gets.
pub const SHELL: [&str; 2] = ["bash", "-i"];
