//! `portico routes`: the routing table as a start would have it, for people and for scripts.
//!
//! Reads redis (or the snapshot when redis cannot be reached) afresh; it does not
//! ask a running portico.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use portico_routing::table::Entry;
use serde::Serialize;

use crate::registry::{self, RegistryError};
use crate::start::{self, StartError};

/// Why there is no table to show.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Neither redis nor a snapshot.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Standard output is gone, or no runtime can be had.
    #[error("cannot write the routes")]
    Io(#[from] io::Error),
}

/// One tool, as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct Tool<'a> {
    /// `config` or `registry`.
    source: &'a str,
    /// Legacy paths redirect to the tool's own host.
    redirect: bool,
    /// In the order in which they are tried.
    routes: Vec<RouteLine<'a>>,
    /// Skipped, and why.
    bad: Vec<BadLine<'a>>,
}

#[derive(Debug, Serialize)]
struct RouteLine<'a> {
    pattern: &'a str,
    backend: String,
}

#[derive(Debug, Serialize)]
struct BadLine<'a> {
    pattern: &'a str,
    backend: &'a str,
    reason: &'a str,
}

/// Writes the table to `out`: one line for each route, or JSON by tool.
///
/// # Errors
/// [`RoutesError`]
pub fn routes(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), RoutesError> {
    let prepared = start::prepare(path)?;
    let snapshot = prepared.process.snapshot.load_full();
    let mut entries: BTreeMap<Box<str>, (&str, Arc<Entry>)> = BTreeMap::new();
    let mut origin = None;
    if let Some(config) = &snapshot.config.registry {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())?;
        let (table, source) = runtime.block_on(registry::load_once(config, prepared.admit()))?;
        table.for_each(|tool, entry| {
            entries.insert(tool.into(), ("registry", Arc::clone(entry)));
        });
        origin = Some(source);
    }
    // A static route stands before the registry's.
    for (tool, entry) in &snapshot.config.rules.routes {
        entries.insert(tool.clone(), ("config", Arc::clone(entry)));
    }
    if json {
        let tools: BTreeMap<&str, Tool<'_>> = entries
            .iter()
            .map(|(tool, (source, entry))| (&**tool, describe(source, entry)))
            .collect();
        serde_json::to_writer_pretty(&mut *out, &tools).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if let Some(source) = origin {
        writeln!(
            out,
            "# {} tools; those of the registry are from {source}",
            entries.len()
        )?;
    }
    for (tool, (source, entry)) in &entries {
        write_lines(out, tool, source, entry)?;
    }
    Ok(())
}

pub(crate) fn describe<'a>(source: &'a str, entry: &'a Entry) -> Tool<'a> {
    let routes = entry.routes.iter().map(|route| RouteLine {
        pattern: route.pattern.source(),
        backend: route.backend.to_string(),
    });
    let bad = entry.bad.iter().map(|bad| BadLine {
        pattern: &bad.field,
        backend: &bad.value,
        reason: &bad.reason,
    });
    Tool {
        source,
        redirect: entry.redirect,
        routes: routes.collect(),
        bad: bad.collect(),
    }
}

fn write_lines(out: &mut dyn Write, tool: &str, source: &str, entry: &Entry) -> io::Result<()> {
    for route in &entry.routes {
        let pattern = visible(route.pattern.source());
        writeln!(out, "{tool}\t{pattern}\t{}\t{source}", route.backend)?;
    }
    if entry.redirect {
        writeln!(
            out,
            "{tool}\tredirect\tfrom legacy paths to its own host\t{source}"
        )?;
    }
    for bad in &entry.bad {
        let (field, value) = (visible(&bad.field), visible(&bad.value));
        let reason = visible(&bad.reason);
        writeln!(out, "{tool}\tBAD {field}\t{value}\t{reason}")?;
    }
    Ok(())
}

/// What tools wrote, without the power to move the cursor or to look like another line. Backslashes
/// stay as they are: patterns are full of them.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            visible.extend(c.escape_debug());
        } else {
            visible.push(c);
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_writes_one_line_and_nothing_to_the_terminal() {
        let fields: [(&[u8], &[u8]); 2] = [
            (b"/a\\.b\n\x1b]0;x\x07", b"http://192.0.2.1"),
            (b"/c", b"http://192.0.2.1\nadmin\t.*"),
        ];
        let entry = Entry::build(fields, false, &|_| Ok(()));
        let mut out = Vec::new();
        write_lines(&mut out, "tool", "registry", &entry).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(
            out.starts_with("tool\t/a\\.b\\n\\u{1b}]0;x\\u{7}\thttp://192.0.2.1"),
            "{out:?}"
        );
        assert!(out.contains("\tBAD /c\t"), "{out:?}");
    }
}
