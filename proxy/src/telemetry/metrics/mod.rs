//! Metrics in the conventions of Prometheus.
//!
//! Each worker counts in a [`Shard`] that only it writes (`cells`, `shard`, `tools`); the
//! [`exposition`] sums the shards when somebody scrapes, and adds what others count anyway: the
//! registry, certificates, places for connections, the system (`system`). Every metric is described
//! once, in `descriptions`, of which `docs/metrics.md` is made.
//!
//! Not done here: serving them (`admin`).
//!
//! Invariants: a scrape takes no lock that a worker takes, but at the worker's start; the number of
//! series is bounded whatever clients ask for (`tools`).

pub mod cells;
pub mod descriptions;
mod exposition;
mod pools;
pub mod shard;
mod system;
#[cfg(test)]
mod tests;
pub mod tools;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use cells::{Counter, Gauge};
use portico_routing::table::Table;
use serde::Serialize;

use crate::response::failure::Side;
use crate::snapshot::Snapshot;
use crate::tcp::counts::ListenerCounts;
pub use exposition::exposition;
pub use pools::TcpSums;
pub use shard::Shard;
use shard::{FAILURES, Protocol, Words as _};
use tools::{CLASSES, ToolNames};

/// The Content-Type of an [`exposition`]: Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the process counts.
#[derive(Debug)]
pub struct Metrics {
    table: Arc<Table>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// The tools that are labels.
    tool_names: ToolNames,
    /// Locked when a worker starts and when somebody scrapes.
    shards: Mutex<Vec<Arc<Shard>>>,
}

impl Metrics {
    /// Nothing is counted yet. What is registered in `table`, or routed by `snapshot`, may become
    /// a label.
    pub fn new(table: Arc<Table>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self {
            table,
            snapshot,
            tool_names: ToolNames::default(),
            shards: Mutex::default(),
        }
    }

    /// A shard for one more worker.
    pub fn shard(self: &Arc<Self>) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(Arc::clone(self)));
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.push(Arc::clone(&shard));
        shard
    }

    /// The shards of all workers, in the order of their start.
    fn shards(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.clone()
    }

    /// The sums that `/status` shows.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in self.shards() {
            let classes = shard.routes.iter().flat_map(|route| &route.classes);
            totals.requests += classes.map(Counter::get).sum::<u64>();
            totals.in_flight += shard.in_flight.get();
            totals.tunnels += shard.tunnels.get();
            for ((side, _), counter) in FAILURES.iter().zip(&shard.failures) {
                let sum = match side {
                    Side::Client => &mut totals.failures.client,
                    Side::Tool => &mut totals.failures.tool,
                    Side::Platform => &mut totals.failures.platform,
                    Side::Proxy => &mut totals.failures.proxy,
                };
                *sum += counter.get();
            }
        }
        totals
    }

    /// What came by the listeners with TLS, or by those without.
    pub fn traffic(&self, over_tls: bool) -> Traffic {
        let mut sum = Traffic::default();
        for shard in self.shards() {
            shard.connections.at(over_tls.into(), |of| {
                sum.accepted += of.accepted.get();
                for &protocol in Protocol::ALL {
                    sum.open += of.open.at(protocol, Gauge::get).unwrap_or_default();
                }
                for (sum, counter) in sum.classes.iter_mut().zip(&of.classes) {
                    *sum += counter.get();
                }
                sum.received += of.received.get();
                sum.sent += of.sent.get();
            });
        }
        sum
    }

    /// What came by the TCP listeners, by their names.
    pub fn tcp_listeners(&self) -> BTreeMap<String, TcpSums> {
        let mut sums: BTreeMap<String, TcpSums> = BTreeMap::new();
        let nothing = ListenerCounts::default();
        for listener in &self.snapshot.load().config.tcp {
            let name = listener.name.to_string();
            sums.entry(name).or_default().add(&nothing);
        }
        // Those that a reload has removed may still have connections.
        for shard in self.shards() {
            shard.tcp.for_each(|name, counts| {
                sums.entry(name.to_owned()).or_default().add(counts);
            });
        }
        sums
    }

    fn is_registered(&self, tool: &str) -> bool {
        let in_table = self.table.with(tool, |_| ()).is_some();
        in_table || self.snapshot.load().config.rules.routes.contains_key(tool)
    }
}

/// What all workers have counted.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Totals {
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that have not.
    pub in_flight: u64,
    /// WebSockets and other upgraded connections that are open.
    pub tunnels: u64,
    /// Failures that portico answered with.
    pub failures: Sides,
}

/// What clients of one kind of listener did, since the start.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Those that are open now and speak a protocol.
    pub open: u64,
    /// Requests by the class of their answer's status, in the order of [`CLASSES`].
    pub classes: [u64; CLASSES.len()],
    /// Bytes of requests' bodies.
    pub received: u64,
    /// Bytes of answers' bodies.
    pub sent: u64,
}

/// A count for each side that may be at fault.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Sides {
    /// Clients sent something wrong.
    pub client: u64,
    /// The tools' own web services.
    pub tool: u64,
    /// The ingress, or a route that leads back.
    pub platform: u64,
    /// portico or its machine.
    pub proxy: u64,
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
