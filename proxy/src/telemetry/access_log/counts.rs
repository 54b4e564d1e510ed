//! What became of the lines of the access log, for metrics. Counted a batch at a time, so that all
//! workers may share it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why lines were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The writer did not keep up: a slow disk, or a named pipe whose reader has stopped.
    QueueFull,
    /// The system did not take them: a full disk, a quota, a broken disk.
    WriteFailed,
    /// Nobody reads the named pipe.
    NoReader,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::WriteFailed, Self::NoReader];

    /// The word of logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteFailed => "write_failed",
            Self::NoReader => "no_reader",
        }
    }
}

/// Counts lines, over all access logs that the process has had.
#[derive(Debug, Default)]
pub struct Counts {
    lines: AtomicU64,
    bytes: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

/// The counts of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Lines that were written.
    pub lines: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Lines that were dropped, in the order of [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
}

impl Counts {
    /// The counts of this moment.
    pub fn totals(&self) -> Totals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Totals {
            lines: read(&self.lines),
            bytes: read(&self.bytes),
            dropped: [0, 1, 2].map(|index| read(&self.dropped[index])),
        }
    }

    /// These bytes were written.
    pub(super) fn write(&self, written: &[u8]) {
        let add = |count: &AtomicU64, n| count.fetch_add(n, Ordering::Relaxed);
        add(&self.lines, lines(written));
        add(&self.bytes, written.len() as u64);
    }

    /// The lines that end in these bytes were dropped; says how many.
    pub(super) fn drop_lines(&self, why: Dropped, bytes: &[u8]) -> u64 {
        let lines = lines(bytes);
        self.dropped[why as usize].fetch_add(lines, Ordering::Relaxed);
        lines
    }
}

pub(super) fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
