//! What a person may ask of the registry while portico runs: `portico routes apply`, `keep` and
//! `refresh`, through the administration.

use tokio::sync::oneshot;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The removals that are held back act now, if redis, asked again, still does not hold the
    /// tools; also those that were kept by hand.
    Apply,
    /// The tools that are held back now stay until redis holds them again or until
    /// [`Command::Apply`]; also over a restart, by the snapshot.
    Keep,
    /// The whole table is compared with redis now.
    Refresh,
}

/// Asks the task that keeps the table for it.
#[derive(Debug)]
pub struct CommandRequest {
    /// What to do.
    pub command: Command,
    /// What came of it; the error is a sentence for people.
    pub answer: oneshot::Sender<Result<CommandReport, String>>,
}

/// What a command has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandReport {
    /// Tools that it set, in the table.
    pub set: usize,
    /// Tools that it removed from the table.
    pub removed: usize,
    /// Tools that are held back now, those kept by hand included.
    pub held_back: usize,
    /// Of those, the ones kept by hand.
    pub kept: usize,
    /// Tools in the table now.
    pub tools: usize,
}
