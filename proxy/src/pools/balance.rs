//! Which node of a pool is next: smooth weighted round robin, as nginx and HAProxy have it.
//!
//! Pure: what is up and how heavy comes in, an index goes out. Each worker keeps its own
//! [`RoundRobin`] for each pool. Not done here: health (the caller says which nodes may be used),
//! queues.

use portico_config::Balance;

/// A worker's state of one pool.
#[derive(Debug, Clone, Default)]
pub struct Chooser {
    round_robin: RoundRobin,
}

impl Chooser {
    /// The next node among `weights`, of which 0 is none; `load`: requests in flight at a node.
    pub fn pick(
        &mut self,
        balance: Balance,
        weights: &[u32],
        _load: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        match balance {
            Balance::RoundRobin | Balance::LeastRequests => self.round_robin.pick(weights),
        }
    }
}

/// The place in the rotation. One for each pool and worker.
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    current: Vec<i64>,
}

impl RoundRobin {
    /// The next node among `weights`, or `None` when no node has weight. A weight of 0 leaves a
    /// node out: that is how the caller says that it is down, or tried already. Over a long run
    /// each node gets its weight's share, evenly spread.
    pub fn pick(&mut self, weights: &[u32]) -> Option<usize> {
        self.current.resize(weights.len(), 0);
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, (current, &weight)) in self.current.iter_mut().zip(weights).enumerate() {
            if weight == 0 {
                continue;
            }
            *current += i64::from(weight);
            total += i64::from(weight);
            if best.is_none_or(|(_, most)| *current > most) {
                best = Some((index, *current));
            }
        }
        let (index, _) = best?;
        if let Some(current) = self.current.get_mut(index) {
            *current -= total;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spreads_smoothly() {
        let mut turn = RoundRobin::default();
        let picks: Vec<_> = (0..7).filter_map(|_| turn.pick(&[5, 1, 1])).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn nothing_to_pick() {
        assert_eq!(RoundRobin::default().pick(&[]), None);
        assert_eq!(RoundRobin::default().pick(&[0, 0]), None);
    }

    proptest! {
        /// Each node gets exactly its share over one round of the total weight.
        #[test]
        fn shares_are_exact(weights in proptest::collection::vec(0u32..20, 1..8)) {
            let total: u32 = weights.iter().sum();
            let mut turn = RoundRobin::default();
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..total {
                counts[turn.pick(&weights).unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        /// Nodes that leave and come back never make it pick one that is out.
        #[test]
        fn never_picks_a_node_that_is_out(rounds in proptest::collection::vec(proptest::collection::vec(0u32..3, 3), 1..50)) {
            let mut turn = RoundRobin::default();
            for weights in rounds {
                match turn.pick(&weights) {
                    Some(index) => prop_assert!(weights[index] > 0),
                    None => prop_assert!(weights.iter().all(|&w| w == 0)),
                }
            }
        }
    }
}
