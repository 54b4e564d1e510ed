//! `portico run`: binds, loads the routes, starts the workers, and is the control
//! thread until the end.
//!
//! The control thread does everything that is not a request: it keeps the registry in step,
//! resolves names, checks nodes, watches certificates, sweeps counters, and listens to signals. It
//! shares no runtime with the workers, so that none of this can delay a request.
//!
//! SIGTERM and SIGINT drain: listeners close, requests in flight end, idle connections get
//! [`IDLE_GRACE`] for a request that may be on its way already. What is left after `server.drain`
//! is cut. A second signal ends at once.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portico_config::LogLevel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::listen::{self, Bound, ListenError};
use crate::process::Process;
use crate::registry::{Registry, RegistryError};
use crate::server::{self, Seed};
use crate::start::{self, Prepared, StartError};
use crate::tls::{CertificateStore, RELOAD_INTERVAL};
use crate::upstream::resolve::FORGET_AFTER;
use crate::worker::Phase;

/// How long an idle connection stays open after the stop began: a request that the client has sent
/// meanwhile is answered, where a close would meet it half-way.
const IDLE_GRACE: Duration = Duration::from_secs(2);
/// How often counters without a use are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often the names of routes and pools are said to be wanted still.
const NAMES_INTERVAL: Duration = Duration::from_secs(FORGET_AFTER.as_secs() / 4);

/// Why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing was started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no table to start with.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The system refuses what every process needs.
    #[error("the system refuses to let portico start")]
    System(#[from] io::Error),
    /// What keeps routes, names, checks or certificates fresh ended on its own.
    #[error(
        "a task of the control thread ended, which is a defect of portico: see the log above; the process stops, after a drain, so that it is restarted whole"
    )]
    UpkeepEnded,
    /// A worker ended on its own.
    #[error(
        "a worker thread ended, which is a defect of portico: see the log above; the process stops so that it is restarted whole"
    )]
    WorkerEnded,
}

/// Serves with the configuration in `path` until a signal says stop.
///
/// # Errors
/// [`RunError`]
pub fn run(path: &Path) -> Result<(), RunError> {
    let prepared = start::prepare(path)?;
    init_logging(prepared.process.snapshot.load().config.log.level);
    serve(prepared, |_| {})
}

/// Serves what was prepared; `ready` is called when connections are accepted.
///
/// # Errors
/// [`RunError`]
pub fn serve(prepared: Prepared, ready: impl FnOnce(&Process)) -> Result<(), RunError> {
    for warning in &prepared.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let done = runtime.block_on(control(prepared, ready));
    // A name that is being resolved, or a file on a disk that hangs, must not hold up the end.
    runtime.shutdown_background();
    done
}

/// Sends diagnostics to standard error. Called once.
pub fn init_logging(level: LogLevel) {
    use tracing_subscriber::filter::EnvFilter;
    let level = level.as_str();
    // Other crates speak only of what is wrong; portico at its configured level.
    let filter = EnvFilter::new(format!("warn,portico={level}"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .try_init();
}

async fn control(prepared: Prepared, ready: impl FnOnce(&Process)) -> Result<(), RunError> {
    // Before anything that takes time, so that a signal during the start is not lost.
    let mut stop = StopSignals::new()?;
    let mut unused = UnusedSignals::new()?;
    let snapshot = prepared.process.snapshot.load_full();
    let config = &snapshot.config;
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let sockets = listen::bind(&config.listen, workers)?;
    let started = tokio::select! {
        started = start_registry(&prepared) => started?,
        () = stop.next() => return Ok(()),
    };
    let mut upkeep = spawn_upkeep(&prepared.process, prepared.certificates.clone());
    if let Some(registry) = started {
        upkeep.spawn_local(registry.run());
    }
    let (phase, mut ended) = spawn_workers(&prepared, sockets)?;
    info!(
        workers,
        http = ?config.listen.http,
        https = ?config.listen.https,
        routes = prepared.process.table.len(),
        "portico serves"
    );
    ready(&prepared.process);
    let done = loop {
        tokio::select! {
            () = stop.next() => break Ok(()),
            Some(task) = upkeep.join_next() => {
                error!(panicked = task.is_err(), "a task of the control thread ended unexpectedly");
                break Err(RunError::UpkeepEnded);
            }
            name = unused.next() => {
                warn!("{name} does nothing yet: restart portico to apply a changed configuration; certificates are reloaded by themselves");
            }
            worker = ended.recv() => {
                error!(?worker, "a worker thread ended unexpectedly");
                return Err(RunError::WorkerEnded);
            }
        }
    };
    drain(config.server.drain, &phase, &mut ended, workers, &mut stop).await;
    done
}

async fn start_registry(prepared: &Prepared) -> Result<Option<Registry>, RegistryError> {
    let snapshot = prepared.process.snapshot.load_full();
    let Some(config) = &snapshot.config.registry else {
        return Ok(None);
    };
    let table = Arc::clone(&prepared.process.table);
    let status = Arc::clone(&prepared.process.registry);
    let registry =
        Registry::start(config, table, status, prepared.admit(), prepared.changed()).await?;
    Ok(Some(registry))
}

/// Starts what repeats for ever on the control thread. None of it ends, but by a defect.
fn spawn_upkeep(
    process: &Arc<Process>,
    certificates: Option<Arc<CertificateStore>>,
) -> JoinSet<()> {
    let mut upkeep = JoinSet::new();
    let resolver = Arc::clone(&process.resolver);
    upkeep.spawn_local(async move { resolver.run().await });
    if let Some(pool) = &process.snapshot.load().ingress {
        upkeep.spawn_local(Arc::clone(pool).run_checks(Arc::clone(&process.resolver)));
    }
    if let Some(certificates) = certificates {
        upkeep.spawn_local(async move {
            loop {
                sleep(RELOAD_INTERVAL).await;
                let certificates = Arc::clone(&certificates);
                // Files may be on a slow disk: not on the control thread itself.
                let _ = tokio::task::spawn_blocking(move || certificates.reload_changed()).await;
            }
        });
    }
    let shared = Arc::clone(process);
    upkeep.spawn_local(async move {
        loop {
            sleep(SWEEP_INTERVAL).await;
            shared.tools.sweep();
        }
    });
    let shared = Arc::clone(process);
    upkeep.spawn_local(async move {
        loop {
            sleep(NAMES_INTERVAL).await;
            start::keep_names(&shared);
        }
    });
    upkeep
}

/// Starts a thread for each set of sockets. The receiver tells which one ended.
fn spawn_workers(
    prepared: &Prepared,
    sockets: Vec<Bound>,
) -> io::Result<(watch::Sender<Phase>, mpsc::UnboundedReceiver<usize>)> {
    let (phase, watching) = watch::channel(Phase::Serving);
    let (end, ended) = mpsc::unbounded_channel();
    for (index, bound) in sockets.into_iter().enumerate() {
        let seed = Seed {
            process: Arc::clone(&prepared.process),
            listeners: bound.listen()?,
            tls: prepared.tls.clone(),
            phase: watching.clone(),
        };
        let ending = Ending(end.clone(), index);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _ending = ending;
                if let Err(error) = server::run(seed) {
                    error!(%error, "a worker cannot run");
                }
            })?;
    }
    Ok((phase, ended))
}

/// Says that a worker ended, also when it panicked.
struct Ending(mpsc::UnboundedSender<usize>, usize);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

async fn drain(
    limit: Duration,
    phase: &watch::Sender<Phase>,
    ended: &mut mpsc::UnboundedReceiver<usize>,
    workers: usize,
    stop: &mut StopSignals,
) {
    info!(limit = ?limit, "stopping: no new connections, requests in flight may finish; a second signal ends at once");
    let _ = phase.send(Phase::Draining);
    let begin = Instant::now();
    let mut left = workers;
    let mut idle_closed = false;
    while left > 0 {
        tokio::select! {
            _ = ended.recv() => left -= 1,
            () = sleep_until(begin + IDLE_GRACE.min(limit / 2)), if !idle_closed => {
                idle_closed = true;
                let _ = phase.send(Phase::CloseIdle);
            }
            () = sleep_until(begin + limit) => {
                warn!(workers = left, "server.drain is over: the connections that are left are cut");
                return;
            }
            () = stop.next() => {
                warn!("a second signal: the connections that are left are cut");
                return;
            }
        }
    }
    info!(after = ?begin.elapsed(), "stopped: every request in flight was answered");
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Signals that mean something to other proxies, and not yet to portico. Each of them would end the
/// process if it were not caught, and tools that rotate logs send SIGUSR1 to whatever they know.
struct UnusedSignals {
    hangup: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    user2: tokio::signal::unix::Signal,
}

impl UnusedSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.user1.recv() => "SIGUSR1",
            _ = self.user2.recv() => "SIGUSR2",
        }
    }
}
