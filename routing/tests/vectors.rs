//! Holds the pure routing decision against the vectors of the whole proxy: every vector whose
//! outcome routing alone decides. The black-box tests run the same file through sockets.

// Helpers of a test may give up as loudly as the test itself.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use portico_routing::decide::{Rules, Verdict, decide};
use portico_routing::host::{Apex, Domains, Host};
use portico_routing::table::{Entry, Table};
use toml::Value;

const GRID_A: &str = "http://192.0.2.1:8001";
const GRID_B: &str = "http://192.0.2.2:8002";
const DEAD: &str = "http://192.0.2.3:9";

/// Vectors with a host that something else than routing answers, by what does.
const ANSWERED_ELSEWHERE: &[&str] = &[
    "http-redirects",      // the http listener
    "http-redirects-post", // the http listener
    "ua-missing",          // refusal policy
    "healthz-needs-no-ua", // health check
    "method-trace",        // the codec
    "uri-too-long",        // the codec
    "uri-far-too-long",    // the codec
];

fn rules() -> Rules {
    Rules {
        domains: Domains {
            canonical: "toolforge.org".into(),
            legacy: vec!["tools.wmflabs.org".into()],
            apex: Apex::Ingress,
            reserved: HashSet::new(),
            rename: HashMap::from([("ru_monuments".into(), "ru-monuments".into())]),
        },
        routes: HashMap::new(),
    }
}

/// Pattern and backend of each route of a tool.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// The registry of the fixture at the head of the file. `prefix:wrong` is a string
/// there: no entry here.
fn table() -> Table {
    let with_slash = format!("{GRID_A}/");
    let with_base = format!("{GRID_A}/base");
    let bare = GRID_A.trim_start_matches("http://");
    let fixture: &[(&str, Fields<'_>, bool)] = &[
        ("grid", &[(".*", GRID_A)], false),
        ("canon", &[(".*", GRID_A)], true),
        ("toolforge", &[(".*", GRID_B)], false),
        ("127", &[(".*", GRID_B)], false),
        ("sub", &[("^/api/.*", GRID_A)], false),
        (
            "multi",
            &[
                (".*", GRID_A),
                ("^/api/.*", GRID_B),
                ("^/api/v2/.*", GRID_A),
            ],
            false,
        ),
        ("dead", &[(".*", DEAD)], false),
        ("badre", &[("(", GRID_A), (".*", GRID_B)], false),
        ("bare", &[(".*", bare)], false),
        ("slash", &[(".*", &with_slash)], false),
        ("base", &[(".*", &with_base)], false),
        ("moved", &[], true),
    ];
    let table = Table::new();
    for (tool, fields, redirect) in fixture {
        let fields = fields
            .iter()
            .map(|(field, value)| (field.as_bytes(), value.as_bytes()));
        table.set(tool, Entry::build(fields, *redirect, &|_| Ok(())));
    }
    table
}

/// `{a*N}` stands for N times the letter a.
fn expand(text: &str) -> String {
    match (text.split_once("{a*"), text.split_once('}')) {
        (Some((before, _)), Some((upto, after))) => {
            let count = upto[before.len() + 3..].parse().unwrap();
            format!("{before}{}{after}", "a".repeat(count))
        }
        _ => text.to_owned(),
    }
}

/// What the vector expects, in the words of [`outcome`].
fn expected(expect: &Value, target: &str) -> String {
    let text = |key: &str| expect.get(key).and_then(Value::as_str);
    let status = expect.get("status").and_then(Value::as_integer);
    let location = text("location").unwrap_or_default();
    match (text("backend").unwrap(), status) {
        ("ingress", _) => "ingress".to_owned(),
        ("none", Some(502)) => format!("dead got {target}"),
        ("none", Some(400)) => "bad request".to_owned(),
        ("none", Some(404)) => "not found".to_owned(),
        ("none", Some(status)) => format!("{status} {location}"),
        (backend, _) => format!("{backend} got {}", text("target").unwrap_or(target)),
    }
}

fn outcome(host: &str, target: &str) -> String {
    let Ok(host) = Host::parse(host.as_bytes()) else {
        return "bad request".to_owned();
    };
    let decision = decide(
        &rules(),
        &table(),
        &host,
        target.as_bytes(),
        &mut Vec::new(),
    );
    match decision.verdict {
        Verdict::Ingress => "ingress".to_owned(),
        Verdict::NotFound => "not found".to_owned(),
        Verdict::BadRequest(_) => "bad request".to_owned(),
        Verdict::Redirect { status, location } => {
            format!("{status} {}", String::from_utf8(location).unwrap())
        }
        Verdict::Backend(backend) => {
            let name = match backend.port {
                8001 => "gridA",
                8002 => "gridB",
                _ => "dead",
            };
            format!("{name} got {}{target}", backend.base)
        }
    }
}

#[test]
fn vectors() {
    let file: toml::Table = include_str!("../../tests/vectors.toml").parse().unwrap();
    let mut checked = 0;
    for vector in file["vector"].as_array().unwrap() {
        let id = vector["id"].as_str().unwrap();
        let request = &vector["request"];
        let expect = &vector["expect"];
        let Some(host) = request.get("host").and_then(Value::as_str) else {
            continue;
        };
        if ANSWERED_ELSEWHERE.contains(&id) || expect.get("backend").is_none() {
            continue;
        }
        let target = request.get("target").and_then(Value::as_str);
        let target = expand(target.unwrap_or("/"));
        assert_eq!(
            outcome(&expand(host), &target),
            expected(expect, &target),
            "{id}"
        );
        checked += 1;
    }
    assert!(checked >= 60, "only {checked} vectors were checked");
}
