//! What is known of all pools and nodes at one moment, for pages, metrics and commands.
//!
//! One look for all of them, so that they never differ in what they call a state. The words are
//! HAProxy's. Its JSON is what `/pools` and `/status` answer.
//!
//! Takes no lock that a worker takes for a request, but in an overload that of the queue, for no
//! longer than it takes to read its length; that of a node's standing is shared with rare events.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use portico_config::Balance;
use serde::{Serialize, Serializer};

use super::check_code::CheckCode;
use super::counts::{Counts, Refused};
use super::live::Wish;
use super::node::{Node, WEIGHT_STEPS};
use super::pool::Pool;
use crate::snapshot::Snapshot;
use crate::terminal::visible;
use crate::time_text::{in_words, rfc3339};

/// Whether a node is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets its share.
    Up,
    /// It came up not long ago and gets so many hundredths of its share.
    SlowStart(u8),
    /// Its checks fail, or it could not be connected to.
    Down,
    /// An administrator wants it to get no new requests.
    Drain,
    /// The same, and it is not checked.
    Maintenance,
}

impl State {
    /// All words of [`State::as_str`].
    pub const WORDS: [&'static str; 4] = ["UP", "DOWN", "DRAIN", "MAINT"];

    /// HAProxy's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up | Self::SlowStart(_) => "UP",
            Self::Down => "DOWN",
            Self::Drain => "DRAIN",
            Self::Maintenance => "MAINT",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlowStart(percent) => write!(f, "UP (slow start {percent} %)"),
            Self::Up | Self::Down | Self::Drain | Self::Maintenance => f.write_str(self.as_str()),
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A pool.
#[derive(Debug, Clone, Serialize)]
pub struct PoolReport {
    /// Its name.
    pub name: Box<str>,
    /// `UP`: a node that is up is in rotation. `DOWN`: none is.
    pub state: State,
    /// What is wrong with it, in words; `null`: nothing.
    pub trouble: Option<&'static str>,
    /// `round-robin` or `least-requests`.
    pub balance: &'static str,
    /// The percentage of the tools that go here, as far as they go to the ingress; `null`: it is not
    /// of the ingress.
    pub ingress_percent: Option<u8>,
    /// Names of the TCP listeners that lead here.
    pub tcp: Vec<Box<str>>,
    /// How many wait for a place.
    pub waiting: usize,
    /// The most that waited at once.
    pub most_waiting: usize,
    /// How many may wait.
    pub queue_limit: usize,
    /// How many got no place, by why.
    pub refused: Refused,
    /// In the order of the configuration.
    pub nodes: Vec<NodeReport>,
}

/// A node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeReport {
    /// Where it is.
    pub address: String,
    /// Whether it is used.
    pub state: State,
    /// Only in a slow start.
    pub slow_start_percent: Option<u8>,
    /// Whether checks and failures leave it up, whatever administrators say.
    pub up: bool,
    /// Why it is not up; `null`: it is.
    pub down_because: Option<Box<str>>,
    /// How long it stays down whatever its checks say: it failed again soon after it came back.
    pub held_seconds: Option<u64>,
    /// `ready`, `drain` or `maintenance`: what administrators say.
    #[serde(serialize_with = "as_word")]
    pub wish: Wish,
    /// Since when it is in its state.
    #[serde(serialize_with = "as_rfc3339")]
    pub since: SystemTime,
    /// The same, as a span.
    pub seconds: u64,
    /// Its share of new requests.
    pub weight: Weight,
    /// Requests, or TCP connections, that it has now.
    pub in_flight: u32,
    /// The most at once.
    pub most_in_flight: u32,
    /// How many it may have.
    pub limit: u32,
    /// What was counted since it was configured.
    #[serde(flatten)]
    pub counts: Counts,
    /// How it is checked, and what came of it.
    pub checks: Checks,
}

/// A node's share of new requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weight {
    /// What counts now: slow start is in it; 0 while it is not used.
    pub now: f64,
    /// As an administrator set it; `null`: as configured.
    pub set: Option<u32>,
    /// As configured.
    pub configured: u32,
}

impl Weight {
    /// The weight in force, but for slow start.
    pub fn whole(&self) -> u32 {
        self.set.unwrap_or(self.configured)
    }
}

/// The checks of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Checks {
    /// The last one; `null`: there was none yet.
    pub last: Option<LastCheck>,
    /// Good ones in a row that bring it up.
    pub rise: u32,
    /// Bad ones in a row that take it down.
    pub fall: u32,
    /// How many failed while it was up.
    pub failed: u64,
    /// How many failed and said nothing of it: portico was late, or out of descriptors.
    pub discarded: u64,
    /// How often it went down.
    pub downs: u64,
    /// How long it was down in all.
    pub downtime_seconds: u64,
}

/// What came of a check.
#[derive(Debug, Clone, Serialize)]
pub struct LastCheck {
    /// When it ended.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: SystemTime,
    /// How long ago.
    pub seconds_ago: u64,
    /// HAProxy's code: `L4OK`, `L7STS` and so on.
    #[serde(serialize_with = "as_code")]
    pub code: CheckCode,
    /// The status of the answer.
    pub status: Option<u16>,
    /// How long it took.
    #[serde(rename = "milliseconds", serialize_with = "as_millis")]
    pub took: Duration,
    /// Why it failed; `null`: it did not.
    pub error: Option<String>,
}

fn as_word<S: Serializer>(wish: &Wish, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(wish.as_str())
}

fn as_code<S: Serializer>(code: &CheckCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.as_str())
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

fn as_millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(span.as_millis())
}

/// All pools of a snapshot, by name.
pub fn report(snapshot: &Snapshot, now: SystemTime) -> Vec<PoolReport> {
    let pools = snapshot.pools.iter();
    pools
        .map(|pool| PoolReport::of(snapshot, pool, now))
        .collect()
}

impl PoolReport {
    fn of(snapshot: &Snapshot, pool: &Pool, now: SystemTime) -> Self {
        let members = pool.members();
        let nodes = members.nodes.iter();
        let check = &members.config.check;
        let nodes: Vec<_> = nodes.map(|node| NodeReport::of(node, check, now)).collect();
        let (state, trouble) = state_of(&nodes);
        let shares = snapshot.ingress.shares();
        let share = shares.iter().find(|(one, _)| one.name == pool.name);
        Self {
            name: pool.name.clone(),
            state,
            trouble,
            balance: match members.config.balance {
                Balance::RoundRobin => "round-robin",
                Balance::LeastRequests => "least-requests",
            },
            ingress_percent: share.map(|(_, percent)| *percent),
            tcp: listeners_to(snapshot, &pool.name),
            waiting: pool.waiting(),
            most_waiting: pool.most_waiting(),
            queue_limit: members.queue_limit(),
            refused: pool.refusals.get(),
            nodes,
        }
    }

    /// What was counted of all nodes.
    pub fn totals(&self) -> Counts {
        let mut sum = Counts::default();
        for node in &self.nodes {
            sum.add(&node.counts);
        }
        sum
    }
}

fn listeners_to(snapshot: &Snapshot, pool: &str) -> Vec<Box<str>> {
    let listeners = snapshot.config.tcp.iter().filter(|listener| {
        let mut by_name = listener.server_names.iter();
        listener.pool.as_deref() == Some(pool) || by_name.any(|(_, to)| &**to == pool)
    });
    listeners.map(|listener| listener.name.clone()).collect()
}

/// Whether a pool can be used, and what is wrong with it.
fn state_of(nodes: &[NodeReport]) -> (State, Option<&'static str>) {
    let in_use = |node: &&NodeReport| node.weight.now > 0.0;
    if nodes.iter().filter(in_use).any(|node| node.up) {
        return (State::Up, None);
    }
    let trouble = match nodes.iter().any(|node| in_use(&node)) {
        true => "no node that is in rotation is up: they are tried all the same",
        false => "no node is in rotation: clients get 503 (of [[tcp]]: a reset)",
    };
    (State::Down, Some(trouble))
}

impl NodeReport {
    /// Why it is down where its last check does not say it, and for how long at least. For people.
    pub fn why_down(&self) -> String {
        let mut said = String::new();
        let last = self.checks.last.as_ref();
        if let Some(why) = &self.down_because
            && last.is_none_or(|last| last.error.is_none())
        {
            said.push_str(&format!("; down: {}", visible(why)));
        }
        if let Some(seconds) = self.held_seconds {
            let span = in_words(Duration::from_secs(seconds));
            said.push_str(&format!("; held down for {span} more"));
        }
        said
    }

    /// Whether an administrator wants it to be used: it is ready, and weighs something.
    pub fn is_in_rotation(&self) -> bool {
        self.wish == Wish::Ready && self.weight.whole() > 0
    }

    fn of(node: &Node, check: &portico_config::Check, now: SystemTime) -> Self {
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs();
        let effective = node.effective();
        node.standing(|standing| {
            let (health, wish) = (&standing.health, standing.wish);
            let weight = Weight {
                now: f64::from(effective) / f64::from(WEIGHT_STEPS),
                set: standing.set_weight,
                configured: standing.configured_weight,
            };
            let state = state(wish, health.is_up(), effective, weight.whole());
            let turned = [health.since(), standing.wish_since];
            let turned = match state {
                State::Down => health.since(),
                State::Drain | State::Maintenance => standing.wish_since,
                State::Up | State::SlowStart(_) => turned.into_iter().flatten().max(),
            };
            let turned = turned.unwrap_or(node.added);
            Self {
                address: node.address.to_string(),
                state,
                slow_start_percent: match state {
                    State::SlowStart(percent) => Some(percent),
                    _ => None,
                },
                up: health.is_up(),
                down_because: health.why_down().map(Box::from),
                held_seconds: health.held_for(Instant::now()).map(|held| held.as_secs()),
                wish,
                since: turned,
                seconds: since(turned),
                weight,
                in_flight: node.in_flight(),
                most_in_flight: node.most_in_flight(),
                limit: node.limit(),
                counts: node.counts(),
                checks: Checks {
                    last: health.last_check.as_ref().map(|last| LastCheck {
                        time: last.at,
                        seconds_ago: since(last.at),
                        code: last.code,
                        status: last.status,
                        took: last.took,
                        error: last.outcome.clone().err(),
                    }),
                    rise: check.rise,
                    fall: check.fall,
                    failed: health.failed_checks,
                    discarded: health.discarded_checks,
                    downs: health.downs,
                    downtime_seconds: health.downtime(now).as_secs(),
                },
            }
        })
    }
}

/// The state of a node that weighs `effective` of `whole` times [`WEIGHT_STEPS`] now.
fn state(wish: Wish, up: bool, effective: u32, whole: u32) -> State {
    match wish {
        Wish::Maintenance => State::Maintenance,
        // As HAProxy has it: that it is down is what matters.
        _ if !up => State::Down,
        Wish::Drain => State::Drain,
        Wish::Ready => {
            let full = u64::from(whole) * u64::from(WEIGHT_STEPS);
            let percent = (u64::from(effective) * 100).checked_div(full);
            match percent.and_then(|percent| u8::try_from(percent).ok()) {
                Some(percent) if percent < 100 => State::SlowStart(percent),
                _ => State::Up,
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn node(last: u8, state: State, seconds: u64, now: f64) -> NodeReport {
        let (up, refused) = match state {
            State::Down => (false, Some("refused\u{1b}".to_owned())),
            _ => (true, None),
        };
        NodeReport {
            address: format!("192.0.2.{last}:30000"),
            state,
            slow_start_percent: None,
            up,
            down_because: None,
            held_seconds: None,
            wish: Wish::Ready,
            since: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            seconds,
            weight: Weight {
                now,
                set: None,
                configured: 100,
            },
            in_flight: 0,
            most_in_flight: 0,
            limit: 1000,
            counts: Counts {
                sessions: 4,
                ..Counts::default()
            },
            checks: Checks {
                last: Some(LastCheck {
                    time: UNIX_EPOCH,
                    seconds_ago: 4,
                    code: if up {
                        CheckCode::L7Ok
                    } else {
                        CheckCode::L4Con
                    },
                    status: up.then_some(200),
                    took: Duration::from_millis(3),
                    error: refused,
                }),
                rise: 2,
                fall: 3,
                failed: 0,
                discarded: 0,
                downs: 0,
                downtime_seconds: 0,
            },
        }
    }

    /// One node in each state.
    pub(crate) fn sample() -> PoolReport {
        let mut nodes = vec![
            node(1, State::Up, 3 * 86_400 + 4 * 3600, 100.0),
            node(2, State::SlowStart(35), 21, 35.5),
            node(3, State::Down, 302, 0.0),
            node(4, State::Down, 302, 0.0),
            node(5, State::Maintenance, 7200, 0.0),
        ];
        (nodes[0].in_flight, nodes[0].counts.sessions) = (12, 123_456);
        (nodes[1].in_flight, nodes[1].counts.sessions) = (4, 77);
        nodes[3].wish = Wish::Drain;
        nodes[3].down_because = Some("its checks fail".into());
        nodes[4].wish = Wish::Maintenance;
        nodes[4].counts.sessions = 0;
        nodes[4].weight.set = Some(7);
        PoolReport {
            name: "ingress".into(),
            state: State::Up,
            trouble: None,
            balance: "round-robin",
            ingress_percent: Some(100),
            tcp: Vec::new(),
            waiting: 3,
            most_waiting: 5,
            queue_limit: 512,
            refused: Refused {
                no_node: 0,
                queue_full: 40,
                queue_timeout: 2,
            },
            nodes,
        }
    }

    #[track_caller]
    fn check(wish: Wish, up: bool, effective: u32, whole: u32, word: &str, shown: &str) {
        let state = state(wish, up, effective, whole);
        assert_eq!((state.as_str(), state.to_string().as_str()), (word, shown));
        assert!(State::WORDS.contains(&word));
    }

    #[test]
    fn states() {
        check(Wish::Ready, true, 10_000, 100, "UP", "UP");
        check(Wish::Ready, true, 3_550, 100, "UP", "UP (slow start 35 %)");
        check(Wish::Ready, true, 1, 100, "UP", "UP (slow start 0 %)");
        check(Wish::Ready, true, 100_000, 1000, "UP", "UP");
        // A weight of 0 is no slow start.
        check(Wish::Ready, true, 0, 0, "UP", "UP");
        check(Wish::Ready, false, 0, 100, "DOWN", "DOWN");
        // None is up, so that it is tried.
        check(Wish::Ready, false, 10_000, 100, "DOWN", "DOWN");
        check(Wish::Drain, true, 0, 100, "DRAIN", "DRAIN");
        check(Wish::Drain, false, 0, 100, "DOWN", "DOWN");
        check(Wish::Maintenance, true, 0, 100, "MAINT", "MAINT");
        check(Wish::Maintenance, false, 0, 100, "MAINT", "MAINT");
    }
}
