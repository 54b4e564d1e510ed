//! The table for commands that print it, loaded once.

use std::sync::Arc;

use portico_config as config;
use portico_routing::table::Table;

use super::saver::read_snapshot;
use super::{Admit, Changed, Registry, RegistryError, Source, endpoint};

/// Hosts (names or addresses) and ports of the redis of `config`, or of its sentinels, which routes
/// must not point at; none for a unix socket.
pub fn server_addresses(config: &config::Registry) -> Vec<(String, u16)> {
    endpoint::server_addresses(&config.url)
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
    let changed: Changed = Arc::new(|_, _| {});
    let registry = Registry::start(config, table, Arc::default(), admit, changed).await?;
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
            for tool in &snapshot.tools {
                table.set(&tool.name, tool.entry(&**admit));
            }
            return Ok(Source::Snapshot(snapshot.written));
        }
        Ok(None) => format!("there is no snapshot of the routes at {path}"),
        Err(error) => format!("the snapshot of the routes at {path} cannot be used: {error}"),
    };
    Err(RegistryError::Snapshot(why_not))
}
