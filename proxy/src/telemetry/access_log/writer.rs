//! The thread that writes the access log: one batch after the other, and what to do when the system
//! does not take it.
//!
//! A batch that fails is dropped and counted, and the next one is tried: a disk has room again as
//! soon as somebody makes some. After a line that was torn half-way the next one begins on a new
//! line. Once a second the path is looked at: a file that was renamed or deleted without a word, or
//! a named pipe that has a reader by now, is opened again. What is wrong is said at once, and then
//! every half a minute.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use tracing::{info, warn};

use super::counts::{Counts, Dropped};
use super::output::Output;
use super::{LAST_WORDS, ROOM};
use crate::failure_text::with_sources;
use crate::repeats::Repeats;

/// How often the path is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks whether to wait on, while a pipe takes nothing.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// So long after the last failure the log counts as mended. A disk that is all but full would have it
/// said with every batch.
const MENDED: Duration = Duration::from_secs(10);
/// Buffers that are kept for reuse.
const KEPT: usize = 16;
/// A buffer that grew beyond this many bytes is not kept.
const KEPT_ROOM: usize = 2 * ROOM;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Write these lines.
    Lines(Vec<u8>),
    /// Say that all before this was written.
    Tell(SyncSender<()>),
    /// Look whether to open the file again.
    Wake,
}

/// What a log and its writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counts: Arc<Counts>,
    /// Bytes that wait.
    pub(super) queued: AtomicUsize,
    /// Open the file again.
    pub(super) reopen: AtomicBool,
    /// Nobody will hand over anything more.
    pub(super) closing: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
    /// Lines for which there was no room, and of which nothing was said yet. The writer says it: if the
    /// log of diagnostics is as stuck as this one, no worker waits for it.
    pub(super) unfit: AtomicU64,
}

impl Shared {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self {
            counts,
            queued: AtomicUsize::new(0),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            spare: Mutex::default(),
            unfit: AtomicU64::new(0),
        }
    }

    // Workers come here too: nobody waits for this lock.

    /// An empty buffer.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let spare = self.spare.try_lock().ok().and_then(|mut all| all.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Takes a buffer back.
    pub(super) fn put_buffer(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if let Ok(mut spare) = self.spare.try_lock()
            && spare.len() < KEPT
            && buffer.capacity() <= KEPT_ROOM
        {
            spare.push(buffer);
        }
    }
}

/// Starts the thread. It ends when nobody holds the other end of `queue`.
pub(super) fn spawn(
    output: Output,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let mut writer = Writer {
        output,
        queue,
        shared,
        torn: false,
        full: Repeats::default(),
        failures: Repeats::default(),
        failed: None,
        unopened: Repeats::default(),
        unread: Repeats::default(),
        said_unread: false,
        closing: None,
    };
    if !writer.output.is_open() {
        writer.say_unread();
    }
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || writer.run())
        .map(drop)
}

struct Writer {
    output: Output,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
    /// The last line lacks its end.
    torn: bool,
    full: Repeats,
    failures: Repeats,
    /// When a write failed last; `None`: all is well.
    failed: Option<Instant>,
    unopened: Repeats,
    unread: Repeats,
    /// It was said that nobody reads the pipe, and not that somebody does again.
    said_unread: bool,
    /// Since when there is nothing but the rest to be written, and it is not taken.
    closing: Option<Instant>,
}

impl Writer {
    fn run(&mut self) {
        let mut look = Instant::now() + LOOK;
        loop {
            let left = look.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(left) {
                Ok(Message::Lines(lines)) => {
                    self.write(&lines);
                    self.shared.queued.fetch_sub(lines.len(), Ordering::AcqRel);
                    self.shared.put_buffer(lines);
                }
                Ok(Message::Tell(done)) => drop(done.try_send(())),
                Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.say_full();
            let told = self.shared.reopen.swap(false, Ordering::AcqRel);
            if told || Instant::now() >= look {
                if told || self.output.is_stale() {
                    self.reopen(told);
                }
                look = Instant::now() + LOOK;
            }
        }
    }

    /// `told`: somebody waits for the answer.
    fn reopen(&mut self, told: bool) {
        let was_open = self.output.is_open();
        match self.output.reopen() {
            Ok(false) => {}
            Ok(true) => {
                self.torn = false;
                self.unopened.clear();
                match (was_open, self.output.is_open()) {
                    (true, true) => self.say_opened(),
                    (false, true) if std::mem::take(&mut self.said_unread) => self.say_opened(),
                    (true, false) => self.say_unread(),
                    (false, _) => {}
                }
            }
            Err(error) => {
                if let (Some(_), _) | (_, true) = (self.unopened.occur(Instant::now()), told) {
                    let error = with_sources(&error);
                    warn!(
                        error,
                        "the access log cannot be opened again; the old file is written on"
                    );
                }
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if !self.output.is_open() {
            self.shared.counts.drop_lines(Dropped::NoReader, lines);
            return;
        }
        if self.torn {
            match self.write_whole(b"\n") {
                Ok(()) => self.torn = false,
                Err((_, error)) => return self.fail(lines, &error),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let piece = self.output.piece(rest);
            match self.write_whole(piece) {
                Ok(()) => self.shared.counts.write(piece),
                Err((written, error)) => {
                    let (written, lost) = rest.split_at(written);
                    self.shared.counts.write(written);
                    self.torn = written.last().is_some_and(|last| *last != b'\n');
                    return self.fail(lost, &error);
                }
            }
            rest = &rest[piece.len()..];
        }
        if self.failed.is_some_and(|at| at.elapsed() >= MENDED) {
            self.failed = None;
            self.failures.clear();
            info!(log = self.output.name(), "the access log is written again");
        }
    }

    /// # Errors
    /// How much was written before, and what the system said.
    fn write_whole(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.output.write(rest) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.shared.reopen.load(Ordering::Acquire) {
                        return Err((written, error));
                    }
                    if self.shared.closing.load(Ordering::Acquire) {
                        let began = self.closing.get_or_insert_with(Instant::now);
                        if began.elapsed() >= LAST_WORDS {
                            return Err((written, error));
                        }
                    }
                    self.say_full();
                    self.output.wait(&WAIT);
                }
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    /// Counts what is lost, and says so.
    fn fail(&mut self, lost: &[u8], error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.output.close();
            self.torn = false;
            self.shared.counts.drop_lines(Dropped::NoReader, lost);
            return self.say_unread();
        }
        self.shared.counts.drop_lines(Dropped::WriteFailed, lost);
        let now = Instant::now();
        self.failed = Some(now);
        if let Some(unsaid) = self.failures.occur(now) {
            warn!(
                log = self.output.name(),
                %error,
                unsaid,
                "lines of the access log are lost, requests go on; {}",
                advice(error)
            );
        }
    }

    fn say_opened(&self) {
        info!(log = self.output.name(), "the access log was opened again");
    }

    /// Says that there was no room in the queue.
    fn say_full(&mut self) {
        if self.shared.unfit.load(Ordering::Relaxed) > 0
            && let Some(unsaid) = self.full.occur(Instant::now())
        {
            let lines = self.shared.unfit.swap(0, Ordering::Relaxed);
            warn!(
                lines,
                unsaid,
                "lines of the access log are dropped: the disk, or the reader of the pipe, is too slow for them"
            );
        }
    }

    fn say_unread(&mut self) {
        if let Some(unsaid) = self.unread.occur(Instant::now()) {
            self.said_unread = true;
            let log = self.output.name();
            warn!(
                log,
                unsaid,
                "nobody reads the named pipe: lines of the access log are dropped until somebody does"
            );
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk, and rotate by size"
        }
        io::ErrorKind::FileTooLarge => "rotate it, or raise the limit on the size of files",
        _ => "see what the system says about the disk",
    }
}
