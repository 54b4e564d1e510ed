//! Requests by tool, with a bound on the names.
//!
//! A tool is the first label of a valid host: anybody may ask for any. A name becomes a label when
//! the tool is registered, or when it is one of the first [`MAX_OTHERS`] others of the process that
//! gave an answer with a 2xx status (not those that portico gives in their place: anybody has a
//! robots.txt of any name); all else counts as [`OTHER`]. A name that is a label stays one,
//! since a counter must not vanish; there are [`MAX_TOOLS`] of them at the most.
//!
//! Each worker counts in a map of its own, which only it writes. The collector reads the maps while
//! they change, without a lock.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::cells::Counter;

/// Tools that have a label, registered or not.
pub const MAX_TOOLS: usize = 10_000;
/// Those that are not registered.
pub const MAX_OTHERS: usize = 2_000;
/// The label of all tools without one of their own. No tool's name: that has no brackets.
pub const OTHER: &str = "[other]";

/// The classes of a status, by their first digit; 0: the client got no answer.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The place of a status in [`CLASSES`]. Above 599 is what a client has to take for a 5xx (RFC 9110
/// section 15).
pub fn class(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES.len() - 1)
}

/// Requests by class.
pub type ByClass = [Counter; CLASSES.len()];

type Set = papaya::HashSet<Box<str>, foldhash::fast::RandomState>;
type Map = papaya::HashMap<Box<str>, ByClass, foldhash::fast::RandomState>;

/// The names that are labels, for all workers.
#[derive(Debug, Default)]
pub struct ToolNames {
    names: Set,
    all: AtomicUsize,
    others: AtomicUsize,
}

impl ToolNames {
    /// Whether `tool`, which `exists` by its answer, has a label of its own from now on.
    fn admit(&self, tool: &str, exists: bool, is_registered: impl FnOnce() -> bool) -> bool {
        let names = self.names.pin();
        if names.contains(tool) {
            return true;
        }
        if !below(&self.all, MAX_TOOLS) {
            return false;
        }
        let registered = is_registered();
        let may = registered || (exists && self.has_room_for_other());
        if !may || !take(&self.all, MAX_TOOLS) {
            return false;
        }
        if !registered && !take(&self.others, MAX_OTHERS) {
            give_back(&self.all);
            return false;
        }
        if !names.insert(tool.into()) {
            // Another worker was faster.
            give_back(&self.all);
            if !registered {
                give_back(&self.others);
            }
        }
        true
    }

    fn has_room_for_other(&self) -> bool {
        below(&self.others, MAX_OTHERS)
    }

    /// How many names are labels.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn below(count: &AtomicUsize, limit: usize) -> bool {
    count.load(Relaxed) < limit
}

fn take(count: &AtomicUsize, limit: usize) -> bool {
    let more = |now| (now < limit).then_some(now + 1);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

fn give_back(count: &AtomicUsize) {
    count.fetch_sub(1, Relaxed);
}

/// One worker's requests by tool.
#[derive(Debug, Default)]
pub struct ToolRequests {
    tools: Map,
    /// Of tools without a label.
    other: ByClass,
}

impl ToolRequests {
    /// Counts a request of `tool`, which `exists` if it gave a 2xx itself. Only the worker calls it.
    pub fn count(
        &self,
        names: &ToolNames,
        tool: &str,
        class: usize,
        exists: bool,
        is_registered: impl FnOnce() -> bool,
    ) {
        let tools = self.tools.pin();
        let counters = match tools.get(tool) {
            Some(counters) => counters,
            None if names.admit(tool, exists, is_registered) => {
                tools.get_or_insert_with(tool.into(), ByClass::default)
            }
            None => &self.other,
        };
        if let Some(counter) = counters.get(class) {
            counter.inc();
        }
    }

    /// Calls `f` with each tool, [`OTHER`] among them.
    pub fn for_each(&self, mut f: impl FnMut(&str, &ByClass)) {
        f(OTHER, &self.other);
        for (tool, counters) in &self.tools.pin() {
            f(tool, counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portico_routing::table::valid_tool;
    use std::collections::BTreeMap;

    fn labels(requests: &[&ToolRequests]) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for requests in requests {
            requests.for_each(|tool, counters| {
                *sums.entry(tool.to_owned()).or_default() +=
                    counters.iter().map(Counter::get).sum::<u64>();
            });
        }
        sums
    }

    #[test]
    fn a_status_has_a_class() {
        let classes = [0, 101, 200, 304, 404, 503, 600, 999].map(|status| CLASSES[class(status)]);
        assert_eq!(
            classes,
            ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]
        );
    }

    #[test]
    fn what_is_not_registered_needs_a_2xx() {
        let (names, requests) = (ToolNames::default(), ToolRequests::default());
        for (tool, status, exists, registered) in [
            ("made-up", 404, false, false),
            ("default-robots", 200, false, false),
            ("broken", 502, false, true),
            ("paws", 200, true, false),
            ("paws", 500, false, false),
            ("gone", 301, false, false),
        ] {
            requests.count(&names, tool, class(status), exists, || registered);
        }
        let expected = [(OTHER, 3), ("broken", 1), ("paws", 2)];
        let expected = expected.map(|(tool, count)| (tool.to_owned(), count));
        assert_eq!(labels(&[&requests]), BTreeMap::from(expected));
    }

    #[test]
    fn names_are_bounded_whatever_is_asked_for() {
        let names = ToolNames::default();
        let workers = [ToolRequests::default(), ToolRequests::default()];
        let each = 6_000;
        std::thread::scope(|scope| {
            for worker in &workers {
                scope.spawn(|| {
                    for n in 0..each {
                        worker.count(&names, &format!("other-{n}"), class(200), true, || false);
                    }
                    for n in 0..each * 2 {
                        worker.count(&names, &format!("tool-{n}"), class(200), true, || true);
                    }
                });
            }
        });
        let sums = labels(&[&workers[0], &workers[1]]);
        let others = sums.keys().filter(|tool| tool.starts_with("other-"));
        assert_eq!(others.count(), MAX_OTHERS);
        assert_eq!(sums.len(), MAX_TOOLS + 1, "and what is under {OTHER}");
        assert_eq!(names.len(), MAX_TOOLS);
        assert_eq!(sums.values().sum::<u64>(), each * 2 * 3, "none is lost");
        assert!(!valid_tool(OTHER));
    }
}
