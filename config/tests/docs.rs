//! `docs/configuration.md` is what the source says, and its examples are true.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::path::Path;

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
