//! The pools of the ingress and their shares of the tools: the same tool always goes to the same
//! pool, and a change of shares moves no more tools than it must.
//!
//! Weighted rendezvous hashing: each pool has as many tickets as it has percent, each ticket a number that
//! follows from the pool's name, its own place and the tool's name; the highest wins. All integers,
//! from a hash that is written here: several porticos agree, on every machine and in every version.
//! **So a change of the numbers moves tools of everybody who splits; the golden vectors of the
//! tests forbid it.**
//!
//! Not done here: a tool does not go to another pool when all nodes of its own are down. A share
//! that failed over would come and go with health checks, and load that nobody planned would
//! hit the other pool; who wants it moves the percentages.

use std::sync::Arc;

use portico_config::Share;

use super::balance::mix;
use super::pool::{Pool, Pools};

/// The pools of the ingress, with their percentages.
#[derive(Debug, Default, Clone)]
pub struct Split {
    shares: Vec<(Arc<Pool>, u8)>,
    /// What the tickets of each follow from.
    seeds: Vec<u64>,
}

impl Split {
    /// As configured.
    pub fn new(shares: &[Share], pools: &Pools) -> Self {
        let pools = shares.iter().filter_map(|share| {
            let pool = pools.get(&share.pool)?;
            Some((Arc::clone(pool), share.percent))
        });
        let shares: Vec<_> = pools.collect();
        let seeds = shares.iter().map(|(pool, _)| seed(&pool.name)).collect();
        Self { shares, seeds }
    }

    /// The pool for `key`, a tool or else a host; `None`: there is no ingress.
    pub fn pick(&self, key: &str) -> Option<&Arc<Pool>> {
        let percents = self.shares.iter().map(|(_, percent)| *percent);
        let index = winner(self.seeds.iter().copied().zip(percents), key)?;
        self.shares.get(index).map(|(pool, _)| pool)
    }

    /// The pools and their percentages.
    pub fn shares(&self) -> &[(Arc<Pool>, u8)] {
        &self.shares
    }
}

/// The index of the pool that wins `key`, of pools with a seed and a percentage each.
fn winner(pools: impl Iterator<Item = (u64, u8)> + Clone, key: &str) -> Option<usize> {
    let mut playing = pools.enumerate().filter(|(_, (_, percent))| *percent > 0);
    let (first, _) = playing.clone().next()?;
    if playing.clone().nth(1).is_none() {
        return Some(first);
    }
    let mut best = (first, 0);
    for (index, (seed, percent)) in &mut playing {
        let score = best_ticket(mix(fnv(seed, key.as_bytes())), percent);
        if score > best.1 {
            best = (index, score);
        }
    }
    Some(best.0)
}

/// The highest of the first `tickets` numbers of splitmix64.
fn best_ticket(start: u64, tickets: u8) -> u64 {
    let numbers = (1..=u64::from(tickets))
        .map(|place| mix(start.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    numbers.max().unwrap_or_default()
}

fn seed(pool: &str) -> u64 {
    let hash = fnv(0xcbf2_9ce4_8422_2325, pool.as_bytes());
    // A byte that no name has, so that where one ends and the other begins is told.
    fnv(hash, &[0xff])
}

/// FNV-1a of 64 bits, from `hash` on.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
