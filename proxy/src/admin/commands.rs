//! `POST /routes/apply`, `/routes/keep` and `/routes/refresh`: passes the wish on to the task that
//! keeps the routes, and tells what it has done. What the wishes mean is in `registry`.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::State;
use super::answer::{self, Body, Form, bad_request, text};
use super::query::Query;
use crate::registry::{Command, CommandReport, CommandRequest};
use crate::routes::visible;

/// How long what was asked for may take before the answer is that it still goes on. All of a million
/// tools are read within 10 s.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn page<B>(
    request: &Request<B>,
    state: &Arc<State>,
    command: Command,
) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Text)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    match outcome(state, command).await {
        Ok(report) => done(form, command, report),
        Err((status, why)) => refused(form, command, status, &why),
    }
}

/// What came of it, or the status and the sentence that say why nothing did.
async fn outcome(state: &State, command: Command) -> Result<CommandReport, (StatusCode, String)> {
    let Some(commands) = &state.commands else {
        let why = "no [registry] is configured: no routes come from redis, so none can be held back or compared";
        return Err((StatusCode::CONFLICT, why.to_owned()));
    };
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    let (answer, answered) = oneshot::channel();
    // Who waits here holds a connection, of which the other pages need some, too.
    if let Err(error) = commands.try_send(CommandRequest { command, answer }) {
        return Err(unavailable(match error {
            TrySendError::Full(_) => {
                "too many commands for the routes wait already: nothing was done; try again"
            }
            TrySendError::Closed(_) => "portico stops: nothing was done",
        }));
    }
    match timeout(LIMIT, answered).await {
        Ok(Ok(outcome)) => outcome.map_err(|why| unavailable(&why)),
        Ok(Err(_)) => {
            let why = "it broke off, or portico stops; the log says why";
            Err((StatusCode::INTERNAL_SERVER_ERROR, why.to_owned()))
        }
        Err(_) => {
            let why = format!(
                "it was not done within {} s and may still be; /status and the log say what comes of it",
                LIMIT.as_secs()
            );
            Err((StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}

fn name(command: Command) -> &'static str {
    match command {
        Command::Apply => "apply",
        Command::Keep => "keep",
        Command::Refresh => "refresh",
    }
}

fn done(form: Form, command: Command, report: CommandReport) -> Response<Body> {
    if form == Form::Text {
        return text(StatusCode::OK, in_words(command, report));
    }
    let CommandReport {
        set,
        removed,
        held_back,
        kept,
        tools,
    } = report;
    let said = json!({
        "done": name(command), "set": set, "removed": removed,
        "held_back": held_back, "kept": kept, "tools": tools,
    });
    answer::json(StatusCode::OK, &said)
}

fn in_words(command: Command, report: CommandReport) -> String {
    let CommandReport {
        set,
        removed,
        held_back,
        kept,
        tools,
    } = report;
    let did = match command {
        Command::Apply => "applied",
        Command::Keep => "kept",
        Command::Refresh => "compared with redis",
    };
    let mut said = format!("{did}: {removed} tools removed, {set} set; {tools} are in the table\n");
    said.push_str(&match (held_back, kept) {
        (0, _) => "nothing is held back\n".to_owned(),
        (held, 0) => format!("{held} are held back for the grace time, none is kept by hand\n"),
        (held, kept) if held == kept => {
            format!("{kept} that redis does not hold are kept until it does, or until they are applied\n")
        }
        (held, kept) => format!(
            "{held} are held back; {kept} of them are kept by hand until redis holds them, or until they are applied\n"
        ),
    });
    said
}

fn refused(form: Form, command: Command, status: StatusCode, why: &str) -> Response<Body> {
    match form {
        Form::Text => text(status, format!("{}\n", visible(why))),
        Form::Json => {
            let said = json!({ "done": null, "asked": name(command), "reason": why });
            answer::json(status, &said)
        }
    }
}
