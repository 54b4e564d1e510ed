//! The routing table's source: redis, and the last known good table on disk.
//!
//! [`Registry::start`] subscribes and loads, or falls back to the snapshot; [`Registry::run`] keeps
//! the table in step for ever. This file does the input and output; what to read and what follows
//! from it is decided in `sync.rs`, `removal.rs` and `backoff.rs`, which are pure. Requests never
//! wait for anything here: they read the [`Table`].
//!
//! Does not resolve names, does not know static routes, and never writes to redis.
//!
//! Invariants: while redis is not reachable the table stays as it is, for ever; empty and
//! unreachable are different things; nothing waits for redis without a bound; the password reaches
//! no log and no error.

mod backoff;
mod compare;
mod disk;
mod entry;
mod removal;
mod status;
mod sync;
mod tracking;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_config as config;
use portico_routing::backend::Backend;
use portico_routing::table::{Entry, Table};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

pub use status::{RegistryStatus, Source};

use crate::repeats::Repeats;

use backoff::{Backoff, MAX_WAIT};
use compare::{Comparison, Why};
use disk::{Snapshot, SnapshotError};
use removal::Removals;
use sync::{Action, Event, TableSync};
use tracking::{Endpoint, Link, LinkError};

/// The whole first load; a redis that is slower is treated as unreachable.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an idle connection is tried, so that one that died silently is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// How often the whole table is compared with redis, for what no push tells (SWAPDB).
const COMPARE_INTERVAL: Duration = Duration::from_secs(300);

/// The snapshot is written at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

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
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    sync: TableSync,
    /// Open after a start from redis.
    link: Option<Link>,
    /// Wakes the writer of the snapshot.
    save: Arc<Notify>,
    /// Asks for a comparison: what routes may point at has changed.
    recheck: Arc<Notify>,
    /// Keeps bad entries that are pushed again and again from filling the log.
    bad_pushed: Repeats,
    /// The same for entries that vanish one by one.
    vanishing: Repeats,
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
        let endpoint =
            Endpoint::new(&config.url).map_err(|error| RegistryError::Url(error.to_string()))?;
        let removals = Removals::new(config.mass_removal.percent, config.mass_removal.grace);
        let sync = TableSync::new(
            Arc::clone(&table),
            admit,
            changed,
            Arc::clone(&status),
            removals,
        );
        let mut registry = Registry {
            endpoint,
            snapshot: config.snapshot.clone(),
            table,
            status,
            sync,
            link: None,
            save: Arc::new(Notify::new()),
            recheck: Arc::new(Notify::new()),
            bad_pushed: Repeats::default(),
            vanishing: Repeats::default(),
        };
        let loaded = timeout(LOAD_TIMEOUT, registry.load()).await;
        match loaded.unwrap_or(Err(LinkError::Timeout(LOAD_TIMEOUT))) {
            Ok(link) => registry.started_from_redis(link).await,
            Err(error) => registry.started_without_redis(error).await?,
        }
        Ok(registry)
    }

    /// Keeps the table in step with redis, reconnecting as often as it takes, and the snapshot in
    /// step with the table. Never returns; drop it to stop.
    pub async fn run(self) {
        let saver = save_for_ever(
            self.snapshot.clone(),
            Arc::clone(&self.table),
            Arc::clone(&self.status),
            Arc::clone(&self.save),
        );
        tokio::join!(self.follow_for_ever(), saver);
    }

    /// The state, also after `run` has taken the registry.
    pub fn status(&self) -> Arc<RegistryStatus> {
        Arc::clone(&self.status)
    }

    /// Has every route judged anew, by what it may point at now. Until that is done, and while redis
    /// is away, requests are held to it one by one.
    pub fn recheck(&self) -> Arc<Notify> {
        Arc::clone(&self.recheck)
    }

    /// Connects and compares the table with redis once.
    async fn load(&mut self) -> Result<Link, LinkError> {
        let mut link = Link::open(&self.endpoint).await?;
        self.sync.compare(Why::Start);
        while self.sync.comparing() {
            self.turn(&mut link).await?;
        }
        Ok(link)
    }

    async fn started_from_redis(&mut self, link: Link) {
        self.link = Some(link);
        match read_snapshot(&self.snapshot).await {
            Ok(None) => {}
            Ok(Some(snapshot)) => self.sync.hold_vanished(snapshot, now()),
            Err(error) => warn!(
                path = %self.snapshot.display(),
                "the snapshot of the routes is not used and will be replaced: {error}"
            ),
        }
        self.log_events();
        self.save.notify_one();
    }

    async fn started_without_redis(&mut self, failure: LinkError) -> Result<(), RegistryError> {
        self.sync.disconnected();
        let path = self.snapshot.display();
        let why_not = match read_snapshot(&self.snapshot).await {
            Ok(Some(snapshot)) => {
                self.sync.restore(&snapshot);
                self.status.set_source(Source::Snapshot(snapshot.written));
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
        let mut failures = Repeats::default();
        let mut link = self.link.take();
        loop {
            let error = match link.take() {
                Some(link) => {
                    let since = Instant::now();
                    let error = self.follow(link, &mut failures).await;
                    self.sync.disconnected();
                    self.status.set_connected(false);
                    // A connection that breaks soon again is no reason to come back faster.
                    if since.elapsed() > MAX_WAIT {
                        backoff.reset();
                    }
                    error
                }
                None => match Link::open(&self.endpoint).await {
                    Ok(opened) => {
                        self.sync.compare(Why::Reconnected);
                        link = Some(opened);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.log_failure(&error, &mut failures);
            sleep(backoff.next_wait(random())).await;
        }
    }

    /// Follows one connection until it is of no use any more.
    async fn follow(&mut self, mut link: Link, failures: &mut Repeats) -> LinkError {
        let mut next_compare = Instant::now() + COMPARE_INTERVAL;
        loop {
            match self.turn(&mut link).await {
                Ok(Turn::Worked) => continue,
                Ok(Turn::Idle) => {}
                Err(error) => return error,
            }
            // Idle means that the comparison after connecting is through.
            failures.clear();
            let far = Instant::now() + COMPARE_INTERVAL;
            let due = self.sync.next_due().map_or(far, Instant::from_std);
            tokio::select! {
                () = link.pending.arrived() => {}
                () = sleep_until(due) => {}
                () = self.recheck.notified() => self.sync.compare(Why::Rechecked),
                () = sleep_until(next_compare) => {
                    next_compare = Instant::now() + COMPARE_INTERVAL;
                    self.sync.compare(Why::Periodic);
                }
                () = sleep(PING_INTERVAL) => match link.alive().await {
                    Ok(()) => self.status.set_synced(SystemTime::now()),
                    Err(error) => return error,
                },
            }
        }
    }

    /// Takes in news, does one piece of work and logs what came of it.
    async fn turn(&mut self, link: &mut Link) -> Result<Turn, LinkError> {
        let news = link.pending.take();
        if news.lost {
            return Err(LinkError::Closed);
        }
        self.sync.news(news);
        match self.sync.next(now()) {
            Action::Read(purpose, tools) => {
                let stored = link.read(&tools).await?;
                self.sync.read(purpose, tools, &stored, now());
            }
            Action::Scan(keys, cursor) => {
                let (next, found) = link.scan(keys, cursor).await?;
                self.sync.scanned(next, &found);
            }
            Action::Ping => {
                link.ping().await?;
                self.sync.ponged();
            }
            Action::Wait => {
                self.log_events();
                self.status.set_synced(SystemTime::now());
                return Ok(Turn::Idle);
            }
        }
        if self.sync.take_unsaved() {
            self.save.notify_one();
        }
        self.log_events();
        Ok(Turn::Worked)
    }

    fn log_failure(&self, error: &LinkError, failures: &mut Repeats) {
        let Some(unsaid) = failures.occur(now()) else {
            return;
        };
        let last_sync = self.status.last_sync();
        error!(
            redis = self.endpoint.address,
            tools = self.sync.table_len(),
            age = last_sync.map_or_else(|| "never in step since the start".to_owned(), age_of),
            unsaid,
            "redis cannot be used: {error}; routing goes on by the table as it was and portico keeps trying; \
             check redis and the network"
        );
    }

    fn log_events(&mut self) {
        if self.status.held_back() == 0 {
            // The next disappearance is a new one.
            self.vanishing.clear();
        }
        for event in self.sync.take_events() {
            match event {
                Event::Compared(comparison) => self.compared(&comparison),
                Event::HeldBack { count, of } => {
                    if let Some(unsaid) = self.vanishing.occur(now()) {
                        error!(
                            redis = self.endpoint.address,
                            vanished = count,
                            of,
                            held_back = self.status.held_back(),
                            unsaid,
                            "a large part of the routes vanished from redis at once; they stay in use for the grace \
                             time of registry.mass_removal; if that was not meant, restore redis now"
                        );
                    }
                }
                Event::Released(count) => warn!(
                    redis = self.endpoint.address,
                    removed = count,
                    "routes that vanished from redis were removed: the grace time is over and they are still missing"
                ),
                Event::Bad { tool, reason } => {
                    if let Some(unsaid) = self.bad_pushed.occur(now()) {
                        warn!(%tool, %reason, unsaid, "a route in redis is skipped; its tool has to register it anew");
                    }
                }
            }
        }
    }

    fn compared(&mut self, comparison: &Comparison) {
        self.status.set_source(Source::Redis);
        self.status.set_connected(true);
        self.status.set_synced(SystemTime::now());
        let redis = &self.endpoint.address;
        let tools = self.sync.table_len();
        let Comparison {
            set,
            removed,
            drift,
            ..
        } = *comparison;
        match comparison.why {
            Why::Start => info!(redis, tools, "the routes were loaded from redis"),
            Why::Reconnected => {
                let held_back = self.status.held_back();
                info!(
                    redis,
                    tools,
                    set,
                    removed,
                    held_back,
                    "redis is back; the routes were compared with it"
                );
            }
            Why::Pushed => info!(
                redis,
                tools,
                set,
                removed,
                held_back = self.status.held_back(),
                "redis was flushed or replaced; the routes were compared with it"
            ),
            Why::Rechecked => info!(
                redis,
                tools, set, removed, "the configuration changed; the routes were judged anew"
            ),
            Why::Periodic if drift > 0 => warn!(
                redis,
                tools,
                drift,
                "routes had changed in redis and it had not said so (SWAPDB does that); they are in step again"
            ),
            Why::Periodic => debug!(redis, tools, "the routes are in step with redis"),
        }
        let news = comparison.why != Why::Periodic;
        if news && let Some((tool, reason)) = &comparison.bad_example {
            warn!(
                redis,
                tools = comparison.bad,
                example = %tool,
                %reason,
                "some routes in redis are bad and were skipped; portico routes shows them"
            );
        }
        if news && comparison.bad_keys > 0 {
            warn!(
                redis,
                keys = comparison.bad_keys,
                "some prefix: and redirect: keys in redis name no possible tool and were skipped; find out who writes them"
            );
        }
    }
}

/// What one turn of the loop came to.
enum Turn {
    Worked,
    Idle,
}

/// Host (name or address) and port of the redis of `config`, which routes must not point at;
/// `None` for a unix socket.
pub fn server_address(config: &config::Registry) -> Option<(String, u16)> {
    tracking::server_address(&config.url)
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

/// Writes the snapshot whenever it is woken, but not too often, and again after a failure.
async fn save_for_ever(
    path: PathBuf,
    table: Arc<Table>,
    status: Arc<RegistryStatus>,
    wake: Arc<Notify>,
) {
    let mut failures = Repeats::default();
    loop {
        wake.notified().await;
        let (target, source) = (path.clone(), Arc::clone(&table));
        // On a thread of its own: nothing else of the control thread may wait for a disk.
        let write = move || disk::write(&target, &source, SystemTime::now());
        let written = match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match written {
            Ok(tools) => {
                failures.clear();
                debug!(path = %path.display(), tools, "the snapshot of the routes was written");
            }
            Err(error) => {
                status.count_snapshot_failure();
                if let Some(unsaid) = failures.occur(now()) {
                    error!(
                        path = %path.display(),
                        unsaid,
                        "the snapshot of the routes cannot be written: {error}; routing goes on, but a restart while \
                         redis is down would have old routes or none; check the path, its rights and the disk"
                    );
                }
                wake.notify_one();
            }
        }
        sleep(SAVE_INTERVAL).await;
    }
}

async fn read_snapshot(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || disk::read(&path)).await {
        Ok(read) => read,
        Err(error) => Err(SnapshotError::Io(std::io::Error::other(error))),
    }
}

/// The clock of tokio, which tests may stop, as the pure parts want it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Random enough to keep proxies out of step.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How long ago, in words.
fn age_of(time: SystemTime) -> String {
    let Ok(age) = time.elapsed() else {
        return "from the future: a clock is wrong".to_owned();
    };
    let seconds = age.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_age(seconds: u64, words: &str) {
        let time = SystemTime::now() - Duration::from_millis(seconds * 1000 + 200);
        assert_eq!(age_of(time), words);
    }

    #[test]
    fn ages_are_readable() {
        check_age(0, "0 s");
        check_age(59, "59 s");
        check_age(60, "1 min");
        check_age(3 * 3600 + 12 * 60, "3 h 12 min");
        check_age(50 * 3600, "2 d 2 h");
        let future = SystemTime::now() + Duration::from_secs(60);
        assert!(age_of(future).contains("clock"));
    }
}
