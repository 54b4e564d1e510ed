//! The routing table's source: redis, and the last known good table on disk.
//!
//! [`Registry::start`] subscribes and loads, or falls back to the snapshot; [`Registry::run`] keeps
//! the table in step for ever. This file does the input and output; what to read and what follows
//! from it is decided in `sync.rs`, `removal.rs`, `backoff.rs`, `pace.rs`, `hint.rs` and `probe.rs`,
//! which are pure. Requests never wait for anything here: they read the [`Table`].
//!
//! Does not resolve names, does not know static routes, and never writes to redis.
//!
//! Invariants: while redis is not reachable the table stays as it is, for ever; empty and
//! unreachable are different things; nothing waits for redis without a bound; the password reaches
//! no log and no error.

mod backoff;
mod bad_keys;
mod client;
mod commands;
mod compare;
mod disk;
mod endpoint;
mod entry;
mod held;
mod hint;
mod journal;
mod link;
mod link_error;
mod load;
mod mode;
mod news;
mod outage;
mod pace;
mod probe;
mod removal;
mod report;
mod saver;
mod sentinel;
mod status;
mod stored;
mod sync;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_config as config;
use portico_routing::backend::Backend;
use portico_routing::table::{Entry, Table};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, warn};

pub use bad_keys::BadKey;
pub use commands::{Command, CommandReport, CommandRequest};
pub use held::HeldTool;
pub use journal::{Cause, Change, Journal};
pub use load::{
    SavedTable, SavedTool, decode_snapshot, described, load_into, load_once, load_snapshot,
    load_with, read_snapshot_file, server_addresses, write_snapshot,
};
pub use mode::Mode;
pub use saver::Saver;
pub use status::{RegistryStatus, Source};

use crate::policy::backends::RegistryServers;
use crate::repeats::Repeats;

use backoff::Backoff;
use commands::Commands;
use compare::Why;
use endpoint::Endpoint;
use held::Moment;
use hint::{HintLimit, Sizes};
use link::Link;
use link_error::LinkError;
use outage::Outage;
use pace::Pace;
use removal::Removals;
use report::age_of;
use saver::read_snapshot;
use stored::Stored;
use sync::{Action, Purpose, TableSync};

/// The whole first load; a redis that is slower is treated as unreachable.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an idle connection is tried, so that one that died silently is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// So long further news are waited for, so that changes that come close together are read together.
const GATHER: Duration = Duration::from_millis(2);

/// So long an answer of redis is worked on before others on the thread have a turn, or as long as one
/// tool takes.
const MAX_TURN: Duration = Duration::from_millis(2);

/// How often a server that does not tell of changes in the best way is asked whether it does so now.
const PROBE_INTERVAL: Duration = Duration::from_secs(300);

/// Says whether routes may point at a backend; the error is the reason that is
/// shown with the bad entry.
pub type Admit = Arc<dyn Fn(&Backend) -> Result<(), String> + Send + Sync>;

/// Is told of every entry before it enters the table, for instance to have its names
/// resolved. Must not block.
pub type Changed = Arc<dyn Fn(&str, &Entry) + Send + Sync>;

/// Why there is no table to start with.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// `registry.url` is not a URL of redis.
    #[error("registry.url cannot be used: {0}")]
    Url(String),
    /// No snapshot, where nothing else was to be asked.
    #[error("{0}")]
    Snapshot(String),
    /// Neither redis nor a snapshot.
    #[error("cannot load the routes from redis at {address} ({reason}), and {snapshot}")]
    Unreachable {
        /// Host, port and database.
        address: String,
        /// What redis or the network said.
        reason: String,
        /// Why the snapshot is of no help.
        snapshot: String,
    },
}

/// The connection to the registry and all that keeps the table fresh.
pub struct Registry {
    endpoint: Endpoint,
    snapshot: PathBuf,
    status: Arc<RegistryStatus>,
    sync: TableSync,
    /// Open after a start from redis.
    link: Option<Link>,
    saver: Arc<Saver>,
    /// Asks for a comparison: what routes may point at has changed.
    recheck: Arc<Notify>,
    commands: Commands,
    pace: Pace,
    hints: HintLimit,
    /// The way in which changes become known that was logged last.
    said_mode: Option<Mode>,
    said_no_bytes: bool,
    /// Keeps a redis that comes and goes from filling the log.
    outage: Outage,
    /// Keeps bad entries that are pushed again and again from filling the log.
    bad_pushed: Repeats,
    /// The same for flushes that are none of ours.
    flushes: Repeats,
    /// The same for entries that vanish one by one.
    vanishing: Repeats,
    /// Of those that nobody decided about, how many were told; fewer when some are back.
    told_held: u64,
}

impl Registry {
    /// Fills `table`: from redis, else from the snapshot on disk, which the log then says. How it
    /// stands is told in `status`. Subscribes before it loads, so that no change is missed between
    /// this and [`Registry::run`].
    ///
    /// Call it on the runtime that will run [`Registry::run`]: the connection lives there.
    ///
    /// # Errors
    /// Redis cannot be used and there is no usable snapshot; within about a minute at most, 5 s
    /// if redis says nothing.
    pub async fn start(
        config: &config::Registry,
        table: Arc<Table>,
        status: Arc<RegistryStatus>,
        admit: Admit,
        changed: Changed,
    ) -> Result<Registry, RegistryError> {
        let endpoint = Endpoint::new(&config.url, status.servers())
            .map_err(|error| RegistryError::Url(error.to_string()))?;
        let admit = not_itself(admit, status.servers().clone());
        let removal = &config.mass_removal;
        status.set_removals(Removals::new(removal.percent, removal.grace));
        let sync = TableSync::new(Arc::clone(&table), admit, changed, Arc::clone(&status));
        let mut registry = Registry {
            endpoint,
            saver: Saver::new(config.snapshot.clone(), table, Arc::clone(&status)),
            snapshot: config.snapshot.clone(),
            status,
            sync,
            link: None,
            recheck: Arc::new(Notify::new()),
            commands: Commands::none(),
            pace: Pace::new(now()),
            hints: HintLimit::default(),
            said_mode: None,
            said_no_bytes: false,
            outage: Outage::default(),
            bad_pushed: Repeats::default(),
            flushes: Repeats::default(),
            vanishing: Repeats::default(),
            told_held: 0,
        };
        let loaded = timeout(LOAD_TIMEOUT, registry.load()).await;
        match loaded.unwrap_or(Err(LinkError::Timeout(LOAD_TIMEOUT))) {
            Ok(link) => registry.started_from_redis(link).await,
            Err(error) => registry.started_without_redis(error).await?,
        }
        Ok(registry)
    }

    /// Keeps the table in step with redis, reconnecting as often as it takes, and the snapshot in
    /// step with the table, and does what `commands` ask for. Never returns; drop it to stop.
    pub async fn run(mut self, commands: mpsc::Receiver<CommandRequest>) {
        self.commands.listen(commands);
        let saver = Arc::clone(&self.saver);
        tokio::join!(self.follow_for_ever(), saver.run());
    }

    /// The state, also after `run` has taken the registry.
    pub fn status(&self) -> Arc<RegistryStatus> {
        Arc::clone(&self.status)
    }

    /// What writes the snapshot, for a last time when the process ends.
    pub fn saver(&self) -> Arc<Saver> {
        Arc::clone(&self.saver)
    }

    /// Has every route judged anew, by what it may point at now. Until that is done, and while redis
    /// is away, requests are held to it one by one.
    pub fn recheck(&self) -> Arc<Notify> {
        Arc::clone(&self.recheck)
    }

    /// Connects and compares the table with redis once.
    async fn load(&mut self) -> Result<Link, LinkError> {
        let mut link = Link::open(&mut self.endpoint).await?;
        let keys = usize::try_from(link.size.unwrap_or_default());
        self.sync.reserve(keys.unwrap_or_default());
        let number = self.sync.compare(Why::Start);
        // Not those that redis calls for meanwhile: whoever flushes another database again and again
        // must not keep portico from starting.
        while self.sync.comparison() == Some(number) {
            self.turn(&mut link).await?;
        }
        Ok(link)
    }

    async fn started_from_redis(&mut self, link: Link) {
        self.link = Some(link);
        self.commands.connected();
        match read_snapshot(&self.snapshot).await {
            Ok(None) => {}
            Ok(Some(snapshot)) => self.sync.hold_vanished(&snapshot, moment()),
            Err(error) => warn!(
                path = %self.snapshot.display(),
                "the snapshot of the routes is not used and will be replaced: {error}"
            ),
        }
        self.log_events();
        self.saver.note_change();
    }

    async fn started_without_redis(&mut self, failure: LinkError) -> Result<(), RegistryError> {
        self.sync.disconnected();
        self.commands.away(SystemTime::now());
        let path = self.snapshot.display();
        let why_not = match read_snapshot(&self.snapshot).await {
            Ok(Some(snapshot)) => {
                self.sync.restore(&snapshot, moment());
                self.status.set_source(Source::Snapshot(snapshot.written));
                // So that the next attempt, which is soon, does not say it again.
                let why = failure.to_string();
                self.outage.occur(&why, now());
                self.status.set_redis_error(&why);
                error!(
                    redis = self.endpoint.address,
                    tools = self.sync.table_len(),
                    age = age_of(snapshot.written),
                    path = %path,
                    "redis cannot be used ({failure}); routing by the snapshot on disk until it is back; \
                     start redis or check registry.url"
                );
                return Ok(());
            }
            Ok(None) => format!("there is no snapshot at {path} to start from"),
            Err(error) => format!("the snapshot at {path} cannot be used: {error}"),
        };
        Err(RegistryError::Unreachable {
            address: self.endpoint.address.clone(),
            reason: failure.to_string(),
            snapshot: why_not,
        })
    }

    async fn follow_for_ever(mut self) {
        let mut backoff = Backoff::default();
        let mut link = self.link.take();
        loop {
            let error = match link.take() {
                Some(link) => {
                    let since = Instant::now();
                    let moved = self.endpoint.moved();
                    let error = tokio::select! {
                        error = self.follow(link) => error,
                        error = moved => error,
                    };
                    self.sync.disconnected();
                    self.pace.disconnected();
                    self.status.set_connected(false);
                    self.commands.away(SystemTime::now());
                    self.log_events();
                    backoff.connection_ended(since.elapsed());
                    error
                }
                None => match self
                    .commands
                    .while_waiting(&mut self.sync, &self.saver, Link::open(&mut self.endpoint))
                    .await
                {
                    Ok(opened) => {
                        self.commands.connected();
                        self.sync.compare(Why::Reconnected);
                        link = Some(opened);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.log_failure(&error);
            let wait = sleep(backoff.next_wait(random()));
            self.while_waiting(wait).await;
        }
    }

    /// Follows one connection until it is of no use any more.
    async fn follow(&mut self, mut link: Link) -> LinkError {
        self.set_mode(&link);
        let mut sizes = Sizes::new(self.status.changes());
        let mut next_ping = Instant::now() + PING_INTERVAL;
        let mut next_probe = Instant::now() + PROBE_INTERVAL;
        loop {
            match self.turn(&mut link).await {
                Ok(Turn::Worked) => continue,
                Ok(Turn::Idle) => {}
                Err(error) => return error,
            }
            // Idle means that the comparison after connecting is through.
            if let Some(size) = link.size.take() {
                let told = link.pending.take_told();
                sizes.look(size, link.mode, told, self.status.changes());
                let took = self.pace.took();
                if sizes.due(&mut self.hints, took, now()) {
                    self.sync.compare(self.pace.why());
                    continue;
                }
            }
            let compare = self.pace.due();
            let due = self.sync.next_due().unwrap_or(compare);
            tokio::select! {
                () = link.pending.arrived() => self.while_waiting(sleep(GATHER)).await,
                () = sleep_until(due.into()) => {}
                () = self.recheck.notified() => {
                    self.sync.compare(Why::Rechecked);
                }
                request = self.commands.next() => self.commands.begin(request, &mut self.sync),
                () = sleep_until(compare.into()) => {
                    sizes.compared();
                    self.sync.compare(self.pace.why());
                }
                () = sleep_until(next_ping) => {
                    if let Err(error) = self.while_waiting(link.alive()).await {
                        return error;
                    }
                    next_ping = Instant::now() + PING_INTERVAL;
                }
                () = sleep_until(next_probe), if link.mode != Mode::Tracking => {
                    let mode = link.mode;
                    if let Err(error) = self.while_waiting(link.probe()).await {
                        return error;
                    }
                    next_probe = Instant::now() + PROBE_INTERVAL;
                    if link.mode != mode {
                        // What changed until now was not told in the new way.
                        self.sync.compare(Why::Polled);
                        self.set_mode(&link);
                    }
                }
            }
        }
    }

    /// Changes become known in the way of `link` from now on.
    fn set_mode(&mut self, link: &Link) {
        self.pace.set_mode(link.mode, now(), random());
        self.status.set_mode(link.mode, &link.why);
        self.log_mode(link.mode, &link.why);
        self.log_no_bytes(link.no_bytes.as_deref());
    }

    /// Redis was just heard, and had nothing to tell that is not in the table.
    fn in_step(&self, link: &Link) {
        // Under polling only a comparison can tell.
        if link.mode != Mode::Polling {
            self.status.set_synced(SystemTime::now());
        }
    }

    /// Takes in news, does one piece of work and logs what came of it.
    async fn turn(&mut self, link: &mut Link) -> Result<Turn, LinkError> {
        if self.endpoint.is_role_due() && !link.may_be_master().await? {
            return Err(self.endpoint.no_master());
        }
        let news = link.pending.take();
        if news.lost {
            return Err(LinkError::Closed);
        }
        self.sync.news(news);
        match self.sync.next(now()) {
            Action::Read(purpose, tools) => {
                let stored = self.while_waiting(link.read(&tools)).await?;
                self.take_in(purpose, tools, &stored).await;
            }
            Action::Scan(keys, cursor) => {
                let (next, found) = self.while_waiting(link.scan(keys, cursor)).await?;
                self.sync.scanned(next, &found);
            }
            Action::Exist(keys) => {
                let exist = self.while_waiting(link.exist(&keys)).await?;
                self.sync.existing(&keys, &exist);
            }
            Action::Ping => {
                self.while_waiting(link.ping()).await?;
                self.sync.ponged();
            }
            Action::Wait => {
                self.save_changes();
                self.log_events();
                self.in_step(link);
                self.pace.note(self.sync.comparison(), now(), random());
                return Ok(Turn::Idle);
            }
        }
        self.pace.note(self.sync.comparison(), now(), random());
        self.save_changes();
        self.log_events();
        Ok(Turn::Worked)
    }

    /// Hands an answer on. Patterns may take long to compile, so others on this thread, health checks
    /// and the administration among them, have their turn in between.
    async fn take_in(&mut self, purpose: Purpose, tools: Vec<Box<str>>, stored: &[Stored]) {
        let (mut missing, mut turn) = (Vec::new(), moment());
        for (tool, stored) in tools.into_iter().zip(stored) {
            missing.extend(self.sync.read_one(purpose, tool, stored, turn));
            if now().duration_since(turn.instant) > MAX_TURN {
                yield_now().await;
                turn = moment();
            }
        }
        self.sync.read_all(purpose, missing, turn);
    }

    /// What `work` comes to; commands are taken in meanwhile.
    async fn while_waiting<T>(&mut self, work: impl Future<Output = T>) -> T {
        let commands = &mut self.commands;
        commands
            .while_waiting(&mut self.sync, &self.saver, work)
            .await
    }

    fn save_changes(&mut self) {
        if self.sync.take_unsaved() {
            self.saver.note_change();
        }
    }
}

/// What one turn of the loop came to.
enum Turn {
    Worked,
    Idle,
}

/// Routes must not point at the registry either, wherever it was found by now.
fn not_itself(admit: Admit, servers: RegistryServers) -> Admit {
    Arc::new(move |backend| {
        servers.admit(backend)?;
        admit(backend)
    })
}

/// The clock of tokio, which tests may stop, as the pure parts want it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The same with the time of day.
fn moment() -> Moment {
    Moment {
        instant: now(),
        time: SystemTime::now(),
    }
}

/// Random enough to keep proxies out of step.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
