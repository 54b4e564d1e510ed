//! What one request sees: the configuration and everything built from it, whole and unchanging.
//!
//! A snapshot is built at once and swapped at once, so that no request sees half of two
//! configurations. What changes by itself (the route table, resolved names, the state of nodes,
//! counters) lives beside it in [`Process`](crate::process::Process).
//!
//! Workers take it once per request through [`SnapshotReader`]: one relaxed load when nothing
//! changed, and a count that no other core touches.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use portico_config::{Config, LogTarget};

use crate::policy::backends::BackendPolicy;
use crate::pools::Pools;
use crate::pools::split::Split;
use crate::response::headers::ResponseEditor;
use crate::response::pages::Pages;
use crate::start;
use crate::tls::ServerTls;
use crate::upstream::fallback::Fallback;

/// Everything that a request needs and that only a reload changes.
#[derive(Debug)]
pub struct Snapshot {
    /// The checked configuration.
    pub config: Config,
    /// The TLS side of clients; `None` without TLS listeners.
    pub tls: Option<ServerTls>,
    /// All pools.
    pub pools: Pools,
    /// The pools for tools that nothing else routes, and their shares.
    pub ingress: Split,
    /// The 404 backend, for what nothing else answers.
    pub fallback: Option<Arc<Fallback>>,
    /// Addresses that portico does not connect to.
    pub backends: BackendPolicy,
    /// The changes to every answer's head.
    pub response: ResponseEditor,
    /// The pages of failures.
    pub pages: Pages,
}

impl Snapshot {
    /// Builds what the configuration asks for. What `previous` knows of nodes and of the fallback is
    /// adopted.
    pub fn new(
        config: Config,
        tls: Option<ServerTls>,
        backends: BackendPolicy,
        pages: Pages,
        previous: Option<&Snapshot>,
    ) -> Self {
        let old_fallback = previous.and_then(|previous| previous.fallback.as_ref());
        let lanes = start::worker_count(&config);
        let pools = Pools::new(
            &config.pools,
            previous.map(|previous| &previous.pools),
            lanes,
        );
        let fallback = config.fallback.backend.clone();
        Self {
            tls,
            ingress: Split::new(&config.ingress, &pools),
            pools,
            fallback: fallback.map(|backend| Fallback::adopting(backend, old_fallback)),
            response: ResponseEditor::new(&config.headers),
            pages,
            backends,
            config,
        }
    }
}

impl Snapshot {
    /// Whether an access log wants to know of requests.
    pub fn logs_requests(&self) -> bool {
        self.config.log.access != LogTarget::Off
    }
}

/// A worker's way to the current snapshot.
pub struct SnapshotReader {
    cache: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    current: RefCell<CurrentSnapshot>,
}

/// A snapshot in the hands of one worker: cloned without a count that other cores touch.
#[derive(Debug, Clone)]
pub struct CurrentSnapshot(Rc<Held>);

#[derive(Debug)]
struct Held(Arc<Snapshot>);

impl CurrentSnapshot {
    fn new(snapshot: &Arc<Snapshot>) -> Self {
        Self(Rc::new(Held(Arc::clone(snapshot))))
    }
}

impl Deref for CurrentSnapshot {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0.0
    }
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").finish_non_exhaustive()
    }
}

impl SnapshotReader {
    /// Reads from `source`.
    pub fn new(source: Arc<ArcSwap<Snapshot>>) -> Self {
        let mut cache = Cache::new(source);
        let current = CurrentSnapshot::new(cache.load());
        Self {
            cache: RefCell::new(cache),
            current: RefCell::new(current),
        }
    }

    /// The snapshot of this moment. Keep it for the whole request.
    pub fn load(&self) -> CurrentSnapshot {
        let mut cache = self.cache.borrow_mut();
        let newest = cache.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current.0.0) {
            *current = CurrentSnapshot::new(newest);
        }
        current.clone()
    }
}
