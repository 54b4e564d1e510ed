//! Reloading the configuration: what the administration asks for, and what it is told.

use tokio::sync::oneshot;

/// Asks for a reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Gets what came of it: the mistakes as text when nothing was changed.
    pub answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// What came of a reload.
#[derive(Debug)]
pub struct ReloadReport {
    /// What is odd in the new configuration.
    pub warnings: Vec<String>,
}
