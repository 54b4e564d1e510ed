//! A worker's place in the rotation of every pool, and its random numbers.
//!
//! Bounded by the most pools that there were at once: the numbers of pools that are gone are used
//! again, and a chooser notices that its list of nodes is another one.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use super::balance::{Chooser, Random};

/// A worker's place in the rotation of every pool.
#[derive(Debug)]
pub struct Turns {
    /// The number of the worker.
    pub(super) worker: usize,
    choosers: Vec<Chooser>,
    /// Used again for each choice.
    weights: Vec<u32>,
    random: Random,
}

/// A number that no other pool of the process has now; small.
#[derive(Debug)]
pub(super) struct Number(usize);

/// Numbers of pools that are gone, and the first that no pool had yet.
static NUMBERS: Mutex<(BTreeSet<usize>, usize)> = Mutex::new((BTreeSet::new(), 0));

impl Turns {
    /// Of the worker of that number.
    pub fn new(worker: usize) -> Self {
        // Random keys: enough to keep workers from drawing the same numbers.
        Self::seeded(worker, RandomState::new().hash_one(worker))
    }

    /// The same, with random numbers that follow from `seed`.
    pub fn seeded(worker: usize, seed: u64) -> Self {
        Self {
            worker,
            choosers: Vec::new(),
            weights: Vec::new(),
            random: Random::seeded(seed),
        }
    }

    /// What a choice among the nodes of a pool needs.
    pub(super) fn of(&mut self, number: &Number) -> (&mut Chooser, &mut Vec<u32>, &mut Random) {
        let Self {
            choosers,
            weights,
            random,
            ..
        } = self;
        if choosers.len() <= number.0 {
            choosers.resize_with(number.0 + 1, Chooser::default);
        }
        // Made above.
        (&mut choosers[number.0], weights, random)
    }
}

impl Default for Turns {
    /// Of the first worker.
    fn default() -> Self {
        Self::new(0)
    }
}

impl Default for Number {
    fn default() -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let (free, next) = &mut *numbers;
        Self(free.pop_first().unwrap_or_else(|| {
            *next += 1;
            *next - 1
        }))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.0.insert(self.0);
    }
}

#[cfg(test)]
mod tests {
    use portico_config::Balance;

    use super::*;

    #[test]
    fn numbers_of_pools_that_are_gone_are_used_again() {
        // Other tests make pools at the same time, but never thousands at once.
        let most = (0..5_000).map(|_| Number::default().0).max().unwrap();
        assert!(most < 4_000, "{most}");
        let (one, other) = (Number::default(), Number::default());
        assert_ne!(one.0, other.0);
        let mut turns = Turns::default();
        let mut pick = |number: &Number, generation| {
            let (chooser, _, random) = turns.of(number);
            let (balance, load) = (Balance::RoundRobin, |_| 0);
            chooser
                .pick(generation, balance, &[2, 1], load, random)
                .unwrap()
        };
        assert_eq!([pick(&one, 1), pick(&other, 2), pick(&one, 1)], [0, 0, 1]);
        // The same number with other nodes begins anew.
        assert_eq!([pick(&one, 3), pick(&one, 3), pick(&one, 3)], [0, 1, 0]);
    }
}
