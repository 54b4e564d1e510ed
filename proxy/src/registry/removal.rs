//! When a vanishing table is not believed at once: small removals act immediately, a large one is
//! held back until a grace time has passed and redis, asked again, still does not hold the entries.
//!
//! Does not read redis, the clock or the table: what is missing, how large the table is and
//! `now` are parameters.
//!
//! Invariants: an entry is held at most once, with the time of its first disappearance; an
//! entry that is seen again is forgotten here; nothing is released that was not reported
//! missing after its grace time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Fewer vanished entries than this are never held back: in a small table half of it is
/// one person's clean-up.
pub(super) const MIN_HELD: usize = 10;

/// Removals within this time count as one: a script that deletes key by key empties a table as
/// well as FLUSHALL does.
pub(super) const BURST_WINDOW: Duration = Duration::from_secs(10);

/// What is held back, and what was removed lately.
pub(super) struct Removals {
    percent: u8,
    grace: Duration,
    held: HashMap<Box<str>, Instant>,
    /// No later than the earliest moment at which something held may go; `None`
    /// when nothing is held.
    earliest: Option<Instant>,
    recent: VecDeque<(Instant, usize)>,
}

/// What to do with the entries that redis no longer holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Leave the table now.
    pub(super) remove: Vec<Box<str>>,
    /// Of `remove`, how many had been held back before.
    pub(super) released: usize,
    /// Stay in the table until their grace time is over; only those not held already.
    pub(super) hold: Vec<Box<str>>,
}

impl Removals {
    /// `percent`: more of the table than this vanishing at once is held back for `grace`.
    /// 100 never holds back.
    pub(super) fn new(percent: u8, grace: Duration) -> Self {
        Self {
            percent,
            grace,
            held: HashMap::new(),
            earliest: None,
            recent: VecDeque::new(),
        }
    }

    /// Decides about `missing`: entries of a table of `table_len` entries that redis was
    /// just seen not to hold.
    pub(super) fn decide(
        &mut self,
        missing: Vec<Box<str>>,
        table_len: usize,
        now: Instant,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut fresh = Vec::new();
        for tool in missing {
            match self.held.get(&tool) {
                None => fresh.push(tool),
                Some(since) if now.duration_since(*since) >= self.grace => {
                    self.held.remove(&tool);
                    decision.released += 1;
                    decision.remove.push(tool);
                }
                Some(_) => {}
            }
        }
        self.forget_old(now);
        let recent: usize = self.recent.iter().map(|(_, count)| count).sum();
        let vanished = fresh.len() + self.held.len() + recent;
        let before = table_len.saturating_sub(decision.released) + recent;
        if vanished >= MIN_HELD && vanished * 100 > usize::from(self.percent) * before {
            if !fresh.is_empty() {
                let release = now + self.grace;
                self.earliest = Some(self.earliest.map_or(release, |e| e.min(release)));
            }
            self.held
                .extend(fresh.iter().map(|tool| (tool.clone(), now)));
            decision.hold = fresh;
        } else {
            if !fresh.is_empty() {
                self.recent.push_back((now, fresh.len()));
            }
            decision.remove.extend(fresh);
        }
        if self.held.is_empty() {
            self.earliest = None;
        }
        decision
    }

    /// `tool` was seen in redis: nothing of it is to be removed.
    pub(super) fn present(&mut self, tool: &str) {
        if !self.held.is_empty() && self.held.remove(tool).is_some() && self.held.is_empty() {
            self.earliest = None;
        }
    }

    /// Held entries whose grace time is over. They stay held until [`Removals::decide`] hears that
    /// redis, asked again, still does not hold them.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Box<str>> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let due: Vec<Box<str>> = self
            .held
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= self.grace)
            .map(|(tool, _)| tool.clone())
            .collect();
        if due.is_empty() {
            self.earliest = self.held.values().min().map(|since| *since + self.grace);
        }
        due
    }

    /// When to ask for [`Removals::due`] again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.earliest
    }

    /// How many entries are held back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.recent.front()
            && now.duration_since(*at) > BURST_WINDOW
        {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn tools(range: std::ops::Range<usize>) -> Vec<Box<str>> {
        range.map(|n| format!("t{n}").into_boxed_str()).collect()
    }

    /// `missing` of a table of `len`, all at once: how many leave and how many are held.
    #[track_caller]
    fn check(percent: u8, len: usize, missing: usize, removed: usize, held: usize) {
        let mut removals = Removals::new(percent, GRACE);
        let decision = removals.decide(tools(0..missing), len, Instant::now());
        assert_eq!(
            (decision.remove.len(), decision.hold.len()),
            (removed, held)
        );
        assert_eq!(removals.held(), held);
        assert_eq!(removals.next_due().is_some(), held > 0);
    }

    #[test]
    fn a_large_removal_is_held_and_a_small_one_is_not() {
        check(50, 100, 0, 0, 0);
        check(50, 100, 50, 50, 0);
        check(50, 100, 51, 0, 51);
        check(50, 100, 100, 0, 100);
        check(50, 3, 2, 2, 0);
        check(50, 9, 9, 9, 0);
        check(50, 10, 10, 0, 10);
        check(0, 1000, 9, 9, 0);
        check(0, 1000, 10, 0, 10);
        check(100, 1000, 1000, 1000, 0);
    }

    #[test]
    fn deleting_key_by_key_is_seen_as_a_burst() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        let mut len = 100;
        for (n, tool) in tools(0..100).into_iter().enumerate() {
            let now = start + Duration::from_millis(10 * n as u64);
            len -= removals.decide(vec![tool], len, now).remove.len();
        }
        assert_eq!((len, removals.held()), (50, 50));
    }

    #[test]
    fn slow_removals_are_not_a_burst() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        let mut len = 100;
        for (n, tool) in tools(0..100).into_iter().enumerate() {
            let now = start + Duration::from_secs(2 * n as u64);
            len -= removals.decide(vec![tool], len, now).remove.len();
        }
        // The last nine are a small table.
        assert_eq!((len, removals.held()), (0, 0));
    }

    #[test]
    fn what_is_still_missing_after_the_grace_time_goes_and_what_came_back_stays() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 20, start);
        assert_eq!(
            removals.due(start + GRACE - Duration::from_millis(1)).len(),
            0
        );
        removals.present("t3");
        let end = start + GRACE;
        let mut due = removals.due(end);
        due.sort();
        assert_eq!(due.len(), 19);
        assert!(!due.contains(&"t3".into()));
        // Redis cannot be asked just now: they stay due.
        assert_eq!(removals.due(end).len(), 19);
        let decision = removals.decide(due, 20, end);
        assert_eq!((decision.remove.len(), decision.released), (19, 19));
        assert_eq!((removals.held(), removals.next_due()), (0, None));
        // What was released after its grace time does not make the next removal look like a burst.
        assert_eq!(removals.decide(tools(3..4), 1, end).remove.len(), 1);
    }

    #[test]
    fn a_second_disappearance_starts_its_own_grace_time() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 40, start);
        assert_eq!(
            removals.held(),
            0,
            "half of the table is not more than half"
        );
        let later = start + Duration::from_secs(5);
        removals.decide(tools(20..40), 20, later);
        assert_eq!(removals.next_due(), Some(later + GRACE));
        removals.present("t20");
        let again = later + Duration::from_secs(30);
        removals.decide(tools(20..40), 20, again);
        let due = removals.due(later + GRACE);
        assert_eq!(due.len(), 19);
        removals.decide(due, 20, later + GRACE);
        assert_eq!(removals.held(), 1);
        assert_eq!(removals.due(again + GRACE), tools(20..21));
    }

    proptest! {
        /// Whatever vanishes, returns and in whichever order: nothing leaves twice, a held entry
        /// leaves only after its grace time, and in the end, with redis empty and the grace time
        /// over, the table is empty.
        #[test]
        fn everything_missing_leaves_in_the_end(
            percent in 0u8..=100,
            steps in proptest::collection::vec((0usize..40, 0usize..40, 0u64..40_000), 1..40),
        ) {
            let mut removals = Removals::new(percent, GRACE);
            let mut table: std::collections::HashSet<Box<str>> = tools(0..40).into_iter().collect();
            let mut now = Instant::now();
            let mut held_since: HashMap<Box<str>, Instant> = HashMap::new();
            for (from, count, wait) in steps {
                now += Duration::from_millis(wait);
                for tool in removals.due(now) {
                    prop_assert!(now.duration_since(held_since[&tool]) >= GRACE);
                }
                let missing: Vec<_> = tools(from..40.min(from + count)).into_iter().filter(|t| table.contains(t)).collect();
                let returned: Vec<_> = tools(0..from).into_iter().collect();
                for tool in &returned {
                    removals.present(tool);
                    held_since.remove(tool);
                }
                let asked = missing.len();
                let before = removals.held();
                let decision = removals.decide(missing, table.len(), now);
                prop_assert!(decision.remove.len() + decision.hold.len() <= asked);
                prop_assert_eq!(removals.held(), before + decision.hold.len() - decision.released);
                for tool in decision.hold { held_since.insert(tool, now); }
                for tool in decision.remove {
                    prop_assert!(table.remove(&tool));
                    if let Some(since) = held_since.remove(&tool) { prop_assert!(now.duration_since(since) >= GRACE); }
                }
            }
            let rest: Vec<_> = table.iter().cloned().collect();
            let decision = removals.decide(rest, table.len(), now);
            for tool in decision.remove { table.remove(&tool); }
            now += GRACE;
            let due = removals.due(now);
            prop_assert_eq!(due.len(), table.len());
            let decision = removals.decide(due, table.len(), now);
            prop_assert_eq!(decision.remove.len(), table.len());
            prop_assert_eq!(removals.next_due(), None);
        }
    }
}
