//! What administrators change while portico runs: `portico pool` and `POST /pools/...`.
//!
//! Kept over a reload, not over a restart: a node keeps it as long as it is configured. Every change
//! is in the log. Asking for what is so already changes nothing, and is no mistake.
//!
//! Not done here: what a node weighs then (`pool`), who may ask (`admin`).

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{info, warn};

use super::node::Node;
use super::pool::{Pool, Pools};

/// The most that a node may weigh; as in the configuration.
pub const MAX_WEIGHT: u32 = 1000;

/// What an administrator wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// It is used while it is up.
    #[default]
    Ready,
    /// No new requests; those in flight end. Checks go on.
    Drain,
    /// The same, and no checks.
    Maintenance,
}

impl Wish {
    /// The word of commands, pages and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A change of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Whether it is used.
    Wish(Wish),
    /// What it weighs, 0 to [`MAX_WEIGHT`]; 0: no new requests. `None`: as configured.
    Weight(Option<u32>),
}

/// What administrators have said of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Whether it is used.
    pub wish: Wish,
    /// What it weighs instead of the configured weight.
    pub weight: Option<u32>,
    /// The configured weight.
    pub configured: u32,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = self.wish.as_str();
        match self.weight {
            Some(weight) => write!(f, "{wish}, weight {weight}"),
            None => write!(f, "{wish}, weight {} as configured", self.configured),
        }
    }
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Before it.
    pub before: Setting,
    /// Now.
    pub now: Setting,
    /// Requests, or TCP connections, that the node still has.
    pub in_flight: u32,
    /// What is left of the pool, if that is not enough.
    pub left: Option<Left>,
}

/// A pool without a node that is up and may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// No node may be used.
    Nothing,
    /// Only nodes that are down may be used.
    Down,
}

impl Left {
    /// What is wrong, what follows, what to do.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Nothing => {
                "no node of the pool is in rotation any more: clients get 503 (of [[tcp]]: a reset) until portico pool ready, or a weight above 0, brings one back"
            }
            Self::Down => {
                "the nodes of the pool that are in rotation are all down: they are tried all the same, and clients get 502 (of [[tcp]]: a reset) while none answers"
            }
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such pool.
    #[error("there is no pool {asked:?}; {}", known("pools", .pools))]
    NoPool {
        /// What was asked for.
        asked: String,
        /// Those that there are.
        pools: Vec<String>,
    },
    /// The pool has no such node.
    #[error("the pool {pool} has no node {asked:?}; {}", known("nodes", .nodes))]
    NoNode {
        /// The pool.
        pool: String,
        /// What was asked for.
        asked: String,
        /// Those that there are.
        nodes: Vec<String>,
    },
    /// A weight that no node may have.
    #[error("{0} is no weight: 0 to {MAX_WEIGHT}, or default")]
    Weight(u32),
}

fn known(what: &str, names: &[String]) -> String {
    match names {
        [] => format!("there are no {what}"),
        names => format!("{what}: {}", names.join(", ")),
    }
}

/// Changes a node, and says so in the log.
///
/// # Errors
/// [`ChangeError`]
pub fn change(
    pools: &Pools,
    pool: &str,
    node: &str,
    change: Change,
) -> Result<Changed, ChangeError> {
    if let Change::Weight(Some(weight)) = change
        && weight > MAX_WEIGHT
    {
        return Err(ChangeError::Weight(weight));
    }
    let found = pools.get(pool).ok_or_else(|| ChangeError::NoPool {
        asked: pool.to_owned(),
        pools: pools.iter().map(|pool| pool.name.to_string()).collect(),
    })?;
    let server = found.node(node).ok_or_else(|| {
        let members = found.members();
        let nodes = members.nodes.iter();
        ChangeError::NoNode {
            pool: pool.to_owned(),
            asked: node.to_owned(),
            nodes: nodes.map(|node| node.address.to_string()).collect(),
        }
    })?;
    Ok(found.change(&server, change))
}

impl Pool {
    /// Changes one of its nodes, and says so in the log.
    pub fn change(self: &Arc<Self>, node: &Node, change: Change) -> Changed {
        let alone = self.alone();
        let (before, now) = node.standing(|standing| {
            let before = standing.setting();
            match change {
                Change::Wish(wish) if wish != standing.wish => {
                    if standing.wish == Wish::Maintenance {
                        standing.health.resumed(Instant::now());
                    }
                    standing.wish = wish;
                    standing.wish_since = Some(SystemTime::now());
                }
                Change::Wish(_) => {}
                Change::Weight(weight) => standing.set_weight = weight,
            }
            (before, standing.setting())
        });
        drop(alone);
        let left = if before == now {
            self.left()
        } else {
            self.publish(Instant::now());
            node.check_anew.notify_one();
            let left = self.left();
            let (pool, address) = (&self.name, &node.address);
            let (was, is) = (before.to_string(), now.to_string());
            info!(%pool, node = %address, before = was, now = is, in_flight = node.in_flight(), "a node was changed by hand");
            self.say_what_is_left(left);
            left
        };
        Changed {
            before,
            now,
            in_flight: node.in_flight(),
            left,
        }
    }

    fn left(&self) -> Option<Left> {
        let members = self.members();
        if members.used().next().is_none() {
            return Some(Left::Nothing);
        }
        (!members.used().any(|node| node.is_up())).then_some(Left::Down)
    }

    fn say_what_is_left(&self, left: Option<Left>) {
        let pool = &self.name;
        match left {
            None => {}
            Some(Left::Nothing) => {
                warn!(%pool, fault = "platform", "no node of the pool is in rotation any more: clients get 503 (of [[tcp]]: a reset) until portico pool ready, or a weight above 0, brings one back");
            }
            Some(Left::Down) => {
                warn!(%pool, fault = "platform", "the nodes of the pool that are in rotation are all down: they are tried all the same, and clients get 502 (of [[tcp]]: a reset) while none answers");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::health::Checked;

    fn pools() -> Pools {
        let config = r#"
            [listen]
            https = []
            redirect = false
            [domains]
            canonical = "toolforge.org"
            [pools.ingress]
            nodes = ["127.0.0.1:2", { address = "127.0.0.1:3", weight = 50 }]
            slow_start = "0s"
        "#;
        let config = portico_config::parse("test", config).unwrap().config;
        Pools::new(&config.pools, None, 1)
    }

    fn weights(pools: &Pools) -> Vec<u32> {
        let members = pools.get("ingress").unwrap().members();
        members.nodes.iter().map(|node| node.effective()).collect()
    }

    /// What is done to the first node and then to the second; what both weigh then, what is left.
    #[track_caller]
    fn check(first: Change, second: Change, expected: [u32; 2], left: Option<Left>) {
        let pools = pools();
        change(&pools, "ingress", "127.0.0.1:2", first).unwrap();
        let last = change(&pools, "ingress", "127.0.0.1:3", second).unwrap();
        assert_eq!((weights(&pools), last.left), (expected.into(), left));
        // Once more is no change, and says the same.
        let again = change(&pools, "ingress", "127.0.0.1:3", second).unwrap();
        assert_eq!((again.before, again.now), (last.now, last.now));
        assert_eq!((weights(&pools), again.left), (expected.into(), left));
    }

    #[test]
    fn changes_and_what_is_left() {
        let (ready, drain) = (Change::Wish(Wish::Ready), Change::Wish(Wish::Drain));
        let maintenance = Change::Wish(Wish::Maintenance);
        let weight = |weight| Change::Weight(Some(weight));
        check(ready, ready, [10_000, 5_000], None);
        check(drain, ready, [0, 5_000], None);
        check(maintenance, ready, [0, 5_000], None);
        check(ready, weight(1), [10_000, 100], None);
        check(weight(1000), Change::Weight(None), [100_000, 5_000], None);
        check(drain, drain, [0, 0], Some(Left::Nothing));
        check(maintenance, drain, [0, 0], Some(Left::Nothing));
        check(weight(0), drain, [0, 0], Some(Left::Nothing));
        check(weight(0), weight(0), [0, 0], Some(Left::Nothing));
    }

    #[test]
    fn a_weight_outlives_a_drain() {
        let pools = pools();
        let change = |what| change(&pools, "ingress", "127.0.0.1:2", what).unwrap();
        change(Change::Weight(Some(7)));
        let drained = change(Change::Wish(Wish::Drain));
        assert_eq!(drained.before.to_string(), "ready, weight 7");
        assert_eq!(drained.now.to_string(), "drain, weight 7");
        change(Change::Wish(Wish::Ready));
        assert_eq!(weights(&pools), [700, 5_000]);
        let back = change(Change::Weight(None));
        assert_eq!(back.now.to_string(), "ready, weight 100 as configured");
    }

    #[test]
    fn only_nodes_that_are_down_are_left() {
        let pools = pools();
        let pool = pools.get("ingress").unwrap();
        let down = Arc::clone(&pool.members().nodes[0]);
        let now = Instant::now();
        down.standing(|standing| {
            let check = Checked {
                good: false,
                begun: now,
                rise: 1,
                fall: 1,
            };
            let _ = standing.health.checked(check, false, now);
        });
        let drained = change(&pools, "ingress", "127.0.0.1:3", Change::Wish(Wish::Drain)).unwrap();
        assert_eq!(drained.left, Some(Left::Down));
        assert_eq!(weights(&pools), [10_000, 0]);
    }

    #[track_caller]
    fn check_refused(pool: &str, node: &str, what: Change, expected: &str) {
        let refused = change(&pools(), pool, node, what).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn what_there_is_not() {
        let drain = Change::Wish(Wish::Drain);
        check_refused(
            "ingres",
            "127.0.0.1:2",
            drain,
            "there is no pool \"ingres\"; pools: ingress",
        );
        check_refused(
            "ingress",
            "127.0.0.1",
            drain,
            "the pool ingress has no node \"127.0.0.1\"; nodes: 127.0.0.1:2, 127.0.0.1:3",
        );
        check_refused(
            "ingress",
            "127.0.0.1:2",
            Change::Weight(Some(1001)),
            "1001 is no weight: 0 to 1000, or default",
        );
    }
}
