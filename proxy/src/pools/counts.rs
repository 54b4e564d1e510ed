//! What is counted of a node, in HAProxy's terms; one lane for each worker.
//!
//! Only its worker writes a lane, so that counting shares no cache line between workers. Not here:
//! requests in flight and those who wait, which must be exact over all workers (`node`, `queue`).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Serialize, Serializer};

use super::doubt::Doubt;
use super::pool::NoPlace;
use crate::telemetry::metrics::cells::Counter;

/// The keys of answers.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one worker counts of one node. Aligned, so that lanes share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Lane {
    /// Requests, or TCP connections, that got a place here (`stot`, `lbtot`).
    pub sessions: Counter,
    /// Bytes from clients that went to the node (`bin`): bodies, or all of a TCP connection.
    pub bytes_in: Counter,
    /// Bytes of the node that went to clients (`bout`).
    pub bytes_out: Counter,
    /// Connections that failed (`econ`).
    pub connect_errors: Counter,
    /// Connections that broke before or within an answer (`eresp`).
    pub response_errors: Counter,
    /// Requests sent once more, since an idle connection to here was dead (`wretr`).
    pub retries: Counter,
    /// Requests that went on to another node, since this one could not be connected to (`wredis`).
    pub redispatches: Counter,
    /// Answers by the first digit of their status, 1 to 5 (`hrsp_1xx` to `hrsp_5xx`).
    pub answers: [Counter; 5],
    /// Not counted, but the worker's own as well.
    pub doubt: Doubt,
}

/// The sums over all workers.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// See [`Lane`].
    pub sessions: u64,
    /// See [`Lane`].
    pub bytes_in: u64,
    /// See [`Lane`].
    pub bytes_out: u64,
    /// See [`Lane`].
    pub connect_errors: u64,
    /// See [`Lane`].
    pub response_errors: u64,
    /// See [`Lane`].
    pub retries: u64,
    /// See [`Lane`].
    pub redispatches: u64,
    /// See [`Lane`].
    #[serde(serialize_with = "by_class")]
    pub answers: [u64; 5],
}

impl Counts {
    /// The sums of `lanes`.
    pub fn of(lanes: &[Lane]) -> Self {
        let mut sums = Self::default();
        for lane in lanes {
            sums.sessions += lane.sessions.get();
            sums.bytes_in += lane.bytes_in.get();
            sums.bytes_out += lane.bytes_out.get();
            sums.connect_errors += lane.connect_errors.get();
            sums.response_errors += lane.response_errors.get();
            sums.retries += lane.retries.get();
            sums.redispatches += lane.redispatches.get();
            for (sum, counter) in sums.answers.iter_mut().zip(&lane.answers) {
                *sum += counter.get();
            }
        }
        sums
    }

    /// Adds those of another node.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.connect_errors += other.connect_errors;
        self.response_errors += other.response_errors;
        self.retries += other.retries;
        self.redispatches += other.redispatches;
        for (sum, more) in self.answers.iter_mut().zip(other.answers) {
            *sum += more;
        }
    }
}

/// Who got no place at any node of a pool. Rare, so all workers count together.
#[derive(Debug, Default)]
pub struct Refusals {
    no_node: AtomicU64,
    queue_full: AtomicU64,
    queue_timeout: AtomicU64,
}

/// How many got no place, by why.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// No node was in rotation.
    pub no_node: u64,
    /// As many waited as may.
    pub queue_full: u64,
    /// They waited in vain.
    pub queue_timeout: u64,
}

impl Refusals {
    /// One more.
    pub fn count(&self, why: NoPlace) {
        let counter = match why {
            NoPlace::NoNode => &self.no_node,
            NoPlace::QueueFull => &self.queue_full,
            NoPlace::QueueTimeout => &self.queue_timeout,
            // It had a place, and counts at the nodes that failed.
            NoPlace::AllTried => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// All so far.
    pub fn get(&self) -> Refused {
        Refused {
            no_node: self.no_node.load(Relaxed),
            queue_full: self.queue_full.load(Relaxed),
            queue_timeout: self.queue_timeout.load(Relaxed),
        }
    }
}

impl Refused {
    /// With the words of `reason`.
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        [
            ("no_node", self.no_node),
            ("queue_full", self.queue_full),
            ("queue_timeout", self.queue_timeout),
        ]
    }

    /// Whatever the reason.
    pub fn sum(&self) -> u64 {
        self.no_node + self.queue_full + self.queue_timeout
    }
}

fn by_class<S: Serializer>(answers: &[u64; 5], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(CLASSES.into_iter().zip(answers))
}
