//! Every message that portico can write about itself stands in `docs/operating.md`, with its level,
//! what it means and what to do; and that lists none that portico does not write.
//!
//! The sources are searched for string literals: of `info!`, `warn!` and `error!`, of warnings that
//! a start or a reload collects, and of the errors that keep a start from succeeding. What is filled
//! in at run time stands as `...` in the document.

// Clippy does not see that the functions here are only called by tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How a message begins in the sources, and what the document calls its level.
const BEGINNINGS: &[(&str, &str)] = &[
    ("info!(", "info"),
    ("warn!(", "warn"),
    ("error!(", "error"),
    ("warnings.push(", "warn"),
];

/// Where `#[error("...")]` is an error that ends the process at start, or a certificate's.
const START_ERRORS: &[&str] = &[
    "listen.rs",
    "registry/mod.rs",
    "run.rs",
    "start.rs",
    "telemetry/access_log/mod.rs",
    "tls/certificate.rs",
];

/// A level and a message.
type Message = (String, String);

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The messages of a source file.
fn messages(text: &str, errors_too: bool) -> BTreeSet<Message> {
    let mut found = BTreeSet::new();
    let errors = errors_too.then_some(("#[error(", "exit 1"));
    for (beginning, level) in BEGINNINGS.iter().copied().chain(errors) {
        for (at, _) in text.match_indices(beginning) {
            let before = text[..at].chars().next_back();
            let word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let line = text[..at].rsplit('\n').next().unwrap();
            if word || line.trim_start().starts_with("//") {
                continue;
            }
            let message = literal(&text[at + beginning.len()..]).map(|text| constant(&text));
            // What is made of values only stands elsewhere, word by word.
            let message = message.filter(|text| text.chars().any(char::is_alphabetic));
            found.extend(message.map(|message| (level.to_owned(), message)));
        }
    }
    found
}

/// The first string literal among the arguments that is no value of a field.
fn literal(arguments: &str) -> Option<String> {
    let mut depth = 1;
    let mut before = '(';
    let mut characters = arguments.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                let text = string(&mut characters);
                if depth == 1 && matches!(before, '(' | ',') {
                    return Some(text);
                }
            }
            // What it makes is the argument; its own closing bracket comes behind the literal.
            '(' if before == '!' => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return None;
        }
        if !character.is_whitespace() {
            before = character;
        }
    }
    None
}

/// The rest of a string literal.
fn string(characters: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => match characters.next() {
                Some('\n') => {
                    let rest = characters.as_str().trim_start();
                    *characters = rest.chars();
                }
                Some(escaped) => text.push(escaped),
                None => break,
            },
            character => text.push(character),
        }
    }
    text
}

/// The message with `...` for what is filled in.
fn constant(text: &str) -> String {
    let mut constant = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        constant.push_str(before);
        constant.push_str("...");
        rest = behind.split_once('}').map_or("", |(_, behind)| behind);
    }
    constant + rest
}

/// The rows of the document's tables of messages: `` | `message` | level | ... ``
fn documented(text: &str) -> BTreeSet<Message> {
    let begin = text.find("\n## Every message").unwrap();
    let section = &text[begin + 1..];
    let section = section.find("\n## ").map_or(section, |end| &section[..end]);
    let mut found = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split(" | ");
        let message = cells.next().unwrap().trim().trim_matches('`').to_owned();
        let level = cells.next().unwrap_or_default().trim().to_owned();
        let empty = cells.filter(|cell| cell.trim().len() < 3).count();
        assert_eq!(empty, 0, "a cell says nothing: {row}");
        assert!(found.insert((level, message)), "it stands twice: {row}");
    }
    found
}

#[test]
fn every_message_is_documented_and_no_other() {
    let mut sources = Vec::new();
    files(&source(), &mut sources);
    let mut written = BTreeSet::new();
    for path in sources {
        let name = path.strip_prefix(source()).unwrap().to_owned();
        let errors = START_ERRORS.iter().any(|file| name == Path::new(file));
        written.extend(messages(&std::fs::read_to_string(&path).unwrap(), errors));
    }
    let document = source().join("../../docs/operating.md");
    let documented = documented(&std::fs::read_to_string(document).unwrap());
    let missing: Vec<_> = written.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&written).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in the section \"Every message\" of docs/operating.md: {missing:#?}\nthere, but not in the sources: {gone:#?}"
    );
}

#[track_caller]
fn check(source: &str, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(level, text)| ((*level).to_owned(), (*text).to_owned()));
    assert_eq!(messages(source, true), expected.collect());
}

#[test]
fn messages_are_found_however_they_are_written() {
    check(
        r#"info!(tools = f("x", y), fault = "tool", "it {} as {why:?}: {a}");"#,
        &[("info", "it ... as ...: ...")],
    );
    check("warn!(\n  \"one \\\n   two\"\n)", &[("warn", "one two")]);
    check(
        r#"warnings.push(format!("{key} is odd"))"#,
        &[("warn", "... is odd")],
    );
    check(
        r#"#[error("no {path}", path = .0)]"#,
        &[("exit 1", "no ...")],
    );
    check(r#"error!("{warning}"); #[error(transparent)]"#, &[]);
    check(r#"// error!("a"); my_error!("b"); debug!("c")"#, &[]);
}
