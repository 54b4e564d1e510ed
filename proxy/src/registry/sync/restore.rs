//! The table of the last run, from the snapshot on disk: all of it without redis, else what redis no
//! longer holds.

use super::{Event, TableSync};
use crate::registry::disk::Snapshot;
use crate::registry::held::Moment;

impl TableSync {
    /// Fills the table from a snapshot, but for tools that redis has already told about. Those that
    /// were kept by hand are kept until redis is seen to hold them.
    pub(in super::super) fn restore(&mut self, snapshot: &Snapshot, now: Moment) {
        let mut kept = Vec::new();
        for tool in &snapshot.tools {
            if self.table.with(&tool.name, |_| ()).is_none() {
                let entry = self.table.bounded(&tool.name, tool.entry(&*self.admit));
                self.put(&tool.name, entry, None, now);
                if tool.kept {
                    kept.push(tool.name.clone());
                }
            }
        }
        if !kept.is_empty() {
            self.events.push(Event::StillKept(kept.len()));
        }
        self.status.removals().hold_kept(kept, now);
    }

    /// After a first load from redis: what the snapshot of the last run held and redis does not is
    /// a removal like any other, so that a redis that was restarted empty together with portico
    /// does not empty the table at once either. What was kept by hand still is.
    pub(in super::super) fn hold_vanished(&mut self, snapshot: Snapshot, now: Moment) {
        let Snapshot { written, mut tools } = snapshot;
        let of = tools.len();
        tools.retain(|tool| self.table.with(&tool.name, |_| ()).is_none());
        let (kept, tools): (Vec<_>, Vec<_>) = tools.into_iter().partition(|tool| tool.kept);
        let snapshot = |tools| Snapshot { written, tools };
        self.restore(&snapshot(kept), now);
        let gone = tools.iter().map(|tool| tool.name.clone()).collect();
        let decision = self.status.removals().decide(gone, of, now);
        // All or none of them.
        if !decision.hold.is_empty() {
            self.restore(&snapshot(tools), now);
            let count = decision.hold.len();
            self.events.push(Event::HeldBack { count, of });
        }
    }
}
