//! Checks of `portico-routing`: canonical paths, decisions and patterns.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use portico_routing::decide::{Rules, Verdict, decide as route};
use portico_routing::host::{Apex, Domains, Host};
use portico_routing::path::canonical_path;
use portico_routing::pattern::{Pattern, Strategy};
use portico_routing::table::{Entry, Table};

/// Any bytes as a path: the canonical path is clean and its own canonical path, and
/// agrees with a naive twin.
pub fn path(data: &[u8]) {
    let mut scratch = Vec::new();
    let canonical = canonical_path(data, &mut scratch).ok().map(<[u8]>::to_vec);
    assert_eq!(canonical, naive_path(data));
    let Some(canonical) = canonical else {
        return;
    };
    assert!(canonical.starts_with(b"/"));
    for bad in [&b"//"[..], b"/./", b"/../"] {
        assert!(!canonical.windows(bad.len()).any(|window| window == bad));
    }
    assert_eq!(canonical_path(&canonical, &mut scratch), Ok(&canonical[..]));
}

/// Decodes unreserved escapes, splits at slashes, walks a stack.
fn naive_path(raw: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [char::from(bytes.next()?), char::from(bytes.next()?)];
        let value = digits[0].to_digit(16)? * 16 + digits[1].to_digit(16)?;
        match u8::try_from(value).ok()? {
            plain if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                decoded.push(plain);
            }
            other => decoded.extend(format!("%{other:02X}").bytes()),
        }
    }
    if decoded.is_empty() {
        return Some(b"/".to_vec());
    }
    let segments: Vec<&[u8]> = decoded
        .strip_prefix(b"/")?
        .split(|&byte| byte == b'/')
        .collect();
    let mut stack = Vec::new();
    for segment in &segments {
        match *segment {
            b"" | b"." => {}
            b".." => drop(stack.pop()?),
            name => stack.push(name),
        }
    }
    if matches!(segments.last(), Some(&(b"" | b"." | b".."))) {
        stack.push(b"");
    }
    Some([&b"/"[..], &stack.join(&b'/')].concat())
}

/// A host, a newline and a target: the decision is the same whatever the scratch held, and a
/// redirect is clean and leads to something that is no redirect.
pub fn decide(data: &[u8]) {
    let newline = data.iter().position(|&byte| byte == b'\n');
    let (host, target) = data.split_at(newline.unwrap_or(data.len()));
    let Ok(host) = Host::parse(host) else {
        return;
    };
    assert_eq!(Host::parse(host.as_bytes()).as_ref(), Ok(&host));
    let target = target.strip_prefix(b"\n").unwrap_or(target);
    let (rules, table) = world();
    let decision = route(rules, table, &host, target, &mut Vec::new());
    let again = route(rules, table, &host, target, &mut b"left over".to_vec());
    assert_eq!(decision, again);
    let Verdict::Redirect { location, .. } = decision.verdict else {
        return;
    };
    assert!(location.iter().all(u8::is_ascii_graphic));
    let rest = location.strip_prefix(b"https://").expect("always https");
    let slash = rest.iter().position(|&byte| byte == b'/');
    let (host, target) = rest.split_at(slash.expect("always a path"));
    let host = Host::parse(host).expect("always a host");
    let next = route(rules, table, &host, target, &mut Vec::new());
    assert!(
        matches!(next.verdict, Verdict::Backend(_) | Verdict::Ingress),
        "{next:?}"
    );
}

fn world() -> &'static (Rules, Table) {
    static WORLD: OnceLock<(Rules, Table)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let entry = |fields: &[(&str, &str)], redirect| {
            let fields = fields
                .iter()
                .map(|(field, value)| (field.as_bytes(), value.as_bytes()));
            Entry::build(fields, redirect, &|_| Ok(()))
        };
        let table = Table::new();
        table.set("grid", entry(&[(".*", "192.0.2.1:8000")], false));
        table.set("canon", entry(&[(".*", "192.0.2.1:8000")], true));
        table.set("sub", entry(&[("^/api/.*", "192.0.2.1:8000")], true));
        let rules = Rules {
            domains: Domains {
                canonical: "toolforge.org".into(),
                legacy: vec!["tools.wmflabs.org".into()],
                apex: Apex::Ingress,
                reserved: HashSet::from(["login".into()]),
                rename: HashMap::from([
                    ("ru_monuments".into(), "ru-monuments".into()),
                    ("a".into(), "b".into()),
                    ("b".into(), "a".into()),
                ]),
            },
            routes: HashMap::new(),
        };
        (rules, table)
    })
}

/// A pattern, a newline and a path: the pattern matches exactly when the plain expression does.
pub fn pattern(data: &[u8]) {
    let newline = data.iter().position(|&byte| byte == b'\n');
    let (source, path) = data.split_at(newline.unwrap_or(data.len()));
    let Ok(source) = std::str::from_utf8(source) else {
        return;
    };
    let Ok(pattern) = Pattern::compile(source) else {
        return;
    };
    let path = [b"/", path.strip_prefix(b"\n").unwrap_or(path)].concat();
    // What needs no engine may be too large for it: the pattern is then cheaper than its twin.
    let Ok(twin) = regex::bytes::RegexBuilder::new(source)
        .unicode(false)
        .dot_matches_new_line(true)
        .build()
    else {
        assert_ne!(pattern.strategy(), Strategy::Regex, "{source:?}");
        return;
    };
    assert_eq!(
        pattern.matches(&path),
        twin.is_match(&path),
        "{source:?} {:?}",
        pattern.strategy()
    );
}

#[cfg(test)]
mod tests {
    use crate::run;

    #[test]
    fn path() {
        let seeds: &[&[u8]] = &[
            b"",
            b"/",
            b"/a/b/../c/./d//e",
            b"/../../x",
            b"/%2e%2e/%2E./x",
            b"/a%2fb%2F%25%7e%C3%a9",
            b"/.%2F/..%2f/...",
            b"/o/../%67rid//x",
            b"/%zz/%",
            b"*",
            b"/\xff\x00\r\n",
        ];
        run(super::path, seeds, 100_000);
    }

    #[test]
    fn decide() {
        let seeds: &[&[u8]] = &[
            b"grid.toolforge.org\n/x?y",
            b"tools.wmflabs.org:443\n/x/../canon/y?z",
            b"tools.wmflabs.org\n/canon//evil.example/%0d%0a\r\n?\r\n#",
            b"tools.wmflabs.org.\n/c%61non/..%2f/../canon",
            b"tools.wmflabs.org\n/sub/api/x",
            b"ru_monuments.toolforge.org\n//evil.example/\\",
            b"a.toolforge.org\n/",
            b"admin.toolforge.org.evil.com\n/canon",
            b"[::1]:80\n/",
            b"login.toolforge.org\n/",
            b"toolforge.org\n/",
        ];
        run(super::decide, seeds, 100_000);
    }

    #[test]
    fn pattern() {
        let seeds: &[&[u8]] = &[
            b".*\n",
            b"^.*$\n\xff\n",
            b".*$\n\xc3",
            b"^/a|b\nxb",
            b"^/ab*\na",
            b"^/a\\.b\\-c/(.*)$\na.b-c/",
            b"^/api/v2/.*\napi/v2/x",
            b"(?i)^/A[^b-c]+?\\b\naa",
            b"(?m)^/(?-s:.*)$\n\n",
            b"^/(a?|b{0,2})\\z\nb",
        ];
        run(super::pattern, seeds, 20_000);
    }
}
