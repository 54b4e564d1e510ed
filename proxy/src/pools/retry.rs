//! How many second attempts there may be: at most a fifth of the requests in flight, plus three a
//! second. Retries help with a node that has just died and make an overload worse.
//!
//! Pure but for atomics: time is a parameter. Nothing waits here.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Second attempts under way are at most one in so many of the requests in flight.
const SHARE: usize = 5;
/// So many more each second; as many at once after a quiet second.
const PER_SECOND: u64 = 3;
/// A second, in the unit of [`Spent`]: in thirds of nanoseconds a token takes a whole number of
/// them.
const SECOND: u64 = 1_000_000_000 * PER_SECOND;
/// How long a token takes to come.
const TOKEN: u64 = SECOND / PER_SECOND;

/// Second attempts of a pool.
#[derive(Debug, Default)]
pub struct RetryBudget(Arc<Spent>);

/// Leave for a second attempt; counts as under way until dropped.
#[derive(Debug)]
#[must_use = "it ends the second attempt when dropped"]
pub struct Retry(Arc<Spent>);

#[derive(Debug, Default)]
struct Spent {
    under_way: AtomicUsize,
    refused: AtomicU64,
    /// When all tokens will be there again, counted from `origin`.
    full_at: AtomicU64,
    origin: OnceLock<Instant>,
}

impl RetryBudget {
    /// Leave for a second attempt while `in_flight` requests are, this one among them; `None`: there
    /// were too many.
    pub fn try_take(&self, in_flight: usize, now: Instant) -> Option<Retry> {
        let spent = &self.0;
        let may = |under_way: usize| (under_way < in_flight / SHARE).then_some(under_way + 1);
        if spent.under_way.fetch_update(Relaxed, Relaxed, may).is_err() {
            if spent.take_token(now).is_none() {
                spent.refused.fetch_add(1, Relaxed);
                return None;
            }
            spent.under_way.fetch_add(1, Relaxed);
        }
        Some(Retry(Arc::clone(spent)))
    }

    /// How often there was no leave.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Second attempts that have not ended.
    pub fn under_way(&self) -> usize {
        self.0.under_way.load(Relaxed)
    }
}

impl Spent {
    /// One of the tokens that come each second, whatever is in flight.
    fn take_token(&self, now: Instant) -> Option<()> {
        let origin = *self.origin.get_or_init(|| now);
        let now = now.saturating_duration_since(origin).as_nanos() * u128::from(PER_SECOND);
        // Enough for 194 years.
        let now = u64::try_from(now).unwrap_or(u64::MAX - SECOND);
        let take = |full_at: u64| {
            let after = full_at.max(now).saturating_add(TOKEN);
            (after - now <= SECOND).then_some(after)
        };
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, take);
        taken.is_ok().then_some(())
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_a_second_when_little_is_in_flight() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        let mut granted = Vec::new();
        for millisecond in 0..3000 {
            let now = start + Duration::from_millis(millisecond);
            // Ended at once: what bounds them is time.
            if budget.try_take(4, now).is_some() {
                granted.push(millisecond);
            }
        }
        let expected = [0, 0, 0, 334, 667, 1000, 1334, 1667, 2000, 2334, 2667];
        // Three in the first millisecond are tried one each, hence 0, 1, 2.
        let expected: Vec<u64> = [0, 1, 2]
            .into_iter()
            .chain(expected[3..].to_vec())
            .collect();
        assert_eq!(granted, expected);
    }

    #[test]
    fn a_fifth_of_what_is_in_flight() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let mut held: Vec<_> = std::iter::from_fn(|| budget.try_take(100, now)).collect();
        assert_eq!(held.len(), 20 + 3);
        held.truncate(19);
        assert!(budget.try_take(99, now).is_none(), "19 of 99 are a fifth");
        let one = budget.try_take(100, now);
        assert!(one.is_some(), "one has ended");
        assert!(budget.try_take(100, now).is_none());
        drop((one, held));
        assert_eq!(budget.under_way(), 0);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_gives_nothing() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let later = now + Duration::from_secs(10);
        let taken = std::iter::from_fn(|| budget.try_take(0, later).map(drop)).count();
        assert_eq!(taken, 3);
        assert!(budget.try_take(0, now).is_none());
    }

    /// The same with a list of everything.
    #[derive(Default)]
    struct Naive {
        under_way: usize,
        /// Tokens, in billionths of thirds: a nanosecond brings three.
        tokens: u64,
        at: u64,
    }

    impl Naive {
        fn try_take(&mut self, in_flight: usize, at: u64) -> bool {
            let whole = 1_000_000_000;
            self.tokens = (self.tokens + 3 * (at - self.at)).min(3 * whole);
            self.at = at;
            if (self.under_way + 1) * 5 > in_flight {
                if self.tokens < whole {
                    return false;
                }
                self.tokens -= whole;
            }
            self.under_way += 1;
            true
        }
    }

    proptest! {
        #[test]
        fn as_a_naive_twin(
            steps in proptest::collection::vec((0u64..700_000_000, 0usize..40, 0usize..3), 1..200)
        ) {
            let (budget, start) = (RetryBudget::default(), Instant::now());
            let mut naive = Naive { tokens: 3_000_000_000, ..Naive::default() };
            let (mut at, mut held) = (0, Vec::new());
            // Sets the beginning of time, and takes a token.
            held.extend(budget.try_take(0, start));
            prop_assert!(naive.try_take(0, 0));
            for (pause, in_flight, end) in steps {
                at += pause;
                let taken = budget.try_take(in_flight, start + Duration::from_nanos(at));
                prop_assert_eq!(taken.is_some(), naive.try_take(in_flight, at));
                held.extend(taken);
                for _ in 0..end {
                    naive.under_way -= usize::from(held.pop().is_some());
                }
                prop_assert_eq!(budget.under_way(), held.len());
            }
        }
    }

    #[test]
    fn threads_get_no_more_together() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let most = AtomicUsize::new(0);
        let tokens = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let held: Vec<_> = (0..round % 4)
                            .filter_map(|_| budget.try_take(25, now))
                            .collect();
                        most.fetch_max(budget.under_way(), Relaxed);
                        tokens.fetch_add(held.len(), Relaxed);
                    }
                });
            }
        });
        assert_eq!(budget.under_way(), 0);
        let most = most.load(Relaxed);
        assert!((1..=5 + 3).contains(&most), "{most}");
        assert!(tokens.load(Relaxed) > 0);
    }
}
