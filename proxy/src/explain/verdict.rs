//! What comes of a request, in a sentence and in words for scripts; and the answer, where portico
//! gives it itself.

use portico_routing::decide::Reason;
use serde::Serialize;

use super::fields::{FieldLine, lines};
use super::{Case, text_of};
use crate::client::ClientInfo;
use crate::forward::Destination;
use crate::http1::reason_phrase;
use crate::request::Own;
use crate::request_id::RequestIds;
use crate::response::accept::Format;
use crate::response::answer::{Answer, Shape};
use crate::response::failure::Failure;
use crate::response::headers::ClientView;
use crate::response::words::Words;
use crate::snapshot::Snapshot;
use crate::telemetry::record::Route;

/// What comes of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// `forward`, `answer` (a redirect, or portico itself is asked) or `failure`.
    pub kind: &'static str,
    /// Where it goes, in the words of the access log.
    pub route: &'static str,
    /// The rule of routing that decided, in the words of the access log; `None`: routing was not
    /// asked.
    pub reason: Option<&'static str>,
    /// The same for people.
    pub text: String,
}

/// An answer that portico gives itself.
#[derive(Debug, Clone, Serialize)]
pub struct OwnAnswer {
    /// The status.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The failure, as one word.
    pub failure: Option<&'static str>,
    /// Whose fault it is.
    pub side: Option<String>,
    /// What the page of a failure says.
    pub text: Option<String>,
    /// What can be done about a failure, by those who can mend it.
    pub remedy: Option<String>,
    /// The fields of the answer, but for those that differ each time.
    pub fields: Vec<FieldLine>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            kind: "failure",
            route: Route::None.as_str(),
            reason: None,
            text: String::new(),
        }
    }
}

pub(super) fn of_forward(case: &Case<'_>, destination: &Destination) -> Verdict {
    let because = case.reason().map(because).unwrap_or_default();
    let text = match destination {
        Destination::Tool(backend) => {
            let source = match case.reason() {
                Some(Reason::StaticRoute(_)) => "a static route of the configuration",
                _ => "a route of the registry",
            };
            format!("portico forwards it to {backend}, which {source} names.")
        }
        Destination::Ingress(pool) => {
            let name = &pool.name;
            format!("portico forwards it to the ingress (pool {name}), because {because}.")
        }
        Destination::Fallback(fallback) => {
            let backend = &fallback.backend;
            let ingress = match case.reason() {
                Some(Reason::ForeignHost | Reason::TwoLabels) => "",
                _ => ", and there is no ingress",
            };
            format!("portico forwards it to the 404 backend, {backend}: {because}{ingress}.")
        }
    };
    Verdict {
        kind: "forward",
        route: destination.route().as_str(),
        reason: case.reason().map(Reason::code),
        text,
    }
}

pub(super) fn of_own(case: &Case<'_>, own: &Own) -> Verdict {
    let text = match own {
        Own::Healthy => {
            "portico answers itself (200): it is the health check of the service.".into()
        }
        Own::Capabilities => "portico answers itself (200): OPTIONS * asks what it can do.".into(),
        Own::Redirect { status, location } => {
            let because = case.reason().map_or("it came over plain HTTP", because);
            let location = text_of(location);
            format!("portico redirects ({status}) to {location}, because {because}.")
        }
    };
    Verdict {
        kind: "answer",
        route: own.route().as_str(),
        reason: case.reason().map(Reason::code),
        text,
    }
}

pub(super) fn of_failure(
    failure: &Failure,
    route: Option<Route>,
    reason: Option<Reason>,
) -> Verdict {
    let (status, side) = failure.status_and_side();
    let phrase = reason_phrase(status);
    Verdict {
        kind: "failure",
        route: route.unwrap_or(Route::None).as_str(),
        reason: reason.map(Reason::code),
        text: format!("portico answers {status} {phrase} (fault: {side}). {failure}"),
    }
}

/// The reason as part of a sentence.
fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::StaticRoute(_) => "a static route of the configuration names it",
        Reason::Registry(_) => "a route of the registry names it",
        Reason::NoPatternMatched => "the tool is known, but none of its patterns matched the path",
        Reason::Unregistered => "the tool is not registered",
        Reason::Apex => "the host is the bare canonical domain",
        Reason::ReservedLabel => "the name is reserved and never a tool",
        Reason::Renamed => "the tool was renamed",
        Reason::ToolMoved => "the tool moved to its own host",
        Reason::LegacyRoot => "the root of a legacy domain names no tool",
        Reason::LegacyNoTool => "the first path segment cannot be the name of a tool",
        Reason::ForeignHost => "the host is under none of the domains",
        Reason::TwoLabels => "the host stands more than one label under the canonical domain",
        Reason::BadPath => "the path has no canonical form",
    }
}

pub(super) fn own_answer(case: &Case<'_>, own: &Own) -> OwnAnswer {
    let view = case.request.client_view(case.client);
    written(&own.as_answer(), &view, &case.snapshot)
}

pub(super) fn failure_answer(case: &Case<'_>, failure: &Failure) -> OwnAnswer {
    let page = Answer::Failure {
        failure,
        tool: case.tool(),
        request_id: case.request.id,
        format: case.request.format,
        pages: &case.snapshot.pages,
    };
    let view = case.request.client_view(case.client);
    with_words(written(&page, &view, &case.snapshot), failure)
}

/// The answer to what never became a request.
pub(super) fn of_malformed(
    failure: &Failure,
    head: &[u8],
    client: &ClientInfo,
    snapshot: &Snapshot,
) -> OwnAnswer {
    let page = Answer::Failure {
        failure,
        tool: None,
        request_id: RequestIds::default().next(),
        format: Format::of_broken_head(head),
        pages: &snapshot.pages,
    };
    let view = ClientView {
        host: None,
        over_tls: client.over_tls,
        shared_host: false,
    };
    with_words(written(&page, &view, snapshot), failure)
}

fn with_words(answer: OwnAnswer, failure: &Failure) -> OwnAnswer {
    let words = Words::of(failure);
    let remedy =
        (!words.remedy.is_empty()).then(|| format!("{}: {}", words.maintainers, words.remedy));
    OwnAnswer {
        failure: Some(failure.code()),
        side: Some(failure.status_and_side().1.to_string()),
        text: Some(failure.to_string()),
        remedy,
        ..answer
    }
}

/// What portico writes, read again.
fn written(answer: &Answer<'_>, view: &ClientView<'_>, snapshot: &Snapshot) -> OwnAnswer {
    let shape = Shape {
        head_only: true,
        close: false,
        say_keep_alive: false,
    };
    let mut out = Vec::new();
    answer.write(&mut out, "", shape, view, &snapshot.response);
    let each_time = ["Date", "Content-Length", "X-Request-Id"];
    let mut fields = lines(&out);
    fields.retain(|field| !each_time.contains(&field.name.as_str()));
    let location = fields.iter().find(|field| field.name == "Location");
    OwnAnswer {
        status: answer.status(),
        location: location.map(|field| field.value.clone()),
        failure: None,
        side: None,
        text: None,
        remedy: None,
        fields,
    }
}
