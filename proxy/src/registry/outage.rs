//! What to say of a redis that cannot be used: each reason at once and then at most every 30 seconds,
//! and its return only if an error was said before.
//!
//! A connection that comes and goes all the time must not fill the log, and the reason that counts
//! ("wrong password") often is not the first one ("it closed the connection").
//!
//! Pure: `now` is a parameter.

use std::time::{Duration, Instant};

/// The same reason is said at most this often.
const REPEAT: Duration = Duration::from_secs(30);

/// So many reasons are said within [`REPEAT`], whatever redis makes up.
const MAX_REASONS: usize = 4;

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Outage {
    said: Vec<(Box<str>, Instant)>,
    unsaid: u64,
    open: bool,
}

impl Outage {
    /// `Some(n)`: say it now; `n` failures were not said since the last one that was.
    pub(super) fn occur(&mut self, reason: &str, now: Instant) -> Option<u64> {
        self.said.retain(|(_, at)| now.duration_since(*at) < REPEAT);
        let known = self.said.iter().any(|(said, _)| **said == *reason);
        if known || self.said.len() == MAX_REASONS {
            self.unsaid += 1;
            return None;
        }
        self.said.push((reason.into(), now));
        self.open = true;
        Some(std::mem::take(&mut self.unsaid))
    }

    /// Redis is back: whether to say so.
    pub(super) fn over(&mut self) -> bool {
        std::mem::take(&mut self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_at_once_and_then_rarely() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outage.occur("closed", at(0)), Some(0));
        assert_eq!(outage.occur("closed", at(1)), None);
        assert_eq!(outage.occur("refused", at(2)), Some(1));
        assert_eq!(outage.occur("refused", at(29)), None);
        assert_eq!(outage.occur("closed", at(30)), Some(1));
        assert_eq!(outage.occur("refused", at(31)), None);
        assert_eq!(outage.occur("refused", at(32)), Some(1));
    }

    #[test]
    fn the_return_is_said_when_the_outage_was() {
        let mut outage = Outage::default();
        let start = Instant::now();
        assert!(!outage.over());
        outage.occur("closed", start);
        assert!(outage.over());
        assert_eq!(outage.occur("closed", start), None);
        assert!(!outage.over());
    }

    #[test]
    fn made_up_reasons_do_not_fill_the_log() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let said = (0..1000).filter(|n| outage.occur(&n.to_string(), start).is_some());
        assert_eq!(said.count(), MAX_REASONS);
        assert_eq!(outage.occur("x", start + REPEAT), Some(996));
    }
}
