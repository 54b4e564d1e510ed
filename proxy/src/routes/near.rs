//! The tools whose names are nearest to one that there is not.

/// So many are named.
const MOST: usize = 3;
/// How alike two names must be, of 1.
const ENOUGH: f64 = 0.6;
/// How alike a name is at least that holds the other: more so than one with many slips.
const CONTAINED: f64 = 0.7;
/// A longer one is no name of a tool, and comparing costs its square.
const MAX_BYTES: usize = 64;

/// The nearest of `names`, the best first.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut best: Vec<(f64, &str)> = Vec::with_capacity(MOST + 1);
    if wanted.is_empty() || wanted.len() > MAX_BYTES {
        return Vec::new();
    }
    for name in names {
        let contained = name.contains(wanted) || wanted.contains(name);
        let score = match strsim::normalized_damerau_levenshtein(wanted, name) {
            score if contained => score.max(CONTAINED),
            score => score,
        };
        if score < ENOUGH {
            continue;
        }
        let place = best.partition_point(|(other, _)| *other >= score);
        if place < MOST {
            best.insert(place, (score, name));
            best.truncate(MOST);
        }
    }
    best.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &str, expected: &[&str]) {
        let names = ["admin", "grid", "grids", "the-grid-again", "wikibugs", "x"];
        assert_eq!(nearest(wanted, names.into_iter()), expected);
    }

    #[test]
    fn near_misses() {
        check("gird", &["grid", "grids"]);
        check("grid-", &["grid", "grids", "the-grid-again"]);
        check("wikibug", &["wikibugs"]);
        check("again", &["the-grid-again", "admin"]);
        check("zzzzz", &[]);
        check("", &[]);
        check(&"g".repeat(65), &[]);
    }
}
