use super::*;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

/// A node with `rise` 2 and `fall` 3 in virtual time.
struct Story {
    health: Health,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        Self {
            health: Health::new(),
            now: Instant::now(),
        }
    }

    /// A check that begins after a second and takes none.
    fn check(&mut self, good: bool) -> Option<News> {
        self.now += S;
        self.check_from(self.now, good)
    }

    fn check_from(&mut self, begun: Instant, good: bool) -> Option<News> {
        let (rise, fall) = (2, 3);
        let check = Checked {
            good,
            begun,
            rise,
            fall,
        };
        self.health.checked(check, false, self.now)
    }

    fn fail(&mut self) -> Option<News> {
        self.health.connect_failed(false, self.now)
    }

    /// Good checks until it comes up; how many.
    fn come_back(&mut self) -> u64 {
        (1..1000)
            .find(|_| matches!(self.check(true), Some(News::Up { .. })))
            .unwrap()
    }
}

/// `+` a good check, `-` a bad one, `!` a connection that fails; upper case where it is up then.
#[track_caller]
fn check(story: &str) {
    let mut node = Story::new();
    let (mut said, mut done) = (String::new(), String::new());
    for word in story.split_whitespace() {
        match word.chars().next() {
            Some('+') => drop(node.check(true)),
            Some('-') => drop(node.check(false)),
            Some('!') => drop(node.fail()),
            _ => unreachable!(),
        }
        let state = if node.health.is_up() { "up" } else { "down" };
        said.push_str(&format!("{}{state} ", &word[..1]));
        done.push_str(&format!("{word} "));
    }
    assert_eq!(said, done);
}

#[test]
fn rise_and_fall() {
    check("+up +up -up -up -down");
    check("-up -up +up -up -up -down");
    check("-up -up -down +down +up -up -up -down");
    check("-up -up -down +down -down +down +up");
    check("!down +down +up");
    check("-up !down -down +down +up");
    check("!down +down !down +down +up");
}

#[test]
fn a_good_check_from_before_does_not_count() {
    let mut node = Story::new();
    let before = node.now;
    node.now += S;
    assert_eq!(
        node.fail(),
        Some(News::Down {
            held: Duration::ZERO
        })
    );
    node.now += S;
    for _ in 0..5 {
        assert_eq!(node.check_from(before, true), None);
    }
    assert_eq!(node.come_back(), 2);
}

#[test]
fn the_last_one_stays() {
    let mut node = Story::new();
    let spared = Some(News::Spared);
    assert_eq!(node.health.connect_failed(true, node.now), spared);
    assert_eq!(node.health.connect_failed(true, node.now), None);
    assert_eq!(node.health.broke(MAX_BROKEN, true, node.now), None);
    node.check(true);
    assert_eq!(node.health.broke(MAX_BROKEN, true, node.now), spared);
    assert!(node.health.is_up());
    assert_eq!(node.health.downs, 0);
}

#[test]
fn connections_that_break() {
    let mut node = Story::new();
    for in_a_row in 1..MAX_BROKEN {
        assert_eq!(node.health.broke(in_a_row, false, node.now), None);
    }
    let news = node.health.broke(MAX_BROKEN, false, node.now);
    assert_eq!(
        news,
        Some(News::Down {
            held: Duration::ZERO
        })
    );
}

#[test]
fn who_fails_again_soon_is_held_for_longer() {
    let mut node = Story::new();
    for held in [0, 10, 20, 40, 80, 160, 300, 300, 300] {
        assert_eq!(node.fail(), Some(News::Down { held: S * held }));
        // A check each second.
        assert_eq!(node.come_back(), u64::from(held).max(2));
        node.now += S * 299;
    }
    node.now += S;
    assert_eq!(
        node.fail(),
        Some(News::Down {
            held: Duration::ZERO
        }),
        "forgiven"
    );
    assert_eq!(node.come_back(), 2);
}

/// Requests try it anyway when no other is up: then it may as well be up.
#[test]
fn nobody_is_held_who_is_the_last_hope() {
    let mut node = Story::new();
    node.fail();
    node.come_back();
    assert_eq!(node.fail(), Some(News::Down { held: S * 10 }));
    let good = |node: &Story| Checked {
        good: true,
        begun: node.now,
        rise: 2,
        fall: 2,
    };
    let check = good(&node);
    assert_eq!(node.health.checked(check, true, node.now), None);
    let news = node.health.checked(check, true, node.now);
    assert_eq!(
        news,
        Some(News::Up {
            after: Duration::ZERO
        })
    );
}

#[test]
fn maintenance_makes_a_fresh_start() {
    let mut node = Story::new();
    node.fail();
    node.come_back();
    node.health.resumed(node.now);
    assert_eq!(
        node.fail(),
        Some(News::Down {
            held: Duration::ZERO
        })
    );
    node.check(true);
    node.health.resumed(node.now);
    assert!(!node.health.is_up(), "checks decide");
    assert_eq!(node.come_back(), 2);
}

#[test]
fn when_the_next_check_is() {
    let mut node = Story::new();
    let (begun, next) = (node.now, |node: &Story, begun| {
        node.health.next_check(begun, S * 10, S * 5)
    });
    assert_eq!(next(&node, begun), begun + S * 10);
    node.now += S;
    node.fail();
    assert_eq!(next(&node, begun), node.now + S * 5, "not after the rest");
    let begun = node.now + S * 5;
    assert_eq!(next(&node, begun), begun + S * 5);
}

#[test]
fn slow_start() {
    let mut node = Story::new();
    let share = |node: &Story, after: u32| {
        let now = node.now + S * after;
        let ramping = node.health.is_ramping(S * 60, now);
        (node.health.ramp(10_000, S * 60, now), ramping)
    };
    assert_eq!(
        share(&node, 0),
        (10_000, false),
        "at the start of the process"
    );
    node.fail();
    assert_eq!(share(&node, 0), (10_000, false), "nobody asks");
    node.come_back();
    assert_eq!(share(&node, 0), (100, true));
    assert_eq!(share(&node, 6), (1_000, true));
    assert_eq!(share(&node, 30), (5_000, true));
    assert_eq!(share(&node, 60), (10_000, false));
    assert_eq!(node.health.ramp(0, S * 60, node.now), 0, "no weight");
    assert_eq!(node.health.ramp(100, S * 60, node.now), 1, "never none");
    assert_eq!(node.health.ramp(100, Duration::ZERO, node.now), 100);
    let mut node = Story::new();
    node.health.resumed(node.now);
    assert_eq!(share(&node, 30), (5_000, true), "after maintenance");
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Good or not; began so many seconds ago.
    Check(bool, u32),
    ConnectFailed,
    Broke(u32),
}

/// What happened, when, and whether the node was the last one.
type Happening = (Instant, Event, bool);

/// The twin keeps everything that ever happened, and judges by looking back.
#[derive(Default)]
struct Twin {
    /// Since it last went up or down.
    since: Vec<Happening>,
    /// When it went down, whether it was ejected, and when it came up again.
    downs: Vec<(Instant, bool, Option<Instant>)>,
}

impl Twin {
    fn is_up(&self) -> bool {
        self.downs.last().is_none_or(|(_, _, up)| up.is_some())
    }

    fn held(&self, at: usize) -> Duration {
        if !self.downs[at].1 {
            return Duration::ZERO;
        }
        // Ejections before this one, as far back as it was never fine for long.
        let mut before = 0;
        for index in (0..at).rev() {
            let (_, ejected, up) = self.downs[index];
            if self.downs[index + 1].0 - up.unwrap() >= FORGIVEN_AFTER {
                break;
            }
            before += u32::from(ejected);
        }
        match before {
            0 => Duration::ZERO,
            before => (S * 10 * 2_u32.pow(before.min(10) - 1)).min(S * 300),
        }
    }

    fn happen(&mut self, happening: Happening, rise: usize, fall: usize) {
        let (now, event, last) = happening;
        self.since.push(happening);
        let bad = |(_, event, _): &&Happening| matches!(event, Event::Check(false, _));
        let is_check = |(_, event, _): &&Happening| matches!(event, Event::Check(..));
        if self.is_up() {
            let checks: Vec<&Happening> = self.since.iter().filter(is_check).collect();
            let bad_ones = checks.iter().rev().take_while(|check| bad(check)).count();
            let ejected = match event {
                Event::ConnectFailed => !last,
                Event::Broke(in_a_row) => in_a_row >= MAX_BROKEN && !last,
                Event::Check(..) => false,
            };
            if ejected || (matches!(event, Event::Check(false, _)) && bad_ones >= fall) {
                self.downs.push((now, ejected, None));
                self.since.clear();
            }
            return;
        }
        let (down, ..) = *self.downs.last().unwrap();
        let held = self.held(self.downs.len() - 1);
        let mut good = 0;
        for (at, event, _) in &self.since {
            match event {
                Event::Check(true, ago) if *at - S * *ago >= down => good += 1,
                Event::Check(true, _) | Event::Broke(..MAX_BROKEN) => {}
                Event::Check(false, _) | Event::ConnectFailed | Event::Broke(_) => good = 0,
            }
        }
        let counts = matches!(event, Event::Check(true, ago) if now - S * ago >= down);
        if counts && good >= rise && (last || now >= down + held) {
            self.downs.last_mut().unwrap().2 = Some(now);
            self.since.clear();
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (any::<bool>(), 0_u32..8).prop_map(|(good, ago)| Event::Check(good, ago)),
        4 => (0_u32..4).prop_map(|ago| Event::Check(true, ago)),
        2 => Just(Event::ConnectFailed),
        1 => (1_u32..8).prop_map(Event::Broke),
    ]
}

proptest! {
    /// It is up when the twin is, and counts what the twin remembers.
    #[test]
    fn it_is_what_its_twin_is(
        happenings in proptest::collection::vec((event(), 0_u32..200, 0_u32..10), 1..120),
        rise in 1_u32..4,
        fall in 1_u32..4,
    ) {
        let mut health = Health::new();
        let mut twin = Twin::default();
        let mut now = Instant::now() + S * 100;
        for (event, pause, luck) in happenings {
            // Mostly short.
            now += S * if pause < 180 { pause % 20 } else { pause * 3 };
            let last = luck == 0;
            let before = health.is_up();
            let news = match event {
                Event::Check(good, ago) => {
                    let check = Checked { good, begun: now - S * ago, rise, fall };
                    health.checked(check, last, now)
                }
                Event::ConnectFailed => health.connect_failed(last, now),
                Event::Broke(in_a_row) => health.broke(in_a_row, last, now),
            };
            twin.happen((now, event, last), rise as usize, fall as usize);
            prop_assert_eq!(health.is_up(), twin.is_up());
            prop_assert_eq!(health.downs as usize, twin.downs.len());
            match news {
                Some(News::Up { after }) => {
                    prop_assert!(!before && health.is_up());
                    let (down, _, up) = *twin.downs.last().unwrap();
                    prop_assert_eq!(after, up.unwrap() - down);
                }
                Some(News::Down { held }) => {
                    prop_assert!(before && !health.is_up());
                    prop_assert_eq!(held, twin.held(twin.downs.len() - 1));
                }
                Some(News::Spared) => prop_assert!(last && before && health.is_up()),
                None => prop_assert_eq!(before, health.is_up()),
            }
            let downs = twin.downs.iter();
            let over = downs.filter_map(|(down, _, up)| Some(up.as_ref()?.duration_since(*down)));
            prop_assert_eq!(health.downtime, over.sum::<Duration>());
        }
    }
}
