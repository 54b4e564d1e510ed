//! A changed configuration without a restart: build, check, swap.
//!
//! [`prepare`] does everything that can fail: it reads and checks the file, loads certificates and
//! templates, builds the snapshot and binds new addresses. Only then does the control thread
//! [`apply`](Ready::apply) it, which cannot fail. So a failure changes nothing, and a request sees one
//! configuration or the other. Connections, WebSockets and streams are not touched; each request
//! takes the snapshot of its beginning, and an HTTP/2 connection keeps the limits that it announced.
//!
//! What is adopted: nodes that are up or down, TLS ticket keys, places for connections, counts per
//! tool, the routing table. What cannot change without a restart stays as it is, with a warning:
//! see [`keep`].

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use portico_config::Config;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::failure_text::one_line;
use crate::listen::{self, Address, ListenError};
use crate::logging;
use crate::process::Process;
use crate::server::{Listener, Order};
use crate::snapshot::Snapshot;
use crate::start::{self, Built, StartError};

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
    let bound = listen::bind(&without(&wanted, listening), listening, workers)?;
    Ok(Ready {
        built,
        new: bound
            .into_iter()
            .map(listen::Bound::listen)
            .collect::<Result<_, _>>()?,
        gone: without(listening, &wanted),
        listening: wanted,
    })
}

/// Keeps what a running process cannot change.
fn keep(config: &mut Config, in_force: &Config, warnings: &mut Vec<String>) {
    let mut needs_restart = |key: &str| {
        warnings.push(format!(
            "{key} has changed, which takes effect at a restart only: the old value stays in force"
        ));
    };
    if config.server.workers != in_force.server.workers {
        needs_restart("server.workers");
        config.server.workers = in_force.server.workers;
    }
    match (&mut config.registry, &in_force.registry) {
        (Some(new), Some(old)) => {
            if new.url != old.url {
                needs_restart("registry.url");
            }
            if new.snapshot != old.snapshot {
                needs_restart("registry.snapshot");
            }
            if new.mass_removal != old.mass_removal {
                needs_restart("registry.mass_removal");
            }
            let backends = std::mem::take(&mut new.backends);
            *new = portico_config::Registry {
                backends,
                ..old.clone()
            };
        }
        (None, None) => {}
        (new, old) => {
            needs_restart("[registry]");
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
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// Notes and logs what came of one.
    pub fn note(&self, outcome: &Result<ReloadReport, String>) {
        match outcome {
            Ok(report) => {
                self.succeeded.fetch_add(1, Relaxed);
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
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(LastReload {
            time: SystemTime::now(),
            outcome: outcome.clone(),
        });
    }
}
