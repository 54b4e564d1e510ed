//! `portico routes`: the table as a start would have it, or that of the portico that serves.
//!
//! A start's table is read afresh, from redis, or from the snapshot when redis cannot be reached.
//! The one in use is asked for page by page. Both are printed by the same code.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_config::Registry;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::near::nearest;
use super::{BadKey, Head, Routes, RoutesError, Tool, bad_keys, runtime, tool, write_json};
use crate::ask::{Page, ask};
use crate::percent::encode;
use crate::registry::{self, RegistryStatus, Source};
use crate::start::{self, Prepared};
use crate::terminal::visible;
use crate::time_text::in_words;

/// Tools that are asked for at once.
const PAGE_SIZE: usize = 10_000;
/// A list of names that is longer is not searched for near misses: three million tools.
const MAX_NAMES: usize = 100 << 20;
/// How long the names may take.
const NAMES_LIMIT: Duration = Duration::from_secs(20);

/// What is printed, and of whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct How<'a> {
    /// Only the tool of this name.
    pub tool: Option<&'a str>,
    /// Only tools with something that was skipped, and the keys that name no tool.
    pub bad: bool,
    /// JSON in place of text.
    pub json: bool,
    /// Only the snapshot on disk, not redis.
    pub from_snapshot: bool,
    /// Ask the portico with this admin address: `host:port` or `unix:/path`.
    pub admin: Option<&'a str>,
}

/// Writes the table to `out`: one line for each route, or JSON by tool. `config`: the
/// configuration file, for the table as a start would have it.
///
/// # Errors
/// [`RoutesError`]; also when there is no tool of the name asked for.
pub fn list(config: &Path, how: How<'_>, out: &mut dyn Write) -> Result<(), RoutesError> {
    let mut out = BufWriter::new(out);
    let wanted = how.tool.map(str::to_lowercase);
    let how = How {
        tool: wanted.as_deref(),
        ..how
    };
    let listed = match how.admin {
        Some(address) => runtime()?.block_on(of_the_serving(address, how, &mut out)),
        None => of_a_start(config, how, &mut out),
    };
    // What was said before a failure is said all the same.
    let flushed = out.flush();
    listed?;
    Ok(flushed?)
}

fn of_a_start(config: &Path, how: How<'_>, out: &mut dyn Write) -> Result<(), RoutesError> {
    let prepared = start::prepare(config)?;
    let snapshot = prepared.process.snapshot.load_full();
    let rules = &*snapshot.config.rules;
    let table = &prepared.process.table;
    let status = Arc::new(RegistryStatus::default());
    let (mut head, place) = match &snapshot.config.registry {
        None => (
            Head::default(),
            "the configuration; there is no registry".to_owned(),
        ),
        Some(registry) => load(registry, &prepared, &status, how.from_snapshot)?,
    };
    let mut names: BTreeSet<Box<str>> = rules.routes.keys().cloned().collect();
    table.for_each(|tool, entry| {
        if how.wants(tool, || !entry.bad.is_empty()) {
            names.insert(tool.into());
        }
    });
    names.retain(|tool| {
        let fixed = rules.routes.get(tool).map(Arc::clone);
        let entries = [fixed, table.get(tool)];
        how.wants(tool, || {
            entries.iter().flatten().any(|entry| !entry.bad.is_empty())
        })
    });
    head.matching = names.len();
    head.bad_keys = how.bad.then(|| bad_keys(&status));
    let mut printer = Printer::new(out, how);
    printer.begin(&head, &place)?;
    for name in &names {
        let entry = table.get(name);
        printer.tool(&tool(
            rules,
            name,
            entry.as_deref(),
            status.held_tool(name).as_ref(),
        ))?;
    }
    printer.end()?;
    match how.tool {
        Some(wanted) if table.get(wanted).is_none() && !rules.routes.contains_key(wanted) => {
            let mut all: BTreeSet<Box<str>> = rules.routes.keys().cloned().collect();
            table.for_each(|tool, _| {
                all.insert(tool.into());
            });
            Err(no_tool(wanted, all.iter().map(|name| &**name)))
        }
        _ => Ok(()),
    }
}

/// Fills the table; says where it is from, for scripts and for people.
fn load(
    config: &Registry,
    prepared: &Prepared,
    status: &Arc<RegistryStatus>,
    from_snapshot: bool,
) -> Result<(Head, String), RoutesError> {
    let table = Arc::clone(&prepared.process.table);
    let redis = format!("redis at {}", registry::described(config));
    let age = |written: SystemTime| {
        let age = SystemTime::now().duration_since(written);
        in_words(age.unwrap_or_default())
    };
    if from_snapshot {
        let admit = prepared.admit();
        let loading = registry::load_snapshot(config, &table, &admit);
        let source = runtime()?.block_on(loading)?;
        let place = match source {
            Source::Snapshot(written) => format!(
                "the snapshot {}, which is {} old",
                config.snapshot.display(),
                age(written)
            ),
            Source::Redis => redis,
        };
        return Ok((Head::from(source), place));
    }
    let loading = registry::load_with(config, table, Arc::clone(status), prepared.admit());
    let source = runtime()?.block_on(loading)?;
    let place = match source {
        Source::Redis => format!("{redis}, as it is now"),
        Source::Snapshot(written) => format!(
            "the snapshot {}, which is {} old: {redis} cannot be used: {}",
            config.snapshot.display(),
            age(written),
            visible(&status.redis_error().unwrap_or_default())
        ),
    };
    Ok((Head::of(status, SystemTime::now()), place))
}

/// A page of `/routes`, but for its head.
#[derive(Debug, Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    tools: Vec<Tool<'a>>,
    next: Option<String>,
}

async fn of_the_serving(
    address: &str,
    how: How<'_>,
    out: &mut dyn Write,
) -> Result<(), RoutesError> {
    let no_sense = |_| RoutesError::Answer(address.to_owned());
    let mut target = match how.tool {
        // The shortest name that begins so is the first.
        Some(tool) => format!("/routes?page_size=1&tool={}", encode(tool)),
        None => format!("/routes?page_size={PAGE_SIZE}"),
    };
    if how.bad && how.tool.is_none() {
        target.push_str("&bad=true");
    }
    let mut printer = Printer::new(out, how);
    let mut first = true;
    loop {
        let answer = ask(address, Page::get(&target, true)).await?;
        let Listed { mut tools, next } = serde_json::from_slice(&answer).map_err(no_sense)?;
        let mut there = true;
        if let Some(wanted) = how.tool {
            tools.retain(|tool| tool.tool == wanted);
            there = !tools.is_empty();
            tools.retain(|tool| how.wants(&tool.tool, || tool.is_bad()));
        }
        if first {
            let mut head: Head = serde_json::from_slice(&answer).map_err(no_sense)?;
            if how.tool.is_some() {
                head.matching = tools.len();
            }
            let place = serving_place(address, &head);
            printer.begin(&head, &place)?;
            first = false;
        }
        for tool in &tools {
            printer.tool(tool)?;
        }
        match (next, how.tool) {
            (Some(next), None) => target = next,
            (_, Some(wanted)) if !there => {
                printer.end()?;
                return Err(not_there(address, wanted).await);
            }
            _ => return Ok(printer.end()?),
        }
    }
}

fn serving_place(address: &str, head: &Head) -> String {
    let source = match (head.source.as_deref(), &head.snapshot_written) {
        (None, _) => "from its configuration; there is no registry".to_owned(),
        (Some("snapshot"), Some(written)) => {
            format!("from the snapshot of {written}: it has not reached redis since its start")
        }
        (Some(_), _) => match head.age_seconds {
            Some(age) => format!(
                "from redis, in step {} ago",
                in_words(Duration::from_secs(age))
            ),
            None => "from redis, never in step since its start".to_owned(),
        },
    };
    format!("the portico at {address}, {source}")
}

async fn not_there(address: &str, wanted: &str) -> RoutesError {
    let page = Page {
        max_bytes: MAX_NAMES,
        limit: NAMES_LIMIT,
        ..Page::get("/list", true)
    };
    // Without the names there are no near misses to tell, and no reason to say more.
    let answer = ask(address, page).await.unwrap_or_default();
    let names: BTreeMap<Cow<'_, str>, IgnoredAny> =
        serde_json::from_slice(&answer).unwrap_or_default();
    no_tool(wanted, names.keys().map(|name| &**name))
}

fn no_tool<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> RoutesError {
    // Of whoever was asked for them.
    let near: Vec<String> = nearest(wanted, names).into_iter().map(visible).collect();
    let near = match near.as_slice() {
        [] => String::new(),
        near => format!("; near: {}", near.join(", ")),
    };
    RoutesError::NoTool(format!("there is no tool {:?}{near}", visible(wanted)))
}

impl How<'_> {
    fn wants(&self, tool: &str, is_bad: impl FnOnce() -> bool) -> bool {
        self.tool.is_none_or(|wanted| wanted == tool) && (!self.bad || is_bad())
    }
}

impl Tool<'_> {
    fn is_bad(&self) -> bool {
        self.entries.iter().any(|entry| !entry.bad.is_empty())
    }
}

/// Writes tools one by one.
struct Printer<'a> {
    out: &'a mut dyn Write,
    json: bool,
    bad: bool,
    any: bool,
    bad_keys: Vec<BadKey>,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut dyn Write, how: How<'_>) -> Self {
        Self {
            out,
            json: how.json,
            bad: how.bad,
            any: false,
            bad_keys: Vec::new(),
        }
    }

    fn begin(&mut self, head: &Head, place: &str) -> io::Result<()> {
        if self.json {
            return self.out.write_all(&head.opened());
        }
        self.bad_keys = head.bad_keys.clone().unwrap_or_default();
        let bad = if self.bad { " with something bad" } else { "" };
        let tools = if head.matching == 1 { "tool" } else { "tools" };
        let count = head.matching;
        writeln!(self.out, "# {count} {tools}{bad}, of {}", visible(place))
    }

    fn tool(&mut self, tool: &Tool<'_>) -> io::Result<()> {
        let separator = if self.any { ",\n" } else { "\n" };
        self.any = true;
        if !self.json {
            return write_lines(self.out, tool);
        }
        self.out.write_all(separator.as_bytes())?;
        write_json(self.out, tool)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.json {
            return self.out.write_all(b"\n]}\n");
        }
        for BadKey { key, reason } in &self.bad_keys {
            writeln!(
                self.out,
                "\tBAD KEY {}\t\t{}",
                visible(key),
                visible(reason)
            )?;
        }
        Ok(())
    }
}

fn write_lines(out: &mut dyn Write, tool: &Tool<'_>) -> io::Result<()> {
    let name = visible(&tool.tool);
    if let Some(held) = &tool.held_back {
        let until = match &held.until {
            Some(until) => format!("until {}", visible(until)),
            None => "kept by hand".to_owned(),
        };
        let since = visible(&held.since);
        writeln!(
            out,
            "{name}\tHELD BACK\t{until}\tredis does not hold it since {since}"
        )?;
    }
    for (index, entry) in tool.entries.iter().enumerate() {
        let Routes {
            source,
            redirect,
            routes,
            bad,
        } = entry;
        let rank = if index == 0 {
            ""
        } else {
            ", behind the configuration"
        };
        let source = format!("{}{rank}", visible(source));
        for route in routes {
            let (pattern, backend) = (visible(&route.pattern), visible(&route.backend));
            writeln!(out, "{name}\t{pattern}\t{backend}\t{source}")?;
        }
        if *redirect {
            writeln!(
                out,
                "{name}\tredirect\tfrom legacy paths to its own host\t{source}"
            )?;
        }
        for bad in bad {
            let (pattern, backend) = (visible(&bad.pattern), visible(&bad.backend));
            let reason = visible(&bad.reason);
            writeln!(out, "{name}\tBAD {pattern}\t{backend}\t{reason}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use portico_routing::table::Entry;

    use super::*;
    use crate::routes::routes_of;

    #[test]
    fn a_tool_writes_one_line_and_nothing_to_the_terminal() {
        let fields: [(&[u8], &[u8]); 2] = [
            (b"/a\\.b\n\x1b]0;x\x07", b"http://192.0.2.1"),
            (b"/c", b"http://192.0.2.1\nadmin\t.*"),
        ];
        let entry = Entry::build(fields, false, &|_| Ok(()));
        let mut out = Vec::new();
        let tool = Tool {
            tool: "tool".into(),
            decided_by: "registry".into(),
            held_back: None,
            entries: vec![routes_of("registry", &entry)],
        };
        write_lines(&mut out, &tool).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(
            out.starts_with("tool\t/a\\.b\\n\\u{1b}]0;x\\u{7}\thttp://192.0.2.1"),
            "{out:?}"
        );
        assert!(out.contains("\tBAD /c\t"), "{out:?}");
    }

    #[test]
    fn a_near_name_moves_no_cursor() {
        let error = no_tool("evil", ["evil\x1b[2J"].into_iter());
        assert_eq!(
            error.to_string(),
            "there is no tool \"evil\"; near: evil\\u{1b}[2J"
        );
    }

    /// What the administration writes is what the command reads.
    #[test]
    fn a_page_survives_its_way() {
        let fields: [(&[u8], &[u8]); 2] = [(b"/a\"\\b\n", b"http://192.0.2.1"), (b"(", b"x")];
        let entry = Entry::build(fields, true, &|_| Ok(()));
        let tool = Tool {
            tool: "tool".into(),
            decided_by: "registry".into(),
            held_back: None,
            entries: vec![routes_of("registry", &entry)],
        };
        let mut bytes = Head::from(Source::Redis).opened();
        serde_json::to_writer(&mut bytes, &tool).unwrap();
        bytes.extend_from_slice(b"], \"next\": null}");
        let head: Head = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(head.source.as_deref(), Some("redis"));
        let listed: Listed<'_> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(listed.tools[0].entries, tool.entries);
    }
}
