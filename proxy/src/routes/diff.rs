//! `portico routes diff A B`: what differs between two snapshots, or a snapshot and the table of the
//! portico that serves.
//!
//! Both sides are read whole, sorted by tool and walked side by side: a million tools each take a
//! few seconds and some hundred megabytes. A snapshot holds the good routes of the registry, so that
//! is what is compared: no static routes, nothing that was skipped.

use std::cmp::Ordering;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyper::Method;
use serde::Serialize;

use super::delta::{Side, deltas};
use super::{Route, RoutesError, admin_address, runtime};
use crate::ask::{Page, ask};
use crate::registry::{SavedTable, SavedTool, decode_snapshot, read_snapshot_file};
use crate::terminal::visible;
use crate::time_text::rfc3339;

/// Bytes of a snapshot that is asked for, as of one on disk.
const MAX_BYTES: usize = 1 << 30;
/// How long it may take to come.
const LIMIT: Duration = Duration::from_secs(120);

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A snapshot on disk.
    File(PathBuf),
    /// The table of the portico that serves.
    Live,
}

/// `live`, or else a path; a file of that name is `./live`.
impl From<&str> for Operand {
    fn from(word: &str) -> Self {
        match word {
            "live" => Self::Live,
            path => Self::File(path.into()),
        }
    }
}

/// Whom and how.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// The configuration file, which says where the portico that serves is asked.
    pub config: &'a Path,
    /// Where it is asked, if not there.
    pub admin: Option<&'a str>,
    /// JSON in place of text.
    pub json: bool,
}

/// Writes the differences to `out`; whether there are none.
///
/// # Errors
/// [`RoutesError`]
pub fn diff(
    old: &Operand,
    new: &Operand,
    how: How<'_>,
    out: &mut dyn Write,
) -> Result<bool, RoutesError> {
    let old = Table::read(old, how)?;
    let new = Table::read(new, how)?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let written = match how.json {
        true => write_json(&old, &new, &mut out),
        false => write_text(&old, &new, &mut out),
    };
    match written.and_then(|same| out.flush().map(|()| same)) {
        // Who has had enough has seen a difference.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written?),
    }
}

/// A side that was read.
struct Table {
    /// For people.
    name: String,
    written: SystemTime,
    /// By name.
    tools: Vec<SavedTool>,
}

impl Table {
    fn read(operand: &Operand, how: How<'_>) -> Result<Self, RoutesError> {
        let (name, saved) = match operand {
            Operand::File(path) => (path.display().to_string(), read_snapshot_file(path)?),
            Operand::Live => {
                let address = admin_address(how.admin, how.config)?;
                let page = Page {
                    method: &Method::GET,
                    target: "/snapshot",
                    accept: "*/*",
                    max_bytes: MAX_BYTES,
                    limit: LIMIT,
                };
                let bytes = runtime()?.block_on(ask(&address, page))?;
                let saved = decode_snapshot(bytes.into())?;
                (format!("the portico at {address}"), saved)
            }
        };
        let SavedTable { written, mut tools } = saved;
        tools.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            name,
            written,
            tools,
        })
    }
}

/// How many tools differ, and how.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    added: usize,
    removed: usize,
    changed: usize,
    same: usize,
}

impl Counts {
    fn note(&mut self, old: Option<&SavedTool>, new: Option<&SavedTool>) {
        match (old, new) {
            (None, _) => self.added += 1,
            (_, None) => self.removed += 1,
            _ => self.changed += 1,
        }
    }

    fn different(&self) -> usize {
        self.added + self.removed + self.changed
    }
}

/// Calls `tell` with each tool that differs, in order.
fn compare(
    old: &[SavedTool],
    new: &[SavedTool],
    mut tell: impl FnMut(Option<&SavedTool>, Option<&SavedTool>) -> io::Result<()>,
) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Ok(counts),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.name.cmp(&is.name),
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        if let (Some(was), Some(is)) = (was, is)
            && is_same(was, is)
        {
            counts.same += 1;
            continue;
        }
        counts.note(was, is);
        tell(was, is)?;
    }
}

fn is_same(old: &SavedTool, new: &SavedTool) -> bool {
    // Nearly always in the same order: sorting is for the others.
    old == new || side(Some(old)) == side(Some(new))
}

fn side(tool: Option<&SavedTool>) -> Side<'_> {
    tool.map_or_else(Side::default, |tool| Side::new(routes(tool), tool.redirect))
}

fn routes(tool: &SavedTool) -> Vec<Route<'_>> {
    let routes = tool.routes.iter().map(|(pattern, backend)| Route {
        pattern: (&**pattern).into(),
        backend: (&**backend).into(),
    });
    routes.collect()
}

fn write_text(old: &Table, new: &Table, out: &mut dyn Write) -> io::Result<bool> {
    for (sign, table) in [('-', old), ('+', new)] {
        let (name, written) = (visible(&table.name), rfc3339(table.written));
        writeln!(
            out,
            "# {sign} {name}, of {written}, {} tools",
            table.tools.len()
        )?;
    }
    let counts = compare(&old.tools, &new.tools, |was, is| {
        let name = was.or(is).map_or("", |tool| &tool.name);
        let (was, is) = (side(was), side(is));
        for delta in deltas(&was, &is) {
            writeln!(out, "{} {name} {}", delta.sign(), delta.in_words())?;
        }
        Ok(())
    })?;
    let Counts {
        added,
        removed,
        changed,
        same,
    } = counts;
    writeln!(
        out,
        "# {} tools differ: {added} added, {removed} removed, {changed} changed; {same} are the same",
        counts.different()
    )?;
    Ok(counts.different() == 0)
}

/// A side, in JSON.
#[derive(Serialize)]
struct About<'a> {
    name: &'a str,
    written: String,
    tools: usize,
}

/// A tool that differs, in JSON.
#[derive(Serialize)]
struct Different<'a> {
    tool: &'a str,
    /// `null`: it is not there.
    old: Option<Value<'a>>,
    new: Option<Value<'a>>,
}

#[derive(Serialize)]
struct Value<'a> {
    redirect: bool,
    routes: Vec<Route<'a>>,
}

impl<'a> Value<'a> {
    fn of(tool: &'a SavedTool) -> Self {
        Self {
            redirect: tool.redirect,
            routes: routes(tool),
        }
    }
}

fn write_json(old: &Table, new: &Table, out: &mut dyn Write) -> io::Result<bool> {
    let about = |table: &Table| {
        serde_json::to_string(&About {
            name: &table.name,
            written: rfc3339(table.written),
            tools: table.tools.len(),
        })
    };
    write!(
        out,
        "{{\"old\": {}, \"new\": {}, \"differences\": [",
        about(old)?,
        about(new)?
    )?;
    let mut separator = "\n";
    let counts = compare(&old.tools, &new.tools, |was, is| {
        out.write_all(separator.as_bytes())?;
        separator = ",\n";
        let different = Different {
            tool: was.or(is).map_or("", |tool| &tool.name),
            old: was.map(Value::of),
            new: is.map(Value::of),
        };
        super::write_json(out, &different)
    })?;
    writeln!(
        out,
        "\n], \"counts\": {}}}",
        serde_json::to_string(&counts)?
    )?;
    Ok(counts.different() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, routes: &[(&str, &str)]) -> SavedTool {
        SavedTool {
            name: name.into(),
            redirect: routes.is_empty(),
            routes: routes
                .iter()
                .map(|(pattern, backend)| ((*pattern).into(), (*backend).into()))
                .collect(),
        }
    }

    fn table(tools: &[SavedTool]) -> Table {
        Table {
            name: "a\nb".to_owned(),
            written: SystemTime::UNIX_EPOCH,
            tools: tools.to_vec(),
        }
    }

    #[track_caller]
    fn check(old: &[SavedTool], new: &[SavedTool], expected: &[&str], counts: &str) {
        let mut out = Vec::new();
        let same = write_text(&table(old), &table(new), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            format!("# - a\\nb, of 1970-01-01T00:00:00Z, {} tools", old.len())
        );
        assert_eq!(lines[2..lines.len() - 1], *expected);
        assert_eq!(lines[lines.len() - 1], counts);
        assert_eq!(same, expected.is_empty());

        let mut out = Vec::new();
        let same = write_json(&table(old), &table(new), &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(same, json["differences"].as_array().unwrap().is_empty());
        assert_eq!(json["new"]["tools"], new.len());
    }

    #[test]
    fn tools_by_name() {
        let a = tool("a", &[(".*", "http://1")]);
        let b = tool("b", &[("^/x", "http://2"), (".*", "http://1")]);
        let turned = tool("b", &[(".*", "http://1"), ("^/x", "http://2")]);
        let other = tool("b", &[(".*", "http://9"), ("^/x", "http://2")]);
        let moved = tool("c", &[]);
        let same = "# 0 tools differ: 0 added, 0 removed, 0 changed; 2 are the same";
        check(&[a.clone(), b.clone()], &[a.clone(), turned], &[], same);
        check(
            &[a.clone(), b.clone()],
            &[other, moved.clone()],
            &[
                "- a .* -> http://1",
                "~ b .* -> http://9 (was http://1)",
                "+ c redirect from legacy paths to its own host",
            ],
            "# 3 tools differ: 1 added, 1 removed, 1 changed; 0 are the same",
        );
        check(
            &[],
            &[a, moved],
            &[
                "+ a .* -> http://1",
                "+ c redirect from legacy paths to its own host",
            ],
            "# 2 tools differ: 2 added, 0 removed, 0 changed; 0 are the same",
        );
    }

    #[test]
    fn a_word_or_a_path() {
        assert_eq!(Operand::from("live"), Operand::Live);
        assert_eq!(Operand::from("./live"), Operand::File("./live".into()));
    }
}
