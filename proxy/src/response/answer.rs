//! Answers that portico gives itself: redirects, health, default files, and every failure,
//! with whose fault it is.
//!
//! One exhaustive match turns a [`Failure`] into status and side, another into the sentence for the
//! person who reads it. Texts name the tool and what to do, never an internal address. Branded
//! pages replace the plain text in a later issue; what they need is here.
//!
//! Not done here: writing to the socket, and what becomes of the connection.

use std::fmt;
use std::time::SystemTime;

use portico_routing::host::{Host, HostError};
use portico_routing::path::PathError;

use super::headers::{ClientView, ResponseEditor};
use crate::http1::{BodyError, RequestError, reason_phrase, write_field, write_status_line};

/// Methods named in Allow fields: the common ones. Others are forwarded as well, but for TRACE and
/// CONNECT.
const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The default `robots.txt`, for tools without one (T251628).
const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /\n";
/// The default icon, for tools without one (T251628).
const FAVICON: &[u8] = include_bytes!("favicon.ico");
/// Seconds after which a client may try again what was refused for want of room.
const RETRY_AFTER: &str = "5";

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
            Self::Exhausted => (503, Side::Proxy),
        }
    }

    /// Whether trying again soon may help.
    fn is_passing(&self) -> bool {
        self.status_and_side().0 == 503
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
                "Requests must have a user agent. Send a User-Agent header that names your client and how to reach you.",
            ),
            Self::Loop => f.write_str(
                "The request has come through this proxy before: its route leads back here. The route must be changed.",
            ),
            Self::NotFound | Self::NoIngress => f.write_str(
                "The URL you have requested is not served here. Check it for typing errors.",
            ),
            Self::ToolBusy => f.write_str(
                "The tool is overloaded: too many requests to it are in flight. Try again in a moment.",
            ),
            Self::ToolUnreachable => f.write_str(
                "The tool's web service cannot be reached: it does not run, or refuses connections. Its maintainers can restart it.",
            ),
            Self::ToolClosed => f.write_str(
                "The tool's web service closed the connection without an answer. Its maintainers find the reason in its logs.",
            ),
            Self::ToolTimeout => f.write_str(
                "The tool's web service did not answer in time. Its maintainers find the reason in its logs.",
            ),
            Self::ToolMalformed => f.write_str(
                "The tool's web service sent an answer that is not valid HTTP. Its maintainers can mend it.",
            ),
            Self::ToolForbidden => f.write_str(
                "The tool's route points at an address that is not allowed. Its maintainers must register it anew.",
            ),
            Self::ToolUnresolved => f.write_str(
                "The tool's route points at a name that does not resolve. Its maintainers can check it.",
            ),
            Self::PlatformUnreachable => f.write_str(
                "The platform has a problem: none of its ingress nodes can be reached. Its administrators can mend it.",
            ),
            Self::PlatformClosed => f.write_str(
                "The platform has a problem: its ingress closed the connection without an answer. Its administrators can mend it.",
            ),
            Self::PlatformTimeout => f.write_str(
                "The platform's ingress did not answer in time. The tool may be slow, or the platform may have a problem.",
            ),
            Self::PlatformMalformed => f.write_str(
                "The platform's ingress sent an answer that is not valid HTTP. Its administrators can mend it.",
            ),
            Self::Exhausted => f.write_str(
                "The proxy has no room for another connection. Try again in a moment; its administrators can give it more.",
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

/// A file that portico has when a tool has none (T251628).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultFile {
    /// `/robots.txt`
    Robots,
    /// `/favicon.ico`
    Favicon,
}

impl DefaultFile {
    /// The default for this path, if there is one. On a legacy host that is the host's own file: a
    /// tool's `/<tool>/robots.txt` means nothing to crawlers.
    pub fn for_path(path: &[u8]) -> Option<Self> {
        match path {
            b"/robots.txt" => Some(Self::Robots),
            b"/favicon.ico" => Some(Self::Favicon),
            _ => None,
        }
    }
}

/// An answer of portico's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The health check of the service: 200.
    Healthy,
    /// `OPTIONS *` (RFC 9110 section 9.3.7): what the server can do.
    Capabilities,
    /// A redirect to `location`, which is safe to write.
    Redirect {
        /// 301, 302 or 307.
        status: u16,
        /// An absolute URL.
        location: &'a [u8],
    },
    /// A file that the tool lacks.
    File(DefaultFile),
    /// Something went wrong.
    Failure {
        /// What.
        failure: &'a Failure,
        /// The tool that the request is for, as far as it is known.
        tool: Option<&'a str>,
        /// `fallback.help_url`.
        help_url: Option<&'a str>,
    },
}

/// How the answer is written.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The request was HEAD: no body.
    pub head_only: bool,
    /// The connection closes after it.
    pub close: bool,
    /// Say `Connection: keep-alive`, which HTTP/1.0 clients need to hear.
    pub say_keep_alive: bool,
}

impl Answer<'_> {
    /// Appends the whole answer to `out`.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        shape: Shape,
        client: &ClientView<'_>,
        editor: &ResponseEditor,
    ) {
        let status = self.status();
        let (content_type, body) = self.body(client.host);
        write_status_line(out, status, reason_phrase(status).as_bytes());
        let date = httpdate::fmt_http_date(SystemTime::now());
        write_field(out, b"Date", date.as_bytes());
        write_field(out, b"Content-Type", content_type.as_bytes());
        write_field(out, b"Content-Length", body.len().to_string().as_bytes());
        write_field(out, b"X-Content-Type-Options", b"nosniff");
        match self {
            Self::Healthy => write_field(out, b"Cache-Control", b"no-store"),
            Self::Capabilities => write_field(out, b"Allow", ALLOW.as_bytes()),
            Self::Redirect { location, .. } => write_field(out, b"Location", location),
            Self::File(_) => write_field(out, b"Cache-Control", b"max-age=86400"),
            Self::Failure { failure, .. } => {
                write_field(out, b"Cache-Control", b"no-store");
                if status == 405 {
                    write_field(out, b"Allow", ALLOW.as_bytes());
                }
                if failure.is_passing() {
                    write_field(out, b"Retry-After", RETRY_AFTER.as_bytes());
                }
            }
        }
        editor.write_set(out, client);
        if shape.close {
            write_field(out, b"Connection", b"close");
        } else if shape.say_keep_alive {
            write_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
        if !shape.head_only {
            out.extend_from_slice(&body);
        }
    }

    fn status(&self) -> u16 {
        match self {
            Self::Healthy | Self::Capabilities | Self::File(_) => 200,
            Self::Redirect { status, .. } => *status,
            Self::Failure { failure, .. } => failure.status_and_side().0,
        }
    }

    fn body(&self, host: Option<&Host>) -> (&'static str, Vec<u8>) {
        const TEXT: &str = "text/plain; charset=utf-8";
        match self {
            Self::Healthy => (TEXT, b"proxy ok!\n".to_vec()),
            Self::Capabilities => (TEXT, Vec::new()),
            Self::Redirect { location, .. } => (TEXT, [b"See ", *location, b"\n"].concat()),
            Self::File(DefaultFile::Robots) => (TEXT, ROBOTS.to_vec()),
            Self::File(DefaultFile::Favicon) => ("image/x-icon", FAVICON.to_vec()),
            Self::Failure {
                failure,
                tool,
                help_url,
            } => (
                TEXT,
                failure_text(failure, *tool, *help_url, host).into_bytes(),
            ),
        }
    }
}

/// Status, sentence, whose fault, which tool and host: for a person without a browser, too.
fn failure_text(
    failure: &Failure,
    tool: Option<&str>,
    help_url: Option<&str>,
    host: Option<&Host>,
) -> String {
    use fmt::Write as _;
    let (status, side) = failure.status_and_side();
    let mut text = format!(
        "{status} {}\n\n{failure}\n\nfault: {side}\n",
        reason_phrase(status)
    );
    if let Some(tool) = tool {
        let _ = writeln!(text, "tool: {tool}");
    }
    if let Some(host) = host {
        let _ = writeln!(text, "host: {host}");
    }
    if let Some(url) = help_url {
        let _ = writeln!(text, "help: {url}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        head_only: false,
        close: false,
        say_keep_alive: false,
    };
    const VIEW: ClientView<'_> = ClientView {
        host: None,
        over_tls: true,
        shared_host: false,
    };

    fn written(answer: &Answer<'_>, shape: Shape) -> String {
        let mut out = Vec::new();
        answer.write(&mut out, shape, &VIEW, &ResponseEditor::default());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[track_caller]
    fn check(failure: Failure, status: u16, side: Side, text: &str) {
        assert_eq!(failure.status_and_side(), (status, side));
        let answer = Answer::Failure {
            failure: &failure,
            tool: Some("mytool"),
            help_url: Some("https://help.example/"),
        };
        let written = written(&answer, SHAPE);
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("Cache-Control: no-store"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert_eq!(head.contains("Retry-After"), status == 503, "{head}");
        assert_eq!(head.contains("Allow: GET"), status == 405, "{head}");
        for part in [
            text,
            "tool: mytool",
            "help: https://help.example/",
            &format!("fault: {side}"),
        ] {
            assert!(body.contains(part), "{part:?} in {body}");
        }
    }

    #[test]
    fn failures_say_whose_they_are() {
        check(
            Failure::NotFound,
            404,
            Side::Client,
            "The URL you have requested",
        );
        check(
            Failure::NoUserAgent,
            403,
            Side::Client,
            "Requests must have a user agent",
        );
        check(Failure::ToolBusy, 503, Side::Tool, "overloaded");
        check(
            Failure::ToolUnreachable,
            502,
            Side::Tool,
            "web service cannot be reached",
        );
        check(
            Failure::PlatformUnreachable,
            502,
            Side::Platform,
            "platform has a problem",
        );
        check(
            Failure::Loop,
            508,
            Side::Platform,
            "come through this proxy before",
        );
        check(
            Failure::Malformed(RequestError::MethodNotAllowed),
            405,
            Side::Client,
            "not accepted",
        );
    }

    #[test]
    fn head_has_the_length_of_a_body_that_is_not_sent() {
        let shape = Shape {
            head_only: true,
            ..SHAPE
        };
        let with_body = written(&Answer::Healthy, SHAPE);
        let without = written(&Answer::Healthy, shape);
        assert!(with_body.ends_with("\r\n\r\nproxy ok!\n"), "{with_body}");
        assert!(
            without.ends_with("\r\n\r\n") && without.contains("Content-Length: 10"),
            "{without}"
        );
    }

    #[test]
    fn the_connection_field_is_said_where_it_is_needed() {
        let close = Shape {
            close: true,
            ..SHAPE
        };
        let keep = Shape {
            say_keep_alive: true,
            ..SHAPE
        };
        assert!(!written(&Answer::Capabilities, SHAPE).contains("Connection"));
        assert!(written(&Answer::Capabilities, close).contains("Connection: close"));
        assert!(written(&Answer::Capabilities, keep).contains("Connection: keep-alive"));
    }

    #[test]
    fn default_files() {
        assert_eq!(
            DefaultFile::for_path(b"/robots.txt"),
            Some(DefaultFile::Robots)
        );
        assert_eq!(
            DefaultFile::for_path(b"/favicon.ico"),
            Some(DefaultFile::Favicon)
        );
        assert_eq!(DefaultFile::for_path(b"/a/robots.txt"), None);
    }
}
