//! The routing decision, step by step, for people: which rule was tried, and why it did or did not
//! decide.
//!
//! Takes the steps of [`decide`](crate::decide::decide) in its order and with its helpers, and
//! writes down what that passes over. Not for the request path: it allocates for every step. Does
//! not make the words; what a step means to a reader is said in the proxy.
//!
//! Invariant: exactly one step decides, it is the last one, and its reason is that of `decide`.

use crate::backend::Backend;
use crate::decide::{Reason, Rules, first_segment, moved};
use crate::host::{Host, Place};
use crate::path::{PathError, canonical_path, split_target};
use crate::table::{Entry, Table, ToolName};

/// A rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule, and what it found.
    pub rule: Rule,
    /// It decided, for this reason; `None`: the next one was tried.
    pub decides: Option<Reason>,
}

/// The rules in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The canonical form of the path, or why it has none.
    CanonicalPath(Result<Box<[u8]>, PathError>),
    /// The bare canonical domain.
    Apex,
    /// A host right under the canonical domain: its first label names the tool.
    Label(Box<str>),
    /// A host two or more labels under the canonical domain.
    TwoLabels,
    /// A host under none of the domains.
    Foreign,
    /// A legacy domain: the first segment of the path names the tool.
    Legacy {
        /// The first segment; empty at the root.
        segment: Box<[u8]>,
        /// What patterns see.
        rest: Box<[u8]>,
    },
    /// Whether the name is reserved.
    Reserved {
        /// The label, or the first segment.
        name: Box<str>,
    },
    /// Whether the label was renamed.
    Renamed {
        /// The label.
        label: Box<str>,
        /// Its new name.
        to: Option<Box<str>>,
    },
    /// Whether the tool moved from legacy domains to its own host.
    Moved {
        /// The tool.
        tool: Box<str>,
        /// Some entry says that it did; a static route for this path still goes before that of the
        /// registry.
        marked: bool,
    },
    /// There are no routes of the tool here.
    NoEntry(Source),
    /// A route that was skipped when the entry was read.
    Skipped {
        /// Where it was found.
        source: Source,
        /// The pattern as written, cut.
        pattern: Box<str>,
        /// The backend as written, cut.
        backend: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A route whose pattern was tried.
    Pattern {
        /// Where it was found.
        source: Source,
        /// Its position in [`Entry::routes`].
        position: u16,
        /// The pattern.
        pattern: Box<str>,
        /// Where it points.
        backend: Backend,
    },
    /// Nothing else took it: the ingress gets it.
    Ingress,
}

/// Where routes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `[routes]` of the configuration.
    Config,
    /// The registry.
    Registry,
}

/// The steps that lead to the decision for this host and this target.
pub fn steps(rules: &Rules, table: &Table, host: &Host, target: &[u8]) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    let mut scratch = Vec::new();
    let path = canonical_path(split_target(target).0, &mut scratch);
    let shown = path.map(Into::into);
    let path = match path {
        Ok(path) => path,
        Err(_) => {
            steps.decide(Rule::CanonicalPath(shown), Reason::BadPath);
            return steps.0;
        }
    };
    steps.pass(Rule::CanonicalPath(shown));
    match rules.domains.place(host) {
        Place::Apex => steps.decide(Rule::Apex, Reason::Apex),
        Place::TwoLabels => steps.decide(Rule::TwoLabels, Reason::TwoLabels),
        Place::Foreign => steps.decide(Rule::Foreign, Reason::ForeignHost),
        Place::Label(label) => steps.by_host(rules, table, label, path),
        Place::Legacy => steps.by_path(rules, table, path),
    }
    steps.0
}

struct Steps(Vec<Step>);

impl Steps {
    fn pass(&mut self, rule: Rule) {
        let decides = None;
        self.0.push(Step { rule, decides });
    }

    fn decide(&mut self, rule: Rule, reason: Reason) {
        let decides = Some(reason);
        self.0.push(Step { rule, decides });
    }

    fn by_host(&mut self, rules: &Rules, table: &Table, label: &str, path: &[u8]) {
        self.pass(Rule::Label(label.into()));
        let reserved = Rule::Reserved { name: label.into() };
        if rules.domains.reserved.contains(label) {
            return self.decide(reserved, Reason::ReservedLabel);
        }
        self.pass(reserved);
        let to = rules.domains.renamed(label).map(Into::into);
        let is_renamed = to.is_some();
        let renamed = Rule::Renamed {
            label: label.into(),
            to,
        };
        if is_renamed {
            return self.decide(renamed, Reason::Renamed);
        }
        self.pass(renamed);
        self.by_table(rules, table, label, path);
    }

    fn by_path(&mut self, rules: &Rules, table: &Table, path: &[u8]) {
        let (segment, rest) = first_segment(path);
        let legacy = Rule::Legacy {
            segment: segment.into(),
            rest: rest.into(),
        };
        let Some(tool) = ToolName::new(segment) else {
            let reason = match segment.is_empty() {
                true => Reason::LegacyRoot,
                false => Reason::LegacyNoTool,
            };
            return self.decide(legacy, reason);
        };
        let tool = tool.as_str();
        self.pass(legacy);
        let reserved = Rule::Reserved { name: tool.into() };
        if rules.domains.reserved.contains(tool) {
            return self.decide(reserved, Reason::ReservedLabel);
        }
        self.pass(reserved);
        let fixed = rules.routes.get(tool).map(|entry| entry.redirect);
        let listed = table.with(tool, |entry| entry.redirect);
        let step = Rule::Moved {
            tool: tool.into(),
            marked: fixed == Some(true) || listed == Some(true),
        };
        if moved(rules, table, tool, rest) {
            return self.decide(step, Reason::ToolMoved);
        }
        self.pass(step);
        self.by_table(rules, table, tool, rest);
    }

    fn by_table(&mut self, rules: &Rules, table: &Table, tool: &str, path: &[u8]) {
        let fixed = rules.routes.get(tool);
        let listed = table.get(tool);
        let known = fixed.is_some() || listed.is_some();
        for (source, entry) in [(Source::Config, fixed), (Source::Registry, listed.as_ref())] {
            match entry {
                None => self.pass(Rule::NoEntry(source)),
                Some(entry) if self.by_entry(source, entry, path) => return,
                Some(_) => {}
            }
        }
        let reason = match known {
            true => Reason::NoPatternMatched,
            false => Reason::Unregistered,
        };
        self.decide(Rule::Ingress, reason);
    }

    /// Tries the routes of an entry; whether one of them decided.
    fn by_entry(&mut self, source: Source, entry: &Entry, path: &[u8]) -> bool {
        for bad in &entry.bad {
            self.pass(Rule::Skipped {
                source,
                pattern: bad.field.clone(),
                backend: bad.value.clone(),
                reason: bad.reason.clone(),
            });
        }
        for (position, route) in entry.routes.iter().enumerate() {
            let position = u16::try_from(position).unwrap_or(u16::MAX);
            let pattern = Rule::Pattern {
                source,
                position,
                pattern: route.pattern.source().into(),
                backend: route.backend.clone(),
            };
            if route.pattern.matches(path) {
                let reason = match source {
                    Source::Config => Reason::StaticRoute(position),
                    Source::Registry => Reason::Registry(position),
                };
                self.decide(pattern, reason);
                return true;
            }
            self.pass(pattern);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{entry, rules, table, target};
    use crate::decide::{Decision, Verdict, decide};
    use crate::host::{Apex, Domains};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    /// What must hold between the steps and the decision.
    fn agree(steps: &[Step], decision: &Decision) -> Result<(), String> {
        let deciding = steps.iter().filter(|step| step.decides.is_some()).count();
        let last = steps.last().ok_or("no step")?;
        if deciding != 1 || last.decides != Some(decision.reason) {
            return Err(format!("{steps:#?}\n{decision:?}"));
        }
        let fits = match (&last.rule, &decision.verdict) {
            (Rule::Pattern { backend, .. }, Verdict::Backend(decided)) => backend == decided,
            (Rule::CanonicalPath(Err(error)), Verdict::BadRequest(decided)) => error == decided,
            (Rule::TwoLabels | Rule::Foreign, Verdict::NotFound) => true,
            (Rule::Apex, Verdict::Ingress | Verdict::Redirect { .. }) => true,
            (Rule::Legacy { .. } | Rule::Reserved { .. } | Rule::Ingress, Verdict::Ingress) => true,
            (Rule::Renamed { to: Some(to), .. }, Verdict::Redirect { status, location }) => {
                let start = format!("https://{to}.");
                *status == 301 && location.starts_with(start.as_bytes())
            }
            (Rule::Moved { tool, marked: true }, Verdict::Redirect { status, location }) => {
                let start = format!("https://{tool}.");
                *status == 307 && location.starts_with(start.as_bytes())
            }
            _ => false,
        };
        fits.then_some(())
            .ok_or_else(|| format!("{last:?}\n{decision:?}"))
    }

    #[track_caller]
    fn check(host: &str, target: &str, expected: &[&str]) {
        let host = Host::parse(host.as_bytes()).unwrap();
        let (rules, table) = (rules(), table());
        let steps = steps(&rules, &table, &host, target.as_bytes());
        let got: Vec<&str> = steps
            .iter()
            .map(|step| match &step.rule {
                Rule::CanonicalPath(_) => "path",
                Rule::Apex => "apex",
                Rule::Label(_) => "label",
                Rule::TwoLabels => "two labels",
                Rule::Foreign => "foreign",
                Rule::Legacy { .. } => "legacy",
                Rule::Reserved { .. } => "reserved",
                Rule::Renamed { .. } => "renamed",
                Rule::Moved { .. } => "moved",
                Rule::NoEntry(Source::Config) => "no static route",
                Rule::NoEntry(Source::Registry) => "not registered",
                Rule::Skipped { .. } => "skipped",
                Rule::Pattern { pattern, .. } => pattern,
                Rule::Ingress => "ingress",
            })
            .collect();
        assert_eq!(got, expected, "{target}");
        let decision = decide(&rules, &table, &host, target.as_bytes(), &mut Vec::new());
        agree(&steps, &decision).unwrap();
    }

    #[test]
    fn each_rule_in_its_turn() {
        let sub = "sub.toolforge.org";
        let start = ["path", "label", "reserved", "renamed", "no static route"];
        let with = |more: &[&'static str]| [&start[..], more].concat();
        check(sub, "/api/x", &with(&["^/api/"]));
        check(sub, "/", &with(&["^/api/", "^/$"]));
        check(sub, "/x", &with(&["^/api/", "^/$", "ingress"]));
        check("bad.toolforge.org", "/", &with(&["skipped", "ingress"]));
        check(
            "none.toolforge.org",
            "/",
            &with(&["not registered", "ingress"]),
        );
        check("login.toolforge.org", "/", &["path", "label", "reserved"]);
        check("toolforge.org", "/", &["path", "apex"]);
        check("a.b.toolforge.org", "/", &["path", "two labels"]);
        check("evil.example", "/", &["path", "foreign"]);
        check("evil.example", "/..", &["path"]);
        check(
            "tools.wmflabs.org",
            "/canon/x",
            &["path", "legacy", "reserved", "moved"],
        );
        check(
            "tools.wmflabs.org",
            "/stays/s/",
            &["path", "legacy", "reserved", "moved", "^/s/"],
        );
        check("tools.wmflabs.org", "/", &["path", "legacy"]);
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c", "grid"])
    }

    fn random_entry() -> impl Strategy<Value = Entry> {
        let pattern = prop::sample::select(vec![".*", "^/a", "^/b/.*", "x$", "("]);
        let backend = prop::sample::select(vec!["h:1", "http://h:2/b", "nonsense"]);
        (
            prop::collection::vec((pattern, backend), 0..4),
            any::<bool>(),
        )
            .prop_map(|(fields, redirect)| entry(&fields, redirect))
    }

    fn random_rules() -> impl Strategy<Value = Rules> {
        let routes = prop::collection::vec((name(), random_entry()), 0..3);
        let rename = prop::collection::vec((name(), name()), 0..3);
        let reserved = prop::collection::vec(name(), 0..2);
        (routes, rename, reserved, any::<bool>()).prop_map(
            |(routes, rename, reserved, redirect)| {
                let boxed = |(from, to): (&str, &str)| (from.into(), to.into());
                Rules {
                    domains: Domains {
                        canonical: "toolforge.org".into(),
                        legacy: vec!["tools.wmflabs.org".into()],
                        apex: match redirect {
                            true => Apex::Redirect("https://example.org/".into()),
                            false => Apex::Ingress,
                        },
                        reserved: reserved.into_iter().map(Into::into).collect(),
                        rename: rename.into_iter().map(boxed).collect(),
                    },
                    routes: routes
                        .into_iter()
                        .map(|(tool, entry)| (tool.into(), Arc::new(entry)))
                        .collect::<HashMap<_, _>>(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn the_conclusion_is_the_decision(
            rules in random_rules(),
            listed in prop::collection::vec((name(), random_entry()), 0..4),
            host in prop_oneof![
                "(a|b|c|grid)\\.toolforge\\.org",
                Just("tools.wmflabs.org".to_owned()),
                "(a\\.a\\.)?toolforge\\.org",
                "[a-c.]{1,8}",
            ],
            first in prop_oneof!["/(a|b|c|grid|A)?", Just(String::new())],
            rest in prop_oneof!["(/[abx.]{0,2}){0,3}(\\?x)?".prop_map(String::into_bytes), target()],
        ) {
            let Ok(host) = Host::parse(host.as_bytes()) else {
                return Ok(());
            };
            let table = Table::new();
            for (tool, entry) in listed {
                table.set(tool, entry);
            }
            let target = [first.as_bytes(), &rest].concat();
            let decision = decide(&rules, &table, &host, &target, &mut Vec::new());
            let steps = steps(&rules, &table, &host, &target);
            prop_assert_eq!(agree(&steps, &decision), Ok(()));
        }
    }
}
