//! `/list`: all tools with routes, as the old service on port 8081 gave them to dashboards (T88216):
//! `{"<tool>": {"status": "active"}, ...}`.
//!
//! A million names take some 20 MB for as long as the answer lasts; the JSON is made piece by piece.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use portico_routing::table::Entry;
use tokio::sync::OwnedSemaphorePermit;

use super::State;
use super::answer::{Body, answer, refusal};

/// About so much is sent at once.
const PIECE: usize = 64 << 10;

/// Names in byte order, and how far they were sent.
#[derive(Default)]
pub struct Names {
    text: String,
    /// Start and end in `text`.
    spans: Vec<(u32, u32)>,
    next: usize,
    ended: bool,
    /// Given back when the answer has ended.
    place: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("count", &self.spans.len())
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

pub(super) async fn page(state: &Arc<State>) -> Response<Body> {
    let Ok(place) = Arc::clone(&state.lists).try_acquire_owned() else {
        let why = "too many clients get the list already; try again later";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    match state.aside(true, names).await {
        Ok(mut names) => {
            names.place = Some(place);
            answer(StatusCode::OK, "application/json", Body::List(names))
        }
        Err(response) => response,
    }
}

/// Who has routes, good or bad; the old list had every key `prefix:*`.
fn names(state: &State) -> Names {
    let mut names = Names::default();
    let snapshot = state.process.snapshot.load();
    for tool in snapshot.config.rules.routes.keys() {
        names.push(tool);
    }
    state.process.table.for_each(|tool, entry: &Arc<Entry>| {
        if !entry.routes.is_empty() || !entry.bad.is_empty() {
            names.push(tool);
        }
    });
    names.sort();
    names
}

impl Names {
    fn push(&mut self, name: &str) {
        let start = self.text.len();
        let end = start + name.len();
        // 4 GiB of names are 60 million tools.
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) {
            self.text.push_str(name);
            self.spans.push((start, end));
        }
    }

    fn sort(&mut self) {
        let text = &self.text;
        let name = |span: &(u32, u32)| name_at(text, *span);
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        self.spans.dedup_by(|a, b| name(a) == name(b));
    }

    /// The next piece of the JSON.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE + 256);
        if self.next == 0 {
            piece.push(b'{');
        }
        while piece.len() < PIECE
            && let Some(span) = self.spans.get(self.next)
        {
            if self.next > 0 {
                piece.extend_from_slice(b", ");
            }
            // A tool is [a-z0-9_-]: nothing to be escaped.
            piece.push(b'"');
            piece.extend_from_slice(name_at(&self.text, *span).as_bytes());
            piece.extend_from_slice(b"\": {\"status\": \"active\"}");
            self.next += 1;
        }
        if self.next == self.spans.len() {
            piece.push(b'}');
            self.ended = true;
        }
        Some(piece.into())
    }
}

fn name_at(text: &str, (start, end): (u32, u32)) -> &str {
    text.get(start as usize..end as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str]) {
        let mut list = Names::default();
        names.iter().for_each(|name| list.push(name));
        list.sort();
        let mut bytes = Vec::new();
        let mut longest = 0;
        while let Some(piece) = list.next() {
            longest = longest.max(piece.len());
            bytes.extend_from_slice(&piece);
        }
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let object = value.as_object().unwrap();
        let mut expected: Vec<&str> = names.to_vec();
        expected.sort();
        expected.dedup();
        assert!(object.keys().map(String::as_str).eq(expected));
        assert!(
            object
                .values()
                .all(|tool| *tool == serde_json::json!({"status": "active"}))
        );
        assert!(longest < PIECE + 256, "{longest}");
    }

    #[test]
    fn lists() {
        check(&[]);
        check(&["one"]);
        check(&["b", "a", "b", "a-b", "_"]);
        let many: Vec<String> = (0..20_000)
            .map(|n| format!("tool-{}", n * 7919 % 20_000))
            .collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
