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
use crate::terminal::visible;

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
        "done": command.to_string(), "set": set, "removed": removed,
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
    let table = format!("{} in the table", of_tools(tools));
    let left = held_back.saturating_sub(kept);
    let mut said = match command {
        Command::Apply if set == 0 => format!("removed {}; {table}\n", of_tools(removed)),
        Command::Apply => format!(
            "removed {}; {set} were in redis again and stay; {table}\n",
            of_tools(removed)
        ),
        Command::Keep if kept == 0 => format!("nothing to keep; {table}\n"),
        Command::Keep => {
            return format!(
                "{} that redis does not hold: kept until it holds them again, or until portico routes apply; {table}\n",
                of_tools(kept)
            );
        }
        Command::Refresh => {
            format!("compared with redis: {set} set, {removed} removed; {table}\n")
        }
    };
    if held_back == 0 {
        said.push_str("nothing is held back\n");
    }
    if left > 0 {
        said.push_str(&format!(
            "{} held back for the grace time: portico routes keep | apply decides earlier\n",
            of_tools(left)
        ));
    }
    if kept > 0 {
        said.push_str(&format!(
            "{} kept by hand: portico routes apply removes them\n",
            of_tools(kept)
        ));
    }
    said
}

fn of_tools(count: usize) -> String {
    match count {
        1 => "1 tool".to_owned(),
        count => format!("{count} tools"),
    }
}

fn refused(form: Form, command: Command, status: StatusCode, why: &str) -> Response<Body> {
    match form {
        Form::Text => text(status, format!("{}\n", visible(why))),
        Form::Json => {
            let said = json!({ "done": null, "asked": command.to_string(), "reason": why });
            answer::json(status, &said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: Command, counts: [usize; 5], expected: &str) {
        let [set, removed, held_back, kept, tools] = counts;
        let report = CommandReport {
            set,
            removed,
            held_back,
            kept,
            tools,
        };
        assert_eq!(in_words(command, report), expected);
    }

    #[test]
    fn what_was_done_in_words() {
        check(
            Command::Apply,
            [0, 31, 0, 0, 9],
            "removed 31 tools; 9 tools in the table\nnothing is held back\n",
        );
        check(
            Command::Apply,
            [2, 1, 3, 1, 1],
            "removed 1 tool; 2 were in redis again and stay; 1 tool in the table\n\
             2 tools held back for the grace time: portico routes keep | apply decides earlier\n\
             1 tool kept by hand: portico routes apply removes them\n",
        );
        check(
            Command::Keep,
            [0, 0, 31, 31, 40],
            "31 tools that redis does not hold: kept until it holds them again, or until portico routes apply; \
             40 tools in the table\n",
        );
        check(
            Command::Keep,
            [0, 0, 0, 0, 40],
            "nothing to keep; 40 tools in the table\nnothing is held back\n",
        );
        check(
            Command::Refresh,
            [3, 2, 5, 0, 40],
            "compared with redis: 3 set, 2 removed; 40 tools in the table\n\
             5 tools held back for the grace time: portico routes keep | apply decides earlier\n",
        );
    }
}
