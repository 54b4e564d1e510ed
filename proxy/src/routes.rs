//! `portico routes`: the routing table, for people and for scripts, and what can be done about it.
//!
//! Here is how a tool and its routes are told, which the administration shares: what `/routes` and
//! `portico routes --json` say is the same. What the commands do is below: `list` prints the table,
//! `live` asks the portico that serves for more, `diff` compares snapshots, `delta` says how two
//! sets of routes differ.
//!
//! Invariant: what tools wrote reaches no terminal but through [`visible`](crate::terminal::visible).

pub mod delta;
pub mod diff;
pub mod list;
pub mod live;
mod near;

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use portico_routing::decide::Rules;
use portico_routing::table::Entry;
use serde::{Deserialize, Serialize};

use crate::ask::AskError;
use crate::registry::{HeldTool, RegistryError, RegistryStatus, Source};
use crate::start::StartError;
use crate::terminal::visible_json;
use crate::time_text::rfc3339;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The same, but only who is to be asked had to be known.
    #[error(
        "{0}\nlisten.admin cannot be told from such a file: say --admin 127.0.0.1:9113, or whatever it was"
    )]
    NoAddress(StartError),
    /// Neither redis nor a snapshot.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The portico that serves cannot be asked, or refuses.
    #[error(transparent)]
    Admin(#[from] AskError),
    /// It answers what makes no sense.
    #[error("portico at {0} gives an answer that makes no sense: is it of another version?")]
    Answer(String),
    /// The configuration says that nobody can be asked.
    #[error(
        "listen.admin is off in {0}: there is no administration to ask; --admin names another one"
    )]
    NoAdmin(String),
    /// There is no such tool.
    #[error("{0}")]
    NoTool(String),
    /// Standard output is gone, or no runtime can be had.
    #[error("cannot write the routes")]
    Io(#[from] io::Error),
}

/// A tool with all that is known of its routes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tool<'a> {
    #[serde(borrow)]
    pub(crate) tool: Cow<'a, str>,
    /// Who answers: `config`, `registry`, `ingress`, or `rename`.
    pub(crate) decided_by: Cow<'a, str>,
    /// Since when redis does not hold it although it is in use; `null`: redis holds it.
    pub(crate) held_back: Option<Held>,
    /// Static routes first: they win.
    pub(crate) entries: Vec<Routes<'a>>,
}

/// How long a tool is held back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) since: String,
    /// `null`: it is kept by hand.
    pub(crate) until: Option<String>,
}

/// What one source says of a tool.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Routes<'a> {
    /// `config` or `registry`.
    #[serde(borrow)]
    pub(crate) source: Cow<'a, str>,
    /// Legacy paths redirect to the tool's own host.
    pub(crate) redirect: bool,
    /// In the order in which they are tried.
    pub(crate) routes: Vec<Route<'a>>,
    /// Skipped, and why.
    pub(crate) bad: Vec<Bad<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route<'a> {
    #[serde(borrow)]
    pub(crate) pattern: Cow<'a, str>,
    pub(crate) backend: Cow<'a, str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bad<'a> {
    #[serde(borrow)]
    pub(crate) pattern: Cow<'a, str>,
    pub(crate) backend: Cow<'a, str>,
    pub(crate) reason: Cow<'a, str>,
}

/// A key of redis that names no possible tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BadKey {
    pub(crate) key: String,
    pub(crate) reason: String,
}

/// What stands before a list of tools: how many there are, where the table is from, how old it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) matching: usize,
    /// `redis` or `snapshot`; `null`: there is no registry.
    pub(crate) source: Option<String>,
    /// Only of a snapshot.
    pub(crate) snapshot_written: Option<String>,
    /// When the table was last what redis held; `null`: never since the start.
    pub(crate) last_sync: Option<String>,
    pub(crate) age_seconds: Option<u64>,
    /// Only if what is bad was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bad_keys: Option<Vec<BadKey>>,
}

impl Head {
    /// As the task that keeps the table tells it.
    pub(crate) fn of(status: &RegistryStatus, now: SystemTime) -> Self {
        let last_sync = status.last_sync();
        let age = last_sync.map(|sync| now.duration_since(sync).unwrap_or_default());
        Self {
            last_sync: last_sync.map(rfc3339),
            age_seconds: age.map(|age| age.as_secs()),
            ..Self::from(status.source())
        }
    }

    /// The JSON up to the first tool.
    pub(crate) fn opened(&self) -> Vec<u8> {
        // Into memory, and strings, lists and numbers only: it cannot fail.
        let mut bytes = Vec::new();
        let _ = write_json(&mut bytes, self);
        bytes.pop();
        bytes.extend_from_slice(b", \"tools\": [");
        bytes
    }
}

impl From<Source> for Head {
    fn from(source: Source) -> Self {
        let (source, written) = match source {
            Source::Redis => ("redis", None),
            Source::Snapshot(written) => ("snapshot", Some(written)),
        };
        Self {
            source: Some(source.to_owned()),
            snapshot_written: written.map(rfc3339),
            ..Self::default()
        }
    }
}

impl Held {
    pub(crate) fn of(held: &HeldTool) -> Self {
        Self {
            since: rfc3339(held.since),
            until: held.until.map(rfc3339),
        }
    }
}

/// The keys in redis that name no possible tool.
pub(crate) fn bad_keys(status: &RegistryStatus) -> Vec<BadKey> {
    let keys = status.bad_key_list().into_iter();
    keys.map(|bad| BadKey {
        key: bad.key.into(),
        reason: bad.reason.into(),
    })
    .collect()
}

/// What the configuration and the registry say of a tool.
pub(crate) fn tool<'a>(
    rules: &'a Rules,
    tool: &'a str,
    registry: Option<&'a Entry>,
    held: Option<&HeldTool>,
) -> Tool<'a> {
    let fixed = rules.routes.get(tool).map(|entry| ("config", &**entry));
    let entries = [fixed, registry.map(|entry| ("registry", entry))];
    Tool {
        tool: tool.into(),
        decided_by: decided_by(rules, tool, registry).into(),
        held_back: held.map(Held::of),
        entries: (entries.into_iter().flatten())
            .map(|(source, entry)| routes_of(source, entry))
            .collect(),
    }
}

/// Who decides at the tool's own host when the path fits.
fn decided_by(rules: &Rules, tool: &str, registry: Option<&Entry>) -> &'static str {
    let domains = &rules.domains;
    if domains.reserved.contains(tool) {
        "ingress"
    } else if domains.renamed(tool).is_some() {
        "rename"
    } else if rules.routes.contains_key(tool) {
        "config"
    } else if registry.is_some_and(|entry| !entry.routes.is_empty()) {
        "registry"
    } else {
        "ingress"
    }
}

fn routes_of<'a>(source: &'a str, entry: &'a Entry) -> Routes<'a> {
    Routes {
        source: source.into(),
        redirect: entry.redirect,
        routes: good_routes(entry),
        bad: bad_routes(entry),
    }
}

/// The routes of an entry, in the order in which they are tried.
pub(crate) fn good_routes(entry: &Entry) -> Vec<Route<'_>> {
    let routes = entry.routes.iter().map(|route| Route {
        pattern: route.pattern.source().into(),
        backend: route.backend.to_string().into(),
    });
    routes.collect()
}

/// What was skipped of an entry.
pub(crate) fn bad_routes(entry: &Entry) -> Vec<Bad<'_>> {
    let bad = entry.bad.iter().map(|bad| Bad {
        pattern: (&*bad.field).into(),
        backend: (&*bad.value).into(),
        reason: (&*bad.reason).into(),
    });
    bad.collect()
}

/// Writes it as JSON that harms no terminal.
pub(crate) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(visible_json(&serde_json::to_string(value)?).as_bytes())
}

/// The address to ask: the one given, or that of the configuration.
pub(crate) fn admin_address(admin: Option<&str>, config: &Path) -> Result<String, RoutesError> {
    if let Some(address) = admin {
        return Ok(address.to_owned());
    }
    let loaded = portico_config::load(config);
    let loaded = loaded.map_err(|error| RoutesError::NoAddress(error.into()))?;
    match &loaded.config.listen.admin {
        Some(address) => Ok(address.to_string()),
        None => Err(RoutesError::NoAdmin(config.display().to_string())),
    }
}

/// What the commands wait on.
pub(crate) fn runtime() -> io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
}
