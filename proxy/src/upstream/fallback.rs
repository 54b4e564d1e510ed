//! The 404 backend: where requests go that nothing else answers.
//!
//! It is down for one request at a time: each tries it anew, and its client gets portico's own page
//! when it fails. The client never hears of that, so the log does. Whether a request may go there
//! is decided in `request`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portico_routing::backend::Backend;
use tracing::warn;

use crate::repeats::Repeats;

/// The name under which requests in flight to the fallback are counted. No tool's: a name has no
/// brackets.
pub const FALLBACK: &str = "[fallback]";

/// How long it may be silent, unless `timeouts.response` is shorter: the page that stands in for it
/// is at hand, and it has no long jobs.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The backend of `[fallback]`.
#[derive(Debug)]
pub struct Fallback {
    /// Where it is.
    pub backend: Backend,
    /// Locked when it failed, and then for no wait.
    failures: Mutex<Repeats>,
}

impl Fallback {
    /// A fallback of which nothing is known.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            failures: Mutex::default(),
        }
    }

    /// The fallback as configured; `previous` if it has not moved.
    pub fn adopting(backend: Backend, previous: Option<&Arc<Self>>) -> Arc<Self> {
        match previous {
            Some(previous) if previous.backend == backend => Arc::clone(previous),
            _ => Arc::new(Self::new(backend)),
        }
    }

    /// Notes that it did not answer a request, and why.
    pub fn failed(&self, why: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unsaid) = failures.occur(Instant::now()) {
            let backend = &self.backend;
            warn!(
                %backend,
                fault = "platform",
                unsaid,
                "the fallback backend is down: {why}; clients get the built-in 404 page"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portico_routing::table::valid_tool;

    #[test]
    fn it_stays_itself_while_it_does_not_move() {
        let backend = |text| Backend::parse(text).unwrap();
        let old = Fallback::adopting(backend("http://192.0.2.1:1"), None);
        let same = Fallback::adopting(backend("http://192.0.2.1:1"), Some(&old));
        assert!(Arc::ptr_eq(&same, &old));
        let moved = Fallback::adopting(backend("http://192.0.2.1:2"), Some(&old));
        assert!(!Arc::ptr_eq(&moved, &old));
    }

    #[test]
    fn no_tool_has_its_name() {
        assert!(!valid_tool(FALLBACK));
    }
}
