//! Renders `docs/configuration.md` from the documentation of the keys in `file`.
//!
//! The examples are made of the same defaults that the reader uses, so that
//! they are true and parse.

use std::fmt::Write as _;

use toml::de::DeValue;

use crate::file::File;
use crate::reader::{Absent, FromToml as _, KeyDoc, Shape, TableDoc};
use crate::unbuilt;

const INTRO: &str = "\
# The configuration file

<!-- Generated from config/src/file.rs. Do not edit; refresh with: UPDATE_DOCS=1 cargo test -p portico-config --test docs -->

One TOML file. Only `domains.canonical` is required; every other key has a default, which is shown here. `portico check`
says what is wrong with a file: all mistakes at once, each with its line and column, what is allowed and the nearest
valid name. A key that does not exist is a mistake, too.

- Durations are strings with units: `\"250ms\"`, `\"10s\"`, `\"1m30s\"`, `\"1h\"`, `\"2d\"`; above 0 and up to 7 days.
- Sizes are strings with binary units, `\"8KiB\"`, `\"128MiB\"`, or a bare number of bytes.
- Listening addresses are an IP address and a port: `\"127.0.0.1:80\"`, `\"[::]:443\"`.
- Networks are `\"192.0.2.0/24\"`, `\"2001:db8::/32\"`, or one address.
- Tools, pools and labels are 1 to 63 lower-case letters, digits, `-` and `_`.
- Relative paths start at the working directory.
- Keys that are not built yet are checked, and refused when they are turned on.

The smallest file that is of use:

```toml
[tls]
certificates = [{ chain = \"/etc/portico/example.crt\", key = \"/etc/portico/example.key\" }]

[domains]
canonical = \"toolforge.org\"

[registry]

[pools.ingress]
nodes = [\"192.0.2.1:30000\"]
```
";

/// The name that examples give to a table whose name is free.
const EXAMPLE_NAME: &str = "ingress";

/// Keys that no default holds and an example cannot do without.
const SHOWN: &[&str] = &["tcp.pool"];

/// The reference of all keys as Markdown: the text of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = INTRO.to_owned();
    for key in File::table().map(|root| root.keys).unwrap_or_default() {
        section(&mut out, &key);
    }
    out
}

/// A table at the top of the file.
fn section(out: &mut String, key: &KeyDoc) {
    let shape = key.table.as_ref().map_or(Shape::One, |table| table.shape);
    let (title, header, path) = match shape {
        Shape::One => (
            format!("[{}]", key.name),
            format!("[{}]", key.name),
            key.name.to_owned(),
        ),
        Shape::List => (
            format!("[[{}]]", key.name),
            format!("[[{}]]", key.name),
            key.name.to_owned(),
        ),
        Shape::Map => (
            format!("[{}.<name>]", key.name),
            format!("[{}.{EXAMPLE_NAME}]", key.name),
            format!("{}.*", key.name),
        ),
    };
    let _ = write!(out, "\n## `{title}`\n\n{}\n", prose(key.doc));
    if let Absent::Unset { meaning, .. } = key.absent {
        let _ = write!(out, "\nWithout the table: {meaning}.\n");
    }
    if let Some(note) = unbuilt::note(key.name) {
        let _ = write!(out, "\n**{note}**\n");
    }
    let Some(table) = &key.table else {
        let _ = write!(out, "\nIt is {}.\n", key.allowed);
        let _ = write!(out, "\n```toml\n{header}\n{}```\n", entries_of(key.absent));
        return;
    };
    if !table.intro.is_empty() {
        let _ = write!(out, "\n{}\n", prose(table.intro));
    }
    let _ = write!(out, "\n```toml\n{header}\n");
    let (below, inline): (Vec<&KeyDoc>, Vec<&KeyDoc>) =
        table.keys.iter().partition(|key| stands_below(key));
    for key in inline {
        let shown = SHOWN.contains(&&*format!("{path}.{}", key.name));
        let comment = if matches!(key.absent, Absent::Unset { .. }) && !shown {
            "# "
        } else {
            ""
        };
        let _ = writeln!(out, "{comment}{} = {}", key.name, example(key));
    }
    for key in below {
        let _ = write!(out, "\n[{}.{}]\n{}", path, key.name, entries_of(key.absent));
    }
    out.push_str("```\n");
    keys(out, table, &path);
}

fn keys(out: &mut String, table: &TableDoc, path: &str) {
    for key in &table.keys {
        let path = format!("{path}.{}", key.name);
        let _ = write!(
            out,
            "\n### `{}`\n\n{}\n\n",
            path.replace('*', "<name>"),
            prose(key.doc)
        );
        let _ = writeln!(out, "- Allowed: {}.", key.allowed);
        let _ = match key.absent {
            Absent::Default("{}") if key.table.is_some() => {
                writeln!(out, "- Default: that of each key in it.")
            }
            Absent::Default(default) => writeln!(out, "- Default: `{default}`"),
            Absent::Required(example) => writeln!(out, "- Required. Example: `{example}`"),
            Absent::Unset { meaning, .. } => writeln!(out, "- Without it: {meaning}."),
        };
        if let Some(note) = unbuilt::note(&path) {
            let _ = writeln!(out, "- **{note}**");
        }
        if let Some(table) = &key.table {
            let item = if table.shape == Shape::List { "[]" } else { "" };
            keys(out, table, &format!("{path}{item}"));
        }
    }
}

/// Documentation lines as one paragraph, as they stand in the source.
fn prose(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join("\n")
}

/// What the example gives as the value of a key.
fn example(key: &KeyDoc) -> String {
    let inline = |table: &TableDoc| {
        let shown = table
            .keys
            .iter()
            .filter(|key| !matches!(key.absent, Absent::Unset { .. }));
        let pairs: Vec<String> = shown
            .map(|key| format!("{} = {}", key.name, example(key)))
            .collect();
        format!("{{ {} }}", pairs.join(", "))
    };
    match (key.absent, &key.table) {
        (Absent::Default("{}"), Some(table)) => inline(table),
        (Absent::Default("[]"), Some(table)) => format!("[{}]", inline(table)),
        (Absent::Default(text) | Absent::Required(text), _) => text.to_owned(),
        (Absent::Unset { example, .. }, _) => example.to_owned(),
    }
}

/// Whether the example shows this key as a table of its own: its names are free, and there
/// are some by default.
fn stands_below(key: &KeyDoc) -> bool {
    key.table.is_none() && matches!(key.absent, Absent::Default(text) if text.starts_with("{ "))
}

/// The entries of an inline table, one a line.
fn entries_of(absent: Absent) -> String {
    let (Absent::Default(text) | Absent::Required(text) | Absent::Unset { example: text, .. }) =
        absent;
    let Ok(parsed) = DeValue::parse(text) else {
        return String::new();
    };
    let entries = parsed.get_ref().as_table().into_iter().flatten();
    entries
        .map(|(key, value)| {
            format!(
                "{} = {}\n",
                key.get_ref(),
                text.get(value.span()).unwrap_or_default()
            )
        })
        .collect()
}
