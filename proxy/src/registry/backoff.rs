//! How long to wait before the next attempt, and how often to say the same thing.
//!
//! Pure: randomness and `now` are parameters.

use std::time::{Duration, Instant};

/// The first wait is at most this long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// No wait is longer than this, so that a redis that is back is found within it.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// A repeated failure is logged at once, and then at most this often.
const REPEAT_LOG: Duration = Duration::from_secs(30);

/// Exponential back-off with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt: between half and all of a ceiling that doubles up to [`MAX_WAIT`], so that the
    /// proxies of one redis do not come back in step. `random` is any number, uniformly distributed.
    pub(super) fn next_wait(&mut self, random: u64) -> Duration {
        let ceiling = FIRST_WAIT
            .saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(MAX_WAIT);
        self.attempts = self.attempts.saturating_add(1).min(31);
        let half = ceiling / 2;
        let steps = half.as_micros() as u64 + 1;
        half + Duration::from_micros(random % steps)
    }

    /// The connection has proved good: the next failure is answered quickly again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Keeps a repeating failure from filling the log.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<Instant>,
    unsaid: u64,
}

impl Repeats {
    /// `Some(n)`: say it now; `n` times it was not said since the last time. `None`: say nothing.
    pub(super) fn occur(&mut self, now: Instant) -> Option<u64> {
        match self.last {
            Some(last) if now.duration_since(last) < REPEAT_LOG => {
                self.unsaid += 1;
                None
            }
            _ => {
                self.last = Some(now);
                Some(std::mem::take(&mut self.unsaid))
            }
        }
    }

    /// The failure is over: the next one is news.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_again() {
        let mut backoff = Backoff::default();
        let shortest: Vec<u128> = (0..8).map(|_| backoff.next_wait(0).as_millis()).collect();
        assert_eq!(shortest, [50, 100, 200, 400, 800, 1600, 2500, 2500]);
        backoff.reset();
        assert_eq!(backoff.next_wait(0).as_millis(), 50);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_zero_and_never_longer_than_the_limit(randoms in proptest::collection::vec(any::<u64>(), 1..100)) {
            let mut backoff = Backoff::default();
            for random in randoms {
                let wait = backoff.next_wait(random);
                prop_assert!(wait >= FIRST_WAIT / 2 && wait <= MAX_WAIT);
            }
        }
    }

    #[test]
    fn a_repeated_failure_is_said_first_and_then_with_its_count() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        assert_eq!(repeats.occur(start), Some(0));
        assert_eq!(repeats.occur(start + Duration::from_secs(1)), None);
        assert_eq!(repeats.occur(start + Duration::from_secs(29)), None);
        assert_eq!(repeats.occur(start + Duration::from_secs(30)), Some(2));
        assert_eq!(repeats.occur(start + Duration::from_secs(31)), None);
        repeats.clear();
        assert_eq!(repeats.occur(start + Duration::from_secs(32)), Some(0));
    }
}
