//! What pages say beside the sentence of a [`Failure`]: a headline, and what can be done about it,
//! by the reader and by whoever can mend it.
//!
//! Written for somebody who wanted a tool and got this instead. No internal address or name.

use super::failure::{Failure, Side};

/// What a page says of a failure. Empty texts are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The headline, without a full stop.
    pub title: &'static str,
    /// What the reader can do.
    pub advice: &'static str,
    /// Who can mend it.
    pub maintainers: &'static str,
    /// What they can do.
    pub remedy: &'static str,
}

const CLIENT: &str = "the client's authors";
const TOOL: &str = "the tool's maintainers";
const PLATFORM: &str = "the platform's administrators";

const TRY_LATER: &str = "Try again later. If it goes on, tell the tool's maintainers.";
const TELL_ADMINISTRATORS: &str =
    "Try again in a few minutes. If it goes on, tell the platform's administrators.";

impl Words {
    /// What the page of a failure says.
    pub fn of(failure: &Failure) -> Self {
        let words = |title, advice, maintainers, remedy| Self {
            title,
            advice,
            maintainers,
            remedy,
        };
        match failure {
            Failure::Malformed(error) => Self::of_malformed(error.status()),
            Failure::HeaderTimeout | Failure::BodyTimeout => words(
                "Your request took too long",
                "Try again. If it goes on, your connection may be slow or broken.",
                "",
                "",
            ),
            Failure::BadHost(_) => words(
                "This host name is not valid",
                "Check the address for typing errors.",
                CLIENT,
                "Name the host in the Host header as RFC 9110 section 7.2 has it.",
            ),
            Failure::BadPath(_) => words(
                "This address is not valid",
                "Check the address for typing errors. If a link brought you here, tell whoever made it.",
                "",
                "",
            ),
            Failure::BadBody(_) => words(
                "Your request is not valid HTTP",
                "Try again, or use another client.",
                CLIENT,
                "Send the body as RFC 9112 has it.",
            ),
            Failure::BodyTooLarge => words(
                "Your upload is too large",
                "Send less at once.",
                PLATFORM,
                "Raise limits.body if tools need larger uploads.",
            ),
            Failure::NoUserAgent => words(
                "Your client must say who it is",
                "Send a User-Agent header that names your client and how to reach you.",
                "",
                "",
            ),
            Failure::Loop => words(
                "This address leads in a circle",
                "Tell the tool's maintainers.",
                TOOL,
                "Change the tool's route: it leads back to this proxy.",
            ),
            Failure::NotFound => words(
                "There is nothing at this address",
                "Check the address for typing errors. If a link brought you here, tell whoever made it.",
                "",
                "",
            ),
            Failure::NoIngress => words(
                "There is nothing at this address",
                "Check the address for typing errors. If a link brought you here, tell whoever made it.",
                TOOL,
                "If this is the address of your tool, start its web service.",
            ),
            Failure::ToolBusy => words(
                "This tool is overloaded",
                "Try again in a moment. If you run a program, have it ask less often.",
                TOOL,
                "Find out why requests take long, or who sends so many.",
            ),
            Failure::ToolUnreachable => words(
                "This tool cannot be reached",
                TRY_LATER,
                TOOL,
                "Start the tool's web service again, and look into its logs for why it ended.",
            ),
            Failure::ToolClosed => words(
                "This tool gave no answer",
                TRY_LATER,
                TOOL,
                "Look into the logs of the tool's web service: it may have crashed on this request.",
            ),
            Failure::ToolTimeout => words(
                "This tool takes too long",
                TRY_LATER,
                TOOL,
                "Look into the logs of the tool's web service: it may hang, or be busy with other requests.",
            ),
            Failure::ToolMalformed => words(
                "This tool gave a broken answer",
                "Tell the tool's maintainers.",
                TOOL,
                "Mend what the web service writes: it does not follow RFC 9112, or RFC 9113 if its route begins with h2c://.",
            ),
            Failure::ToolForbidden => words(
                "This tool's route is not allowed",
                "Tell the tool's maintainers.",
                TOOL,
                "Start the tool's web service anew, so that it registers its own address.",
            ),
            Failure::ToolUnresolved => words(
                "This tool cannot be found",
                TRY_LATER,
                TOOL,
                "Check the name in the tool's route, and whether it resolves.",
            ),
            Failure::PlatformUnreachable => words(
                "The platform has a problem",
                TELL_ADMINISTRATORS,
                PLATFORM,
                "Look at the nodes of the ingress pool: this proxy reaches none of them.",
            ),
            Failure::PlatformClosed => words(
                "The platform has a problem",
                TELL_ADMINISTRATORS,
                PLATFORM,
                "Look into the logs of the ingress: it ended the connection of this request.",
            ),
            Failure::PlatformTimeout => words(
                "The platform takes too long",
                "Try again later. If only this tool is slow, tell its maintainers; else the platform's administrators.",
                PLATFORM,
                "Look into the logs of the ingress for where this request hangs.",
            ),
            Failure::PlatformMalformed => words(
                "The platform has a problem",
                TELL_ADMINISTRATORS,
                PLATFORM,
                "Look into the logs of the ingress: its answer does not follow RFC 9112.",
            ),
            Failure::PlatformBusy => words(
                "The platform is busy",
                "Try again in a moment. If you run a program, have it ask less often.",
                PLATFORM,
                "Look for slow nodes of the ingress pool; else raise its max_connections, or add nodes.",
            ),
            Failure::PlatformDrained => words(
                "The platform is being worked on",
                TELL_ADMINISTRATORS,
                PLATFORM,
                "All nodes of the ingress pool are drained or in maintenance: make one ready (portico pool).",
            ),
            Failure::Exhausted => words(
                "The proxy is full",
                "Try again in a moment.",
                PLATFORM,
                "Raise the proxy's limit on open files, or find out who holds its connections.",
            ),
        }
    }

    fn of_malformed(status: u16) -> Self {
        let (title, advice) = match status {
            405 => (
                "This method is not allowed",
                "Use one of the methods that the Allow header names.",
            ),
            414 => (
                "This address is too long",
                "Ask for less at once, or send it in the body of a POST request.",
            ),
            417 => (
                "This expectation cannot be met",
                "Send the request without the Expect header.",
            ),
            431 => (
                "Your request's headers are too large",
                "In a browser, delete the cookies of this site and try again.",
            ),
            505 => (
                "This version of HTTP is not supported",
                "Use HTTP/1.1 or HTTP/2.",
            ),
            _ => (
                "Your request is not valid HTTP",
                "Try again, or use another client.",
            ),
        };
        Self {
            title,
            advice,
            maintainers: CLIENT,
            remedy: match status {
                400 => {
                    "Keep to the rule that is named above: what could be read in two ways is refused."
                }
                _ => "",
            },
        }
    }
}

/// Whose problem it is, as a sentence.
pub fn blame(side: Side) -> &'static str {
    match side {
        Side::Client => "The problem lies with the request.",
        Side::Tool => "The problem lies with the tool; this proxy and the platform work.",
        Side::Platform => "The problem lies with the platform, not with you.",
        Side::Proxy => "The problem lies with this proxy, not with you.",
    }
}
