//! A file that cannot be kept, on its way from the index to a sandbox.

use std::io;
use std::time::{Duration, Instant};

use reqwest::Response;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::store::hex;
use super::upstream::chunk;

/// A download. Its last piece is kept back until all of it is seen to be what was asked for.
#[derive(Debug)]
pub(super) struct Through {
    answer: Response,
    sha256: String,
    hash: Sha256,
    held: Option<Vec<u8>>,
    until: Instant,
    _turn: OwnedSemaphorePermit,
}

impl Through {
    pub(super) fn new(
        answer: Response,
        sha256: &str,
        most: Duration,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            answer,
            sha256: sha256.to_owned(),
            hash: Sha256::new(),
            held: None,
            until: Instant::now() + most,
            _turn: turn,
        }
    }

    /// As the server tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.answer.content_length()
    }

    /// The next piece; nothing at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let next = chunk(&mut self.answer).await;
            let next = next.map_err(|failure| io::Error::other(failure.why))?;
            let next = next.map(|piece| piece.to_vec());
            match &next {
                _ if Instant::now() > self.until => return Err(io::ErrorKind::TimedOut.into()),
                Some(piece) => self.hash.update(piece),
                None if hex(&self.hash.clone().finalize()) != self.sha256 => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                None => {}
            }
            let end = next.is_none();
            let before = std::mem::replace(&mut self.held, next);
            if before.is_some() || end {
                return Ok(before);
            }
        }
    }
}
