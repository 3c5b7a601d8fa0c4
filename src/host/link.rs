//! Requests to the zygote or to a PID 1, and their answers, over one channel.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::sys::channel::Channel;
use crate::wire::{self, RequestId};

/// An answer with its descriptors.
#[derive(Debug)]
pub(super) struct Answer<M> {
    pub(super) message: M,
    pub(super) fds: Vec<OwnedFd>,
}

/// Answers that may wait unread for one request. The peer has no reason to send more.
const BACKLOG: usize = 4;

/// The host's end of a channel. A task reads it until the peer is gone or breaks the protocol; then
/// every waiting request sees the end of its answers.
#[derive(Debug)]
pub(super) struct Link<M> {
    channel: Arc<AsyncFd<Channel>>,
    waiting: Arc<Mutex<Waiting<M>>>,
    next_id: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Waiting<M> {
    requests: HashMap<RequestId, mpsc::Sender<Answer<M>>>,
    closed: bool,
}

/// The answers to one request; dropping it forgets the request.
#[derive(Debug)]
pub(super) struct Answers<M> {
    pub(super) id: RequestId,
    receiver: mpsc::Receiver<Answer<M>>,
    waiting: Arc<Mutex<Waiting<M>>>,
}

impl<M: DeserializeOwned + Send + 'static> Link<M> {
    /// Takes the channel; `id_of` tells to which request a message belongs. Also gives what the peer says of itself, which
    /// has the id 0: it may have said it already.
    pub(super) fn new(
        channel: Channel,
        id_of: fn(&M) -> RequestId,
    ) -> io::Result<(Self, Answers<M>)> {
        channel.set_nonblocking(true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a Channel keeps its descriptor all its life"
        )]
        // Not for room to write: the peer would wake us with each message that it reads.
        let channel = Arc::new(AsyncFd::with_interest(channel, Interest::READABLE)?);
        let waiting = Arc::new(Mutex::new(Waiting {
            requests: HashMap::new(),
            closed: false,
        }));
        let own = answers(&waiting, 0);
        let reader = tokio::spawn(read_all(Arc::clone(&channel), Arc::clone(&waiting), id_of));
        let link = Self {
            channel,
            waiting,
            next_id: AtomicU64::new(1),
            reader,
        };
        Ok((link, own))
    }

    /// A request of its own name, whose answers will be kept for the caller.
    pub(super) fn open(&self) -> Answers<M> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        answers(&self.waiting, id)
    }

    /// The peer is gone.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Sends one message.
    pub(super) async fn send<T: Serialize + Sync>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = wire::encode(message)?;
        // First without asking whether it can be written, which costs a turn of the event loop.
        match self.channel.get_ref().send(&bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        let again = self.channel.get_ref().as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps its number all its life"
        )]
        let room = AsyncFd::with_interest(again, Interest::WRITABLE)?;
        loop {
            let mut ready = room.writable().await?;
            match ready.try_io(|_| self.channel.get_ref().send(&bytes, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

impl<M> Drop for Link<M> {
    fn drop(&mut self) {
        self.reader.abort();
        // The reader holds the channel until the runtime has time for it; the peer is to see our end now: whoever drops this may
        // wait for the peer's.
        let _ = shutdown(self.channel.get_ref().as_raw_fd(), Shutdown::Both);
    }
}

impl<M> Answers<M> {
    /// The next answer; `None` when the peer is gone.
    pub(super) async fn next(&mut self) -> Option<Answer<M>> {
        self.receiver.recv().await
    }
}

impl<M> Drop for Answers<M> {
    fn drop(&mut self) {
        lock(&self.waiting).requests.remove(&self.id);
    }
}

/// Whether a message could not be sent because nobody will read it.
pub(super) fn peer_is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

fn lock<M>(waiting: &Mutex<Waiting<M>>) -> std::sync::MutexGuard<'_, Waiting<M>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the answers to a request.
fn answers<M>(all: &Arc<Mutex<Waiting<M>>>, id: RequestId) -> Answers<M> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut waiting = lock(all);
    if !waiting.closed {
        waiting.requests.insert(id, sender);
    }
    Answers {
        id,
        receiver,
        waiting: Arc::clone(all),
    }
}

async fn read_all<M: DeserializeOwned>(
    channel: Arc<AsyncFd<Channel>>,
    waiting: Arc<Mutex<Waiting<M>>>,
    id_of: fn(&M) -> RequestId,
) {
    while let Ok(Some(answer)) = read_one(&channel).await {
        let id = id_of(&answer.message);
        let sender = lock(&waiting).requests.get(&id).cloned();
        // Nobody waits for it any more, or the peer floods: both drop the message.
        if let Some(sender) = sender {
            let _ = sender.try_send(answer);
        }
    }
    let mut waiting = lock(&waiting);
    waiting.closed = true;
    waiting.requests.clear();
}

async fn read_one<M: DeserializeOwned>(
    channel: &AsyncFd<Channel>,
) -> io::Result<Option<Answer<M>>> {
    loop {
        let mut ready = channel.readable().await?;
        let received = match ready.try_io(|channel| channel.get_ref().receive()) {
            // The peer went without reading all (unix(7)). What it said before is still to come.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            Ok(received) => received?,
            Err(_would_block) => continue,
        };
        return match received {
            Some(received) => {
                let message = wire::decode(&received.bytes)?;
                Ok(Some(Answer {
                    message,
                    fds: received.fds,
                }))
            }
            None => Ok(None),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::{FromInit, encode};

    #[tokio::test]
    async fn what_was_said_before_anybody_listened_is_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        theirs
            .send(&encode(&FromInit::Ready).unwrap(), &[])
            .unwrap();
        let (_link, mut own) = Link::new(ours, FromInit::id).unwrap();
        // Time for the reader to take it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let said = tokio::time::timeout(Duration::from_secs(10), own.next()).await;
        assert!(matches!(said.unwrap().unwrap().message, FromInit::Ready));
    }
}
