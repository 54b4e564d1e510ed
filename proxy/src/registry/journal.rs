//! The last changes of the table, for people who ask what happened.
//!
//! Written by the task that keeps the table, read by the administration. The first load is not in
//! it: it would say nothing but the table.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use portico_routing::table::Entry;

/// So many changes are kept.
pub(super) const LAST_CHANGES: usize = 100;

/// One change of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the table changed.
    pub time: SystemTime,
    /// The tool.
    pub tool: Box<str>,
    /// What it had; `None`: it was not in the table.
    pub old: Option<Arc<Entry>>,
    /// What it has; `None`: it left the table.
    pub new: Option<Arc<Entry>>,
    /// How it came about.
    pub cause: Cause,
}

/// How a change of the table came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Redis told of it.
    Pushed,
    /// A comparison of the whole table found it.
    Compared,
    /// It had been missing from redis for the grace time.
    GraceOver,
    /// Somebody asked for held back removals to act.
    Applied,
}

impl Cause {
    /// The word in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Pushed => "pushed",
            Cause::Compared => "compared",
            Cause::GraceOver => "grace over",
            Cause::Applied => "applied",
        }
    }
}

/// The last changes.
#[derive(Debug, Default)]
pub struct Journal {
    changes: Mutex<VecDeque<Change>>,
}

impl Journal {
    /// The last changes, the oldest first.
    pub fn last(&self) -> Vec<Change> {
        self.lock().iter().cloned().collect()
    }

    pub(super) fn note(&self, change: Change) {
        let mut changes = self.lock();
        if changes.len() == LAST_CHANGES {
            changes.pop_front();
        }
        changes.push_back(change);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Change>> {
        // Whole at every moment, so a panic elsewhere harms nothing.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_kept_in_their_order() {
        let journal = Journal::default();
        for n in 0..LAST_CHANGES + 50 {
            journal.note(Change {
                time: SystemTime::UNIX_EPOCH,
                tool: n.to_string().into(),
                old: None,
                new: None,
                cause: Cause::Pushed,
            });
        }
        let tools: Vec<Box<str>> = journal.last().into_iter().map(|c| c.tool).collect();
        let expected: Vec<Box<str>> = (50..150).map(|n| n.to_string().into()).collect();
        assert_eq!(tools, expected);
    }
}
