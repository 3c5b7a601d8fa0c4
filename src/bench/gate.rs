//! Permits for requests to the model: as many as its server serves, within the user's bound.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::pace::Pace;

/// Hands permits out, in the order in which they were asked for.
#[derive(Debug)]
pub struct Gate {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Permits that exist, free or not.
    existing: usize,
    under_way: usize,
    /// The server asked for silence until then.
    silent_until: Option<Instant>,
}

/// A permit; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
    epoch: u64,
}

impl Gate {
    /// With at most so many permits.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        let pace = Pace::new(bound);
        let existing = pace.allowed();
        Self {
            permits: Semaphore::new(existing),
            state: Mutex::new(State {
                pace,
                existing,
                under_way: 0,
                silent_until: None,
            }),
        }
    }

    /// How many requests may be under way now.
    #[must_use]
    pub fn allowed(&self) -> usize {
        self.lock().pace.allowed()
    }

    /// Waits for a permit, and until the server wants to be asked.
    pub(super) async fn enter(&self) -> Ticket<'_> {
        // It is never closed.
        let permit = self.permits.acquire().await.ok();
        self.lock().under_way += 1;
        let mut ticket = Ticket {
            gate: self,
            permit,
            epoch: 0,
        };
        loop {
            let (epoch, silent_until) = {
                let state = self.lock();
                (state.pace.epoch(), state.silent_until)
            };
            match silent_until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                Some(_) | None => {
                    ticket.epoch = epoch;
                    return ticket;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// The request was answered.
    pub(super) fn served(self) {
        let mut state = self.gate.lock();
        state.pace.served();
        let more = state.pace.allowed().saturating_sub(state.existing);
        state.existing += more;
        self.gate.permits.add_permits(more);
        drop(state);
    }

    /// The server has too much to do, and perhaps said when it will have less.
    pub(super) fn refused(self, silence: Option<Duration>) {
        let mut state = self.gate.lock();
        let under_way = state.under_way;
        state.pace.refused(self.epoch, under_way);
        let too_many = state.existing.saturating_sub(state.pace.allowed());
        state.existing -= self.gate.permits.forget_permits(too_many);
        let until = silence.and_then(|time| Instant::now().checked_add(time));
        state.silent_until = state.silent_until.max(until);
        drop(state);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.under_way -= 1;
        if state.existing > state.pace.allowed()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.existing -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_take_permits_away_and_answers_bring_them_back() {
        let gate = Gate::new(10);
        let mut tickets = Vec::new();
        for _ in 0..10 {
            tickets.push(gate.enter().await);
        }
        assert_eq!(gate.permits.available_permits(), 0);
        for ticket in tickets {
            ticket.refused(None);
        }
        assert_eq!((gate.allowed(), gate.permits.available_permits()), (7, 7));
        for _ in 0..7 + 8 + 9 {
            gate.enter().await.served();
        }
        assert_eq!((gate.allowed(), gate.permits.available_permits()), (10, 10));
        // Free permits go at once.
        gate.enter().await.refused(None);
        assert_eq!((gate.allowed(), gate.permits.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn nobody_asks_while_the_server_wants_silence() {
        let (gate, silence) = (Gate::new(2), Duration::from_millis(200));
        let begun = Instant::now();
        gate.enter().await.refused(Some(silence));
        gate.enter().await.served();
        assert!(begun.elapsed() >= silence);
        // One that was given up while it waited holds nothing.
        gate.enter().await.refused(Some(Duration::from_secs(60)));
        let waited = tokio::time::timeout(Duration::from_millis(10), gate.enter()).await;
        assert!(waited.is_err());
        assert_eq!(gate.lock().under_way, 0);
    }
}
