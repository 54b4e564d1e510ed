//! How changes in redis become known.

use std::fmt;

/// How changes in redis become known, the best way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Client tracking in broadcast mode: redis pushes the keys that change.
    Tracking,
    /// Keyspace notifications: redis publishes the keys that change, but no flush.
    Keyspace,
    /// The whole table is read again and again.
    Polling,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Tracking, Mode::Keyspace, Mode::Polling];

    /// The label in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Tracking => "tracking",
            Mode::Keyspace => "keyspace",
            Mode::Polling => "polling",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
