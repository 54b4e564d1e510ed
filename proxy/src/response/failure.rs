//! Why portico answers in place of a tool, and whose fault it is.
//!
//! One exhaustive match turns a [`Failure`] into status and side, another into the sentence for the
//! person who reads it. Texts name no internal address. What there is to do about it is in `words`,
//! how it looks in `pages`.

use std::fmt;

use portico_routing::host::HostError;
use portico_routing::path::PathError;

use crate::http1::{BodyError, RequestError};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client sent something wrong.
    Client,
    /// The tool's own web service.
    Tool,
    /// The platform behind portico: its ingress or its registry.
    Platform,
    /// portico itself.
    Proxy,
}

/// Why portico answers in place of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The head breaks HTTP.
    Malformed(RequestError),
    /// The head did not come in time.
    HeaderTimeout,
    /// The Host field is missing (HTTP/1.0) or breaks the rules for names.
    BadHost(Option<HostError>),
    /// The path has no canonical form.
    BadPath(PathError),
    /// The body breaks HTTP.
    BadBody(BodyError),
    /// The body stopped coming.
    BodyTimeout,
    /// The body is larger than `limits.body`.
    BodyTooLarge,
    /// No User-Agent.
    NoUserAgent,
    /// The request came through this proxy before.
    Loop,
    /// Nothing lives at this host.
    NotFound,
    /// The tool has too many requests in flight.
    ToolBusy,
    /// The tool's web service cannot be connected to.
    ToolUnreachable,
    /// The tool's web service ended the connection before it answered.
    ToolClosed,
    /// The tool's web service does not answer in time.
    ToolTimeout,
    /// The tool's web service answers something that is not HTTP.
    ToolMalformed,
    /// The tool's route points where portico may not connect.
    ToolForbidden,
    /// The name in the tool's route is not resolved.
    ToolUnresolved,
    /// No node of the ingress can be connected to.
    PlatformUnreachable,
    /// The ingress ended the connection before it answered.
    PlatformClosed,
    /// The ingress does not answer in time.
    PlatformTimeout,
    /// The ingress answers something that is not HTTP.
    PlatformMalformed,
    /// Every node of the ingress has as many requests as it may, and the queue is full or was too
    /// slow.
    PlatformBusy,
    /// All nodes of the ingress are drained or in maintenance.
    PlatformDrained,
    /// The request is for the ingress, and none is configured.
    NoIngress,
    /// portico has no descriptor, port or memory left to connect to a backend.
    Exhausted,
}

impl Failure {
    /// The status code of the answer, and whose fault it is.
    pub fn status_and_side(&self) -> (u16, Side) {
        match self {
            Self::Malformed(error) => (error.status(), Side::Client),
            Self::HeaderTimeout | Self::BodyTimeout => (408, Side::Client),
            Self::BadHost(_) | Self::BadPath(_) | Self::BadBody(_) => (400, Side::Client),
            Self::BodyTooLarge => (413, Side::Client),
            Self::NoUserAgent => (403, Side::Client),
            Self::NotFound | Self::NoIngress => (404, Side::Client),
            Self::Loop => (508, Side::Platform),
            Self::ToolBusy => (503, Side::Tool),
            Self::ToolUnreachable | Self::ToolClosed | Self::ToolMalformed => (502, Side::Tool),
            Self::ToolForbidden | Self::ToolUnresolved => (502, Side::Tool),
            Self::ToolTimeout => (504, Side::Tool),
            Self::PlatformUnreachable | Self::PlatformClosed | Self::PlatformMalformed => {
                (502, Side::Platform)
            }
            Self::PlatformTimeout => (504, Side::Platform),
            Self::PlatformBusy | Self::PlatformDrained => (503, Side::Platform),
            Self::Exhausted => (503, Side::Proxy),
        }
    }

    /// One word for logs and metrics; a fixed, small set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::HeaderTimeout => "header_timeout",
            Self::BadHost(_) => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::BadBody(_) => "bad_body",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::NoUserAgent => "no_user_agent",
            Self::Loop => "loop",
            Self::NotFound => "not_found",
            Self::ToolBusy => "tool_busy",
            Self::ToolUnreachable => "tool_unreachable",
            Self::ToolClosed => "tool_closed",
            Self::ToolTimeout => "tool_timeout",
            Self::ToolMalformed => "tool_malformed",
            Self::ToolForbidden => "tool_forbidden",
            Self::ToolUnresolved => "tool_unresolved",
            Self::PlatformUnreachable => "platform_unreachable",
            Self::PlatformClosed => "platform_closed",
            Self::PlatformTimeout => "platform_timeout",
            Self::PlatformMalformed => "platform_malformed",
            Self::PlatformBusy => "platform_busy",
            Self::PlatformDrained => "platform_drained",
            Self::NoIngress => "no_ingress",
            Self::Exhausted => "exhausted",
        }
    }

    /// Whether trying again soon may help. A timeout (504) is none of these: who waited for it would
    /// wait again.
    pub fn is_passing(&self) -> bool {
        matches!(self.status_and_side().0, 429 | 503)
    }

    /// Whether the connection can go on. After bytes that break the rules it cannot: what follows
    /// them is not to be trusted.
    pub fn keeps_connection(&self) -> bool {
        !matches!(
            self,
            Self::Malformed(_)
                | Self::HeaderTimeout
                | Self::BadHost(_)
                | Self::BadPath(_)
                | Self::BadBody(_)
                | Self::BodyTimeout
                | Self::BodyTooLarge
        )
    }
}

/// The sentence for the person who reads the answer.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "Your client's request is not accepted: {error}."),
            Self::HeaderTimeout => f.write_str("Your client took too long to send its request."),
            Self::BadHost(None) => f.write_str("The request names no host."),
            Self::BadHost(Some(error)) => write!(f, "The request's host is not valid: {error}."),
            Self::BadPath(error) => write!(f, "The request's path is not valid: {error}."),
            Self::BadBody(error) => write!(f, "The request's body is malformed: {error}."),
            Self::BodyTimeout => f.write_str("Your client stopped sending its request's body."),
            Self::BodyTooLarge => f.write_str("The request's body is larger than this service allows."),
            Self::NoUserAgent => f.write_str(
                "Requests must have a user agent, and yours has none.",
            ),
            Self::Loop => f.write_str(
                "The request has come through this proxy before: its route leads back here.",
            ),
            Self::NotFound | Self::NoIngress => f.write_str(
                "The URL you have requested is not served here.",
            ),
            Self::ToolBusy => f.write_str(
                "The tool is overloaded: too many requests to it are in flight.",
            ),
            Self::ToolUnreachable => f.write_str(
                "The tool's web service does not run, or refuses connections.",
            ),
            Self::ToolClosed => f.write_str(
                "The tool's web service closed the connection without an answer.",
            ),
            Self::ToolTimeout => f.write_str(
                "The tool's web service did not answer in time.",
            ),
            Self::ToolMalformed => f.write_str(
                "The tool's web service sent an answer that is not valid HTTP.",
            ),
            Self::ToolForbidden => f.write_str(
                "The tool's route points at an address that is not allowed.",
            ),
            Self::ToolUnresolved => f.write_str(
                "The tool's route points at a name that does not resolve.",
            ),
            Self::PlatformUnreachable => f.write_str(
                "None of the platform's ingress nodes can be reached.",
            ),
            Self::PlatformClosed => f.write_str(
                "The platform's ingress closed the connection without an answer.",
            ),
            Self::PlatformTimeout => f.write_str(
                "The platform's ingress did not answer in time. The tool may be slow, or the platform may have a problem.",
            ),
            Self::PlatformMalformed => f.write_str(
                "The platform's ingress sent an answer that is not valid HTTP.",
            ),
            Self::PlatformBusy => f.write_str(
                "The platform is busy: it has as many requests as it can take.",
            ),
            Self::PlatformDrained => f.write_str(
                "The platform is being worked on: its ingress takes no requests at the moment.",
            ),
            Self::Exhausted => f.write_str(
                "The proxy has no room for another connection.",
            ),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Tool => "tool",
            Self::Platform => "platform",
            Self::Proxy => "proxy",
        })
    }
}
