//! What the number of keys in redis says about changes that nobody told.
//!
//! SWAPDB is never told, and a flush not by keyspace notifications; most often the number of keys
//! then changes by more than what was told explains. So DBSIZE, which costs nothing, is asked with
//! every sign of life, and a comparison of the whole table follows. A hint only: keys of others in the
//! same database count too, and numbers may agree by chance. Pure: `now` is a parameter.
//!
//! Invariant: comparisons for hints take at most a 1/[`REST`] share of the time, and a hint that had
//! to wait is not forgotten.

use std::time::{Duration, Instant};

use super::mode::Mode;
use super::pace::REST;

/// Comparisons for hints are at least so far apart, but for the first.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// How much pushes explain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// How often a key was named: so many keys may be new.
    pub(super) keys: u64,
    /// How often one was named that may be gone.
    pub(super) removals: u64,
}

impl std::ops::Add for Told {
    type Output = Told;

    fn add(self, more: Told) -> Told {
        Told {
            keys: self.keys.saturating_add(more.keys),
            removals: self.removals.saturating_add(more.removals),
        }
    }
}

/// Watches the number of keys on one connection.
pub(super) struct Sizes {
    last: Option<u64>,
    /// The table had been changed so often at the last look.
    changes: u64,
    /// Told before the last look: a push and an answer that cross each other must not look like a
    /// change that was not told.
    before: Told,
    /// Something changed untold and no comparison has begun since.
    owed: bool,
}

/// Holds comparisons for hints apart, over all connections.
#[derive(Default)]
pub(super) struct HintLimit {
    last: Option<Instant>,
}

impl Sizes {
    /// `changes`: so often the table was changed so far.
    pub(super) fn new(changes: u64) -> Self {
        Self {
            last: None,
            changes,
            before: Told::default(),
            owed: false,
        }
    }

    /// Redis had `size` keys, and pushes have told so much since the last look; the table has been
    /// changed `changes` times so far.
    pub(super) fn look(&mut self, size: u64, mode: Mode, told: Told, changes: u64) {
        let changed = changes.saturating_sub(self.changes);
        self.changes = changes;
        let told = match mode {
            // Its pushes name keys of all databases: only what came of them counts. A tool has two.
            Mode::Tracking => {
                told + Told {
                    keys: 2 * changed,
                    removals: 2 * changed,
                }
            }
            Mode::Keyspace | Mode::Polling => told,
        };
        let explained = self.before + told;
        if let Some(last) = self.last {
            let grown = size.saturating_sub(last);
            let shrunk = last.saturating_sub(size);
            self.owed |= grown > explained.keys || shrunk > explained.removals;
        }
        self.last = Some(size);
        self.before = told;
    }

    /// A comparison begins, for whatever reason.
    pub(super) fn compared(&mut self) {
        self.owed = false;
    }

    /// Whether to compare now. `took`: how long the last comparison took.
    pub(super) fn due(&mut self, limit: &mut HintLimit, took: Duration, now: Instant) -> bool {
        let rest = MIN_INTERVAL.max(took.saturating_mul(REST));
        let rested = limit
            .last
            .is_none_or(|last| now.duration_since(last) >= rest);
        let due = self.owed && rested;
        if due {
            self.owed = false;
            limit.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(keys: u64, removals: u64) -> Told {
        Told { keys, removals }
    }

    /// Whether the last of these looks calls for a comparison.
    #[track_caller]
    fn check(looks: &[(u64, Told)], expected: bool) {
        let mut sizes = Sizes::new(0);
        for (size, told) in looks {
            sizes.look(*size, Mode::Keyspace, *told, 0);
        }
        let due = sizes.due(&mut HintLimit::default(), Duration::ZERO, Instant::now());
        assert_eq!(due, expected, "{looks:?}");
    }

    #[test]
    fn what_was_told_explains_so_many_keys() {
        check(&[(5, told(0, 0))], false);
        check(&[(5, told(0, 0)), (5, told(0, 0))], false);
        check(&[(5, told(0, 0)), (6, told(0, 0))], true);
        check(&[(5, told(0, 0)), (6, told(1, 0))], false);
        check(&[(5, told(0, 0)), (7, told(1, 0))], true);
        check(&[(5, told(0, 0)), (4, told(1, 0))], true);
        check(&[(5, told(0, 0)), (4, told(1, 1))], false);
        check(&[(1000, told(0, 0)), (999, told(999, 0))], true);
        // The push came just before the last look, and the number just after it.
        check(&[(5, told(0, 0)), (5, told(1, 0)), (6, told(0, 0))], false);
        check(
            &[
                (5, told(0, 0)),
                (5, told(1, 0)),
                (5, told(0, 0)),
                (6, told(0, 0)),
            ],
            true,
        );
        // Everything may have changed, and is being looked at.
        check(&[(5, told(0, 0)), (0, told(u64::MAX, u64::MAX))], false);
    }

    /// Under client tracking: numbers of keys, and how often the table was changed until then.
    #[track_caller]
    fn check_tracking(looks: &[(u64, u64)], expected: bool) {
        let mut sizes = Sizes::new(100);
        for (size, changes) in looks {
            sizes.look(*size, Mode::Tracking, Told::default(), 100 + changes);
        }
        let due = sizes.due(&mut HintLimit::default(), Duration::ZERO, Instant::now());
        assert_eq!(due, expected, "{looks:?}");
    }

    #[test]
    fn tracking_explains_what_changed_the_table() {
        check_tracking(&[(5, 0), (6, 0)], true);
        check_tracking(&[(5, 0), (7, 1)], false);
        check_tracking(&[(5, 0), (8, 1)], true);
        check_tracking(&[(5, 0), (3, 1)], false);
        check_tracking(&[(5, 0), (2, 1)], true);
        check_tracking(&[(5, 1), (7, 1)], false);
        check_tracking(&[(5, 1), (5, 1), (7, 1)], true);
    }

    #[test]
    fn the_first_hint_acts_at_once_and_the_others_wait() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limit = HintLimit::default();
        let mut sizes = Sizes::new(0);
        let took = Duration::from_secs(4);
        sizes.look(5, Mode::Keyspace, Told::default(), 0);
        sizes.look(0, Mode::Keyspace, Told::default(), 0);
        assert!(sizes.due(&mut limit, took, at(0)));
        assert!(!sizes.due(&mut limit, took, at(100)), "it was seen to");
        sizes.look(3, Mode::Keyspace, Told::default(), 0);
        assert!(!sizes.due(&mut limit, took, at(79)));
        // On the next connection too.
        let mut sizes = Sizes::new(0);
        sizes.look(3, Mode::Keyspace, Told::default(), 0);
        sizes.look(5, Mode::Keyspace, Told::default(), 0);
        assert!(!sizes.due(&mut limit, took, at(79)));
        sizes.look(5, Mode::Keyspace, Told::default(), 0);
        assert!(sizes.due(&mut limit, took, at(80)), "it is not forgotten");
        sizes.look(9, Mode::Keyspace, Told::default(), 0);
        sizes.compared();
        assert!(!sizes.due(&mut limit, took, at(500)));
    }

    proptest! {
        /// Keys that come and go one by one, each told, some just before a number that does not
        /// count them yet, never call for a comparison.
        #[test]
        fn what_is_told_never_calls_for_a_comparison(
            steps in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut sizes = Sizes::new(0);
            let (mut size, mut news) = (0u64, Told::default());
            sizes.look(0, Mode::Keyspace, news, 0);
            for (new, early, look) in steps {
                let one = if new || size == 0 { told(1, 0) } else { told(1, 1) };
                if look {
                    // The change comes after the number; its push may be taken with it all the same.
                    let (with, after) = if early { (one, Told::default()) } else { (Told::default(), one) };
                    sizes.look(size, Mode::Keyspace, news + with, 0);
                    news = after;
                } else {
                    news = news + one;
                }
                size = size + 1 - 2 * one.removals;
            }
            prop_assert!(!sizes.due(&mut HintLimit::default(), Duration::ZERO, Instant::now()));
        }
    }
}
