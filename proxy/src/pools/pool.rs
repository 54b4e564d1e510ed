//! A pool: finds a place at a node, at once or after a wait, and keeps what its nodes weigh.
//!
//! The choice is a worker's own ([`Turns`]): no lock, no line of memory that another worker writes
//! but the counts of requests in flight, which must be exact.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portico_config as config;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::balance::Chooser;
use super::health::{Health, MAX_BROKEN, News};
use super::live::Wish;
use super::node::{Node, Standing, WEIGHT_STEPS};
use super::place::NodePlace;
use super::probe::in_words;
use super::queue::Queue;
use super::retry::RetryBudget;

/// Nodes that one request tries to connect to.
pub const MAX_TRIED: usize = 3;

static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

/// All pools of a configuration, by name.
#[derive(Debug, Default, Clone)]
pub struct Pools(BTreeMap<Box<str>, Arc<Pool>>);

/// A pool. Kept over reloads.
#[derive(Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// The number of the workers' [`Turns`].
    id: usize,
    members: ArcSwap<Members>,
    queue: Queue,
    /// What second attempts may be made.
    pub retries: RetryBudget,
    /// Held while it is worked out who is up, and what that means for the others.
    judging: Mutex<()>,
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
}

/// Nodes that a request need not try again.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tried {
    ids: [u64; MAX_TRIED],
}

/// A worker's place in the rotation of every pool.
#[derive(Debug, Default)]
pub struct Turns {
    choosers: Vec<Chooser>,
    weights: Vec<u32>,
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

enum Choice {
    Place(NodePlace),
    NoNode,
    AllTried,
    Full,
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
            id: NEXT_ID.fetch_add(1, Relaxed),
            members: ArcSwap::from_pointee(members),
            queue: Queue::default(),
            retries: RetryBudget::default(),
            judging: Mutex::new(()),
            ramping: AtomicBool::new(false),
            lanes,
        }
    }

    /// Puts what was configured in force. Nodes that stay keep all that is known of them.
    pub fn configure(self: &Arc<Self>, configured: &config::Pool) {
        let before = self.members.load_full();
        if before.config == *configured {
            return;
        }
        let members = Members::of(configured, &before.nodes, self.lanes);
        self.members.store(Arc::new(members));
        self.publish(Instant::now());
    }

    /// What is configured now, and the nodes.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The most that waited at once.
    pub fn most_waiting(&self) -> usize {
        self.queue.longest()
    }

    /// A place at a node that is not among `tried`: the one whose turn it is of those with room, else
    /// the first that gets room.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub async fn enter(
        self: &Arc<Self>,
        turns: &RefCell<Turns>,
        tried: &Tried,
    ) -> Result<NodePlace, NoPlace> {
        match self.choose(&mut turns.borrow_mut(), tried) {
            Choice::Place(place) => return Ok(place),
            Choice::NoNode => return Err(NoPlace::NoNode),
            Choice::AllTried => return Err(NoPlace::AllTried),
            Choice::Full => {}
        }
        // Rare, and its room would be part of every request.
        Box::pin(self.wait(tried)).await
    }

    fn choose(self: &Arc<Self>, turns: &mut Turns, tried: &Tried) -> Choice {
        if tried.is_full() {
            return Choice::AllTried;
        }
        let members = self.members.load();
        let somebody_waits = self.queue.len() > 0;
        loop {
            let (mut any, mut untried) = (false, false);
            let Turns { choosers, weights } = turns;
            weights.clear();
            for node in &*members.nodes {
                let effective = node.effective();
                any |= effective > 0;
                let usable = effective > 0 && !tried.has(node);
                untried |= usable;
                let open = usable && !somebody_waits && node.has_room();
                weights.push(if open { effective } else { 0 });
            }
            if !any {
                return Choice::NoNode;
            }
            if !untried {
                return self.last_hope(&members, tried);
            }
            let chooser = chooser_of(choosers, self.id);
            let load = |index: usize| members.nodes.get(index).map_or(0, |node| node.in_flight());
            let Some(index) = chooser.pick(members.config.balance, weights, load) else {
                return Choice::Full;
            };
            // Another worker may have been faster: then it has no room, and the next is looked for.
            if let Some(node) = members.nodes.get(index)
                && node.claim()
            {
                return Choice::Place(NodePlace::claimed(self, node));
            }
        }
    }

    /// Every node that is up was tried in vain: one that is down may do.
    fn last_hope(self: &Arc<Self>, members: &Members, tried: &Tried) -> Choice {
        let mut nodes = members.nodes.iter();
        let node = nodes.find(|node| node.in_rotation() && !tried.has(node) && node.claim());
        match node {
            Some(node) => Choice::Place(NodePlace::claimed(self, node)),
            None => Choice::AllTried,
        }
    }

    async fn wait(self: &Arc<Self>, tried: &Tried) -> Result<NodePlace, NoPlace> {
        let members = self.members.load_full();
        let usable = members.nodes.iter().filter(|node| node.effective() > 0);
        let limit = usable.count() * members.config.max_queue as usize;
        let Some(mut waiting) = self.queue.join(*tried, limit) else {
            return Err(NoPlace::QueueFull);
        };
        // Somebody may have left between the look at the nodes and the place in the queue.
        self.place_is_free();
        match timeout(members.config.queue_timeout, &mut waiting.place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(NoPlace::QueueTimeout),
        }
    }

    /// Gives what is free to who waits.
    pub(super) fn place_is_free(self: &Arc<Self>) {
        if self.queue.len() == 0 {
            return;
        }
        let members = self.members.load();
        self.queue.serve(|tried| {
            let free =
                |node: &&Arc<Node>| node.effective() > 0 && !tried.has(node) && node.has_room();
            let in_use = |node: &&Arc<Node>| {
                u64::from(node.in_flight()) * u64::from(WEIGHT_STEPS) * 1000
                    / u64::from(node.effective().max(1))
            };
            let node = members.nodes.iter().filter(free).min_by_key(in_use)?;
            node.claim().then(|| NodePlace::claimed(self, node))
        });
    }

    /// Works out what each node weighs now: after a change, and once a second for slow starts. With
    /// none up, all that are in rotation are tried: a broken check must not become an outage.
    pub fn publish(self: &Arc<Self>, now: Instant) {
        let members = self.members.load_full();
        {
            let _alone = self.alone();
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
        }
        self.place_is_free();
    }

    /// Whether [`Pool::publish`] is to be called again soon.
    pub(super) fn is_ramping(&self) -> bool {
        self.ramping.load(Relaxed)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.judging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another node than this one is up and in rotation.
    fn has_another(&self, node: &Node) -> bool {
        let members = self.members.load();
        let mut nodes = members.nodes.iter();
        nodes.any(|other| {
            let usable = |standing: &mut Standing| standing.health.is_up() && standing.weight() > 0;
            other.id != node.id && other.in_rotation() && other.standing(usable)
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
        let last = !self.has_another(node);
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
                let down_for = in_words(after);
                info!(%pool, node = %address, down_for, "node is up: its checks succeed");
            }
            News::Down { held } => {
                self.publish(now);
                // Down nodes are checked at another pace.
                node.check_anew.notify_one();
                let (why, back) = (why(), self.way_back(held));
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
                let held = in_words(held);
                format!("{checks}, and not before {held}: it failed again soon after it came back")
            }
        }
    }

    fn say_if_none_is_up(&self) {
        let members = self.members.load();
        let mut in_rotation = members.nodes.iter().filter(|node| node.in_rotation());
        if !in_rotation.any(|node| node.is_up()) {
            let (pool, nodes) = (&self.name, members.nodes.len());
            error!(%pool, nodes, fault = "platform", "no node of the pool is up: all are tried for each request, and clients get 502 while none answers; look at the nodes, and at the network to them");
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

    /// What an administrator wants of a node, from now on.
    pub fn set_wish(self: &Arc<Self>, node: &Node, wish: Wish) {
        node.standing(|standing| standing.wish = wish);
        self.publish(Instant::now());
    }

    /// What an administrator wants a node to weigh; `None`: as configured.
    pub fn set_weight(self: &Arc<Self>, node: &Node, weight: Option<u32>) {
        node.standing(|standing| standing.set_weight = weight);
        self.publish(Instant::now());
    }
}

impl Members {
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
        }
    }
}

fn chooser_of(choosers: &mut Vec<Chooser>, id: usize) -> &mut Chooser {
    if choosers.len() <= id {
        choosers.resize_with(id + 1, Chooser::default);
    }
    // Made above.
    &mut choosers[id]
}
