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

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(error: ProbeError, code: &str, words: &str) {
        let found = CheckCode::of(&CheckKind::Tcp, &Err(error));
        assert_eq!((found.as_str(), found.in_words()), (code, words));
    }

    /// As HAProxy's manual has them (management.txt, 9.1).
    #[test]
    fn codes() {
        let limit = Duration::from_secs(5);
        let timeout = |what| ProbeError::Timeout { what, limit };
        let io = || Error::from(ErrorKind::ConnectionRefused);
        let connection = "Layer4 connection problem";
        check(ProbeError::Connect(io()), "L4CON", connection);
        check(ProbeError::Unresolved, "L4CON", connection);
        check(timeout(Awaited::Connection), "L4TOUT", "Layer4 timeout");
        check(
            ProbeError::Handshake(io()),
            "L6RSP",
            "Layer6 invalid response",
        );
        check(timeout(Awaited::Handshake), "L6TOUT", "Layer6 timeout");
        check(ProbeError::Closed, "L7RSP", "Layer7 invalid response");
        check(ProbeError::TooLong, "L7RSP", "Layer7 invalid response");
        check(timeout(Awaited::Answer), "L7TOUT", "Layer7 timeout");
        let status = ProbeError::Status {
            status: 503,
            expected: 200,
        };
        check(status, "L7STS", "Layer7 wrong status");
        check(ProbeError::Exhausted(io()), "SOCKERR", "Socket error");
        assert_eq!(CheckCode::of(&CheckKind::Tcp, &Ok(())).as_str(), "L4OK");
    }
}
