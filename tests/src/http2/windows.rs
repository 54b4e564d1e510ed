//! Flow control windows of one direction (RFC 9113, section 5.2). They may be negative.

use std::collections::BTreeMap;

use super::WINDOW;

/// What one side may still send: on the connection, on each stream, and on one that is new.
pub(super) struct Windows {
    connection: i64,
    streams: BTreeMap<u32, i64>,
    pub(super) initial: i64,
}

impl Windows {
    pub(super) fn new() -> Windows {
        Windows {
            connection: WINDOW,
            streams: BTreeMap::new(),
            initial: WINDOW,
        }
    }

    pub(super) fn of(&mut self, stream: u32) -> i64 {
        if stream == 0 {
            return self.connection;
        }
        *self.streams.entry(stream).or_insert(self.initial)
    }

    pub(super) fn room(&mut self, stream: u32) -> i64 {
        self.of(stream).min(self.connection)
    }

    pub(super) fn take(&mut self, stream: u32, count: usize) {
        self.connection -= count as i64;
        *self.streams.entry(stream).or_insert(self.initial) -= count as i64;
    }

    pub(super) fn give(&mut self, stream: u32, count: u32) {
        let count = i64::from(count);
        if stream == 0 {
            self.connection += count;
        } else {
            *self.streams.entry(stream).or_insert(self.initial) += count;
        }
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE changes open streams too (6.9.2).
    pub(super) fn change(&mut self, initial: i64) {
        for window in self.streams.values_mut() {
            *window += initial - self.initial;
        }
        self.initial = initial;
    }
}
