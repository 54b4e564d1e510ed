//! `docs/configuration.md` is what the source says, and its examples are true.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::path::Path;
use std::time::Duration;

use portico_config::{Severity, parse, reference};

#[test]
fn the_reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/configuration.md is stale; refresh it with: UPDATE_DOCS=1 cargo test -p portico-config --test docs"
    );
}

/// The TOML blocks of the reference.
fn examples() -> Vec<String> {
    let reference = reference();
    let blocks = reference
        .split("```toml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

/// Everything that is wrong with a text, but for what is not built yet.
fn mistakes(text: &str) -> Vec<String> {
    let Err(found) = parse("example.toml", text) else {
        return Vec::new();
    };
    let errors = found
        .iter()
        .filter(|d| d.severity == Severity::Error && d.message != "not built yet");
    errors
        .map(|d| {
            format!(
                "{d}\n{}",
                text.lines()
                    .nth(d.line.saturating_sub(1))
                    .unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn the_smallest_file_loads() {
    let smallest = &examples()[0];
    let loaded = parse("example.toml", smallest).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
}

/// All examples but the first one, and the pools that they name.
fn all_examples() -> String {
    let pools = "[pools.gateway]\nnodes = [\"192.0.2.3:1\"]\n[pools.kube-api]\nnodes = [\"192.0.2.11:6443\"]\n";
    examples()[1..].concat() + pools
}

#[test]
fn the_examples_together_are_one_valid_file() {
    assert_eq!(mistakes(&all_examples()), Vec::<String>::new());
}

#[test]
fn keys_that_are_commented_out_are_valid_too() {
    let all = all_examples();
    let uncommented: Vec<&str> = (all.lines())
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .collect();
    let found = mistakes(&uncommented.join("\n"));
    // The example of `ingress` shows a split between two pools, beside the pool.
    let [both] = &found[..] else {
        panic!("{found:#?}");
    };
    assert!(both.contains("there is a pool and a split"), "{both}");
}

/// The value behind a word of a line of HAProxy's.
#[track_caller]
fn word_after<'l>(line: &'l str, word: &str) -> &'l str {
    let mut words = line.split_whitespace().skip_while(|w| *w != word);
    words
        .nth(1)
        .unwrap_or_else(|| panic!("no {word} in {line}"))
}

/// The example of the migration means what HAProxy's configuration above it does.
#[test]
fn the_example_of_the_migration_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migrating.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, section) = document
        .split_once("### HAProxy, before and after\n")
        .unwrap();
    let block = |tag: &str| {
        let (_, block) = section.split_once(tag).unwrap();
        block.split("```").next().unwrap()
    };
    let (before, after) = (block("```text\n"), block("```toml\n"));
    let loaded = parse("portico.toml", after).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
    let line = before.lines().find(|l| l.contains("default-server"));
    let line = line.unwrap();
    let duration = |word| humantime(word_after(line, word));
    let number = |word: &str| word_after(line, word).parse::<u32>().unwrap();
    let timeout = |name: &str| {
        let line = before
            .lines()
            .find(|l| l.contains(&format!("timeout {name} ")));
        humantime(word_after(line.unwrap(), name))
    };
    let config = loaded.config;
    assert_eq!(config.timeouts.connect, timeout("connect"));
    for pool in config.pools.values() {
        let check = &pool.check;
        assert_eq!(check.interval, duration("inter"));
        assert_eq!(check.down_interval, duration("downinter"));
        assert_eq!(check.timeout, timeout("check"));
        assert_eq!((check.rise, check.fall), (number("rise"), number("fall")));
        assert_eq!(pool.slow_start, duration("slowstart"));
        assert_eq!(pool.max_connections, number("maxconn"));
        assert_eq!(pool.max_queue, number("maxqueue"));
        assert_eq!(pool.queue_timeout, timeout("queue"));
        for node in &pool.nodes {
            assert_eq!(node.weight, number("weight"));
            assert!(before.contains(&node.address.to_string()), "{node:?}");
        }
    }
    for tcp in &config.tcp {
        assert_eq!(tcp.idle_timeout, timeout("client"));
        assert!(before.contains(&format!("bind {}\n", tcp.listen[0])));
    }
    assert_eq!((config.pools.len(), config.tcp.len()), (3, 2));
}

/// `10s`, `1h`
fn humantime(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "h" => 3600,
        _ => panic!("{text}"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * seconds)
}
