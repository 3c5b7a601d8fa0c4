//! How much a sandbox may say through the resolver: a name that is looked up reaches whoever serves it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::names::Name;

/// Lookups at once, and how fast they come back: an installation of a large tree asks for dozens of
/// names, and asks for each several times.
const BURST: f64 = 200.0;
const PER_SECOND: f64 = 10.0;
/// Different names of one owner, and their bytes, in one period. Mirrors and buckets have some dozens.
const NAMES: usize = 200;
const BYTES: usize = 8 << 10;
/// Different names at all in one period.
const ALL_NAMES: usize = 4000;
const PERIOD: Duration = Duration::from_secs(3600);

/// What one sandbox has asked for.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Lookups that may be made now, and since when that is known.
    ready: Option<(f64, Instant)>,
    began: Option<Instant>,
    names: HashSet<Name>,
    /// Different names of an owner, and their bytes.
    owners: HashMap<String, (usize, usize)>,
}

impl Budget {
    /// Takes one lookup from it; the error says which bound is met.
    pub(super) fn spend(&mut self, name: &Name, now: Instant) -> Result<(), &'static str> {
        let (ready, since) = self.ready.unwrap_or((BURST, now));
        let back = now.saturating_duration_since(since).as_secs_f64() * PER_SECOND;
        let ready = (ready + back).min(BURST);
        self.ready = Some((ready, now));
        if ready < 1.0 {
            return Err("too many lookups in a short time");
        }
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) > PERIOD {
            self.began = Some(now);
            self.names.clear();
            self.owners.clear();
        }
        if !self.names.contains(name) {
            let length = name.as_str().len();
            if self.names.len() >= ALL_NAMES {
                return Err("too many different names");
            }
            let owner = name.owner();
            let (names, bytes) = self.owners.get(owner).copied().unwrap_or_default();
            if names >= NAMES || bytes + length > BYTES {
                return Err("too many different names of one owner");
            }
            self.owners
                .insert(owner.to_owned(), (names + 1, bytes + length));
            self.names.insert(name.clone());
        }
        self.ready = Some((ready - 1.0, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_tunnel_runs_dry_and_other_names_do_not() {
        let mut budget = Budget::default();
        let mut now = Instant::now();
        let (mut said, mut refused) = (0, 0);
        for n in 0..2000 {
            now += Duration::from_millis(200);
            let label = format!("{n:060}.tunnel.example");
            match budget.spend(&name(&label), now) {
                Ok(()) => said += label.len(),
                Err(_) => refused += 1,
            }
        }
        assert!(said <= BYTES && refused > 1800, "{said} {refused}");
        assert_eq!(budget.spend(&name("pypi.org"), now), Ok(()));
        // The same name again says nothing new.
        assert_eq!(
            budget.spend(&name(&format!("{:060}.tunnel.example", 0)), now),
            Ok(())
        );
        now += PERIOD * 2;
        assert_eq!(budget.spend(&name("fresh.tunnel.example"), now), Ok(()));
    }

    #[test]
    fn lookups_come_back_with_time() {
        let mut budget = Budget::default();
        let now = Instant::now();
        let asked = (0..1000)
            .filter(|_| budget.spend(&name("a.org"), now).is_ok())
            .count();
        assert_eq!(asked, 200);
        assert!(
            budget
                .spend(&name("a.org"), now + Duration::from_millis(50))
                .is_err()
        );
        assert!(
            budget
                .spend(&name("a.org"), now + Duration::from_secs(1))
                .is_ok()
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut budget = Budget::default();
        let mut now = Instant::now();
        for n in 0..3 * ALL_NAMES {
            now += Duration::from_millis(100);
            let _ = budget.spend(&name(&format!("a.n{n}.org")), now);
        }
        assert!(budget.names.len() <= ALL_NAMES && budget.owners.len() <= ALL_NAMES);
    }
}
