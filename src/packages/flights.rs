//! One piece of work for all who want the same at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Work that is being done, by what it is for.
pub(super) struct Flights<K, T>(Arc<Mutex<Waiting<K, T>>>);

type Waiting<K, T> = HashMap<K, watch::Receiver<Option<T>>>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// What the work for `key` gives, and whether it was begun for this caller. It goes on when the caller goes away.
    /// Nothing when it died.
    pub(super) async fn join<F>(&self, key: K, work: F) -> Option<(T, bool)>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut done, own) = self.begin(key, work);
        let value = done.wait_for(Option::is_some).await.ok()?.clone();
        value.map(|value| (value, own))
    }

    fn begin<F>(&self, key: K, work: F) -> (watch::Receiver<Option<T>>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut waiting = locked(&self.0);
        if let Some(done) = waiting.get(&key) {
            return (done.clone(), false);
        }
        let (tell, done) = watch::channel(None);
        waiting.insert(key.clone(), done.clone());
        let all = Arc::clone(&self.0);
        tokio::spawn(async move {
            let landing = Landing(key, all);
            let value = work.await;
            drop(landing);
            tell.send_replace(Some(value));
        });
        (done, true)
    }
}

/// Takes the work off the list, also when it panics.
struct Landing<K: Eq + Hash, T>(K, Arc<Mutex<Waiting<K, T>>>);

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        locked(&self.1).remove(&self.0);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_is_done_once_for_all_and_again_for_those_who_come_later() {
        let flights = Flights::<u8, usize>::default();
        let count = Arc::new(AtomicUsize::new(0));
        let work = || {
            let count = Arc::clone(&count);
            async move {
                tokio::task::yield_now().await;
                count.fetch_add(1, Ordering::SeqCst)
            }
        };
        let (one, other, third) = tokio::join!(
            flights.join(1, work()),
            flights.join(1, work()),
            flights.join(2, work())
        );
        let value = |answer: Option<(usize, bool)>| answer.map(|(value, _)| value);
        let own = |answer: Option<(usize, bool)>| answer.is_some_and(|(_, own)| own);
        assert_eq!(value(one), value(other));
        assert!(own(one) != own(other) && own(third));
        assert_ne!(value(one), value(third));
        assert_eq!(flights.join(1, work()).await, Some((2, true)));
        let (waiter, own) = flights.begin(3, work());
        drop(waiter);
        let later = flights.join(3, work()).await.map(|(_, own)| own);
        assert_eq!((own, later), (true, Some(false)));
    }
}
