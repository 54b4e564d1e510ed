//! Policy: how many requests of one tool may be in flight at once (T404471).
//!
//! One tool that hangs must not take all connections and memory with it. The count is for the
//! process, not for a worker. A tool is the first label of a valid host under the canonical domain
//! (or the first path segment on a legacy domain), registered or not. Setting:
//! `limits.in_flight_per_tool`. Over it the answer is 503 with `Retry-After`.
//!
//! Bounds: counters without requests are swept by the control thread. While [`MAX_TOOLS`] names are
//! known, new names share one counter, so that a spray of made-up names costs bounded memory and
//! can only refuse other new names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

/// Names that are counted one by one.
const MAX_TOOLS: usize = 100_000;

/// The requests in flight of every tool.
#[derive(Debug, Default)]
pub struct ToolCap {
    counters: DashMap<Box<str>, Arc<AtomicU32>, foldhash::fast::RandomState>,
    crowd: Arc<AtomicU32>,
}

/// A request's place among its tool's; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the policy says of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Go on, and keep the place until the request has ended.
    Admitted(Place),
    /// The tool has `limit` requests in flight already.
    Full,
}

impl ToolCap {
    /// Asks for a place among the requests of `tool`, of which `limit` may be in flight.
    pub fn enter(&self, tool: &str, limit: u32) -> Verdict {
        let counter = self.counter(tool);
        let place = Place(counter);
        if place.0.fetch_add(1, Ordering::Relaxed) >= limit {
            return Verdict::Full;
        }
        Verdict::Admitted(place)
    }

    fn counter(&self, tool: &str) -> Arc<AtomicU32> {
        if let Some(counter) = self.counters.get(tool) {
            return Arc::clone(&counter);
        }
        if self.counters.len() >= MAX_TOOLS {
            return Arc::clone(&self.crowd);
        }
        Arc::clone(&self.counters.entry(tool.into()).or_default())
    }

    /// How many requests of `tool` are in flight. Of one that shares its counter with others: all of
    /// theirs.
    pub fn in_flight(&self, tool: &str) -> u32 {
        if let Some(counter) = self.counters.get(tool) {
            return counter.load(Ordering::Relaxed);
        }
        match self.counters.len() >= MAX_TOOLS {
            true => self.crowd.load(Ordering::Relaxed),
            false => 0,
        }
    }

    /// The counts of these tools alone, to try what would happen.
    pub fn copy_of(&self, tools: &[&str]) -> Self {
        let copy = Self::default();
        for tool in tools {
            let count = AtomicU32::new(self.in_flight(tool));
            copy.counters.insert((*tool).into(), Arc::new(count));
        }
        copy
    }

    /// Forgets tools without a request in flight. Called every few seconds by the control thread.
    pub fn sweep(&self) {
        // A counter that somebody holds is in use, or about to be: only the map's
        // own reference may go.
        self.counters
            .retain(|_, counter| Arc::strong_count(counter) > 1);
    }

    /// How many tools are counted one by one.
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// Whether no tool is counted.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(cap: &ToolCap, tool: &str, limit: u32) -> Option<Place> {
        match cap.enter(tool, limit) {
            Verdict::Admitted(place) => Some(place),
            Verdict::Full => None,
        }
    }

    #[test]
    fn the_cap_holds_for_each_tool_by_itself() {
        let cap = ToolCap::default();
        let first = admitted(&cap, "a", 2);
        let second = admitted(&cap, "a", 2);
        assert!(first.is_some() && second.is_some());
        assert!(admitted(&cap, "a", 2).is_none());
        assert!(admitted(&cap, "b", 2).is_some());
        drop(first);
        assert!(admitted(&cap, "a", 2).is_some());
    }

    #[test]
    fn a_refusal_takes_no_place() {
        let cap = ToolCap::default();
        let held = admitted(&cap, "a", 1);
        for _ in 0..10 {
            assert!(admitted(&cap, "a", 1).is_none());
        }
        drop(held);
        assert!(admitted(&cap, "a", 1).is_some());
    }

    #[test]
    fn a_copy_leaves_the_counts_alone() {
        let cap = ToolCap::default();
        let _held = admitted(&cap, "a", 2);
        let copy = cap.copy_of(&["a", "b"]);
        assert_eq!((copy.in_flight("a"), copy.in_flight("b")), (1, 0));
        let _tried = admitted(&copy, "a", 2);
        assert!(admitted(&copy, "a", 2).is_none());
        assert_eq!((cap.in_flight("a"), cap.in_flight("b")), (1, 0));
        assert_eq!(cap.len(), 1);
    }

    #[test]
    fn made_up_names_are_bounded_and_swept() {
        let cap = ToolCap::default();
        let held = admitted(&cap, "real", 5);
        for i in 0..MAX_TOOLS + 1000 {
            assert!(admitted(&cap, &format!("x{i}"), 5).is_some());
        }
        assert!(cap.len() <= MAX_TOOLS);
        cap.sweep();
        assert_eq!(cap.len(), 1);
        drop(held);
        cap.sweep();
        assert!(cap.is_empty());
    }

    #[test]
    fn the_count_is_exact_over_threads() {
        let cap = ToolCap::default();
        let most = AtomicU32::new(0);
        let now = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Some(place) = admitted(&cap, "t", 3) {
                            let n = now.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(n, Ordering::SeqCst);
                            now.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                        }
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        cap.sweep();
        assert!(cap.is_empty());
    }
}
