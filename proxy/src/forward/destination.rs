//! Where a request goes, and whose fault it is when that goes wrong.

use std::sync::Arc;

use portico_routing::backend::{Backend, Scheme};

use crate::http1::Framing;
use crate::outgoing::Coding;
use crate::pools::Pool;
use crate::response::failure::Failure;
use crate::telemetry::record::Route;
use crate::upstream::fallback::Fallback;

/// Where a request goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To the address that the tool's route names.
    Tool(Backend),
    /// To a node of the ingress pool.
    Ingress(Arc<Pool>),
    /// To the 404 backend, since nothing else answers.
    Fallback(Arc<Fallback>),
}

/// What goes wrong between portico and a backend; whose fault it is depends on the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendFault {
    /// No connection.
    Unreachable,
    /// The route points where portico may not connect.
    Forbidden,
    /// The name has no address.
    Unresolved,
    /// The connection ended before the answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// The answer is not HTTP.
    Malformed,
    /// portico has no descriptor, port or memory left for a connection.
    Exhausted,
}

impl BackendFault {
    /// What the log says of it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "it cannot be connected to",
            Self::Forbidden => "its address is not allowed",
            Self::Unresolved => "its name does not resolve",
            Self::Closed => "it closed the connection without an answer",
            Self::Timeout => "it does not answer in time",
            Self::Malformed => "its answer is not valid HTTP",
            Self::Exhausted => "there is no room for a connection",
        }
    }
}

impl Destination {
    /// Whether requests go there over HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        match self {
            Self::Tool(backend) => backend.scheme == Scheme::H2c,
            Self::Fallback(fallback) => fallback.backend.scheme == Scheme::H2c,
            Self::Ingress(_) => false,
        }
    }

    /// What logs and metrics call it.
    pub fn route(&self) -> Route {
        match self {
            Self::Tool(_) => Route::Tool,
            Self::Ingress(_) => Route::Ingress,
            Self::Fallback(_) => Route::Fallback,
        }
    }

    /// How a body goes there that a client has framed so: HTTP/2 has frames for all.
    pub fn coding(&self, framing: Framing) -> Coding {
        match framing {
            Framing::Chunked if !self.speaks_http2() => Coding::Chunked,
            Framing::Chunked | Framing::None | Framing::Length(_) | Framing::UntilClose => {
                Coding::Raw
            }
        }
    }

    /// The fault as a failure that names the right side: of a tool's own address the tool, of the
    /// ingress the platform. That of the fallback is for the log: its client asked for what is not
    /// there in any case.
    pub fn blame(&self, fault: BackendFault) -> Failure {
        match (self, fault) {
            (Self::Tool(_) | Self::Ingress(_), BackendFault::Exhausted) => Failure::Exhausted,
            (Self::Tool(_), BackendFault::Unreachable) => Failure::ToolUnreachable,
            (Self::Tool(_), BackendFault::Forbidden) => Failure::ToolForbidden,
            (Self::Tool(_), BackendFault::Unresolved) => Failure::ToolUnresolved,
            (Self::Tool(_), BackendFault::Closed) => Failure::ToolClosed,
            (Self::Tool(_), BackendFault::Timeout) => Failure::ToolTimeout,
            (Self::Tool(_), BackendFault::Malformed) => Failure::ToolMalformed,
            (
                Self::Ingress(_),
                BackendFault::Unreachable | BackendFault::Forbidden | BackendFault::Unresolved,
            ) => Failure::PlatformUnreachable,
            (Self::Ingress(_), BackendFault::Closed) => Failure::PlatformClosed,
            (Self::Ingress(_), BackendFault::Timeout) => Failure::PlatformTimeout,
            (Self::Ingress(_), BackendFault::Malformed) => Failure::PlatformMalformed,
            // Said already, and not its fault.
            (Self::Fallback(_), BackendFault::Exhausted) => Failure::NotFound,
            (Self::Fallback(fallback), fault) => {
                fallback.failed(fault.as_str());
                Failure::NotFound
            }
        }
    }
}
