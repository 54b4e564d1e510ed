//! When nodes are checked, on the control thread.
//!
//! Each node has a task that lives as long as the node: a reload leaves its schedule alone, so that
//! reloads cannot keep nodes from being checked, and its check takes what is configured at that
//! moment. The first check is made at once: nodes are taken for up, and whoever is dead is found
//! out soon. Intervals are drawn anew for each check ([`JITTER`]), so that those of many nodes and of
//! many proxies do not meet. A node that is ejected, or comes out of maintenance, is checked at the
//! pace of its new state from then on. In maintenance there are no checks; while it is drained they
//! go on.
//!
//! What fails while the control thread itself is late ([`with_lateness`]) says nothing of the node, and is
//! thrown away; so is what fails for want of descriptors or ports here. A check that succeeds counts.
//!
//! Not done here: one check (`probe`), what follows from its outcome (`health`).
//!
//! Invariants: at most [`MAX_PROBES`] at a time; one for each node; a node that is gone is not
//! checked.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_config::{Check, NodeAddress};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::check_code::CheckCode;
use super::health::{CheckRecord, Checked};
use super::live::Wish;
use super::node::Node;
use super::pool::Pool;
use super::probe::{ProbeError, probe, question};
use crate::process::Process;

/// Checks under way at a time. Their descriptors are among those that are kept back from
/// connections.
const MAX_PROBES: usize = 16;
/// An interval is so much shorter or longer at the most, one part of so many.
const JITTER: u32 = 10;
/// A failure counts unless the control thread was late by more than this meanwhile, or by more than
/// a part of the check's timeout.
const MAX_LATENESS: Duration = Duration::from_millis(500);
/// That part of the timeout, one of so many.
const LATENESS_OF_TIMEOUT: u32 = 4;
/// Less is in the nature of timers.
const MIN_LATENESS: Duration = Duration::from_millis(10);
/// How often it is looked whether the control thread is late: so often within the lateness that
/// matters.
const LOOKS: u32 = 4;
/// How long the first check waits for the name of the node.
const NAME_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether maintenance is over.
const MAINTENANCE_LOOK: Duration = Duration::from_secs(1);
/// How often slow starts go on.
const SLOW_START_STEP: Duration = Duration::from_secs(1);

/// The checks of all nodes.
#[derive(Debug)]
pub struct Checks {
    tasks: JoinSet<()>,
    /// By the id of their nodes.
    nodes: HashMap<u64, AbortHandle>,
    /// Lends a place to each probe.
    places: Arc<Semaphore>,
    slow_starts: Option<AbortHandle>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            nodes: HashMap::new(),
            places: Arc::new(Semaphore::new(MAX_PROBES)),
            slow_starts: None,
        }
    }
}

impl Checks {
    /// Checks the nodes of the current snapshot from now on, and no others.
    pub fn follow(&mut self, process: &Arc<Process>) {
        let snapshot = process.snapshot.load();
        let mut gone = std::mem::take(&mut self.nodes);
        for pool in snapshot.pools.iter() {
            for node in &*pool.members().nodes {
                let task = match gone.remove(&node.id) {
                    Some(task) => {
                        // Intervals may have changed.
                        node.check_anew.notify_one();
                        task
                    }
                    None => self.begin(process, pool, node),
                };
                self.nodes.insert(node.id, task);
            }
        }
        for task in gone.values() {
            task.abort();
        }
        if self.slow_starts.is_none() && !self.nodes.is_empty() {
            let task = go_on_with_slow_starts(Arc::clone(process));
            self.slow_starts = Some(self.tasks.spawn_local(task));
        }
    }

    fn begin(&mut self, process: &Arc<Process>, pool: &Arc<Pool>, node: &Arc<Node>) -> AbortHandle {
        let (process, places) = (Arc::clone(process), Arc::clone(&self.places));
        let (pool, node) = (Arc::clone(pool), Arc::clone(node));
        self.tasks.spawn_local(async move {
            let mut begun = None;
            if let NodeAddress::Name { host, .. } = &node.address {
                // A reload may have brought the name just now.
                process.resolver.want(host);
                process.resolver.tried_all(NAME_LIMIT).await;
            }
            loop {
                wait_until_due(&pool, &node, begun).await;
                // Nobody closes it.
                let _place = places.acquire().await;
                begun = Some(Instant::now());
                check(&process, &pool, &node).await;
            }
        })
    }

    /// Waits until one ends, which is a defect.
    pub async fn ended(&mut self) -> Result<(), JoinError> {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_cancelled() => {}
                Some(ended) => return ended,
                None => return std::future::pending().await,
            }
        }
    }
}

/// Waits until a node is to be checked again whose last check began at `begun`.
async fn wait_until_due(pool: &Pool, node: &Node, mut begun: Option<Instant>) {
    let luck = RandomState::new().hash_one(node.id);
    loop {
        let members = pool.members();
        let check = &members.config.check;
        let interval = jittered(check.interval, luck);
        let down_interval = jittered(check.down_interval, luck);
        let due = node.standing(|standing| {
            if standing.wish == Wish::Maintenance {
                return None;
            }
            let begun = begun.map(Instant::into_std);
            let next = |begun| standing.health.next_check(begun, interval, down_interval);
            Some(begun.map(next))
        });
        match due {
            Some(None) => return,
            Some(Some(due)) => tokio::select! {
                () = sleep_until(due.into()) => return,
                () = node.check_anew.notified() => {}
            },
            None => {
                // What follows from its end for the node follows at once (`live`).
                wait_for_the_end_of_maintenance(node).await;
                // Not checked for long.
                begun = None;
            }
        }
    }
}

async fn wait_for_the_end_of_maintenance(node: &Node) {
    while node.standing(|standing| standing.wish == Wish::Maintenance) {
        let _ = timeout(MAINTENANCE_LOOK, node.check_anew.notified()).await;
    }
}

/// Up to a tenth shorter or longer.
fn jittered(interval: Duration, luck: u64) -> Duration {
    let most = interval / JITTER;
    let part = (luck % 1001) as f64 / 1000.0;
    interval - most + (most * 2).mul_f64(part)
}

/// Checks a node once, and acts on it.
async fn check(process: &Process, pool: &Arc<Pool>, node: &Node) {
    let check = pool.members().config.check.clone();
    let serves = node.resolve(&process.resolver);
    let policy = process.snapshot.load().backends.clone();
    let begun = Instant::now();
    let probing = probe(&node.address, serves, &check, &policy);
    let (probed, late) = with_lateness(max_lateness(check.timeout), probing).await;
    let now = Instant::now();
    let discarded = match &probed.outcome {
        Ok(()) => None,
        Err(ProbeError::Exhausted(_) | ProbeError::NoTls(_)) => Some("no fault of the node"),
        Err(_) if late > max_lateness(check.timeout) => Some("the control thread was late"),
        Err(_) => None,
    };
    let code = CheckCode::of(&check.kind, &probed.outcome);
    let outcome = probed.outcome.map_err(|error| error.to_string());
    let (pool_name, address) = (&pool.name, &node.address);
    if let Err(error) = &outcome {
        debug!(pool = %pool_name, node = %address, error, ?discarded, ?late, "a check failed");
    }
    if discarded.is_some() {
        node.standing(|standing| standing.health.discarded_checks += 1);
        return;
    }
    let checked = Checked {
        good: outcome.is_ok(),
        begun: begun.into_std(),
        rise: check.rise,
        fall: check.fall,
    };
    let record = CheckRecord {
        at: SystemTime::now(),
        took: now - begun,
        code,
        status: probed.status,
        outcome: outcome.clone(),
    };
    let now = now.into_std();
    let news = pool.judge(node, |health, last| {
        health.last_check = Some(record);
        health.checked(checked, last, now)
    });
    pool.tell(node, news, now, || why(node, &check, outcome));
}

fn why(node: &Node, check: &Check, outcome: Result<(), String>) -> String {
    let error = outcome.err().unwrap_or_default();
    let (asked, fall) = (question(&node.address, check), check.fall);
    match fall {
        1 => format!("its checks fail: {error} ({asked})"),
        fall => format!("its checks fail: {error} ({asked}, {fall} in a row)"),
    }
}

fn max_lateness(timeout: Duration) -> Duration {
    (timeout / LATENESS_OF_TIMEOUT).clamp(MIN_LATENESS, MAX_LATENESS)
}

/// What comes of `probing`, and how late this thread was at the latest meanwhile, if that is more than
/// a part of `matters`: then a timeout may have ended before the answer was even looked for.
async fn with_lateness<T>(matters: Duration, probing: impl Future<Output = T>) -> (T, Duration) {
    let step = matters / LOOKS;
    let mut probing = pin!(probing);
    let mut latest = Duration::ZERO;
    let mut next = Instant::now() + step;
    loop {
        let done = tokio::select! {
            biased;
            done = &mut probing => Some(done),
            () = sleep_until(next) => None,
        };
        let now = Instant::now();
        latest = latest.max(now.saturating_duration_since(next));
        match done {
            Some(done) => return (done, latest),
            None => next = now + step,
        }
    }
}

/// The shares of nodes that came back grow step by step.
async fn go_on_with_slow_starts(process: Arc<Process>) {
    loop {
        sleep(SLOW_START_STEP).await;
        let snapshot = process.snapshot.load_full();
        for pool in snapshot.pools.iter().filter(|pool| pool.is_ramping()) {
            pool.publish(Instant::now().into_std());
        }
    }
}

#[cfg(test)]
mod tests;
