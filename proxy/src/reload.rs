//! A changed configuration without a restart: build, check, swap.
//!
//! [`prepare`] does everything that can fail: it reads and checks the file, loads certificates and
//! templates, builds the snapshot and binds new addresses. Only then does the control thread
//! [`apply`](Ready::apply) it, which cannot fail. So a failure changes nothing, and a request sees one
//! configuration or the other. Connections, WebSockets and streams are not touched; each request
//! takes the snapshot of its beginning, and an HTTP/2 connection keeps the limits that it announced.
//!
//! What is adopted: nodes that are up or down, TLS ticket keys, places for connections, counts per
//! tool, the routing table. The administration may move; its old address answers what it was asked
//! already. What cannot change without a restart stays as it is, with a warning:
//! see [`keep`].

use std::path::Path;
use std::sync::Arc;

use portico_config::{Config, Log};

use crate::admin::Admin;
use crate::listen::{self, Address, ListenError, Listener};
use crate::logging;
use crate::process::Process;
use crate::reloads::ReloadReport;
use crate::server::Order;
use crate::start::{self, Built, StartError};
use crate::telemetry::access_log::AccessLog;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A new address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses.
    #[error("the system refuses to listen")]
    System(#[from] std::io::Error),
}

/// A configuration that is ready to take the place of the one in force.
#[derive(Debug)]
pub struct Ready {
    /// The administration, if it moves; `Some(None)`: it is switched off.
    pub admin: Option<Option<Admin>>,
    built: Built,
    access_log: Option<Arc<AccessLog>>,
    listening: Vec<Address>,
    /// For each worker.
    new: Vec<Vec<Listener>>,
    gone: Vec<Address>,
}

/// Reads `path` and prepares what it asks for. Waits for the disk. `listening`: the addresses in use,
/// by each of `workers`.
///
/// # Errors
/// [`ReloadError`]; nothing was changed.
pub fn prepare(
    path: &Path,
    process: &Process,
    listening: &[Address],
    workers: usize,
) -> Result<Ready, ReloadError> {
    let in_force = process.snapshot.load_full();
    let loaded = portico_config::load(path).map_err(StartError::from)?;
    let mut warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut config = loaded.config;
    keep(&mut config, &in_force.config, &mut warnings);
    let built = start::build(config, warnings, Some(&in_force))?;
    let wanted = listen::addresses(&built.snapshot.config);
    let without = |some: &[Address], others: &[Address]| -> Vec<Address> {
        let of_some = some.iter().filter(|address| !others.contains(address));
        of_some.cloned().collect()
    };
    let admin = &built.snapshot.config.listen.admin;
    let admin = match *admin == in_force.config.listen.admin {
        true => None,
        false => Some(admin.as_ref().map(Admin::bind).transpose()?),
    };
    let bound = listen::bind(&without(&wanted, listening), listening, workers)?;
    let new = bound.into_iter().map(listen::Bound::listen);
    let new = new.collect::<Result<_, _>>()?;
    // Last, because it may make a file.
    let log = &built.snapshot.config.log;
    let opened = open_access_log(log, process)?;
    Ok(Ready {
        access_log: opened,
        admin,
        built,
        new,
        gone: without(listening, &wanted),
        listening: wanted,
    })
}

/// Opens the access log that the configuration asks for, or keeps the one that is open.
///
/// # Errors
/// [`StartError::AccessLog`]
pub fn open_access_log(
    config: &Log,
    process: &Process,
) -> Result<Option<Arc<AccessLog>>, StartError> {
    let open = process.access_log.load();
    Ok(AccessLog::open(
        config,
        open.as_ref(),
        &process.access_log_counts,
    )?)
}

/// Keeps what a running process cannot change.
fn keep(config: &mut Config, in_force: &Config, warnings: &mut Vec<String>) {
    const WHY: &str = "changed in the file, which takes effect at a restart";
    let mut needs_restart = |key: &str| {
        warnings.push(format!(
            "{key} has changed, which takes effect at a restart only: the old value stays in force"
        ));
    };
    let (shown, old_shown) = (&mut config.settings, &in_force.settings);
    if config.server.workers != in_force.server.workers {
        needs_restart("server.workers");
        config.server.workers = in_force.server.workers;
        shown.keep(old_shown, "server", Some("workers"), WHY);
    }
    match (&mut config.registry, &in_force.registry) {
        (Some(new), Some(old)) => {
            let mut keep = |changed: bool, key: &str| {
                if changed {
                    needs_restart(&format!("registry.{key}"));
                    shown.keep(old_shown, "registry", Some(key), WHY);
                }
            };
            keep(new.url != old.url, "url");
            keep(new.snapshot != old.snapshot, "snapshot");
            keep(new.mass_removal != old.mass_removal, "mass_removal");
            let backends = std::mem::take(&mut new.backends);
            *new = portico_config::Registry {
                backends,
                ..old.clone()
            };
        }
        (None, None) => {}
        (new, old) => {
            needs_restart("[registry]");
            shown.keep(old_shown, "registry", None, WHY);
            new.clone_from(old);
        }
    }
}

impl Ready {
    /// Puts it in force. `orders`: the way to each worker. Says what is listened on now.
    pub fn apply(
        self,
        process: &Process,
        mut order: impl FnMut(usize, Order),
    ) -> (Vec<Address>, ReloadReport) {
        let Built {
            snapshot,
            descriptors,
            warnings,
        } = self.built;
        logging::set_level(snapshot.config.log.level);
        process.connections.resize(descriptors.clients);
        process.backends.resize(descriptors.backends);
        start::want_names(&snapshot.config, &process.resolver);
        process.access_log.store(self.access_log);
        snapshot.pools.configure(&snapshot.config.pools);
        process.snapshot.store(snapshot.into());
        for (worker, listeners) in self.new.into_iter().enumerate() {
            if !listeners.is_empty() {
                order(worker, Order::Listen(listeners));
            }
            if !self.gone.is_empty() {
                order(worker, Order::Unlisten(self.gone.clone()));
            }
        }
        (self.listening, ReloadReport { warnings })
    }
}
