//! Comparing the whole table with redis: where it stands and what it has found so far.
//!
//! A SCAN of the `prefix:` keys, one of the `redirect:` keys, then the tools of the table that
//! neither showed, then a round trip so that pushes can explain what differed. Pure bookkeeping:
//! `sync.rs` asks, applies and decides.

use std::collections::HashSet;

use portico_routing::table::Table;

use super::bad_keys::BadKeys;
use super::stored::{Keys, tool_of};

/// So many tools are read together. Few in tests, so that those meet work of many batches too.
pub(super) const BATCH: usize = if cfg!(test) { 5 } else { 1000 };

/// Why the whole table is compared with redis, the weightier reason later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It is time again; nothing should come of it.
    Periodic,
    /// It is time again, and there is no other way to learn of changes.
    Polled,
    /// Somebody asked for it.
    Asked,
    /// What routes may point at has changed.
    Rechecked,
    /// Redis said that everything may have changed.
    Pushed,
    /// The connection was lost, and with it pushes.
    Reconnected,
    /// The first load.
    Start,
}

/// The outcome of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) why: Why,
    /// Comparisons are numbered.
    pub(super) number: u32,
    /// Entries set.
    pub(super) set: usize,
    /// Entries removed.
    pub(super) removed: usize,
    /// Tools with something bad, of those that redis holds.
    pub(super) bad: usize,
    /// One of them and its reason.
    pub(super) bad_example: Option<(Box<str>, Box<str>)>,
    /// Keys that name no possible tool.
    pub(super) bad_keys: u64,
    /// Entries that differed although no push had named them; only of a periodic comparison.
    pub(super) drift: usize,
}

/// What came of one tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Set,
    /// Redis does not hold it and the table does.
    Missing,
    /// Neither holds it.
    Absent,
}

/// Tools to read, and what came of it; vanished ones are decided about together at the end.
#[derive(Default)]
pub(super) struct Job {
    pub(super) todo: Vec<Box<str>>,
    /// Still so as far as anybody knows: another read may see one of them, or have it removed, before
    /// the end.
    missing: HashSet<Box<str>>,
}

/// A comparison of the whole table under way.
pub(super) struct Rescan {
    pub(super) stage: Stage,
    /// The mark of tools that were read in this comparison and that redis holds.
    pub(super) mark: u32,
    /// Tools that differed and that no push has named: drift, if the connection had
    /// been there all the time.
    pub(super) suspects: HashSet<Box<str>>,
    pub(super) bad_keys: BadKeys,
    pub(super) outcome: Comparison,
}

pub(super) enum Stage {
    Scan {
        keys: Keys,
        cursor: u64,
    },
    /// `found` is read before the scan goes on at `cursor`; `None`: these keys are through.
    Read {
        found: Vec<Box<str>>,
        keys: Keys,
        cursor: Option<u64>,
    },
    Leftovers(Job),
    /// Waiting for pushes that explain what differed.
    Settle,
    Finished,
}

impl Job {
    pub(super) fn new(todo: Vec<Box<str>>) -> Self {
        Self {
            todo,
            missing: HashSet::new(),
        }
    }

    pub(super) fn next_batch(&mut self) -> Option<Vec<Box<str>>> {
        if self.todo.is_empty() {
            return None;
        }
        let start = self.todo.len().saturating_sub(BATCH);
        Some(self.todo.split_off(start))
    }

    /// All that vanished, once everything was read.
    pub(super) fn end_batch(&mut self, missing: Vec<Box<str>>) -> Option<Vec<Box<str>>> {
        self.missing.extend(missing);
        self.todo
            .is_empty()
            .then(|| std::mem::take(&mut self.missing).into_iter().collect())
    }

    /// `tool` was seen, or has left the table, so that it is not missing any more.
    pub(super) fn forget(&mut self, tool: &str) {
        self.missing.remove(tool);
    }
}

impl Rescan {
    pub(super) fn new(why: Why, number: u32) -> Self {
        Self {
            stage: Stage::Scan {
                keys: Keys::Prefix,
                cursor: 0,
            },
            mark: number,
            suspects: HashSet::new(),
            bad_keys: BadKeys::default(),
            outcome: Comparison {
                why,
                number,
                set: 0,
                removed: 0,
                bad: 0,
                bad_example: None,
                bad_keys: 0,
                drift: 0,
            },
        }
    }

    /// The tools among `keys` that were not read yet; a SCAN gives keys more than once.
    pub(super) fn note(&mut self, keys: &[Vec<u8>], table: &Table) -> Vec<Box<str>> {
        let mut found = Vec::new();
        for key in keys {
            match tool_of(key) {
                None => {
                    self.bad_keys.add(key);
                }
                Some(tool) if table.has_mark(tool, self.mark) => {}
                Some(tool) => found.push(tool.into()),
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(super) fn note_outcome(&mut self, tool: &str, outcome: Outcome) {
        match outcome {
            Outcome::Same | Outcome::Missing | Outcome::Absent => {}
            Outcome::Set => {
                self.outcome.set += 1;
                if self.outcome.why == Why::Periodic {
                    self.suspects.insert(tool.into());
                }
            }
        }
    }

    pub(super) fn note_bad(&mut self, tool: &str, reason: Box<str>) {
        self.outcome.bad += 1;
        if self.outcome.bad_example.is_none() {
            self.outcome.bad_example = Some((tool.into(), reason));
        }
    }
}
