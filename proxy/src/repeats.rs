//! How often to say the same thing: at once, and then at most every 30 seconds, with the number
//! of times in between.
//!
//! Pure: `now` is a parameter.

use std::time::{Duration, Instant};

/// A repeated failure is logged at once, and then at most this often.
const REPEAT_LOG: Duration = Duration::from_secs(30);

/// Keeps a repeating failure from filling the log.
#[derive(Debug, Default)]
pub struct Repeats {
    last: Option<Instant>,
    unsaid: u64,
}

impl Repeats {
    /// `Some(n)`: say it now; `n` times it was not said since the last time. `None`: say nothing.
    pub fn occur(&mut self, now: Instant) -> Option<u64> {
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
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
