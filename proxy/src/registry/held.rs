//! A tool that is held back, as people see it.

use std::time::SystemTime;

/// A tool that redis no longer holds and that stays in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTool {
    /// Its name.
    pub tool: Box<str>,
    /// When redis was first seen not to hold it.
    pub since: SystemTime,
    /// When it leaves the table unless it comes back; `None`: it is kept by hand.
    pub until: Option<SystemTime>,
}
