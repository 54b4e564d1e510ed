//! Several porticos on one redis and its replicas, and any interleaving of writes and failures: in the
//! end each serves what redis holds.

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::load::Load;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::redis::{Redis, Session};
use portico_tests::registry::{
    BAD_BACKEND, BAD_PATTERN, Site, connected, goes, in_step, refresh, served, soon_goes, status,
    stored,
};
use portico_tests::relay::{Relay, Way};
use portico_tests::{SOON, eventually};

/// A small generator of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    /// Neither `tool0` nor `moved`, which a load asks for.
    fn tool(&mut self) -> String {
        match self.below(4) {
            0 => format!("tool{}", 1 + self.below(19)),
            _ => format!("random{}", self.below(200)),
        }
    }

    /// A write of the kind that webservices make, and mistakes.
    fn write(&mut self, backends: &[&str; 2]) -> Vec<String> {
        let tool = self.tool();
        let (prefix, redirect) = (format!("prefix:{tool}"), format!("redirect:{tool}"));
        let pattern = self.one_of(&[".*", ".*", ".*", "^/api/.*", BAD_PATTERN]);
        let backend = match self.below(12) {
            0 => BAD_BACKEND,
            _ => self.one_of(backends),
        };
        let words: Vec<&str> = match self.below(20) {
            0..9 => vec!["HSET", &prefix, pattern, backend],
            9..13 => vec!["DEL", &prefix, &redirect],
            13..15 => vec!["HDEL", &prefix, pattern],
            15..17 => vec!["SET", &redirect, "x"],
            17 => vec!["DEL", &redirect],
            18 => vec!["SET", &prefix, "not a hash"],
            _ => vec!["PEXPIRE", &prefix, "50"],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Writes; a hash command on what is no hash is refused, which is as good as any other.
fn write(session: &mut Session, words: &[String]) {
    if let Err(error) = session.ask(words) {
        assert!(error.starts_with("WRONGTYPE"), "{words:?}: {error}");
    }
}

/// Soon applied: the test need not wait for the grace time long.
fn start(redis_url: &str) -> Portico {
    Builder::new()
        .registry_at(redis_url)
        .with("[registry]\nmass_removal = { percent = 50, grace = '5s' }")
        .start()
}

fn backends(site: &Site) -> [String; 2] {
    [site.a.url(), site.b.url()]
}

/// Two on the master, one on its replica, one on the replica's replica.
#[test]
fn porticos_that_share_a_redis_converge() {
    let site = Site::new();
    let mut replica = Redis::replica_of(&site.redis);
    let second = Redis::replica_of(&replica);
    let mut porticos =
        [&site.redis, &site.redis, &replica, &second].map(|redis| start(&redis.url()));
    let loads: Vec<Load> = [0, 2].map(|n| site.load(&porticos[n])).into();
    let urls = backends(&site);
    let backends = [urls[0].as_str(), urls[1].as_str()];
    let mut session = site.redis.session();
    let mut numbers = Numbers(0x0070_6f72_7469_636f);
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(8) || rounds <= 35 {
        for _ in 0..50 {
            write(&mut session, &numbers.write(&backends));
            thread::sleep(Duration::from_millis(1));
        }
        match rounds {
            15 => porticos[1] = start(&site.redis.url()),
            25 => replica.restart(),
            // Flushed and filled again, as a registry that is rebuilt.
            35 => {
                let mut refill = vec![vec!["MULTI".to_owned()], vec!["FLUSHALL".to_owned()]];
                for index in 0..Site::TOOLS {
                    let key = format!("prefix:tool{index}");
                    refill.push(vec!["HSET".into(), key, ".*".into(), urls[0].clone()]);
                }
                let moved = ["HSET", "prefix:moved", ".*", &urls[0]];
                refill.push(moved.map(str::to_owned).into());
                refill.push(["SET", "redirect:moved", "x"].map(str::to_owned).into());
                refill.push(vec!["EXEC".into()]);
                assert!(session.ask_all(&refill).iter().all(Result::is_ok));
            }
            _ => {}
        }
        rounds += 1;
    }
    let written = Instant::now();
    replica.wait_for_master();
    for portico in &porticos {
        in_step(portico, &site.redis);
    }
    println!("{rounds} rounds; in step after {:?}", written.elapsed());
    let table = served(&porticos[0]);
    assert_eq!(table, served(&porticos[3]));
    for tool in table.keys().take(20) {
        let answers: Vec<String> = porticos.iter().map(|portico| goes(portico, tool)).collect();
        assert!(
            answers.iter().all(|to| *to == answers[0]),
            "{tool}: {answers:?}"
        );
    }
    for load in loads {
        load.finish();
    }
}

/// A redis that keeps its data, whose user `portico` is told of changes in this mode.
fn redis_for(mode: &str) -> Redis {
    let keep = ["--appendonly", "yes", "--appendfsync", "no"];
    let user = ["--user", "portico", "on", ">s3cret", "~*", "&*", "+@all"];
    let more: &[&str] = match mode {
        "tracking" => &[],
        "keyspace" => &["-client|tracking", "--notify-keyspace-events", "KA"],
        _ => &["-client|tracking"],
    };
    Redis::with(&[&keep[..], &user, more].concat())
}

/// Writes and failures in any order, of one portico and a redis that keeps its data.
#[track_caller]
fn check_interleaving(seed: u64, mode: &str) {
    let mut site = Site::on(redis_for(mode));
    let relay = Relay::start(site.redis.address(), Way::Through);
    let portico = start(&format!("redis://portico:s3cret@{}/0", relay.address()));
    let series = format!("portico_registry_mode{{mode=\"{mode}\"}}");
    assert_eq!(portico.metric(&series), Some(1.0));
    let load = site.load(&portico);
    let urls = backends(&site);
    let backends = [urls[0].as_str(), urls[1].as_str()];
    let mut numbers = Numbers(seed);
    let mut done = Vec::new();
    for _ in 0..8 {
        let some = numbers.below(200);
        let mut session = site.redis.session();
        for _ in 0..some {
            write(&mut session, &numbers.write(&backends));
        }
        drop(session);
        let bytes = numbers.below(4000) as usize;
        let failure = numbers.below(8);
        done.push((some, failure, bytes));
        match failure {
            0 => site.redis.kill_clients(),
            1 => site.redis.restart(),
            2 => {
                site.redis.freeze();
                thread::sleep(Duration::from_millis(numbers.below(1500)));
                site.redis.thaw();
            }
            3 => relay.cut(Way::ResetAfter(bytes)),
            4 => relay.cut(Way::Slow(Duration::from_millis(numbers.below(150)))),
            5 => relay.cut(Way::Through),
            6 => {
                site.redis.kill();
                thread::sleep(Duration::from_millis(numbers.below(1000)));
                site.redis.restart();
            }
            _ => {}
        }
        let mut session = site.redis.session();
        // While it connects and compares, or not yet.
        for _ in 0..numbers.below(100) {
            write(&mut session, &numbers.write(&backends));
            thread::sleep(Duration::from_millis(5));
        }
    }
    // The last comparison is a slow one, and nothing after it mends what was missed in it; but where
    // it polls, where the next one does.
    relay.cut(Way::Slow(Duration::from_millis(120)));
    connected(&portico, false);
    let mut session = site.redis.session();
    eventually("a comparison amid writes", SOON, || {
        for _ in 0..5 {
            write(&mut session, &numbers.write(&backends));
        }
        (status(&portico, "connected") == 1).then_some(())
    });
    relay.set(Way::Through);
    println!("seed {seed}: {done:?}");
    if mode == "polling" {
        // By itself it rests for twenty times as long as the slow comparison took.
        refresh(&portico);
    }
    in_step(&portico, &site.redis);
    // And pushes come through again.
    let fresh = Origin::echo("fresh");
    site.redis.route("fresh", ".*", &fresh.url());
    soon_goes(&portico, "fresh", "fresh");
    if mode == "tracking" {
        assert_eq!(status(&portico, "drift"), 0);
    }
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    assert_eq!(served(&portico), stored(&site.redis));
    load.finish();
}

#[test]
fn any_interleaving_ends_in_the_table_of_redis() {
    check_interleaving(1, "tracking");
    check_interleaving(2, "tracking");
}

#[test]
fn so_does_any_under_keyspace_notifications() {
    check_interleaving(3, "keyspace");
}

#[test]
fn so_does_any_under_polling() {
    check_interleaving(4, "polling");
}
