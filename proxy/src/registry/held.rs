//! A tool that is held back, as people see it; and when something happened.

use std::time::{Instant, SystemTime};

/// A tool that redis no longer holds and that stays in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTool {
    /// Its name.
    pub tool: Box<str>,
    /// When redis was first seen not to hold it; after a start that took the tool from the
    /// snapshot, the time of the start.
    pub since: SystemTime,
    /// When it leaves the table unless it comes back; `None`: it is kept by hand.
    pub until: Option<SystemTime>,
}

/// Now, on both clocks: decisions go by the one that never jumps, people are shown the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) time: SystemTime,
}
