//! What a person may ask of the registry while portico runs: `portico routes apply`, `keep` and
//! `refresh`, through the administration; and who waits for an answer.
//!
//! What a command does is in `sync.rs`; this takes commands in while the driver waits for redis, or
//! for the time to try it again, and answers them.
//!
//! Invariants: a command waits for redis, and never for anything else that portico does; whoever
//! asked gets an answer, also when redis is lost.

use std::fmt;
use std::pin::pin;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::compare::{Comparison, Why};
use super::report::age_of;
use super::saver::Saver;
use super::sync::{Applied, TableSync};

/// Commands that may wait for redis at a time.
const MAX_WAITING: usize = 16;

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

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Apply => "apply",
            Command::Keep => "keep",
            Command::Refresh => "refresh",
        })
    }
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

type Answer = oneshot::Sender<Result<CommandReport, String>>;

/// Commands that have come, and those under way.
#[derive(Debug)]
pub(super) struct Commands {
    /// `None`: nobody can ask.
    requests: Option<mpsc::Receiver<CommandRequest>>,
    applies: Vec<Answer>,
    /// With the number of the comparison that answers.
    refreshes: Vec<(u32, Answer)>,
    redis: Redis,
}

/// Whether redis can be asked.
#[derive(Clone, Copy, Debug)]
struct Redis {
    connected: bool,
    /// Since when no comparison has come to its end, if so.
    away_since: Option<SystemTime>,
}

impl Commands {
    /// Before anybody can ask.
    pub(super) fn none() -> Self {
        Self {
            requests: None,
            applies: Vec::new(),
            refreshes: Vec::new(),
            redis: Redis {
                connected: false,
                away_since: None,
            },
        }
    }

    pub(super) fn listen(&mut self, requests: mpsc::Receiver<CommandRequest>) {
        self.requests = Some(requests);
    }

    /// The next command; never, when nobody can ask. Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> CommandRequest {
        if let Some(requests) = &mut self.requests
            && let Some(request) = requests.recv().await
        {
            return request;
        }
        std::future::pending().await
    }

    /// What `work` comes to; commands are taken in meanwhile.
    pub(super) async fn while_waiting<T>(
        &mut self,
        sync: &mut TableSync,
        saver: &Saver,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                request = self.next() => {
                    self.begin(request, sync);
                    // Not only when redis is back: a restart must know what is kept.
                    if sync.take_unsaved() {
                        saver.note_change();
                    }
                }
            }
        }
    }

    /// Carries a command out, or begins it.
    pub(super) fn begin(&mut self, request: CommandRequest, sync: &mut TableSync) {
        let CommandRequest { command, answer } = request;
        let waiting = self.applies.len() + self.refreshes.len();
        match command {
            Command::Keep => {
                let fresh = sync.keep_held();
                let report = sync.report(0, 0);
                if report.kept > 0 {
                    warn!(
                        fresh,
                        kept = report.kept,
                        tools = report.tools,
                        "routes that vanished from redis are kept, as somebody asked, until redis holds them again or \
                         portico routes apply"
                    );
                }
                tell(answer, Ok(report));
            }
            _ if !self.redis.connected => refuse(command, answer, &self.redis.sentence()),
            _ if waiting >= MAX_WAITING => {
                refuse(
                    command,
                    answer,
                    "too many commands wait for redis already; nothing was changed",
                );
            }
            Command::Apply => {
                self.applies.push(answer);
                if !sync.apply_held() {
                    self.applied(&Applied::default(), sync);
                }
            }
            Command::Refresh => self.refreshes.push((sync.compare(Why::Asked), answer)),
        }
    }

    /// Everything that was held back has been asked for again.
    pub(super) fn applied(&mut self, done: &Applied, sync: &TableSync) {
        let report = sync.report(done.set, done.removed);
        if report.set + report.removed > 0 {
            warn!(
                removed = report.removed,
                set = report.set,
                held_back = report.held_back,
                kept = report.kept,
                tools = report.tools,
                "routes that vanished from redis were removed, as somebody asked"
            );
        }
        for answer in self.applies.drain(..) {
            tell(answer, Ok(report));
        }
    }

    /// It broke off: somebody wants to keep the rest, or redis is lost.
    pub(super) fn apply_broke_off(&mut self, done: &Applied, sync: &TableSync) {
        let report = sync.report(done.set, done.removed);
        let why = if self.redis.connected {
            "somebody asked to keep them"
        } else {
            "the connection to redis was lost"
        };
        warn!(
            removed = report.removed,
            held_back = report.held_back,
            kept = report.kept,
            tools = report.tools,
            "not all routes that vanished from redis were removed: {why}; the others stay in use"
        );
        let reason = format!(
            "{why} before all was done: {} tools were removed, {} are still held back",
            report.removed, report.held_back
        );
        for answer in self.applies.drain(..) {
            tell(answer, Err(reason.clone()));
        }
    }

    /// A comparison came to its end.
    pub(super) fn compared(&mut self, comparison: &Comparison, sync: &TableSync) {
        self.redis.away_since = None;
        let report = sync.report(comparison.set, comparison.removed);
        let done = |(number, _): &mut (u32, Answer)| *number <= comparison.number;
        for (_, answer) in self.refreshes.extract_if(.., done) {
            tell(answer, Ok(report));
        }
    }

    /// Redis can be asked from now on.
    pub(super) fn connected(&mut self) {
        self.redis.connected = true;
    }

    /// Redis cannot be asked, at `now`. Whoever waits for an end of applying is told by
    /// [`Commands::apply_broke_off`].
    pub(super) fn away(&mut self, now: SystemTime) {
        self.redis.connected = false;
        self.redis.away_since.get_or_insert(now);
        for (_, answer) in self.refreshes.drain(..) {
            let reason = "the connection to redis was lost before all routes were compared; \
                          that is done as soon as redis is back";
            refuse(Command::Refresh, answer, reason);
        }
    }
}

impl Redis {
    fn sentence(self) -> String {
        let Some(since) = self.away_since else {
            return "redis cannot be asked yet; nothing was changed".to_owned();
        };
        format!(
            "redis cannot be reached since {} ({} ago); nothing was changed; mend redis and ask again",
            httpdate::fmt_http_date(since),
            age_of(since)
        )
    }
}

fn refuse(command: Command, answer: Answer, reason: &str) {
    warn!("portico routes {command} was not carried out: {reason}");
    tell(answer, Err(reason.to_owned()));
}

fn tell(answer: Answer, outcome: Result<CommandReport, String>) {
    // Who asked may be gone.
    let _ = answer.send(outcome);
}

#[cfg(test)]
mod tests;
