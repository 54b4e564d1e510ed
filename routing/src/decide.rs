//! The routing decision: from host and target to a backend, the ingress, a redirect or a refusal, and why.
//!
//! Does not look at methods, headers or limits, and does not choose a server of the ingress.
//!
//! Invariants: a host under the canonical domain is never routed by its path (T253816). Redirects are made of raw
//! bytes of the target and of configured names, hold no control bytes, and lead from legacy domains to the canonical
//! one or from an old label to a new one, never back.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::backend::Backend;
use crate::host::{Apex, Domains, Host, Place};
use crate::path::{self, PathError, canonical_path, split_target};
use crate::table::{Entry, Table};

pub use crate::table::ToolName;

/// What the configuration says about routing.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The domains that are served.
    pub domains: Domains,
    /// Static routes by tool, tried before the table.
    pub routes: HashMap<Box<str>, Arc<Entry>>,
}

/// Where a request goes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// The rule that decided.
    pub reason: Reason,
    /// The tool that the request is for, registered or not; for limits, labels and pages.
    pub tool: Option<ToolName>,
    /// The host is a legacy domain: tools share it, and what a browser grants to one of them it grants to all.
    pub shared_host: bool,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward to this backend, with the target as it came.
    Backend(Arc<Backend>),
    /// Forward to the ingress, with the target as it came.
    Ingress,
    /// Answer with a redirect.
    Redirect {
        /// 301, 302 or 307.
        status: u16,
        /// The absolute URL: visible ASCII only.
        location: Vec<u8>,
    },
    /// Answer 404, or let the fallback backend do so.
    NotFound,
    /// Answer 400.
    BadRequest(PathError),
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A static route of the configuration matched: its position in [`Entry::routes`].
    StaticRoute(u16),
    /// A route of the registry matched: its position in [`Entry::routes`].
    Registry(u16),
    /// The tool is known, but none of its patterns matched the path.
    NoPatternMatched,
    /// Nobody registered the tool.
    Unregistered,
    /// The bare canonical domain.
    Apex,
    /// The label is reserved: never a tool.
    ReservedLabel,
    /// The label was renamed.
    Renamed,
    /// The tool moved from the legacy domain to its own host.
    ToolMoved,
    /// The root of a legacy domain names no tool.
    LegacyRoot,
    /// The first path segment on a legacy domain cannot be the name of a tool.
    LegacyNoTool,
    /// The host is under none of the domains.
    ForeignHost,
    /// The host stands two or more labels under the canonical domain.
    TwoLabels,
    /// The path has no canonical form.
    BadPath,
}

/// Decides where a request goes.
///
/// `target` is the origin-form target as it came: path and query; empty is `/`. `scratch` is working memory whose
/// content does not matter; a connection keeps one, so that deciding allocates only for redirects.
pub fn decide(
    rules: &Rules,
    table: &Table,
    host: &Host,
    target: &[u8],
    scratch: &mut Vec<u8>,
) -> Decision {
    let (raw_path, _) = split_target(target);
    let place = rules.domains.place(host);
    let shared_host = place == Place::Legacy;
    let path = match canonical_path(raw_path, scratch) {
        Ok(path) => path,
        Err(error) => {
            let mut decision = Decision::of(Verdict::BadRequest(error), Reason::BadPath);
            decision.shared_host = shared_host;
            return decision;
        }
    };
    match place {
        Place::Label(label) => by_host(rules, table, label, path, target),
        Place::Legacy => by_path(rules, table, path, target),
        Place::Apex => Decision::of(apex(&rules.domains.apex), Reason::Apex),
        Place::TwoLabels => Decision::of(Verdict::NotFound, Reason::TwoLabels),
        Place::Foreign => Decision::of(Verdict::NotFound, Reason::ForeignHost),
    }
}

impl Decision {
    fn of(verdict: Verdict, reason: Reason) -> Decision {
        Decision {
            verdict,
            reason,
            tool: None,
            shared_host: false,
        }
    }
}

fn apex(apex: &Apex) -> Verdict {
    match apex {
        Apex::Ingress => Verdict::Ingress,
        Apex::Redirect(url) => {
            let mut location = Vec::with_capacity(url.len());
            push_uri_bytes(&mut location, url.as_bytes(), b"#");
            Verdict::Redirect {
                status: 302,
                location,
            }
        }
    }
}

/// `<label>.<canonical>`: the label is the tool.
fn by_host(rules: &Rules, table: &Table, label: &str, path: &[u8], target: &[u8]) -> Decision {
    let domains = &rules.domains;
    if domains.reserved.contains(label) {
        return Decision::of(Verdict::Ingress, Reason::ReservedLabel);
    }
    let (verdict, reason) = match domains.renamed(label) {
        Some(new) => {
            let (raw_path, query) = split_target(target);
            let verdict = redirect(301, new, &domains.canonical, raw_path, query);
            (verdict, Reason::Renamed)
        }
        None => by_table(rules, table, label, path),
    };
    Decision {
        verdict,
        reason,
        tool: ToolName::new(label.as_bytes()),
        shared_host: false,
    }
}

/// `<legacy>/<tool>/...`: the first segment is the tool, patterns see what follows.
fn by_path(rules: &Rules, table: &Table, path: &[u8], target: &[u8]) -> Decision {
    let segments = path.strip_prefix(b"/").unwrap_or(path);
    let (first, rest) = match memchr::memchr(b'/', segments) {
        Some(slash) => segments.split_at(slash),
        None => (segments, &b"/"[..]),
    };
    let tool = ToolName::new(first);
    let (verdict, reason) = match &tool {
        None if first.is_empty() => (Verdict::Ingress, Reason::LegacyRoot),
        None => (Verdict::Ingress, Reason::LegacyNoTool),
        Some(tool) if rules.domains.reserved.contains(tool.as_str()) => {
            (Verdict::Ingress, Reason::ReservedLabel)
        }
        Some(tool) if moved(rules, table, tool.as_str()) => {
            let (raw_path, query) = split_target(target);
            let raw_rest = path::raw_rest(raw_path).unwrap_or(rest);
            let verdict = redirect(
                307,
                tool.as_str(),
                &rules.domains.canonical,
                raw_rest,
                query,
            );
            (verdict, Reason::ToolMoved)
        }
        Some(tool) => by_table(rules, table, tool.as_str(), rest),
    };
    Decision {
        verdict,
        reason,
        tool: tool.filter(|_| reason != Reason::ReservedLabel),
        shared_host: true,
    }
}

/// Whether the tool is to be redirected from legacy domains to its own host.
fn moved(rules: &Rules, table: &Table, tool: &str) -> bool {
    match rules.routes.get(tool) {
        Some(entry) => entry.redirect,
        None => table.with(tool, |entry| entry.redirect) == Some(true),
    }
}

/// Static routes, then the registry, then the ingress.
fn by_table(rules: &Rules, table: &Table, tool: &str, path: &[u8]) -> (Verdict, Reason) {
    let fixed = rules.routes.get(tool);
    if let Some((backend, position)) = fixed.and_then(|entry| find(entry, path)) {
        return (Verdict::Backend(backend), Reason::StaticRoute(position));
    }
    match table.with(tool, |entry| find(entry, path)) {
        Some(Some((backend, position))) => (Verdict::Backend(backend), Reason::Registry(position)),
        Some(None) => (Verdict::Ingress, Reason::NoPatternMatched),
        None if fixed.is_some() => (Verdict::Ingress, Reason::NoPatternMatched),
        None => (Verdict::Ingress, Reason::Unregistered),
    }
}

fn find(entry: &Arc<Entry>, path: &[u8]) -> Option<(Arc<Backend>, u16)> {
    let position = entry
        .routes
        .iter()
        .position(|route| route.pattern.matches(path))?;
    let route = entry.routes.get(position)?;
    Some((
        Arc::clone(&route.backend),
        u16::try_from(position).unwrap_or(u16::MAX),
    ))
}

/// `https://<label>.<canonical><raw path>?<raw query>`.
fn redirect(
    status: u16,
    label: &str,
    canonical: &str,
    raw_path: &[u8],
    query: Option<&[u8]>,
) -> Verdict {
    let query_len = query.map_or(0, |query| 1 + query.len());
    let mut location =
        Vec::with_capacity(10 + label.len() + canonical.len() + raw_path.len() + query_len);
    location.extend_from_slice(b"https://");
    push_uri_bytes(&mut location, label.as_bytes(), b"");
    location.push(b'.');
    push_uri_bytes(&mut location, canonical.as_bytes(), b"");
    if raw_path.is_empty() {
        location.push(b'/');
    }
    push_uri_bytes(&mut location, raw_path, b"");
    if let Some(query) = query {
        location.push(b'?');
        push_uri_bytes(&mut location, query, b"");
    }
    Verdict::Redirect { status, location }
}

/// Appends raw bytes of an URI. The codec lets no control bytes and no `#` through; whatever comes here all the same
/// is escaped, so that a Location can neither be split nor cut short.
fn push_uri_bytes(out: &mut Vec<u8>, bytes: &[u8], also: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        match byte {
            b'!' | b'"' | b'$'..=b'~' => out.push(byte),
            _ if also.contains(&byte) => out.push(byte),
            _ => out.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::StaticRoute(_) => "a static route of the configuration matched",
            Reason::Registry(_) => "a route of the registry matched",
            Reason::NoPatternMatched => "the tool is known, but none of its patterns matched",
            Reason::Unregistered => "the tool is not registered",
            Reason::Apex => "the bare canonical domain",
            Reason::ReservedLabel => "the name is reserved and never a tool",
            Reason::Renamed => "the tool was renamed",
            Reason::ToolMoved => "the tool moved to its own host",
            Reason::LegacyRoot => "the root of a legacy domain names no tool",
            Reason::LegacyNoTool => "the first path segment cannot be the name of a tool",
            Reason::ForeignHost => "the host is under none of the domains",
            Reason::TwoLabels => "the host stands more than one label under the canonical domain",
            Reason::BadPath => "the path has no canonical form",
        })
    }
}
