//! The access log: one line for each request, written off the request path.
//!
//! A worker appends lines to its own [`LogBuffer`] and hands them over in batches; one thread writes
//! them ([`writer`]). Nothing here waits on a worker: a batch that finds no room, because the disk is
//! slow, full or gone, is dropped and counted ([`Counts`]). What a line looks like is in `vhosts` and
//! `json`; both are pure, and bytes of clients come through `escape` only.
//!
//! A log is opened for a target and lives as long as a snapshot or a buffer holds it; format and form
//! of addresses come from the configuration with each line, so that a reload changes them without
//! opening anything.
//!
//! Bounds: a buffer holds [`BATCH`] bytes and one line; what waits for the writer is [`QUEUED`] bytes
//! in [`BATCHES`] batches at the most. A line is no longer than a few times `limits.header`.

mod clock;
mod counts;
mod escape;
mod json;
mod numbers;
mod output;
mod vhosts;
mod writer;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Cache};
use jiff::tz::TimeZone;
use portico_config::{Log, LogFormat, LogTarget};
use tracing::warn;

use super::record::Record;
use clock::Clock;
use output::Output;
use writer::{Message, Shared};

pub use counts::{Counts, Dropped, Totals};

/// A batch of this many bytes is handed over at once.
const BATCH: usize = 32 * 1024;
/// Room of a new buffer: a batch, and the line that completes it.
const ROOM: usize = BATCH + 4 * 1024;
/// Batches that wait for the writer at the most.
const BATCHES: usize = 512;
/// Bytes that wait for the writer at the most.
const QUEUED: usize = 16 * 1024 * 1024;
/// How often [`LogBuffer::tick`] is to be called: no line waits longer in a buffer.
pub const TICK: Duration = Duration::from_millis(500);
/// How long the process waits for the last lines to be written when it ends.
pub const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks whether the writer has room again, at the end of the process.
const RETRY: Duration = Duration::from_millis(10);

/// Why the access log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or made.
    #[error(
        "log.access: cannot write to {}; the directory must exist, and file and directory must be writable for the user that portico runs as", path.display()
    )]
    File {
        /// What was to be opened.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard error is closed.
    #[error("log.access: cannot write to standard error: {0}")]
    Stderr(io::Error),
    /// There is no thread for it.
    #[error("log.access: cannot start the thread that writes it: {0}")]
    Thread(io::Error),
}

/// An access log that is open. When the last one who holds it lets go, what waits is written and
/// its thread ends.
#[derive(Debug)]
pub struct AccessLog {
    target: LogTarget,
    /// Found out once: looking for it reads files.
    zone: TimeZone,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl AccessLog {
    /// The log that the configuration asks for; `None`: none. `previous` is kept if it has the same
    /// target.
    ///
    /// # Errors
    /// [`OpenError`]; a named pipe that nobody reads yet is none.
    pub fn open(
        config: &Log,
        previous: Option<&Arc<Self>>,
        counts: &Arc<Counts>,
    ) -> Result<Option<Arc<Self>>, OpenError> {
        if let Some(kept) = previous.filter(|log| log.target == config.access) {
            return Ok(Some(Arc::clone(kept)));
        }
        let output = match &config.access {
            LogTarget::Off => return Ok(None),
            LogTarget::Stderr => Output::stderr()?,
            LogTarget::File(path) => Output::file(path)?,
        };
        let (log, waiting) = Self::unwritten(config.access.clone(), Arc::clone(counts));
        writer::spawn(output, waiting, Arc::clone(&log.shared)).map_err(OpenError::Thread)?;
        Ok(Some(Arc::new(log)))
    }

    /// Whether [`AccessLog::open`] would succeed, without making or changing a file: whoever checks
    /// a configuration may be another user than the one that writes the log.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn check(config: &Log) -> Result<(), OpenError> {
        match &config.access {
            LogTarget::Off | LogTarget::Stderr => Ok(()),
            LogTarget::File(path) => output::check(path),
        }
    }

    fn unwritten(target: LogTarget, counts: Arc<Counts>) -> (Self, Receiver<Message>) {
        let (queue, waiting) = sync_channel(BATCHES);
        let log = Self {
            target,
            zone: TimeZone::system(),
            queue,
            shared: Arc::new(Shared::new(counts)),
        };
        (log, waiting)
    }

    /// Has the file opened again: it was renamed, and what follows belongs into a new one. Does not
    /// wait. If the new one cannot be opened, the old one is kept, and the log of diagnostics says so.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // If there is no room the writer is awake already.
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Waits until all that was handed over is written, for at most `limit`. Not for workers: it
    /// blocks.
    pub fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Tell(done.clone())) {
            if Instant::now() >= end {
                break;
            }
            std::thread::sleep(RETRY);
        }
        drop(done);
        let left = end.saturating_duration_since(Instant::now());
        if written.recv_timeout(left).is_err() {
            warn!("the last lines of the access log are lost: they could not be written in time");
        }
    }

    /// Hands a batch over, or drops it.
    fn send(&self, batch: Vec<u8>) {
        let (shared, bytes) = (&self.shared, batch.len());
        let waiting = shared.queued.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let unsent = if waiting > QUEUED {
            batch
        } else {
            match self.queue.try_send(Message::Lines(batch)) {
                Ok(()) => return,
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                    match message {
                        Message::Lines(batch) => batch,
                        Message::Wake | Message::Tell(_) => return,
                    }
                }
            }
        };
        shared.queued.fetch_sub(bytes, Ordering::AcqRel);
        let lines = shared.counts.drop_lines(Dropped::QueueFull, &unsent);
        shared.unfit.fetch_add(lines, Ordering::Relaxed);
        shared.put_buffer(unsent);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // A named pipe whose reader has stopped must not keep the thread for ever.
        self.shared.closing.store(true, Ordering::Release);
    }
}

/// The access log that is open, if there is one; exchanged by a reload.
pub type OpenLog = Arc<ArcSwapOption<AccessLog>>;

/// The lines of one worker that were not handed over yet.
pub struct LogBuffer {
    open: RefCell<Cache<OpenLog, Option<Arc<AccessLog>>>>,
    lines: RefCell<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    /// Whose lines they are.
    log: Option<Arc<AccessLog>>,
    bytes: Vec<u8>,
    clock: Clock,
}

impl LogBuffer {
    /// No lines yet; they will go to the log that is open then.
    pub fn new(open: OpenLog) -> Self {
        Self {
            open: RefCell::new(Cache::new(open)),
            lines: RefCell::default(),
        }
    }

    /// Appends the line of `record`, as `config` wants it written, if there is a log.
    pub fn write(&self, config: &Log, record: &Record<'_>) {
        let mut open = self.open.borrow_mut();
        let Some(log) = open.load() else {
            return;
        };
        let lines = &mut *self.lines.borrow_mut();
        lines.turn_to(log);
        lines.clock.set(record.time, &log.zone);
        let (out, clock) = (&mut lines.bytes, &lines.clock);
        match config.format {
            LogFormat::Vhosts => vhosts::append(out, record, config.client_address, clock),
            LogFormat::Json => json::append(out, record, config.client_address, clock),
        }
        if lines.bytes.len() >= BATCH {
            lines.hand_over();
        }
    }

    /// Hands over what waits, and lets go of a log that is not open any more. Call it every
    /// [`TICK`].
    pub fn tick(&self) {
        let mut open = self.open.borrow_mut();
        let current = open.load().as_ref();
        let lines = &mut *self.lines.borrow_mut();
        lines.hand_over();
        if lines.log.as_ref().map(Arc::as_ptr) != current.map(Arc::as_ptr) {
            lines.log = None;
            lines.bytes = Vec::new();
        }
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBuffer")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        self.lines.get_mut().hand_over();
    }
}

impl Lines {
    fn turn_to(&mut self, log: &Arc<AccessLog>) {
        if self.log.as_ref().is_some_and(|old| Arc::ptr_eq(old, log)) {
            return;
        }
        self.hand_over();
        self.bytes = log.shared.buffer();
        // The other log may have another zone.
        self.clock = Clock::default();
        self.log = Some(Arc::clone(log));
    }

    fn hand_over(&mut self) {
        if let Some(log) = self.log.as_ref().filter(|_| !self.bytes.is_empty()) {
            log.send(std::mem::replace(&mut self.bytes, log.shared.buffer()));
        }
    }
}

#[cfg(test)]
mod tests;
