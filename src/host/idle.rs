//! Programs that neither print nor compute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::init::{INIT_DEADLINE, Init};
use crate::wire::{FromInit, ToInit};

/// Waits until nothing was printed and no process of the sandbox has used CPU time for `limit`; for
/// ever without one.
pub(super) async fn for_so_long(
    link: &Init,
    limit: Option<Duration>,
    printed: &AtomicU64,
) -> Duration {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    // Seldom enough to cost nothing, and at most a quarter late.
    let step = (limit / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut last = None;
    let mut since = Instant::now();
    while since.elapsed() < limit {
        sleep(step).await;
        let now = (printed.load(Ordering::Relaxed), cpu_ticks(link).await);
        if last.replace(now) != Some(now) {
            since = Instant::now();
        }
    }
    limit
}

/// `None` when PID 1 does not tell: whoever waits for it learns why.
async fn cpu_ticks(link: &Init) -> Option<u64> {
    let mut answers = link.open();
    let request = ToInit::CpuTime { id: answers.id };
    link.send(&request, &[]).await.ok()?;
    let answer = timeout(INIT_DEADLINE, answers.next()).await.ok()??;
    if let FromInit::CpuTime { ticks, .. } = answer.message {
        return Some(ticks);
    }
    None
}
