//! What came of a check in HAProxy's codes, which scripts and people know.

use portico_config::CheckKind;

use super::probe::{Awaited, ProbeError};

/// A code: the layer at which it was decided, and what was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckCode {
    /// Connected, which is all that was asked.
    L4Ok,
    /// It could not be connected to.
    L4Con,
    /// No connection in time.
    L4Tout,
    /// The TLS handshake failed.
    L6Rsp,
    /// It did not end in time.
    L6Tout,
    /// Answered as expected.
    L7Ok,
    /// Answered what is no HTTP, or not at all.
    L7Rsp,
    /// Answered with another status.
    L7Sts,
    /// No answer in time.
    L7Tout,
    /// This machine failed.
    SockErr,
}

impl CheckCode {
    pub(super) fn of(kind: &CheckKind, outcome: &Result<(), ProbeError>) -> Self {
        let Err(error) = outcome else {
            return match kind {
                CheckKind::Tcp => Self::L4Ok,
                CheckKind::Http(_) | CheckKind::Https { .. } => Self::L7Ok,
            };
        };
        match error {
            // HAProxy would put the server into maintenance; here it is one that cannot be reached.
            ProbeError::Unresolved | ProbeError::Refused(_) | ProbeError::Connect(_) => Self::L4Con,
            ProbeError::Exhausted(_) | ProbeError::NoTls(_) => Self::SockErr,
            ProbeError::Handshake(_) => Self::L6Rsp,
            ProbeError::Timeout { what, .. } => match what {
                Awaited::Connection => Self::L4Tout,
                Awaited::Handshake => Self::L6Tout,
                Awaited::Answer => Self::L7Tout,
            },
            ProbeError::Closed
            | ProbeError::Broken(_)
            | ProbeError::NotHttp(_)
            | ProbeError::TooLong => Self::L7Rsp,
            ProbeError::Status { .. } => Self::L7Sts,
        }
    }

    /// HAProxy's code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L4Ok => "L4OK",
            Self::L4Con => "L4CON",
            Self::L4Tout => "L4TOUT",
            Self::L6Rsp => "L6RSP",
            Self::L6Tout => "L6TOUT",
            Self::L7Ok => "L7OK",
            Self::L7Rsp => "L7RSP",
            Self::L7Sts => "L7STS",
            Self::L7Tout => "L7TOUT",
            Self::SockErr => "SOCKERR",
        }
    }

    /// HAProxy's words for it.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::L4Ok => "Layer4 check passed",
            Self::L4Con => "Layer4 connection problem",
            Self::L4Tout => "Layer4 timeout",
            Self::L6Rsp => "Layer6 invalid response",
            Self::L6Tout => "Layer6 timeout",
            Self::L7Ok => "Layer7 check passed",
            Self::L7Rsp => "Layer7 invalid response",
            Self::L7Sts => "Layer7 wrong status",
            Self::L7Tout => "Layer7 timeout",
            Self::SockErr => "Socket error",
        }
    }
}
