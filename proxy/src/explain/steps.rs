//! The rules in the order of [`request::plan`](crate::request::plan), each with a sentence on what
//! it found. The last one decides.

use portico_routing::decide::Reason;
use portico_routing::explain::{Rule, Source, Step as RoutingStep, steps};
use portico_routing::host::Host;
use serde::Serialize;

use super::{Case, policies, text_of};
use crate::forward::Destination;
use crate::request::{self, Own, Plan};
use crate::response::failure::Failure;

/// A rule that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// One word.
    pub rule: &'static str,
    /// It decided; no other rule was tried after it.
    pub decides: bool,
    /// What it found.
    pub text: String,
}

/// The one step of what breaks HTTP.
pub(super) fn of_malformed(failure: &Failure) -> Vec<Step> {
    let mut told = Told::default();
    told.say("http", failure.to_string());
    told.end()
}

pub(super) fn of(case: &Case<'_>, plan: &Plan) -> Vec<Step> {
    let mut told = Told::default();
    if let Some(host) = before_routing(case, plan, &mut told) {
        let rules = &case.snapshot.config.rules;
        for step in steps(rules, case.table, host, case.target()) {
            told.routing(case, &step);
        }
        after_routing(case, plan, &mut told);
    }
    told.end()
}

/// What comes before routing; the host if the request gets there.
fn before_routing<'a>(case: &Case<'a>, plan: &Plan, told: &mut Told) -> Option<&'a Host> {
    let config = &case.snapshot.config;
    let raw = request::named_host(case.head, case.buf).map(text_of);
    let raw = raw.unwrap_or_default();
    match (&case.request.host, plan) {
        (_, Plan::Fail(Failure::BadHost(Some(error)))) => {
            told.say("host", format!("The host {raw} is not valid: {error}."));
            return None;
        }
        (Some(host), _) if host.as_str() == raw => told.say("host", host.to_string()),
        (Some(host), _) => told.say("host", format!("{host}, written as {raw}")),
        (None, _) => told.say("host", "The request names none.".to_owned()),
    }
    match plan {
        Plan::Answer(Own::Healthy) => {
            told.say(
                "health",
                "It is the health check of the service.".to_owned(),
            );
            return None;
        }
        Plan::Fail(Failure::BadHost(None)) => return None,
        _ => told.say(
            "health",
            "It is not GET or HEAD of /.well-known/healthz.".to_owned(),
        ),
    }
    let host = case.request.host.as_ref()?;
    if matches!(plan, Plan::Answer(Own::Capabilities)) {
        told.say("capabilities", "It is OPTIONS *.".to_owned());
        return None;
    }
    if request::to_https(&case.snapshot, case.client, host, case.target()).is_some() {
        let text = "It came over plain HTTP, and listen.redirect is on.";
        told.say("https_redirect", text.to_owned());
        return None;
    }
    told.say(
        "https_redirect",
        match (case.client.over_tls, config.listen.redirect) {
            (true, _) => "It came over TLS.".to_owned(),
            (false, false) => "listen.redirect is off.".to_owned(),
            (false, true) => format!("Nothing is served at {host}: no redirect leads there."),
        },
    );
    let refusal = match plan {
        Plan::Fail(Failure::NoUserAgent) => policies::user_agent(case),
        Plan::Fail(Failure::BodyTooLarge) => policies::body_size(case),
        Plan::Fail(Failure::Loop) => policies::via_loop(case),
        _ => {
            told.say("refuse", "No policy refuses it.".to_owned());
            return Some(host);
        }
    };
    told.say("refuse", refusal.text);
    None
}

/// What happens to what routing gives to nobody, or to a tool that is full.
fn after_routing(case: &Case<'_>, plan: &Plan, told: &mut Told) {
    let nobody = matches!(case.reason(), Some(Reason::ForeignHost | Reason::TwoLabels));
    let start = if nobody { "" } else { "There is no ingress. " };
    match plan {
        Plan::Fail(Failure::ToolBusy) => {
            if let Some(policy) = policies::in_flight(case, plan) {
                told.say("in_flight", policy.text);
            }
        }
        Plan::Forward(Destination::Fallback(fallback)) => {
            let backend = &fallback.backend;
            told.say(
                "fallback",
                format!("{start}fallback.backend gets it: {backend}."),
            );
        }
        Plan::Fail(Failure::NotFound | Failure::NoIngress) => {
            let why = match case.snapshot.fallback {
                None if nobody => "There is no fallback.backend",
                None => "There is no fallback.backend either",
                Some(_) => "fallback.backend has too many requests in flight",
            };
            told.say(
                "fallback",
                format!("{start}{why}: portico answers with its own page."),
            );
        }
        Plan::Fail(_) | Plan::Forward(_) | Plan::Answer(_) => {}
    }
}

#[derive(Default)]
struct Told(Vec<Step>);

impl Told {
    fn say(&mut self, rule: &'static str, text: String) {
        self.0.push(Step {
            rule,
            decides: false,
            text,
        });
    }

    fn end(mut self) -> Vec<Step> {
        if let Some(last) = self.0.last_mut() {
            last.decides = true;
        }
        self.0
    }

    fn routing(&mut self, case: &Case<'_>, step: &RoutingStep) {
        let decides = step.decides.is_some();
        let domains = &case.snapshot.config.rules.domains;
        let canonical = &domains.canonical;
        let host = case.request.host.as_ref().map(Host::as_str);
        let host = host.unwrap_or_default();
        let (rule, text) = match &step.rule {
            Rule::CanonicalPath(Ok(path)) => ("path", path_text(case, path)),
            Rule::CanonicalPath(Err(error)) => ("path", format!("It is not valid: {error}.")),
            Rule::Apex => ("domain", format!("{host} is the bare canonical domain.")),
            Rule::Label(label) => (
                "domain",
                format!("{host} is one label under {canonical}: the tool is {label}."),
            ),
            Rule::TwoLabels => (
                "domain",
                format!("{host} is more than one label under {canonical}: nobody's host."),
            ),
            Rule::Foreign => ("domain", format!("{host} is under none of the domains.")),
            Rule::Legacy { segment, rest } => ("domain", legacy_text(host, segment, rest, decides)),
            Rule::Reserved { name } => (
                "reserved",
                match decides {
                    true => format!("{name} is in domains.reserved: the ingress gets it."),
                    false => format!("{name} is not in domains.reserved."),
                },
            ),
            Rule::Renamed { label, to } => (
                "rename",
                match to {
                    Some(to) => format!("{label} was renamed to {to}."),
                    None => format!("{label} was not renamed."),
                },
            ),
            Rule::Moved { tool, marked } => (
                "moved",
                match (decides, marked) {
                    (true, _) => format!("{tool} moved to its own host."),
                    (false, true) => {
                        format!("{tool} moved to its own host, but a static route goes first.")
                    }
                    (false, false) => format!("{tool} has not moved to its own host."),
                },
            ),
            Rule::NoEntry(source) => (rule_of(*source), no_entry_text(*source)),
            Rule::Skipped {
                source,
                pattern,
                backend,
                reason,
            } => (
                rule_of(*source),
                format!("The route {pattern} to {backend} is bad, and skipped: {reason}."),
            ),
            Rule::Pattern {
                source,
                pattern,
                backend,
                ..
            } => (
                rule_of(*source),
                match decides {
                    true => format!("{pattern} matches: {backend}."),
                    false => format!("{pattern} does not match ({backend})."),
                },
            ),
            Rule::Ingress => ("ingress", ingress_text(case)),
        };
        self.say(rule, text);
    }
}

fn rule_of(source: Source) -> &'static str {
    match source {
        Source::Config => "static_routes",
        Source::Registry => "registry",
    }
}

fn no_entry_text(source: Source) -> String {
    match source {
        Source::Config => "[routes] does not name the tool.".to_owned(),
        Source::Registry => "The registry does not know the tool.".to_owned(),
    }
}

fn path_text(case: &Case<'_>, path: &[u8]) -> String {
    let path = text_of(path);
    let target = text_of(case.target());
    let raw = target.split('?').next().unwrap_or_default();
    match raw == path {
        true => path,
        false => format!("{path}, written as {raw}"),
    }
}

fn legacy_text(host: &str, segment: &[u8], rest: &[u8], decides: bool) -> String {
    let (segment, rest) = (text_of(segment), text_of(rest));
    match (decides, segment.is_empty()) {
        (false, _) => format!(
            "{host} is a legacy domain: the first segment of the path is the tool, {segment}; patterns see {rest}."
        ),
        (true, true) => {
            format!("{host} is a legacy domain, and its root names no tool: the ingress gets it.")
        }
        (true, false) => format!(
            "{host} is a legacy domain, and {segment} cannot be the name of a tool: the ingress gets it."
        ),
    }
}

fn ingress_text(case: &Case<'_>) -> String {
    match case.snapshot.ingress.pick(request::key_of(case.request)) {
        Some(pool) => format!(
            "No route took it: the ingress gets it (pool {}).",
            pool.name
        ),
        None => "No route took it, and there is no ingress.".to_owned(),
    }
}
