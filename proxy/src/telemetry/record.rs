//! What is known of a request when it has ended: what metrics count and the access log writes.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use portico_routing::decide::Reason;

use crate::client::ClientInfo;
use crate::http1::Version;
use crate::request_id::RequestId;
use crate::response::failure::{Failure, Side};

/// A request that has ended. Borrowed: it lives as long as it takes to count and log it.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its name.
    pub id: RequestId,
    /// When it ended.
    pub time: SystemTime,
    /// Who sent it.
    pub client: &'a ClientInfo,
    /// The version that the client speaks; `None`: no head could be read.
    pub version: Option<Version>,
    /// What the access log wants of the head; empty without an access log.
    pub text: HeadText<'a>,
    /// The canonical host.
    pub host: Option<&'a str>,
    /// The tool, registered or not.
    pub tool: Option<&'a str>,
    /// Where it went, or would have gone.
    pub route: Route,
    /// The rule that decided.
    pub reason: Option<Reason>,
    /// The final answer's status; 0: none was begun.
    pub status: u16,
    /// The failure that portico answered with, or would have if the client had waited or the answer had
    /// not begun.
    pub failure: Option<Failed>,
    /// The answer was portico's default for a file that the backend lacks: its 200 says nothing of
    /// the tool.
    pub default_file: bool,
    /// A policy would have refused it, but for its dry run.
    pub dry_run: bool,
    /// How it ended.
    pub ending: Ending,
    /// Bytes of the request's body, without framing.
    pub received: u64,
    /// Bytes of the answer's body as they were sent, without framing.
    pub sent: u64,
    /// The backend that the last attempt went to.
    pub upstream: Option<SocketAddr>,
    /// Attempts to send it to a backend: 0 if portico answered by itself.
    pub attempts: u8,
    /// The last attempt rode a connection that had carried others.
    pub reused: bool,
    /// From the end of the head to the end of the answer.
    pub duration: Duration,
    /// From the end of the head to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// How long the last new connection to a backend took.
    pub connect: Option<Duration>,
    /// From the begin of the last attempt's sending to the head of its answer.
    pub upstream_head: Option<Duration>,
    /// How long it waited for a place at a node of the ingress; `None`: it did not have to.
    pub queued: Option<Duration>,
}

impl<'a> Record<'a> {
    /// Of what was no request.
    pub fn new(id: RequestId, client: &'a ClientInfo) -> Self {
        Self {
            id,
            time: SystemTime::now(),
            client,
            version: None,
            text: HeadText::default(),
            host: None,
            tool: None,
            route: Route::None,
            reason: None,
            status: 0,
            failure: None,
            default_file: false,
            dry_run: false,
            ending: Ending::Complete,
            received: 0,
            sent: 0,
            upstream: None,
            attempts: 0,
            reused: false,
            duration: Duration::ZERO,
            first_byte: None,
            connect: None,
            upstream_head: None,
            queued: None,
        }
    }

    /// The status that the access log has where no answer was begun: that of nginx, 400 for what was
    /// no request and 499 for a client that left. 0 if there is none.
    pub fn logged_status(&self) -> u16 {
        match (self.status, self.failure, self.ending) {
            (0, Some(_), _) => 400,
            (0, None, Ending::ClientGone) => 499,
            (status, _, _) => status,
        }
    }
}

/// The end of a request.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// When, to measure by.
    pub at: Instant,
    /// When, to show.
    pub time: SystemTime,
}

/// Bytes of the request's head as the client sent them: nothing in them is to be trusted.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadText<'a> {
    /// The request line without its end. Over HTTP/2 `METHOD target HTTP/2.0`. Of what is no
    /// request: the first line, cut.
    pub line: &'a [u8],
    /// Referer; `None`: there was none.
    pub referer: Option<&'a [u8]>,
    /// User-Agent.
    pub user_agent: Option<&'a [u8]>,
}

/// Where a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// To the address that a route of the tool names.
    Tool,
    /// To a node of the ingress.
    Ingress,
    /// To the 404 backend.
    Fallback,
    /// Elsewhere: portico answered with a redirect.
    Redirect,
    /// To portico itself: health, `OPTIONS *`.
    Own,
    /// Nowhere: a policy refused it.
    Refused,
    /// Nowhere: it was no valid request, or nothing lives at its host.
    None,
}

/// A failure that portico answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// What, as one word: see [`Failure::code`].
    pub code: &'static str,
    /// Whose fault.
    pub side: Side,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The answer went out whole.
    Complete,
    /// The client left, or took nothing for too long.
    ClientGone,
    /// The backend's answer broke off half-way.
    BrokenOff,
    /// portico ended it: `server.drain` was over, it broke HTTP/2, or its body failed when the answer
    /// had begun.
    Cut,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Tool,
        Self::Ingress,
        Self::Fallback,
        Self::Redirect,
        Self::Own,
        Self::Refused,
        Self::None,
    ];

    /// The word of logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Ingress => "ingress",
            Self::Fallback => "fallback",
            Self::Redirect => "redirect",
            Self::Own => "own",
            Self::Refused => "refused",
            Self::None => "none",
        }
    }
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Complete, Self::ClientGone, Self::BrokenOff, Self::Cut];

    /// The word of logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::BrokenOff => "broken_off",
            Self::Cut => "cut",
        }
    }
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        Self {
            code: failure.code(),
            side: failure.status_and_side().1,
        }
    }
}
