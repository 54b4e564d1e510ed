//! Keeps the snapshot on disk in step with the table, in the background.
//!
//! Decides when to write; how, is in `disk`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use portico_routing::table::Table;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use super::disk::{self, Snapshot, SnapshotError};
use super::now;
use super::status::RegistryStatus;
use crate::repeats::Repeats;

/// The snapshot is written at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// And at most so rarely that writing takes one part in so many of a core: 2 %.
const SAVE_SHARE: u32 = 50;

/// How long the last write may take when the process ends.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Writes the snapshot.
pub struct Saver {
    path: PathBuf,
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    /// Something is not on disk yet.
    changed: AtomicBool,
    wake: Notify,
    /// Held by the thread that writes: a write that nobody waits for any more goes on.
    writing: Arc<tokio::sync::Mutex<()>>,
    failures: Mutex<Repeats>,
}

/// What a write has cost.
struct Cost {
    /// Time of the processor. The pace goes by it and not by the clock on the wall: that also runs
    /// while the disk works, or workers do, and a busy machine would get no snapshots.
    core: Duration,
    wall: Duration,
}

impl Saver {
    pub(super) fn new(path: PathBuf, table: Arc<Table>, status: Arc<RegistryStatus>) -> Arc<Self> {
        Arc::new(Self {
            path,
            table,
            status,
            changed: AtomicBool::new(false),
            wake: Notify::new(),
            writing: Arc::default(),
            failures: Mutex::default(),
        })
    }

    /// The table has changed, or what is kept by hand.
    pub(super) fn note_change(&self) {
        self.changed.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Whether something is not on disk yet.
    pub(super) fn is_behind(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Writes the snapshot whenever something has changed, but not too often, and again after a
    /// failure. Never returns.
    pub(super) async fn run(&self) {
        self.remove_leftovers().await;
        loop {
            self.wake.notified().await;
            let core = self.save().await;
            sleep(pause(core)).await;
        }
    }

    /// Writes what is not on disk yet, for the end of the process; within [`LAST_SAVE`].
    pub async fn finish(&self) {
        let last = async {
            // One that is under way may have begun before the last change.
            drop(self.writing.lock().await);
            if self.is_behind() {
                self.save().await;
            }
        };
        if timeout(LAST_SAVE, last).await.is_err() {
            warn!(
                path = %self.path.display(),
                "the last changes of the routes are not in the snapshot: writing it takes more than {} s; the \
                 one before stays, and a start without redis would use that",
                LAST_SAVE.as_secs()
            );
        }
    }

    /// Writes the snapshot; how much time of a processor that took.
    async fn save(&self) -> Duration {
        // Whatever changes from here on wants another write.
        self.changed.store(false, Relaxed);
        let guard = Arc::clone(&self.writing).lock_owned().await;
        let (path, table, status) = (
            self.path.clone(),
            Arc::clone(&self.table),
            Arc::clone(&self.status),
        );
        // On a thread of its own: nothing else of the control thread may wait for a disk.
        let write = move || {
            let _guard = guard;
            write(&path, &table, &status)
        };
        let (written, cost) = match tokio::task::spawn_blocking(write).await {
            Ok((written, cost)) => (written.map_err(|error| error.to_string()), cost),
            Err(error) => {
                let none = Duration::ZERO;
                let cost = Cost {
                    core: none,
                    wall: none,
                };
                (Err(error.to_string()), cost)
            }
        };
        let path = self.path.display();
        match written {
            Ok(tools) => {
                self.failures().clear();
                self.status.set_snapshot_saved(SystemTime::now(), cost.wall);
                debug!(%path, tools, took = ?cost.wall, "the snapshot of the routes was written");
            }
            Err(error) => {
                self.status.set_snapshot_failed(&error);
                if let Some(unsaid) = self.failures().occur(now()) {
                    error!(
                        %path,
                        unsaid,
                        "the snapshot of the routes cannot be written: {error}; routing goes on, but a restart while \
                         redis is down would have old routes or none; check the path, its rights and the disk"
                    );
                }
                self.note_change();
            }
        }
        cost.core
    }

    async fn remove_leftovers(&self) {
        let path = self.path.clone();
        let removed = tokio::task::spawn_blocking(move || disk::remove_leftovers(&path)).await;
        if let Ok(Err(error)) = removed {
            // If that matters, the write fails too, and says so.
            debug!(path = %self.path.display(), "cannot look for unfinished snapshots: {error}");
        }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(path: &Path, table: &Table, status: &RegistryStatus) -> (std::io::Result<u64>, Cost) {
    let (start, core) = (Instant::now(), core_time());
    let kept = |tool: &str| status.removals().is_kept(tool);
    let written = disk::write(path, table, &kept, status.table_time());
    let cost = Cost {
        core: core_time().saturating_sub(core),
        wall: start.elapsed(),
    };
    (written, cost)
}

/// How long to wait after a write that took so much time of a processor.
fn pause(core: Duration) -> Duration {
    SAVE_INTERVAL.max(core.saturating_mul(SAVE_SHARE))
}

/// The time that this thread has run so far.
fn core_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Reads the snapshot beside the control thread; `None`: there is none.
pub(super) async fn read_snapshot(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || disk::read(&path)).await {
        Ok(read) => read,
        Err(error) => Err(SnapshotError::Io(std::io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use portico_routing::table::Entry;

    use super::super::held::Moment;
    use super::super::removal::Removals;
    use super::*;

    #[track_caller]
    fn check_pause(core_millis: u64, seconds: u64) {
        let pause = pause(Duration::from_millis(core_millis));
        assert_eq!(pause, Duration::from_secs(seconds));
    }

    #[test]
    fn writing_takes_a_fiftieth_of_a_core() {
        check_pause(0, 5);
        check_pause(100, 5);
        check_pause(200, 10);
        check_pause(3000, 150);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_owed_until_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later").join("routes");
        let status = Arc::new(RegistryStatus::default());
        let saver = Saver::new(path.clone(), Arc::default(), Arc::clone(&status));
        saver.finish().await;
        assert_eq!(status.snapshot_failures(), 0, "nothing has changed");
        saver.note_change();
        saver.finish().await;
        assert!(saver.is_behind());
        assert_eq!(
            (status.snapshot_failures(), status.snapshot_saved()),
            (1, None)
        );
        std::fs::create_dir(directory.path().join("later")).unwrap();
        // Somebody is owed another attempt without another change.
        timeout(Duration::from_secs(60), saver.wake.notified())
            .await
            .unwrap();
        saver.save().await;
        assert!(!saver.is_behind() && path.exists());
        assert_eq!(status.snapshot_failures(), 1);
        assert!(status.snapshot_saved().is_some());
    }

    #[tokio::test]
    async fn only_what_a_person_keeps_is_saved_as_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes");
        let (table, status) = (Arc::new(Table::new()), Arc::new(RegistryStatus::default()));
        for tool in ["held", "kept", "there"] {
            table.set(tool, Entry::build([], true, &|_| Ok(())));
        }
        let moment = Moment {
            instant: Instant::now(),
            time: SystemTime::now(),
        };
        status.set_removals(Removals::new(0, Duration::from_secs(60)));
        let held = (0..9).map(|n| format!("gone{n}").into());
        let held = held.chain(["held".into()]).collect();
        assert_eq!(status.removals().decide(held, 20, moment).hold.len(), 10);
        status.removals().hold_kept(["kept".into()], moment);
        let saver = Saver::new(path.clone(), table, status);
        saver.note_change();
        saver.save().await;
        let snapshot = read_snapshot(&path).await.unwrap().unwrap();
        let mut kept: Vec<_> = snapshot.tools().map(|t| (t.name, t.kept)).collect();
        kept.sort_unstable();
        assert_eq!(kept, [("held", false), ("kept", true), ("there", false)]);
    }

    /// On a clock that stands while a write is under way.
    #[tokio::test(start_paused = true)]
    async fn a_table_that_changes_all_the_time_is_written_every_few_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes");
        let saver = Saver::new(path, Arc::default(), Arc::default());
        let begin = tokio::time::Instant::now();
        let writes = async {
            for _ in 0..4 {
                saver.note_change();
                while saver.is_behind() {
                    sleep(Duration::from_millis(100)).await;
                }
            }
        };
        tokio::select! {
            () = saver.run() => {}
            () = writes => {}
        }
        assert!(begin.elapsed() >= SAVE_INTERVAL * 3);
    }

    #[test]
    fn only_work_counts_as_time_of_a_core() {
        let begin = core_time();
        std::thread::sleep(Duration::from_millis(50));
        assert!(core_time() - begin < Duration::from_millis(40));
        let wall = Instant::now();
        while wall.elapsed() < Duration::from_millis(20) {}
        assert!(core_time() > begin);
    }
}
