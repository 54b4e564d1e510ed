//! The life of a request, phase by phase.
//!
//! 1. The head was read within its limits: `driver`.
//! 2. Take the snapshot; start the [`Request`].
//! 3. Answer health checks; send plain HTTP to HTTPS.
//! 4. Refuse.
//! 5. Route.
//! 6. Find a place among the tool's requests.
//! 7. to 10. Choose a server, edit the head, forward, edit the answer: `forward`.
//! 11. Finish: release, count, log. Never skipped: a request is [`Underway`] until it is dropped. What
//!     ends before it is a request, or without an answer, is counted and logged too: [`unanswered`].
//!
//! Phases 3 to 6 are one synchronous function, [`plan`], which waits for nothing and allocates only
//! for answers of portico's own. A phase that ends the request returns the answer; nothing is
//! signalled by a `bool`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use portico_config::Config;
use portico_routing::decide::{Verdict, decide};
use portico_routing::field::Field;
use portico_routing::host::{Host, Place};
use portico_routing::path::split_target;
use portico_routing::rewrite;
use portico_routing::table::{Table, ToolName};
use tracing::debug;

use crate::client::ClientInfo;
use crate::client_stream::ClientStream;
use crate::connection::{After, Connection};
use crate::context::Request;
use crate::forward::{self, Destination, Outcome};
use crate::http1::{Framing, Method, RequestHead, RequestParser, TargetForm, Version};
use crate::outgoing::Outgoing;
use crate::policy::tool_cap::{self, ToolCap};
use crate::response::accept::Format;
use crate::response::answer::{Answer, DefaultFile, Shape};
use crate::response::compress::Accepts;
use crate::response::failure::{Failure, Side};
use crate::response::headers::ClientView;
use crate::snapshot::Snapshot;
use crate::telemetry::head_copy::HeadCopy;
use crate::telemetry::record::{Ending, Failed, Record, Route};
use crate::upstream::fallback::{self, FALLBACK};
use crate::worker::Worker;

/// The path of the service's own health check, on every host.
const HEALTH_PATH: &[u8] = b"/.well-known/healthz";

/// What the phases before forwarding decide.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Forward.
    Forward(Destination),
    /// Answer, since portico itself is meant or the client has to go elsewhere.
    Answer(Own),
    /// Answer with a failure.
    Fail(Failure),
}

/// An answer that is no failure.
#[derive(Debug)]
pub(crate) enum Own {
    /// portico is asked for its own health.
    Healthy,
    /// `OPTIONS *`.
    Capabilities,
    /// The client has to go elsewhere.
    Redirect { status: u16, location: Vec<u8> },
}

impl Own {
    pub(crate) fn as_answer(&self) -> Answer<'_> {
        match self {
            Self::Healthy => Answer::Healthy,
            Self::Capabilities => Answer::Capabilities,
            Self::Redirect { status, location } => Answer::Redirect {
                status: *status,
                location,
            },
        }
    }

    pub(crate) fn route(&self) -> Route {
        match self {
            Self::Healthy | Self::Capabilities => Route::Own,
            Self::Redirect { .. } => Route::Redirect,
        }
    }
}

/// Serves one request, whose head the parser has read from the connection's input. The parser goes
/// back to the worker before anything is waited for: the next request finds it in the processor's
/// cache, and thousands that wait for a slow tool hold none.
pub async fn handle<S: ClientStream>(
    connection: &mut Connection<S>,
    parser: Box<RequestParser>,
) -> After {
    let head = parser.head();
    let version = match S::FRAMED {
        true => head.version,
        false => Version::Http2,
    };
    let mut underway = Underway::begin(connection, head, version);
    let request = &mut underway.request;
    connection.deadline.begins_at(request.facts.began);
    let worker = &connection.worker;
    let plan = plan(
        request,
        (&worker.process.table, &worker.process.tools),
        &connection.client,
        head,
        connection.input.filled(),
    );
    let after = match plan {
        Plan::Forward(destination) => {
            let out = forward::write_head(connection, request, head, &destination);
            connection.worker.put_request_parser(parser);
            match forward::run(connection, request, &destination, out).await {
                Outcome::Answered(after) => after,
                Outcome::Failed {
                    failure,
                    body_is_read,
                } => fail(connection, request, &failure, body_is_read).await,
            }
        }
        Plan::Answer(own) => {
            let body_is_read = take_head_and_body(connection, head);
            connection.worker.put_request_parser(parser);
            request.facts.route.set(own.route());
            answer(connection, request, &own.as_answer(), body_is_read).await
        }
        Plan::Fail(failure) => {
            let body_is_read = take_head_and_body(connection, head);
            connection.worker.put_request_parser(parser);
            fail(connection, request, &failure, body_is_read).await
        }
    };
    finish(&underway.request, after);
    after
}

/// A request from its head to its end. It is counted and logged when this is dropped: also if its
/// task is, because `server.drain` is over.
struct Underway {
    request: Request,
    worker: Rc<Worker>,
    client: ClientInfo,
}

impl Underway {
    fn begin<S>(connection: &Connection<S>, head: &RequestHead, version: Version) -> Self {
        let (worker, read) = (&connection.worker, connection.input.filled());
        let id = worker.request_ids.next();
        let mut request = Request::new(worker.snapshot.load(), id, head, read, version);
        if request.snapshot.logs_requests() {
            request.copy = Some(HeadCopy::of(head, read, version, worker.held_head()));
        }
        worker.metrics.request_begins();
        Self {
            request,
            worker: Rc::clone(worker),
            client: connection.client.clone(),
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.request.leave_node();
        let ended = self.worker.ended(self.request.facts.ended.get());
        let record = self.request.record(&self.client, ended);
        self.worker.tell(&record);
        if let Some(copy) = self.request.copy.take() {
            self.worker.put_held_head(copy.into_buffer());
        }
    }
}

/// The last phase of every request that was not cut.
fn finish(request: &Request, after: After) {
    let ending = &request.facts.ending;
    if ending.get().is_none() {
        ending.set(Some(match after {
            After::Reset => Ending::ClientGone,
            After::KeepAlive | After::Close | After::Linger => Ending::Complete,
        }));
    }
}

/// Phases 3 to 6. Also what [`explain`](crate::explain) asks, with a table and counts of its own.
pub(crate) fn plan(
    request: &mut Request,
    (table, tools): (&Table, &ToolCap),
    client: &ClientInfo,
    head: &RequestHead,
    buf: &[u8],
) -> Plan {
    let target = head.target.of(buf);
    let (path, _) = split_target(target);
    request.host = match named_host(head, buf) {
        None => None,
        Some(raw) => match Host::parse(raw) {
            Ok(host) => Some(host),
            Err(error) => return Plan::Fail(Failure::BadHost(Some(error))),
        },
    };
    if path == HEALTH_PATH && matches!(head.method, Method::Get | Method::Head) {
        return Plan::Answer(Own::Healthy);
    }
    let Some(host) = &request.host else {
        return Plan::Fail(Failure::BadHost(None));
    };
    if head.form == TargetForm::Asterisk {
        return Plan::Answer(Own::Capabilities);
    }
    if let Some(plan) = to_https(&request.snapshot, client, host, target) {
        return plan;
    }
    // Decided before anything is refused, so that a refusal names the tool.
    let mut scratch = Vec::new();
    let rules = &request.snapshot.config.rules;
    let decision = decide(rules, table, host, target, &mut scratch);
    request.tool = decision.tool;
    request.facts.reason.set(Some(decision.reason));
    request.shared_host = decision.shared_host;
    if let Some(failure) = refuse(request, head, buf) {
        request.facts.route.set(Route::Refused);
        return Plan::Fail(failure);
    }
    let algorithms = &request.snapshot.config.compression.algorithms;
    request.accepts = Accepts::new(head, buf, algorithms);
    route(request, tools, decision.verdict, path)
}

/// The host that the request names: an absolute-form target's authority wins (RFC
/// 9112 section 3.2.2).
pub(crate) fn named_host<'a>(head: &RequestHead, buf: &'a [u8]) -> Option<&'a [u8]> {
    let span = head.authority.as_ref().or(head.host.as_ref())?;
    Some(span.of(buf))
}

/// Plain HTTP to HTTPS. A permanent redirect may only point at a host that exists (T258730):
/// foreign hosts get none, and are answered like those over HTTPS.
pub(crate) fn to_https(
    snapshot: &Snapshot,
    client: &ClientInfo,
    host: &Host,
    target: &[u8],
) -> Option<Plan> {
    if client.over_tls || !snapshot.config.listen.redirect {
        return None;
    }
    match snapshot.config.rules.domains.place(host) {
        Place::Foreign | Place::TwoLabels => None,
        Place::Label(_) | Place::Legacy | Place::Apex => Some(Plan::Answer(Own::Redirect {
            status: 301,
            location: rewrite::https_url(host, target),
        })),
    }
}

/// Phase 4: what is refused whatever it asks for.
fn refuse(request: &Request, head: &RequestHead, buf: &[u8]) -> Option<Failure> {
    let config = &request.snapshot.config;
    if lacks_user_agent(config, head) {
        if !config.refuse.dry_run {
            return Some(Failure::NoUserAgent);
        }
        request.facts.dry_run.set(true);
        debug!(id = %request.id, "refuse.dry_run: a request without User-Agent would be refused");
    }
    if is_too_large(config, head) {
        return Some(Failure::BodyTooLarge);
    }
    came_through_here(config, head, buf).then_some(Failure::Loop)
}

pub(crate) fn lacks_user_agent(config: &Config, head: &RequestHead) -> bool {
    let has_one = head
        .user_agent
        .as_ref()
        .is_some_and(|span| !span.is_empty());
    config.refuse.empty_user_agent && !has_one
}

pub(crate) fn is_too_large(config: &Config, head: &RequestHead) -> bool {
    matches!(head.framing, Framing::Length(length) if length > config.limits.body)
}

pub(crate) fn came_through_here(config: &Config, head: &RequestHead, buf: &[u8]) -> bool {
    let Some(name) = &config.headers.via else {
        return false;
    };
    let mut vias = head.fields.iter().filter(|f| f.field == Field::Via);
    vias.any(|field| rewrite::via_has(field.value.of(buf), name))
}

/// Phases 5 and 6: where the decision leads, and whether the tool has room for one more.
fn route(request: &mut Request, tools: &ToolCap, verdict: Verdict, path: &[u8]) -> Plan {
    let snapshot = request.snapshot.clone();
    let destination = match verdict {
        Verdict::Backend(backend) => Destination::Tool(backend),
        Verdict::Ingress => match snapshot.ingress.pick(key_of(request)) {
            Some(pool) => Destination::Ingress(Arc::clone(pool)),
            None => return fall_back(request, tools, Failure::NoIngress),
        },
        Verdict::Redirect { status, location } => {
            return Plan::Answer(Own::Redirect { status, location });
        }
        Verdict::NotFound => return fall_back(request, tools, Failure::NotFound),
        Verdict::BadRequest(error) => return Plan::Fail(Failure::BadPath(error)),
    };
    request.facts.route.set(destination.route());
    if let Some(tool) = &request.tool {
        let limit = snapshot.config.limits.in_flight_per_tool;
        match tools.enter(tool.as_str(), limit) {
            tool_cap::Verdict::Admitted(place) => request.place = Some(place),
            tool_cap::Verdict::Full => return Plan::Fail(Failure::ToolBusy),
        }
    }
    if matches!(request.method, Method::Get | Method::Head) {
        request.default_file = DefaultFile::for_path(path);
    }
    Plan::Forward(destination)
}

/// What decides between the pools of the ingress: the tool, so that all its requests go the same
/// way, else the host.
pub(crate) fn key_of(request: &Request) -> &str {
    match (&request.tool, &request.host) {
        (Some(tool), _) => tool.as_str(),
        (None, Some(host)) => host.as_str(),
        (None, None) => "",
    }
}

/// What nothing else answers goes to the fallback, if there is one. Scanners ask for a lot of it:
/// requests in flight there are bounded like those of a tool, and portico's own page is as good an
/// answer as a wait.
fn fall_back(request: &mut Request, tools: &ToolCap, failure: Failure) -> Plan {
    let Some(fallback) = &request.snapshot.fallback else {
        return Plan::Fail(failure);
    };
    let limit = request.snapshot.config.limits.in_flight_per_tool;
    match tools.enter(FALLBACK, limit) {
        tool_cap::Verdict::Admitted(place) => {
            request.place = Some(place);
            request.silence = request.silence.min(fallback::SILENCE);
            request.facts.route.set(Route::Fallback);
            Plan::Forward(Destination::Fallback(Arc::clone(fallback)))
        }
        tool_cap::Verdict::Full => Plan::Fail(failure),
    }
}

/// Consumes the head, and the body if all of it is here. `false`: body bytes are still to come.
fn take_head_and_body<S>(connection: &mut Connection<S>, head: &RequestHead) -> bool {
    connection.input.consume(head.len);
    match head.framing {
        Framing::None => true,
        Framing::Length(length) => match usize::try_from(length) {
            Ok(length) if length <= connection.input.len() => {
                connection.input.consume(length);
                true
            }
            _ => false,
        },
        Framing::Chunked | Framing::UntilClose => false,
    }
}

/// Answers a failure of a request.
async fn fail<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &mut Request,
    failure: &Failure,
    body_is_read: bool,
) -> After {
    let (status, side) = failure.status_and_side();
    debug!(id = %request.id, status, %side, %failure, "answered with a failure");
    request.facts.failure.set(Some(failure.into()));
    if let (Failure::ToolBusy, Some(tool)) = (failure, &request.tool) {
        let limit = request.snapshot.config.limits.in_flight_per_tool;
        connection.worker.say_tool_busy(tool.as_str(), limit);
    }
    request.keep_alive &= failure.keeps_connection();
    let tool = request.tool;
    let snapshot = request.snapshot.clone();
    let page = Answer::Failure {
        failure,
        tool: tool.as_ref().map(ToolName::as_str),
        request_id: request.id,
        format: request.format,
        pages: &snapshot.pages,
    };
    answer(connection, request, &page, body_is_read).await
}

/// Answers a failure of what never became a request, of which the input holds as much as was read.
/// The connection ends.
pub async fn answer_failure<S: ClientStream>(
    connection: &mut Connection<S>,
    failure: &Failure,
) -> After {
    let snapshot = connection.worker.snapshot.load();
    let request_id = connection.worker.request_ids.next();
    let began = Instant::now();
    connection.worker.metrics.request_begins();
    let read = connection.input.filled();
    let (format, is_head) = (Format::of_broken_head(read), read.starts_with(b"HEAD "));
    let version = (!S::FRAMED).then_some(Version::Http2);
    let mut copy = None;
    if snapshot.logs_requests() {
        copy = Some(HeadCopy::of_broken(read, version, connection.worker.head()));
    }
    connection.input.discard(&connection.worker.buffers);
    let shown = |client| connection.worker.shown(client);
    debug!(id = %request_id, client = %shown(connection.client.address), %failure, "refused before routing");
    let page = Answer::Failure {
        failure,
        tool: None,
        request_id,
        format,
        pages: &snapshot.pages,
    };
    let view = ClientView {
        host: None,
        over_tls: connection.client.over_tls,
        shared_host: false,
    };
    let shape = Shape {
        head_only: is_head,
        close: true,
        say_keep_alive: false,
    };
    let mut out = connection.worker.head();
    let date = connection.worker.date();
    let sent = page.write(&mut out, &date, shape, &view, &snapshot.response);
    let written = write(connection, &snapshot, out).await;
    let record = Record {
        version,
        text: copy.as_ref().map(HeadCopy::text).unwrap_or_default(),
        status: page.status(),
        failure: Some(failure.into()),
        sent: sent as u64,
        ending: match written {
            true => Ending::Complete,
            false => Ending::ClientGone,
        },
        duration: began.elapsed(),
        ..Record::new(request_id, &connection.client)
    };
    connection.worker.tell(&record);
    if let Some(copy) = copy {
        connection.worker.put_head(copy.into_buffer());
    }
    match written {
        // What the client still sends must not turn the close into a reset that destroys the
        // answer.
        true => After::Linger,
        false => After::Reset,
    }
}

/// What ended without an answer before it was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Half a head of HTTP/1, then the client's end.
    HalfHead,
    /// Fields that break HTTP/2: the stream was reset.
    Refused,
    /// A stream of HTTP/2 that its client reset at once.
    Abandoned,
}

/// Counts and logs what there was of it; `read` is that, as HTTP/1.1 text.
pub fn unanswered(worker: &Worker, client: &ClientInfo, read: &[u8], what: Unanswered) {
    let malformed = Failed {
        code: "malformed",
        side: Side::Client,
    };
    let (version, failure, ending) = match what {
        Unanswered::HalfHead => (None, Some(malformed), Ending::ClientGone),
        Unanswered::Refused => (Some(Version::Http2), Some(malformed), Ending::Cut),
        Unanswered::Abandoned => (Some(Version::Http2), None, Ending::ClientGone),
    };
    worker.metrics.request_begins();
    let logged = worker.snapshot.load().logs_requests();
    let copy = logged.then(|| HeadCopy::of_broken(read, version, worker.head()));
    let record = Record {
        version,
        text: copy.as_ref().map(HeadCopy::text).unwrap_or_default(),
        failure,
        ending,
        ..Record::new(worker.request_ids.next(), client)
    };
    worker.tell(&record);
    if let Some(copy) = copy {
        worker.put_head(copy.into_buffer());
    }
}

/// Writes an answer of portico's own; the connection lives on if the request lets it
/// and its body was read.
async fn answer<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &mut Request,
    answer: &Answer<'_>,
    body_is_read: bool,
) -> After {
    let keep = request.keep_alive
        && body_is_read
        && !connection.worker.is_draining()
        && !connection.worker.process.is_crowded();
    let shape = Shape {
        head_only: request.method == Method::Head,
        close: !keep,
        say_keep_alive: keep && request.version == Version::Http10,
    };
    let mut out = connection.worker.head();
    let view = request.client_view(&connection.client);
    let date = connection.worker.date();
    let sent = answer.write(&mut out, &date, shape, &view, &request.snapshot.response);
    request.facts.answer(answer.status());
    request.facts.send(sent);
    match (write(connection, &request.snapshot, out).await, keep) {
        (false, _) => After::Reset,
        (true, true) => After::KeepAlive,
        (true, false) if body_is_read => After::Close,
        (true, false) => After::Linger,
    }
}

/// Writes a whole answer. `false`: the client does not take it.
async fn write<S: ClientStream>(
    connection: &mut Connection<S>,
    snapshot: &Snapshot,
    out: Vec<u8>,
) -> bool {
    let limit = snapshot.config.timeouts.write;
    let mut message = Outgoing::whole(&out);
    let sent = connection.send(limit, &mut message).await;
    connection.worker.put_head(out);
    sent.is_ok()
}

#[cfg(test)]
mod tests;
