use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TOOLS: usize = 5_000;

fn tool(number: usize) -> String {
    format!("tool-{number}")
}

/// Which of `pools` each tool goes to.
fn assign(pools: &[(&str, u8)]) -> Vec<usize> {
    let seeds: Vec<_> = pools.iter().map(|(name, _)| seed(name)).collect();
    let percents = pools.iter().map(|(_, percent)| *percent);
    let pools = seeds.into_iter().zip(percents);
    (0..TOOLS)
        .map(|number| winner(pools.clone(), &tool(number)).unwrap())
        .collect()
}

fn moved(before: &[usize], after: &[usize]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

/// Each pool has its percentage of the tools, but for what chance makes (5 standard deviations).
#[track_caller]
fn check_shares(pools: &[(&str, u8)]) -> Vec<usize> {
    let assigned = assign(pools);
    for (index, (name, percent)) in pools.iter().enumerate() {
        let part = f64::from(*percent) / 100.0;
        let expected = part * TOOLS as f64;
        let off = 5.0 * (expected * (1.0 - part)).sqrt();
        let has = assigned.iter().filter(|pool| **pool == index).count() as f64;
        assert!((has - expected).abs() <= off, "{pools:?}: {name} has {has}");
    }
    assigned
}

#[track_caller]
fn check_golden(percents: [u8; 3], winners: [&str; 8]) {
    let names = ["ingress", "gateway", "canary"];
    let keys = [
        "admin",
        "wiki",
        "a",
        "",
        "ru_monuments",
        "xn--bcher-kva",
        "tools.example.org",
        "d",
    ];
    let pools = names.map(seed).into_iter().zip(percents);
    let is = keys.map(|key| names[winner(pools.clone(), key).unwrap()]);
    assert_eq!(is, winners, "tools of everybody who splits would move");
}

/// Worked out by a program of its own, in another language.
#[test]
fn tools_never_move_with_a_version() {
    let (i, g, c) = ("ingress", "gateway", "canary");
    check_golden([90, 10, 0], [i, i, i, i, i, g, i, i]);
    check_golden([50, 50, 0], [g, g, g, g, g, g, g, i]);
    check_golden([34, 33, 33], [c, g, g, c, g, g, g, i]);
    assert_eq!(seed("ingress"), 13_794_868_726_445_343_749);
    let ticket = best_ticket(mix(fnv(seed("ingress"), b"admin")), 100);
    assert_eq!(ticket, 18_318_428_114_807_259_742);
}

#[test]
fn shares_are_what_was_asked_for() {
    check_shares(&[("ingress", 90), ("gateway", 10)]);
    check_shares(&[("ingress", 99), ("gateway", 1)]);
    check_shares(&[("a", 34), ("b", 33), ("c", 33)]);
    check_shares(&[("a", 25), ("b", 25), ("c", 25), ("d", 25)]);
    let all = assign(&[("ingress", 100), ("gateway", 0)]);
    assert!(all.iter().all(|pool| *pool == 0));
    let other = assign(&[("ingress", 0), ("gateway", 100)]);
    assert!(other.iter().all(|pool| *pool == 1));
    assert_eq!(winner([(1, 0), (2, 0)].into_iter(), "tool"), None);
    assert_eq!(winner([].into_iter(), "tool"), None);
}

#[test]
fn two_pools_move_as_few_as_possible() {
    let mut before = assign(&[("ingress", 100), ("gateway", 0)]);
    for percent in [1, 2, 3, 10, 11, 30, 50, 51, 90, 99, 100] {
        let after = assign(&[("ingress", 100 - percent), ("gateway", percent)]);
        for (was, is) in before.iter().zip(&after) {
            assert!(was <= is, "none goes back to the pool that shrinks");
        }
        before = after;
    }
}

#[test]
fn the_order_of_pools_does_not_matter() {
    let one = assign(&[("a", 20), ("b", 30), ("c", 50)]);
    let other = assign(&[("c", 50), ("a", 20), ("b", 30)]);
    let order = [1, 2, 0];
    assert!(
        one.iter()
            .zip(&other)
            .all(|(one, other)| order[*one] == *other)
    );
}

/// Percentages of `parts` pools that add up to 100.
fn percents(parts: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..=100, parts - 1).prop_map(|mut cuts| {
        cuts.sort_unstable();
        let mut last = 0;
        cuts.push(100);
        cuts.into_iter()
            .map(|cut| cut - std::mem::replace(&mut last, cut))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// No split of the new shares could move fewer than the sum of what pools gain; this one moves at
    /// most twice as many, and exactly as many between two pools.
    #[test]
    fn a_change_moves_few(before in percents(4), after in percents(4)) {
        let names = ["a", "b", "c", "d"];
        let with = |percents: &[u8]| -> Vec<_> {
            names.into_iter().zip(percents.iter().copied()).collect()
        };
        let one = check_shares(&with(&before));
        let other = check_shares(&with(&after));
        let gained = before.iter().zip(&after).map(|(b, a)| a.saturating_sub(*b));
        let least = f64::from(gained.sum::<u8>()) / 100.0;
        let moved = moved(&one, &other) as f64 / TOOLS as f64;
        prop_assert!(moved <= 2.0 * least + 0.03, "{moved} moved, {least} at least");
        prop_assert!(moved >= least - 0.03);
    }
}

#[test]
fn a_split_knows_its_pools() {
    let pools = Pools::new(&BTreeMap::new(), None, 1);
    let none = Split::new(
        &[Share {
            pool: "ingress".into(),
            percent: 100,
        }],
        &pools,
    );
    assert!(none.pick("tool").is_none() && none.shares().is_empty());
}
