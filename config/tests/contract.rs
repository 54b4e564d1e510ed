//! The contract of the design parses today: every key is known, every value valid, and exactly what
//! is not built yet is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use portico_config::{CheckKind, parse};

const CONTRACT: &str = include_str!("contract.toml");

/// Line, key: what portico does not do yet. Whoever builds one of them deletes its line here.
const NOT_BUILT: &[(usize, &str)] = &[(88, "rate.per_second"), (127, "registration")];

#[test]
fn only_what_is_not_built_is_refused() {
    let found = parse("portico.toml", CONTRACT).unwrap_err();
    let found: Vec<(usize, &str, &str)> = found
        .iter()
        .map(|d| (d.line, d.key.as_str(), d.message.as_str()))
        .collect();
    let expected: Vec<(usize, &str, &str)> = NOT_BUILT
        .iter()
        .map(|(line, key)| (*line, *key, "not built yet"))
        .collect();
    assert_eq!(found, expected);
}

/// The contract without the lines, or whole tables, that are not built.
fn built_part() -> String {
    let mut skipping = false;
    let mut kept = String::new();
    for (i, line) in CONTRACT.lines().enumerate() {
        let refused = NOT_BUILT.iter().any(|(number, _)| *number == i + 1);
        if line.starts_with('[') {
            skipping = refused;
        }
        if !refused && !skipping {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

#[test]
fn the_rest_loads() {
    let loaded = parse("portico.toml", &built_part()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(&*loaded.config.rules.domains.canonical, "toolforge.org");
    assert_eq!(loaded.config.pools["ingress"].nodes[1].weight, 50);
    let CheckKind::Https { http, verify, .. } = &loaded.config.pools["kube-api"].check.kind else {
        panic!("another kind of check");
    };
    assert_eq!(
        (&*http.path, http.expect, *verify),
        ("/healthz", 200, false)
    );
    assert_eq!(loaded.config.tcp[0].pool.as_deref(), Some("kube-api"));
}

/// The contract shows the defaults: with them left out, the configuration is the same.
#[test]
fn the_contract_shows_the_defaults() {
    let written = parse("portico.toml", &built_part()).unwrap().config;
    let least = parse(
        "portico.toml",
        r#"
        [tls]
        certificates = [{ chain = "/etc/acmecerts/toolforge/live/ec-prime256v1.chained.crt", key = "/etc/acmecerts/toolforge/live/ec-prime256v1.key" }]
        [domains]
        canonical = "toolforge.org"
        legacy = ["tools.wmflabs.org"]
        rename = { ru_monuments = "ru-monuments" }
        [registry]
        [pools.ingress]
        nodes = ["192.0.2.1:30000", { address = "192.0.2.2:30000", weight = 50 }]
        check = { kind = "http", path = "/healthz" }
        [pools.kube-api]
        nodes = ["192.0.2.11:6443", "192.0.2.12:6443"]
        check = { kind = "https", path = "/healthz", verify = false }
        [[tcp]]
        name = "kube-api"
        listen = ["192.0.2.9:6443"]
        pool = "kube-api"
        allow = ["192.0.2.0/24"]
        "#,
    )
    .unwrap()
    .config;
    let order_of_set_is_free = |mut headers: portico_config::Headers| {
        headers.set.sort_by(|a, b| a.0.cmp(&b.0));
        headers
    };
    assert_eq!(
        order_of_set_is_free(written.headers),
        order_of_set_is_free(least.headers)
    );
    assert_eq!(written.server, least.server);
    assert_eq!(written.listen, least.listen);
    assert_eq!(written.tls, least.tls);
    assert_eq!(written.rules.domains, least.rules.domains);
    assert_eq!(written.registry, least.registry);
    assert_eq!(written.pools, least.pools);
    assert_eq!(written.ingress, least.ingress);
    assert_eq!(written.tcp, least.tcp);
    assert_eq!(written.fallback, least.fallback);
    assert_eq!(written.pages, least.pages);
    assert_eq!(written.timeouts, least.timeouts);
    assert_eq!(written.limits, least.limits);
    assert_eq!(written.refuse, least.refuse);
    assert_eq!(written.compression, least.compression);
    assert_eq!(written.log, least.log);
}
