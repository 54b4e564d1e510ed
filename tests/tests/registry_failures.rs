//! Redis refuses, hangs, crawls, restarts, loads, talks nonsense or breaks off, while requests
//! go on: none of them fails or waits, and in the end portico serves what redis holds.

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::load::Load;
use portico_tests::portico::{Builder, Portico};
use portico_tests::redis::Redis;
use portico_tests::registry::{
    Site, connected, goes, in_step, said, served, soon_goes, soon_says, status,
};
use portico_tests::relay::{Relay, Way};
use portico_tests::{SOON, eventually};

/// What is said when a connection is of no use.
const UNUSABLE: &str = "redis cannot be used";

/// A portico under load whose line to redis can be made bad.
struct Scene {
    load: Load,
    portico: Portico,
    relay: Relay,
    site: Site,
}

impl Scene {
    fn new() -> Scene {
        let site = Site::on(Redis::persistent());
        let relay = Relay::start(site.redis.address(), Way::Through);
        let portico = Builder::new().registry_at(&relay.url()).start();
        let load = site.load(&portico);
        Scene {
            load,
            portico,
            relay,
            site,
        }
    }

    /// A start while the line is this bad, with a snapshot of the table.
    fn started(way: Way) -> Scene {
        let site = Site::on(Redis::persistent());
        let snapshot = site.snapshot();
        let relay = Relay::start(site.redis.address(), way);
        let builder = Builder::new();
        std::fs::write(builder.snapshot(), snapshot).unwrap();
        let portico = builder.registry_at(&relay.url()).start();
        let load = site.load(&portico);
        Scene {
            load,
            portico,
            relay,
            site,
        }
    }

    /// Some tools come, go and change.
    fn write(&self) {
        let (redis, b) = (&self.site.redis, self.site.b.url());
        redis.route("new", ".*", &b);
        redis.route("tool1", ".*", &b);
        redis.command(&["DEL", "prefix:tool2"]);
        redis.redirect("tool3");
    }

    /// Redis is well again: portico is soon in step with it, sees changes, and no request
    /// has noticed anything.
    #[track_caller]
    fn end(self) {
        connected(&self.portico, true);
        in_step(&self.portico, &self.site.redis);
        self.site.redis.route("last", ".*", &self.site.b.url());
        soon_goes(&self.portico, "last", "b");
        let counts = self.load.finish();
        let errors = said(&self.portico, UNUSABLE);
        println!("{counts:?}, {errors} errors said");
        assert!(errors <= 4, "said too often:\n{}", self.portico.stderr());
    }
}

#[test]
fn a_redis_that_is_gone_changes_nothing_until_it_is_back() {
    let mut scene = Scene::new();
    scene.site.redis.kill();
    connected(&scene.portico, false);
    let before = served(&scene.portico);
    assert_eq!(before.len(), Site::TOOLS + 1);
    soon_says(&scene.portico, UNUSABLE);
    scene.load.go_on();
    assert_eq!(served(&scene.portico), before);
    scene.site.redis.restart();
    scene.write();
    scene.end();
}

#[test]
fn a_start_without_redis_goes_by_the_snapshot() {
    let mut site = Site::on(Redis::persistent());
    let snapshot = site.snapshot();
    site.redis.kill();
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), snapshot).unwrap();
    let portico = builder.registry(&site.redis).start();
    let load = site.load(&portico);
    assert_eq!(status(&portico, "connected"), 0);
    assert_eq!(served(&portico).len(), Site::TOOLS + 1);
    soon_says(&portico, "routing by the snapshot on disk until it is back");
    load.go_on();
    site.redis.restart();
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    in_step(&portico, &site.redis);
    load.finish();
    let stderr = portico.stderr();
    assert_eq!(stderr.matches("ERROR").count(), 1, "{stderr}");
}

#[test]
fn a_start_with_a_redis_that_hangs_is_bounded() {
    let begin = Instant::now();
    let scene = Scene::started(Way::Silent);
    let taken = begin.elapsed();
    assert!(taken < Duration::from_secs(15), "it took {taken:?}");
    assert_eq!(served(&scene.portico).len(), Site::TOOLS + 1);
    soon_says(&scene.portico, "did not answer within 5 s");
    scene.write();
    scene.relay.cut(Way::Through);
    scene.end();
}

#[test]
fn a_redis_that_hangs_is_noticed_and_found_again() {
    let scene = Scene::new();
    scene.site.redis.freeze();
    connected(&scene.portico, false);
    soon_says(&scene.portico, "did not answer within 3 s");
    scene.load.go_on();
    scene.site.redis.thaw();
    scene.write();
    scene.end();
}

/// Changes are late by what redis is late, and the connection stays.
#[test]
fn a_slow_redis_is_only_slow() {
    let scene = Scene::started(Way::Slow(Duration::from_millis(100)));
    for way in [
        Way::Slow(Duration::from_millis(200)),
        Way::ByteByByte,
        // Two answers in a row are a sign of life, and may stand behind a push.
        Way::Slow(Duration::from_millis(600)),
    ] {
        let backend = goes(&scene.portico, "tool1");
        let other = if backend == "a" {
            &scene.site.b
        } else {
            &scene.site.a
        };
        scene.relay.set(way);
        scene.site.redis.route("tool1", ".*", &other.url());
        eventually("the change arrives", SOON, || {
            (goes(&scene.portico, "tool1") != backend).then_some(())
        });
    }
    scene.relay.set(Way::Through);
    assert_eq!(status(&scene.portico, "disconnects"), 0);
    assert_eq!(said(&scene.portico, "ERROR"), 0);
    scene.end();
}

#[test]
fn a_start_with_a_slow_redis_takes_its_table() {
    for way in [Way::Slow(Duration::from_millis(500)), Way::ByteByByte] {
        let site = Site::new();
        let relay = Relay::start(site.redis.address(), way);
        let portico = Builder::new().registry_at(&relay.url()).start();
        in_step(&portico, &site.redis);
    }
}

#[test]
fn a_redis_that_restarts_again_and_again() {
    let mut scene = Scene::new();
    for round in 0..10 {
        scene.site.redis.restart();
        let backend = if round % 2 == 0 {
            &scene.site.b
        } else {
            &scene.site.a
        };
        scene.site.redis.route("tool1", ".*", &backend.url());
        thread::sleep(Duration::from_secs(1));
    }
    scene.write();
    scene.end();
}

/// A redis whose data takes some seconds to load, from now on.
fn make_slow_to_load(site: &mut Site) {
    let mut session = site.redis.session();
    let url = site.a.url();
    let keys = (0..3000).map(|n| format!("prefix:more{n}"));
    let commands: Vec<Vec<String>> = keys
        .map(|key| vec!["HSET".into(), key, ".*".into(), url.clone()])
        .collect();
    assert!(session.ask_all(&commands).iter().all(Result::is_ok));
    session.ask(&["SAVE"]).unwrap();
    site.redis.add_arguments(&[
        "--key-load-delay",
        "1500",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
}

#[test]
fn a_redis_that_loads_its_data_is_not_empty() {
    let mut site = Site::new();
    make_slow_to_load(&mut site);
    let snapshot = site.snapshot();
    let running = site.start();
    let load = site.load(&running);
    let before = served(&running);
    site.redis.restart_without_waiting();
    soon_says(&running, "LOADING");
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), snapshot).unwrap();
    let started = builder.registry(&site.redis).start();
    let second_load = site.load(&started);
    for portico in [&running, &started] {
        soon_says(portico, "LOADING");
        assert_eq!(status(portico, "held_back"), 0);
        assert!(served(portico) == before);
        connected(portico, true);
        in_step(portico, &site.redis);
        assert_eq!(said(portico, "vanished"), 0, "{}", portico.stderr());
    }
    load.finish();
    second_load.finish();
}

/// Wherever the first load breaks off, the snapshot stands in whole.
#[test]
fn a_start_whose_load_breaks_off_goes_by_the_snapshot() {
    for bytes in [0, 40, 900, 1400] {
        let scene = Scene::started(Way::ResetAfter(bytes));
        assert_eq!(served(&scene.portico).len(), Site::TOOLS + 1, "{bytes}");
        soon_says(&scene.portico, "routing by the snapshot on disk");
        scene.write();
        scene.relay.cut(Way::Through);
        scene.end();
    }
}

#[test]
fn a_redis_killed_in_the_first_load() {
    let mut site = Site::on(Redis::persistent());
    let snapshot = site.snapshot();
    let relay = Relay::start(site.redis.address(), Way::Slow(Duration::from_millis(400)));
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), snapshot).unwrap();
    let builder = builder.registry_at(&relay.url());
    let portico = thread::scope(|scope| {
        let starting = scope.spawn(|| builder.start());
        thread::sleep(Duration::from_secs(1));
        site.redis.kill();
        starting.join().unwrap()
    });
    let load = site.load(&portico);
    soon_says(&portico, "routing by the snapshot on disk");
    assert_eq!(served(&portico).len(), Site::TOOLS + 1);
    site.redis.restart();
    relay.set(Way::Through);
    let scene = Scene {
        load,
        portico,
        relay,
        site,
    };
    scene.write();
    scene.end();
}

#[test]
fn without_a_snapshot_a_load_that_breaks_off_is_no_start() {
    let site = Site::new();
    let relay = Relay::start(site.redis.address(), Way::ResetAfter(900));
    let builder = Builder::new().registry_at(&relay.url());
    builder
        .command("run", &[])
        .expect(1, &["cannot load the routes from redis", "no snapshot"]);
}

/// What a comparison has not seen before it breaks off is not gone.
#[test]
fn half_a_comparison_removes_nothing() {
    let scene = Scene::new();
    let before = served(&scene.portico);
    scene.relay.cut(Way::ResetAfter(900));
    // Fewer than half: a whole comparison removes them at once.
    scene
        .site
        .redis
        .command(&["DEL", "prefix:tool5", "prefix:tool6"]);
    for bytes in [900, 1200, 1500] {
        scene.relay.set(Way::ResetAfter(bytes));
        let seen = scene.relay.connects().len();
        eventually("it comes back, and again", SOON, || {
            (scene.relay.connects().len() >= seen + 2).then_some(())
        });
        assert_eq!(served(&scene.portico), before, "after {bytes} bytes");
    }
    scene.relay.cut(Way::Through);
    soon_goes(&scene.portico, "tool5", "404");
    scene.end();
}

#[test]
fn a_redis_killed_in_a_comparison() {
    let mut scene = Scene::new();
    let before = served(&scene.portico);
    scene.relay.cut(Way::Slow(Duration::from_millis(300)));
    let seen = scene.relay.connects().len();
    eventually("it comes back", SOON, || {
        (scene.relay.connects().len() > seen).then_some(())
    });
    thread::sleep(Duration::from_secs(1));
    scene.site.redis.kill();
    scene.load.go_on();
    assert_eq!(served(&scene.portico), before);
    scene.site.redis.restart();
    scene.relay.set(Way::Through);
    scene.write();
    scene.end();
}

/// Things that redis, an operator or the network does to a connection.
#[track_caller]
fn check_disturbed(disturb: impl FnOnce(&Scene)) {
    let scene = Scene::new();
    disturb(&scene);
    scene.write();
    scene.end();
}

#[test]
fn an_operator_kills_the_connection_again_and_again() {
    check_disturbed(|scene| {
        for _ in 0..20 {
            scene.site.redis.kill_clients();
            thread::sleep(Duration::from_millis(100));
        }
        assert!(status(&scene.portico, "disconnects") > 0);
    });
}

#[test]
fn a_redis_that_is_busy_for_a_while() {
    check_disturbed(|scene| {
        scene.site.redis.command(&["DEBUG", "SLEEP", "2"]);
        scene
            .site
            .redis
            .command(&["CLIENT", "PAUSE", "1500", "ALL"]);
    });
}

#[test]
fn a_redis_that_has_no_room_for_clients() {
    check_disturbed(|scene| {
        let mut session = scene.site.redis.session();
        session.ask(&["CONFIG", "SET", "maxclients", "1"]).unwrap();
        session
            .ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .unwrap();
        connected(&scene.portico, false);
        soon_says(&scene.portico, "no room for more clients (maxclients)");
        scene.load.go_on();
        session
            .ask(&["CONFIG", "SET", "maxclients", "1000"])
            .unwrap();
    });
}

#[test]
fn a_connection_reset_in_mid_answer() {
    check_disturbed(|scene| {
        for bytes in [0, 7, 100, 1000] {
            scene.relay.cut(Way::ResetAfter(bytes));
            thread::sleep(Duration::from_millis(500));
        }
        scene.relay.cut(Way::Through);
    });
}

/// Redis goes on with these bytes, in its first answers and where the hashes are read.
#[track_caller]
fn check_nonsense(nonsense: &'static [u8]) {
    let scene = Scene::new();
    let memory = scene.portico.resident_bytes();
    for bytes in [60, 1100] {
        scene.relay.cut(Way::GarbageAfter(bytes, nonsense));
        thread::sleep(Duration::from_millis(400));
    }
    let grown = scene.portico.resident_bytes().saturating_sub(memory);
    assert!(grown < 50 << 20, "{grown} more bytes in memory");
    scene.relay.cut(Way::Through);
    scene.write();
    scene.end();
}

#[test]
fn a_redis_that_talks_nonsense_after_a_while() {
    let all = [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\0\xff\xfe\r\n\r\n",
        b"$-5\r\n*-9\r\n",
        b"*99999999999999999999\r\n",
        b"*2147483647\r\n:1\r\n",
        b"%1073741824\r\n:1\r\n",
        b"$1073741824\r\nx",
        b":12x\r\n,nan\r\n(1\r\n_\r\n#t\r\n",
        b">3\r\n$10\r\ninvalidate\r\n:1\r\n:2\r\n>0\r\n>1\r\n$1\r\nx\r\n",
        b"-ERR nonsense\r\n-\r\n+\r\n",
    ];
    for some in all.chunks(5) {
        thread::scope(|scope| {
            for nonsense in some {
                let name = nonsense.escape_ascii().to_string();
                let builder = thread::Builder::new().name(name);
                builder
                    .spawn_scoped(scope, || check_nonsense(nonsense))
                    .unwrap();
            }
        });
    }
}

/// Attempts become rarer, are never more than 5 s apart, and two porticos are not in step.
#[test]
fn a_redis_that_refuses_is_tried_at_random_and_not_hammered() {
    let site = Site::new();
    let relays = [(); 2].map(|()| Relay::start(site.redis.address(), Way::Through));
    let porticos = [0, 1].map(|n: usize| Builder::new().registry_at(&relays[n].url()).start());
    let load = site.load(&porticos[0]);
    let cut = Instant::now();
    for relay in &relays {
        relay.cut(Way::Reset);
    }
    thread::sleep(Duration::from_secs(14));
    let end = Instant::now();
    let waits = relays.each_ref().map(|relay| {
        let since = relay.connects().into_iter().filter(|at| *at > cut);
        let times: Vec<Instant> = [cut].into_iter().chain(since).chain([end]).collect();
        times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis())
            .collect::<Vec<_>>()
    });
    println!("{waits:?}");
    for (waits, relay) in waits.iter().zip(&relays) {
        assert!((5..=14).contains(&waits.len()), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < 6500), "{waits:?}");
        relay.set(Way::Through);
    }
    let together = waits[0].iter().zip(&waits[1]);
    assert!(
        together
            .filter(|(one, two)| one.abs_diff(**two) > 5)
            .count()
            >= 2,
        "in step: {waits:?}"
    );
    for portico in &porticos {
        connected(portico, true);
    }
    load.finish();
}
