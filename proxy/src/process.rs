//! What all workers and the control thread share.
//!
//! Everything here changes without a lock held across a wait, and is bounded: the route table,
//! resolved names, counts per tool, the places for client connections. What only a reload changes
//! is in the [`Snapshot`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portico_routing::table::Table;

use crate::places::Places;
use crate::policy::tool_cap::ToolCap;
use crate::registry::RegistryStatus;
use crate::reloads::Reloads;
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::{Counts, OpenLog};
use crate::telemetry::metrics::Metrics;
use crate::upstream::resolve::Resolver;

/// The state of the process that outlives a snapshot.
#[derive(Debug)]
pub struct Process {
    /// What requests see; swapped by a reload.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// When the process began.
    pub started: SystemTime,
    /// How far it has come; see [`Process::stage`].
    pub stage: AtomicU8,
    /// The routes of the registry.
    pub table: Arc<Table>,
    /// How it stands with the registry.
    pub registry_status: Arc<RegistryStatus>,
    /// Addresses of names.
    pub resolver: Arc<Resolver>,
    /// Requests in flight for each tool.
    pub tools: ToolCap,
    /// One place for each client connection.
    pub connections: Arc<Places>,
    /// One place for each connection to a backend: descriptors that client connections leave. A
    /// client of HTTP/2 may ask for a hundred at once, which must not keep others from being
    /// accepted.
    pub backends: Arc<Places>,
    /// What became of reloads.
    pub reloads: Reloads,
    /// The access log that is open; empty before it is, and where there is none. Not part of the
    /// snapshot, which a WebSocket may hold for days: an old file must be let go of.
    pub access_log: OpenLog,
    /// What became of its lines.
    pub access_log_counts: Arc<Counts>,
    /// TLS towards backends with an https:// URL.
    pub backend_tls: Arc<rustls::ClientConfig>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// How far the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The routes are being loaded; nobody is served yet.
    Starting,
    /// Business as usual.
    Serving,
    /// It stops: no new connections.
    Draining,
}

impl Process {
    /// How far the process has come.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }

    /// It has come that far.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Whether client connections are so many that idle ones should not be kept: nine tenths of
    /// the places are taken. Never with fewer than ten places.
    pub fn is_crowded(&self) -> bool {
        self.connections.free() < self.connections.limit() / 10
    }
}
