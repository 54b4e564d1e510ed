//! What `/status`, metrics and logs may know about the registry: plain counters, written by the
//! control thread and read by anybody at any time. Decides nothing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::bad_keys::{BadKey, BadKeys};
use super::held::HeldTool;
#[cfg(test)]
use super::held::Moment;
use super::journal::Journal;
use super::mode::Mode;
use super::removal::Removals;
use crate::policy::backends::RegistryServers;

/// Where the table came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Redis.
    Redis,
    /// The snapshot on disk that was written at this time; redis has not been
    /// reached since the start.
    Snapshot(SystemTime),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Redis => f.write_str("redis"),
            Source::Snapshot(written) => {
                let written = httpdate::fmt_http_date(*written);
                write!(f, "the snapshot of {written} (redis cannot be reached)")
            }
        }
    }
}

/// The state of the registry, for people and metrics. All counts are since the start.
#[derive(Debug, Default)]
pub struct RegistryStatus {
    connected: AtomicBool,
    /// Seconds since 1970; 0: the table is from redis.
    snapshot_written: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    last_sync: AtomicU64,
    bad_keys: AtomicU64,
    bad_tools: AtomicU64,
    changes: AtomicU64,
    drift: AtomicU64,
    disconnects: AtomicU64,
    snapshot_failures: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    snapshot_saved: AtomicU64,
    /// Microseconds.
    snapshot_took: AtomicU64,
    mode: Mutex<Option<(Mode, Box<str>)>>,
    /// Why redis cannot be used right now.
    redis_error: Mutex<Option<Box<str>>>,
    /// Why the last write of the snapshot failed.
    snapshot_error: Mutex<Option<Box<str>>>,
    /// Here so that a list of a million tools need not be copied to be looked at.
    removals: Mutex<Removals>,
    bad_key_list: Mutex<Vec<BadKey>>,
    journal: Journal,
    servers: RegistryServers,
}

#[cfg(test)]
impl RegistryStatus {
    /// One whose counts all differ, for tests of what shows them.
    pub(crate) fn sample() -> Self {
        let status = Self::default();
        let held = |tools: std::ops::Range<u64>| tools.map(|n| n.to_string().into_boxed_str());
        let now = Moment {
            instant: std::time::Instant::now(),
            time: UNIX_EPOCH,
        };
        status.set_removals(Removals::new(0, Duration::from_secs(60)));
        status.removals().hold_kept(held(0..37), now);
        status.removals().decide(held(37..101).collect(), 101, now);
        let mut bad_keys = BadKeys::default();
        for n in 0..102 {
            bad_keys.add(format!("prefix:T{n}").as_bytes());
        }
        status.set_bad_keys(&bad_keys);
        status.set_mode(Mode::Keyspace, "it refuses CLIENT TRACKING");
        status.count_changes(103);
        status.count_drift(104);
        status.set_snapshot_failed("no space");
        for connected in [true, false, true, false, true, false, true] {
            status.set_connected(connected);
        }
        status.set_source(Source::Snapshot(UNIX_EPOCH + Duration::from_secs(105)));
        let saved = UNIX_EPOCH + Duration::from_secs(106);
        status.set_snapshot_saved(saved, Duration::from_millis(1500));
        status.set_snapshot_failed("no space");
        (0..38).for_each(|_| status.count_bad_tool(false, true));
        status
    }
}

impl RegistryStatus {
    /// With the set that is told where redis is found.
    pub fn new(servers: RegistryServers) -> Self {
        Self {
            servers,
            ..Self::default()
        }
    }

    /// The servers that the registry was found at.
    pub(super) fn servers(&self) -> &RegistryServers {
        &self.servers
    }

    /// Whether redis answers and the table is kept in step with it.
    pub fn connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Where the table came from.
    pub fn source(&self) -> Source {
        match self.snapshot_written.load(Relaxed) {
            0 => Source::Redis,
            seconds => Source::Snapshot(UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    /// When the table was last known to be what redis holds, give or take the changes of that
    /// moment; `None`: never since the start. Its age is the age of the table.
    pub fn last_sync(&self) -> Option<SystemTime> {
        time(self.last_sync.load(Relaxed))
    }

    /// The same, and of a table from the snapshot the snapshot's time: 1970 while there is no table.
    pub fn table_time(&self) -> SystemTime {
        match (self.last_sync(), self.source()) {
            (Some(time), _) | (None, Source::Snapshot(time)) => time,
            (None, Source::Redis) => UNIX_EPOCH,
        }
    }

    /// Tools that redis no longer holds and that are kept for the grace time of
    /// `registry.mass_removal`, or by hand.
    pub fn held_back(&self) -> u64 {
        self.removals().held() as u64
    }

    /// Keys `prefix:*` and `redirect:*` that name no possible tool (not UTF-8, upper case, too long):
    /// at the last full look, and exact while they are no more than are listed.
    pub fn bad_keys(&self) -> u64 {
        self.bad_keys.load(Relaxed)
    }

    /// Tools in the table with something that is skipped.
    pub fn bad_tools(&self) -> u64 {
        self.bad_tools.load(Relaxed)
    }

    /// Entries that were set or removed, those of the first load included.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Entries that a periodic comparison found different although nothing had been pushed.
    pub fn drift(&self) -> u64 {
        self.drift.load(Relaxed)
    }

    /// How often a working connection to redis was lost.
    pub fn disconnects(&self) -> u64 {
        self.disconnects.load(Relaxed)
    }

    /// How often the snapshot could not be written.
    pub fn snapshot_failures(&self) -> u64 {
        self.snapshot_failures.load(Relaxed)
    }

    /// When the snapshot was last written by this process, and how long that took; `None`: never.
    pub fn snapshot_saved(&self) -> Option<(SystemTime, Duration)> {
        let took = Duration::from_micros(self.snapshot_took.load(Relaxed));
        time(self.snapshot_saved.load(Relaxed)).map(|time| (time, took))
    }

    /// How changes become known, and in a sentence why not in a better way (empty: it is the best).
    /// `None`: redis was not reached since the start.
    pub fn mode(&self) -> Option<(Mode, Box<str>)> {
        lock(&self.mode).clone()
    }

    /// Why redis cannot be used right now, in words; `None`: it can, or was not asked yet.
    pub fn redis_error(&self) -> Option<Box<str>> {
        lock(&self.redis_error).clone()
    }

    /// Why the snapshot could not be written the last time; `None`: it could.
    pub fn snapshot_error(&self) -> Option<Box<str>> {
        lock(&self.snapshot_error).clone()
    }

    /// The tools that are held back, in no order. A copy: a million of them take 100 ms and 50 MB.
    pub fn held_tools(&self) -> Vec<HeldTool> {
        self.removals().tools()
    }

    /// One of them.
    pub fn held_tool(&self, tool: &str) -> Option<HeldTool> {
        self.removals().tool(tool)
    }

    /// When the first of them leaves the table, unless redis holds it again; `None`: none does, as
    /// nothing is held back, or all is kept by hand.
    pub fn first_release(&self) -> Option<SystemTime> {
        let due = self.removals().next_due()?;
        Some(SystemTime::now() + due.saturating_duration_since(Instant::now()))
    }

    /// Of the tools that are held back, those that are kept by hand.
    pub fn kept(&self) -> u64 {
        self.removals().kept() as u64
    }

    /// The first hundred, by name, of the keys that [`RegistryStatus::bad_keys`] counts.
    pub fn bad_key_list(&self) -> Vec<BadKey> {
        lock(&self.bad_key_list).clone()
    }

    /// The last changes.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Relaxed) && !connected {
            self.disconnects.fetch_add(1, Relaxed);
        }
        if connected {
            *lock(&self.redis_error) = None;
        }
    }

    pub(super) fn set_redis_error(&self, why: &str) {
        *lock(&self.redis_error) = Some(why.into());
    }

    pub(super) fn set_source(&self, source: Source) {
        let seconds = match source {
            Source::Redis => 0,
            // A clock before 1970 must not turn a snapshot into redis.
            Source::Snapshot(written) => since_epoch(written).as_secs().max(1),
        };
        self.snapshot_written.store(seconds, Relaxed);
    }

    pub(super) fn set_synced(&self, now: SystemTime) {
        self.last_sync.store(millis(now), Relaxed);
    }

    pub(super) fn set_mode(&self, mode: Mode, why: &str) {
        *lock(&self.mode) = Some((mode, why.into()));
    }

    /// What is held back, and what of it may go. Never lock it across anything that takes time.
    pub(super) fn removals(&self) -> MutexGuard<'_, Removals> {
        lock(&self.removals)
    }

    pub(super) fn set_removals(&self, removals: Removals) {
        *self.removals() = removals;
    }

    /// An entry of the table was replaced: whether it had, and has, something that is skipped.
    pub(super) fn count_bad_tool(&self, had: bool, has: bool) {
        match (had, has) {
            (false, true) => self.bad_tools.fetch_add(1, Relaxed),
            (true, false) => self.bad_tools.fetch_sub(1, Relaxed),
            _ => return,
        };
    }

    pub(super) fn set_bad_keys(&self, keys: &BadKeys) {
        self.bad_keys.store(keys.count(), Relaxed);
        *lock(&self.bad_key_list) = keys.list();
    }

    pub(super) fn count_changes(&self, count: u64) {
        self.changes.fetch_add(count, Relaxed);
    }

    pub(super) fn count_drift(&self, count: u64) {
        self.drift.fetch_add(count, Relaxed);
    }

    pub(super) fn set_snapshot_saved(&self, now: SystemTime, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.snapshot_took.store(took, Relaxed);
        self.snapshot_saved.store(millis(now), Relaxed);
        *lock(&self.snapshot_error) = None;
    }

    pub(super) fn set_snapshot_failed(&self, why: &str) {
        self.snapshot_failures.fetch_add(1, Relaxed);
        *lock(&self.snapshot_error) = Some(why.into());
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole at every moment, so a panic elsewhere harms nothing.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> Option<SystemTime> {
    (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let status = RegistryStatus::default();
        assert_eq!(status.source(), Source::Redis);
        assert_eq!(status.last_sync(), None);
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        status.set_source(Source::Snapshot(time));
        assert_eq!(status.source(), Source::Snapshot(time));
        status.set_source(Source::Redis);
        assert_eq!(status.source(), Source::Redis);
        status.set_synced(time);
        assert_eq!(status.last_sync(), Some(time));
        for connected in [false, true, true, false, false, true, false] {
            status.set_connected(connected);
        }
        assert_eq!(status.disconnects(), 2);
        status.set_redis_error("refused");
        assert_eq!(status.redis_error().as_deref(), Some("refused"));
        status.set_connected(true);
        assert_eq!(status.redis_error(), None);
        status.set_snapshot_failed("no space");
        assert_eq!(status.snapshot_error().as_deref(), Some("no space"));
        status.set_snapshot_saved(time, Duration::ZERO);
        assert_eq!(status.snapshot_error(), None);
        assert_eq!(status.snapshot_failures(), 1);
    }
}
