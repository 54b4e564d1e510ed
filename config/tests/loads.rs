//! What is written arrives in the `Config`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::time::Duration;

use portico_config::{
    Balance, CheckKind, ClientAddress, Config, HeaderTemplate, HttpCheck, LogLevel, NamePattern,
    NodeAddress, Share, TemplatePart, TlsVersion, parse,
};
use portico_routing::host::Apex;

/// The configuration of a text that has no mistakes, with `[domains]` given.
#[track_caller]
fn config(text: &str) -> Config {
    let text = format!("domains.canonical = \"toolforge.org\"\n{text}");
    parse("portico.toml", &text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .config
}

fn share(pool: &str, percent: u8) -> Share {
    Share {
        pool: pool.into(),
        percent,
    }
}

#[test]
fn every_kind_of_value() {
    let config = config(
        r#"
        domains.legacy = ["Tools.WMFlabs.org."]
        domains.apex = "https://wikitech.wikimedia.org/"
        domains.reserved = ["login"]
        domains.rename = { ru_monuments = "ru-monuments" }
        server = { workers = 3, drain = "1m30s", name = "Proxy-1.example" }
        listen = { http = ["127.0.0.1:80", "[::1]:80"], redirect = false, https = ["192.0.2.1:443"], proxy_protocol_from = ["192.0.2.0/24"] }
        tls = { min_version = "1.3", certificates = [{ chain = "a.crt", key = "a.key" }, { chain = "b.pem", key = "b.pem" }] }
        fallback = { backend = "http://Fourohfour.example/404/", help_url = "https://help.example/" }
        pages.templates = "pages"
        timeouts = { header = "250ms", tunnel = "2d" }
        limits = { body = 0, header = "64KiB", uri = 4096, connections = 1_000, streams = 0x10 }
        refuse = { empty_user_agent = false, dry_run = true }
        log.level = "debug"

        [registry]
        url = "rediss://user:pass@redis.example:6380/2"
        snapshot = "/tmp/routes"
        mass_removal.percent = 20
        backends = ["192.0.2.0/24", "2001:db8::1"]

        [routes]
        admin = "http://192.0.2.10:8000/base/"

        [ingress]
        pool = "main"

        [pools.main]
        nodes = ["192.0.2.1:30000", "Node.example:30001", { address = "[2001:db8::2]:1", weight = 5 }]
        check = { port = 15021, interval = "1s", rise = 1 }
        "#,
    );
    let domains = &config.rules.domains;
    assert_eq!(domains.legacy, ["tools.wmflabs.org".into()]);
    assert_eq!(
        domains.apex,
        Apex::Redirect("https://wikitech.wikimedia.org/".into())
    );
    assert!(domains.reserved.contains("login"));
    assert_eq!(
        domains.rename.get("ru_monuments").map(|to| &**to),
        Some("ru-monuments")
    );
    assert_eq!(
        (config.server.workers, config.server.drain),
        (3, Duration::from_secs(90))
    );
    assert_eq!(config.server.name.as_deref(), Some("proxy-1.example"));
    assert_eq!(
        config.pages.templates.as_deref(),
        Some(std::path::Path::new("pages"))
    );
    assert_eq!(config.listen.http.len(), 2);
    assert!(!config.listen.redirect);
    assert_eq!(
        config.listen.proxy_protocol_from,
        ["192.0.2.0/24".parse().unwrap()]
    );
    assert_eq!(config.tls.min_version, TlsVersion::V1_3);
    assert_eq!(config.tls.certificates[1].key.to_str(), Some("b.pem"));
    assert_eq!(
        config.fallback.backend.as_ref().map(ToString::to_string),
        Some("http://fourohfour.example:80/404".to_owned())
    );
    assert_eq!(
        config.fallback.help_url.as_deref(),
        Some("https://help.example/")
    );
    assert_eq!(config.timeouts.header, Duration::from_millis(250));
    assert_eq!(config.timeouts.tunnel, Duration::from_secs(2 * 86_400));
    assert_eq!(
        (config.limits.body, config.limits.header, config.limits.uri),
        (0, 65_536, 4096)
    );
    assert_eq!(
        (config.limits.connections, config.limits.streams),
        (1000, 16)
    );
    assert!(!config.refuse.empty_user_agent && config.refuse.dry_run);
    assert_eq!(config.log.level, LogLevel::Debug);

    let registry = config.registry.as_ref().unwrap();
    assert_eq!(
        registry.url.expose(),
        "rediss://user:pass@redis.example:6380/2"
    );
    assert_eq!(
        (registry.mass_removal.percent, registry.mass_removal.grace),
        (20, Duration::from_secs(60))
    );
    assert_eq!(registry.backends[1].to_string(), "2001:db8::1/128");
    assert!(
        !format!("{config:?}").contains("pass@"),
        "a password in the Debug form"
    );

    let admin = config.rules.routes.get("admin").unwrap();
    let route = admin.find(b"/x").unwrap();
    assert_eq!(route.backend.to_string(), "http://192.0.2.10:8000/base");

    let pool = &config.pools["main"];
    assert_eq!(config.ingress, [share("main", 100)]);
    assert_eq!(&*pool.name, "main");
    assert_eq!(
        pool.nodes[1].address,
        NodeAddress::Name {
            host: "node.example".into(),
            port: 30001
        }
    );
    assert_eq!((pool.nodes[1].weight, pool.nodes[2].weight), (100, 5));
    assert_eq!(
        (
            pool.check.kind.clone(),
            pool.check.port,
            pool.check.rise,
            pool.check.fall
        ),
        (CheckKind::Tcp, Some(15021), 1, 2)
    );
}

#[test]
fn least() {
    let config = config("listen.https = []");
    assert_eq!(config.ingress, []);
    assert_eq!(config.tcp, []);
    assert!(config.registry.is_none() && config.pools.is_empty() && config.rules.routes.is_empty());
    assert_eq!(config.rules.domains.apex, Apex::Ingress);
    assert_eq!(config.headers.via.as_deref(), Some("portico"));
    assert_eq!(
        config.headers.hide_on_legacy,
        ["service-worker-allowed".into()]
    );
}

#[test]
fn the_pool_named_ingress_is_the_ingress() {
    let config = config("listen.https = []\npools.ingress.nodes = [\"192.0.2.1:1\"]");
    assert_eq!(config.ingress, [share("ingress", 100)]);
}

/// A split is what is written, even if it is of one pool or leaves one out.
#[test]
fn shares_of_the_ingress() {
    let pools =
        "listen.https = []\npools.a.nodes = [\"192.0.2.1:1\"]\npools.b.nodes = [\"192.0.2.2:1\"]";
    let split = |split: &str| config(&format!("{pools}\ningress.split = {split}")).ingress;
    assert_eq!(
        split("{ b = 90, a = 10 }"),
        [share("b", 90), share("a", 10)]
    );
    assert_eq!(
        split("{ a = 100, b = 0 }"),
        [share("a", 100), share("b", 0)]
    );
    assert_eq!(split("{ b = 100 }"), [share("b", 100)]);
}

/// What is in `[pools.a]` when this is written there.
#[track_caller]
fn pool(written: &str) -> portico_config::Pool {
    let mut config = config(&format!(
        "listen.https = []\ningress.pool = \"a\"\n[pools.a]\nnodes = [\"192.0.2.1:1\"]\n{written}"
    ));
    config.pools.remove("a").unwrap()
}

#[test]
fn limits_of_pools() {
    let written =
        pool("balance = 'least-requests'\nslow_start = '0s'\nmax_connections = 1\nmax_queue = 0\n");
    assert_eq!(written.balance, Balance::LeastRequests);
    assert_eq!(written.slow_start, Duration::ZERO);
    assert_eq!((written.max_connections, written.max_queue), (1, 0));
    // As in production for years (reference: HAProxy's slowstart, maxconn, maxqueue).
    let default = pool("");
    assert_eq!(default.balance, Balance::RoundRobin);
    assert_eq!(default.slow_start, Duration::from_secs(60));
    assert_eq!((default.max_connections, default.max_queue), (1000, 256));
    assert_eq!(default.queue_timeout, Duration::from_secs(5));
    assert_eq!(default.check.kind, CheckKind::Tcp);
}

/// What a check does when this is written.
#[track_caller]
fn check_kind(written: &str, expected: CheckKind) {
    assert_eq!(
        pool(&format!("check = {{ {written} }}")).check.kind,
        expected
    );
}

fn http(host: Option<&str>, path: &str, expect: u16) -> HttpCheck {
    HttpCheck {
        host: host.map(Into::into),
        path: path.into(),
        expect,
    }
}

fn https(http: HttpCheck, verify: bool, sni: Option<&str>) -> CheckKind {
    let sni = sni.map(Into::into);
    CheckKind::Https { http, verify, sni }
}

#[test]
fn kinds_of_checks() {
    check_kind("", CheckKind::Tcp);
    check_kind("kind = 'http'", CheckKind::Http(http(None, "/", 200)));
    check_kind(
        "kind = 'http', host = 'Health.example:8080', path = '/healthz?full=1', expect = 204",
        CheckKind::Http(http(Some("health.example:8080"), "/healthz?full=1", 204)),
    );
    check_kind("kind = 'https'", https(http(None, "/", 200), true, None));
    check_kind(
        "kind = 'https', verify = false, path = '/healthz'",
        https(http(None, "/healthz", 200), false, None),
    );
}

/// The server name follows the host, without its port, unless it is written.
#[test]
fn server_names_of_checks() {
    let of_host = |host, sni| https(http(Some(host), "/", 200), true, Some(sni));
    check_kind(
        "kind = 'https', host = 'a.example'",
        of_host("a.example", "a.example"),
    );
    check_kind(
        "kind = 'https', host = 'a.example:443'",
        of_host("a.example:443", "a.example"),
    );
    check_kind(
        "kind = 'https', host = '192.0.2.1:1'",
        of_host("192.0.2.1:1", "192.0.2.1"),
    );
    check_kind(
        "kind = 'https', host = '[2001:DB8::1]:1'",
        of_host("[2001:db8::1]:1", "2001:db8::1"),
    );
    check_kind(
        "kind = 'https', host = 'a.example', sni = 'B.example'",
        of_host("a.example", "b.example"),
    );
    check_kind(
        "kind = 'https', sni = 'b.example'",
        https(http(None, "/", 200), true, Some("b.example")),
    );
}

#[test]
fn tcp_listeners() {
    let config = config(
        r#"
        listen.https = []
        pools.a.nodes = ["192.0.2.1:1"]
        [[tcp]]
        name = "full"
        listen = ["127.0.0.1:1", "[::1]:1"]
        pool = "a"
        server_names = { "*.K8s.example" = "a", "k8s.example." = "a" }
        allow = ["192.0.2.0/24"]
        idle_timeout = "2h"
        proxy_protocol_from = ["192.0.2.7"]
        send_proxy_protocol = true
        [[tcp]]
        name = "least"
        listen = ["127.0.0.1:2"]
        pool = "a"
        "#,
    );
    let [full, least] = config.tcp.try_into().unwrap();
    assert_eq!((&*full.name, full.listen.len()), ("full", 2));
    let name = |wildcard| NamePattern {
        name: "k8s.example".into(),
        wildcard,
    };
    let expected = [(name(true), "a".into()), (name(false), "a".into())];
    assert_eq!(full.server_names, expected);
    assert_eq!(full.allow, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(full.idle_timeout, Duration::from_secs(7200));
    assert_eq!(full.proxy_protocol_from, ["192.0.2.7/32".parse().unwrap()]);
    assert!(full.send_proxy_protocol);
    assert_eq!(least.pool.as_deref(), Some("a"));
    assert!(least.server_names.is_empty() && least.allow.is_empty());
    assert!(least.proxy_protocol_from.is_empty() && !least.send_proxy_protocol);
    assert_eq!(least.idle_timeout, Duration::from_secs(3600));
}

/// What is set when this is written in `[headers.set]`.
#[track_caller]
fn check_set(written: &str, expected: &[(&str, &str)]) {
    let config = config(&format!("listen.https = []\n[headers.set]\n{written}"));
    let text = |template: &HeaderTemplate| -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.to_string(),
            TemplatePart::Host => "{host}".to_owned(),
        };
        template.parts.iter().map(part).collect()
    };
    let set: Vec<(String, String)> = config
        .headers
        .set
        .iter()
        .map(|(n, v)| (n.to_string(), text(v)))
        .collect();
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(n, v)| (n.to_string(), v.to_string()))
        .collect();
    let mut sorted = set.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn headers_that_are_written_join_the_default() {
    const HSTS: (&str, &str) = ("Strict-Transport-Security", "max-age=31622400");
    const CLACKS: (&str, &str) = ("X-Clacks-Overhead", "GNU Terry Pratchett");
    const TOPICS: (&str, &str) = ("Permissions-Policy", "browsing-topics=()");
    check_set("", &[HSTS, CLACKS, TOPICS]);
    check_set(
        "X-Host = \"on {host}!\"",
        &[HSTS, CLACKS, TOPICS, ("X-Host", "on {host}!")],
    );
    check_set(
        "x-clacks-overhead = \"me\"",
        &[HSTS, TOPICS, ("x-clacks-overhead", "me")],
    );
    check_set(
        "Strict-Transport-Security = \"\"\nX-Clacks-Overhead = \"\"",
        &[TOPICS],
    );
}

#[test]
fn headers() {
    let config = config(
        r#"
        listen.https = []
        [headers]
        hide = ["X-Powered-By"]
        client_address = "forwarded"
        client_address_for = ["a", "b"]
        hide_on_legacy = []
        via = ""
        "#,
    );
    assert_eq!(config.headers.hide, ["x-powered-by".into()]);
    assert_eq!(config.headers.client_address, ClientAddress::Forwarded);
    assert!(config.headers.client_address_for.contains("b"));
    assert!(config.headers.hide_on_legacy.is_empty());
    assert_eq!(config.headers.via, None);
}
