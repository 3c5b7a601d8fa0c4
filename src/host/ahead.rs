//! Sandboxes begun before they are asked for.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{timeout, timeout_at};

use super::HostError;
use super::launcher::START_DEADLINE;
use super::slot::{Expected, Site, Slot, Wanted};
use crate::wire::NetworkSource;

/// How many when nobody says: a burst of starts of an evaluation.
const USUAL: usize = 8;

/// So long after a start nothing is made ahead while a quarter waits: the first command of the sandbox would have to
/// share the processors with it.
const REST: Duration = Duration::from_millis(20);

/// The slots of a launcher that wait for their sandboxes.
#[derive(Debug)]
pub(super) struct Ahead {
    site: Arc<Site>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// No start is under way.
    quiet: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Slot>,
    /// Sandboxes that were asked for.
    asked: u64,
    /// Starts that are under way.
    starting: usize,
    /// When the last one ended.
    started: Option<Instant>,
    filling: bool,
    closed: bool,
    /// What was wanted last.
    last: Option<Arc<Wanted>>,
    /// What it has in common with the one before, which the next is expected to have, too.
    expected: Expected,
}

/// A start that is under way: nothing is made ahead until it is dropped.
#[derive(Debug)]
pub(super) struct Start(Arc<Shared>);

impl Ahead {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            shared: Arc::default(),
        }
    }

    /// Makes one now.
    pub(super) async fn begin(&self, network: NetworkSource) -> Result<(), HostError> {
        let slot = self
            .site
            .begin(self.site.allot()?, network, Expected::Any)
            .await?;
        drop(self.shared.lock().keep(slot));
        Ok(())
    }

    /// A slot for such a sandbox: one that waits, or else a new one. What waits is begun with its network,
    /// or prepared for just such a sandbox.
    pub(super) async fn take(
        &self,
        network: NetworkSource,
        wanted: Option<&Arc<Wanted>>,
    ) -> Result<(Slot, Start), HostError> {
        let start = self.shared.start();
        let (slot, useless) = self.shared.lock().take(network, wanted);
        if !useless.is_empty() {
            tokio::task::spawn_blocking(move || drop(useless));
        }
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let allotment = self.site.allot()?;
                self.site.begin(allotment, network, Expected::Any).await?
            }
        };
        Ok((slot, start))
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Whether one more is being made.
    pub(super) fn is_filling(&self) -> bool {
        self.shared.lock().filling
    }

    /// Makes as many as are wanted, with such a network, once half of them are used. Goes on when the
    /// caller has gone on.
    pub(super) fn fill(&self, network: NetworkSource) {
        let (site, shared) = (Arc::clone(&self.site), Arc::clone(&self.shared));
        let wanted = {
            let mut state = shared.lock();
            let usual = if state.asked < 2 { 0 } else { USUAL };
            let wanted = site.config.ahead.unwrap_or(usual);
            if wanted == 0 || state.filling || state.ready.len() * 2 > wanted {
                return;
            }
            state.filling = true;
            wanted
        };
        tokio::spawn(async move {
            let filling = Filling(shared);
            while filling.0.is_short_of(wanted).await {
                let expected = filling.0.lock().expected.clone();
                match make(&site, network, expected).await {
                    // A closed one drops it.
                    Ok(slot) => drop(filling.0.lock().keep(slot)),
                    // Whoever needs one meets the same, and is told.
                    Err(error) => {
                        tracing::debug!("no sandbox could be begun ahead: {error}");
                        break;
                    }
                }
            }
        });
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let ready = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        self.shared.quiet.notify_waiters();
        // All at once: each then waits for the end of its processes.
        for slot in &ready {
            slot.held.kill();
        }
    }
}

async fn make(
    site: &Arc<Site>,
    network: NetworkSource,
    expected: Expected,
) -> Result<Slot, HostError> {
    let files = Arc::clone(site);
    let allotment = tokio::task::spawn_blocking(move || files.allot()).await;
    let allotment =
        allotment.map_err(|e| HostError::Zygote("begin a sandbox", io::Error::other(e)))?;
    let mut slot = site.begin(allotment?, network, expected).await?;
    // One at a time: a start waits behind one at most.
    match timeout(START_DEADLINE, slot.cloned(site)).await {
        Ok(cloned) => {
            cloned?;
            slot.prepare().await?;
            Ok(slot)
        }
        Err(_) => Err(HostError::TimedOut(
            "beginning a sandbox",
            START_DEADLINE.as_secs(),
        )),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>) -> Start {
        let mut state = self.lock();
        state.asked += 1;
        state.starting += 1;
        Start(Arc::clone(self))
    }

    /// Waits for the end of all starts, and then for [`REST`].
    async fn is_short_of(&self, wanted: usize) -> bool {
        loop {
            let quiet = self.quiet.notified();
            let rest = {
                let state = self.lock();
                if state.closed || state.ready.len() >= wanted {
                    return false;
                }
                let rest = state.started.map(|at| at + REST);
                match rest.filter(|end| state.ready.len() * 4 > wanted && *end > Instant::now()) {
                    _ if state.starting > 0 => None,
                    None => return true,
                    end => end,
                }
            };
            match rest {
                // Woken by another start, or the end of all.
                Some(end) => drop(timeout_at(end.into(), quiet).await),
                None => quiet.await,
            }
        }
    }
}

impl State {
    /// One that serves; and those that have died or are for others, for their memory.
    fn take(
        &mut self,
        network: NetworkSource,
        wanted: Option<&Arc<Wanted>>,
    ) -> (Option<Slot>, VecDeque<Slot>) {
        self.expected = match (&self.last, wanted) {
            (Some(last), Some(wanted)) if last.is_like(wanted) => Expected::Like(wanted.clone()),
            (Some(last), Some(wanted)) if last.has_root_of(wanted) => {
                Expected::Root(wanted.clone(), last.steps_in_common(wanted))
            }
            _ => Expected::Any,
        };
        self.last = wanted.cloned();
        let fits = |slot: &Slot| {
            slot.network == network
                && slot.prepared.serves(wanted.map(Arc::as_ref))
                && !slot.init.is_closed()
        };
        let (fitting, useless) = std::mem::take(&mut self.ready).into_iter().partition(fits);
        self.ready = fitting;
        (self.ready.pop_front(), useless)
    }

    fn keep(&mut self, slot: Slot) -> Option<Slot> {
        if self.closed {
            return Some(slot);
        }
        self.ready.push_back(slot);
        None
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.starting -= 1;
        state.started = Some(Instant::now());
        if state.starting == 0 {
            self.0.quiet.notify_waiters();
        }
    }
}

/// However the task ends, another may begin.
struct Filling(Arc<Shared>);

impl Drop for Filling {
    fn drop(&mut self) {
        self.0.lock().filling = false;
    }
}
