//! Whatever the text is: no panic, and every message points into the file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::path::Path;

use portico_config::{load, parse};
use proptest::prelude::*;

const CONTRACT: &str = include_str!("contract.toml");

/// Every diagnostic names a line of the text, and a column in it or just behind it.
fn check_places(text: &str) {
    let found = match parse("portico.toml", text) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found.iter().cloned().collect(),
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for diagnostic in found {
        let line = lines.get(diagnostic.line.wrapping_sub(1));
        let width = line
            .unwrap_or_else(|| panic!("no such line: {diagnostic}"))
            .chars()
            .count();
        assert!(
            (1..=width + 1).contains(&diagnostic.column),
            "no such column: {diagnostic}"
        );
    }
}

proptest! {
    #[test]
    fn any_text(text in "(\\PC|[\\n\\t\\[\\]={}\",.'#])*") {
        check_places(&text);
    }

    #[test]
    fn text_that_looks_like_a_configuration(
        lines in prop::collection::vec(
            "(\\[{1,2}(server|listen|tcp|pools\\.a|x)\\]{1,2}|(http|nodes|workers|check|x) ?= ?(\"[a-z0-9:\\[\\]]*\"|[0-9]{1,25}|\\[.{0,5}\\]|\\{ ?[a-z]= ?1 ?\\}|'.'|true))",
            0..12,
        )
    ) {
        check_places(&lines.join("\n"));
    }

    /// One piece of the contract replaced by something else.
    #[test]
    fn a_mutated_contract(start in 0..CONTRACT.len(), len in 0usize..40, new in "[\\PC\\n\"\\[\\]{}=]{0,6}") {
        let mut start = start;
        while !CONTRACT.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = (start + len).min(CONTRACT.len());
        while !CONTRACT.is_char_boundary(end) {
            end += 1;
        }
        check_places(&[&CONTRACT[..start], &new, &CONTRACT[end..]].concat());
    }

    /// Two lines of the contract in each other's place: valid lines in the wrong table.
    #[test]
    fn swapped_lines(a in 0usize..140, b in 0usize..140) {
        let mut lines: Vec<&str> = CONTRACT.lines().collect();
        let last = lines.len() - 1;
        lines.swap(a.min(last), b.min(last));
        check_places(&lines.join("\n"));
    }
}

/// A mistake in this key is found at this place.
#[track_caller]
fn check_place(text: &str, key: &str, line: usize, column: usize) {
    let found = parse("portico.toml", text).unwrap_err();
    let places: Vec<_> = found
        .iter()
        .filter(|d| d.key == key)
        .map(|d| (d.line, d.column))
        .collect();
    assert_eq!(places, [(line, column)], "{found}");
}

#[test]
fn columns_count_characters() {
    check_place("x = 1", "x", 1, 1);
    check_place("\t\tx = 1", "x", 1, 3);
    check_place(
        "server = { \"\u{fc}\u{20ac}\" = 1, x = 1 }",
        "server.x",
        1,
        22,
    );
    check_place(
        "[domains]\nlegacy = [\"a.c\", \"\u{1f600}\", \"a.d\", \"-/\"]",
        "domains.legacy[3]",
        2,
        30,
    );
    check_place("[server]\r\nworkers = true\r\n", "server.workers", 2, 11);
    check_place(
        "# \u{fc}\n[limits]\nbody = 1 # \u{fc}\nuri =\"\u{fc}\"",
        "limits.uri",
        4,
        6,
    );
}

#[test]
fn deep_nesting_and_long_keys_are_mistakes() {
    check_places(&format!("x = {}", "[".repeat(100_000)));
    check_places(&format!("x = {}", "{a=".repeat(10_000)));
    check_places(&format!("[{}x]", "a.".repeat(10_000)));
    check_places(&format!("{} = 1", "a".repeat(100_000)));
    check_places(&format!("[{}x]", "a.".repeat(1_000_000)));
    check_places(&format!("{}x = 1", "a.".repeat(1_000_000)));
}

/// What is said about a file with these bytes.
fn said_about(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portico.toml");
    std::fs::write(&path, bytes).unwrap();
    load(&path)
        .unwrap_err()
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn files_that_are_no_configuration() {
    assert!(
        load(Path::new("/nonexistent/portico.toml"))
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    assert!(
        load(Path::new("/"))
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    let said = said_about(b"[server]\nworkers = \xff");
    assert!(
        said.starts_with("portico.toml:2:11: error: this byte is not UTF-8"),
        "{said}"
    );
    let said = said_about(&vec![b'#'; 5 << 20]);
    assert!(
        said.starts_with("portico.toml: error: the file is larger than 4 MiB"),
        "{said}"
    );
    let said = said_about(b"");
    assert!(said.contains("domains.canonical: is missing"), "{said}");
}
