//! When a vanishing table is not believed at once: small removals act immediately, a large one is
//! held back until a grace time has passed and redis, asked again, still does not hold the entries,
//! or until a person decides: to apply it now, or to keep the entries.
//!
//! Does not read redis, the clock or the table: what is missing, how large the table is and
//! `now` are parameters.
//!
//! Invariants: an entry is held at most once, with the time of its first disappearance; an
//! entry that is seen again is forgotten here; nothing is released that was not reported
//! missing after its grace time; what is kept by hand has no grace time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::held::{HeldTool, Moment};

/// Fewer vanished entries than this are never held back: in a small table half of it is
/// one person's clean-up.
pub(super) const MIN_HELD: usize = 10;

/// Removals within this time count as one: a script that deletes key by key empties a table as
/// well as FLUSHALL does.
pub(super) const BURST_WINDOW: Duration = Duration::from_secs(10);

/// So many that were removed and came back may wait for the end of [`BURST_WINDOW`].
const MAX_RETURNED: usize = 1000;

/// What is held back, and what was removed lately.
#[derive(Debug, Default)]
pub(super) struct Removals {
    percent: u8,
    grace: Duration,
    held: HashMap<Box<str>, Held>,
    /// How many of `held` are kept by hand.
    kept: usize,
    /// The most tools that redis has held so far.
    largest: usize,
    /// No later than the earliest moment at which something held may go; `None`
    /// when nothing that is held has a grace time.
    earliest: Option<Instant>,
    /// Tools that were removed within [`BURST_WINDOW`] and have not come back.
    recent: HashMap<Box<str>, Instant>,
    /// The same in the order of time, with some that came back.
    recent_order: VecDeque<(Instant, Box<str>)>,
}

#[derive(Debug)]
struct Held {
    since: Moment,
    /// By hand: it has no grace time.
    kept: bool,
}

/// What to do with the entries that redis no longer holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Leave the table now, without having been held back.
    pub(super) remove: Vec<Box<str>>,
    /// Leave the table now that their grace time is over.
    pub(super) released: Vec<Box<str>>,
    /// Stay in the table until their grace time is over; only those not held already.
    pub(super) hold: Vec<Box<str>>,
    /// How many vanished together, those removed or held just before included, ...
    pub(super) vanished: usize,
    /// ... of a table of how many.
    pub(super) of: usize,
}

impl Removals {
    /// `percent`: more of the table than this vanishing at once is held back for `grace`.
    /// 100 never holds back.
    pub(super) fn new(percent: u8, grace: Duration) -> Self {
        Self {
            percent,
            grace,
            ..Self::default()
        }
    }

    /// Decides about `missing`: entries of a table of `table_len` entries that redis was
    /// just seen not to hold.
    pub(super) fn decide(
        &mut self,
        missing: Vec<Box<str>>,
        table_len: usize,
        now: Moment,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut fresh = Vec::new();
        for tool in missing {
            match self.held.get(&tool) {
                None => fresh.push(tool),
                Some(held) if self.is_over(held, now.instant) => {
                    self.held.remove(&tool);
                    decision.released.push(tool);
                }
                Some(_) => {}
            }
        }
        self.forget_old(now.instant);
        let recent = self.recent.len();
        // What is kept by hand was decided about: it is no part of what vanishes now, nor of the
        // table that it vanishes from.
        let vanished = fresh.len() + self.held.len() - self.kept + recent;
        let before = table_len.saturating_sub(decision.released.len() + self.kept) + recent;
        (decision.vanished, decision.of) = (vanished, before);
        let in_redis = table_len.saturating_sub(decision.released.len() + self.held.len());
        self.largest = self.largest.max(in_redis);
        // More than there ever were at once can only be tools that come and go all the time.
        let room = self.held.len() - self.kept + fresh.len() <= self.largest;
        if room && vanished >= MIN_HELD && vanished * 100 > usize::from(self.percent) * before {
            for tool in &fresh {
                let held = Held {
                    since: now,
                    kept: false,
                };
                self.held.insert(tool.clone(), held);
            }
            if !fresh.is_empty() {
                let release = now.instant + self.grace;
                self.earliest = Some(self.earliest.map_or(release, |e| e.min(release)));
            }
            decision.hold = fresh;
        } else {
            self.note_removed(&fresh, now.instant);
            decision.remove = fresh;
        }
        self.forget_earliest();
        decision
    }

    /// `tool` was seen in redis: nothing of it is to be removed. Whether it was kept by hand.
    pub(super) fn present(&mut self, tool: &str) -> bool {
        // A tool that registers anew, by DEL and HSET, has not vanished.
        self.recent.remove(tool);
        // Asked for every entry of a load.
        if self.held.is_empty() {
            return false;
        }
        self.forget(tool).unwrap_or(false)
    }

    /// What is held back now stays until redis holds it again, or until [`Removals::apply`]; how
    /// many of them were not kept before.
    pub(super) fn keep(&mut self) -> usize {
        let before = self.kept;
        self.held.values_mut().for_each(|held| held.kept = true);
        self.kept = self.held.len();
        self.earliest = None;
        self.kept - before
    }

    /// The snapshot says that these are kept by hand, and redis was not seen to hold them.
    pub(super) fn hold_kept(&mut self, tools: impl IntoIterator<Item = Box<str>>, now: Moment) {
        for tool in tools {
            let held = Held {
                since: now,
                kept: true,
            };
            if self.held.insert(tool, held).is_none_or(|old| !old.kept) {
                self.kept += 1;
            }
        }
        self.forget_earliest();
    }

    /// Somebody asked for the removals to act, and redis, asked again, does not hold `missing`:
    /// those of them that are held, which leave the table now.
    pub(super) fn apply(&mut self, mut missing: Vec<Box<str>>) -> Vec<Box<str>> {
        missing.retain(|tool| self.forget(tool).is_some());
        missing
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
            .filter(|(_, held)| self.is_over(held, now))
            .map(|(tool, _)| tool.clone())
            .collect();
        if due.is_empty() {
            let waiting = self.held.values().filter(|held| !held.kept);
            let since = waiting.map(|held| held.since.instant).min();
            self.earliest = since.map(|since| since + self.grace);
        }
        due
    }

    /// When to ask for [`Removals::due`] again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.earliest
    }

    /// How many entries are held back, those kept by hand included.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many of them are kept by hand.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Whether `tool` is held back and kept by hand.
    pub(super) fn is_kept(&self, tool: &str) -> bool {
        self.kept > 0 && self.held.get(tool).is_some_and(|held| held.kept)
    }

    /// The names of all that is held back.
    pub(super) fn names(&self) -> Vec<Box<str>> {
        self.held.keys().cloned().collect()
    }

    /// All that is held back, for people, in no order.
    pub(super) fn tools(&self) -> Vec<HeldTool> {
        let tools = self.held.iter();
        tools.map(|(tool, held)| self.told(tool, held)).collect()
    }

    /// The same of one tool.
    pub(super) fn tool(&self, tool: &str) -> Option<HeldTool> {
        self.held.get(tool).map(|held| self.told(tool, held))
    }

    /// How long large removals are held back.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    fn told(&self, tool: &str, held: &Held) -> HeldTool {
        let until = held.since.time.checked_add(self.grace);
        HeldTool {
            tool: tool.into(),
            since: held.since.time,
            until: until.filter(|_| !held.kept),
        }
    }

    fn is_over(&self, held: &Held, now: Instant) -> bool {
        !held.kept && now.duration_since(held.since.instant) >= self.grace
    }

    /// Holds `tool` no more; whether it was kept by hand. `None`: it was not held.
    fn forget(&mut self, tool: &str) -> Option<bool> {
        let held = self.held.remove(tool)?;
        self.kept -= usize::from(held.kept);
        self.forget_earliest();
        Some(held.kept)
    }

    fn forget_earliest(&mut self) {
        if self.held.len() == self.kept {
            self.earliest = None;
        }
    }

    fn note_removed(&mut self, tools: &[Box<str>], now: Instant) {
        // Nothing is ever held back: then nobody asks for it.
        if self.percent >= 100 {
            return;
        }
        for tool in tools {
            self.recent.insert(tool.clone(), now);
            self.recent_order.push_back((now, tool.clone()));
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, tool)) = self
            .recent_order
            .pop_front_if(|(at, _)| now.duration_since(*at) > BURST_WINDOW)
        {
            // It may have been removed again since.
            if self.recent.get(&tool) == Some(&at) {
                self.recent.remove(&tool);
            }
        }
        if self.recent_order.len() > 2 * self.recent.len() + MAX_RETURNED {
            let recent = &self.recent;
            self.recent_order
                .retain(|(at, tool)| recent.get(tool) == Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use std::time::SystemTime;

    const GRACE: Duration = Duration::from_secs(60);

    fn at(instant: Instant) -> Moment {
        let time = SystemTime::UNIX_EPOCH;
        Moment { instant, time }
    }

    fn tools(range: std::ops::Range<usize>) -> Vec<Box<str>> {
        range.map(|n| format!("t{n}").into_boxed_str()).collect()
    }

    /// `missing` of a table of `len`, all at once: how many leave and how many are held.
    #[track_caller]
    fn check(percent: u8, len: usize, missing: usize, removed: usize, held: usize) {
        let mut removals = Removals::new(percent, GRACE);
        let decision = removals.decide(tools(0..missing), len, at(Instant::now()));
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
    fn no_more_is_held_than_redis_ever_had() {
        let mut removals = Removals::new(50, GRACE);
        let now = Instant::now();
        let (mut held, mut gone) = (0, 0);
        // Twenty new ones at a time, gone at once.
        for n in 0..100 {
            let came = tools(n * 20..n * 20 + 20);
            let decision = removals.decide(came, held + 20, at(now));
            held += decision.hold.len();
            gone += decision.remove.len();
        }
        assert_eq!((held, gone), (20, 1980));
    }

    #[test]
    fn deleting_key_by_key_is_seen_as_a_burst() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        let mut len = 100;
        for (n, tool) in tools(0..100).into_iter().enumerate() {
            let now = start + BURST_WINDOW / 100 * n as u32;
            let decision = removals.decide(vec![tool], len, at(now));
            assert_eq!((decision.vanished, decision.of), (n + 1, 100));
            len -= decision.remove.len();
        }
        assert_eq!((len, removals.held()), (50, 50));
    }

    #[test]
    fn a_tool_that_registers_anew_has_not_vanished() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        for n in 0..5000 {
            let now = start + Duration::from_micros(100 * n);
            let decision = removals.decide(tools(3..4), 20, at(now));
            assert_eq!((decision.remove.len(), removals.held()), (1, 0));
            removals.present("t3");
        }
        assert!(removals.recent_order.len() <= MAX_RETURNED + 2);
        // Those that stay away count, once each.
        let now = start + Duration::from_secs(1);
        assert_eq!(removals.decide(tools(0..9), 20, at(now)).remove.len(), 9);
        assert_eq!(removals.decide(tools(9..12), 11, at(now)).hold.len(), 3);
    }

    #[test]
    fn what_came_back_is_no_part_of_a_later_burst() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        assert_eq!(removals.decide(tools(0..9), 20, at(start)).remove.len(), 9);
        for tool in tools(0..9) {
            removals.present(&tool);
        }
        let decision = removals.decide(tools(9..18), 20, at(start));
        assert_eq!((decision.remove.len(), decision.of), (9, 20));
    }

    #[test]
    fn what_is_removed_again_counts_from_then_on() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        let later = |seconds| at(start + Duration::from_secs(seconds));
        for seconds in [0, 9] {
            let removed = removals.decide(tools(0..5), 20, later(seconds)).remove;
            assert_eq!(removed.len(), 5);
            if seconds == 0 {
                tools(0..5).iter().for_each(|tool| {
                    removals.present(tool);
                });
            }
        }
        // The first removal is forgotten by now, the second is not.
        assert_eq!(removals.decide(tools(5..11), 15, later(12)).hold.len(), 6);
    }

    #[test]
    fn what_is_released_is_no_part_of_the_table_that_more_vanishes_from() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        assert_eq!(removals.decide(tools(0..21), 41, at(start)).hold.len(), 21);
        let decision = removals.decide(tools(0..32), 41, at(start + GRACE));
        assert_eq!((decision.released.len(), decision.hold.len()), (21, 11));
        assert_eq!((decision.vanished, decision.of), (11, 20));
    }

    #[test]
    fn the_next_look_is_when_the_first_that_waits_is_over() {
        let mut removals = Removals::new(0, GRACE);
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        removals.decide(tools(0..20), 60, at(start));
        removals.keep();
        assert_eq!(removals.next_due(), None);
        removals.decide(tools(20..40), 60, at(later(10)));
        removals.decide(tools(40..60), 60, at(later(20)));
        assert_eq!(removals.next_due(), Some(later(10) + GRACE));
        for tool in tools(20..40) {
            removals.present(&tool);
        }
        // Those kept have no grace time, and those of second 20 wait for all of theirs: else the
        // driver would ask without a pause.
        assert_eq!(removals.due(later(10) + GRACE).len(), 0);
        assert_eq!(removals.next_due(), Some(later(20) + GRACE));
        for tool in tools(40..60) {
            removals.present(&tool);
        }
        assert_eq!((removals.next_due(), removals.held()), (None, 20));
    }

    #[test]
    fn what_is_kept_counts_once() {
        let mut removals = Removals::new(0, GRACE);
        let now = at(Instant::now());
        removals.decide(tools(0..20), 40, now);
        removals.hold_kept(tools(10..30), now);
        removals.hold_kept(tools(10..30), now);
        assert_eq!((removals.held(), removals.kept()), (30, 20));
        tools(0..30).iter().for_each(|tool| {
            removals.present(tool);
        });
        assert_eq!((removals.held(), removals.kept()), (0, 0));
    }

    #[test]
    fn slow_removals_are_not_a_burst() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        let mut len = 100;
        for (n, tool) in tools(0..100).into_iter().enumerate() {
            let now = start + Duration::from_secs(2 * n as u64);
            len -= removals.decide(vec![tool], len, at(now)).remove.len();
        }
        // The last nine are a small table.
        assert_eq!((len, removals.held()), (0, 0));
    }

    #[test]
    fn what_is_still_missing_after_the_grace_time_goes_and_what_came_back_stays() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 20, at(start));
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
        let decision = removals.decide(due, 20, at(end));
        assert_eq!((decision.remove.len(), decision.released.len()), (0, 19));
        assert_eq!((removals.held(), removals.next_due()), (0, None));
        // What was released after its grace time does not make the next removal look like a burst.
        assert_eq!(removals.decide(tools(3..4), 1, at(end)).remove.len(), 1);
    }

    #[test]
    fn a_second_disappearance_starts_its_own_grace_time() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 40, at(start));
        assert_eq!(
            removals.held(),
            0,
            "half of the table is not more than half"
        );
        let later = start + Duration::from_secs(5);
        removals.decide(tools(20..40), 20, at(later));
        assert_eq!(removals.next_due(), Some(later + GRACE));
        removals.present("t20");
        let again = later + Duration::from_secs(30);
        removals.decide(tools(20..40), 20, at(again));
        let due = removals.due(later + GRACE);
        assert_eq!(due.len(), 19);
        removals.decide(due, 20, at(later + GRACE));
        assert_eq!(removals.held(), 1);
        assert_eq!(removals.due(again + GRACE), tools(20..21));
    }

    #[test]
    fn what_is_kept_by_hand_stays_until_it_returns_or_is_applied() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 20, at(start));
        assert_eq!((removals.keep(), removals.keep()), (20, 0));
        assert_eq!((removals.next_due(), removals.kept()), (None, 20));
        let late = start + GRACE * 1000;
        assert!(removals.due(late).is_empty());
        let decision = removals.decide(tools(0..20), 20, at(late));
        assert_eq!(
            decision,
            Decision::default(),
            "asking again changes nothing"
        );
        assert!(removals.present("t0") && !removals.present("t0"));
        assert!(removals.is_kept("t1") && !removals.is_kept("t0"));
        let applied = removals.apply(tools(0..5));
        assert_eq!(applied, tools(1..5), "t0 had returned");
        assert_eq!((removals.held(), removals.kept()), (15, 15));
    }

    #[test]
    fn what_is_kept_by_hand_holds_nothing_else_back() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..60), 100, at(start));
        removals.keep();
        let later = start + GRACE;
        let decision = removals.decide(tools(60..70), 100, at(later));
        assert_eq!(decision.remove.len(), 10, "10 of 40 are no large part");
        let decision = removals.decide(tools(70..90), 90, at(later));
        assert_eq!(decision.hold.len(), 20, "30 of 40 are");
    }

    #[test]
    fn people_see_since_when_and_until_when() {
        let mut removals = Removals::new(50, GRACE);
        let start = Instant::now();
        removals.decide(tools(0..20), 20, at(start));
        let until = |removals: &Removals| removals.tool("t7").map(|tool| tool.until);
        assert_eq!(until(&removals), Some(Some(SystemTime::UNIX_EPOCH + GRACE)));
        removals.keep();
        assert_eq!(until(&removals), Some(None));
        assert_eq!(removals.tools().len(), 20);
        assert_eq!(removals.tool("t20"), None);
    }

    proptest! {
        /// Whatever vanishes, returns, is kept or applied, and in whichever order: nothing leaves
        /// twice, a held entry leaves only after its grace time or by hand, the lists are those of
        /// a naive twin, and in the end, with redis empty, the grace time over and the rest
        /// applied, the table is empty.
        #[test]
        fn everything_missing_leaves_in_the_end(
            percent in 0u8..=100,
            steps in proptest::collection::vec((0usize..40, 0usize..40, 0u64..40_000, 0u8..10), 1..40),
        ) {
            let mut removals = Removals::new(percent, GRACE);
            let mut table: std::collections::HashSet<Box<str>> = tools(0..40).into_iter().collect();
            let mut now = Instant::now();
            // The naive twin: since when, and whether it is kept.
            let mut twin: HashMap<Box<str>, (Instant, bool)> = HashMap::new();
            for (from, count, wait, command) in steps {
                now += Duration::from_millis(wait);
                for tool in removals.due(now) {
                    prop_assert!(now.duration_since(twin[&tool].0) >= GRACE && !twin[&tool].1);
                }
                let missing: Vec<_> = tools(from..40.min(from + count)).into_iter().filter(|t| table.contains(t)).collect();
                for tool in tools(0..from) {
                    let was_kept = twin.remove(&tool).is_some_and(|(_, kept)| kept);
                    prop_assert_eq!(removals.present(&tool), was_kept);
                }
                if command == 0 {
                    let fresh = twin.values_mut().filter_map(|held| (!std::mem::replace(&mut held.1, true)).then_some(())).count();
                    prop_assert_eq!(removals.keep(), fresh);
                } else if command == 1 {
                    for tool in removals.apply(missing.clone()) {
                        prop_assert!(twin.remove(&tool).is_some() && table.remove(&tool));
                    }
                }
                let missing: Vec<_> = missing.into_iter().filter(|tool| table.contains(tool)).collect();
                let decision = removals.decide(missing, table.len(), at(now));
                for tool in decision.hold {
                    prop_assert!(twin.insert(tool, (now, false)).is_none());
                }
                for tool in decision.released {
                    let (since, kept) = twin.remove(&tool).unwrap();
                    prop_assert!(now.duration_since(since) >= GRACE && !kept);
                    prop_assert!(table.remove(&tool));
                }
                for tool in decision.remove {
                    prop_assert!(!twin.contains_key(&tool) && table.remove(&tool));
                }
                prop_assert_eq!(removals.held(), twin.len());
                prop_assert_eq!(removals.kept(), twin.values().filter(|(_, kept)| *kept).count());
                for tool in removals.tools() {
                    prop_assert_eq!(tool.until.is_none(), twin[&tool.tool].1);
                }
            }
            let rest: Vec<_> = table.iter().cloned().collect();
            let decision = removals.decide(rest, table.len(), at(now));
            for tool in decision.remove.iter().chain(&decision.released) { table.remove(tool); }
            now += GRACE;
            let due = removals.due(now);
            prop_assert_eq!(due.len(), table.len() - removals.kept());
            let decision = removals.decide(due, table.len(), at(now));
            prop_assert_eq!(decision.released.len(), table.len() - removals.kept());
            prop_assert_eq!(removals.next_due(), None);
            for tool in decision.released { table.remove(&tool); }
            let left = table.len();
            prop_assert_eq!(removals.apply(table.into_iter().collect()).len(), left);
            prop_assert_eq!((removals.held(), removals.kept()), (0, 0));
        }
    }
}
