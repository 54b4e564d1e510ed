//! Each `tests/bad/<name>.toml` produces exactly the messages of `tests/bad/<name>.txt`.
//!
//! Refresh them with `BLESS=1 cargo test -p portico-config --test golden`, and read what changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::path::{Path, PathBuf};

use portico_config::load;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    cases.sort();
    cases
}

/// Everything that is said about a file, with its name instead of its path.
fn said_about(path: &Path) -> String {
    let said = match load(path) {
        Ok(loaded) => loaded
            .warnings
            .iter()
            .map(|warning| format!("{warning}\n"))
            .collect(),
        Err(found) => format!("{found}\n"),
    };
    let folder = format!("{}/", path.parent().unwrap().display());
    said.replace(&folder, "")
}

#[test]
fn messages_are_as_written() {
    let mut different = Vec::new();
    for case in cases() {
        let (said, golden) = (said_about(&case), case.with_extension("txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            different.push(format!(
                "{}:\n{said}\ninstead of:\n{expected}",
                case.display()
            ));
        }
    }
    assert!(cases().len() >= 10, "the cases were not found");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// No message of any case shows a password; all of them in the cases are called `s3cret`.
#[test]
fn passwords_stay_secret() {
    for case in cases() {
        assert!(!said_about(&case).contains("s3cret"), "{}", case.display());
    }
}
