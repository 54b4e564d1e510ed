//! Where a request goes, and whose fault it is when that goes wrong.

use std::sync::Arc;

use portico_routing::backend::Backend;

use crate::response::answer::Failure;
use crate::upstream::nodes::NodePool;

/// Where a request goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To the address that the tool's route names.
    Tool(Arc<Backend>),
    /// To a node of the ingress pool.
    Ingress(Arc<NodePool>),
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

impl Destination {
    /// The fault as a failure that names the right side: of a tool's own address the tool, of the
    /// ingress the platform.
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
        }
    }
}
