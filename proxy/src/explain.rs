//! What portico does with a request, and why, without sending it: `portico explain`, and `/explain`
//! of the admin server.
//!
//! The question is made into the bytes that a client would send, and these go through the parser
//! and the phases of `request` like any other; the head for the backend is written by `forward`,
//! the head for the client by `response`. What is made here is the story around it. So that asking
//! changes nothing, the phases get copies of the tool's routes and of its count.
//!
//! Not done here: connecting to anything. Whether a tool runs is seen when it is asked.
//!
//! Invariant: the verdict is the one that [`request::plan`] and the checks before a connection give
//! for the same head, at the moment of the question.

mod backend;
pub mod command;
mod fields;
mod policies;
mod question;
mod steps;
mod text;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use portico_routing::decide::{Reason, decide};
use portico_routing::host::Host;
use portico_routing::path::{canonical_path, split_target};
use portico_routing::table::{Entry, Table, ToolName};
use serde::Serialize;

pub use backend::{Address, BackendView, QueueView, Share, State};
pub use fields::{Changes, Compression, FieldLine, Replaced, ToClient};
pub use policies::{Outcome, Policy};
pub use question::{Question, QuestionError};
pub use steps::Step;
pub use verdict::{OwnAnswer, Verdict};

use crate::client::ClientInfo;
use crate::context::Request;
use crate::forward::Destination;
use crate::http1::{Parsed, RequestHead, RequestParser};
use crate::policy::tool_cap::ToolCap;
use crate::process::Process;
use crate::registry::Source;
use crate::request::{self, Plan};
use crate::request_id::RequestIds;
use crate::response::failure::Failure;
use crate::snapshot::{CurrentSnapshot, SnapshotReader};
use crate::upstream::fallback::FALLBACK;
use crate::worker::request_limits;

/// Everything there is to say about a request. `Display` is for people; the JSON is described in
/// `docs/explain.md`, and keeps its names.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The URL as asked.
    pub url: String,
    /// What comes of it.
    pub verdict: Verdict,
    /// The request as portico would see it.
    pub request: RequestView,
    /// The rules in the order in which they are tried; the last one decides.
    pub steps: Vec<Step>,
    /// What may refuse the request, each by itself.
    pub policies: Vec<Policy>,
    /// Where it goes; `None` where portico answers by itself.
    pub backend: Option<BackendView>,
    /// How the request's head changes on its way to the backend.
    pub to_backend: Option<Changes>,
    /// How the head of the backend's answer changes on its way to the client.
    pub to_client: Option<ToClient>,
    /// The answer, where portico gives it.
    pub answer: Option<OwnAnswer>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// A request, as portico would see it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RequestView {
    /// As sent.
    pub method: String,
    /// As sent: path and query.
    pub target: String,
    /// `HTTP/1.1`
    pub version: &'static str,
    /// It comes over TLS.
    pub over_tls: bool,
    /// The port of the listener.
    pub port: u16,
    /// The canonical host; `None` if there is none.
    pub host: Option<String>,
    /// The canonical path; `None` if there is none. Patterns see it, on legacy domains without its
    /// first segment.
    pub path: Option<String>,
    /// The tool that it is for, registered or not.
    pub tool: Option<String>,
}

/// Where the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// In the portico that serves.
    Running,
    /// In a process that only read the configuration and the routes.
    Offline,
}

/// Explains a request to the portico that serves. Changes nothing.
///
/// # Errors
/// The question is none.
pub fn explain(process: &Process, question: &Question) -> Result<Explanation, QuestionError> {
    let mut explanation = explain_seen(process, question, Seen::Running)?;
    let tool = explanation.request.tool.as_deref();
    explanation.notes.extend(stale_routes(process, tool));
    Ok(explanation)
}

/// A word about routes that redis may have changed since, or no longer holds.
fn stale_routes(process: &Process, tool: Option<&str>) -> Option<String> {
    let status = &process.registry_status;
    process.snapshot.load().config.registry.as_ref()?;
    if status.connected() {
        let held = status.held_tool(tool?)?;
        let until = match held.until {
            Some(until) => format!("until {}", httpdate::fmt_http_date(until)),
            None => "until it does, or until portico routes apply".to_owned(),
        };
        return Some(format!(
            "Redis no longer holds the routes of this tool; they stay in use {until}."
        ));
    }
    let routes = match (status.source(), status.last_sync()) {
        (Source::Redis, Some(time)) => {
            format!("those of redis at {}", httpdate::fmt_http_date(time))
        }
        (Source::Redis, None) => "those of redis".to_owned(),
        (Source::Snapshot(time), _) => {
            format!("those of the snapshot of {}", httpdate::fmt_http_date(time))
        }
    };
    Some(format!(
        "portico has no connection to redis: the routes are {routes}."
    ))
}

fn explain_seen(
    process: &Process,
    question: &Question,
    seen: Seen,
) -> Result<Explanation, QuestionError> {
    let snapshot = SnapshotReader::new(Arc::clone(&process.snapshot)).load();
    let sent = question.send(&snapshot.config.listen)?;
    let mut explanation = Explanation {
        url: question.url.clone(),
        verdict: Verdict::default(),
        request: RequestView {
            method: question.method.clone(),
            target: sent.target,
            version: "HTTP/1.1",
            over_tls: sent.client.over_tls,
            port: sent.client.port,
            ..RequestView::default()
        },
        steps: Vec::new(),
        policies: Vec::new(),
        backend: None,
        to_backend: None,
        to_client: None,
        answer: None,
        notes: sent.notes,
    };
    let mut parser = RequestParser::new(request_limits(&snapshot.config.limits));
    match parser.parse(&sent.head) {
        Ok(Parsed::Complete) => {}
        // Its last line is empty, and no other is.
        Ok(Parsed::Partial) => return Err(QuestionError::BadField),
        Err(error) => {
            let failure = Failure::Malformed(error);
            explanation.steps = steps::of_malformed(&failure);
            explanation.verdict = verdict::of_failure(&failure, None, None);
            let answer = verdict::of_malformed(&failure, &sent.head, &sent.client, &snapshot);
            explanation.answer = Some(answer);
            return Ok(explanation);
        }
    }
    let head = parser.head();
    let (table, tools) = copies(process, &snapshot, head, &sent.head);
    let mut request = Request::new(
        snapshot.clone(),
        RequestIds::default().next(),
        head,
        &sent.head,
        head.version,
    );
    let plan = request::plan(
        &mut request,
        (&table, &tools),
        &sent.client,
        head,
        &sent.head,
    );
    let case = Case {
        process,
        snapshot,
        table: &table,
        request: &request,
        client: &sent.client,
        head,
        buf: &sent.head,
        seen,
    };
    case.fill(&mut explanation, &plan);
    Ok(explanation)
}

/// The tool's routes and counts as they are now, so that all parts of the explanation see the same
/// and none changes the originals.
fn copies(
    process: &Process,
    snapshot: &CurrentSnapshot,
    head: &RequestHead,
    buf: &[u8],
) -> (Table, ToolCap) {
    let table = Table::new();
    let rules = &snapshot.config.rules;
    // Which tool it is does not depend on what is registered.
    let tool = request::named_host(head, buf)
        .and_then(|raw| Host::parse(raw).ok())
        .and_then(|host| decide(rules, &table, &host, head.target.of(buf), &mut Vec::new()).tool);
    let mut counted = vec![FALLBACK];
    if let Some(tool) = &tool {
        counted.push(tool.as_str());
        if let Some(entry) = process.table.get(tool.as_str()) {
            table.set(tool.as_str(), Entry::clone(&entry));
        }
    }
    (table, process.tools.copy_of(&counted))
}

/// A request that the phases have decided about, and what they saw.
struct Case<'a> {
    process: &'a Process,
    snapshot: CurrentSnapshot,
    table: &'a Table,
    request: &'a Request,
    client: &'a ClientInfo,
    head: &'a RequestHead,
    buf: &'a [u8],
    seen: Seen,
}

impl Case<'_> {
    fn fill(&self, explanation: &mut Explanation, plan: &Plan) {
        let view = &mut explanation.request;
        view.host = self.request.host.as_ref().map(Host::to_string);
        view.tool = self.tool().map(str::to_owned);
        view.path = self.canonical_path();
        explanation.steps = steps::of(self, plan);
        explanation.policies = policies::of(self, plan);
        let failure = match plan {
            Plan::Answer(own) => {
                explanation.verdict = verdict::of_own(self, own);
                explanation.answer = Some(verdict::own_answer(self, own));
                return;
            }
            Plan::Fail(failure) => Some(failure.clone()),
            Plan::Forward(destination) => {
                let (backend, failure) = backend::view(self, destination);
                explanation.backend = Some(backend);
                failure
            }
        };
        if let Some(failure) = failure {
            let route = Some(self.request.facts.route.get());
            explanation.verdict = verdict::of_failure(&failure, route, self.reason());
            explanation.answer = Some(verdict::failure_answer(self, &failure));
        } else if let Plan::Forward(destination) = plan {
            explanation.verdict = verdict::of_forward(self, destination);
            explanation.to_backend = Some(fields::to_backend(self, destination));
            explanation.to_client = Some(fields::to_client(self, destination));
        }
    }

    fn tool(&self) -> Option<&str> {
        self.request.tool.as_ref().map(ToolName::as_str)
    }

    fn reason(&self) -> Option<Reason> {
        self.request.facts.reason.get()
    }

    fn target(&self) -> &[u8] {
        self.head.target.of(self.buf)
    }

    fn canonical_path(&self) -> Option<String> {
        let mut scratch = Vec::new();
        let path = canonical_path(split_target(self.target()).0, &mut scratch).ok()?;
        Some(text_of(path))
    }

    /// Whether the destination is a tool's, for which portico has a default file.
    fn is_for_tool(&self, destination: &Destination) -> bool {
        !matches!(destination, Destination::Fallback(_))
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
