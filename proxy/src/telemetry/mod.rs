//! What portico tells about itself: what became of each request, metrics, the access log.
//!
//! Every request ends in one [`Record`](record::Record), made in `request::finish` from the
//! [`Facts`](facts::Facts) that the phases noted. Nothing here decides anything about a request, and
//! nothing here waits.

pub mod access_log;
pub mod address;
pub mod facts;
pub mod head_copy;
pub mod metrics;
pub mod record;

use tracing::debug;

use crate::worker::Worker;
use record::Record;

/// Counts and logs a request that has ended.
pub fn ended(worker: &Worker, record: &Record<'_>) {
    worker.metrics.request(record);
    debug!(
        id = %record.id,
        host = record.host,
        tool = record.tool,
        route = record.route.as_str(),
        status = record.status,
        ending = record.ending.as_str(),
        "request finished"
    );
    let snapshot = worker.snapshot.load();
    if let Some(log) = snapshot.access_log() {
        worker.access_log.write(log, &snapshot.config.log, record);
    }
}
