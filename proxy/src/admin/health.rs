//! `/healthz` and `/readyz`: for service managers, orchestration and balancers.
//!
//! Not ready means: send requests elsewhere. So only what portico itself cannot do counts. A registry
//! that is away does not, once there are routes: the table is served as it was, and another portico
//! would see the same registry. Nor do nodes that are down: their tools are down everywhere.

use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::answer::{Body, Form, bad_request, json, text};
use super::query::Query;
use crate::process::{Process, Stage};
use crate::registry::Source;

#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<&'static str>,
}

/// The process lives: it got this far.
pub(super) fn alive() -> Response<Body> {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// Whether requests should come here.
pub(super) fn ready<B>(request: &Request<B>, process: &Process) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = query.and_then(|query| Form::of(request, &query, Form::Text));
    let reasons = unready(process);
    let ready = reasons.is_empty();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match form {
        Ok(Form::Json) => json(status, &Ready { ready, reasons }),
        Ok(Form::Text) if ready => text(status, "ready\n".to_owned()),
        Ok(Form::Text) => text(status, reasons.join("\n") + "\n"),
        Err(why) => bad_request(&why),
    }
}

/// Why no requests should come here; empty: they should.
pub(super) fn unready(process: &Process) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match process.stage() {
        Stage::Starting => reasons.push("starting: connections are not accepted yet"),
        Stage::Serving => {}
        Stage::Draining => reasons.push("draining: the process stops"),
    }
    let registry = &process.registry_status;
    let loaded = registry.last_sync().is_some() || registry.source() != Source::Redis;
    if process.snapshot.load().config.registry.is_some() && !loaded {
        reasons.push("no routes: the registry has never been reached and there is no snapshot");
    }
    reasons
}
