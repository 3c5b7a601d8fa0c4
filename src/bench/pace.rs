//! How much may be under way at once: one more for each round that went well, a part less where something was refused.
//!
//! No clock and no I/O. The bound is the user's, and never passed.

/// What is left after a refusal, of ten.
const LEFT_OF_TEN: usize = 7;

/// Additive increase, multiplicative decrease.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    bound: usize,
    allowed: usize,
    /// Served since `allowed` changed.
    served: usize,
    epoch: u64,
}

impl Pace {
    /// Everything is allowed until something is refused.
    pub(super) fn new(bound: usize) -> Self {
        let bound = bound.max(1);
        Self {
            bound,
            allowed: bound,
            served: 0,
            epoch: 0,
        }
    }

    /// How much may be under way; at least 1.
    pub(super) fn allowed(&self) -> usize {
        self.allowed
    }

    /// What begins now belongs to it. A new one begins with each decrease.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// One was served.
    pub(super) fn served(&mut self) {
        self.served += 1;
        if self.served >= self.allowed && self.allowed < self.bound {
            self.allowed += 1;
            self.served = 0;
        }
    }

    /// One that began in `epoch` was refused while so many were under way, itself counted.
    ///
    /// Those that were under way at the last decrease were refused for the same reason, so they count once.
    pub(super) fn refused(&mut self, epoch: u64, under_way: usize) {
        if epoch == self.epoch {
            let most = self.allowed.min(under_way);
            self.allowed = (most * LEFT_OF_TEN / 10).max(1);
            self.served = 0;
            self.epoch += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_of_many_at_once_counts_once() {
        let mut pace = Pace::new(100);
        let epoch = pace.epoch();
        for _ in 0..50 {
            pace.refused(epoch, 100);
        }
        assert_eq!(pace.allowed(), 70);
        pace.refused(pace.epoch(), 20);
        assert_eq!(pace.allowed(), 14, "from what was under way");
    }

    #[test]
    fn it_grows_by_one_a_round_up_to_the_bound() {
        let mut pace = Pace::new(4);
        pace.refused(0, 4);
        assert_eq!(pace.allowed(), 2);
        let grown: Vec<usize> = (0..9)
            .map(|_| {
                pace.served();
                pace.allowed()
            })
            .collect();
        assert_eq!(grown, [2, 3, 3, 3, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn at_least_one_is_always_allowed() {
        let mut pace = Pace::new(0);
        for _ in 0..5 {
            assert_eq!(pace.allowed(), 1);
            pace.refused(pace.epoch(), 1);
        }
    }

    #[test]
    fn it_stays_near_what_a_server_serves() {
        // A server of 10: each round as many as are allowed, and the eleventh is refused.
        let mut pace = Pace::new(64);
        let rounds: Vec<usize> = (0..200)
            .map(|_| {
                let (epoch, at_once) = (pace.epoch(), pace.allowed());
                for number in 0..at_once {
                    if number < 10 {
                        pace.served();
                    } else {
                        pace.refused(epoch, at_once);
                    }
                }
                at_once
            })
            .collect();
        let settled = rounds.get(20..).unwrap();
        assert!(settled.iter().all(|n| (7..=11).contains(n)), "{settled:?}");
    }
}
