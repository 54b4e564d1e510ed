//! What is said when requests, or TCP connections, find no place or may not be tried again: at most
//! every 30 seconds for each pool, however many workers there are.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use super::pool::{NoPlace, Pool};
use crate::repeats::Repeats;

/// When it was said last. Locked when something is wrong, and then for no wait.
#[derive(Debug, Default)]
pub struct Said {
    busy: Mutex<Repeats>,
    drained: Mutex<Repeats>,
    no_retry: Mutex<Repeats>,
}

impl Pool {
    /// Nothing may be tried again now, since too much has been.
    pub fn say_no_retry(&self) {
        if let Some(unsaid) = occurs(&self.said.no_retry) {
            let (pool, in_flight) = (&self.name, self.in_flight());
            warn!(
                %pool,
                in_flight,
                fault = "platform",
                unsaid,
                "the retry budget is used up: requests fail that a second attempt might have saved, so that retries do not make an outage worse; see which connections fail"
            );
        }
    }

    /// Somebody got no place, for a reason that nothing else is said about.
    pub fn say_no_place(&self, why: NoPlace) {
        let pool = &self.name;
        match why {
            NoPlace::AllTried => {}
            NoPlace::NoNode => {
                if let Some(unsaid) = occurs(&self.said.drained) {
                    warn!(
                        %pool,
                        fault = "platform",
                        unsaid,
                        "no node of the pool is in rotation: all are drained or in maintenance, or weigh nothing; clients get 503 until one is made ready (portico pool)"
                    );
                }
            }
            NoPlace::QueueFull | NoPlace::QueueTimeout => {
                if let Some(unsaid) = occurs(&self.said.busy) {
                    let members = self.members();
                    let (in_flight, waiting) = (self.in_flight(), self.waiting());
                    let max_connections = members.config.max_connections;
                    let queue = match why {
                        NoPlace::QueueFull => "full",
                        _ => "too slow",
                    };
                    warn!(
                        %pool,
                        in_flight,
                        max_connections,
                        waiting,
                        queue,
                        fault = "platform",
                        unsaid,
                        "the pool is busy: each node has max_connections requests in flight, and clients get 503 at once where the queue is full (max_queue), else after queue_timeout; look for slow nodes, raise max_connections or add nodes"
                    );
                }
            }
        }
    }
}

fn occurs(repeats: &Mutex<Repeats>) -> Option<u64> {
    let mut repeats = repeats.lock().unwrap_or_else(PoisonError::into_inner);
    repeats.occur(Instant::now())
}
