//! Whether a pool has a node that can be used, since when, and for how long it had none.
//!
//! Pure: time is a parameter.

use std::time::{Duration, SystemTime};

/// What is known of a whole pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// A node that is up is in rotation.
    pub up: bool,
    /// Since when that is so, or not.
    pub since: SystemTime,
    /// How often the last one went.
    pub downs: u64,
    downtime: Duration,
}

impl Availability {
    /// Of a pool that is new.
    pub fn new(now: SystemTime) -> Self {
        Self {
            up: true,
            since: now,
            downs: 0,
            downtime: Duration::ZERO,
        }
    }

    /// It is so now.
    pub fn note(&mut self, up: bool, now: SystemTime) {
        if up == self.up {
            return;
        }
        match up {
            true => self.downtime = self.downtime(now),
            false => self.downs += 1,
        }
        self.up = up;
        self.since = now;
    }

    /// How long there was no node in all.
    pub fn downtime(&self, now: SystemTime) -> Duration {
        match self.up {
            true => self.downtime,
            false => self.downtime + now.duration_since(self.since).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_node_adds_up() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut pool = Availability::new(at(10));
        for (up, seconds) in [
            (true, 15),
            (false, 20),
            (false, 25),
            (true, 30),
            (false, 100),
        ] {
            pool.note(up, at(seconds));
        }
        assert_eq!((pool.up, pool.since, pool.downs), (false, at(100), 2));
        assert_eq!(pool.downtime(at(105)), Duration::from_secs(15));
        pool.note(true, at(107));
        assert_eq!(pool.since, at(107));
        assert_eq!(pool.downtime(at(1000)), Duration::from_secs(17));
    }
}
