//! Names of backends and nodes, resolved off the request path.
//!
//! A request never waits for DNS: it looks the name up here, in memory. The control thread resolves
//! each wanted name through the system's resolver (so `/etc/hosts` and the rest of nsswitch count),
//! again every [`TTL`], and keeps the last good addresses when a later attempt fails: a DNS outage
//! must not become an outage of the tools. A name is wanted as long as a route or pool names it, or
//! at the latest by the first request for it.
//!
//! The system's resolver does not tell a record's own TTL, hence the fixed one.
//! Bounds: [`MAX_NAMES`]; a name that nobody looked up or wanted for [`FORGET_AFTER`] is
//! dropped.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::repeats::Repeats;

/// How long addresses count as fresh.
const TTL: Duration = Duration::from_secs(30);
/// How soon a failed name is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How many names are kept.
const MAX_NAMES: usize = 10_000;
/// A name that nobody asked for this long is dropped; those of routes and pools are said to be
/// wanted more often.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Names resolved at the same time.
const PARALLEL: usize = 16;

/// The names that portico knows, shared by the workers and the control thread.
#[derive(Debug)]
pub struct Resolver {
    names: papaya::HashMap<Box<str>, Arc<Name>, foldhash::fast::RandomState>,
    wake: Notify,
    /// Something became known of a name.
    learned: Notify,
    started: Instant,
    /// Tools choose the names in their routes, and how often those come and go: failures and
    /// recoveries, so that they do not fill the log. Only the control thread locks it.
    said: Mutex<(Repeats, Repeats)>,
}

/// One name. Times are milliseconds since the resolver's start.
#[derive(Debug)]
struct Name {
    /// Empty until the first success.
    addresses: ArcSwap<Vec<IpAddr>>,
    due: AtomicU64,
    asked: AtomicU64,
    /// Attempts that failed since the last success.
    failures: AtomicU64,
}

/// What is known of a name.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its last good addresses; empty: none yet.
    pub addresses: Arc<Vec<IpAddr>>,
    /// The last attempt to resolve it failed.
    pub failing: bool,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            names: papaya::HashMap::default(),
            wake: Notify::new(),
            learned: Notify::new(),
            started: Instant::now(),
            said: Mutex::default(),
        }
    }
}

impl Resolver {
    /// The addresses of `name`, in the system's order but for those that could not be reached; empty
    /// while it is not resolved. A name that is not known yet becomes wanted. Never waits.
    pub fn lookup(&self, name: &str) -> Arc<Vec<IpAddr>> {
        let names = self.names.pin();
        if let Some(known) = names.get(name) {
            known.asked.store(self.now(), Ordering::Relaxed);
            return known.addresses.load_full();
        }
        drop(names);
        self.want(name);
        Arc::default()
    }

    /// The address could not be connected to: it goes behind the others of the name until that is
    /// resolved again, so that not each request has to find out.
    pub fn unreachable(&self, name: &str, address: IpAddr) {
        let names = self.names.pin();
        let Some(known) = names.get(name) else { return };
        known.addresses.rcu(|addresses| {
            let mut addresses = Vec::clone(addresses);
            addresses.sort_by_key(|one| *one == address);
            addresses
        });
    }

    /// What is known of `name`, without a word that somebody wants it.
    pub fn peek(&self, name: &str) -> Known {
        let names = self.names.pin();
        let Some(known) = names.get(name) else {
            return Known::default();
        };
        Known {
            addresses: known.addresses.load_full(),
            failing: known.failures.load(Ordering::Relaxed) > 0,
        }
    }

    /// Has `name` resolved soon, and kept, so that the next request finds it ready.
    pub fn want(&self, name: &str) {
        let names = self.names.pin();
        if let Some(known) = names.get(name) {
            known.asked.store(self.now(), Ordering::Relaxed);
            return;
        }
        if names.len() >= MAX_NAMES {
            return;
        }
        let fresh = Arc::new(Name {
            addresses: ArcSwap::default(),
            due: AtomicU64::new(0),
            asked: AtomicU64::new(self.now()),
            failures: AtomicU64::new(0),
        });
        let _ = names.try_insert(name.into(), fresh);
        self.wake.notify_one();
    }

    /// Waits until every name that is wanted now has been tried, for `limit` at the most, so that the
    /// first requests find their backends. [`Resolver::run`] has to run meanwhile.
    pub async fn tried_all(&self, limit: Duration) {
        let tried_all = async {
            loop {
                let learned = self.learned.notified();
                if self.names.pin().values().all(|name| name.tried()) {
                    return;
                }
                learned.await;
            }
        };
        // What takes longer is resolved while others are served already.
        let _ = timeout(limit, tried_all).await;
    }

    /// Resolves what is due, for ever. Runs on the control thread.
    pub async fn run(&self) {
        let mut attempts = JoinSet::new();
        loop {
            for (name, known) in self.due(PARALLEL.saturating_sub(attempts.len())) {
                attempts.spawn(async move {
                    let found = timeout(ATTEMPT, addresses(&name)).await;
                    (name, known, found)
                });
            }
            tokio::select! {
                Some(done) = attempts.join_next() => if let Ok((name, known, found)) = done {
                    let found = match found {
                        Ok(found) => found.map_err(|error| error.to_string()),
                        Err(_) => Err(format!("no answer within {} s", ATTEMPT.as_secs())),
                    };
                    self.learn(&name, &known, found);
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Names that are due, marked so that they are not handed out twice; forgets names
    /// that nobody asks for.
    fn due(&self, most: usize) -> Vec<(Box<str>, Arc<Name>)> {
        let now = self.now();
        let forget = millis(FORGET_AFTER);
        let names = self.names.pin();
        let mut due = Vec::new();
        for (name, known) in &names {
            if now.saturating_sub(known.asked.load(Ordering::Relaxed)) > forget {
                names.remove(name);
            } else if due.len() < most && known.due.load(Ordering::Relaxed) <= now {
                known
                    .due
                    .store(now + millis(ATTEMPT + RETRY), Ordering::Relaxed);
                due.push((name.clone(), Arc::clone(known)));
            }
        }
        due
    }

    fn learn(&self, name: &str, known: &Name, found: Result<Vec<IpAddr>, String>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, recoveries) = &mut *said;
        let (next, failure) = match found {
            Ok(addresses) if !addresses.is_empty() => {
                if known.failures.swap(0, Ordering::Relaxed) > 0
                    && let Some(unsaid) = recoveries.occur(Instant::now().into_std())
                {
                    info!(name, unsaid, "the name of a backend resolves again");
                }
                known.addresses.store(Arc::new(addresses));
                (TTL, None)
            }
            Ok(_) => (RETRY, Some("the name has no address".to_owned())),
            Err(error) => (RETRY, Some(error)),
        };
        known
            .due
            .store(self.now() + millis(next), Ordering::Relaxed);
        let first = failure.is_some() && known.failures.fetch_add(1, Ordering::Relaxed) == 0;
        self.learned.notify_waiters();
        if let Some(error) = failure
            && first
            && let Some(unsaid) = failures.occur(Instant::now().into_std())
        {
            let kept = known.addresses.load().len();
            warn!(
                name,
                error,
                kept,
                unsaid,
                "cannot resolve the name of a backend; its last addresses stay in use, check DNS or the route"
            );
        }
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl Name {
    /// Whether an attempt to resolve it has come to its end.
    fn tried(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0 || !self.addresses.load().is_empty()
    }
}

async fn addresses(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test)
    }

    #[test]
    fn a_name_is_resolved_off_the_request_path_and_then_known() {
        run(async {
            let resolver = Resolver::default();
            assert!(resolver.lookup("localhost").is_empty());
            let known = async {
                loop {
                    let found = resolver.lookup("localhost");
                    if !found.is_empty() {
                        return found;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                () = resolver.run() => {}
                found = timeout(Duration::from_secs(10), known) => {
                    assert!(found.unwrap().iter().all(IpAddr::is_loopback));
                }
            }
        });
    }

    #[test]
    fn a_start_waits_for_names_but_not_for_ever() {
        run(async {
            let resolver = Resolver::default();
            resolver.tried_all(Duration::from_secs(10)).await;
            resolver.want("localhost");
            resolver.want("no name at all");
            tokio::select! {
                () = resolver.run() => {}
                () = resolver.tried_all(Duration::from_secs(30)) => {}
            }
            assert!(!resolver.lookup("localhost").is_empty());
            assert!(resolver.peek("no name at all").failing);
            // Nobody resolves it.
            resolver.want("b.example");
            resolver.tried_all(Duration::from_millis(10)).await;
        });
    }

    #[test]
    fn a_failure_keeps_the_last_addresses() {
        run(async {
            let resolver = Resolver::default();
            resolver.want("a.example");
            let (name, known) = resolver.due(1).remove(0);
            assert!(resolver.due(1).is_empty(), "handed out once");
            let address: IpAddr = "192.0.2.1".parse().unwrap();
            resolver.learn(&name, &known, Ok(vec![address]));
            resolver.learn(&name, &known, Err("SERVFAIL".into()));
            resolver.learn(&name, &known, Ok(Vec::new()));
            assert_eq!(*resolver.lookup("a.example"), [address]);
        });
    }

    #[test]
    fn an_address_that_cannot_be_reached_is_tried_last() {
        run(async {
            let resolver = Resolver::default();
            resolver.want("a.example");
            let (name, known) = resolver.due(1).remove(0);
            let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| ip.parse().unwrap());
            resolver.learn(&name, &known, Ok(all.to_vec()));
            resolver.unreachable("a.example", all[0]);
            resolver.unreachable("b.example", all[0]);
            assert_eq!(*resolver.lookup("a.example"), [all[1], all[2], all[0]]);
            resolver.learn(&name, &known, Ok(all.to_vec()));
            assert_eq!(*resolver.lookup("a.example"), all);
        });
    }

    #[test]
    fn only_names_that_nobody_wants_any_more_are_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let resolver = Resolver::default();
            resolver.want("wanted.example");
            resolver.want("gone.example");
            tokio::time::advance(FORGET_AFTER).await;
            resolver.want("wanted.example");
            tokio::time::advance(Duration::from_secs(1)).await;
            resolver.due(0);
            let names = resolver.names.pin();
            assert!(names.contains_key("wanted.example") && names.len() == 1);
        });
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        run(async {
            let resolver = Resolver::default();
            for i in 0..MAX_NAMES + 10 {
                resolver.want(&format!("n{i}.example"));
            }
            assert_eq!(resolver.names.len(), MAX_NAMES);
        });
    }
}
