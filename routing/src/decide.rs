//! The routing decision: from host and target to a backend, the ingress, a redirect
//! or a refusal, and why.
//!
//! Does not look at methods, headers or limits, and does not choose a server of the ingress.
//!
//! Invariants: a host under the canonical domain is never routed by its path (T253816). Redirects
//! are made of raw bytes of the target and of configured names, hold no control bytes, and lead
//! from legacy domains to the canonical one or from an old label to a new one, never back.

use std::collections::HashMap;
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
    /// The host is a legacy domain: tools share it, and what a browser grants to one of
    /// them it grants to all.
    pub shared_host: bool,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward to this backend, with the target as it came.
    Backend(Backend),
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

impl Reason {
    /// One word for logs and metrics; a fixed, small set.
    pub fn code(self) -> &'static str {
        match self {
            Self::StaticRoute(_) => "static_route",
            Self::Registry(_) => "registry",
            Self::NoPatternMatched => "no_pattern_matched",
            Self::Unregistered => "unregistered",
            Self::Apex => "apex",
            Self::ReservedLabel => "reserved_label",
            Self::Renamed => "renamed",
            Self::ToolMoved => "tool_moved",
            Self::LegacyRoot => "legacy_root",
            Self::LegacyNoTool => "legacy_no_tool",
            Self::ForeignHost => "foreign_host",
            Self::TwoLabels => "two_labels",
            Self::BadPath => "bad_path",
        }
    }
}

/// Decides where a request goes.
///
/// `target` is the origin-form target as it came: path and query; empty is `/`. `scratch` is
/// working memory whose content does not matter; a connection keeps one, so that deciding
/// allocates only for redirects.
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
    let (first, rest) = first_segment(path);
    let tool = ToolName::new(first);
    let (verdict, reason) = match &tool {
        None if first.is_empty() => (Verdict::Ingress, Reason::LegacyRoot),
        None => (Verdict::Ingress, Reason::LegacyNoTool),
        Some(tool) if rules.domains.reserved.contains(tool.as_str()) => {
            (Verdict::Ingress, Reason::ReservedLabel)
        }
        Some(tool) if moved(rules, table, tool.as_str(), rest) => {
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

/// The first segment of a canonical path, and the path of what follows it.
pub(crate) fn first_segment(path: &[u8]) -> (&[u8], &[u8]) {
    let segments = path.strip_prefix(b"/").unwrap_or(path);
    match memchr::memchr(b'/', segments) {
        Some(slash) => segments.split_at(slash),
        None => (segments, &b"/"[..]),
    }
}

/// Whether the tool is to be redirected from legacy domains to its own host. What the configuration
/// says of a path goes before what the registry says of the tool.
pub(crate) fn moved(rules: &Rules, table: &Table, tool: &str, rest: &[u8]) -> bool {
    match rules.routes.get(tool) {
        Some(entry) if entry.redirect => true,
        Some(entry) if entry.find(rest).is_some() => false,
        _ => table.with(tool, |entry| entry.redirect) == Some(true),
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

fn find(entry: &Arc<Entry>, path: &[u8]) -> Option<(Backend, u16)> {
    let position = entry
        .routes
        .iter()
        .position(|route| route.pattern.matches(path))?;
    let route = entry.routes.get(position)?;
    Some((
        route.backend.clone(),
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

/// Appends raw bytes of an URI. The codec lets no control bytes and no `#` through; whatever comes
/// here all the same is escaped, so that a Location can neither be split nor cut short.
pub(crate) fn push_uri_bytes(out: &mut Vec<u8>, bytes: &[u8], also: &[u8]) {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    pub(crate) fn entry(fields: &[(&str, &str)], redirect: bool) -> Entry {
        let fields = fields
            .iter()
            .map(|(field, value)| (field.as_bytes(), value.as_bytes()));
        Entry::build(fields, redirect, &|_| Ok(()))
    }

    pub(crate) fn rules() -> Rules {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(from, to)| ((*from).into(), (*to).into()))
                .collect()
        };
        let fixed = |fields: &[(&str, &str)]| Arc::new(entry(fields, false));
        Rules {
            domains: Domains {
                canonical: "toolforge.org".into(),
                legacy: vec!["tools.wmflabs.org".into(), "old.toolforge.org".into()],
                apex: Apex::Ingress,
                reserved: HashSet::from(["login".into(), "both".into()]),
                rename: pairs(&[
                    ("ru_monuments", "ru-monuments"),
                    ("ping", "pong"),
                    ("pong", "ping"),
                    ("both", "other"),
                ]),
            },
            routes: HashMap::from([
                ("fixed".into(), fixed(&[("^/s/", "static:1")])),
                ("stays".into(), fixed(&[("^/s/", "static:1")])),
                ("only".into(), fixed(&[("^/s/", "static:1")])),
            ]),
        }
    }

    pub(crate) fn table() -> Table {
        let table = Table::new();
        for tool in [
            "grid",
            "login",
            "both",
            "ru_monuments",
            "ping",
            "fixed",
            "a",
            "org",
            "xn--",
        ] {
            table.set(tool, entry(&[(".*", "grid:1")], false));
        }
        table.set("canon", entry(&[(".*", "grid:1")], true));
        table.set("stays", entry(&[], true));
        table.set("bad", entry(&[("(", "grid:1")], false));
        table.set(
            "sub",
            entry(&[("^/api/", "grid:2"), ("^/$", "grid:3")], false),
        );
        table
    }

    fn run(host: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Decision {
        let host = Host::parse(host.as_ref()).unwrap();
        decide(&rules(), &table(), &host, target.as_ref(), &mut Vec::new())
    }

    #[track_caller]
    fn check(host: &str, target: impl AsRef<[u8]>, expected: &str, reason: Reason) {
        let decision = run(host, &target);
        let got = match &decision.verdict {
            Verdict::Backend(backend) => backend.authority().to_string(),
            Verdict::Ingress => "ingress".to_owned(),
            Verdict::NotFound => "404".to_owned(),
            Verdict::BadRequest(_) => "400".to_owned(),
            Verdict::Redirect { status, location } => {
                format!("{status} {}", String::from_utf8_lossy(location))
            }
        };
        let target = String::from_utf8_lossy(target.as_ref()).into_owned();
        assert_eq!(
            (got.as_str(), decision.reason),
            (expected, reason),
            "{host} {target}"
        );
    }

    #[test]
    fn hosts() {
        check("grid.toolforge.org", "/", "grid:1", Reason::Registry(0));
        check("grid.toolforge.org", "", "grid:1", Reason::Registry(0));
        check("none.toolforge.org", "/", "ingress", Reason::Unregistered);
        check(
            "bad.toolforge.org",
            "/",
            "ingress",
            Reason::NoPatternMatched,
        );
        check("sub.toolforge.org", "", "grid:3", Reason::Registry(1));
        check(
            "sub.toolforge.org",
            "/a%70i/x",
            "grid:2",
            Reason::Registry(0),
        );
        check(
            "sub.toolforge.org",
            "/api",
            "ingress",
            Reason::NoPatternMatched,
        );
        check("toolforge.org", "/grid/", "ingress", Reason::Apex);
        check("a.b.toolforge.org", "/", "404", Reason::TwoLabels);
        check("grid.a.toolforge.org", "/", "404", Reason::TwoLabels);
        check(
            "admin.toolforge.org.evil.com",
            "/",
            "404",
            Reason::ForeignHost,
        );
        check("toolforge.org.evil.com", "/", "404", Reason::ForeignHost);
        check("gridtoolforge.org", "/", "404", Reason::ForeignHost);
        check("xn--.toolforge.org", "/", "grid:1", Reason::Registry(0));
        check("_.toolforge.org", "/", "ingress", Reason::Unregistered);
        check("127.0.0.1", "/grid/", "404", Reason::ForeignHost);
        check("[::1]:443", "/grid/", "404", Reason::ForeignHost);
        check("evil.example", "/grid/x", "404", Reason::ForeignHost);
        check("login.toolforge.org", "/", "ingress", Reason::ReservedLabel);
    }

    /// T253816
    #[test]
    fn a_canonical_host_is_never_routed_by_path() {
        check(
            "none.toolforge.org",
            "/grid/x",
            "ingress",
            Reason::Unregistered,
        );
        check(
            "old.toolforge.org",
            "/grid/x",
            "ingress",
            Reason::Unregistered,
        );
        check(
            "canon.toolforge.org",
            "/canon/x",
            "grid:1",
            Reason::Registry(0),
        );
    }

    #[test]
    fn renames() {
        check(
            "ru_monuments.toolforge.org",
            "/a//b/../%7e?x=1?y",
            "301 https://ru-monuments.toolforge.org/a//b/../%7e?x=1?y",
            Reason::Renamed,
        );
        check(
            "ru_monuments.toolforge.org",
            "?x",
            "301 https://ru-monuments.toolforge.org/?x",
            Reason::Renamed,
        );
        check("ping.toolforge.org", "/", "grid:1", Reason::Registry(0));
        check("pong.toolforge.org", "/", "ingress", Reason::Unregistered);
        check("both.toolforge.org", "/", "ingress", Reason::ReservedLabel);
        check(
            "tools.wmflabs.org",
            "/ru_monuments/",
            "grid:1",
            Reason::Registry(0),
        );
    }

    #[test]
    fn legacy_paths() {
        let legacy =
            |target: &str, expected, reason| check("tools.wmflabs.org", target, expected, reason);
        legacy("/grid/x", "grid:1", Reason::Registry(0));
        legacy("/grid", "grid:1", Reason::Registry(0));
        legacy("//o/./../%67rid?q", "grid:1", Reason::Registry(0));
        legacy("/none/x", "ingress", Reason::Unregistered);
        legacy("/sub", "grid:3", Reason::Registry(1));
        legacy("/sub/", "grid:3", Reason::Registry(1));
        legacy("/sub/api/", "grid:2", Reason::Registry(0));
        legacy("/sub/x/api/", "ingress", Reason::NoPatternMatched);
        legacy("/", "ingress", Reason::LegacyRoot);
        legacy("", "ingress", Reason::LegacyRoot);
        legacy("/grid/..", "ingress", Reason::LegacyRoot);
        legacy("/?/grid", "ingress", Reason::LegacyRoot);
        legacy("/Grid/x", "ingress", Reason::LegacyNoTool);
        legacy("/grid%2Fx", "ingress", Reason::LegacyNoTool);
        legacy("/favicon.ico", "ingress", Reason::LegacyNoTool);
        legacy("/grid;x/", "ingress", Reason::LegacyNoTool);
        legacy(
            &format!("/{}", "a".repeat(64)),
            "ingress",
            Reason::LegacyNoTool,
        );
        legacy("/login/x", "ingress", Reason::ReservedLabel);
    }

    #[test]
    fn moved_tools() {
        let legacy = |target: &str, expected: &str| {
            check("tools.wmflabs.org", target, expected, Reason::ToolMoved);
        };
        legacy("/canon", "307 https://canon.toolforge.org/");
        legacy("/canon?", "307 https://canon.toolforge.org/?");
        legacy("/x/../canon/y?z", "307 https://canon.toolforge.org/y?z");
        legacy(
            "/c%61non/%79/../%2e",
            "307 https://canon.toolforge.org/%79/../%2e",
        );
        legacy(
            "/canon//evil.example",
            "307 https://canon.toolforge.org//evil.example",
        );
        legacy(
            "/canon/a%0d%0aX: y",
            "307 https://canon.toolforge.org/a%0d%0aX:%20y",
        );
        legacy(
            "/canon/a\r\nX\0?\r\n#\u{e9}",
            "307 https://canon.toolforge.org/a%0D%0AX%00?%0D%0A%23%C3%A9",
        );
        legacy("/stays/x", "307 https://stays.toolforge.org/x");
        // What the configuration says of a path goes before what the registry says of the tool.
        check(
            "tools.wmflabs.org",
            "/stays/s/",
            "static:1",
            Reason::StaticRoute(0),
        );
        check("canon.toolforge.org", "/x", "grid:1", Reason::Registry(0));
    }

    #[test]
    fn static_routes() {
        check(
            "fixed.toolforge.org",
            "/s/x",
            "static:1",
            Reason::StaticRoute(0),
        );
        check("fixed.toolforge.org", "/x", "grid:1", Reason::Registry(0));
        check(
            "only.toolforge.org",
            "/x",
            "ingress",
            Reason::NoPatternMatched,
        );
        check(
            "tools.wmflabs.org",
            "/fixed/s/x",
            "static:1",
            Reason::StaticRoute(0),
        );
    }

    #[test]
    fn bad_paths_are_refused_on_every_host() {
        for host in [
            "grid.toolforge.org",
            "toolforge.org",
            "tools.wmflabs.org",
            "evil.example",
            "login.toolforge.org",
        ] {
            check(host, "/../x", "400", Reason::BadPath);
            check(host, "/%2e%2e/x", "400", Reason::BadPath);
            check(host, "/%zz", "400", Reason::BadPath);
            check(host, "*", "400", Reason::BadPath);
            assert_eq!(run(host, "/..").shared_host, host == "tools.wmflabs.org");
        }
    }

    #[test]
    fn apex_redirect() {
        let mut rules = rules();
        rules.domains.apex = Apex::Redirect("https://wikitech.example/P?a=1#b\r\n".into());
        let host = Host::parse(b"toolforge.org").unwrap();
        let decision = decide(&rules, &Table::new(), &host, b"/x", &mut Vec::new());
        let expected = Verdict::Redirect {
            status: 302,
            location: b"https://wikitech.example/P?a=1#b%0D%0A".to_vec(),
        };
        assert_eq!(
            (decision.verdict, decision.reason),
            (expected, Reason::Apex)
        );
    }

    #[track_caller]
    fn check_tool(host: &str, target: &str, expected: Option<&str>, shared_host: bool) {
        let decision = run(host, target);
        assert_eq!(decision.tool.as_ref().map(ToolName::as_str), expected);
        assert_eq!(decision.shared_host, shared_host);
    }

    #[test]
    fn the_tool_is_named_registered_or_not() {
        check_tool("grid.toolforge.org", "/", Some("grid"), false);
        check_tool("none.toolforge.org", "/", Some("none"), false);
        check_tool(
            "ru_monuments.toolforge.org",
            "/",
            Some("ru_monuments"),
            false,
        );
        check_tool("login.toolforge.org", "/", None, false);
        check_tool("toolforge.org", "/", None, false);
        check_tool("a.b.toolforge.org", "/", None, false);
        check_tool("evil.example", "/grid/", None, false);
        check_tool("tools.wmflabs.org", "/grid/", Some("grid"), true);
        check_tool("tools.wmflabs.org", "/none", Some("none"), true);
        check_tool("tools.wmflabs.org", "/canon/", Some("canon"), true);
        check_tool("tools.wmflabs.org", "/login/", None, true);
        check_tool("tools.wmflabs.org", "/a.b/", None, true);
        check_tool("tools.wmflabs.org", "/", None, true);
    }

    pub(crate) fn target() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                &b"/"[..], b"//", b"/canon", b"/grid", b"/ru_monuments", b"..", b"/..", b".", b"?", b"%2e", b"%0d%0a",
                b"%2f", b"a", b"#", b"\r\n", b"@", b"\\",
            ]).prop_map(<[u8]>::to_vec),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn redirects_are_clean_and_do_not_loop(
            host in prop::sample::select(vec!["tools.wmflabs.org", "ru_monuments.toolforge.org", "canon.toolforge.org"]),
            target in target(),
        ) {
            let decision = run(host, &target);
            let Verdict::Redirect { location, .. } = decision.verdict else {
                return Ok(());
            };
            prop_assert!(location.iter().all(|byte| byte.is_ascii_graphic()));
            let rest = location.strip_prefix(b"https://").unwrap();
            let slash = memchr::memchr(b'/', rest).unwrap();
            let next = run(&rest[..slash], &rest[slash..]);
            prop_assert!(matches!(next.verdict, Verdict::Backend(_) | Verdict::Ingress), "{:?}", next);
            prop_assert!(!next.shared_host);
        }

        #[test]
        fn never_panics(
            host in prop_oneof!["[a.]{0,3}(toolforge.org|tools.wmflabs.org)", "[a-c.]{1,8}"],
            target in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Ok(host) = Host::parse(host.as_bytes()) {
                let first = decide(&rules(), &table(), &host, &target, &mut Vec::new());
                let mut scratch = b"left over".to_vec();
                let second = decide(&rules(), &table(), &host, &target, &mut scratch);
                prop_assert_eq!(first, second);
            }
        }
    }
}
