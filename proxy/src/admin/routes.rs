//! `/routes`: the routes of tools, page by page, as JSON.
//!
//! A page looks at every name of the table once, beside the control thread, and keeps the first few:
//! its cost does not depend on which page it is, and its size has a bound in tools and in bytes.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::{Request, Response, StatusCode};
use portico_routing::table::Entry;

use super::State;
use super::answer::{Body, bad_request, json_bytes};
use super::query::Query;
use crate::percent::encode;
use crate::registry::RegistryStatus;
use crate::routes::{Head, bad_keys, tool, write_json};

/// Tools on a page unless told otherwise.
const PAGE_SIZE: usize = 100;
/// Tools on a page at the most.
const MAX_PAGE_SIZE: usize = 10_000;
/// A page ends at the tool that fills it to this.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    prefix: String,
    contains: String,
    bad: bool,
    held: bool,
    after: String,
    size: usize,
}

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let wanted = match wanted(request) {
        Ok(wanted) => wanted,
        Err(why) => return bad_request(&why),
    };
    match state.aside(true, move |state| made(state, &wanted)).await {
        Ok(bytes) => json_bytes(StatusCode::OK, bytes),
        Err(response) => response,
    }
}

fn wanted<B>(request: &Request<B>) -> Result<Wanted, String> {
    let known = [
        "tool",
        "contains",
        "bad",
        "held",
        "page_size",
        "after",
        "format",
    ];
    let query = Query::parse(request, &known)?;
    if query.one("format")?.is_some_and(|format| format != "json") {
        return Err("this page is JSON; portico routes prints text".to_owned());
    }
    let text = |name| {
        query
            .one(name)
            .map(|value| value.unwrap_or_default().to_lowercase())
    };
    let size = match query.one("page_size")? {
        None => PAGE_SIZE,
        Some(size) => (size.parse().ok())
            .filter(|size| (1..=MAX_PAGE_SIZE).contains(size))
            .ok_or_else(|| format!("page_size is a number of 1 to {MAX_PAGE_SIZE}"))?,
    };
    Ok(Wanted {
        prefix: text("tool")?,
        contains: text("contains")?,
        bad: query.flag("bad")?,
        held: query.flag("held")?,
        after: text("after")?,
        size,
    })
}

/// The names of one page, and how many match altogether.
#[derive(Debug, Default)]
struct Found {
    first: BinaryHeap<Box<str>>,
    matching: usize,
    more: bool,
}

impl Found {
    fn offer(&mut self, wanted: &Wanted, tool: &str) {
        self.matching += 1;
        if tool <= wanted.after.as_str() {
            return;
        }
        if self.first.len() == wanted.size {
            self.more = true;
            if self.first.peek().is_none_or(|last| tool > &**last) {
                return;
            }
            self.first.pop();
        }
        self.first.push(tool.into());
    }
}

impl Wanted {
    fn matches(&self, tool: &str, entries: [Option<&Entry>; 2], status: &RegistryStatus) -> bool {
        tool.starts_with(&self.prefix)
            && (!self.held || status.held_tool(tool).is_some())
            && tool.contains(&self.contains)
            && (!self.bad
                || entries
                    .into_iter()
                    .flatten()
                    .any(|entry| !entry.bad.is_empty()))
    }
}

fn made(state: &State, wanted: &Wanted) -> Vec<u8> {
    let snapshot = state.process.snapshot.load_full();
    let rules = &*snapshot.config.rules;
    let table = &state.process.table;
    let status = &state.process.registry_status;
    let mut found = Found::default();
    for (tool, entry) in &rules.routes {
        let other = table.get(tool);
        if wanted.matches(tool, [Some(entry), other.as_deref()], status) {
            found.offer(wanted, tool);
        }
    }
    table.for_each(|tool, entry| {
        // The others were looked at above.
        if wanted.matches(tool, [Some(entry), None], status) && !rules.routes.contains_key(tool) {
            found.offer(wanted, tool);
        }
    });
    let mut head = match &snapshot.config.registry {
        Some(_) => Head::of(status, SystemTime::now()),
        None => Head::default(),
    };
    head.matching = found.matching;
    head.bad_keys = wanted.bad.then(|| bad_keys(status));
    let mut bytes = head.opened();
    let mut last = None;
    for name in found.first.into_sorted_vec() {
        if bytes.len() >= MAX_PAGE_BYTES {
            found.more = true;
            break;
        }
        let registry = table.get(&name);
        bytes.extend_from_slice(if last.is_some() { b",\n" } else { b"\n" });
        let held = status.held_tool(&name);
        let listed = tool(rules, &name, registry.as_deref(), held.as_ref());
        // Into memory, and strings, lists and booleans only: it cannot fail.
        let _ = write_json(&mut bytes, &listed);
        last = Some(name);
    }
    let next = last.filter(|_| found.more).map(|last| wanted.next(&last));
    let next = serde_json::Value::from(next);
    bytes.extend_from_slice(format!("\n], \"next\": {next}}}\n").as_bytes());
    bytes
}

impl Wanted {
    /// The target of the page behind this one.
    fn next(&self, last: &str) -> String {
        let mut target = String::from("/routes?");
        for (name, value) in [("tool", &self.prefix), ("contains", &self.contains)] {
            if !value.is_empty() {
                target.push_str(&format!("{name}={}&", encode(value)));
            }
        }
        for (name, on) in [("bad", self.bad), ("held", self.held)] {
            if on {
                target.push_str(&format!("{name}=true&"));
            }
        }
        format!("{target}page_size={}&after={}", self.size, encode(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pages of such names, one after the other, in whatever order the table gives them.
    #[track_caller]
    fn check(names: &[&str], size: usize, expected: &[&[&str]]) {
        let mut pages: Vec<Vec<String>> = Vec::new();
        let mut wanted = Wanted {
            prefix: String::new(),
            contains: String::new(),
            bad: false,
            held: false,
            after: String::new(),
            size,
        };
        for turn in 0.. {
            assert!(turn <= names.len(), "it never ends");
            let mut found = Found::default();
            let (start, end) = names.split_at(turn * 2 % (names.len() + 1));
            for name in end.iter().chain(start) {
                found.offer(&wanted, name);
            }
            assert_eq!(found.matching, names.len());
            let page = found.first.into_sorted_vec();
            wanted.after = page.last().map(|last| last.to_string()).unwrap_or_default();
            pages.push(page.iter().map(|name| name.to_string()).collect());
            if !found.more {
                break;
            }
        }
        assert_eq!(pages, expected);
    }

    #[test]
    fn pages_hold_each_name_once_and_in_order() {
        let names = ["c", "a", "e", "b", "d"];
        check(&[], 2, &[&[]]);
        check(&names, 2, &[&["a", "b"], &["c", "d"], &["e"]]);
        check(&names, 5, &[&["a", "b", "c", "d", "e"]]);
        check(&names, 4, &[&["a", "b", "c", "d"], &["e"]]);
        check(&names, 1, &[&["a"], &["b"], &["c"], &["d"], &["e"]]);
    }
}
