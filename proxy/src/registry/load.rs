//! The table for commands that print or compare it, loaded once; and snapshots outside of their
//! place on disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use portico_config as config;
use portico_routing::table::Table;

use super::disk::{MAX_FILE_BYTES, Snapshot, SnapshotError, ToolRecord, layout};
use super::endpoint::Endpoint;
use super::saver::read_snapshot;
use super::{Admit, Changed, Registry, RegistryError, RegistryStatus, Source, endpoint};
use crate::policy::backends::RegistryServers;

/// What a snapshot holds: the good routes of the registry.
#[derive(Debug)]
pub struct SavedTable {
    /// When its routes were last known to be what redis held, in whole seconds.
    pub written: SystemTime,
    /// Its tools, in no order.
    pub tools: Vec<SavedTool>,
}

/// One tool of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedTool {
    /// Its name.
    pub name: Box<str>,
    /// It moved to its own host.
    pub redirect: bool,
    /// Pattern and backend.
    pub routes: Vec<(Box<str>, Box<str>)>,
}

/// Hosts (names or addresses) and ports of the redis of `config`, or of its sentinels, which routes
/// must not point at; none for a unix socket.
pub fn server_addresses(config: &config::Registry) -> Vec<(String, u16)> {
    endpoint::server_addresses(&config.url)
}

/// Where the redis of `config` is, for people: never a password.
pub fn described(config: &config::Registry) -> String {
    let endpoint = Endpoint::new(&config.url, &RegistryServers::default());
    endpoint.map_or_else(|error| error.to_string(), |endpoint| endpoint.address)
}

/// The table as `portico run` would start with it, for `portico routes`.
///
/// # Errors
/// As [`Registry::start`].
pub async fn load_once(
    config: &config::Registry,
    admit: Admit,
) -> Result<(Arc<Table>, Source), RegistryError> {
    let table = Arc::new(Table::new());
    let source = load_into(config, Arc::clone(&table), admit).await?;
    Ok((table, source))
}

/// The same into a table that is there.
///
/// # Errors
/// As [`Registry::start`].
pub async fn load_into(
    config: &config::Registry,
    table: Arc<Table>,
    admit: Admit,
) -> Result<Source, RegistryError> {
    load_with(config, table, Arc::default(), admit).await
}

/// The same, and how it stands is told in `status`.
///
/// # Errors
/// As [`Registry::start`].
pub async fn load_with(
    config: &config::Registry,
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    admit: Admit,
) -> Result<Source, RegistryError> {
    let changed: Changed = Arc::new(|_, _| {});
    let registry = Registry::start(config, table, status, admit, changed).await?;
    Ok(registry.status.source())
}

/// Fills the table from the snapshot on disk, without asking redis.
///
/// # Errors
/// There is no usable snapshot.
pub async fn load_snapshot(
    config: &config::Registry,
    table: &Table,
    admit: &Admit,
) -> Result<Source, RegistryError> {
    let path = config.snapshot.display();
    let why_not = match read_snapshot(&config.snapshot).await {
        Ok(Some(snapshot)) => {
            for tool in snapshot.tools() {
                table.set(tool.name, table.bounded(tool.name, tool.entry(&**admit)));
            }
            return Ok(Source::Snapshot(snapshot.written));
        }
        Ok(None) => format!("there is no snapshot of the routes at {path}"),
        Err(error) => format!("the snapshot of the routes at {path} cannot be used: {error}"),
    };
    Err(RegistryError::Snapshot(why_not))
}

/// Reads the snapshot at `path`, which may be a link or a pipe. Blocks on the disk.
///
/// # Errors
/// There is none, or it cannot be used.
pub fn read_snapshot_file(path: &Path) -> Result<SavedTable, RegistryError> {
    let read = || -> Result<SavedTable, SnapshotError> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(SnapshotError::TooLarge);
        }
        Ok(layout::decode(bytes)?.into())
    };
    read().map_err(|error| {
        let shown = path.display();
        RegistryError::Snapshot(match error {
            SnapshotError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("there is no snapshot of the routes at {shown}")
            }
            error => format!("the snapshot of the routes at {shown} cannot be used: {error}"),
        })
    })
}

/// Reads a snapshot that came from elsewhere.
///
/// # Errors
/// It cannot be used.
pub fn decode_snapshot(bytes: Vec<u8>) -> Result<SavedTable, RegistryError> {
    let decoded = layout::decode(bytes).map(SavedTable::from);
    decoded.map_err(|error| {
        RegistryError::Snapshot(format!("the snapshot that came cannot be used: {error}"))
    })
}

/// Writes `table` to `out` as a snapshot file has it; returns the number of tools. The table may
/// change meanwhile. What it drops meanwhile stays in memory until the end: `out` must not take
/// for ever.
///
/// # Errors
/// `out` takes no more.
pub fn write_snapshot(
    table: &Table,
    status: &RegistryStatus,
    out: &mut impl Write,
) -> io::Result<u64> {
    let kept = |tool: &str| status.removals().is_kept(tool);
    layout::encode(table, &kept, status.table_time(), out)
}

impl From<Snapshot> for SavedTable {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            written: snapshot.written,
            tools: snapshot.tools().map(SavedTool::from).collect(),
        }
    }
}

impl From<ToolRecord<'_>> for SavedTool {
    fn from(tool: ToolRecord<'_>) -> Self {
        let routes = tool.routes.into_iter();
        Self {
            name: tool.name.into(),
            redirect: tool.redirect,
            routes: routes.map(|(p, b)| (p.into(), b.into())).collect(),
        }
    }
}
