//! `POST /reload`: passes the wish on and waits for what comes of it. Reloads take turns there.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::State;
use super::answer::{Body, Form, bad_request, json, refusal, text};
use super::query::Query;
use crate::reloads::{ReloadReport, ReloadRequest};

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Text)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    let (answer, answered) = oneshot::channel();
    // Who waits here holds a connection, of which the other pages need some, too.
    if let Err(error) = state.reload.try_send(ReloadRequest { answer }) {
        let why = match error {
            TrySendError::Full(_) => "too many reloads wait already: nothing was reloaded",
            TrySendError::Closed(_) => "portico stops: nothing was reloaded",
        };
        return refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    match answered.await {
        Ok(outcome) => said(form, outcome),
        Err(_) => {
            let why = "the reload broke off, or portico stops; the log says why";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

fn said(form: Form, outcome: Result<ReloadReport, String>) -> Response<Body> {
    match (outcome, form) {
        (Ok(report), Form::Json) => {
            let said = json!({ "reloaded": true, "warnings": report.warnings });
            json(StatusCode::OK, &said)
        }
        (Ok(report), Form::Text) => {
            let warnings = report.warnings.iter();
            let warnings: String = warnings.map(|w| format!("warning: {w}\n")).collect();
            text(StatusCode::OK, format!("reloaded\n{warnings}"))
        }
        (Err(mistakes), Form::Json) => {
            let said = json!({ "reloaded": false, "mistakes": mistakes });
            json(StatusCode::UNPROCESSABLE_ENTITY, &said)
        }
        (Err(mistakes), Form::Text) => {
            let said = format!("nothing was changed:\n{mistakes}\n");
            text(StatusCode::UNPROCESSABLE_ENTITY, said)
        }
    }
}
