//! A server of a pool: where it is, whether it may be used, how many requests it has.
//!
//! What a request reads are atomics: the weight that counts now, the places taken. What these follow
//! from ([`Standing`]) is behind a lock that only rare events take: checks, failures,
//! administrators.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use portico_config::NodeAddress;
use tokio::sync::Notify;

use super::counts::{Counts, Lane};
use super::health::Health;
use super::live::{Setting, Wish};
use crate::upstream::resolve::Resolver;

/// Steps of a weight, so that a hundredth of it can be given in a slow start.
pub const WEIGHT_STEPS: u32 = 100;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A server of a pool.
#[derive(Debug)]
pub struct Node {
    /// Tells it from all others of the process, also from one that had its address before.
    pub id: u64,
    /// Where it is.
    pub address: NodeAddress,
    /// Since when it is configured.
    pub added: SystemTime,
    /// Its share of new requests, in [`WEIGHT_STEPS`]; 0: none while others have some.
    effective: AtomicU32,
    /// Not drained, not in maintenance, and of some weight.
    in_rotation: AtomicBool,
    in_flight: AtomicU32,
    most_in_flight: AtomicU32,
    limit: AtomicU32,
    /// Exchanges in a row that the node's connection broke.
    pub(super) broken: AtomicU32,
    /// Wakes its check: something has changed when it is due.
    pub(super) check_anew: Notify,
    standing: Mutex<Standing>,
    lanes: Box<[Lane]>,
}

/// What decides whether and how much a node is used.
#[derive(Debug)]
pub struct Standing {
    /// What checks and failures say.
    pub health: Health,
    /// What administrators say.
    pub wish: Wish,
    /// When they said it; `None`: never.
    pub wish_since: Option<SystemTime>,
    /// As configured; 1 to 1,000.
    pub configured_weight: u32,
    /// As an administrator set it; 0 to 1,000.
    pub set_weight: Option<u32>,
}

impl Standing {
    /// The weight in force, before slow start.
    pub fn weight(&self) -> u32 {
        self.set_weight.unwrap_or(self.configured_weight)
    }

    /// What administrators say.
    pub fn setting(&self) -> Setting {
        Setting {
            wish: self.wish,
            weight: self.set_weight,
            configured: self.configured_weight,
        }
    }
}

impl Node {
    /// A node that is taken for up.
    pub(super) fn new(address: NodeAddress, weight: u32, limit: u32, lanes: usize) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address,
            added: SystemTime::now(),
            effective: AtomicU32::new(weight * WEIGHT_STEPS),
            in_rotation: AtomicBool::new(true),
            in_flight: AtomicU32::new(0),
            most_in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            broken: AtomicU32::new(0),
            check_anew: Notify::new(),
            standing: Mutex::new(Standing {
                health: Health::new(),
                wish: Wish::Ready,
                wish_since: None,
                configured_weight: weight,
                set_weight: None,
            }),
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
        }
    }

    /// Looks at what decides about it, or changes it. `look` must not ask for the same again: it would
    /// wait for itself.
    pub fn standing<T>(&self, look: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut standing)
    }

    /// Whether checks and failures leave it up.
    pub fn is_up(&self) -> bool {
        self.standing(|standing| standing.health.is_up())
    }

    /// Requests in flight by weight, to be compared with other nodes' alone.
    pub(super) fn load(&self, effective: u32) -> u64 {
        // Weights are below 2^17, so that nothing is lost but what tells heavy loads apart.
        (u64::from(self.in_flight()) << 24) / u64::from(effective.max(1))
    }

    /// Its share of new requests, in [`WEIGHT_STEPS`].
    pub fn effective(&self) -> u32 {
        self.effective.load(Relaxed)
    }

    /// Whether it is neither drained nor in maintenance, nor of no weight.
    pub fn in_rotation(&self) -> bool {
        self.in_rotation.load(Relaxed)
    }

    /// Requests, or TCP connections, that hold a place now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The most that there were at once.
    pub fn most_in_flight(&self) -> u32 {
        self.most_in_flight.load(Relaxed)
    }

    /// How many places it has.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Whether a place is free.
    pub fn has_room(&self) -> bool {
        self.in_flight.load(SeqCst) < self.limit.load(Relaxed)
    }

    /// What is counted by the worker of that number.
    pub fn lane(&self, worker: usize) -> &Lane {
        let index = worker % self.lanes.len();
        // There is at least one.
        &self.lanes[index]
    }

    /// What all workers have counted.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.lanes)
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

    /// Takes a place if one is free.
    pub(super) fn claim(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        let claimed = self
            .in_flight
            .fetch_update(SeqCst, SeqCst, |taken| (taken < limit).then_some(taken + 1));
        match claimed {
            Ok(before) => {
                if before >= self.most_in_flight.load(Relaxed) {
                    self.most_in_flight.fetch_max(before + 1, Relaxed);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Gives a place back. Who does looks at the queue afterwards.
    pub(super) fn release(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    pub(super) fn publish(&self, effective: u32, in_rotation: bool) {
        self.effective.store(effective, Relaxed);
        self.in_rotation.store(in_rotation, Relaxed);
    }

    /// What its share should be now, if nothing else were known than what stands with it.
    pub(super) fn share(&self, slow_start: std::time::Duration, now: Instant) -> (u32, bool) {
        self.standing(|standing| {
            let whole = standing.weight() * WEIGHT_STEPS;
            let in_rotation = standing.wish == Wish::Ready && whole > 0;
            if !in_rotation || !standing.health.is_up() {
                return (0, in_rotation);
            }
            (standing.health.ramp(whole, slow_start, now), in_rotation)
        })
    }
}
