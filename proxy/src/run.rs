//! `portico run`: binds, loads the routes, starts the workers, and is the control
//! thread until the end.
//!
//! The control thread does everything that is not a request: it keeps the registry in step,
//! resolves names, checks nodes, watches certificates, sweeps counters, and listens to signals. It
//! shares no runtime with the workers, so that none of this can delay a request.
//!
//! SIGHUP, and the administration, load the configuration anew: see `reload`. SIGTERM and SIGINT
//! drain: listeners close, requests in flight end, idle connections get [`IDLE_GRACE`] for a request
//! that may be on its way already. What is left after `server.drain` is cut. A second signal ends at
//! once. The administration answers from before the routes are loaded until the very end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::failure_text::{one_line, with_sources};
use crate::listen::{self, Address, Bound, ListenError};
use crate::logging;
use crate::pools::checks::Checks;
use crate::process::{Process, Stage};
use crate::registry::{Registry, RegistryError};
use crate::reload;
use crate::reloads::{ReloadReport, ReloadRequest};
use crate::server::{self, Order, Seed};
use crate::signals::{StopSignals, Wish, Wishes};
use crate::start::{self, Prepared, StartError};
use crate::telemetry::access_log;
use crate::tls::{RELOAD_INTERVAL, ServerTls};
use crate::upstream::resolve::FORGET_AFTER;
use crate::worker::Phase;

/// How long an idle connection stays open after the stop began: a request that the client has sent
/// meanwhile is answered, where a close would meet it half-way.
const IDLE_GRACE: Duration = Duration::from_secs(2);
/// How long workers may take to drop what is cut.
const CUT_LIMIT: Duration = Duration::from_secs(1);
/// Requests for a reload that may wait for the one under way.
const RELOADS_WAITING: usize = 16;
/// Commands to the registry that may wait for the one under way.
const COMMANDS_WAITING: usize = 4;
/// How long a reload may read and check. A disk that hangs, or a named pipe in place of the file, must
/// not keep the control thread from the next signal.
const RELOAD_LIMIT: Duration = Duration::from_secs(30);
/// How often counters without a use are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a start waits for names to be resolved: a request for a backend whose name is not gets 502.
const NAMES_LIMIT: Duration = Duration::from_secs(1);
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
    // Before certificates and names are looked at, which takes time: these signals end a process
    // that does not catch them, and systemd takes SIGHUP for a clean end.
    let (runtime, wishes) = control_runtime()?;
    let prepared = start::prepare(path)?;
    logging::init(prepared.process.snapshot.load().config.log.level);
    serve_on(runtime, wishes, prepared, Some(path), |_| {})
}

/// What the control thread runs on, and the signals that it has caught from then on.
fn control_runtime() -> io::Result<(LocalRuntime, Wishes)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let wishes = {
        let _in_runtime = runtime.enter();
        Wishes::new()?
    };
    Ok((runtime, wishes))
}

/// Serves what was prepared; `ready` is called when connections are accepted. `path`: what a reload
/// reads.
///
/// # Errors
/// [`RunError`]
pub fn serve(
    prepared: Prepared,
    path: Option<&Path>,
    ready: impl FnOnce(&Process),
) -> Result<(), RunError> {
    let (runtime, wishes) = control_runtime()?;
    serve_on(runtime, wishes, prepared, path, ready)
}

fn serve_on(
    runtime: LocalRuntime,
    wishes: Wishes,
    prepared: Prepared,
    path: Option<&Path>,
    ready: impl FnOnce(&Process),
) -> Result<(), RunError> {
    for warning in &prepared.warnings {
        warn!("{}", one_line(warning));
    }
    let process = Arc::clone(&prepared.process);
    let opened = reload::open_access_log(&process.snapshot.load().config.log, &process)?;
    process.access_log.store(opened);
    let done = runtime.block_on(control(wishes, prepared, path, ready));
    if let Some(log) = &*process.access_log.load() {
        log.finish(access_log::LAST_WORDS);
    }
    // A name that is being resolved, or a file on a disk that hangs, must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn control(
    mut wishes: Wishes,
    prepared: Prepared,
    path: Option<&Path>,
    ready: impl FnOnce(&Process),
) -> Result<(), RunError> {
    // Before anything that takes time, so that a signal during the start is not lost.
    let mut stop = StopSignals::new()?;
    let process = &prepared.process;
    let snapshot = process.snapshot.load_full();
    let config = &snapshot.config;
    let workers = start::worker_count(config);
    let listening = listen::addresses(config);
    let sockets = listen::bind(&listening, &[], workers)?;
    let (reload, mut reload_requests) = mpsc::channel(RELOADS_WAITING);
    let (commands, registry_commands) = mpsc::channel(COMMANDS_WAITING);
    let commands = config.registry.is_some().then_some(commands);
    let state = admin::State::new(Arc::clone(process), reload, commands);
    let mut admin = admin::Server::new(state);
    admin.follow(config.listen.admin.as_ref().map(Admin::bind).transpose()?);
    let registry = tokio::select! {
        started = start_registry(&prepared) => started?,
        () = stop.next() => return Ok(()),
    };
    let mut upkeep = spawn_upkeep(process);
    let recheck = registry.as_ref().map(Registry::recheck);
    let saver = registry.as_ref().map(Registry::saver);
    if let Some(registry) = registry {
        upkeep.spawn_local(registry.run(registry_commands));
    }
    process.resolver.tried_all(NAMES_LIMIT).await;
    let (phase, mut ended, orders) = spawn_workers(process, sockets)?;
    let mut running = Running {
        process: Arc::clone(process),
        path: path.map(Path::to_owned),
        listening,
        orders,
        recheck,
        checks: Checks::default(),
        admin,
    };
    running.checks.follow(process);
    let version = env!("CARGO_PKG_VERSION");
    info!(
        version,
        workers,
        http = ?config.listen.http,
        https = ?config.listen.https,
        tcp = ?config.tcp.iter().map(|listener| &*listener.name).collect::<Vec<_>>(),
        admin = config.listen.admin.as_ref().map(tracing::field::display),
        tools = process.table.len(),
        "portico serves"
    );
    process.enter(Stage::Serving);
    ready(process);
    let done = loop {
        tokio::select! {
            () = stop.next() => break Ok(()),
            Some(task) = upkeep.join_next() => {
                error!(panicked = task.is_err(), "a task of the control thread ended, which is a defect of portico; the process drains and ends, to be restarted whole");
                break Err(RunError::UpkeepEnded);
            }
            ended = running.checks.ended() => {
                error!(panicked = ended.is_err(), "the checks of a pool ended, which is a defect of portico; the process drains and ends, to be restarted whole");
                break Err(RunError::UpkeepEnded);
            }
            () = running.admin.ended() => break Err(RunError::UpkeepEnded),
            wish = wishes.next() => tokio::select! {
                () = running.grant(wish) => {}
                () = stop.next() => break Ok(()),
            },
            Some(request) = reload_requests.recv() => tokio::select! {
                () = running.reload_for(request) => {}
                () = stop.next() => break Ok(()),
            },
            worker = ended.recv() => {
                error!(?worker, "a worker thread ended, which is a defect of portico; the process ends at once, to be restarted whole");
                return Err(RunError::WorkerEnded);
            }
        }
    };
    // Who asks for a reload now is told that there will be none.
    drop(reload_requests);
    process.enter(Stage::Draining);
    drain(process, &phase, &mut ended, workers, &mut stop).await;
    if let Some(saver) = saver {
        tokio::select! {
            () = saver.finish() => {}
            () = stop.next() => {}
        }
    }
    done
}

async fn start_registry(prepared: &Prepared) -> Result<Option<Registry>, RegistryError> {
    let snapshot = prepared.process.snapshot.load_full();
    let Some(config) = &snapshot.config.registry else {
        return Ok(None);
    };
    let table = Arc::clone(&prepared.process.table);
    let status = Arc::clone(&prepared.process.registry_status);
    let registry =
        Registry::start(config, table, status, prepared.admit(), prepared.changed()).await?;
    Ok(Some(registry))
}

/// Starts what repeats for ever on the control thread. None of it ends, but by a defect.
fn spawn_upkeep(process: &Arc<Process>) -> JoinSet<()> {
    let mut upkeep = JoinSet::new();
    let resolver = Arc::clone(&process.resolver);
    upkeep.spawn_local(async move { resolver.run().await });
    let shared = Arc::clone(process);
    upkeep.spawn_local(async move {
        loop {
            sleep(RELOAD_INTERVAL).await;
            let tls = shared.snapshot.load().tls.clone();
            if let Some(ServerTls { certificates, .. }) = tls {
                // Files may be on a slow disk: not on the control thread itself.
                let _ = spawn_blocking(move || certificates.reload_changed()).await;
            }
        }
    });
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

/// What of the running process a reload changes.
struct Running {
    process: Arc<Process>,
    /// The configuration file; `None`: there is none to load again.
    path: Option<PathBuf>,
    listening: Vec<Address>,
    /// To each worker.
    orders: Vec<mpsc::UnboundedSender<Order>>,
    /// Has the routes judged anew.
    recheck: Option<Arc<Notify>>,
    checks: Checks,
    admin: admin::Server,
}

impl Running {
    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Reload => {
                self.reload().await.ok();
            }
            Wish::Reopen => match &*self.process.access_log.load() {
                Some(log) => log.reopen(),
                None => warn!("SIGUSR1 does nothing: there is no access log"),
            },
            Wish::Nothing => warn!("SIGUSR2 does nothing"),
        }
    }

    async fn reload_for(&mut self, request: ReloadRequest) {
        let outcome = self.reload().await;
        // Who asked may be gone.
        let _ = request.answer.send(outcome);
    }

    async fn reload(&mut self) -> Result<ReloadReport, String> {
        let ready = self.prepare().await;
        let outcome = ready.map(|mut ready| {
            let moved = ready.admin.take();
            let policy = self.process.snapshot.load().backends.clone();
            let orders = &self.orders;
            let (listening, report) = ready.apply(&self.process, |worker, order| {
                if let Some(orders) = orders.get(worker) {
                    // A worker that is gone ends the process anyway.
                    let _ = orders.send(order);
                }
            });
            self.listening = listening;
            self.checks.follow(&self.process);
            if let Some(bound) = moved {
                self.admin.follow(bound);
            }
            if policy != self.process.snapshot.load().backends
                && let Some(recheck) = &self.recheck
            {
                recheck.notify_one();
            }
            report
        });
        self.process.reloads.note(&outcome);
        outcome
    }

    /// Everything that may fail, or wait for the disk.
    async fn prepare(&self) -> Result<reload::Ready, String> {
        let Some(path) = self.path.clone() else {
            return Err("there is no configuration file to load".to_owned());
        };
        let process = Arc::clone(&self.process);
        let (listening, workers) = (self.listening.clone(), self.orders.len());
        let preparing =
            spawn_blocking(move || reload::prepare(&path, &process, &listening, workers));
        match timeout(RELOAD_LIMIT, preparing).await {
            Ok(Ok(prepared)) => prepared.map_err(|error| with_sources(&error)),
            Ok(Err(_)) => Err("a defect of portico: see the log above".to_owned()),
            // What it comes to later is thrown away.
            Err(_) => Err(format!(
                "the configuration, or a file that it names, could not be read within {} s: does a disk hang, or is it a named pipe?",
                RELOAD_LIMIT.as_secs()
            )),
        }
    }
}

/// What the control thread keeps of the workers: how it tells them the phase, which one ended, and
/// how it changes their listeners.
type Workers = (
    watch::Sender<Phase>,
    mpsc::UnboundedReceiver<usize>,
    Vec<mpsc::UnboundedSender<Order>>,
);

/// Starts a thread for each set of sockets.
fn spawn_workers(process: &Arc<Process>, sockets: Vec<Bound>) -> io::Result<Workers> {
    let (phase, watching) = watch::channel(Phase::Serving);
    let (end, ended) = mpsc::unbounded_channel();
    let mut all_orders = Vec::new();
    for (index, bound) in sockets.into_iter().enumerate() {
        let (order, orders) = mpsc::unbounded_channel();
        all_orders.push(order);
        let seed = Seed {
            index,
            process: Arc::clone(process),
            // Here, so that the order of shards is that of the threads' names.
            metrics: process.metrics.shard(),
            listeners: bound.listen()?,
            phase: watching.clone(),
            orders,
        };
        let ending = Ending(end.clone(), index);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _ending = ending;
                if let Err(error) = server::run(seed) {
                    error!(%error, "a worker cannot run, which ends the process; check memory, descriptors and threads of this machine");
                }
            })?;
    }
    Ok((phase, ended, all_orders))
}

/// Says that a worker ended, also when it panicked.
struct Ending(mpsc::UnboundedSender<usize>, usize);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

async fn drain(
    process: &Process,
    phase: &watch::Sender<Phase>,
    ended: &mut mpsc::UnboundedReceiver<usize>,
    workers: usize,
    stop: &mut StopSignals,
) {
    let limit = process.snapshot.load().config.server.drain;
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
                let connections = process.connections.taken();
                warn!(workers = left, connections, "server.drain is over: the connections that are left are cut");
                return cut(phase, ended, left).await;
            }
            () = stop.next() => {
                warn!("a second signal: the connections that are left are cut");
                return cut(phase, ended, left).await;
            }
        }
    }
    info!(after = ?begin.elapsed(), "stopped: every request in flight was answered");
}

/// Has the workers drop what is left, which is counted and logged, and waits a moment for that.
async fn cut(
    phase: &watch::Sender<Phase>,
    ended: &mut mpsc::UnboundedReceiver<usize>,
    workers: usize,
) {
    let _ = phase.send(Phase::Cut);
    let all = async {
        for _ in 0..workers {
            ended.recv().await;
        }
    };
    let _ = timeout(CUT_LIMIT, all).await;
}
