//! What one worker counts. Only that worker writes a [`Shard`], so nothing here locks; the collector
//! reads all of them while they change.
//!
//! [`Shard::request`] counts a request that has ended, from its [`Record`]: at most 0.2 us. What is
//! not a request is counted where it happens, by one line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Metrics;
use super::cells::{Bounds, Counter, Gauge, Histogram};
use super::tools::{CLASSES, ToolRequests, class};
use crate::client::TlsSession;
use crate::http2::budget::Abuse;
use crate::http2::coalesce::Breach;
use crate::response::compress::ALGORITHMS;
use crate::response::failure::Side;
use crate::tcp::counts::TcpCounts;
use crate::telemetry::record::{Ending, Record, Route};

/// Requests: from what nobody notices to what clients give up on.
pub const REQUEST_BOUNDS: &Bounds = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0,
];
/// Connects and TLS handshakes: a few round trips.
pub const CONNECT_BOUNDS: &Bounds = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// Waits in the queue of a pool, up to the longest `queue_timeout` that makes sense.
pub const QUEUE_BOUNDS: &Bounds = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// How late a worker's timer fires; its clock has steps of a millisecond.
pub const LAG_BOUNDS: &Bounds = &[0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A set of words that are one label's values.
pub trait Words: Copy + 'static {
    /// All of them, in the order of their places.
    const ALL: &'static [Self];
    /// Its place among all.
    fn place(self) -> usize;
    /// The label's value.
    fn word(self) -> &'static str;
}

/// Declares an enum whose values are the values of a label.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$value_doc])* $value,)* }

        impl $crate::telemetry::metrics::shard::Words for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)*];
            fn place(self) -> usize {
                self as usize
            }
            fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }
    };
}
pub(crate) use words;

words!(
    /// What a client connection speaks.
    Protocol {
        /// HTTP/1.0 or 1.1
        Http1 = "http1",
        /// HTTP/2
        Http2 = "http2",
    }
);
words!(
    /// Why a connection could not be accepted.
    AcceptError {
        /// The client gave up before it was.
        ClientGone = "client_gone",
        /// The system refused: descriptors, memory.
        System = "system",
    }
);
words!(
    /// Why a load balancer's connection was closed.
    NoProxyHeader {
        /// It ended, or failed, before the header was there.
        Gone = "gone",
        /// It began with something else.
        Malformed = "malformed",
        /// The header did not come within `timeouts.handshake`.
        Timeout = "timeout",
    }
);
words!(
    /// Why a TLS handshake failed.
    NoHandshake {
        /// The first bytes were no TLS: plain HTTP, mostly.
        NotTls = "not_tls",
        /// Nothing in common, or a broken or hostile client.
        Protocol = "protocol",
        /// The client left.
        Gone = "gone",
        /// It took longer than `timeouts.handshake`.
        Timeout = "timeout",
    }
);
words!(
    /// The version of TLS.
    TlsVersion {
        /// 1.2
        V1_2 = "TLSv1.2",
        /// 1.3
        V1_3 = "TLSv1.3",
    }
);
words!(
    /// Yes or no.
    YesNo {
        /// No
        No = "no",
        /// Yes
        Yes = "yes",
    }
);
words!(
    /// Where a request is forwarded to.
    To {
        /// To a tool's own address.
        Tool = "tool",
        /// To a node of the ingress.
        Ingress = "ingress",
        /// To the 404 backend.
        Fallback = "fallback",
    }
);
words!(
    /// What came of an attempt to connect to a backend.
    Connect {
        /// A new connection.
        Connected = "connected",
        /// Refused, or the network said no.
        Failed = "failed",
        /// Nothing within `timeouts.connect`.
        Timeout = "timeout",
        /// The TLS handshake failed.
        Tls = "tls",
        /// This machine has no descriptor, port or memory left.
        Exhausted = "exhausted",
    }
);
words!(
    /// What a forwarded request rode.
    Ride {
        /// A new connection.
        New = "new",
        /// One that had carried others.
        Reused = "reused",
        /// None: there was no connection to be had.
        None = "none",
    }
);
words!(
    /// Why an HTTP/2 connection was ended by portico: what its client did too much of.
    Refusal {
        /// [`Abuse::Resets`]
        Resets = "resets",
        /// [`Abuse::ProvokedResets`]
        ProvokedResets = "provoked_resets",
        /// [`Abuse::Pings`]
        Pings = "pings",
        /// [`Abuse::Settings`]
        Settings = "settings",
        /// [`Abuse::Priorities`]
        Priorities = "priorities",
        /// [`Abuse::WindowUpdates`]
        WindowUpdates = "window_updates",
        /// [`Abuse::Headers`]
        Headers = "headers",
        /// [`Abuse::OtherFrames`]
        OtherFrames = "other_frames",
        /// [`Breach::NoSettings`]
        NoSettings = "no_settings",
    }
);

impl From<bool> for YesNo {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl From<Breach> for Refusal {
    fn from(breach: Breach) -> Self {
        match breach {
            Breach::NoSettings => Self::NoSettings,
            Breach::Abuse(Abuse::Resets) => Self::Resets,
            Breach::Abuse(Abuse::ProvokedResets) => Self::ProvokedResets,
            Breach::Abuse(Abuse::Pings) => Self::Pings,
            Breach::Abuse(Abuse::Settings) => Self::Settings,
            Breach::Abuse(Abuse::Priorities) => Self::Priorities,
            Breach::Abuse(Abuse::WindowUpdates) => Self::WindowUpdates,
            Breach::Abuse(Abuse::Headers) => Self::Headers,
            Breach::Abuse(Abuse::OtherFrames) => Self::OtherFrames,
        }
    }
}

impl To {
    /// Where requests of this route are forwarded to, if they are.
    pub fn of(route: Route) -> Option<Self> {
        match route {
            Route::Tool => Some(Self::Tool),
            Route::Ingress => Some(Self::Ingress),
            Route::Fallback => Some(Self::Fallback),
            Route::Redirect | Route::Own | Route::Refused | Route::None => None,
        }
    }
}

/// Every failure that a client can be told, and whose fault it is: side and code of `Failure`.
pub const FAILURES: [(Side, &str); 25] = [
    (Side::Client, "malformed"),
    (Side::Client, "header_timeout"),
    (Side::Client, "bad_host"),
    (Side::Client, "bad_path"),
    (Side::Client, "bad_body"),
    (Side::Client, "body_timeout"),
    (Side::Client, "body_too_large"),
    (Side::Client, "no_user_agent"),
    (Side::Client, "not_found"),
    (Side::Client, "no_ingress"),
    (Side::Tool, "tool_busy"),
    (Side::Tool, "tool_unreachable"),
    (Side::Tool, "tool_closed"),
    (Side::Tool, "tool_timeout"),
    (Side::Tool, "tool_malformed"),
    (Side::Tool, "tool_forbidden"),
    (Side::Tool, "tool_unresolved"),
    (Side::Platform, "platform_unreachable"),
    (Side::Platform, "platform_closed"),
    (Side::Platform, "platform_timeout"),
    (Side::Platform, "platform_malformed"),
    (Side::Platform, "platform_busy"),
    (Side::Platform, "platform_drained"),
    (Side::Platform, "loop"),
    (Side::Proxy, "exhausted"),
];

/// A counter for each value of a label.
#[derive(Debug)]
pub struct By<W, T = Counter>(Box<[T]>, std::marker::PhantomData<fn(W)>);

impl<W: Words, T: Default> Default for By<W, T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<W: Words, T> By<W, T> {
    fn new(make: impl Fn() -> T) -> Self {
        let all = W::ALL.iter().map(|_| make()).collect();
        Self(all, std::marker::PhantomData)
    }

    /// That of this value.
    pub fn get_ref(&self, value: W) -> Option<&T> {
        self.0.get(value.place())
    }

    /// Calls `f` with that of this value.
    pub fn at<R>(&self, value: W, f: impl FnOnce(&T) -> R) -> Option<R> {
        self.get_ref(value).map(f)
    }
}

impl<W: Words> By<W> {
    /// One more of these.
    pub fn inc(&self, value: W) {
        self.at(value, Counter::inc);
    }

    /// So many of these.
    pub fn get(&self, value: W) -> u64 {
        self.at(value, Counter::get).unwrap_or_default()
    }
}

/// Requests of one route.
#[derive(Debug)]
pub struct ByRoute {
    /// By the status's class.
    pub classes: [Counter; CLASSES.len()],
    /// From the end of the head to the end of the answer.
    pub duration: Histogram,
    /// From the end of the head to the first byte of the answer.
    pub first_byte: Histogram,
    /// Bytes of requests' bodies.
    pub received: Counter,
    /// Bytes of answers' bodies.
    pub sent: Counter,
}

/// What went to one destination.
#[derive(Debug)]
pub struct ByDestination {
    /// Attempts to connect.
    pub connects: By<Connect>,
    /// How long those took that came to something.
    pub connect: Histogram,
    /// Requests.
    pub rides: By<Ride>,
    /// Attempts beyond the first.
    pub retries: Counter,
    /// From the begin of sending to the head of the answer.
    pub head: Histogram,
}

/// Connections over TLS, or without.
#[derive(Debug, Default)]
pub struct ByTls {
    /// Accepted.
    pub accepted: Counter,
    /// That came to speak a protocol, ever.
    pub opened: By<Protocol>,
    /// Open now.
    pub open: By<Protocol, Gauge>,
    /// Requests by the status's class.
    pub classes: [Counter; CLASSES.len()],
    /// Bytes of requests' bodies.
    pub received: Counter,
    /// Bytes of answers' bodies.
    pub sent: Counter,
}

/// What one worker counts.
pub struct Shard {
    metrics: Arc<Metrics>,
    /// Requests by route, in the order of [`Route::ALL`].
    pub routes: [ByRoute; Route::ALL.len()],
    /// Requests by tool.
    pub tools: ToolRequests,
    /// Requests that have begun and not ended.
    pub in_flight: Gauge,
    /// WebSockets and other upgraded connections.
    pub tunnels: Gauge,
    /// By their place in [`FAILURES`].
    pub failures: [Counter; FAILURES.len()],
    /// Requests without User-Agent that were not refused.
    pub dry_run: Counter,
    /// How requests ended, in the order of [`Ending::ALL`].
    pub endings: [Counter; Ending::ALL.len()],
    /// The 404 backend gave no answer.
    pub fallback_failures: Counter,
    /// Client connections.
    pub connections: By<YesNo, ByTls>,
    /// Connections that could not be accepted.
    pub accept_errors: By<AcceptError>,
    /// Waits for a place before a connection was taken.
    pub accept_waits: Counter,
    /// Connections of load balancers that were closed.
    pub no_proxy_header: By<NoProxyHeader>,
    /// TLS handshakes that came to something, by version and resumption.
    pub handshakes: By<TlsVersion, By<YesNo>>,
    /// How long they took, by resumption.
    pub handshake: By<YesNo, Histogram>,
    /// TLS handshakes that failed.
    pub handshake_failures: By<NoHandshake>,
    /// HTTP/2 connections that portico ended.
    pub http2_refusals: By<Refusal>,
    /// Requests to backends.
    pub destinations: By<To, ByDestination>,
    /// Idle connections to backends, as of the last second.
    pub upstream_idle: Gauge,
    /// Connections of HTTP/2 to backends without a request, as of the last second.
    pub h2c_idle: Gauge,
    /// The same with requests.
    pub h2c_used: Gauge,
    /// Compression in the order of [`ALGORITHMS`], as of the last second.
    pub compression: [Compression; ALGORITHMS.len()],
    /// Answers that went uncompressed since all encoders were in use, as of the last second.
    pub compression_refused: Counter,
    /// How late the worker's timers fire.
    pub lag: Histogram,
    /// TCP listeners.
    pub tcp: TcpCounts,
}

/// Bytes of answers through one kind of encoder.
#[derive(Debug, Default)]
pub struct Compression {
    /// Before.
    pub input: Counter,
    /// After.
    pub output: Counter,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard in which nothing is counted yet.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            routes: Route::ALL.map(|_| ByRoute {
                classes: Default::default(),
                duration: Histogram::new(REQUEST_BOUNDS),
                first_byte: Histogram::new(REQUEST_BOUNDS),
                received: Counter::default(),
                sent: Counter::default(),
            }),
            tools: ToolRequests::default(),
            in_flight: Gauge::default(),
            tunnels: Gauge::default(),
            failures: FAILURES.map(|_| Counter::default()),
            dry_run: Counter::default(),
            endings: Default::default(),
            fallback_failures: Counter::default(),
            connections: By::default(),
            accept_errors: By::default(),
            accept_waits: Counter::default(),
            no_proxy_header: By::default(),
            handshakes: By::default(),
            handshake: By::new(|| Histogram::new(CONNECT_BOUNDS)),
            handshake_failures: By::default(),
            http2_refusals: By::default(),
            destinations: By::new(|| ByDestination {
                connects: By::default(),
                connect: Histogram::new(CONNECT_BOUNDS),
                rides: By::default(),
                retries: Counter::default(),
                head: Histogram::new(REQUEST_BOUNDS),
            }),
            upstream_idle: Gauge::default(),
            h2c_idle: Gauge::default(),
            h2c_used: Gauge::default(),
            compression: Default::default(),
            compression_refused: Counter::default(),
            lag: Histogram::new(LAG_BOUNDS),
            tcp: TcpCounts::default(),
        }
    }

    /// Counts a request whose head is here; [`Shard::request`] is to follow.
    pub fn request_begins(&self) {
        self.in_flight.up();
    }

    /// Counts a request that has ended.
    pub fn request(&self, record: &Record<'_>) {
        self.in_flight.down();
        let class = class(record.status);
        if let Some(route) = self.routes.get(record.route as usize) {
            if let Some(counter) = route.classes.get(class) {
                counter.inc();
            }
            // How long a tunnel lives says nothing about how fast anything is.
            if record.status != 101 {
                route.duration.observe(record.duration);
            }
            if let Some(took) = record.first_byte {
                route.first_byte.observe(took);
            }
            route.received.add(record.received);
            route.sent.add(record.sent);
        }
        self.connections.at(record.client.over_tls.into(), |of| {
            if let Some(counter) = of.classes.get(class) {
                counter.inc();
            }
            of.received.add(record.received);
            of.sent.add(record.sent);
        });
        if let Some(counter) = self.endings.get(record.ending as usize) {
            counter.inc();
        }
        if let Some(tool) = record.tool {
            let names = &self.metrics.tool_names;
            let is_registered = || self.metrics.is_registered(tool);
            // Any name gets a default robots.txt.
            let exists = CLASSES.get(class) == Some(&"2xx") && !record.default_file;
            self.tools.count(names, tool, class, exists, is_registered);
        }
        if record.dry_run {
            self.dry_run.inc();
        }
        if let Some(failed) = record.failure {
            let place = FAILURES.iter().position(|(_, code)| *code == failed.code);
            if let Some(counter) = place.and_then(|place| self.failures.get(place)) {
                counter.inc();
            }
        }
        if record.attempts > 0
            && let Some(to) = To::of(record.route)
        {
            self.destinations.at(to, |to| to.count(record));
            if to == To::Fallback && record.failure.is_some() {
                self.fallback_failures.inc();
            }
        }
    }

    /// Counts an attempt to connect to a backend, and how long it took.
    pub fn connect(&self, route: Route, result: Connect, took: Duration) {
        let Some(to) = To::of(route) else { return };
        self.destinations.at(to, |to| {
            to.connects.inc(result);
            if result == Connect::Connected {
                to.connect.observe(took);
            }
        });
    }

    /// Counts a TLS handshake that came to something.
    pub fn handshake(&self, session: Option<&TlsSession>, took: Duration) {
        let Some(session) = session else { return };
        let version = match session.version {
            "TLSv1.2" => TlsVersion::V1_2,
            _ => TlsVersion::V1_3,
        };
        let resumed = session.resumed.into();
        self.handshakes.at(version, |of| of.inc(resumed));
        self.handshake.at(resumed, |times| times.observe(took));
    }

    /// Counts a connection that was accepted.
    pub fn accepted(&self, over_tls: bool) {
        self.connections.at(over_tls.into(), |of| of.accepted.inc());
    }

    /// Counts a connection that speaks this protocol, as open until the guard is dropped.
    pub fn open(&self, protocol: Protocol, over_tls: bool) -> Option<super::cells::Held<'_>> {
        let of = self.connections.0.get(YesNo::from(over_tls).place())?;
        of.opened.inc(protocol);
        Some(of.open.0.get(protocol.place())?.hold())
    }
}

impl ByDestination {
    fn count(&self, record: &Record<'_>) {
        self.rides.inc(match (record.reused, record.connect) {
            (true, _) => Ride::Reused,
            (false, Some(_)) => Ride::New,
            (false, None) => Ride::None,
        });
        self.retries.add(u64::from(record.attempts - 1));
        if let Some(took) = record.upstream_head {
            self.head.observe(took);
        }
    }
}
