//! How two sets of routes of one tool differ. Pure.
//!
//! The order in which routes are tried follows from their patterns, so that it is no difference.

use super::{Route, good_routes};
use crate::terminal::visible;
use portico_routing::table::Entry;

/// What a tool has, at one time or in one place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Side<'a> {
    /// By pattern.
    routes: Vec<Route<'a>>,
    redirect: bool,
}

impl<'a> Side<'a> {
    pub(crate) fn new(mut routes: Vec<Route<'a>>, redirect: bool) -> Self {
        routes.sort_unstable_by(|a, b| (&a.pattern, &a.backend).cmp(&(&b.pattern, &b.backend)));
        Self { routes, redirect }
    }

    /// Nothing, where there is no entry.
    pub(crate) fn of(entry: Option<&'a Entry>) -> Self {
        entry.map_or_else(Self::default, |entry| {
            Self::new(good_routes(entry), entry.redirect)
        })
    }
}

/// One difference.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delta<'a> {
    Added(&'a Route<'a>),
    Removed(&'a Route<'a>),
    Changed {
        pattern: &'a str,
        old: &'a str,
        new: &'a str,
    },
    /// The mark that the tool moved to its own host is there now, or no more.
    Redirect(bool),
}

/// All differences, by pattern.
pub(crate) fn deltas<'a>(old: &'a Side<'a>, new: &'a Side<'a>) -> Vec<Delta<'a>> {
    let mut deltas = Vec::new();
    let mut before = old.routes.iter().peekable();
    let mut after = new.routes.iter().peekable();
    loop {
        match (before.peek().copied(), after.peek().copied()) {
            (None, None) => break,
            (Some(was), Some(is)) if was.pattern == is.pattern => {
                if was.backend != is.backend {
                    deltas.push(Delta::Changed {
                        pattern: &was.pattern,
                        old: &was.backend,
                        new: &is.backend,
                    });
                }
                before.next();
                after.next();
            }
            (Some(was), is) if is.is_none_or(|is| was.pattern < is.pattern) => {
                deltas.push(Delta::Removed(was));
                before.next();
            }
            (_, Some(is)) => {
                deltas.push(Delta::Added(is));
                after.next();
            }
            // Covered by the arm before the last one.
            (Some(_), None) => break,
        }
    }
    if old.redirect != new.redirect {
        deltas.push(Delta::Redirect(new.redirect));
    }
    deltas
}

impl Delta<'_> {
    /// `+`, `-` or `~`.
    pub(crate) fn sign(&self) -> char {
        match self {
            Self::Added(_) | Self::Redirect(true) => '+',
            Self::Removed(_) | Self::Redirect(false) => '-',
            Self::Changed { .. } => '~',
        }
    }

    /// For people; nothing in it can harm a terminal.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Added(route) | Self::Removed(route) => {
                let Route { pattern, backend } = route;
                format!("{} -> {}", visible(pattern), visible(backend))
            }
            Self::Changed { pattern, old, new } => {
                let (pattern, old, new) = (visible(pattern), visible(old), visible(new));
                format!("{pattern} -> {new} (was {old})")
            }
            Self::Redirect(_) => "redirect from legacy paths to its own host".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn side<'a>(routes: &[(&'a str, &'a str)], redirect: bool) -> Side<'a> {
        let routes = routes.iter().map(|(pattern, backend)| Route {
            pattern: (*pattern).into(),
            backend: (*backend).into(),
        });
        Side::new(routes.collect(), redirect)
    }

    #[track_caller]
    fn check(old: &Side<'_>, new: &Side<'_>, expected: &[&str]) {
        let deltas = deltas(old, new);
        let lines = deltas
            .iter()
            .map(|delta| format!("{} {}", delta.sign(), delta.in_words()));
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn differences() {
        let none = Side::default();
        check(&none, &none, &[]);
        let one = side(&[(".*", "http://a")], false);
        check(&one, &one, &[]);
        check(&none, &one, &["+ .* -> http://a"]);
        check(&one, &none, &["- .* -> http://a"]);
        let other = side(&[(".*", "http://b"), ("^/x", "http://c")], true);
        check(
            &one,
            &other,
            &[
                "~ .* -> http://b (was http://a)",
                "+ ^/x -> http://c",
                "+ redirect from legacy paths to its own host",
            ],
        );
        check(
            &other,
            &one,
            &[
                "~ .* -> http://a (was http://b)",
                "- ^/x -> http://c",
                "- redirect from legacy paths to its own host",
            ],
        );
        let turned = side(&[("^/x", "http://c"), (".*", "http://b")], true);
        check(&other, &turned, &[]);
        let hostile = side(&[("\n- x", "\x1b[1m")], false);
        check(&none, &hostile, &["+ \\n- x -> \\u{1b}[1m"]);
    }

    fn any_routes() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[a-e]", "[x-z]", 0..5)
    }

    proptest! {
        /// What is told turns the old routes into the new ones, and is no more than that takes.
        #[test]
        fn the_differences_turn_one_into_the_other(old in any_routes(), new in any_routes()) {
            let pairs = |map: &BTreeMap<String, String>| -> Vec<Route<'static>> {
                map.iter().map(|(p, b)| Route { pattern: p.clone().into(), backend: b.clone().into() }).collect()
            };
            let (a, b) = (Side::new(pairs(&old), false), Side::new(pairs(&new), false));
            let mut turned = old.clone();
            for delta in deltas(&a, &b) {
                match delta {
                    Delta::Added(route) => {
                        let was = turned.insert(route.pattern.to_string(), route.backend.to_string());
                        prop_assert_eq!(was, None);
                    }
                    Delta::Removed(route) => {
                        let was = turned.remove(&*route.pattern);
                        prop_assert_eq!(was.as_deref(), Some(&*route.backend));
                    }
                    Delta::Changed { pattern, old, new } => {
                        prop_assert_ne!(old, new);
                        let was = turned.insert(pattern.to_owned(), new.to_owned());
                        prop_assert_eq!(was.as_deref(), Some(old));
                    }
                    Delta::Redirect(_) => prop_assert!(false),
                }
            }
            prop_assert_eq!(turned, new);
        }
    }
}
