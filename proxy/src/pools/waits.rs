//! How long those waited who found no room: served, refused or gone.
//!
//! Written by all workers, so under a lock, which costs nothing beside that of the queue.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::telemetry::metrics::cells::{Histogram, Observed};
use crate::telemetry::metrics::shard::QUEUE_BOUNDS;

/// The waits of a pool that are over.
#[derive(Debug)]
pub struct Waits(Mutex<Histogram>);

/// A wait; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    waits: &'a Waits,
    since: Instant,
}

impl Default for Waits {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new(QUEUE_BOUNDS)))
    }
}

impl Waits {
    /// One begins now.
    pub(super) fn begin(&self) -> Wait<'_> {
        Wait {
            waits: self,
            since: Instant::now(),
        }
    }

    /// All of them.
    pub fn observed(&self) -> Observed {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Histogram::sum([&*histogram].into_iter())
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waits = self.waits.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.observe(self.since.elapsed());
    }
}
