use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const BALANCES: [Balance; 2] = [Balance::RoundRobin, Balance::LeastRequests];

/// Round robin, as a caller whose nodes never change.
fn turn(chooser: &mut Chooser, weights: &[u32]) -> Option<usize> {
    let random = &mut Random::seeded(0);
    chooser.pick(0, Balance::RoundRobin, weights, |_| 0, random)
}

#[test]
fn spreads_smoothly() {
    let mut chooser = Chooser::default();
    let picks: Vec<_> = (0..7)
        .filter_map(|_| turn(&mut chooser, &[5, 1, 1]))
        .collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn nothing_to_pick() {
    for balance in BALANCES {
        let mut random = Random::seeded(1);
        let mut pick =
            |weights: &[u32]| Chooser::default().pick(0, balance, weights, |_| 0, &mut random);
        assert_eq!(pick(&[]), None);
        assert_eq!(pick(&[0, 0]), None);
        assert_eq!(pick(&[0, 7]), Some(1));
    }
}

#[test]
fn a_changed_weight_leaves_no_debt_that_lasts() {
    let mut chooser = Chooser::default();
    for _ in 0..3 {
        turn(&mut chooser, &[100_000, 100_000, 50]);
    }
    // In parts of a pick that now weighs next to nothing, the old account would last for
    // thousands.
    let picks: Vec<_> = (0..6)
        .filter_map(|_| turn(&mut chooser, &[100, 100, 100]))
        .collect();
    for node in 0..3 {
        let times = picks.iter().filter(|pick| **pick == node).count();
        assert!((1..=3).contains(&times), "{picks:?}");
    }
}

#[test]
fn other_nodes_begin_anew() {
    let mut chooser = Chooser::default();
    let mut random = Random::seeded(1);
    let mut pick = |generation| {
        let load = |_| 0;
        chooser.pick(generation, Balance::RoundRobin, &[9, 1], load, &mut random)
    };
    // The light one's turn would come with the sixth.
    for _ in 0..4 {
        assert_eq!(pick(1), Some(0));
    }
    for _ in 0..5 {
        assert_eq!(pick(2), Some(0));
    }
    assert_eq!(pick(2), Some(1));
}

#[test]
fn of_two_the_one_with_less() {
    let (mut chooser, mut random) = (Chooser::default(), Random::seeded(3));
    let in_flight = [900, 10, 500];
    let mut picks = [0; 3];
    for _ in 0..999 {
        let load = |index: usize| in_flight[index];
        let weights = [100, 100, 100];
        let picked = chooser.pick(0, Balance::LeastRequests, &weights, load, &mut random);
        picks[picked.unwrap()] += 1;
    }
    assert_eq!(picks[0], 0, "it has more than either of the others");
    // The three pairs are drawn alike.
    assert!((600..730).contains(&picks[1]), "{picks:?}");
    // By weight the busiest has least.
    let load = |index: usize| in_flight[index];
    for _ in 0..99 {
        let picked = chooser.pick(1, Balance::LeastRequests, &[1000, 1, 0], load, &mut random);
        assert_eq!(picked, Some(0));
    }
}

#[test]
fn random_numbers_of_a_seed_stay_the_same() {
    // The first of the published reference with seed 1234567.
    let mut random = Random::seeded(1_234_567);
    let numbers: Vec<_> = (0..3).map(|_| random.number()).collect();
    let reference = [
        6_457_827_717_110_365_317,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
    ];
    assert_eq!(numbers, reference);
    assert!((0..1000).all(|_| random.below(3) < 3));
    assert_eq!(random.below(0), 0);
}

proptest! {
    /// Each node gets exactly its share over one round of the total weight.
    #[test]
    fn shares_are_exact(weights in proptest::collection::vec(0u32..20, 1..8)) {
        let total: u32 = weights.iter().sum();
        let mut chooser = Chooser::default();
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..total {
            counts[turn(&mut chooser, &weights).unwrap()] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    /// Nodes that leave and come back never make it pick one that is out; nothing overflows.
    #[test]
    fn never_picks_a_node_that_is_out(
        rounds in proptest::collection::vec((0u64..3, proptest::collection::vec(0u32..3, 0..4)), 1..50),
        factor in 1u32..100_000,
        seed in 0u64..u64::MAX,
    ) {
        for balance in BALANCES {
            let (mut chooser, mut random) = (Chooser::default(), Random::seeded(seed));
            for (generation, weights) in &rounds {
                let weights: Vec<_> = weights.iter().map(|weight| weight * factor).collect();
                let load = |index: usize| if index == 0 { u32::MAX } else { 0 };
                match chooser.pick(*generation, balance, &weights, load, &mut random) {
                    Some(index) => prop_assert!(weights[index] > 0),
                    None => prop_assert!(weights.iter().all(|&w| w == 0)),
                }
            }
        }
    }
}

/// Nodes that answer after a random time, in time that is only counted.
struct Simulation {
    balance: Balance,
    random: Random,
    choosers: Vec<Chooser>,
    now: f64,
    /// When which node is done with a request, in millionths.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    in_flight: Vec<u32>,
    picks: Vec<u32>,
    /// What the weights at each pick make for each node.
    expected: Vec<f64>,
    /// Squares of how far from even requests in flight were.
    uneven: f64,
}

impl Simulation {
    fn new(balance: Balance, workers: usize, nodes: usize) -> Self {
        Self {
            balance,
            random: Random::seeded(6),
            choosers: vec![Chooser::default(); workers],
            now: 0.0,
            ends: BinaryHeap::new(),
            in_flight: vec![0; nodes],
            picks: vec![0; nodes],
            expected: vec![0.0; nodes],
            uneven: 0.0,
        }
    }

    /// A random time whose mean is `mean`, as of a queue without a memory.
    fn time(&mut self, mean: f64) -> f64 {
        let uniform = ((self.random.number() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -mean * uniform.ln()
    }

    /// One request; `rate` of them come in the time that a node of `slowness` 1 takes for one.
    fn request(&mut self, weights: &[u32], slowness: &[f64], rate: f64) {
        self.now += self.time(1.0 / rate);
        while let Some(Reverse((at, node))) = self.ends.peek().copied() {
            if at as f64 / 1e6 > self.now {
                break;
            }
            self.ends.pop();
            self.in_flight[node] -= 1;
        }
        let worker = self.random.below(self.choosers.len() as u64) as usize;
        let in_flight = |index: usize| self.in_flight[index];
        let random = &mut self.random;
        let chooser = &mut self.choosers[worker];
        let node = chooser.pick(0, self.balance, weights, in_flight, random);
        let node = node.unwrap();
        assert!(weights[node] > 0);
        self.in_flight[node] += 1;
        self.picks[node] += 1;
        let took = self.time(slowness[node]);
        let end = ((self.now + took) * 1e6) as u64;
        self.ends.push(Reverse((end, node)));
        let total = f64::from(weights.iter().sum::<u32>());
        let all = f64::from(self.in_flight.iter().sum::<u32>());
        for (index, &weight) in weights.iter().enumerate() {
            let share = f64::from(weight) / total;
            self.expected[index] += share;
            self.uneven += (f64::from(self.in_flight[index]) - all * share).powi(2);
        }
    }

    /// How far requests in flight were from even, by weight, in the mean.
    fn unevenness(&self) -> f64 {
        let looks = f64::from(self.picks.iter().sum::<u32>()) * self.picks.len() as f64;
        (self.uneven / looks).sqrt()
    }

    /// Each node's part is within `tolerance` of what its weights make, relative to that.
    #[track_caller]
    fn check_shares(&self, tolerance: f64, what: &str) {
        for (index, (&picks, &expected)) in self.picks.iter().zip(&self.expected).enumerate() {
            let off = (f64::from(picks) - expected).abs() / expected;
            assert!(
                off <= tolerance,
                "{what}: node {index} got {picks} of {expected:.1}, off by {:.2} %",
                off * 100.0
            );
        }
    }
}

const PICKS: u32 = 100_000;

/// Weights from all alike to very different ones.
const WEIGHTS: &[&[u32]] = &[
    &[100, 100, 100],
    &[200, 100],
    &[100, 50, 10],
    &[1000, 100, 100],
    &[5, 1, 1, 3, 2, 10, 4, 4],
    &[100; 20],
];

#[test]
fn shares_follow_weights() {
    for balance in BALANCES {
        for weights in WEIGHTS {
            // Chance has no part in round robin.
            let loads: &[(usize, f64)] = match balance {
                Balance::RoundRobin => &[(2, 10.0)],
                Balance::LeastRequests => &[(1, 0.1), (1, 1.0), (2, 10.0), (4, 100.0)],
            };
            for &(workers, rate) in loads {
                let mut simulation = Simulation::new(balance, workers, weights.len());
                for _ in 0..PICKS {
                    simulation.request(weights, &[1.0; 20], rate);
                }
                let what = format!("{balance:?} {weights:?} {workers} workers, rate {rate}");
                simulation.check_shares(0.01, &what);
            }
        }
    }
}

#[test]
fn shares_follow_weights_while_nodes_leave_and_join() {
    // Each is out now and then, and comes back slowly, as after a failure.
    let weight_at = |pick: u32, node: u32| {
        let whole = [100, 100, 50, 200][node as usize] * 100;
        let phase = (pick + node * 2_500) % 10_000;
        match phase {
            0..2_000 => 0,
            2_000..4_000 => (whole * (phase - 2_000) / 2_000).max(1),
            _ => whole,
        }
    };
    for balance in BALANCES {
        let mut simulation = Simulation::new(balance, 2, 4);
        for pick in 0..PICKS {
            let weights: Vec<_> = (0..4).map(|node| weight_at(pick, node)).collect();
            simulation.request(&weights, &[1.0; 4], 20.0);
        }
        simulation.check_shares(0.01, &format!("{balance:?}"));
    }
}

#[test]
fn slow_start_is_a_ramp() {
    for balance in BALANCES {
        let mut simulation = Simulation::new(balance, 1, 3);
        let mut of_second = Vec::new();
        for second in 0..60 {
            let before = simulation.picks[2];
            let rising = (100 * 100 * second / 60).max(1);
            for _ in 0..PICKS / 60 {
                simulation.request(&[10_000, 10_000, rising], &[1.0; 3], 20.0);
            }
            of_second.push(simulation.picks[2] - before);
        }
        simulation.check_shares(0.01, &format!("{balance:?}"));
        for (second, picks) in of_second.iter().enumerate() {
            let weight = (second as f64 / 60.0).max(0.0001);
            let expected = f64::from(PICKS / 60) * weight / (2.0 + weight);
            let off = (f64::from(*picks) - expected).abs();
            assert!(
                off < 12.0,
                "{balance:?} second {second}: {picks}, not {expected:.0}"
            );
        }
    }
}

#[test]
fn least_requests_evens_the_load() {
    let run = |balance, weights: &[u32], slowness: &[f64]| {
        let mut simulation = Simulation::new(balance, 2, weights.len());
        for _ in 0..PICKS {
            simulation.request(weights, slowness, 100.0);
        }
        simulation.unevenness()
    };
    for weights in [[100, 100, 100], [100, 50, 10]] {
        for (slowness, better) in [([1.0, 1.0, 1.0], 1.2), ([10.0, 1.0, 1.0], 10.0)] {
            let by_turn = run(Balance::RoundRobin, &weights, &slowness);
            let by_load = run(Balance::LeastRequests, &weights, &slowness);
            assert!(
                by_load * better < by_turn,
                "{weights:?} {slowness:?}: {by_load:.1} and {by_turn:.1}"
            );
        }
    }
}
