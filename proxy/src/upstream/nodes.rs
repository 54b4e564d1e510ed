//! Pools of nodes as the workers see them, and the TCP check that says which nodes are there.
//!
//! The state of a node is shared by the workers and checked once per process, on the control
//! thread. A worker that cannot connect marks the node down at once, so that the others do not try
//! it too; the check brings it back after `rise` good answers. With no node up all are tried: a
//! broken check must not become an outage.
//!
//! Not done here: HTTP checks, ejection on answers, queues, slow start (each a later issue); the
//! choice itself is in `balance`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portico_config as config;
use portico_config::NodeAddress;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::balance::RoundRobin;
use super::resolve::Resolver;

/// A pool with the state of its nodes.
#[derive(Debug)]
pub struct NodePool {
    /// Its name in the configuration.
    pub name: Box<str>,
    nodes: Box<[Node]>,
    config: config::Pool,
}

/// A node with its state.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub address: NodeAddress,
    weight: u32,
    /// Shared with the pools of earlier configurations, which requests may still use.
    standing: Arc<Standing>,
}

/// Whether a node is up, and since when.
#[derive(Debug)]
struct Standing {
    up: AtomicBool,
    /// Seconds since 1970; 0: it never changed.
    since: AtomicU64,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            since: AtomicU64::new(0),
        }
    }
}

impl Standing {
    /// Whether that is news.
    fn set(&self, up: bool) -> bool {
        let news = self.up.swap(up, Ordering::Relaxed) != up;
        if news {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = now.unwrap_or_default().as_secs();
            self.since.store(seconds, Ordering::Relaxed);
        }
        news
    }
}

/// One worker's place in the rotation of one pool.
#[derive(Debug, Default)]
pub struct Turn {
    order: RoundRobin,
    weights: Vec<u32>,
}

impl NodePool {
    /// The pool as configured, with every node up until a check says otherwise.
    pub fn new(pool: &config::Pool) -> Self {
        Self::with_states(pool, |_| None)
    }

    /// The pool as configured. Nodes that `previous` has too stay up or down; if nothing changed it
    /// is the same pool.
    pub fn adopting(pool: &config::Pool, previous: Option<&Arc<Self>>) -> Arc<Self> {
        match previous {
            None => Arc::new(Self::new(pool)),
            Some(previous) if previous.config == *pool => Arc::clone(previous),
            Some(previous) => Arc::new(Self::with_states(pool, |address| {
                let mut nodes = previous.nodes.iter();
                let same = nodes.find(|node| node.address == *address)?;
                Some(Arc::clone(&same.standing))
            })),
        }
    }

    fn with_states(
        pool: &config::Pool,
        known: impl Fn(&NodeAddress) -> Option<Arc<Standing>>,
    ) -> Self {
        let nodes = pool.nodes.iter().map(|node| Node {
            address: node.address.clone(),
            weight: node.weight,
            standing: known(&node.address).unwrap_or_default(),
        });
        Self {
            name: pool.name.clone(),
            nodes: nodes.collect(),
            config: pool.clone(),
        }
    }

    /// The next node that is up and not among `tried`; when none is up, the next of all
    /// that were not tried.
    pub fn pick(&self, turn: &mut Turn, tried: &[usize]) -> Option<(usize, &Node)> {
        let any_up = self.nodes.iter().any(Node::is_up);
        turn.weights.clear();
        turn.weights
            .extend(self.nodes.iter().enumerate().map(|(index, node)| {
                let usable = (node.is_up() || !any_up) && !tried.contains(&index);
                if usable { node.weight } else { 0 }
            }));
        let index = turn.order.pick(&turn.weights).or_else(|| {
            // Every node that is up was tried in vain: the others are the last hope.
            let rest = self.nodes.iter().enumerate();
            rest.map(|(index, _)| index)
                .find(|index| !tried.contains(index))
        })?;
        Some((index, self.nodes.get(index)?))
    }

    /// All nodes, in the order of the configuration.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Notes that a worker could not connect to a node.
    pub fn connect_failed(&self, node: &Node, why: &dyn std::fmt::Display) {
        if node.standing.set(false) {
            let (pool, address) = (&self.name, &node.address);
            warn!(%pool, node = %address, fault = "platform", error = %why, "node is down: a connection to it failed; it gets no requests while another node is up");
            self.say_if_none_is_up();
        }
    }

    fn say_if_none_is_up(&self) {
        if !self.nodes.iter().any(Node::is_up) {
            let (pool, nodes) = (&self.name, self.nodes.len());
            error!(%pool, nodes, fault = "platform", "no node of the pool is up: all are tried for each request, and clients get 502 while none answers; look at the nodes, and at the network to them");
        }
    }

    /// Checks all nodes for ever. Runs on the control thread.
    pub async fn run_checks(self: Arc<Self>, resolver: Arc<Resolver>) {
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..self.nodes.len() {
            let (pool, resolver) = (Arc::clone(&self), Arc::clone(&resolver));
            tasks.spawn_local(async move { pool.check_node(index, &resolver).await });
        }
        tasks.join_all().await;
    }

    async fn check_node(&self, index: usize, resolver: &Resolver) {
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let mut streak = Streak::default();
        loop {
            let outcome = self.probe(node, resolver).await;
            let was_up = node.is_up();
            if let Some(up) = streak.count(outcome.is_ok(), was_up, &self.config.check)
                && node.standing.set(up)
            {
                let (pool, address) = (&self.name, &node.address);
                match outcome {
                    Ok(()) => info!(%pool, node = %address, "node is up: its checks succeed"),
                    Err(error) => {
                        warn!(%pool, node = %address, fault = "platform", error, "node is down: its checks fail; it gets no requests while another node is up");
                        self.say_if_none_is_up();
                    }
                }
            }
            tokio::time::sleep(if node.is_up() {
                self.config.check.interval
            } else {
                self.config.check.down_interval
            })
            .await;
        }
    }

    async fn probe(&self, node: &Node, resolver: &Resolver) -> Result<(), String> {
        let mut address = node.resolve(resolver).ok_or("the name does not resolve")?;
        if let Some(port) = self.config.check.port {
            address.set_port(port);
        }
        match timeout(self.config.check.timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "no connection within {:?}",
                self.config.check.timeout
            )),
        }
    }
}

impl Node {
    /// Whether it is taken for up.
    pub fn is_up(&self) -> bool {
        self.standing.up.load(Ordering::Relaxed)
    }

    /// Since when it is up or down; `None`: since the start, or since a reload brought it.
    pub fn since(&self) -> Option<SystemTime> {
        match self.standing.since.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    /// Its socket address; `None` while its name is not resolved.
    pub fn resolve(&self, resolver: &Resolver) -> Option<SocketAddr> {
        match &self.address {
            NodeAddress::Ip(address) => Some(*address),
            NodeAddress::Name { host, port } => {
                let ip = *resolver.lookup(host).first()?;
                Some(SocketAddr::new(ip, *port))
            }
        }
    }
}

/// Checks of one node with the same outcome in a row, since it went up or down.
#[derive(Debug, Default)]
struct Streak {
    good: bool,
    was_up: bool,
    length: u32,
}

impl Streak {
    /// Counts an outcome; says when it is time for the node to go up or down.
    fn count(&mut self, good: bool, was_up: bool, check: &config::Check) -> Option<bool> {
        // A worker may have taken the node down meanwhile: good checks from before count no more.
        if (good, was_up) != (self.good, self.was_up) {
            *self = Self {
                good,
                was_up,
                length: 0,
            };
        }
        self.length = self.length.saturating_add(1);
        let needed = if good { check.rise } else { check.fall };
        (good != was_up && self.length >= needed).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(weights: &[u32]) -> NodePool {
        NodePool::new(&config::Pool {
            name: "ingress".into(),
            nodes: weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| config::Node {
                    address: NodeAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 1000 + i as u16))),
                    weight,
                })
                .collect(),
            balance: config::Balance::RoundRobin,
            check: check(2, 2),
        })
    }

    fn check(rise: u32, fall: u32) -> config::Check {
        config::Check {
            kind: config::CheckKind::Tcp,
            interval: Duration::from_secs(10),
            down_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            rise,
            fall,
            port: None,
        }
    }

    fn picks(pool: &NodePool, n: usize, tried: &[usize]) -> Vec<usize> {
        let mut turn = Turn::default();
        (0..n)
            .filter_map(|_| pool.pick(&mut turn, tried).map(|(index, _)| index))
            .collect()
    }

    #[test]
    fn nodes_that_are_down_are_left_out_until_all_are() {
        let pool = pool(&[100, 100, 100]);
        assert_eq!(picks(&pool, 6, &[]), [0, 1, 2, 0, 1, 2]);
        pool.connect_failed(&pool.nodes[1], &"refused");
        assert_eq!(picks(&pool, 4, &[]), [0, 2, 0, 2]);
        assert!(pool.nodes[1].since().is_some() && pool.nodes[0].since().is_none());
        pool.connect_failed(&pool.nodes[0], &"refused");
        pool.connect_failed(&pool.nodes[2], &"refused");
        assert_eq!(picks(&pool, 3, &[]), [0, 1, 2]);
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let pool = pool(&[100, 100, 100]);
        assert_eq!(picks(&pool, 2, &[0]), [1, 2]);
        pool.connect_failed(&pool.nodes[2], &"refused");
        assert_eq!(picks(&pool, 1, &[0, 1]), [2], "down, but not tried yet");
        assert_eq!(picks(&pool, 1, &[0, 1, 2]), [] as [usize; 0]);
    }

    #[test]
    fn it_takes_as_many_checks_as_configured() {
        let check = check(2, 3);
        let mut streak = Streak::default();
        let bad: Vec<_> = (0..3).map(|_| streak.count(false, true, &check)).collect();
        assert_eq!(bad, [None, None, Some(false)]);
        assert_eq!(streak.count(true, false, &check), None);
        assert_eq!(streak.count(false, false, &check), None, "the streak broke");
        assert_eq!(streak.count(true, false, &check), None);
        assert_eq!(streak.count(true, false, &check), Some(true));
        for _ in 0..5 {
            assert_eq!(streak.count(true, true, &check), None, "up already");
        }
        // A worker could not connect.
        assert_eq!(streak.count(true, false, &check), None);
        assert_eq!(streak.count(true, false, &check), Some(true));
    }
}
