//! Metrics of pools, nodes and TCP listeners. As many series as are configured.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Metrics;
use super::exposition::Families;
use super::shard::Words as _;
use crate::pools::counts;
use crate::pools::report::{NodeReport, PoolReport, report};
use crate::process::Process;
use crate::tcp::counts::{Ending, ListenerCounts, Unserved};

/// Everything that [`report`] knows and a graph may want.
pub(super) fn pools(out: &mut Families, process: &Process) {
    let snapshot = process.snapshot.load();
    let pools = report(&snapshot, SystemTime::now());
    let mut nodes = Vec::new();
    for pool in &pools {
        nodes.extend(pool.nodes.iter().map(|node| (&*pool.name, node)));
    }
    let labels = |(pool, node): &(&str, &NodeReport)| [(*pool).to_owned(), node.address.clone()];
    let mut gauges = |name, value: fn(&NodeReport) -> f64| {
        let values = nodes.iter().map(|one| (labels(one), value(one.1)));
        out.gauges(name, values.collect());
    };
    gauges("portico_node_up", |node| f64::from(u8::from(node.up)));
    gauges("portico_node_in_rotation", |node| {
        f64::from(u8::from(node.is_in_rotation()))
    });
    gauges("portico_node_weight", |node| node.weight.now);
    gauges("portico_node_in_flight", |node| f64::from(node.in_flight));
    gauges("portico_node_in_flight_limit", |node| f64::from(node.limit));
    gauges("portico_node_check_seconds", |node| {
        let last = node.checks.last.as_ref();
        last.map_or(0.0, |last| last.took.as_secs_f64())
    });
    let mut counters = |name, value: fn(&NodeReport) -> u64| {
        let values = nodes.iter().map(|one| (labels(one), value(one.1)));
        out.counters(name, values.collect());
    };
    counters("portico_node_sessions_total", |node| node.counts.sessions);
    counters("portico_node_retries_total", |node| node.counts.retries);
    counters("portico_node_redispatches_total", |node| {
        node.counts.redispatches
    });
    counters("portico_node_checks_failed_total", |node| {
        node.checks.failed
    });
    counters("portico_node_checks_discarded_total", |node| {
        node.checks.discarded
    });
    counters("portico_node_downs_total", |node| node.checks.downs);
    let (mut bytes, mut errors, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for (pool, node) in &nodes {
        let counts = &node.counts;
        let with = |word: &str| [(*pool).to_owned(), node.address.clone(), word.to_owned()];
        bytes.push((with("in"), counts.bytes_in));
        bytes.push((with("out"), counts.bytes_out));
        errors.push((with("connect"), counts.connect_errors));
        errors.push((with("response"), counts.response_errors));
        let classes = counts::CLASSES.into_iter().zip(counts.answers);
        answers.extend(classes.map(|(class, count)| (with(class), count)));
    }
    out.counters("portico_node_bytes_total", bytes);
    out.counters("portico_node_errors_total", errors);
    out.counters("portico_node_answers_total", answers);
    let mut of_pools = |name, value: fn(&PoolReport) -> usize| {
        let values = pools.iter();
        let values = values.map(|pool| ([pool.name.to_string()], value(pool) as f64));
        out.gauges(name, values.collect());
    };
    of_pools("portico_pool_waiting", |pool| pool.waiting);
    of_pools("portico_pool_waiting_most", |pool| pool.most_waiting);
    of_pools("portico_pool_queue_limit", |pool| pool.queue_limit);
    let refused = pools.iter().flat_map(|pool| {
        let by_reason = pool.refused.by_reason().into_iter();
        by_reason.map(|(reason, count)| ([pool.name.to_string(), reason.to_owned()], count))
    });
    out.counters("portico_pool_refused_total", refused.collect());
    let refused = snapshot.pools.iter();
    let refused = refused.map(|pool| ([&*pool.name], pool.retries.refused()));
    out.counters("portico_pool_retries_refused_total", refused.collect());
    let waits = snapshot.pools.iter();
    let waits = waits.map(|pool| ([&*pool.name], pool.waits.observed()));
    out.histograms("portico_pool_queue_seconds", waits.collect());
}

/// Without TCP listeners there are none of these.
pub(super) fn tcp_listeners(out: &mut Families, metrics: &Metrics) {
    let sums = metrics.tcp_listeners();
    if sums.is_empty() {
        return;
    }
    let of = |look: fn(&TcpSums) -> u64| {
        let values = sums.iter().map(|(name, sums)| ([name.clone()], look(sums)));
        values.collect::<Vec<_>>()
    };
    let by = |look: fn(&TcpSums) -> &BTreeMap<&'static str, u64>| {
        let values = sums.iter().flat_map(|(name, sums)| {
            let counts = look(sums).iter();
            counts.map(|(word, count)| ([name.clone(), (*word).to_owned()], *count))
        });
        values.collect::<Vec<_>>()
    };
    out.counters("portico_tcp_accepted_total", of(|sums| sums.accepted));
    let open = sums
        .iter()
        .map(|(name, sums)| ([name.clone()], sums.open as f64));
    out.gauges("portico_tcp_connections", open.collect());
    out.counters("portico_tcp_unserved_total", by(|sums| &sums.unserved));
    out.counters("portico_tcp_endings_total", by(|sums| &sums.endings));
    let failures = of(|sums| sums.connect_failures);
    out.counters("portico_tcp_connect_failures_total", failures);
    out.counters("portico_tcp_received_bytes_total", of(|sums| sums.received));
    out.counters("portico_tcp_sent_bytes_total", of(|sums| sums.sent));
}

/// What all workers have counted of a TCP listener.
#[derive(Debug, Default)]
pub struct TcpSums {
    /// See [`ListenerCounts`] for these.
    pub accepted: u64,
    /// See above.
    pub open: u64,
    /// See above.
    pub unserved: BTreeMap<&'static str, u64>,
    /// See above.
    pub endings: BTreeMap<&'static str, u64>,
    /// See above.
    pub connect_failures: u64,
    /// See above.
    pub received: u64,
    /// See above.
    pub sent: u64,
}

impl TcpSums {
    pub(super) fn add(&mut self, counts: &ListenerCounts) {
        self.accepted += counts.accepted.get();
        self.open += counts.open.get();
        for &why in Unserved::ALL {
            *self.unserved.entry(why.word()).or_default() += counts.unserved.get(why);
        }
        for &ending in Ending::ALL {
            *self.endings.entry(ending.word()).or_default() += counts.endings.get(ending);
        }
        self.connect_failures += counts.connect_failures.get();
        self.received += counts.received.get();
        self.sent += counts.sent.get();
    }
}
