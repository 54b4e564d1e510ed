//! What `/config` shows is complete, true and keeps passwords to itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use portico_config::{Config, Origin, parse, reference};

/// As much of everything as is built.
const FULL: &str = r#"
[server]
workers = 2
[listen]
http = ["127.0.0.1:8080"]
[tls]
certificates = [{ chain = "/c.pem", key = "/k.pem" }]
[domains]
canonical = "toolforge.org"
rename = { old = "new" }
[registry]
url = "redis://user:s3cret@192.0.2.1:6379/0"
mass_removal = { percent = 0x1e }
[routes]
admin = "http://192.0.2.10:8000"
"with-dash" = "http://192.0.2.10:8001"
[pools.ingress]
nodes = ["192.0.2.1:30000", { address = "192.0.2.2:30000", weight = 50 }]
check = { interval = "7s", kind = "https", host = "a.example", verify = false }
[pools.other]
nodes = ["192.0.2.3:30000"]
[ingress]
split = { other = 90, ingress = 10 }
[fallback]
backend = "http://192.0.2.9:80/"
[headers.set]
x-clacks-overhead = ""
X-More = 'say "a\b"'
[compression]
level = { gzip = 9 }
[[tcp]]
name = "api"
listen = ["192.0.2.9:6443"]
pool = "other"
server_names = { "*.k8s.example" = "ingress", plain = "other" }
send_proxy_protocol = false
[[tcp]]
name = "least"
listen = ["192.0.2.9:6444"]
server_names."k8s.example" = "other"
"#;

fn load(text: &str) -> Config {
    parse("portico.toml", text)
        .unwrap_or_else(|found| panic!("{found}\n{text}"))
        .config
}

#[track_caller]
fn check(key: &str, value: &str, origin: Origin) {
    let all = load(FULL).settings.list();
    let setting = all.iter().find(|setting| setting.key == key);
    let setting = setting.unwrap_or_else(|| panic!("no {key} in {all:#?}"));
    let shown = setting.value.as_ref().map(ToString::to_string);
    assert_eq!(shown.unwrap_or_default(), value);
    assert_eq!(setting.origin, origin);
}

#[test]
fn values_and_where_they_come_from() {
    check("server.workers", "2", Origin::Written(3));
    check("server.drain", "\"30s\"", Origin::Default);
    check(
        "tls.certificates[0].chain",
        "\"/c.pem\"",
        Origin::Written(7),
    );
    check("domains.legacy", "[]", Origin::Default);
    check("domains.rename.old", "\"new\"", Origin::Written(10));
    check("registry.mass_removal.percent", "30", Origin::Written(13));
    check("registry.mass_removal.grace", "\"60s\"", Origin::Default);
    check(
        "routes.with-dash",
        "\"http://192.0.2.10:8001\"",
        Origin::Written(16),
    );
    check(
        "pools.ingress.nodes[0].address",
        "\"192.0.2.1:30000\"",
        Origin::Written(18),
    );
    check("pools.ingress.nodes[0].weight", "100", Origin::Default);
    check("pools.ingress.nodes[1].weight", "50", Origin::Written(18));
    check(
        "pools.ingress.check.interval",
        "\"7s\"",
        Origin::Written(19),
    );
    check("pools.other.balance", "\"round-robin\"", Origin::Default);
    check("pools.other.max_queue", "256", Origin::Default);
    check("pools.other.slow_start", "\"60s\"", Origin::Default);
    check("pools.ingress.check.kind", "\"https\"", Origin::Written(19));
    check("pools.ingress.check.verify", "false", Origin::Written(19));
    check("pools.ingress.check.expect", "", Origin::Unset("200"));
    check("ingress.split.other", "90", Origin::Written(23));
    check("tcp[0].pool", "\"other\"", Origin::Written(34));
    let name = "tcp[0].server_names.\"*.k8s.example\"";
    check(name, "\"ingress\"", Origin::Written(35));
    check("tcp[0].idle_timeout", "\"1h\"", Origin::Default);
    let name = "tcp[1].server_names.\"k8s.example\"";
    check(name, "\"other\"", Origin::Written(40));
    check("headers.set.x-clacks-overhead", "\"\"", Origin::Written(27));
    check(
        "headers.set.Permissions-Policy",
        "\"browsing-topics=()\"",
        Origin::Default,
    );
    check("compression.level.gzip", "9", Origin::Written(30));
    check("registration", "", Origin::Unset("off"));
    let url = "\"redis://user:***@192.0.2.1:6379/0\"";
    check("registry.url", url, Origin::Written(12));
}

#[test]
fn the_text_means_the_same() {
    let config = load(FULL);
    let text = config.settings.to_toml();
    assert!(text.contains("\ndrain = \"30s\" # default\n"), "{text}");
    assert!(text.contains("\nworkers = 2 # line 3\n"), "{text}");
    let again = load(&text);
    assert_eq!(again.server, config.server);
    assert_eq!(again.listen, config.listen);
    assert_eq!(again.tls, config.tls);
    assert_eq!(again.rules.domains, config.rules.domains);
    assert_eq!(again.rules.routes, config.rules.routes);
    assert_eq!(again.pools, config.pools);
    assert_eq!(again.ingress, config.ingress);
    assert_eq!(again.tcp, config.tcp);
    assert_eq!(again.fallback, config.fallback);
    assert_eq!(again.timeouts, config.timeouts);
    assert_eq!(again.limits, config.limits);
    assert_eq!(again.headers, config.headers);
    assert_eq!(again.compression, config.compression);
    assert_eq!(again.log, config.log);
    let values = |config: &Config| -> Vec<_> {
        let all = config.settings.list().into_iter();
        all.map(|setting| (setting.key, setting.value)).collect()
    };
    assert_eq!(values(&again), values(&config));
}

/// `pools.ingress.nodes[0].weight` as the reference writes it.
fn as_in_the_reference(key: &str) -> String {
    let key = key.replace("[0]", "[]").replace("[1]", "[]");
    let key = key.replace("tcp[].", "tcp.");
    let mut steps: Vec<&str> = key.split('.').collect();
    if steps.first() == Some(&"pools") && steps.len() > 1 {
        steps[1] = "<name>";
    }
    steps.join(".")
}

/// Keys of tables that cannot be turned on yet.
fn not_to_be_had(key: &str) -> bool {
    key.starts_with("registration.")
}

#[test]
fn every_key_of_the_reference_is_there() {
    let shown: Vec<String> = load(FULL)
        .settings
        .list()
        .iter()
        .map(|setting| as_in_the_reference(&setting.key))
        .collect();
    let reference = reference();
    let keys: Vec<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert!(keys.len() > 60, "the keys were not found");
    for key in keys {
        // A list or table of its own shows by what is in it.
        let there = |shown: &String| {
            let rest = shown.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        assert!(
            shown.iter().any(there) || not_to_be_had(key),
            "no {key} in {shown:#?}"
        );
    }
}

#[track_caller]
fn check_secret(url: &str) {
    let config = load(&format!(
        "[listen]\nhttps = []\n[domains]\ncanonical = 'toolforge.org'\n[registry]\nurl = {url:?}\n"
    ));
    let all = format!(
        "{:?}{}{:?}",
        config.settings,
        config.settings.to_toml(),
        config
    );
    assert!(!all.contains("s3cret"), "{all}");
}

#[test]
fn passwords_are_blanked() {
    check_secret("redis://:s3cret@192.0.2.1:6379/0");
    check_secret("rediss://user:s3cret@redis.example:6379/0");
    check_secret("redis+unix:///run/redis.sock?db=1&pass=s3cret");
    check_secret("unix:///run/redis.sock?user=u&pass=s3cret");
    check_secret("redis://:a%2Fs3cret@192.0.2.1:6379/0");
}

#[test]
fn what_could_not_be_had_is_said() {
    let mut settings = load(FULL).settings;
    settings.adjust("limits", "connections", 600, "lowered");
    assert!(
        settings
            .to_toml()
            .contains("\nconnections = 600 # lowered\n")
    );
}

#[test]
fn what_a_restart_would_change_is_shown_as_it_was() {
    let shown = |text: &str, key: &str| {
        let mut settings = load(text).settings;
        for (table, key) in [
            ("server", Some("workers")),
            ("registry", Some("mass_removal")),
        ] {
            settings.keep(&load(FULL).settings, table, key, "kept");
        }
        let all = settings.list();
        let setting = all.iter().find(|setting| setting.key == key).unwrap();
        (
            setting.value.as_ref().unwrap().to_string(),
            setting.origin.clone(),
        )
    };
    let changed = FULL
        .replace("workers = 2", "workers = 3")
        .replace("0x1e", "40");
    let kept = || Origin::Adjusted("kept".to_owned());
    assert_eq!(shown(&changed, "server.workers"), ("2".to_owned(), kept()));
    assert_eq!(
        shown(&changed, "registry.mass_removal.percent"),
        ("30".to_owned(), kept())
    );
    let drain = ("\"30s\"".to_owned(), Origin::Default);
    assert_eq!(shown(&changed, "server.drain"), drain);
    // A table that was taken out, or came in.
    let without = "[listen]\nhttps = []\n[domains]\ncanonical = 'toolforge.org'\n";
    let mut settings = load(without).settings;
    settings.keep(&load(FULL).settings, "registry", None, "kept");
    assert!(
        settings
            .to_toml()
            .contains("\nmass_removal.percent = 30 # kept\n")
    );
    let mut settings = load(FULL).settings;
    settings.keep(&load(without).settings, "registry", None, "kept");
    assert!(settings.to_toml().contains("\n# [registry] is left out"));
}
