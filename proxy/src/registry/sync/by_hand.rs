//! What is held back, decided by a person: to apply the removals now, or to keep the tools.

use super::{Action, Event, Job, Purpose, TableSync};
use crate::registry::held::Moment;
use crate::registry::journal::Cause;

impl TableSync {
    /// Begins to ask redis again for all that is held back, to remove what it still does not hold:
    /// [`Event::Applied`] tells the end. `false`: nothing is held back.
    pub(in super::super) fn apply_held(&mut self) -> bool {
        let todo = self.status.removals().names();
        if todo.is_empty() && self.applying.is_none() {
            return false;
        }
        let done = self.applying.take().map(|(_, done)| done);
        self.applying = Some((Job::new(todo), done.unwrap_or_default()));
        true
    }

    /// Keeps by hand what is held back, and stops applying it; how many were not kept before.
    pub(in super::super) fn keep_held(&mut self) -> usize {
        self.stop_applying();
        let fresh = self.status.removals().keep();
        self.unsaved |= fresh > 0;
        fresh
    }

    pub(super) fn stop_applying(&mut self) {
        if let Some((_, done)) = self.applying.take() {
            self.events.push(Event::ApplyBroken(done));
        }
    }

    pub(super) fn next_applying(&mut self) -> Option<Action> {
        let (job, _) = self.applying.as_mut()?;
        match job.next_batch() {
            Some(batch) => Some(Action::Read(Purpose::Applied, batch)),
            None => {
                self.end_applying();
                None
            }
        }
    }

    fn end_applying(&mut self) {
        if let Some((_, done)) = self.applying.take_if(|(job, _)| job.todo.is_empty()) {
            self.events.push(Event::Applied(done));
        }
    }

    /// Removes what somebody asked to remove and redis does not hold.
    pub(super) fn apply(&mut self, missing: Vec<Box<str>>, now: Moment) {
        // Whoever asked has taken it back meanwhile.
        let Some((_, done)) = &mut self.applying else {
            return;
        };
        let leave = self.status.removals().apply(missing);
        done.removed += leave.len();
        self.remove(&leave, Some(Cause::Applied), now);
        self.end_applying();
    }
}
