//! What the calls of a sandbox did, asked of its PID 1.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::init::Init;
use super::process;
use crate::spec::Effects;
use crate::wire::{ToInit, decode};

/// PID 1 looks for a quarter of a second and reads 32 MiB at most.
const DEADLINE: Duration = Duration::from_secs(20);
/// No honest answer is larger.
const MAX_REPLY: u64 = 8 << 20;

/// The account since this was asked last. What cannot be had is no failure of the call, which is over.
pub(super) async fn ask(link: &Init) -> Option<Effects> {
    if !link.account {
        return None;
    }
    let began = Instant::now();
    let (reply, writer) = process::reading_pipe().ok()?;
    let answers = link.open();
    let request = ToInit::Effects { id: answers.id };
    let fds = [writer.as_fd()];
    let sent = timeout(DEADLINE, link.send(&request, &fds)).await;
    sent.ok()?.ok()?;
    drop(writer);
    let mut bytes = Vec::new();
    let mut reply = reply.take(MAX_REPLY);
    let read = timeout(DEADLINE, reply.read_to_end(&mut bytes)).await;
    read.ok()?.ok()?;
    let mut effects: Effects = decode(&bytes).ok()?;
    effects.took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Some(effects)
}
