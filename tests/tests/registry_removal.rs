//! `mass_removal`: a vanishing table is held back for its grace time, and decided about by hand.

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, post};
use portico_tests::portico::{Builder, Portico};
use portico_tests::registry::{
    Site, connected, goes, in_step, said, served, soon_goes, soon_says, status,
};
use portico_tests::relay::{Relay, Way};
use portico_tests::{SOON, eventually};

/// What is said when a table vanishes.
const VANISHED: &str = "a large part of the routes vanished from redis at once";

/// What is said when it is believed.
const REMOVED: &str = "routes that vanished from redis were removed";

fn start(site: &Site, percent: u8, grace: &str) -> Portico {
    let removal = format!("mass_removal = {{ percent = {percent}, grace = '{grace}' }}");
    Builder::new()
        .registry(&site.redis)
        .with(&format!("[registry]\n{removal}"))
        .start()
}

/// `POST /routes/apply` and `keep`: what a person decides.
#[track_caller]
fn decide(portico: &Portico, word: &str) -> String {
    let request = post(&portico.admin.to_string(), &format!("/routes/{word}"), "");
    let answer = Client::tcp(portico.admin).exchange(request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[track_caller]
fn soon_held(portico: &Portico, count: usize) {
    eventually(&format!("{count} are held back"), SOON, || {
        let metric = portico.metric("portico_registry_held_back");
        let held = status(portico, "held_back");
        (held == count as u64 && metric == Some(count as f64)).then_some(())
    });
}

#[test]
fn what_is_gone_for_the_grace_time_is_gone() {
    let site = Site::new();
    let portico = start(&site, 50, "5s");
    let load = site.load(&portico);
    let flushed = Instant::now();
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 1);
    // Those of the load come back, and one that changed.
    site.redis.route("tool0", ".*", &site.a.url());
    site.redis.route("tool1", ".*", &site.b.url());
    site.seed_moved();
    soon_held(&portico, Site::TOOLS - 2);
    while flushed.elapsed() < Duration::from_secs(2) {
        assert_eq!(goes(&portico, "tool2"), "a");
    }
    soon_goes(&portico, "tool2", "404");
    assert!(flushed.elapsed() >= Duration::from_secs(5));
    in_step(&portico, &site.redis);
    soon_held(&portico, 0);
    assert_eq!(goes(&portico, "tool1"), "b");
    load.finish();
    let counts = (said(&portico, VANISHED), said(&portico, REMOVED));
    assert_eq!(counts, (1, 1), "{}", portico.stderr());
}

/// What is still missing from the first time must not keep the second one out of the log.
#[test]
fn a_table_that_vanishes_again_is_told_again() {
    let site = Site::new();
    site.redis.route("extra", ".*", &site.a.url());
    let portico = start(&site, 50, "1h");
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 2);
    site.seed();
    soon_held(&portico, 1);
    assert_eq!(said(&portico, VANISHED), 1, "{}", portico.stderr());
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 2);
    eventually("the second time is told", SOON, || {
        (said(&portico, VANISHED) == 2).then_some(())
    });
}

#[test]
fn a_table_that_comes_back_within_the_grace_time_never_went() {
    let mut site = Site::new();
    let portico = start(&site, 50, "6s");
    let load = site.load(&portico);
    let before = served(&portico);
    // Restarted empty, and filled again while the grace time runs.
    site.redis.restart();
    let empty = Instant::now();
    connected(&portico, true);
    thread::sleep(Duration::from_millis(300));
    site.seed();
    while empty.elapsed() < Duration::from_secs(9) {
        assert!(served(&portico).keys().eq(before.keys()));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(served(&portico), before);
    load.finish();
    assert_eq!(said(&portico, REMOVED), 0, "{}", portico.stderr());
}

/// Half of the table and no more is a clean-up; so is anything at 100 percent.
#[test]
fn small_removals_act_at_once() {
    let first = |count: usize| -> Vec<String> {
        let tools = (Site::TOOLS - count)..Site::TOOLS;
        tools.map(|index| format!("prefix:tool{index}")).collect()
    };
    for (percent, count) in [(50, 10), (1, 9), (100, 19)] {
        let site = Site::new();
        let portico = start(&site, percent, "1h");
        let load = site.load(&portico);
        let mut words = vec!["DEL".to_owned()];
        words.extend(first(count));
        site.redis.command(&words);
        in_step(&portico, &site.redis);
        soon_held(&portico, 0);
        load.finish();
        assert_eq!(said(&portico, "ERROR"), 0, "{}", portico.stderr());
    }
}

#[test]
fn the_percent_is_what_decides() {
    for (percent, count) in [(50, 11), (1, 10), (80, 17)] {
        let site = Site::new();
        let portico = start(&site, percent, "1h");
        let load = site.load(&portico);
        let before = served(&portico);
        let mut words = vec!["DEL".to_owned()];
        let tools = (Site::TOOLS - count)..Site::TOOLS;
        words.extend(tools.map(|index| format!("prefix:tool{index}")));
        site.redis.command(&words);
        soon_held(&portico, count);
        assert_eq!(served(&portico), before);
        load.finish();
    }
}

#[test]
fn one_hundred_percent_never_holds_back() {
    let site = Site::new();
    let portico = start(&site, 100, "1h");
    site.redis.command(&["FLUSHALL"]);
    soon_goes(&portico, "tool0", "404");
    in_step(&portico, &site.redis);
    assert_eq!(said(&portico, VANISHED), 0);
}

/// A script that deletes key by key empties a table as well as a flush does.
#[test]
fn key_by_key_is_at_once_too() {
    let site = Site::new();
    let portico = start(&site, 50, "1h");
    let load = site.load(&portico);
    for index in (0..Site::TOOLS).rev() {
        let key = format!("prefix:tool{index}");
        site.redis.command(&["DEL", &key]);
        thread::sleep(Duration::from_millis(20));
    }
    site.redis
        .command(&["DEL", "prefix:moved", "redirect:moved"]);
    eventually("about half of them are held back", SOON, || {
        (status(&portico, "held_back") >= 10).then_some(())
    });
    let stderr = portico.stderr();
    // 11, or more where many deletions are read at once.
    let vanished = stderr.split("vanished=").nth(1).unwrap_or_default();
    let vanished: String = vanished.chars().take_while(char::is_ascii_digit).collect();
    assert!(
        (11..=21).contains(&vanished.parse().unwrap_or(0)),
        "{stderr}"
    );
    assert!(stderr.contains(" of=21 "), "{stderr}");
    // Tool 0 was among the last, and is.
    assert_eq!(goes(&portico, "tool0"), "a");
    load.finish();
}

/// Each has its own grace time.
#[test]
fn one_disappearance_after_another() {
    let site = Site::new();
    let portico = start(&site, 20, "6s");
    let load = site.load(&portico);
    let delete = |tools: std::ops::Range<usize>| {
        let mut words = vec!["DEL".to_owned()];
        words.extend(tools.map(|index| format!("prefix:tool{index}")));
        site.redis.command(&words);
    };
    delete(10..20);
    soon_held(&portico, 10);
    thread::sleep(Duration::from_secs(2));
    delete(2..10);
    soon_held(&portico, 18);
    // The first go, the second stay some more.
    soon_goes(&portico, "tool10", "404");
    assert_eq!(goes(&portico, "tool2"), "a");
    soon_goes(&portico, "tool2", "404");
    in_step(&portico, &site.redis);
    // And again, now that the table is small: it is filled, and flushed.
    site.seed();
    in_step(&portico, &site.redis);
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 1);
    site.seed();
    soon_held(&portico, 0);
    load.finish();
    assert_eq!(said(&portico, REMOVED), 2, "{}", portico.stderr());
}

/// The grace time passes while redis is away: nothing goes before redis was asked again.
#[test]
fn nothing_goes_while_redis_cannot_be_asked() {
    let mut site = Site::new();
    let relay = Relay::start(site.redis.address(), Way::Through);
    let portico = Builder::new()
        .registry_at(&relay.url())
        .with("[registry]\nmass_removal = { percent = 50, grace = '4s' }")
        .start();
    let load = site.load(&portico);
    let before = served(&portico);
    site.redis.command(&["FLUSHALL"]);
    soon_says(&portico, VANISHED);
    site.redis.freeze();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(served(&portico), before);
    site.redis.kill();
    connected(&portico, false);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(served(&portico), before);
    // Not before it is filled again.
    relay.cut(Way::Reset);
    site.redis.restart();
    site.seed();
    relay.set(Way::Through);
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    assert_eq!(served(&portico), before);
    load.finish();
    assert_eq!(said(&portico, REMOVED), 0, "{}", portico.stderr());
}

#[test]
fn a_removal_that_was_meant_is_applied_by_hand() {
    let site = Site::new();
    let portico = start(&site, 50, "1h");
    let load = site.load(&portico);
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 1);
    // Those that redis holds again are not removed.
    site.redis.route("tool0", ".*", &site.a.url());
    site.seed_moved();
    decide(&portico, "apply");
    assert_eq!(goes(&portico, "tool1"), "404");
    in_step(&portico, &site.redis);
    soon_held(&portico, 0);
    load.finish();
}

#[test]
fn what_is_kept_by_hand_outlives_the_grace_time_and_a_restart() {
    let site = Site::new();
    let mut portico = start(&site, 50, "4s");
    let load = site.load(&portico);
    let before = served(&portico);
    site.redis.command(&["FLUSHALL"]);
    soon_held(&portico, Site::TOOLS + 1);
    decide(&portico, "keep");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(served(&portico), before);
    soon_held(&portico, Site::TOOLS + 1);
    assert_eq!(said(&portico, REMOVED), 0, "{}", portico.stderr());
    load.finish();

    // The snapshot is written at most once in 5 s.
    thread::sleep(Duration::from_secs(6));
    portico.terminate();
    assert!(portico.wait(SOON).success());
    let snapshot = std::fs::read(portico.folder.path().join("routes.snapshot")).unwrap();
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), snapshot).unwrap();
    let removal = "[registry]\nmass_removal = { percent = 50, grace = '1s' }";
    let portico = builder.registry(&site.redis).with(removal).start();
    let load = site.load(&portico);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(served(&portico), before);
    // Some come back and are as any other; the rest goes when it is told to.
    site.redis.route("tool0", ".*", &site.a.url());
    site.seed_moved();
    soon_held(&portico, Site::TOOLS - 1);
    decide(&portico, "apply");
    in_step(&portico, &site.redis);
    soon_held(&portico, 0);
    load.finish();
}
