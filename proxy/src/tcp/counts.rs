//! What is counted of a TCP listener: by name, one set for each worker.
//!
//! Only its worker writes. The list of them is locked when a worker begins to accept and when
//! somebody scrapes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::metrics::cells::{Counter, Gauge};
use crate::telemetry::metrics::shard::{By, Words, words};

words!(
    /// Why a connection was closed before a byte of it reached a node.
    Unserved {
        /// `allow` does not name the client.
        NotAllowed = "not_allowed",
        /// A connection from `proxy_protocol_from` did not begin with its header.
        NoProxyHeader = "no_proxy_header",
        /// No TLS ClientHello within `timeouts.handshake`.
        NoHello = "no_hello",
        /// `server_names` does not have the name, and there is no `pool`.
        NoPool = "no_pool",
        /// All nodes of the pool are drained or in maintenance.
        NoNode = "no_node",
        /// As many wait as may.
        QueueFull = "queue_full",
        /// No place became free within `queue_timeout`.
        QueueTimeout = "queue_timeout",
        /// No node could be connected to.
        Unreachable = "unreachable",
        /// This machine has no descriptor, port or memory left.
        Exhausted = "exhausted",
        /// The client left before it was its turn.
        ClientGone = "client_gone",
    }
);
words!(
    /// How a connection ended that was passed on.
    Ending {
        /// Both sides ended it.
        Complete = "complete",
        /// The client reset it, or vanished.
        ClientReset = "client_reset",
        /// The node did.
        NodeReset = "node_reset",
        /// Silence both ways for `idle_timeout`.
        Idle = "idle",
        /// portico stopped.
        Cut = "cut",
    }
);

/// The label's value.
pub(super) fn word(why: Unserved) -> &'static str {
    why.word()
}

/// What one worker counts of one listener.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Those that have not ended.
    pub open: Gauge,
    /// Those that were closed before they reached a node.
    pub unserved: By<Unserved>,
    /// Those that reached one and have ended.
    pub endings: By<Ending>,
    /// Attempts to connect to a node that failed.
    pub connect_failures: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
}

/// The listeners of one worker, by name.
#[derive(Debug, Default)]
pub struct TcpCounts(Mutex<BTreeMap<Arc<str>, Arc<ListenerCounts>>>);

impl TcpCounts {
    /// Those of a listener that begins to accept. Names that nobody counts for any more are forgotten.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCounts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, counts| Arc::strong_count(counts) > 1);
        Arc::clone(all.entry(Arc::clone(name)).or_default())
    }

    /// Calls `look` with every listener.
    pub fn for_each(&self, mut look: impl FnMut(&str, &ListenerCounts)) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, counts) in &*all {
            look(name, counts);
        }
    }
}
