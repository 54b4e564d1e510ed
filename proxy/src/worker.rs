//! What the tasks of one worker share: the way to the snapshot, idle connections to backends, and
//! the buffers, parsers and heads that are used again and again.
//!
//! Nothing here is locked or shared with other workers, but for what [`Process`] holds. The thread
//! and its accept loops are in `server`.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tracing::{debug, error, warn};

use crate::buffer::{BufferPool, SMALL};
use crate::deadline::Deadline;
use crate::http1::{HeadLimits, RequestParser, ResponseParser};
use crate::http2::repeated::RepeatedFields;
use crate::http2::tasks::StreamTasks;
use crate::pools::Turns;
use crate::process::Process;
use crate::repeats::Repeats;
use crate::request_id::RequestIds;
use crate::response::compress::Encoders;
use crate::snapshot::SnapshotReader;
use crate::spare::{Spare, SpareBuffers};
use crate::tcp::splice::Pipes;
use crate::telemetry::access_log::LogBuffer;
use crate::telemetry::address::{self, Shown};
use crate::telemetry::metrics::Shard;
use crate::telemetry::record::{Ended, Record};
use crate::upstream::h2c::H2cPool;
use crate::upstream::idle::IdlePool;

/// How the process stands, as the workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// No new connections; requests in flight end, and their connections with them.
    Draining,
    /// Connections without a request in flight are closed too.
    CloseIdle,
    /// What is left ends now.
    Cut,
}

/// The state of one worker, shared by its tasks.
#[derive(Debug)]
pub struct Worker {
    /// What all workers share.
    pub process: Arc<Process>,
    /// What this worker counts.
    pub metrics: Arc<Shard>,
    /// The way to the current snapshot.
    pub snapshot: SnapshotReader,
    /// Buffers.
    pub buffers: BufferPool,
    /// Encoders for answers.
    pub encoders: Rc<Encoders>,
    /// Idle connections to backends.
    pub idle: IdlePool,
    /// Connections to backends that speak HTTP/2.
    pub h2c: H2cPool,
    /// Pipes for TCP connections.
    pub pipes: Pipes,
    /// Its number, from 0.
    pub index: usize,
    /// The places in the rotations of the pools.
    pub turns: RefCell<Turns>,
    /// Wakes connections of HTTP/2 when they are to say GOAWAY.
    pub draining: Notify,
    /// Its lines of the access log.
    pub access_log: LogBuffer,
    /// The names of requests.
    pub request_ids: RequestIds,
    /// Wakes idle connections when they are to close.
    pub close_idle: Notify,
    phase: Cell<Phase>,
    /// Connections and accept loops that have not ended.
    open: Cell<usize>,
    closed: Notify,
    request_parsers: Spare<Box<RequestParser>>,
    response_parsers: Spare<Box<ResponseParser>>,
    heads: SpareBuffers,
    /// Those of requests, which are held until the answer has ended: were they among the others, an
    /// answer would be written into the one that the request before it gave back, which no longer
    /// is in the processor's cache.
    held_heads: SpareBuffers,
    /// For frames of HTTP/2 that are being written.
    pub frames: Rc<SpareBuffers>,
    /// Fields of answers over HTTP/2.
    pub answer_fields: Rc<RepeatedFields>,
    /// Tasks for streams of HTTP/2.
    pub stream_tasks: StreamTasks,
    deadlines: Spare<Deadline>,
    /// Keep messages that every connection could cause from filling the log.
    repeats: RefCell<WorkerRepeats>,
    /// Two clocks read at the same time, not long ago.
    clocks: Cell<(Instant, SystemTime)>,
    /// The second and its text, for the Date field.
    date: RefCell<(u64, Rc<str>)>,
}

/// What a worker would say again and again while it lasts.
#[derive(Debug, Default)]
struct WorkerRepeats {
    crowded: Repeats,
    accept: Repeats,
    exhausted: Repeats,
    no_proxy_header: Repeats,
    tool_busy: Repeats,
}

/// Parsers, timers and head buffers that a worker keeps for reuse.
const KEPT: usize = 1024;
/// Bytes that a head buffer has at first; what has grown beyond [`HEAD_KEPT`] is not kept.
const HEAD: usize = 2048;
/// See [`HEAD`].
const HEAD_KEPT: usize = 8 * 1024;
/// Buffers for frames of HTTP/2 that a worker keeps; a connection has one only while it writes.
const FRAMES: usize = 64;
/// A buffer for frames that grew beyond this many bytes is not kept.
const FRAMES_KEPT: usize = 128 * 1024;
/// Bytes of an answer's head that a tool may send.
const RESPONSE_HEAD: usize = 64 * 1024;
/// Header fields that a head may have.
const MAX_FIELDS: usize = 128;

/// How long the clock on the wall is taken to go like the other: somebody may set it.
const CLOCKS_AGREE: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker that serves; `index`: its number, from 0.
    pub fn new(index: usize, process: Arc<Process>, metrics: Arc<Shard>) -> Self {
        let frames = Rc::new(SpareBuffers::new(FRAMES, SMALL, FRAMES_KEPT));
        Self {
            snapshot: SnapshotReader::new(Arc::clone(&process.snapshot)),
            h2c: H2cPool::new(Rc::clone(&frames), Arc::clone(&process.backends)),
            metrics,
            buffers: BufferPool::default(),
            encoders: Rc::default(),
            idle: IdlePool::default(),
            pipes: Pipes::new(Arc::clone(&process.backends)),
            index,
            turns: RefCell::new(Turns::new(index)),
            draining: Notify::new(),
            access_log: LogBuffer::new(Arc::clone(&process.access_log)),
            process,
            request_ids: RequestIds::default(),
            close_idle: Notify::new(),
            phase: Cell::new(Phase::Serving),
            open: Cell::new(0),
            closed: Notify::new(),
            request_parsers: Spare::new(KEPT),
            response_parsers: Spare::new(KEPT),
            heads: SpareBuffers::new(KEPT, HEAD, HEAD_KEPT),
            held_heads: SpareBuffers::new(KEPT, HEAD, HEAD_KEPT),
            frames,
            answer_fields: Rc::default(),
            stream_tasks: StreamTasks::default(),
            deadlines: Spare::new(KEPT),
            repeats: RefCell::default(),
            clocks: Cell::new((Instant::now(), SystemTime::now())),
            date: RefCell::new((0, Rc::from(""))),
        }
    }

    /// Enters a later phase. `false`: it is in that phase, or a later one, already.
    pub fn enter(&self, phase: Phase) -> bool {
        if phase <= self.phase.get() {
            return false;
        }
        self.phase.set(phase);
        self.draining.notify_waiters();
        if self.closes_idle() {
            self.close_idle.notify_waiters();
        }
        true
    }

    /// Whether a connection, or an accept loop, has not ended.
    pub fn has_connections(&self) -> bool {
        self.open.get() > 0
    }

    /// Waits until one of them ends.
    pub async fn connection_closed(&self) {
        self.closed.notified().await;
    }

    /// Whether connections end after the answer under way.
    pub fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Serving
    }

    /// Whether connections without a request are to close now.
    pub fn closes_idle(&self) -> bool {
        self.phase.get() >= Phase::CloseIdle
    }

    /// Closes connections to backends that carry no request, and pipes: somebody needs their
    /// descriptors. Says whether there were any.
    pub fn close_spare(&self) -> bool {
        let idle = self.idle.clear();
        let pipes = self.pipes.clear();
        self.h2c.clear() || idle || pipes
    }

    /// A parser for one request; give it back with [`Worker::put_request_parser`].
    pub fn request_parser(&self) -> Box<RequestParser> {
        let limits = request_limits(&self.snapshot.load().config.limits);
        match self.request_parsers.take() {
            Some(parser) if parser.has_limits(limits) => parser,
            // Of before a reload, or there is none.
            _ => Box::new(RequestParser::new(limits)),
        }
    }

    /// Takes a parser back.
    pub fn put_request_parser(&self, mut parser: Box<RequestParser>) {
        parser.reset();
        self.request_parsers.put(parser);
    }

    /// A parser for one answer; give it back with [`Worker::put_response_parser`].
    pub fn response_parser(&self) -> Box<ResponseParser> {
        self.response_parsers.take().unwrap_or_else(|| {
            Box::new(ResponseParser::new(HeadLimits {
                head: RESPONSE_HEAD,
                target: 0,
                fields: MAX_FIELDS,
            }))
        })
    }

    /// Takes a parser back.
    pub fn put_response_parser(&self, mut parser: Box<ResponseParser>) {
        parser.reset();
        self.response_parsers.put(parser);
    }

    /// An empty buffer for a head that is being written; give it back with [`Worker::put_head`].
    pub fn head(&self) -> Vec<u8> {
        self.heads.take()
    }

    /// Takes a head buffer back.
    pub fn put_head(&self, head: Vec<u8>) {
        self.heads.put(head);
    }

    /// The same for what is held while an answer is waited for; give it back with
    /// [`Worker::put_held_head`].
    pub fn held_head(&self) -> Vec<u8> {
        self.held_heads.take()
    }

    /// Takes a buffer of [`Worker::held_head`] back.
    pub fn put_held_head(&self, head: Vec<u8>) {
        self.held_heads.put(head);
    }

    /// A timer; give it back with [`Worker::put_deadline`] where it would be made often.
    pub fn deadline(&self) -> Deadline {
        self.deadlines
            .take()
            .unwrap_or_else(|| Deadline::new(self.snapshot.load().config.timeouts.keep_alive))
    }

    /// Takes a timer back, armed or not.
    pub fn put_deadline(&self, mut deadline: Deadline) {
        deadline.reset();
        self.deadlines.put(deadline);
    }

    /// The end of a request, which is now; `read`: what the clock was just read to be. One look at
    /// one clock, as a rule.
    pub fn ended(&self, read: Option<Instant>) -> Ended {
        let at = read.unwrap_or_else(Instant::now);
        let (read, time) = self.clocks.get();
        let since = at.saturating_duration_since(read);
        if since < CLOCKS_AGREE {
            let time = time + since;
            return Ended { at, time };
        }
        let time = SystemTime::now();
        self.clocks.set((at, time));
        Ended { at, time }
    }

    /// Counts and logs a request that has ended.
    pub fn tell(&self, record: &Record<'_>) {
        self.metrics.request(record);
        debug!(
            id = %record.id,
            host = record.host,
            tool = record.tool,
            route = record.route.as_str(),
            status = record.status,
            ending = record.ending.as_str(),
            "request finished"
        );
        let snapshot = self.snapshot.load();
        self.access_log.write(&snapshot.config.log, record);
    }

    /// The value of a Date field for this second.
    pub fn date(&self) -> Rc<str> {
        let now = SystemTime::now();
        let second = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            *date = (second, Rc::from(httpdate::fmt_http_date(now)));
        }
        Rc::clone(&date.1)
    }

    /// The address of a client as diagnostics may show it.
    pub fn shown(&self, client: IpAddr) -> Shown {
        address::show(self.snapshot.load().config.log.client_address, client)
    }

    /// Puts into the metrics what is counted elsewhere in the worker. Called once a second.
    pub fn publish_counts(&self) {
        let metrics = &self.metrics;
        metrics.upstream_idle.set(self.idle.len() as u64);
        let (idle, used) = self.h2c.counts();
        metrics.h2c_idle.set(idle as u64);
        metrics.h2c_used.set(used as u64);
        let compressed = metrics.compression.iter().zip(self.encoders.counts());
        for (bytes, (input, output)) in compressed {
            bytes.input.set(input);
            bytes.output.set(output);
        }
        metrics.compression_refused.set(self.encoders.refused());
    }

    /// Says that all places for connections are taken.
    pub fn say_crowded(&self) {
        let unsaid = self.repeats.borrow_mut().crowded.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            let limit = self.process.connections.limit();
            warn!(
                limit,
                unsaid,
                "limits.connections is reached: new connections wait; raise it, or find out who holds them"
            );
        }
    }

    /// Says that the system refuses to accept connections.
    pub fn say_accept_failed(&self, error: &io::Error) {
        let unsaid = self.repeats.borrow_mut().accept.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            error!(%error, unsaid, "cannot accept connections; out of descriptors or memory? check LimitNOFILE");
        }
    }

    /// Says that a connection to a backend failed for want of something on this machine.
    pub fn say_exhausted(&self, address: SocketAddr, error: &str) {
        let unsaid = self.repeats.borrow_mut().exhausted.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            error!(%address, error, unsaid, "cannot connect to backends for want of descriptors, ports or memory; check LimitNOFILE and limits.connections");
        }
    }

    /// Says that a tool has as many requests in flight as one may have.
    pub fn say_tool_busy(&self, tool: &str, limit: u32) {
        let unsaid = self.repeats.borrow_mut().tool_busy.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            warn!(
                tool,
                limit,
                fault = "tool",
                unsaid,
                "limits.in_flight_per_tool is reached: more requests of the tool get 503; it is slow, or somebody asks it too much"
            );
        }
    }

    /// Says that a connection of a load balancer did not begin with a PROXY protocol header.
    pub fn say_no_proxy_header(&self, peer: IpAddr, error: &dyn std::fmt::Display) {
        let mut repeats = self.repeats.borrow_mut();
        if let Some(unsaid) = repeats.no_proxy_header.occur(Instant::now()) {
            warn!(%peer, %error, unsaid, "closed a connection from listen.proxy_protocol_from; does the load balancer send the PROXY protocol?");
        }
    }
}

/// Counts as open until it is dropped: a connection, or an accept loop, whose last connections are
/// still to come.
#[derive(Debug)]
pub struct Open(Rc<Worker>);

impl Open {
    /// Counts one more.
    pub fn new(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        Self(Rc::clone(worker))
    }

    /// The worker that it counts for.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}

/// What a request's head may hold.
pub fn request_limits(limits: &portico_config::Limits) -> HeadLimits {
    HeadLimits {
        head: limits.header,
        target: limits.uri,
        fields: MAX_FIELDS,
    }
}
