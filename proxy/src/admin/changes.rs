//! `/routes/changes`: the last changes of the table, the oldest first.
//!
//! As JSON with all of the old and the new value; as text with what differs, for terminals of
//! [`COLUMNS`]. Both are bounded: a tool may have 256 routes of 3 kB each.

use std::fmt::Write as _;
use std::sync::Arc;

use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::State;
use super::answer::{Body, Form, bad_request, json_bytes, text};
use super::query::Query;
use crate::registry::Change;
use crate::routes::delta::{Side, deltas};
use crate::routes::{Bad, Route, bad_routes, good_routes, write_json};
use crate::terminal::visible;
use crate::time_text::rfc3339;
use portico_routing::table::Entry;

/// What does not fit is the oldest, and is left out.
const MAX_BYTES: usize = 4 << 20;
/// Longer lines of text are folded.
const COLUMNS: usize = 100;
/// Differences of one change that are told in text; JSON has them all.
const MAX_LINES: usize = 20;

/// A change in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    tool: &'a str,
    cause: &'static str,
    /// `null`: it was not in the table.
    old: Option<Value<'a>>,
    /// `null`: it is no longer in the table.
    new: Option<Value<'a>>,
}

#[derive(Debug, Serialize)]
struct Value<'a> {
    redirect: bool,
    routes: Vec<Route<'a>>,
    bad: Vec<Bad<'a>>,
}

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Json)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    let made = state.aside(false, move |state| {
        let changes = state.process.registry_status.journal().last();
        match form {
            Form::Json => json_bytes(StatusCode::OK, in_json(&changes)),
            Form::Text => text(StatusCode::OK, in_words(&changes)),
        }
    });
    made.await.unwrap_or_else(|response| response)
}

fn in_json(changes: &[Change]) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for change in changes.iter().rev() {
        let told = Line {
            time: rfc3339(change.time),
            tool: &change.tool,
            cause: change.cause.as_str(),
            old: change.old.as_deref().map(Value::of),
            new: change.new.as_deref().map(Value::of),
        };
        // Into memory, and strings, lists and booleans only: it cannot fail.
        let mut line = Vec::new();
        let _ = write_json(&mut line, &told);
        bytes += line.len();
        if bytes > MAX_BYTES && !lines.is_empty() {
            break;
        }
        lines.push(line);
    }
    let left_out = changes.len() - lines.len();
    lines.reverse();
    let mut json = format!("{{\"left_out\": {left_out}, \"changes\": [\n").into_bytes();
    json.extend_from_slice(&lines.join(&b",\n"[..]));
    json.extend_from_slice(b"\n]}\n");
    json
}

impl<'a> Value<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            redirect: entry.redirect,
            routes: good_routes(entry),
            bad: bad_routes(entry),
        }
    }
}

fn in_words(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "# no change since the routes were loaded\n".to_owned();
    }
    let mut out = String::new();
    for change in changes {
        let what = match (&change.old, &change.new) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "changed",
        };
        let (time, cause) = (rfc3339(change.time), change.cause.as_str());
        let _ = writeln!(out, "{time}  {}  {what}, {cause}", visible(&change.tool));
        let lines = differences(change);
        for line in lines.iter().take(MAX_LINES) {
            fold(&mut out, line);
        }
        if let more @ 1.. = lines.len().saturating_sub(MAX_LINES) {
            let _ = writeln!(out, "    and {more} more");
        }
    }
    out
}

fn differences(change: &Change) -> Vec<String> {
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    let (before, after) = (Side::of(old), Side::of(new));
    let mut lines: Vec<String> = deltas(&before, &after)
        .iter()
        .map(|delta| format!("{} {}", delta.sign(), delta.in_words()))
        .collect();
    let was_bad = old.map_or(&[][..], |old| &old.bad);
    let is_bad = new.map_or(&[][..], |new| &new.bad);
    let bad = is_bad.iter().filter(|bad| !was_bad.contains(bad));
    lines.extend(bad.map(|bad| {
        let (pattern, backend) = (visible(&bad.field), visible(&bad.value));
        format!("! BAD {pattern} -> {backend}: {}", visible(&bad.reason))
    }));
    let mended = was_bad.iter().filter(|bad| !is_bad.contains(bad));
    lines.extend(mended.map(|bad| {
        let (pattern, backend) = (visible(&bad.field), visible(&bad.value));
        format!("! no longer bad: {pattern} -> {backend}")
    }));
    lines
}

/// Writes a line, indented, in as many as it takes.
fn fold(out: &mut String, line: &str) {
    let mut indent = "    ";
    let mut column = 0;
    for c in line.chars() {
        if column == 0 || column == COLUMNS {
            if column == COLUMNS {
                out.push('\n');
                indent = "        ";
            }
            out.push_str(indent);
            column = indent.len();
        }
        out.push(c);
        column += 1;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use portico_routing::table::BadRoute;

    use super::*;
    use crate::registry::Cause;

    fn entry(fields: &[(&str, &str)], redirect: bool) -> Option<Arc<Entry>> {
        let fields = fields.iter().map(|(a, b)| (a.as_bytes(), b.as_bytes()));
        Some(Arc::new(Entry::build(fields, redirect, &|_| Ok(()))))
    }

    fn change(old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) -> Change {
        Change {
            time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            tool: "grid".into(),
            old,
            new,
            cause: Cause::Pushed,
        }
    }

    #[track_caller]
    fn check(change: Change, expected: &str) {
        assert_eq!(in_words(&[change]), expected);
    }

    #[test]
    fn changes_in_words() {
        let (a, b) = ("http://192.0.2.1:80", "http://192.0.2.2:80");
        check(
            change(None, entry(&[(".*", a)], true)),
            "2023-11-14T22:13:20Z  grid  new, pushed\n    + .* -> http://192.0.2.1:80\n    \
             + redirect from legacy paths to its own host\n",
        );
        check(
            change(entry(&[(".*", a)], false), entry(&[(".*", b)], false)),
            "2023-11-14T22:13:20Z  grid  changed, pushed\n    \
             ~ .* -> http://192.0.2.2:80 (was http://192.0.2.1:80)\n",
        );
        check(
            change(entry(&[(".*", a)], false), None),
            "2023-11-14T22:13:20Z  grid  gone, pushed\n    - .* -> http://192.0.2.1:80\n",
        );
        let bad = entry(&[(".*", a), ("^/\x1b(", b)], false);
        let text = in_words(&[change(entry(&[(".*", a)], false), bad)]);
        assert!(
            text.contains("\n    ! BAD ^/\\u{1b}( -> http://192.0.2.2:80: "),
            "{text}"
        );
        let (one, two) = ([("(", b)], [("(", b), (")", b)]);
        let text = in_words(&[change(entry(&two, false), entry(&one, false))]);
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["    ! no longer bad: ) -> http://192.0.2.2:80"]
        );
        assert!(in_words(&[]).contains("no change"));
    }

    #[test]
    fn text_is_as_wide_as_a_terminal_and_loses_nothing() {
        let long = format!("/{}", "0123456789".repeat(50));
        let text = in_words(&[change(
            None,
            entry(&[(&long, "http://192.0.2.1:80")], false),
        )]);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS));
        let joined: String = text.lines().map(str::trim_start).collect();
        assert!(joined.contains(&long), "{text}");
        let many: Vec<String> = (0..MAX_LINES + 5).map(|n| format!("^/{n}/.*")).collect();
        let many: Vec<_> = many
            .iter()
            .map(|p| (p.as_str(), "http://192.0.2.1"))
            .collect();
        let text = in_words(&[change(None, entry(&many, false))]);
        assert_eq!(text.lines().count(), MAX_LINES + 2);
        assert!(text.ends_with("    and 5 more\n"), "{text}");
    }

    #[test]
    fn json_has_everything_until_it_is_too_much() {
        let old = entry(&[(".*", "http://192.0.2.1:80"), ("(", "x")], true);
        let json: serde_json::Value =
            serde_json::from_slice(&in_json(&[change(old, None)])).unwrap();
        let line = &json["changes"][0];
        assert_eq!(line["time"], "2023-11-14T22:13:20Z");
        assert_eq!(
            (&line["tool"], &line["cause"]),
            (&"grid".into(), &"pushed".into())
        );
        assert!(line["new"].is_null());
        assert_eq!(line["old"]["redirect"], true);
        assert_eq!(line["old"]["routes"][0]["backend"], "http://192.0.2.1:80");
        assert_eq!(line["old"]["bad"][0]["pattern"], "(");
        assert_eq!(json["left_out"], 0);

        let patterns: Vec<String> = (0..250)
            .map(|n| format!("/{n}{}", "x".repeat(1000)))
            .collect();
        let large: Vec<_> = patterns
            .iter()
            .map(|p| (p.as_str(), "http://192.0.2.1"))
            .collect();
        let large = entry(&large, false);
        let changes: Vec<_> = (0..100).map(|_| change(None, large.clone())).collect();
        let bytes = in_json(&changes);
        assert!(bytes.len() < MAX_BYTES + 1024);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let told = json["changes"].as_array().unwrap().len();
        assert!(told > 10 && json["left_out"] == 100 - told);
        // One that is larger than all may be is told all the same.
        let huge: Vec<BadRoute> = (0..10_000)
            .map(|_| BadRoute::new(&[b'x'; 200], &[b'y'; 200], &"z".repeat(200)))
            .collect();
        let huge = Arc::new(Entry {
            bad: huge.into(),
            ..Entry::default()
        });
        let bytes = in_json(&[change(None, None), change(None, Some(huge))]);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["changes"].as_array().unwrap().len(), 1);
        assert_eq!(json["left_out"], 1);
        assert!(serde_json::from_slice::<serde_json::Value>(&in_json(&[])).is_ok());
    }
}
