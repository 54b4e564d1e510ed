//! A pool: its nodes, kept over reloads, and what each weighs now. `enter` finds a place at one.
//!
//! The choice is a worker's own ([`Turns`]): no lock, no memory that another worker writes but the
//! counts of requests in flight, which must be exact, and of references. Who finds no room waits in
//! `queue`.
//!
//! Locks, in the order in which they may be held together: `changing`, the standing of one node,
//! then, not with a standing, the queue.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portico_config as config;
use tracing::{error, info, warn};

use super::counts::Refusals;
use super::health::{Health, MAX_BROKEN, News};
use super::node::{Node, Standing, WEIGHT_STEPS};
use super::queue::{Outlook, Queue};
use super::retry::RetryBudget;
use super::said::Said;
use super::turns::Number;
use super::waits::Waits;
use crate::time_text::exact;

mod enter;

/// Nodes that one request tries to connect to.
pub const MAX_TRIED: usize = 3;

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// All pools of a configuration, by name.
#[derive(Debug, Default, Clone)]
pub struct Pools(BTreeMap<Box<str>, Arc<Pool>>);

/// A pool. Kept over reloads.
#[derive(Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Where its chooser stands in [`Turns`].
    number: Number,
    members: ArcSwap<Members>,
    queue: Queue,
    /// What second attempts may be made.
    pub retries: RetryBudget,
    /// What of it is in the log.
    pub said: Said,
    /// How long those waited who found no room.
    pub waits: Waits,
    /// How many got no place.
    pub refusals: Refusals,
    /// Held while members, standings or what follows from them change.
    changing: Mutex<()>,
    /// A node was in its slow start when weights were published last.
    ramping: AtomicBool,
    /// Counters of a node: one for each worker.
    lanes: usize,
}

/// What a reload changes of a pool.
#[derive(Debug)]
pub struct Members {
    /// As configured.
    pub config: config::Pool,
    /// Its nodes, in the order of the configuration.
    pub nodes: Box<[Arc<Node>]>,
    /// Tells this list of nodes from all others of the process.
    generation: u64,
}

/// Nodes that a request need not try again.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tried {
    ids: [u64; MAX_TRIED],
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// No node is in rotation: all are drained or in maintenance.
    NoNode,
    /// Every node has been tried, or as many as a request may.
    AllTried,
    /// All nodes have as many requests as they may, and as many wait as may.
    QueueFull,
    /// It waited for `queue_timeout` in vain.
    QueueTimeout,
}

impl Pools {
    /// Those of a configuration. Pools that `previous` has too are the same ones, and change with
    /// [`Pools::configure`] only. `lanes`: how many workers count.
    pub fn new(
        configured: &BTreeMap<Box<str>, config::Pool>,
        previous: Option<&Self>,
        lanes: usize,
    ) -> Self {
        let pools = configured.iter().map(|(name, pool)| {
            let kept = previous.and_then(|previous| previous.0.get(name));
            let pool = kept.map_or_else(|| Arc::new(Pool::new(pool, lanes)), Arc::clone);
            (name.clone(), pool)
        });
        Self(pools.collect())
    }

    /// Puts what was configured in force.
    pub fn configure(&self, configured: &BTreeMap<Box<str>, config::Pool>) {
        for (name, pool) in configured {
            if let Some(existing) = self.0.get(name) {
                existing.configure(pool);
            }
        }
    }

    /// The pool of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.0.values()
    }
}

impl Tried {
    /// Whether the node is among them.
    pub fn has(&self, node: &Node) -> bool {
        self.ids.contains(&node.id)
    }

    /// One more.
    pub fn add(&mut self, node: &Node) {
        if let Some(slot) = self.ids.iter_mut().find(|id| **id == 0) {
            *slot = node.id;
        }
    }

    /// Whether no more may be tried.
    pub fn is_full(&self) -> bool {
        !self.ids.contains(&0)
    }
}

impl Pool {
    /// With every node up until a check says otherwise. `lanes`: how many workers count.
    pub fn new(configured: &config::Pool, lanes: usize) -> Self {
        let members = Members::of(configured, &[], lanes);
        Self {
            name: configured.name.clone(),
            number: Number::default(),
            members: ArcSwap::from_pointee(members),
            queue: Queue::default(),
            retries: RetryBudget::default(),
            said: Said::default(),
            waits: Waits::default(),
            refusals: Refusals::default(),
            changing: Mutex::new(()),
            ramping: AtomicBool::new(false),
            lanes,
        }
    }

    /// Puts what was configured in force. Nodes that stay keep all that is known of them; those that
    /// go keep their requests until these end.
    pub fn configure(self: &Arc<Self>, configured: &config::Pool) {
        {
            let _alone = self.alone();
            let before = self.members.load_full();
            if before.config == *configured {
                return;
            }
            let members = Members::of(configured, &before.nodes, self.lanes);
            self.members.store(Arc::new(members));
        }
        self.publish(Instant::now());
    }

    /// What is configured now, and the nodes.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Requests, or TCP connections, that hold a place now, at all nodes.
    pub fn in_flight(&self) -> usize {
        let members = self.members.load();
        let in_flight = members.nodes.iter().map(|node| node.in_flight() as usize);
        in_flight.sum()
    }

    /// Whether a node is left to be tried.
    pub fn has_untried(&self, tried: &Tried) -> bool {
        let members = self.members.load();
        let mut nodes = members.nodes.iter();
        !tried.is_full() && nodes.any(|node| node.in_rotation() && !tried.has(node))
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// The most that waited at once.
    pub fn most_waiting(&self) -> usize {
        self.queue.longest()
    }

    /// Works out what each node weighs now: after a change, and once a second for slow starts. With
    /// none up, all that are in rotation are tried: a broken check must not become an outage.
    ///
    /// Who waits is served then, also with a refusal if no node is left to wait for.
    pub fn publish(self: &Arc<Self>, now: Instant) {
        let alone = self.alone();
        let members = self.members.load_full();
        let slow_start = members.config.slow_start;
        let nodes = members.nodes.iter();
        let shares: Vec<_> = nodes.map(|node| node.share(slow_start, now)).collect();
        let ramps = |standing: &mut Standing| standing.health.is_ramping(slow_start, now);
        let ramping = members.nodes.iter().any(|node| node.standing(ramps));
        self.ramping.store(ramping, Relaxed);
        let none_is_up = shares.iter().all(|(share, _)| *share == 0);
        for (node, (share, in_rotation)) in members.nodes.iter().zip(shares) {
            let share = match none_is_up && in_rotation {
                true => node.standing(|standing| standing.weight()) * WEIGHT_STEPS,
                false => share,
            };
            node.publish(share, in_rotation);
            node.set_limit(members.config.max_connections);
        }
        // Locked in any case: see `queue`.
        let mut line = self.queue.lock();
        line.serve(|tried| match self.find(&members, tried) {
            // The next may have nothing left to wait for.
            Outlook::NoRoom => Outlook::Wait,
            outlook => outlook,
        });
        drop(alone);
    }

    /// Whether [`Pool::publish`] is to be called again soon.
    pub(super) fn is_ramping(&self) -> bool {
        self.ramping.load(Relaxed)
    }

    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        let lock = self.changing.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request that has tried these, and now this one, may try another that is up and in
    /// rotation.
    pub fn has_another(&self, node: &Node, tried: &Tried) -> bool {
        let mut tried = *tried;
        tried.add(node);
        let members = self.members.load();
        let mut nodes = members.nodes.iter();
        !tried.is_full()
            && nodes.any(|other| {
                let usable =
                    |standing: &mut Standing| standing.health.is_up() && standing.weight() > 0;
                !tried.has(other) && other.in_rotation() && other.standing(usable)
            })
    }

    /// Changes what is known of the health of a node; `change` hears whether it is the last one.
    pub(super) fn judge(
        &self,
        node: &Node,
        change: impl FnOnce(&mut Health, bool) -> Option<News>,
    ) -> Option<News> {
        // Two workers that each see the node of the other up must not take out both.
        let _alone = self.alone();
        let last = !self.has_another(node, &Tried::default());
        node.standing(|standing| change(&mut standing.health, last))
    }

    /// Notes that a worker could not connect to a node.
    pub(crate) fn connect_failed(self: &Arc<Self>, node: &Arc<Node>, why: &dyn Display) {
        let now = Instant::now();
        let news = self.judge(node, |health, last| health.connect_failed(last, now));
        self.tell(node, news, now, || {
            format!("a connection to it failed: {why}")
        });
    }

    /// Notes that a node broke a new connection without an answer.
    pub(super) fn broke(self: &Arc<Self>, node: &Arc<Node>) {
        let in_a_row = node.broken.fetch_add(1, Relaxed) + 1;
        if in_a_row < MAX_BROKEN {
            return;
        }
        let now = Instant::now();
        let news = self.judge(node, |health, last| health.broke(in_a_row, last, now));
        self.tell(node, news, now, || {
            format!("it broke {in_a_row} connections in a row before it answered")
        });
    }

    /// Notes that a node answered.
    pub(super) fn answered(&self, node: &Node) {
        if node.broken.load(Relaxed) > 0 {
            node.broken.store(0, Relaxed);
        }
    }

    /// Acts on what has become of a node, and says it.
    pub(super) fn tell(
        self: &Arc<Self>,
        node: &Node,
        news: Option<News>,
        now: Instant,
        why: impl FnOnce() -> String,
    ) {
        let Some(news) = news else { return };
        let (pool, address) = (&self.name, &node.address);
        match news {
            News::Up { after } => {
                node.broken.store(0, Relaxed);
                self.publish(now);
                let down_for = exact(after);
                info!(%pool, node = %address, down_for, "node is up: its checks succeed");
            }
            News::Down { held } => {
                self.publish(now);
                // Down nodes are checked at another pace.
                node.check_anew.notify_one();
                let (why, back) = (why(), self.way_back(held));
                node.standing(|standing| standing.health.why_down = Some((*why).into()));
                warn!(%pool, node = %address, fault = "platform", why, back, "node is down; it gets no requests while another node is up");
                self.say_if_none_is_up();
            }
            News::Spared => {
                let why = why();
                warn!(%pool, node = %address, fault = "platform", why, "node fails, and stays in use since no other node is up; its checks decide");
            }
        }
    }

    /// How a node that is down comes back.
    fn way_back(&self, held: Duration) -> String {
        let rise = self.members.load().config.check.rise;
        let checks = match rise {
            1 => "after a good check".to_owned(),
            rise => format!("after {rise} good checks in a row"),
        };
        match held.is_zero() {
            true => checks,
            false => {
                let held = exact(held);
                format!("{checks}, and not before {held}: it failed again soon after it came back")
            }
        }
    }

    fn say_if_none_is_up(&self) {
        let members = self.members.load();
        let mut in_rotation = members.nodes.iter().filter(|node| node.in_rotation());
        if !in_rotation.any(|node| node.is_up()) {
            let (pool, nodes) = (&self.name, members.nodes.len());
            error!(%pool, nodes, fault = "platform", "no node of the pool is up: those in rotation are tried all the same, and clients get 502 (of [[tcp]]: a reset) while none answers; look at the nodes, and at the network to them");
        }
    }

    /// The node of that address, as it is configured.
    pub fn node(&self, address: &str) -> Option<Arc<Node>> {
        let members = self.members.load();
        let mut nodes = members.nodes.iter();
        nodes
            .find(|node| node.address.to_string() == address)
            .cloned()
    }
}

impl Members {
    /// The nodes that requests may go to now.
    pub fn used(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().filter(|node| node.effective() > 0)
    }

    /// How many may wait: so many for each node that is used.
    pub fn queue_limit(&self) -> usize {
        self.used().count() * self.config.max_queue as usize
    }

    fn of(configured: &config::Pool, before: &[Arc<Node>], lanes: usize) -> Self {
        let nodes = configured.nodes.iter().map(|node| {
            let kept = before.iter().find(|kept| kept.address == node.address);
            match kept {
                Some(kept) => {
                    kept.standing(|standing| standing.configured_weight = node.weight);
                    Arc::clone(kept)
                }
                None => {
                    let (address, limit) = (node.address.clone(), configured.max_connections);
                    Arc::new(Node::new(address, node.weight, limit, lanes))
                }
            }
        });
        Self {
            nodes: nodes.collect(),
            config: configured.clone(),
            generation: NEXT_GENERATION.fetch_add(1, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
