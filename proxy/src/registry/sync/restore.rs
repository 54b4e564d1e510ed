//! The table of the last run, from the snapshot on disk: all of it without redis, else what redis no
//! longer holds.

use super::{Event, TableSync};
use crate::registry::disk::{Snapshot, ToolRecord};
use crate::registry::held::Moment;

impl TableSync {
    /// Fills the table from a snapshot, but for tools that redis has already told about. Those that
    /// were kept by hand are kept until redis is seen to hold them.
    pub(in super::super) fn restore(&mut self, snapshot: &Snapshot, now: Moment) {
        self.restore_those(snapshot, now, |_| true);
    }

    /// After a first load from redis: what the snapshot of the last run held and redis does not is
    /// a removal like any other, so that a redis that was restarted empty together with portico
    /// does not empty the table at once either. What was kept by hand still is.
    pub(in super::super) fn hold_vanished(&mut self, snapshot: &Snapshot, now: Moment) {
        self.restore_those(snapshot, now, |tool| tool.kept);
        let gone = snapshot.tools().filter(|tool| !self.knows(tool.name));
        let gone = gone.map(|tool| tool.name.into()).collect();
        let of = snapshot.len();
        let decision = self.status.removals().decide(gone, of, now);
        // All or none of them; those that are kept are in the table by now.
        if !decision.hold.is_empty() {
            self.restore(snapshot, now);
            let count = decision.hold.len();
            self.events.push(Event::HeldBack { count, of });
        }
    }

    fn restore_those(
        &mut self,
        snapshot: &Snapshot,
        now: Moment,
        wanted: impl Fn(&ToolRecord<'_>) -> bool,
    ) {
        let mut kept = Vec::new();
        for tool in snapshot.tools().filter(wanted) {
            if self.knows(tool.name) {
                continue;
            }
            let entry = self.table.bounded(tool.name, tool.entry(&*self.admit));
            self.put(tool.name, entry, None, now);
            if tool.kept {
                kept.push(tool.name.into());
            }
        }
        if !kept.is_empty() {
            self.events.push(Event::StillKept(kept.len()));
        }
        self.status.removals().hold_kept(kept, now);
    }
}
