//! Whether a node is up, by its checks and by what workers see of it; and how it comes back.
//!
//! Pure: time is a parameter (the wall clock is read for people only). Not done here: asking the
//! node (`checks`, `probe`), telling anybody (`pool`), what administrators want (`live`).
//!
//! | the node is | what happens | what becomes of it |
//! |---|---|---|
//! | up | a good check | up; bad ones are counted from 0 again |
//! | up | the `fall`th bad check in a row | down, also the last one: with none up all are tried |
//! | up | a connection cannot be made, or [`MAX_BROKEN`] in a row broke before an answer | ejected: down at once, and held down for a while |
//! | up, the last one | the same | up: never is the last node ejected |
//! | down | a good check that began after it went down | down; good ones are counted |
//! | down | the `rise`th good check in a row, when it is held down no more or no other is up | up, and it begins its slow start |
//! | down | a bad check, or a connection that fails | down; good ones are counted from 0 again, and it is held no longer |
//!
//! It is held down not at all the first time: good checks suffice. When it is ejected again less than
//! [`FORGIVEN_AFTER`] after it came back, it is held for [`FIRST_HOLD`], then for twice as long each
//! time, up to [`LONGEST_HOLD`]: a node whose checks succeed and whose connections fail must not hurt
//! requests every few seconds for ever.
//!
//! Slow start: after it was down, and after maintenance, in which it most likely was restarted. Not at
//! the start of the process, not when a reload brings it, and not after it was drained.
//!
//! A check that says nothing of the node (the control thread was late, this machine was out of
//! descriptors) changes nothing, and is counted.

use std::time::{Duration, Instant, SystemTime};

use super::check_code::CheckCode;

/// So many new connections in a row that broke before an answer take a node out. One is nothing: a
/// service behind the node may do that, and so may a request.
pub const MAX_BROKEN: u32 = 5;
/// How long a node is held down that is ejected for the second time.
pub const FIRST_HOLD: Duration = Duration::from_secs(10);
/// The most that a node is held down.
pub const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// A node that has been up for so long is ejected for the first time again.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(300);
/// The share with which a slow start begins: one part of so many.
const FIRST_SHARE: u32 = 100;

/// What is known of one node.
#[derive(Debug)]
pub struct Health {
    up: bool,
    /// When that changed; `None`: never.
    changed: Option<(Instant, SystemTime)>,
    /// Checks in a row that speak against its state: bad ones while it is up, good ones while down.
    streak: u32,
    /// How often it was ejected without being forgiven.
    ejections: u32,
    /// It does not come up before.
    held_until: Option<Instant>,
    /// When its slow start began.
    ramps_from: Option<Instant>,
    /// Why it is down, in words.
    pub(super) why_down: Option<Box<str>>,
    /// That it was spared was said since its last good check.
    spared: bool,
    /// How often it went down.
    pub downs: u64,
    /// How long it was down before the last change.
    downtime: Duration,
    /// Checks that failed while it was up, as HAProxy counts them.
    pub failed_checks: u64,
    /// Checks that failed and said nothing of it.
    pub discarded_checks: u64,
    /// The last check.
    pub last_check: Option<CheckRecord>,
}

/// What came of a check.
#[derive(Debug, Clone)]
pub struct CheckRecord {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What came of it, in a word.
    pub code: CheckCode,
    /// The status of the answer, of a check by HTTP that got one.
    pub status: Option<u16>,
    /// The error is a sentence without a full stop.
    pub outcome: Result<(), String>,
}

/// A check that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Checked {
    /// Whether it succeeded.
    pub good: bool,
    /// When it began.
    pub begun: Instant,
    /// So many good ones in a row bring a node up.
    pub rise: u32,
    /// So many bad ones in a row take it down.
    pub fall: u32,
}

/// What has become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is up again.
    Up {
        /// So long it was down.
        after: Duration,
    },
    /// It is down.
    Down {
        /// It is held down for at least so long, however good its checks are.
        held: Duration,
    },
    /// It would be down if it were not the last one. Once between two good checks.
    Spared,
}

impl Health {
    /// Taken for up until something says otherwise.
    pub(super) fn new() -> Self {
        Self {
            up: true,
            changed: None,
            streak: 0,
            ejections: 0,
            held_until: None,
            ramps_from: None,
            why_down: None,
            spared: false,
            downs: 0,
            downtime: Duration::ZERO,
            failed_checks: 0,
            discarded_checks: 0,
            last_check: None,
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Since when; `None`: since the start, or since a reload brought it.
    pub fn since(&self) -> Option<SystemTime> {
        self.changed.map(|(_, clock)| clock)
    }

    /// Why it is down.
    pub fn why_down(&self) -> Option<&str> {
        self.why_down.as_deref()
    }

    /// How long it is held down still, whatever its checks say.
    pub fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.held_until?.saturating_duration_since(now);
        (!self.up && !left.is_zero()).then_some(left)
    }

    /// How long it was down in all.
    pub fn downtime(&self, now: SystemTime) -> Duration {
        let last = match (self.up, self.since()) {
            (false, Some(since)) => now.duration_since(since).unwrap_or_default(),
            _ => Duration::ZERO,
        };
        self.downtime + last
    }

    /// Counts the outcome of a check; `last`: no other node is up.
    pub fn checked(&mut self, check: Checked, last: bool, now: Instant) -> Option<News> {
        let Checked {
            good,
            begun,
            rise,
            fall,
        } = check;
        self.spared &= !good;
        if self.up && !good {
            self.failed_checks += 1;
        }
        if good == self.up {
            self.streak = 0;
            return None;
        }
        if good && self.changed.is_some_and(|(down, _)| begun < down) {
            // It has failed since, and worse.
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        if good {
            let held = !last && self.held_until.is_some_and(|until| now < until);
            (self.streak >= rise && !held).then(|| self.rise(now))
        } else {
            (self.streak >= fall).then(|| {
                self.forgive(now);
                self.go_down(Duration::ZERO, now)
            })
        }
    }

    /// A worker could not connect; `last`: no other node is up.
    pub fn connect_failed(&mut self, last: bool, now: Instant) -> Option<News> {
        self.eject(last, now)
    }

    /// The node broke so many new connections in a row before it answered.
    pub fn broke(&mut self, in_a_row: u32, last: bool, now: Instant) -> Option<News> {
        (in_a_row >= MAX_BROKEN)
            .then(|| self.eject(last, now))
            .flatten()
    }

    /// It was in maintenance: somebody has looked after it. It is what it was before, with a slow start
    /// as after a restart, which it most likely had.
    pub fn resumed(&mut self, now: Instant) {
        self.streak = 0;
        self.ejections = 0;
        self.held_until = None;
        self.ramps_from = self.up.then_some(now);
    }

    /// When it is to be checked again whose last check began at `begun`. A node that was ejected
    /// meanwhile is not left alone for what is left of a long `interval`.
    pub(super) fn next_check(
        &self,
        begun: Instant,
        interval: Duration,
        down_interval: Duration,
    ) -> Instant {
        match (self.up, self.changed) {
            (true, _) => begun + interval,
            (false, Some((down, _))) => begun.max(down) + down_interval,
            (false, None) => begun + down_interval,
        }
    }

    /// How much of `whole` a node gets that came up not long ago: linear, from a hundredth, and at
    /// least 1. Its places do not become more bit by bit, as HAProxy has it: requests would wait, and
    /// then fail, beside a node that has room.
    pub fn ramp(&self, whole: u32, slow_start: Duration, now: Instant) -> u32 {
        let Some(from) = self.ramps_from else {
            return whole;
        };
        let age = now.saturating_duration_since(from);
        if age >= slow_start {
            return whole;
        }
        let share = f64::from(whole) * age.as_secs_f64() / slow_start.as_secs_f64();
        let least = (whole / FIRST_SHARE).max(1).min(whole);
        (share as u32).clamp(least, whole)
    }

    /// Whether its share grows still.
    pub(super) fn is_ramping(&self, slow_start: Duration, now: Instant) -> bool {
        let age = |from| now.saturating_duration_since(from);
        self.up && self.ramps_from.is_some_and(|from| age(from) < slow_start)
    }

    fn eject(&mut self, last: bool, now: Instant) -> Option<News> {
        if !self.up {
            self.streak = 0;
            return None;
        }
        if last {
            let said = std::mem::replace(&mut self.spared, true);
            return (!said).then_some(News::Spared);
        }
        self.forgive(now);
        let doublings = self.ejections.checked_sub(1);
        let held = doublings.map_or(Duration::ZERO, |doublings| {
            let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            FIRST_HOLD.saturating_mul(factor).min(LONGEST_HOLD)
        });
        self.ejections = self.ejections.saturating_add(1);
        Some(self.go_down(held, now))
    }

    /// Before it goes down: whether it was fine for long.
    fn forgive(&mut self, now: Instant) {
        if let Some((risen, _)) = self.changed
            && now.saturating_duration_since(risen) >= FORGIVEN_AFTER
        {
            self.ejections = 0;
        }
    }

    fn go_down(&mut self, held: Duration, now: Instant) -> News {
        self.turn(false, now);
        self.downs += 1;
        self.held_until = Some(now + held);
        News::Down { held }
    }

    fn rise(&mut self, now: Instant) -> News {
        let down = self.changed.map(|(down, _)| down);
        let after = down.map_or(Duration::ZERO, |down| now.saturating_duration_since(down));
        self.turn(true, now);
        self.downtime += after;
        self.held_until = None;
        self.ramps_from = Some(now);
        News::Up { after }
    }

    fn turn(&mut self, up: bool, now: Instant) {
        self.up = up;
        self.changed = Some((now, SystemTime::now()));
        self.streak = 0;
        self.spared = false;
        self.why_down = None;
    }
}

#[cfg(test)]
mod tests;
