//! Redis to table: a state machine that says what to read next and applies what was read.
//!
//! No socket, clock, task or logging: the driver in `mod.rs` carries out each [`Action`], hands
//! the answer back with `now`, and logs the [`Event`]s. So the property test below runs the
//! very code that runs in production against a pretended redis, in any order of writes, pushes
//! and lost connections.
//!
//! Invariants: an entry enters or leaves the table only after redis was asked for that very key (a
//! push and a SCAN only say where to look); an entry is put in place only when it differs; a
//! comparison that breaks off removes nothing; what vanishes goes through
//! [`Removals`](super::removal::Removals), which [`RegistryStatus`] holds, to be looked at.

mod by_hand;
mod change;
mod restore;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use portico_routing::table::Table;

use super::bad_keys::{self, BadKeys, MAX_LISTED};
use super::commands::CommandReport;
use super::compare::{BATCH, Comparison, Job, Outcome, Rescan, Stage, Why};
use super::held::Moment;
use super::news::{MAX_PENDING, News};
use super::status::RegistryStatus;
use super::stored::{Keys, Stored};
use super::{Admit, Changed};

/// For so many tools the table has room from the start, if redis has as many keys. Room that nobody
/// uses costs a byte for each: redis may hold other people's keys too.
const MAX_RESERVED: usize = 2_000_000;

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Read these tools and hand them to [`TableSync::read`].
    Read(Purpose, Vec<Box<str>>),
    /// One step of a SCAN, handed to [`TableSync::scanned`].
    Scan(Keys, u64),
    /// Find out which of these keys there are, and hand that to [`TableSync::existing`].
    Exist(Vec<Box<[u8]>>),
    /// A round trip, handed to [`TableSync::ponged`]: every push that redis had for us before
    /// it has then arrived.
    Ping,
    /// Nothing, until news arrive or [`TableSync::next_due`].
    Wait,
}

/// Which work a read belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Tools that a push named, and held back ones whose grace time is over.
    Pushed,
    /// Tools that a SCAN found.
    Found,
    /// Tools of the table that no SCAN found.
    Leftover,
    /// Held back tools whose removal somebody asked for.
    Applied,
}

/// What happened, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A comparison of the whole table came to its end.
    Compared(Comparison),
    /// `count` of `of` tools vanished; what of them is still there is kept for the grace time.
    HeldBack {
        count: usize,
        of: usize,
    },
    /// So many tools of the snapshot were kept by hand in the last run, and still are.
    StillKept(usize),
    /// So many were still missing after the grace time and have left the table.
    Released(usize),
    /// Held back removals were applied by hand: all of them, or what was done until that broke off.
    Applied(Applied),
    ApplyBroken(Applied),
    /// A key in redis that was not there before names no possible tool.
    BadKey {
        key: Box<str>,
        reason: String,
    },
    /// A tool now has something in redis that cannot be used.
    Bad {
        tool: Box<str>,
        reason: Box<str>,
    },
}

/// What applying the removals that are held back has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// Tools that were back in redis and differed.
    pub(super) set: usize,
    /// Tools that have left the table.
    pub(super) removed: usize,
}

/// The kinds of work. They take turns, so that none starves another.
#[derive(Clone, Copy)]
enum Work {
    Pushed,
    BadKeys,
    Applying,
    Rescan,
}

/// The state machine.
pub(super) struct TableSync {
    table: Arc<Table>,
    admit: Admit,
    changed: Changed,
    status: Arc<RegistryStatus>,
    /// Named by pushes, not yet being read; at most [`MAX_PENDING`].
    pushed: HashSet<Box<str>>,
    reading: Job,
    bad_keys: BadKeys,
    /// Keys that a push named and that name no possible tool.
    pushed_bad: HashSet<Box<[u8]>>,
    /// Held back tools that are read anew to be removed, and what came of it so far.
    applying: Option<(Job, Applied)>,
    rescan: Option<Rescan>,
    /// The number of the last comparison that began.
    comparisons: u32,
    /// Another comparison after the one under way.
    again: Option<Why>,
    /// Whose turn it is.
    turn: Work,
    events: Vec<Event>,
    unsaved: bool,
}

impl TableSync {
    pub(super) fn new(
        table: Arc<Table>,
        admit: Admit,
        changed: Changed,
        status: Arc<RegistryStatus>,
    ) -> Self {
        Self {
            table,
            admit,
            changed,
            status,
            pushed: HashSet::new(),
            reading: Job::default(),
            bad_keys: BadKeys::default(),
            pushed_bad: HashSet::new(),
            applying: None,
            rescan: None,
            comparisons: 0,
            again: None,
            turn: Work::Pushed,
            events: Vec::new(),
            unsaved: false,
        }
    }

    /// Begins to compare the whole table with redis, after the comparison under
    /// way if there is one. The number of the comparison that will answer this, or a later one.
    pub(super) fn compare(&mut self, why: Why) -> u32 {
        if self.rescan.is_none() {
            self.comparisons = self.comparisons.wrapping_add(1);
            self.rescan = Some(Rescan::new(why, self.comparisons));
            return self.comparisons;
        }
        // One will do for all who wait; the log tells the weightiest reason.
        if self.again.is_none_or(|again| again < why) {
            self.again = Some(why);
        }
        self.comparisons.wrapping_add(1)
    }

    /// The number of the comparison under way.
    pub(super) fn comparison(&self) -> Option<u32> {
        self.rescan.as_ref().map(|rescan| rescan.mark)
    }

    /// The connection is gone: answers under way will not come, pushes may have been missed.
    pub(super) fn disconnected(&mut self) {
        self.pushed.clear();
        self.pushed_bad.clear();
        self.reading = Job::default();
        self.stop_applying();
        self.rescan = None;
        self.again = None;
    }

    /// Takes in what redis pushed.
    pub(super) fn news(&mut self, news: News) {
        let mut everything = news.everything;
        if let Some(rescan) = &mut self.rescan {
            for tool in &news.tools {
                rescan.suspects.remove(tool);
            }
        }
        self.pushed.extend(news.tools);
        if self.pushed.len() > MAX_PENDING {
            // They come faster than they can be read.
            self.pushed = HashSet::new();
            everything = true;
        }
        for key in news.bad_keys {
            if self.pushed_bad.len() < MAX_LISTED {
                self.pushed_bad.insert(key);
            }
        }
        if everything {
            if let Some(rescan) = &mut self.rescan {
                rescan.suspects.clear();
            }
            self.compare(Why::Pushed);
        }
    }

    /// What to do next. Each [`Action`] but `Wait` must be answered before the next call, or
    /// [`TableSync::disconnected`] be called.
    pub(super) fn next(&mut self, now: Instant) -> Action {
        for _ in 0..4 {
            let (action, turn) = match self.turn {
                Work::Pushed => (self.next_pushed(now), Work::BadKeys),
                Work::BadKeys => (self.next_bad_keys(), Work::Applying),
                Work::Applying => (self.next_applying(), Work::Rescan),
                Work::Rescan => (self.next_of_rescan(), Work::Pushed),
            };
            self.turn = turn;
            if let Some(action) = action {
                return action;
            }
        }
        Action::Wait
    }

    fn next_pushed(&mut self, now: Instant) -> Option<Action> {
        if self.reading.todo.is_empty() {
            let due = self.status.removals().due(now);
            self.pushed.extend(due);
            self.reading.todo.extend(self.pushed.drain());
        }
        let batch = self.reading.next_batch()?;
        Some(Action::Read(Purpose::Pushed, batch))
    }

    fn next_bad_keys(&mut self) -> Option<Action> {
        let keys: Vec<_> = self.pushed_bad.drain().collect();
        (!keys.is_empty()).then_some(Action::Exist(keys))
    }

    fn next_of_rescan(&mut self) -> Option<Action> {
        loop {
            let rescan = self.rescan.as_mut()?;
            match &mut rescan.stage {
                Stage::Scan { keys, cursor } => return Some(Action::Scan(*keys, *cursor)),
                Stage::Read {
                    found,
                    keys,
                    cursor,
                } => {
                    if !found.is_empty() {
                        let rest = found.split_off(found.len().min(BATCH));
                        let batch = std::mem::replace(found, rest);
                        return Some(Action::Read(Purpose::Found, batch));
                    }
                    rescan.stage = match (*keys, *cursor) {
                        (keys, Some(cursor)) => Stage::Scan { keys, cursor },
                        (Keys::Prefix, None) => Stage::Scan {
                            keys: Keys::Redirect,
                            cursor: 0,
                        },
                        (Keys::Redirect, None) => {
                            Stage::Leftovers(Job::new(self.table.without_mark(rescan.mark)))
                        }
                    };
                }
                Stage::Leftovers(job) => {
                    if let Some(batch) = job.next_batch() {
                        return Some(Action::Read(Purpose::Leftover, batch));
                    }
                    rescan.stage = Stage::Settle;
                }
                Stage::Settle => return Some(Action::Ping),
                Stage::Finished => self.finish(),
            }
        }
    }

    /// The answer to [`Action::Scan`]: the next cursor (0: the end) and keys.
    pub(super) fn scanned(&mut self, next: u64, found: &[Vec<u8>]) {
        if let Some(rescan) = &mut self.rescan
            && let Stage::Scan { keys, .. } = rescan.stage
        {
            rescan.stage = Stage::Read {
                found: rescan.note(found, &self.table),
                keys,
                cursor: (next != 0).then_some(next),
            };
        }
    }

    /// The answer to [`Action::Exist`]: a push does not say whether a key came or went.
    pub(super) fn existing(&mut self, keys: &[Box<[u8]>], exist: &[bool]) {
        // The list of a comparison takes the place of the other at its end.
        if let Some(rescan) = &mut self.rescan {
            for (key, exists) in keys.iter().zip(exist) {
                rescan.bad_keys.set_pushed(key, *exists);
            }
        }
        for (key, exists) in keys.iter().zip(exist) {
            if self.bad_keys.set_pushed(key, *exists) && *exists {
                let (key, reason) = (bad_keys::shown(key), bad_keys::reason(key));
                self.events.push(Event::BadKey { key, reason });
            }
        }
        self.status.set_bad_keys(&self.bad_keys);
    }

    /// The answer to [`Action::Ping`].
    pub(super) fn ponged(&mut self) {
        if let Some(rescan) = &mut self.rescan
            && matches!(rescan.stage, Stage::Settle)
        {
            rescan.stage = Stage::Finished;
        }
    }

    /// The answer to [`Action::Read`]: what redis holds for each of `tools`.
    #[cfg(test)]
    pub(super) fn read(
        &mut self,
        purpose: Purpose,
        tools: Vec<Box<str>>,
        stored: &[Stored],
        now: Moment,
    ) {
        let mut missing = Vec::new();
        for (tool, stored) in tools.into_iter().zip(stored) {
            missing.extend(self.read_one(purpose, tool, stored, now));
        }
        self.read_all(purpose, missing, now);
    }

    /// The answer to [`Action::Read`] for one of its tools; the tool, if redis does not hold it and
    /// the table does. A hostile one takes milliseconds, so the driver may do something else in
    /// between. After the last one: [`TableSync::read_all`].
    pub(super) fn read_one(
        &mut self,
        purpose: Purpose,
        tool: Box<str>,
        stored: &Stored,
        now: Moment,
    ) -> Option<Box<str>> {
        let outcome = self.take_in(&tool, stored, purpose, now);
        match (purpose, &mut self.rescan) {
            (Purpose::Found | Purpose::Leftover, Some(rescan)) => {
                rescan.note_outcome(&tool, outcome);
            }
            // The push came before the comparison saw the difference.
            (Purpose::Pushed, Some(rescan)) => {
                rescan.suspects.remove(&tool);
            }
            _ => {}
        }
        (outcome == Outcome::Missing).then_some(tool)
    }

    /// All tools of an [`Action::Read`] were answered, and redis does not hold `missing`.
    pub(super) fn read_all(&mut self, purpose: Purpose, missing: Vec<Box<str>>, now: Moment) {
        let gone = match (purpose, &mut self.rescan) {
            (Purpose::Pushed, _) => self.reading.end_batch(missing),
            (Purpose::Applied, _) => return self.apply(missing, now),
            (
                Purpose::Leftover,
                Some(Rescan {
                    stage: Stage::Leftovers(job),
                    ..
                }),
            ) => job.end_batch(missing),
            // Deleted between SCAN and read: they are leftovers now, if they do not come back.
            _ => None,
        };
        if let Some(gone) = gone
            && !gone.is_empty()
        {
            self.settle(gone, purpose, now);
        }
    }

    fn finish(&mut self) {
        let Some(mut rescan) = self.rescan.take() else {
            return;
        };
        // A flush that was told explains everything.
        if rescan.outcome.why == Why::Periodic && self.again != Some(Why::Pushed) {
            for tool in self.pushed.iter().chain(&self.reading.todo) {
                rescan.suspects.remove(tool);
            }
            rescan.outcome.drift = rescan.suspects.len();
            self.status.count_drift(rescan.suspects.len() as u64);
        }
        rescan.outcome.bad_keys = rescan.bad_keys.count();
        self.bad_keys = std::mem::take(&mut rescan.bad_keys);
        self.status.set_bad_keys(&self.bad_keys);
        self.events.push(Event::Compared(rescan.outcome));
        if let Some(why) = self.again.take() {
            self.compare(why);
        }
    }

    /// When to call [`TableSync::next`] at the latest, news or not.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.status.removals().next_due()
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether the table has changed since the last call.
    pub(super) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// What a command that has set and removed so many tools is answered.
    pub(super) fn report(&self, set: usize, removed: usize) -> CommandReport {
        let removals = self.status.removals();
        CommandReport {
            set,
            removed,
            held_back: removals.held(),
            kept: removals.kept(),
            tools: self.table.len(),
        }
    }

    /// Makes room in the table, for a redis that has so many keys.
    pub(super) fn reserve(&self, keys: usize) {
        self.table.reserve(keys.min(MAX_RESERVED));
    }

    /// How many tools the table has.
    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests;
