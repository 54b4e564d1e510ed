//! Whether a node is up, by its checks and by what workers see of it; and how it comes back.
//!
//! Pure: time is a parameter. Not done here: asking the node (`checks`), telling anybody (`pool`).

use std::time::{Duration, Instant, SystemTime};

/// What is known of one node.
#[derive(Debug)]
pub struct Health {
    up: bool,
    /// When that changed; `None`: never.
    since: Option<SystemTime>,
    /// When it came up, if it was down before.
    risen: Option<Instant>,
    /// Checks with the same outcome in a row.
    good: bool,
    streak: u32,
    /// How often it went down.
    pub downs: u64,
    /// How long it was down before the last change.
    downtime: Duration,
    /// Checks that failed.
    pub failed_checks: u64,
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
    /// The status of the answer, of a check by HTTP that got one.
    pub status: Option<u16>,
    /// The error is a sentence without a full stop.
    pub outcome: Result<(), String>,
}

/// What has become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is up again.
    Up,
    /// It is down.
    Down,
}

impl Health {
    /// Taken for up until something says otherwise.
    pub(super) fn new() -> Self {
        Self {
            up: true,
            since: None,
            risen: None,
            good: true,
            streak: 0,
            downs: 0,
            downtime: Duration::ZERO,
            failed_checks: 0,
            last_check: None,
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Since when; `None`: since the start, or since a reload brought it.
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// How long it was down in all.
    pub fn downtime(&self, now: SystemTime) -> Duration {
        let last = match (self.up, self.since) {
            (false, Some(since)) => now.duration_since(since).unwrap_or_default(),
            _ => Duration::ZERO,
        };
        self.downtime + last
    }

    /// Counts the outcome of a check: `rise` good ones in a row bring it up, `fall` bad ones down.
    pub fn checked(&mut self, good: bool, rise: u32, fall: u32, now: Instant) -> Option<News> {
        if good != self.good {
            self.good = good;
            self.streak = 0;
        }
        self.streak = self.streak.saturating_add(1);
        let needed = if good { rise } else { fall };
        (good != self.up && self.streak >= needed).then(|| self.turn(good, now))
    }

    /// A worker could not connect; `last`: no other node is up.
    pub fn connect_failed(&mut self, _last: bool, now: Instant) -> Option<News> {
        self.streak = 0;
        self.up.then(|| self.turn(false, now))
    }

    /// The node broke so many new connections in a row before it answered.
    pub fn broke(&mut self, _in_a_row: u32, _last: bool, _now: Instant) -> Option<News> {
        None
    }

    /// How much of `whole` a node gets that came up not long ago, at least 1.
    pub fn ramp(&self, whole: u32, slow_start: Duration, now: Instant) -> u32 {
        let Some(risen) = self.risen else {
            return whole;
        };
        let age = now.saturating_duration_since(risen);
        if age >= slow_start {
            return whole;
        }
        let share = f64::from(whole) * age.as_secs_f64() / slow_start.as_secs_f64();
        (share as u32).clamp(1.min(whole), whole)
    }

    fn turn(&mut self, up: bool, now: Instant) -> News {
        let clock = SystemTime::now();
        match up {
            true => self.downtime = self.downtime(clock),
            false => self.downs += 1,
        }
        self.up = up;
        self.since = Some(clock);
        self.streak = 0;
        self.risen = up.then_some(now);
        if up { News::Up } else { News::Down }
    }
}
