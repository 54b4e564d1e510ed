//! What follows from the events of the state machine: a line in the log, the state in
//! [`RegistryStatus`](super::status::RegistryStatus), an answer to whoever waits for a command.

use std::time::SystemTime;

use tracing::{debug, error, info, warn};

use super::compare::{Comparison, Why};
use super::link_error::LinkError;
use super::mode::Mode;
use super::status::Source;
use super::sync::Event;
use super::{Registry, now};

impl Registry {
    pub(super) fn log_failure(&mut self, error: &LinkError) {
        if let LinkError::Moved(server) = error {
            let redis = &self.endpoint.address;
            info!(
                redis,
                server, "the master has moved, and portico goes there"
            );
            return;
        }
        let why = error.to_string();
        self.status.set_redis_error(&why);
        let Some(unsaid) = self.outage.occur(&why, now()) else {
            return;
        };
        let in_step = match self.status.source() {
            Source::Redis => self.status.last_sync(),
            Source::Snapshot(written) => Some(written),
        };
        error!(
            redis = self.endpoint.address,
            tools = self.sync.table_len(),
            age = in_step.map_or_else(|| "unknown".to_owned(), age_of),
            unsaid,
            "redis cannot be used: {why}; routing goes on by the table as it was and portico keeps trying; \
             check redis, the network and registry.url"
        );
    }

    /// How changes become known; said when that changes.
    pub(super) fn log_mode(&mut self, mode: Mode, why: &str) {
        if self.said_mode.replace(mode) == Some(mode) {
            return;
        }
        let redis = &self.endpoint.address;
        match mode {
            Mode::Tracking => info!(redis, "redis tells of changed routes at once"),
            Mode::Keyspace => warn!(
                redis,
                "redis tells of changed routes by keyspace notifications, and a flush is noticed some seconds late: {why}"
            ),
            Mode::Polling => warn!(
                redis,
                "redis does not tell of changed routes, so the whole table is read again every few seconds: {why}"
            ),
        }
    }

    pub(super) fn log_no_bytes(&mut self, why: Option<&str>) {
        let said = std::mem::replace(&mut self.said_no_bytes, why.is_some());
        if let (Some(why), false) = (why, said) {
            warn!(
                redis = self.endpoint.address,
                "redis does not tell portico how large a key is, so that whoever writes a huge one has it read: {why}; \
                 allow MEMORY USAGE"
            );
        }
    }

    pub(super) fn log_events(&mut self) {
        self.told_held = self.told_held.min(self.undecided());
        if self.told_held == 0 {
            // The next disappearance is a new one.
            self.vanishing.clear();
        }
        for event in self.sync.take_events() {
            match event {
                Event::Compared(comparison) => self.compared(&comparison),
                Event::HeldBack { count, of } => self.held_back(count, of),
                Event::StillKept(count) => warn!(
                    redis = self.endpoint.address,
                    kept = count,
                    "routes that redis did not hold were kept before the restart, as somebody asked, and still are; portico \
                     routes apply removes them"
                ),
                Event::Released(count) => warn!(
                    redis = self.endpoint.address,
                    removed = count,
                    "routes that vanished from redis were removed: the grace time is over and they are still missing"
                ),
                Event::Applied(done) => self.commands.applied(&done, &self.sync),
                Event::ApplyBroken(done) => self.commands.apply_broke_off(&done, &self.sync),
                Event::BadKey { key, reason } => {
                    if let Some(unsaid) = self.bad_pushed.occur(now()) {
                        warn!(%key, %reason, unsaid, "a key in redis names no possible tool and is skipped; find out who writes it");
                    }
                }
                Event::Bad { tool, reason } => {
                    if let Some(unsaid) = self.bad_pushed.occur(now()) {
                        warn!(%tool, %reason, unsaid, "a route in redis is skipped; its tool has to register it anew");
                    }
                }
            }
        }
    }

    /// Held back, and nobody has said what to do about them.
    fn undecided(&self) -> u64 {
        let status = &self.status;
        status.held_back().saturating_sub(status.kept())
    }

    fn held_back(&mut self, vanished: usize, of: usize) {
        let held = self.undecided();
        // Not only once in a while when it has become much worse.
        if held >= self.told_held.saturating_mul(2) {
            self.vanishing.clear();
        }
        let Some(unsaid) = self.vanishing.occur(now()) else {
            return;
        };
        self.told_held = held;
        let grace = self.status.removals().grace();
        error!(
            redis = self.endpoint.address,
            vanished,
            of,
            held_back = self.status.held_back(),
            unsaid,
            "a large part of the routes vanished from redis at once; they stay in use for {grace:?}, the grace time of \
             registry.mass_removal, and are then removed unless redis holds them again; if that was not meant, run \
             portico routes keep within that time and restore redis; if it was, portico routes apply removes them now"
        );
    }

    fn compared(&mut self, comparison: &Comparison) {
        self.commands.compared(comparison, &self.sync);
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
            Why::Reconnected if !self.outage.over() => {
                debug!(
                    redis,
                    tools, set, removed, "redis is back after another short outage"
                );
            }
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
            // Each flush of any database of that redis calls for one: said at length only if it changed
            // something.
            Why::Pushed if set + removed == 0 && self.flushes.occur(now()).is_none() => {}
            Why::Pushed => info!(
                redis,
                tools,
                set,
                removed,
                held_back = self.status.held_back(),
                "redis was flushed or replaced; the routes were compared with it"
            ),
            Why::Asked => info!(
                redis,
                tools,
                set,
                removed,
                held_back = self.status.held_back(),
                "the routes were compared with redis, as somebody asked"
            ),
            Why::Rechecked => info!(
                redis,
                tools, set, removed, "the configuration changed; the routes were judged anew"
            ),
            Why::Periodic if drift > 0 => warn!(
                redis,
                tools,
                drift,
                "routes had changed in redis and it had not said so (SWAPDB does that, and a flush where keyspace notifications are used); they are in step again"
            ),
            Why::Periodic | Why::Polled => {
                debug!(
                    redis,
                    tools, set, removed, "the routes are in step with redis"
                );
            }
        }
        let news = !matches!(comparison.why, Why::Periodic | Why::Polled);
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

/// How long ago, in words.
pub(super) fn age_of(time: SystemTime) -> String {
    age_between(time, SystemTime::now())
}

fn age_between(time: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(time) else {
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
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check_age(seconds: u64, words: &str) {
        let time = SystemTime::UNIX_EPOCH;
        let now = time + Duration::from_millis(seconds * 1000 + 999);
        assert_eq!(age_between(time, now), words);
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
