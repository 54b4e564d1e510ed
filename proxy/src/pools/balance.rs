//! Which node of a pool is next: smooth weighted round robin, as nginx and HAProxy have it, or the
//! better of two nodes drawn by weight.
//!
//! Pure: what is up and how heavy comes in, an index goes out. Each worker keeps a [`Chooser`] for
//! each pool. Not done here: health (the caller says which nodes may be used), queues.
//!
//! Both keep the same account: with each pick every node that may be used earns its share of one
//! pick, and the node that is picked pays one. What a node has is how many picks it is behind.
//! Round robin takes the node that is furthest behind. So the shares are exact over a long run,
//! whatever nodes come, go and change their weights meanwhile.
//!
//! Two choices alone are not fair to weights: of two nodes with weights 2 and 1 and one request in
//! flight, the idle one always gets the next, which is the light one as often as the heavy one. So
//! a node counts as having as many requests fewer as it is behind, up to [`LENIENCE`]. That makes the
//! shares exact while nodes are equally fast, and hardly matters when one is slow. See
//! `docs/decisions/0018-choosing-nodes-and-pools.md` for figures.

use portico_config::Balance;

/// By how many picks a node can be behind or ahead, in the eyes of `least-requests`.
const LENIENCE: i64 = 4;

/// A worker's state of one pool.
#[derive(Debug, Clone, Default)]
pub struct Chooser {
    /// The list of nodes that the account is of.
    generation: u64,
    /// By how many picks each node is behind, in parts of which `unit` make one.
    behind: Vec<i64>,
    unit: i64,
}

/// Random numbers, fast and not for secrets: splitmix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Chooser {
    /// The next node among `weights`, or `None` when no node has weight. A weight of 0 leaves a
    /// node out: that is how the caller says that it is down, full, or tried already.
    ///
    /// `generation` changes when an index stands for another node; then the account begins anew.
    /// `in_flight`: requests at a node.
    pub fn pick(
        &mut self,
        generation: u64,
        balance: Balance,
        weights: &[u32],
        in_flight: impl Fn(usize) -> u32,
        random: &mut Random,
    ) -> Option<usize> {
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        if total == 0 {
            return None;
        }
        self.prepare(generation, weights.len(), i64::try_from(total).ok()?);
        for (behind, &weight) in self.behind.iter_mut().zip(weights) {
            *behind += i64::from(weight);
        }
        let picked = match balance {
            Balance::RoundRobin => self.furthest_behind(weights)?,
            Balance::LeastRequests => {
                let most = LENIENCE * self.unit;
                for behind in &mut self.behind {
                    *behind = (*behind).clamp(-most, most);
                }
                self.better_of_two(weights, total, in_flight, random)?
            }
        };
        *self.behind.get_mut(picked)? -= self.unit;
        Some(picked)
    }

    /// What is there counts in picks: it is worth as much when the weights have changed.
    fn prepare(&mut self, generation: u64, nodes: usize, total: i64) {
        if self.generation != generation || self.behind.len() != nodes {
            self.generation = generation;
            self.behind.clear();
            self.behind.resize(nodes, 0);
        } else if self.unit != total {
            for behind in &mut self.behind {
                let scaled = i128::from(*behind) * i128::from(total) / i128::from(self.unit.max(1));
                // At most a few picks, of which each is `total`.
                *behind = i64::try_from(scaled).unwrap_or_default();
            }
        }
        self.unit = total;
    }

    fn furthest_behind(&self, weights: &[u32]) -> Option<usize> {
        let mut best: Option<(usize, i64)> = None;
        for (index, (&behind, &weight)) in self.behind.iter().zip(weights).enumerate() {
            if weight > 0 && best.is_none_or(|(_, most)| behind > most) {
                best = Some((index, behind));
            }
        }
        best.map(|(index, _)| index)
    }

    fn better_of_two(
        &self,
        weights: &[u32],
        total: u64,
        in_flight: impl Fn(usize) -> u32,
        random: &mut Random,
    ) -> Option<usize> {
        let first = draw(weights, None, random.below(total))?;
        let weight_of = |index: usize| weights.get(index).copied().unwrap_or_default();
        let others = total - u64::from(weight_of(first));
        if others == 0 {
            return Some(first);
        }
        let second = draw(weights, Some(first), random.below(others))?;
        let load = |index: usize| {
            let behind = self.behind.get(index).copied().unwrap_or_default();
            i128::from(in_flight(index)) * i128::from(self.unit) - i128::from(behind)
        };
        // Load by weight, without a division.
        let first_load = load(first) * i128::from(weight_of(second));
        let second_load = load(second) * i128::from(weight_of(first));
        Some(if second_load < first_load {
            second
        } else {
            first
        })
    }
}

/// The node that `point` falls on, when all but `without` lie side by side.
fn draw(weights: &[u32], without: Option<usize>, mut point: u64) -> Option<usize> {
    for (index, &weight) in weights.iter().enumerate() {
        if Some(index) == without {
            continue;
        }
        let weight = u64::from(weight);
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

impl Random {
    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, any of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.number()) * u128::from(limit);
        // The upper half of a product with `limit` is below it.
        (wide >> 64) as u64
    }
}

/// Spreads the bits of `value` over all bits, each value to another one.
pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
