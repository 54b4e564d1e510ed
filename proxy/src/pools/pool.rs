//! A pool: finds a place at a node, at once or after a wait, and keeps what its nodes weigh.
//!
//! The choice is a worker's own ([`Turns`]): no lock, no line of memory that another worker writes
//! but the counts of requests in flight, which must be exact.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use portico_config as config;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::balance::Chooser;
use super::health::News;
use super::node::{Node, WEIGHT_STEPS};
use super::place::NodePlace;
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
    /// Held while weights are worked out, by whom that may concern.
    publishing: Mutex<()>,
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
            publishing: Mutex::new(()),
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
            let _alone = self
                .publishing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let slow_start = members.config.slow_start;
            let nodes = members.nodes.iter();
            let shares: Vec<_> = nodes.map(|node| node.share(slow_start, now)).collect();
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

    /// Whether another node than this one is up and in rotation.
    fn has_another(&self, node: &Node) -> bool {
        let members = self.members.load();
        let mut nodes = members.nodes.iter();
        nodes.any(|other| other.id != node.id && other.in_rotation() && other.is_up())
    }

    /// Notes that a worker could not connect to a node.
    pub(crate) fn connect_failed(self: &Arc<Self>, node: &Arc<Node>, why: &dyn Display) {
        let now = Instant::now();
        let last = !self.has_another(node);
        let news = node.standing(|standing| standing.health.connect_failed(last, now));
        self.tell(
            node,
            news,
            &format!("a connection to it failed: {why}"),
            now,
        );
    }

    /// Notes that a node broke a new connection without an answer.
    pub(super) fn broke(self: &Arc<Self>, node: &Arc<Node>) {
        let in_a_row = node.broken.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let last = !self.has_another(node);
        let news = node.standing(|standing| standing.health.broke(in_a_row, last, now));
        let why = format!("it broke {in_a_row} connections in a row before it answered");
        self.tell(node, news, &why, now);
    }

    /// Notes that a node answered.
    pub(super) fn answered(&self, node: &Node) {
        if node.broken.load(Relaxed) > 0 {
            node.broken.store(0, Relaxed);
        }
    }

    /// Acts on what has become of a node, and says it.
    pub(super) fn tell(self: &Arc<Self>, node: &Node, news: Option<News>, why: &str, now: Instant) {
        let Some(news) = news else { return };
        self.publish(now);
        let (pool, address) = (&self.name, &node.address);
        match news {
            News::Up => info!(%pool, node = %address, "node is up: its checks succeed"),
            News::Down => {
                warn!(%pool, node = %address, fault = "platform", why, "node is down; it gets no requests while another node is up");
                self.say_if_none_is_up();
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
