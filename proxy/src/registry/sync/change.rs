//! What a read found, in the table: put in place, taken out or held back, and noted in the journal.

use std::sync::Arc;

use portico_routing::table::Entry;

use super::{Event, Purpose, TableSync};
use crate::registry::compare::{Outcome, Rescan, Stage, Why};
use crate::registry::entry::entry_of;
use crate::registry::held::Moment;
use crate::registry::journal::{Cause, Change};
use crate::registry::stored::Stored;

impl TableSync {
    /// Puts `tool` in place as redis holds it, unless it is so already.
    pub(super) fn take_in(
        &mut self,
        tool: &str,
        stored: &Stored,
        purpose: Purpose,
        now: Moment,
    ) -> Outcome {
        let entry = self.table.bounded(tool, entry_of(stored, &self.admit));
        if entry.is_empty() {
            return if self.knows(tool) {
                Outcome::Missing
            } else {
                Outcome::Absent
            };
        }
        self.forget_missing(tool);
        // The snapshot still says that it is kept.
        self.unsaved |= self.status.removals().present(tool);
        let bad = entry.bad.first().map(|bad| bad.reason.clone());
        let differs = self.table.with(tool, |old| **old != entry) != Some(false);
        if let Some(reason) = bad {
            match (purpose, &mut self.rescan) {
                (Purpose::Pushed, _) if differs => {
                    let tool = tool.into();
                    self.events.push(Event::Bad { tool, reason });
                }
                (Purpose::Found, Some(rescan)) => {
                    if differs && rescan.outcome.why == Why::Polled {
                        let (tool, reason) = (tool.into(), reason.clone());
                        self.events.push(Event::Bad { tool, reason });
                    }
                    rescan.note_bad(tool, reason);
                }
                _ => {}
            }
        }
        if differs {
            self.put(tool, entry, self.cause(purpose), now);
        }
        if let Some(rescan) = &self.rescan {
            self.table.mark(tool, rescan.mark);
        }
        if !differs {
            return Outcome::Same;
        }
        self.status.count_changes(1);
        self.unsaved = true;
        if let (Purpose::Applied, Some((_, done))) = (purpose, &mut self.applying) {
            done.set += 1;
        }
        Outcome::Set
    }

    /// Decides about entries that redis no longer holds.
    pub(super) fn settle(&mut self, gone: Vec<Box<str>>, purpose: Purpose, now: Moment) {
        let table_len = self.table.len();
        let decision = self.status.removals().decide(gone, table_len, now);
        if !decision.hold.is_empty() {
            let (count, of) = (decision.vanished, decision.of);
            self.events.push(Event::HeldBack { count, of });
        }
        if !decision.released.is_empty() {
            self.events.push(Event::Released(decision.released.len()));
        }
        self.remove(&decision.remove, self.cause(purpose), now);
        self.remove(&decision.released, Some(Cause::GraceOver), now);
        if purpose == Purpose::Leftover
            && let Some(rescan) = &mut self.rescan
        {
            rescan.outcome.removed += decision.remove.len() + decision.released.len();
            rescan.suspects.extend(decision.remove);
            rescan.suspects.extend(decision.released);
        }
    }

    pub(super) fn remove(&mut self, tools: &[Box<str>], cause: Option<Cause>, now: Moment) {
        for tool in tools {
            self.forget_missing(tool);
            let old = self.table.remove(tool);
            self.note_change(tool, old, None, cause, now);
        }
        self.unsaved |= !tools.is_empty();
        self.status.count_changes(tools.len() as u64);
    }

    pub(super) fn knows(&self, tool: &str) -> bool {
        self.table.with(tool, |_| ()).is_some()
    }

    /// What reads that are not through yet have seen to be missing is not decided about any more.
    fn forget_missing(&mut self, tool: &str) {
        self.reading.forget(tool);
        if let Some(Rescan {
            stage: Stage::Leftovers(job),
            ..
        }) = &mut self.rescan
        {
            job.forget(tool);
        }
    }

    pub(super) fn put(&self, tool: &str, entry: Entry, cause: Option<Cause>, now: Moment) {
        (self.changed)(tool, &entry);
        let old = self.table.set(tool, entry);
        self.note_change(tool, old, self.table.get(tool), cause, now);
    }

    fn note_change(
        &self,
        tool: &str,
        old: Option<Arc<Entry>>,
        new: Option<Arc<Entry>>,
        cause: Option<Cause>,
        now: Moment,
    ) {
        let is_bad = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|e| !e.bad.is_empty());
        self.status.count_bad_tool(is_bad(&old), is_bad(&new));
        if let Some(cause) = cause {
            self.status.journal().note(Change {
                time: now.time,
                tool: tool.into(),
                old,
                new,
                cause,
            });
        }
    }

    /// What the journal says of a change; `None`: it is part of the first load.
    fn cause(&self, purpose: Purpose) -> Option<Cause> {
        let start = |rescan: &Rescan| rescan.outcome.why == Why::Start;
        match purpose {
            Purpose::Pushed => Some(Cause::Pushed),
            Purpose::Applied => Some(Cause::Applied),
            Purpose::Found | Purpose::Leftover if self.rescan.as_ref().is_some_and(start) => None,
            Purpose::Found | Purpose::Leftover => Some(Cause::Compared),
        }
    }
}
