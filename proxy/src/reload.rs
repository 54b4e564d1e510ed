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
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use portico_config::Config;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::admin::Admin;
use crate::failure_text::one_line;
use crate::listen::{self, Address, ListenError};
use crate::logging;
use crate::process::Process;
use crate::server::{Listener, Order};
use crate::snapshot::Snapshot;
use crate::start::{self, Built, StartError};
use crate::telemetry::access_log;

/// Asks the control thread for a reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// What came of it; the error is for people, with all mistakes.
    pub answer: oneshot::Sender<Result<ReloadReport, String>>,
}

/// A reload that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// What is odd, and what needs a restart.
    pub warnings: Vec<String>,
}

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
    in_force: &Snapshot,
    listening: &[Address],
    workers: usize,
    counts: &Arc<access_log::Counts>,
) -> Result<Ready, ReloadError> {
    let loaded = portico_config::load(path).map_err(StartError::from)?;
    let mut warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut config = loaded.config;
    keep(&mut config, &in_force.config, &mut warnings);
    let built = start::build(config, warnings, Some(in_force))?;
    let wanted = listen::addresses(&built.snapshot.config.listen);
    let without = |some: &[Address], others: &[Address]| -> Vec<Address> {
        let of_some = some.iter().filter(|address| !others.contains(address));
        of_some.copied().collect()
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
    let opened = built.snapshot.open_access_log(Some(in_force), counts);
    opened.map_err(StartError::from)?;
    Ok(Ready {
        admin,
        built,
        new,
        gone: without(listening, &wanted),
        listening: wanted,
    })
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

/// What became of reloads since the start; for metrics and the status.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Option<LastReload>>,
    last_success: Mutex<Option<SystemTime>>,
}

/// The last reload.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub time: SystemTime,
    /// What came of it.
    pub outcome: Result<ReloadReport, String>,
}

impl Reloads {
    /// How many succeeded.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// How many failed, and changed nothing.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// The last one; `None`: the configuration is that of the start.
    pub fn last(&self) -> Option<LastReload> {
        lock(&self.last).clone()
    }

    /// When the configuration in force was taken up; `None`: at the start.
    pub fn last_success(&self) -> Option<SystemTime> {
        *lock(&self.last_success)
    }

    /// Notes and logs what came of one.
    pub fn note(&self, outcome: &Result<ReloadReport, String>) {
        match outcome {
            Ok(report) => {
                self.succeeded.fetch_add(1, Relaxed);
                *lock(&self.last_success) = Some(SystemTime::now());
                for warning in &report.warnings {
                    warn!("{}", one_line(warning));
                }
                info!(
                    warnings = report.warnings.len(),
                    "the configuration was reloaded"
                );
            }
            Err(mistakes) => {
                self.failed.fetch_add(1, Relaxed);
                error!(
                    "the configuration was not reloaded, and the old one stays in force: {}",
                    one_line(mistakes)
                );
            }
        }
        *lock(&self.last) = Some(LastReload {
            time: SystemTime::now(),
            outcome: outcome.clone(),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
