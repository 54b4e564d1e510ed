//! How long to wait before the next attempt.
//!
//! Pure: randomness is a parameter.

use std::time::Duration;

/// The first wait is at most this long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// No wait is longer than this, so that a redis that is back is found within it.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// Exponential back-off with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt: between half and all of a ceiling that doubles up to
    /// [`MAX_WAIT`], so that the proxies of one redis do not come back in step. `random` is any
    /// number, uniformly distributed.
    pub(super) fn next_wait(&mut self, random: u64) -> Duration {
        let ceiling = FIRST_WAIT
            .saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(MAX_WAIT);
        self.attempts = self.attempts.saturating_add(1).min(31);
        let half = ceiling / 2;
        let steps = half.as_micros() as u64 + 1;
        half + Duration::from_micros(random % steps)
    }

    /// A connection ended that lasted so long. If it proved good, the next attempt comes quickly
    /// again; one that breaks soon is no reason to come back faster.
    pub(super) fn connection_ended(&mut self, lasted: Duration) {
        if lasted > MAX_WAIT {
            self.attempts = 0;
        }
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
        backoff.connection_ended(MAX_WAIT);
        assert_eq!(backoff.next_wait(0).as_millis(), 2500);
        backoff.connection_ended(MAX_WAIT + Duration::from_millis(1));
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
}
