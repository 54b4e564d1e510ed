//! The routing table: one entry a tool, read without locks while it is written.
//!
//! Does not read redis or files and does not decide; it holds what the registry said, compiled, and what was wrong
//! with it.
//!
//! Invariant: the routes of an entry stand in the order in which they are tried.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use crate::backend::Backend;
use crate::host::MAX_LABEL;
use crate::pattern::{Pattern, Strategy};

/// Routes that one tool may have; what is beyond is a bad route.
pub const MAX_ROUTES: usize = 256;

/// Bytes of a bad field or value that are kept to be shown.
pub const MAX_SHOWN: usize = 200;

/// What the registry holds for one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The routes in the order in which they are tried.
    pub routes: Box<[Route]>,
    /// The tool moved to its own host: on legacy domains it is redirected there.
    pub redirect: bool,
    /// What was skipped, and why.
    pub bad: Box<[BadRoute]>,
}

/// A pattern and where it points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Matched against the path.
    pub pattern: Pattern,
    /// Where requests go that match.
    pub backend: Arc<Backend>,
}

/// A route of the registry that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRoute {
    /// The pattern, lossily as UTF-8, at most [`MAX_SHOWN`] bytes and an ellipsis.
    pub field: Box<str>,
    /// The backend, lossily as UTF-8, at most [`MAX_SHOWN`] bytes and an ellipsis.
    pub value: Box<str>,
    /// What is wrong with it.
    pub reason: Box<str>,
}

impl Entry {
    /// Builds an entry from the fields (pattern, backend) that the registry holds. Never fails: what is wrong goes to
    /// [`Entry::bad`]. `admit` may refuse a backend with a reason, for instance by an allow-list.
    pub fn build<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        redirect: bool,
        admit: &dyn Fn(&Backend) -> Result<(), String>,
    ) -> Entry {
        let mut routes = Vec::new();
        let mut bad = Vec::new();
        let mut left_out = 0_usize;
        for (field, value) in fields {
            if routes.len() + bad.len() >= MAX_ROUTES {
                left_out += 1;
                continue;
            }
            match build_route(field, value, admit) {
                Ok(route) => routes.push(route),
                Err(reason) => bad.push(BadRoute::new(field, value, &reason)),
            }
        }
        if left_out > 0 {
            let reason =
                format!("a tool may have {MAX_ROUTES} routes; {left_out} more were left out");
            bad.push(BadRoute::new(b"", b"", &reason));
        }
        routes.sort_by(|a, b| order(&a.pattern).cmp(&order(&b.pattern)));
        bad.sort_by(|a, b| a.field.cmp(&b.field));
        Entry {
            routes: routes.into(),
            redirect,
            bad: bad.into(),
        }
    }

    /// The first route whose pattern matches the canonical path: catch-alls last, then the longest pattern, then the
    /// first in byte order.
    #[inline]
    pub fn find(&self, canonical_path: &[u8]) -> Option<&Route> {
        self.routes
            .iter()
            .find(|route| route.pattern.matches(canonical_path))
    }

    /// Whether there is nothing in it: no route, no redirect, nothing bad.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && !self.redirect && self.bad.is_empty()
    }
}

fn build_route(
    field: &[u8],
    value: &[u8],
    admit: &dyn Fn(&Backend) -> Result<(), String>,
) -> Result<Route, String> {
    let pattern = std::str::from_utf8(field).map_err(|_| "the pattern is not UTF-8".to_owned())?;
    let backend = std::str::from_utf8(value).map_err(|_| "the backend is not UTF-8".to_owned())?;
    let pattern = Pattern::compile(pattern).map_err(|error| error.to_string())?;
    let backend = Backend::parse(backend).map_err(|error| error.to_string())?;
    admit(&backend)?;
    Ok(Route {
        pattern,
        backend: Arc::new(backend),
    })
}

/// Sorts patterns into the order in which they are tried.
fn order(pattern: &Pattern) -> (bool, Reverse<usize>, &str) {
    let source = pattern.source();
    let last = pattern.strategy() == Strategy::CatchAll;
    (last, Reverse(source.len()), source)
}

impl BadRoute {
    /// Cuts what is shown to a bounded length.
    pub fn new(field: &[u8], value: &[u8], reason: &str) -> BadRoute {
        BadRoute {
            field: shown(field),
            value: shown(value),
            reason: shown(reason.as_bytes()),
        }
    }
}

fn shown(bytes: &[u8]) -> Box<str> {
    match bytes.get(..MAX_SHOWN) {
        Some(start) if bytes.len() > MAX_SHOWN => {
            format!("{}\u{2026}", String::from_utf8_lossy(start)).into()
        }
        _ => String::from_utf8_lossy(bytes).into(),
    }
}

/// Whether `name` can be a tool: 1 to 63 bytes of `[a-z0-9_-]`, which is what a first label can be.
pub fn valid_tool(name: &str) -> bool {
    ToolName::new(name.as_bytes()).is_some()
}

/// The name of a tool, inline, so that it can be passed on without allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ToolName {
    bytes: [u8; MAX_LABEL],
    len: u8,
}

impl ToolName {
    /// `None` when `name` cannot be a tool ([`valid_tool`]).
    pub fn new(name: &[u8]) -> Option<ToolName> {
        if name.is_empty() || name.len() > MAX_LABEL {
            return None;
        }
        let mut bytes = [0; MAX_LABEL];
        for (to, &from) in bytes.iter_mut().zip(name) {
            match from {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *to = from,
                _ => return None,
            }
        }
        Some(ToolName {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The name.
    #[inline]
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever stored, so that the defaults are never taken.
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToolName({})", self.as_str())
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All tools of the registry. Readers never lock and never wait; a change costs the same whatever the size.
#[derive(Debug, Default)]
pub struct Table {
    entries: papaya::HashMap<Box<str>, Arc<Entry>, foldhash::fast::RandomState>,
}

impl Table {
    /// An empty table.
    pub fn new() -> Table {
        Table::default()
    }

    /// The entry of `tool`.
    #[inline]
    pub fn get(&self, tool: &str) -> Option<Arc<Entry>> {
        self.with(tool, Arc::clone)
    }

    /// What `look` makes of the entry of `tool`, without touching the entry's reference count: that is one cache line
    /// that all workers would write to for a popular tool.
    #[inline]
    pub fn with<R>(&self, tool: &str, look: impl FnOnce(&Arc<Entry>) -> R) -> Option<R> {
        self.entries.pin().get(tool).map(look)
    }

    /// Puts the entry of `tool` in place and gives the one that it replaces.
    pub fn set(&self, tool: &str, entry: Entry) -> Option<Arc<Entry>> {
        self.entries
            .pin()
            .insert(tool.into(), Arc::new(entry))
            .cloned()
    }

    /// Takes the entry of `tool` out.
    pub fn remove(&self, tool: &str) -> Option<Arc<Entry>> {
        self.entries.pin().remove(tool).cloned()
    }

    /// How many tools there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tool.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `f` with every tool and its entry, in no order. Changes made meanwhile may or may not be seen.
    pub fn for_each(&self, mut f: impl FnMut(&str, &Arc<Entry>)) {
        for (tool, entry) in &self.entries.pin() {
            f(tool, entry);
        }
    }
}
