//! Answers that portico gives itself: redirects, health, default files, and the page of every
//! failure (which are in `failure`, `words` and `pages`).
//!
//! Not done here: writing to the socket, and what becomes of the connection.

use std::borrow::Cow;

use portico_routing::host::Host;

use super::accept::Format;
use super::failure::Failure;
use super::headers::{ClientView, ResponseEditor};
use super::pages::{Page, Pages};
use crate::http1::{reason_phrase, write_field, write_status_line};
use crate::request_id::RequestId;

/// Methods named in Allow fields: the common ones. Others are forwarded as well, but for TRACE and
/// CONNECT.
const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The default `robots.txt`, for tools without one (T251628).
const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /\n";
/// The default icon, for tools without one (T251628).
const FAVICON: &[u8] = include_bytes!("favicon.ico");
/// Seconds after which a client may try again what was refused for want of room.
const RETRY_AFTER: &str = "5";

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
#[derive(Debug, Clone)]
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
        /// The name of the request.
        request_id: RequestId,
        /// The form that the client wants.
        format: Format,
        /// What pages look like.
        pages: &'a Pages,
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
    /// Appends the whole answer to `out`, which holds nothing else, and says how many bytes of it are
    /// body. `date` is the value of the Date field.
    ///
    /// Of fields that stand in `headers.set` too the answer's own wins: a policy of the site's would
    /// take a page its style, and what is set for tools' answers may let caches keep a failure.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        date: &str,
        shape: Shape,
        client: &ClientView<'_>,
        editor: &ResponseEditor,
    ) -> usize {
        let status = self.status();
        let content = self.content(date, client.host);
        write_status_line(out, status, reason_phrase(status).as_bytes());
        write_field(out, b"Date", date.as_bytes());
        write_field(out, b"Content-Type", content.media_type.as_bytes());
        let length = content.body.len();
        write_field(
            out,
            b"Content-Length",
            itoa::Buffer::new().format(length).as_bytes(),
        );
        write_field(out, b"X-Content-Type-Options", b"nosniff");
        match self {
            Self::Healthy => write_field(out, b"Cache-Control", b"no-store"),
            Self::Capabilities => write_field(out, b"Allow", ALLOW.as_bytes()),
            Self::Redirect { location, .. } => write_field(out, b"Location", location),
            Self::File(_) => write_field(out, b"Cache-Control", b"max-age=86400"),
            Self::Failure {
                failure,
                request_id,
                ..
            } => {
                write_field(out, b"Cache-Control", b"no-store");
                write_field(out, b"Vary", b"Accept");
                if let Some(policy) = content.policy {
                    write_field(out, b"Content-Security-Policy", policy.as_bytes());
                }
                write_field(out, b"X-Request-Id", request_id.to_string().as_bytes());
                if status == 405 {
                    write_field(out, b"Allow", ALLOW.as_bytes());
                }
                if failure.is_passing() {
                    write_field(out, b"Retry-After", RETRY_AFTER.as_bytes());
                }
            }
        }
        editor.write_set_beside(out, client);
        if shape.close {
            write_field(out, b"Connection", b"close");
        } else if shape.say_keep_alive {
            write_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
        if shape.head_only {
            return 0;
        }
        out.extend_from_slice(&content.body);
        content.body.len()
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::Healthy | Self::Capabilities | Self::File(_) => 200,
            Self::Redirect { status, .. } => *status,
            Self::Failure { failure, .. } => failure.status_and_side().0,
        }
    }

    fn content(&self, date: &str, host: Option<&Host>) -> Content<'_> {
        let of = |media_type, body| Content {
            media_type,
            policy: None,
            body,
        };
        match self {
            Self::Healthy => of(TEXT, Cow::from(b"proxy ok!\n")),
            Self::Capabilities => of(TEXT, Cow::from(b"")),
            Self::Redirect { location, .. } => {
                of(TEXT, Cow::from([b"See ", *location, b"\n"].concat()))
            }
            Self::File(DefaultFile::Robots) => of(TEXT, Cow::from(ROBOTS)),
            Self::File(DefaultFile::Favicon) => of("image/x-icon", Cow::from(FAVICON)),
            Self::Failure {
                failure,
                tool,
                request_id,
                format,
                pages,
            } => {
                let page = pages.render(&Page {
                    failure,
                    format: *format,
                    tool: *tool,
                    host: host.map(Host::as_str),
                    request_id: *request_id,
                    date,
                });
                Content {
                    media_type: page.content_type,
                    policy: page.policy,
                    body: Cow::from(page.body.into_bytes()),
                }
            }
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The body of an answer, and what its head says about it.
struct Content<'a> {
    media_type: &'static str,
    /// The Content-Security-Policy.
    policy: Option<&'a str>,
    body: Cow<'a, [u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::RequestError;
    use crate::request_id::RequestIds;
    use crate::response::failure::Side;
    use crate::response::pages::testing::pages;

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

    const DATE: &str = "Fri, 20 Nov 2026 13:00:00 GMT";

    /// With `headers` as the table of that name.
    fn written_with(answer: &Answer<'_>, shape: Shape, headers: &str) -> String {
        let text = format!("{}{headers}", crate::response::pages::testing::CONFIG);
        let config = portico_config::parse("test", &text).unwrap().config;
        let mut out = Vec::new();
        let editor = ResponseEditor::new(&config.headers);
        answer.write(&mut out, DATE, shape, &VIEW, &editor);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn written(answer: &Answer<'_>, shape: Shape) -> String {
        written_with(answer, shape, "")
    }

    fn failure_of<'a>(failure: &'a Failure, format: Format, pages: &'a Pages) -> Answer<'a> {
        Answer::Failure {
            failure,
            tool: Some("mytool"),
            request_id: RequestIds::default().next(),
            format,
            pages,
        }
    }

    #[track_caller]
    fn check(failure: Failure, status: u16, side: Side, text: &str) {
        assert_eq!(failure.status_and_side(), (status, side));
        let pages = pages("");
        let answer = failure_of(&failure, Format::Text, &pages);
        let written = written(&answer, SHAPE);
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains(&format!("\r\nDate: {DATE}\r\n")), "{head}");
        assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
        assert!(head.contains("\r\nVary: Accept\r\n"), "{head}");
        assert!(
            head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert_eq!(head.contains("Retry-After"), status == 503, "{head}");
        assert_eq!(head.contains("Allow: GET"), status == 405, "{head}");
        let (_, id) = head.split_once("\r\nX-Request-Id: ").unwrap();
        let id = id.lines().next().unwrap();
        for part in [
            text,
            "tool: mytool",
            "help: https://help.example/",
            &format!("fault: {side}"),
            &format!("request: {id}"),
        ] {
            assert!(body.contains(part), "{part:?} in {body}");
        }
    }

    /// Twice the same field would be two policies, both in force.
    #[test]
    fn what_the_answer_says_wins_over_headers_set() {
        let set = "[headers.set]\ncontent-security-policy = 'img-src {host}'\nCache-Control = 'public'\nX-A = 'b'";
        let pages = pages("");
        let answer = failure_of(&Failure::ToolBusy, Format::Html, &pages);
        let html = written_with(&answer, SHAPE, set);
        assert_eq!(html.matches("default-src 'none'").count(), 1, "{html}");
        for absent in ["img-src", "public"] {
            assert!(!html.contains(absent), "{html}");
        }
        assert!(html.contains("\r\nX-A: b\r\n"), "{html}");
        let healthy = written_with(&Answer::Healthy, SHAPE, set);
        assert!(
            healthy.contains("img-src") && !healthy.contains("public"),
            "{healthy}"
        );
        let capable = written_with(&Answer::Capabilities, SHAPE, set);
        assert!(
            capable.contains("\r\nCache-Control: public\r\n"),
            "{capable}"
        );
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
            "This tool cannot be reached",
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
