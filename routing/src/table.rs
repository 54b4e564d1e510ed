//! The routing table: one entry a tool, read without locks while it is written.
//!
//! Does not read redis or files and does not decide; it holds what the registry said, compiled, and
//! what was wrong with it.
//!
//! Invariant: the routes of an entry stand in the order in which they are tried.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crate::backend::Backend;
use crate::host::MAX_LABEL;
use crate::pattern::{Pattern, Strategy};

/// Routes that one tool may have; what is beyond is a bad route.
pub const MAX_ROUTES: usize = 256;

/// Routes of one tool whose patterns need the regex engine. All of them may be searched for
/// one request, and patterns are written by the owners of tools: this bounds how long one of
/// them can hold a worker.
pub const MAX_REGEX_ROUTES: usize = 16;

/// Routes of all tools whose patterns need the regex engine. One takes up to 40 kB, and as much again
/// on each worker that searches with it: this bounds what all owners of tools can take together.
pub const MAX_REGEX_ROUTES_OF_ALL: usize = 2_000;

/// Bytes of a bad field or value that are kept to be shown.
pub const MAX_SHOWN: usize = 200;

/// What the registry holds for one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The routes in the order in which they are tried.
    pub routes: Routes,
    /// The tool moved to its own host: on legacy domains it is redirected there.
    pub redirect: bool,
    /// What was skipped, and why.
    pub bad: Box<[BadRoute]>,
}

/// The routes of one tool: a slice that needs no memory of its own for one route, which is what
/// nearly all tools have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(Held);

/// One route is never `Many`, so that equal routes are held alike.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    One(Route),
    Many(Box<[Route]>),
}

/// A pattern and where it points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Matched against the path.
    pub pattern: Pattern,
    /// Where requests go that match.
    pub backend: Backend,
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
    /// Builds an entry from the fields (pattern, backend) that the registry holds. Never fails:
    /// what is wrong goes to [`Entry::bad`]. `admit` may refuse a backend with a reason, for
    /// instance by an allow-list.
    pub fn build<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        redirect: bool,
        admit: &dyn Fn(&Backend) -> Result<(), String>,
    ) -> Entry {
        let mut fields: Vec<_> = fields.into_iter().collect();
        // The registry gives no order; which routes are beyond the bound must not depend on one.
        fields.sort_unstable();
        let left_out = fields.len().saturating_sub(MAX_ROUTES);
        let mut regexes = 0;
        let mut routes = Vec::new();
        let mut bad = Vec::new();
        for (field, value) in fields.into_iter().take(MAX_ROUTES) {
            match build_route(field, value, regexes < MAX_REGEX_ROUTES, admit) {
                Ok(route) => {
                    regexes += usize::from(needs_regex(&route));
                    routes.push(route);
                }
                Err(reason) => bad.push(BadRoute::new(field, value, &reason)),
            }
        }
        if left_out > 0 {
            let reason =
                format!("a tool may have {MAX_ROUTES} routes; {left_out} more were left out");
            bad.push(BadRoute::new(b"", b"", &reason));
        }
        routes.sort_by(|a, b| order(&a.pattern).cmp(&order(&b.pattern)));
        Entry {
            routes: routes.into(),
            redirect,
            bad: bad.into(),
        }
    }

    /// The first route whose pattern matches the canonical path: catch-alls last, then the longest
    /// pattern, then the first in byte order.
    #[inline]
    pub fn find(&self, canonical_path: &[u8]) -> Option<&Route> {
        self.routes
            .iter()
            .find(|route| route.pattern.matches(canonical_path))
    }

    /// How many of the routes need the regex engine.
    pub fn regex_routes(&self) -> usize {
        self.routes.iter().filter(|r| needs_regex(r)).count()
    }

    /// The same with the routes that need the regex engine skipped, for this reason.
    #[must_use]
    pub fn without_regex_routes(self, reason: &str) -> Entry {
        let mut bad = self.bad.into_vec();
        let (skipped, routes): (Vec<Route>, Vec<Route>) =
            self.routes.iter().cloned().partition(needs_regex);
        bad.extend(skipped.iter().map(|route| {
            let backend = route.backend.to_string();
            BadRoute::new(
                route.pattern.source().as_bytes(),
                backend.as_bytes(),
                reason,
            )
        }));
        Entry {
            routes: routes.into(),
            redirect: self.redirect,
            bad: bad.into(),
        }
    }

    /// Whether there is nothing in it: no route, no redirect, nothing bad.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && !self.redirect && self.bad.is_empty()
    }
}

impl From<Vec<Route>> for Routes {
    fn from(mut routes: Vec<Route>) -> Routes {
        Routes(match (routes.pop(), routes.is_empty()) {
            (Some(only), true) => Held::One(only),
            (last, _) => {
                routes.extend(last);
                Held::Many(routes.into())
            }
        })
    }
}

impl Default for Routes {
    fn default() -> Routes {
        Routes(Held::Many(Box::default()))
    }
}

impl Deref for Routes {
    type Target = [Route];

    #[inline]
    fn deref(&self) -> &[Route] {
        match &self.0 {
            Held::One(route) => slice::from_ref(route),
            Held::Many(routes) => routes,
        }
    }
}

impl<'r> IntoIterator for &'r Routes {
    type Item = &'r Route;
    type IntoIter = slice::Iter<'r, Route>;

    fn into_iter(self) -> slice::Iter<'r, Route> {
        self.iter()
    }
}

fn build_route(
    field: &[u8],
    value: &[u8],
    engine: bool,
    admit: &dyn Fn(&Backend) -> Result<(), String>,
) -> Result<Route, String> {
    let pattern = std::str::from_utf8(field).map_err(|_| "the pattern is not UTF-8".to_owned())?;
    let backend = std::str::from_utf8(value).map_err(|_| "the backend is not UTF-8".to_owned())?;
    let pattern = if engine {
        Pattern::compile(pattern).map(Some)
    } else {
        Pattern::without_engine(pattern)
    };
    let pattern = pattern.map_err(|error| error.to_string())?.ok_or_else(|| {
        format!(
            "a tool may have {MAX_REGEX_ROUTES} patterns that are neither catch-alls nor prefixes"
        )
    })?;
    let backend = Backend::parse(backend).map_err(|error| error.to_string())?;
    admit(&backend)?;
    Ok(Route { pattern, backend })
}

fn needs_regex(route: &Route) -> bool {
    route.pattern.strategy() == Strategy::Regex
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

/// All tools of the registry. Readers never lock and never wait; a change costs the
/// same whatever the size.
#[derive(Debug, Default)]
pub struct Table {
    tools: papaya::HashMap<Name, Tool, foldhash::fast::RandomState>,
    /// Of all entries, those that were skipped.
    bad_routes: AtomicUsize,
    /// Of all entries, those that need the regex engine.
    regex_routes: AtomicUsize,
}

/// What the table holds for a tool.
#[derive(Debug)]
struct Tool {
    entry: Arc<Entry>,
    /// [`Table::mark`].
    mark: AtomicU32,
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

    /// What `look` makes of the entry of `tool`, without touching the entry's reference count: that
    /// is one cache line that all workers would write to for a popular tool.
    #[inline]
    pub fn with<R>(&self, tool: &str, look: impl FnOnce(&Arc<Entry>) -> R) -> Option<R> {
        let found = self.tools.pin();
        found.get(tool.as_bytes()).map(|tool| look(&tool.entry))
    }

    /// Makes room for so many more tools at once. Else the table doubles whenever it is full, and each
    /// time holds its old slots for a while beside the new ones.
    pub fn reserve(&self, tools: usize) {
        self.tools.pin().reserve(tools);
    }

    /// Puts the entry of `tool` in place, without a mark, and gives the one that it replaces.
    pub fn set(&self, tool: &str, entry: Entry) -> Option<Arc<Entry>> {
        self.bad_routes.fetch_add(entry.bad.len(), Relaxed);
        self.regex_routes.fetch_add(entry.regex_routes(), Relaxed);
        let new = Tool {
            entry: Arc::new(entry),
            mark: AtomicU32::new(0),
        };
        let tools = self.tools.pin();
        let old = tools.insert(Name::new(tool), new);
        self.taken_out(old)
    }

    /// Takes the entry of `tool` out.
    pub fn remove(&self, tool: &str) -> Option<Arc<Entry>> {
        let tools = self.tools.pin();
        self.taken_out(tools.remove(tool.as_bytes()))
    }

    fn taken_out(&self, old: Option<&Tool>) -> Option<Arc<Entry>> {
        let old = old.map(|tool| Arc::clone(&tool.entry));
        if let Some(old) = &old {
            self.bad_routes.fetch_sub(old.bad.len(), Relaxed);
            self.regex_routes.fetch_sub(old.regex_routes(), Relaxed);
        }
        old
    }

    /// Marks the tool, if it is there, until its entry is set anew. Whoever has to go through all
    /// tools can so find those that it did not meet, without a list of a million names.
    pub fn mark(&self, tool: &str, mark: u32) {
        if let Some(tool) = self.tools.pin().get(tool.as_bytes()) {
            tool.mark.store(mark, Relaxed);
        }
    }

    /// Whether the tool is there and was given this mark.
    pub fn has_mark(&self, tool: &str, mark: u32) -> bool {
        let tools = self.tools.pin();
        let found = tools.get(tool.as_bytes());
        found.is_some_and(|tool| tool.mark.load(Relaxed) == mark)
    }

    /// The tools that were not given this mark, in no order.
    pub fn without_mark(&self, mark: u32) -> Vec<Box<str>> {
        let tools = self.tools.pin();
        let others = tools
            .iter()
            .filter(|(_, tool)| tool.mark.load(Relaxed) != mark);
        others.map(|(name, _)| name.as_str().into()).collect()
    }

    /// How many routes of all tools were skipped.
    pub fn bad_routes(&self) -> usize {
        self.bad_routes.load(Relaxed)
    }

    /// `entry` as it may stand for `tool`: when the table has no room for its patterns that need the
    /// regex engine ([`MAX_REGEX_ROUTES_OF_ALL`]), those are skipped.
    #[must_use]
    pub fn bounded(&self, tool: &str, entry: Entry) -> Entry {
        let wanted = entry.regex_routes();
        if wanted == 0 {
            return entry;
        }
        let own = self.with(tool, |old| old.regex_routes()).unwrap_or(0);
        let others = self.regex_routes.load(Relaxed).saturating_sub(own);
        if others + wanted <= MAX_REGEX_ROUTES_OF_ALL {
            return entry;
        }
        entry.without_regex_routes(&format!(
            "all tools together may have {MAX_REGEX_ROUTES_OF_ALL} patterns that are neither catch-alls nor prefixes"
        ))
    }

    /// How many tools there are.
    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// Whether there is no tool.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Calls `f` with every tool and its entry, in no order. Changes made meanwhile
    /// may or may not be seen.
    pub fn for_each(&self, mut f: impl FnMut(&str, &Arc<Entry>)) {
        for (name, tool) in &self.tools.pin() {
            f(name.as_str(), &tool.entry);
        }
    }
}

/// The bytes of a name that stand in the table itself: as many as fit into what the table's node for
/// a tool takes in any case.
const SHORT_NAME: usize = 22;

/// The name of a tool as the table's key. Nearly all are short, and then cost neither memory of their
/// own nor a look at it.
enum Name {
    Short { len: u8, bytes: [u8; SHORT_NAME] },
    Long(Box<[u8]>),
}

impl Name {
    fn new(name: &str) -> Name {
        let name = name.as_bytes();
        let mut bytes = [0; SHORT_NAME];
        match bytes.get_mut(..name.len()) {
            Some(start) => {
                start.copy_from_slice(name);
                let len = name.len() as u8;
                Name::Short { len, bytes }
            }
            None => Name::Long(name.into()),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Name::Long(bytes) => bytes,
        }
    }

    fn as_str(&self) -> &str {
        // It was a str.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// Names are looked up by their bytes: comparing those needs no check that they are UTF-8.
impl Borrow<[u8]> for Name {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    const URL: &str = "http://192.0.2.1:8000";

    fn admit_all(_: &Backend) -> Result<(), String> {
        Ok(())
    }

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let fields = fields
            .iter()
            .map(|(field, value)| (field.as_bytes(), value.as_bytes()));
        Entry::build(fields, false, &admit_all)
    }

    /// What a million tools cost is this and the table's slots (9 bytes, half to three quarters of
    /// them used): some 165 MB of the 300 that all may take. mimalloc adds 7 bytes to what it is
    /// asked for and rounds up to 16, so that 8 bytes more of any of these cost 16.
    #[test]
    fn a_tool_is_small() {
        assert_eq!(size_of::<(Name, Tool)>(), 40, "a node of the table");
        assert_eq!(size_of::<Entry>(), 72, "88 with its two counts");
        assert_eq!(size_of::<Route>(), 48, "also what `Routes` takes");
    }

    #[track_caller]
    fn check_order(patterns: &[&str], expected: &[&str]) {
        let fields: Vec<_> = patterns.iter().map(|pattern| (*pattern, URL)).collect();
        let entry = entry(&fields);
        let got: Vec<_> = entry
            .routes
            .iter()
            .map(|route| route.pattern.source())
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn catch_alls_last_then_longest_then_byte_order() {
        check_order(
            &[".*", "^/api/.*", "^/api/v2/.*"],
            &["^/api/v2/.*", "^/api/.*", ".*"],
        );
        check_order(
            &["^/b", "^.*[\\s\\S]*$", "^/a", "/", "x+"],
            &["^/a", "^/b", "x+", "^.*[\\s\\S]*$", "/"],
        );
    }

    #[track_caller]
    fn check_bad(field: &[u8], value: &[u8], reason: &str) {
        let admit = |backend: &Backend| match backend.port {
            666 => Err("the backend is not allowed".to_owned()),
            _ => Ok(()),
        };
        let good = (&b".*"[..], URL.as_bytes());
        let entry = Entry::build([(field, value), good], false, &admit);
        assert_eq!(entry.routes.len(), 1, "the good one stays");
        assert_eq!(entry.bad.len(), 1);
        let bad = &entry.bad[0];
        assert!(bad.reason.contains(reason), "{bad:?}");
        assert!(bad.field.len() <= 3 * MAX_SHOWN + 3 && bad.value.len() <= 3 * MAX_SHOWN + 3);
    }

    #[test]
    fn what_is_bad_is_skipped_and_shown() {
        check_bad(b"(", URL.as_bytes(), "unclosed group");
        check_bad(b"^/a", b"ftp://h", "scheme");
        check_bad(b"^/a", b"", "neither a scheme nor a port");
        check_bad(b"^/a", b"http://h:666", "not allowed");
        check_bad(b"\xff", URL.as_bytes(), "pattern is not UTF-8");
        check_bad(b"^/a", b"http://\xff", "backend is not UTF-8");
        check_bad(&[b'a'; 100_000], &[b'\xff'; 100_000], "not UTF-8");
        check_bad(&[b'a'; 100_000], URL.as_bytes(), "longer than");
    }

    #[test]
    fn too_many_routes() {
        let fields: Vec<_> = (0..1000).map(|n| format!("^/{n:04}")).collect();
        let pairs = || {
            fields
                .iter()
                .map(|field| (field.as_bytes(), URL.as_bytes()))
        };
        let entry = Entry::build(pairs(), false, &admit_all);
        assert_eq!(entry.routes.len(), MAX_ROUTES);
        assert!(entry.bad[0].reason.contains("744 more"));
        let reversed = Entry::build(pairs().rev(), false, &admit_all);
        assert_eq!(entry, reversed, "the order of the registry does not matter");
    }

    #[test]
    fn too_many_regular_expressions() {
        let fields: Vec<_> = (0..100).map(|n| format!("/{n}$")).collect();
        let pairs = fields
            .iter()
            .map(|field| (field.as_bytes(), URL.as_bytes()));
        let entry = Entry::build(
            pairs.chain([(&b".*"[..], URL.as_bytes())]),
            false,
            &admit_all,
        );
        assert_eq!(entry.routes.len(), MAX_REGEX_ROUTES + 1);
        assert_eq!(entry.bad.len(), 100 - MAX_REGEX_ROUTES);
        assert!(entry.bad[0].reason.contains("16 patterns"));
    }

    #[test]
    fn too_many_regular_expressions_of_all() {
        let table = Table::new();
        let patterns: Vec<_> = (0..MAX_REGEX_ROUTES)
            .map(|n| (format!("/{n}$"), URL))
            .collect();
        let patterns: Vec<_> = patterns.iter().map(|(p, u)| (p.as_str(), *u)).collect();
        let greedy = entry(&patterns);
        let mut set = |tool: &str, wanted: &Entry| {
            let bounded = table.bounded(tool, wanted.clone());
            table.set(tool, bounded.clone());
            (bounded.routes.len(), bounded.bad.len())
        };
        let full = MAX_REGEX_ROUTES_OF_ALL / MAX_REGEX_ROUTES;
        for n in 0..full {
            assert_eq!(set(&format!("t{n}"), &greedy), (MAX_REGEX_ROUTES, 0));
        }
        // Nobody who is there loses anything, and what needs no engine is taken in.
        assert_eq!(set("t0", &greedy), (MAX_REGEX_ROUTES, 0));
        assert_eq!(set("late", &greedy), (0, MAX_REGEX_ROUTES));
        assert_eq!(set("late", &entry(&[("/a$", URL), (".*", URL)])), (1, 1));
        assert_eq!(set("t0", &entry(&[(".*", URL)])), (1, 0));
        assert_eq!(set("late", &greedy), (MAX_REGEX_ROUTES, 0));
    }

    #[test]
    fn emptiness() {
        assert!(entry(&[]).is_empty());
        assert!(Entry::default().is_empty());
        assert!(!entry(&[(".*", URL)]).is_empty());
        assert!(!entry(&[("(", URL)]).is_empty());
        assert!(!Entry::build([], true, &admit_all).is_empty());
    }

    #[track_caller]
    fn check_tool(name: &str, expected: bool) {
        assert_eq!(valid_tool(name), expected, "{name:?}");
        let tool = ToolName::new(name.as_bytes());
        assert_eq!(
            tool.as_ref().map(ToolName::as_str),
            expected.then_some(name)
        );
    }

    #[test]
    fn tool_names() {
        check_tool("a", true);
        check_tool("ru_monuments-2", true);
        check_tool(&"a".repeat(63), true);
        check_tool(&"a".repeat(64), false);
        check_tool("", false);
        check_tool("A", false);
        check_tool("a.b", false);
        check_tool("a b", false);
        check_tool("\u{e9}", false);
    }

    #[test]
    fn bad_routes_are_counted_as_they_come_and_go() {
        let table = Table::new();
        let bad = entry(&[("(", URL), ("[", URL), (".*", URL)]);
        let change = |tool, entry: Option<&Entry>| {
            match entry {
                Some(entry) => table.set(tool, entry.clone()),
                None => table.remove(tool),
            };
            table.bad_routes()
        };
        assert_eq!(change("grid", Some(&bad)), 2);
        assert_eq!(change("other", Some(&bad)), 4);
        assert_eq!(change("grid", Some(&bad)), 4);
        assert_eq!(change("grid", Some(&entry(&[(".*", URL)]))), 2);
        assert_eq!(change("other", None), 0);
        assert_eq!(change("other", None), 0);
    }

    #[test]
    fn the_table_gives_what_was_set() {
        let table = Table::new();
        assert!(table.is_empty());
        assert_eq!(table.get("grid"), None);
        assert_eq!(table.set("grid", entry(&[(".*", URL)])), None);
        let old = table.set("grid", Entry::default());
        assert_eq!(old.map(|entry| entry.routes.len()), Some(1));
        table.set("other", Entry::default());
        let mut seen = Vec::new();
        table.for_each(|tool, _| seen.push(tool.to_owned()));
        seen.sort();
        assert_eq!(seen, ["grid", "other"]);
        assert_eq!(table.len(), 2);
        assert!(table.remove("grid").is_some());
        assert!(table.remove("grid").is_none());
        assert_eq!(table.get("grid"), None);
        assert_eq!(table.with("other", |entry| entry.is_empty()), Some(true));
    }

    #[test]
    fn readers_see_the_old_or_the_new_entry_and_nothing_else() {
        let table = Table::new();
        let variants = [entry(&[("^/a", URL)]), entry(&[("^/b", URL)])];
        table.set("tool", variants[0].clone());
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        (0..20_000).all(|_| {
                            table
                                .get("tool")
                                .is_some_and(|seen| variants.contains(&seen))
                        })
                    })
                })
                .collect();
            for n in 0..5_000 {
                table.set("tool", variants[n % 2].clone());
                table.set(&format!("other-{n}"), Entry::default());
            }
            assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
        });
        assert_eq!(table.len(), 5_001);
    }

    #[test]
    fn marks_last_until_the_entry_is_set_anew() {
        let table = Table::new();
        for tool in ["a", "b", "c"] {
            table.set(tool, Entry::default());
        }
        let check = |unmarked: &[&str]| {
            let mut without = table.without_mark(7);
            without.sort();
            assert_eq!(
                without.iter().map(|tool| &**tool).collect::<Vec<_>>(),
                unmarked
            );
            for tool in ["a", "b", "c"] {
                assert_eq!(table.has_mark(tool, 7), !unmarked.contains(&tool));
            }
        };
        check(&["a", "b", "c"]);
        for tool in ["a", "b", "nobody"] {
            table.mark(tool, 7);
        }
        check(&["c"]);
        table.mark("a", 8);
        table.set("b", Entry::default());
        check(&["a", "b", "c"]);
        assert!(!table.has_mark("nobody", 7) && !table.has_mark("nobody", 0));
    }

    /// All routes that match, then the best by the rule, in no particular representation.
    fn naive_find<'e>(entry: &'e Entry, path: &[u8]) -> Option<&'e Route> {
        entry
            .routes
            .iter()
            .filter(|route| route.pattern.matches(path))
            .min_by(|a, b| {
                let rank = |route: &Route| match route.pattern.strategy() {
                    Strategy::CatchAll => 1,
                    Strategy::Prefix | Strategy::Contains | Strategy::Regex => 0,
                };
                let (left, right) = (a.pattern.source(), b.pattern.source());
                rank(a)
                    .cmp(&rank(b))
                    .then(right.len().cmp(&left.len()))
                    .then(left.cmp(right))
            })
    }

    proptest! {
        #[test]
        fn find_as_the_naive_twin(
            patterns in prop::collection::btree_set("\\^?/?[ab]{0,2}[*+.]{0,2}\\$?", 0..8),
            path in "/[ab]{0,4}",
        ) {
            let fields: Vec<_> = patterns.iter().map(|pattern| (pattern.as_str(), URL)).collect();
            let entry = entry(&fields);
            prop_assert_eq!(entry.routes.len() + entry.bad.len(), patterns.len());
            prop_assert_eq!(entry.find(path.as_bytes()), naive_find(&entry, path.as_bytes()));
        }

        #[test]
        fn the_table_as_its_naive_twin(
            changes in prop::collection::vec(("[a-c-]{1,2}|[a-b]{21,24}|[a-b]{63}", 0..4_usize), 0..200),
        ) {
            let table = Table::new();
            let mut twin = std::collections::HashMap::new();
            for (tool, routes) in changes {
                let fields: Vec<_> = (0..routes).map(|n| (format!("^/{n}"), URL)).collect();
                let fields: Vec<_> = fields.iter().map(|(field, url)| (&**field, *url)).collect();
                let new = entry(&fields);
                let (old, twins) = match routes {
                    0 => (table.remove(&tool), twin.remove(&tool)),
                    _ => (table.set(&tool, new.clone()), twin.insert(tool.clone(), new)),
                };
                prop_assert_eq!(old.as_deref(), twins.as_ref());
                prop_assert_eq!(table.len(), twin.len());
            }
            let mut all = std::collections::HashMap::new();
            table.for_each(|tool, entry| {
                all.insert(tool.to_owned(), Entry::clone(entry));
            });
            prop_assert_eq!(&all, &twin);
            for (tool, entry) in &twin {
                let got = table.get(tool);
                prop_assert_eq!(got.as_deref(), Some(entry));
            }
        }

        #[test]
        fn routes_are_the_slice_that_they_were_made_of(
            patterns in prop::collection::vec("[a-c.*]{0,3}", 0..4),
        ) {
            let backend = Backend::parse(URL).unwrap();
            let route = |source: &String| Pattern::compile(source).ok().map(|pattern| Route {
                pattern,
                backend: backend.clone(),
            });
            let twin: Vec<Route> = patterns.iter().filter_map(route).collect();
            let routes = Routes::from(twin.clone());
            prop_assert_eq!(&*routes, &*twin);
            prop_assert_eq!(routes.into_iter().len(), twin.len());
            prop_assert_eq!(routes == Routes::default(), twin.is_empty());
        }

        #[test]
        fn build_never_fails(fields in prop::collection::vec(any::<(Vec<u8>, Vec<u8>)>(), 0..8)) {
            let pairs = fields.iter().map(|(field, value)| (&field[..], &value[..]));
            let entry = Entry::build(pairs, false, &admit_all);
            prop_assert_eq!(entry.routes.len() + entry.bad.len(), fields.len());
        }
    }
}
