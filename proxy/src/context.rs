//! What is known of a request: begun with the snapshot and the head, filled by the phases.
//!
//! It outlives the bytes of the head, which make room for the body while the request is under way.

use std::cell::RefCell;
use std::time::Duration;

use portico_routing::host::Host;
use portico_routing::table::ToolName;

use crate::client::ClientInfo;
use crate::forward::Visit;
use crate::http1::{Framing, Method, RequestHead, Version};
use crate::http2::websocket;
use crate::policy::tool_cap;
use crate::pools::retry::Retry;
use crate::request_id::RequestId;
use crate::response::accept::Format;
use crate::response::answer::DefaultFile;
use crate::response::compress::Accepts;
use crate::response::headers::ClientView;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::facts::Facts;
use crate::telemetry::head_copy::HeadCopy;
use crate::telemetry::record::{Ended, Ending, Record};

/// What is known of a request once its head is read; the head's bytes themselves may be gone.
#[derive(Debug)]
pub struct Request {
    /// What this request sees of the configuration.
    pub snapshot: CurrentSnapshot,
    /// Its name, for the log and for pages.
    pub id: RequestId,
    /// The form of pages that the client wants.
    pub format: Format,
    /// The method.
    pub method: Method,
    /// The version that the client speaks.
    pub version: Version,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// How the body ends.
    pub framing: Framing,
    /// The client waits for 100 before it sends the body.
    pub expect_continue: bool,
    /// A WebSocket handshake.
    pub upgrade: bool,
    /// The `Sec-WebSocket-Accept` that the backend has to give, where portico made the key.
    pub websocket_accept: Option<String>,
    /// The canonical host: for matching, forwarding, limits and logs alike.
    pub host: Option<Host>,
    /// The tool, registered or not.
    pub tool: Option<ToolName>,
    /// Tools share the host.
    pub shared_host: bool,
    /// What decides on compression, once the request is to be forwarded.
    pub accepts: Accepts,
    /// What to answer if the tool has no such file.
    pub default_file: Option<DefaultFile>,
    /// How long the backend may be silent.
    pub silence: Duration,
    /// What is noted for its record.
    pub facts: Facts,
    /// What the access log wants of the head; `None` without an access log.
    pub copy: Option<HeadCopy>,
    /// The place among the tool's requests; given back when the request ends.
    pub place: Option<tool_cap::Place>,
    /// The place at a node of the ingress; given back when the request has its answer, or will not
    /// get one from there.
    pub visit: Option<Visit>,
    /// Leave for the attempt under way, if it is not the first; given back when that is answered (a
    /// tunnel is no second attempt any more) or has failed.
    pub retry: RefCell<Option<Retry>>,
}

impl Request {
    /// A request of which only the head is known; its bytes are in `buf`.
    /// `version`: the client's; that of the head is the one it was written in.
    pub fn new(
        snapshot: CurrentSnapshot,
        id: RequestId,
        head: &RequestHead,
        buf: &[u8],
        version: Version,
    ) -> Self {
        let silence = snapshot.config.timeouts.response;
        let made_key = version == Version::Http2 && head.upgrade_websocket;
        Self {
            snapshot,
            id,
            format: Format::of_head(head, buf),
            method: head.method,
            version,
            keep_alive: head.keep_alive,
            framing: head.framing,
            expect_continue: head.expect_continue,
            upgrade: head.upgrade_websocket,
            websocket_accept: if made_key {
                expected_accept(head, buf)
            } else {
                None
            },
            host: None,
            tool: None,
            shared_host: false,
            accepts: Accepts::default(),
            default_file: None,
            facts: Facts::begin(),
            copy: None,
            place: None,
            visit: None,
            retry: RefCell::new(None),
            silence,
        }
    }

    /// Gives the place at a node back, if there is one, and counts there; and what leave there was
    /// for a second attempt.
    pub fn leave_node(&mut self) {
        self.retry.take();
        if let Some(visit) = self.visit.take() {
            visit.end(&self.facts);
        }
    }

    /// What there is to tell of it, now that it has ended.
    pub fn record<'a>(&'a self, client: &'a ClientInfo, ended: Ended) -> Record<'a> {
        let facts = &self.facts;
        Record {
            id: self.id,
            time: ended.time,
            client,
            version: Some(self.version),
            text: self.copy.as_ref().map(HeadCopy::text).unwrap_or_default(),
            host: self.host.as_ref().map(Host::as_str),
            tool: self.tool.as_ref().map(ToolName::as_str),
            route: facts.route.get(),
            reason: facts.reason.get(),
            status: facts.status.get(),
            failure: facts.failure.get(),
            default_file: facts.default_file.get(),
            dry_run: facts.dry_run.get(),
            ending: facts.ending.get().unwrap_or(Ending::Cut),
            received: facts.received.get(),
            sent: facts.sent.get(),
            upstream: facts.upstream.get(),
            attempts: facts.attempts.get(),
            reused: facts.reused.get(),
            duration: ended.at.saturating_duration_since(facts.began),
            first_byte: facts.first_byte.get(),
            connect: facts.connect.get(),
            upstream_head: facts.upstream_head.get(),
            queued: facts.queued.get(),
        }
    }

    /// What the answer's edit depends on.
    pub fn client_view(&self, client: &ClientInfo) -> ClientView<'_> {
        ClientView {
            host: self.host.as_ref(),
            over_tls: client.over_tls,
            shared_host: self.shared_host,
        }
    }
}

fn expected_accept(head: &RequestHead, buf: &[u8]) -> Option<String> {
    let is_key = |name: &[u8]| name.eq_ignore_ascii_case(b"sec-websocket-key");
    let key = head
        .fields
        .iter()
        .find(|field| is_key(field.name.of(buf)))?;
    Some(websocket::accept(key.value.of(buf)))
}
