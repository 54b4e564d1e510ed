//! Asking for reloads, and what became of them: for the log, metrics and the status. How they are
//! done is in `reload`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::failure_text::one_line;

/// Asks the control thread for a reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// What came of it; the error is for people, with all mistakes.
    pub answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// A reload that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// What is odd, and what needs a restart.
    pub warnings: Vec<String>,
}

/// What became of reloads since the start; for metrics and the status.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Option<LastReload>>,
    last_success: Mutex<Option<SystemTime>>,
}

/// The last reload.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub time: SystemTime,
    /// What came of it.
    pub outcome: Result<ReloadReport, String>,
}

impl Reloads {
    /// How many succeeded.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// How many failed, and changed nothing.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// The last one; `None`: the configuration is that of the start.
    pub fn last(&self) -> Option<LastReload> {
        lock(&self.last).clone()
    }

    /// When the configuration in force was taken up; `None`: at the start.
    pub fn last_success(&self) -> Option<SystemTime> {
        *lock(&self.last_success)
    }

    /// Notes and logs what came of one.
    pub fn note(&self, outcome: &Result<ReloadReport, String>) {
        match outcome {
            Ok(report) => {
                self.succeeded.fetch_add(1, Relaxed);
                *lock(&self.last_success) = Some(SystemTime::now());
                for warning in &report.warnings {
                    warn!("{}", one_line(warning));
                }
                info!(
                    warnings = report.warnings.len(),
                    "the configuration was reloaded"
                );
            }
            Err(mistakes) => {
                self.failed.fetch_add(1, Relaxed);
                error!(
                    "the configuration was not reloaded, and the old one stays in force: {}",
                    one_line(mistakes)
                );
            }
        }
        *lock(&self.last) = Some(LastReload {
            time: SystemTime::now(),
            outcome: outcome.clone(),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
