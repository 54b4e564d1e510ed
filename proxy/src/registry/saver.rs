//! Keeps the snapshot on disk in step with the table, in the background.
//!
//! Decides when to write; how, is in `disk`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_routing::table::Table;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, error};

use super::disk::{self, Snapshot, SnapshotError};
use super::now;
use super::status::RegistryStatus;
use crate::repeats::Repeats;

/// The snapshot is written at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the snapshot whenever it is woken, but not too often, and again after a failure.
pub(super) async fn save_for_ever(
    path: PathBuf,
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    wake: Arc<Notify>,
) {
    let mut failures = Repeats::default();
    loop {
        wake.notified().await;
        let (target, source) = (path.clone(), Arc::clone(&table));
        // On a thread of its own: nothing else of the control thread may wait for a disk.
        let write = move || disk::write(&target, &source, SystemTime::now());
        let written = match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match written {
            Ok(tools) => {
                failures.clear();
                debug!(path = %path.display(), tools, "the snapshot of the routes was written");
            }
            Err(error) => {
                status.count_snapshot_failure();
                if let Some(unsaid) = failures.occur(now()) {
                    error!(
                        path = %path.display(),
                        unsaid,
                        "the snapshot of the routes cannot be written: {error}; routing goes on, but a restart while \
                         redis is down would have old routes or none; check the path, its rights and the disk"
                    );
                }
                wake.notify_one();
            }
        }
        sleep(SAVE_INTERVAL).await;
    }
}

/// Reads the snapshot beside the control thread; `None`: there is none.
pub(super) async fn read_snapshot(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || disk::read(&path)).await {
        Ok(read) => read,
        Err(error) => Err(SnapshotError::Io(std::io::Error::other(error))),
    }
}
