//! When the whole table is compared with redis again, if nothing calls for it sooner.
//!
//! Pure: `now` and what is random are parameters.
//!
//! Invariant: comparisons that nobody called for take at most a 1/[`REST`] share of the time, however
//! large the table and however slow redis is.

use std::time::{Duration, Instant};

use super::compare::Why;
use super::mode::Mode;

/// After a comparison, at least so many times as long as it took.
pub(super) const REST: u32 = 20;

/// Paces the comparisons of the table with redis, over all connections.
pub(super) struct Pace {
    mode: Mode,
    /// How long the last comparison took.
    took: Duration,
    /// The number of the one under way, and since when it is.
    since: Option<(u32, Instant)>,
    next: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            mode: Mode::Polling,
            took: Duration::ZERO,
            since: None,
            next: now,
        }
    }

    /// Changes become known in this way from now on.
    pub(super) fn set_mode(&mut self, mode: Mode, now: Instant, random: u64) {
        self.mode = mode;
        self.next = now + interval(mode, self.took, random);
    }

    /// The number of the comparison that is under way now, if one is; to be told after every step of
    /// one. The next may begin where one ends.
    pub(super) fn note(&mut self, comparison: Option<u32>, now: Instant, random: u64) {
        if self.since.map(|(number, _)| number) == comparison {
            return;
        }
        if let Some((_, since)) = self.since {
            self.took = now.duration_since(since);
            self.next = now + interval(self.mode, self.took, random);
        }
        self.since = comparison.map(|number| (number, now));
    }

    /// The connection was lost, and with it the comparison under way, which says nothing about how
    /// long one takes.
    pub(super) fn disconnected(&mut self) {
        self.since = None;
    }

    /// When the next one begins.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// How long the last one took.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    /// What to call it: where changes should have been told, a difference is drift.
    pub(super) fn why(&self) -> Why {
        match self.mode {
            Mode::Tracking | Mode::Keyspace => Why::Periodic,
            Mode::Polling => Why::Polled,
        }
    }
}

/// From the end of one comparison to the next: longer by up to a quarter, so that several proxies
/// do not scan in step.
fn interval(mode: Mode, took: Duration, random: u64) -> Duration {
    let base = match mode {
        // Finds only what redis does not tell (SWAPDB), and what got lost.
        Mode::Tracking => Duration::from_secs(300),
        // A flush is not told either, and the setting may have changed.
        Mode::Keyspace => Duration::from_secs(60),
        Mode::Polling => Duration::from_secs(5),
    };
    let interval = base.max(took.saturating_mul(REST));
    let quarter = u32::try_from(random % 256).unwrap_or_default();
    interval.saturating_add(interval / 1024 * quarter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: Mode, took: Duration, base: Duration) {
        for random in [0, 1, 128, 255, u64::MAX] {
            let got = interval(mode, took, random);
            assert!(got >= base && got < base * 5 / 4, "{got:?}");
        }
        assert_ne!(interval(mode, took, 0), interval(mode, took, 200));
    }

    #[test]
    fn the_interval_is_that_of_the_mode_unless_comparing_takes_long() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        check(Mode::Tracking, ms(5), s(300));
        check(Mode::Keyspace, ms(5), s(60));
        check(Mode::Polling, ms(5), s(5));
        check(Mode::Polling, ms(250), s(5));
        check(Mode::Polling, ms(251), ms(5020));
        check(Mode::Polling, s(10), s(200));
        check(Mode::Tracking, s(10), s(300));
        check(Mode::Tracking, s(60), s(1200));
    }

    #[test]
    fn the_pace_is_counted_from_the_end_of_a_comparison() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start);
        pace.set_mode(Mode::Polling, at(0), 0);
        assert_eq!((pace.due(), pace.why()), (at(5), Why::Polled));
        for second in 5..=7 {
            pace.note(Some(1), at(second), 0);
        }
        pace.note(None, at(8), 0);
        assert_eq!((pace.took(), pace.due()), (Duration::from_secs(3), at(68)));
        pace.note(None, at(9), 0);
        assert_eq!(pace.due(), at(68));
        // One that broke off is not measured.
        pace.note(Some(2), at(70), 0);
        pace.disconnected();
        pace.set_mode(Mode::Tracking, at(100), 0);
        pace.note(None, at(101), 0);
        assert_eq!((pace.took(), pace.due()), (Duration::from_secs(3), at(400)));
        assert_eq!(pace.why(), Why::Periodic);
        // Without a pause between them each counts for itself.
        for number in 3..1000 {
            pace.note(Some(number), at(200 + u64::from(number)), 0);
        }
        assert_eq!(
            (pace.took(), pace.due()),
            (Duration::from_secs(1), at(1499))
        );
    }
}
