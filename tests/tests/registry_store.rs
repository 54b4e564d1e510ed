//! What happens to the data in redis, while requests go on: flushes, swaps, evictions, rights,
//! replicas, half-written hashes, pushes that get lost. The route is always what the rules demand.

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::portico::Builder;
use portico_tests::redis::Redis;
use portico_tests::registry::{
    BAD_BACKEND, BAD_PATTERN, Site, connected, goes, in_step, refresh, said, served, soon_goes,
    soon_says, status,
};
use portico_tests::relay::{Relay, Way};
use portico_tests::{SOON, eventually};

const SECRET: &str = "hunter2-the-first";

#[test]
fn a_replica_is_as_good_as_its_master() {
    let mut site = Site::new();
    let replica = Redis::replica_of(&site.redis);
    let portico = Builder::new().registry(&replica).start();
    let load = site.load(&portico);
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");

    // Its master dies: what it has stays.
    site.redis.kill();
    eventually("the replica knows", SOON, || {
        let info = replica.info("replication");
        info.contains("master_link_status:down").then_some(())
    });
    load.go_on();
    assert_eq!(goes(&portico, "tool1"), "b");
    assert_eq!(status(&portico, "connected"), 1);

    // The master comes back empty: so is the replica, after a full resync, and that is a flush.
    site.redis.restart();
    replica.wait_for_master();
    soon_says(&portico, "vanished from redis at once");
    load.go_on();
    site.seed();
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    in_step(&portico, &site.redis);
    load.finish();
}

/// What takes the place of a master has missed some writes, or all of them.
#[test]
fn a_failover_to_a_lagging_replica() {
    let site = Site::new();
    let relay = Relay::start(site.redis.address(), Way::Through);
    let portico = Builder::new().registry_at(&relay.url()).start();
    let load = site.load(&portico);
    let lagging = Redis::replica_of(&site.redis);
    lagging.command(&["REPLICAOF", "NO", "ONE"]);
    site.redis.route("new", ".*", &site.b.url());
    site.redis.route("tool1", ".*", &site.b.url());
    site.redis.command(&["DEL", "prefix:tool2"]);
    for (tool, to) in [("new", "b"), ("tool1", "b"), ("tool2", "404")] {
        soon_goes(&portico, tool, to);
    }
    relay.lead_to(lagging.address());
    // What it has counts, and what is written to it.
    for (tool, to) in [("new", "404"), ("tool1", "a"), ("tool2", "a")] {
        soon_goes(&portico, tool, to);
    }
    in_step(&portico, &lagging);
    lagging.route("new", ".*", &site.b.url());
    soon_goes(&portico, "new", "b");

    // One that has nothing yet is no reason to forget everything.
    let empty = Redis::start();
    relay.lead_to(empty.address());
    soon_says(&portico, "vanished from redis at once");
    load.go_on();
    let master = lagging.address().port().to_string();
    empty.command(&["REPLICAOF", "127.0.0.1", &master]);
    empty.wait_for_master();
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    in_step(&portico, &lagging);
    load.finish();
}

/// A user that may write nothing and see nothing else, and no command that is dangerous.
#[test]
fn the_right_to_read_its_keys_is_enough() {
    let site = Site::new();
    let password = format!(">{SECRET}");
    site.redis.command(&[
        "ACL",
        "SETUSER",
        "portico",
        "on",
        &password,
        "%R~prefix:*",
        "%R~redirect:*",
        "-@all",
        "+@read",
        "+@connection",
        "-@write",
        "-@dangerous",
    ]);
    let url = format!("redis://portico:{SECRET}@{}/0", site.redis.address());
    let portico = Builder::new().registry_at(&url).start();
    let load = site.load(&portico);
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    site.redis.kill_clients();
    site.redis.route("tool2", ".*", &site.b.url());
    soon_goes(&portico, "tool2", "b");
    in_step(&portico, &site.redis);
    load.finish();
    assert_eq!(said(&portico, "NOPERM"), 0, "{}", portico.stderr());
}

#[test]
fn a_replica_without_its_master_may_refuse_to_answer() {
    let mut site = Site::new();
    let replica = Redis::replica_of(&site.redis);
    replica.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let portico = Builder::new().registry(&replica).start();
    let load = site.load(&portico);
    let before = served(&portico);
    site.redis.kill();
    // Nothing is asked but PING while nothing changes; so that it asks:
    eventually("the replica knows", SOON, || {
        let info = replica.info("replication");
        info.contains("master_link_status:down").then_some(())
    });
    replica.kill_clients();
    soon_says(&portico, "MASTERDOWN");
    load.go_on();
    assert_eq!(served(&portico), before);
    site.redis.restart();
    site.seed();
    replica.wait_for_master();
    connected(&portico, true);
    in_step(&portico, &replica);
    load.finish();
}

#[test]
fn writers_that_find_no_memory_are_not_our_problem() {
    let site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    let mut session = site.redis.session();
    session.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = session.ask(&["HSET", "prefix:tool1", ".*", &site.b.url()]);
    assert!(refused.is_err_and(|error| error.starts_with("OOM")));
    // Removals still work, and are seen.
    session.ask(&["DEL", "prefix:tool2"]).unwrap();
    soon_goes(&portico, "tool2", "404");
    site.redis.kill_clients();
    eventually("portico connects again", SOON, || {
        (status(&portico, "disconnects") > 0 && status(&portico, "connected") == 1).then_some(())
    });
    in_step(&portico, &site.redis);
    site.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    load.finish();
}

#[test]
fn a_few_evicted_routes_leave_and_a_mass_eviction_is_held_back() {
    let site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    // Only keys with a time to live may go: a known few.
    for tool in ["tool5", "tool6", "tool7"] {
        let key = format!("prefix:{tool}");
        site.redis.command(&["EXPIRE", &key, "1000"]);
    }
    let set = |name: &str, value: &str| {
        site.redis.command(&["CONFIG", "SET", name, value]);
    };
    set("maxmemory-policy", "volatile-ttl");
    set("maxmemory", "1");
    let mut session = site.redis.session();
    // It makes room for a write. Whether that succeeds is not ours: redis stops after half a
    // millisecond, goes on in the background, and lets the write through.
    let _ = session.ask(&["SET", "other", "x"]);
    for tool in ["tool5", "tool6", "tool7"] {
        soon_goes(&portico, tool, "404");
    }
    assert_eq!(status(&portico, "held_back"), 0);

    set("maxmemory-policy", "allkeys-lru");
    let _ = session.ask(&["SET", "other", "x"]);
    soon_says(&portico, "vanished from redis at once");
    load.go_on();
    assert_eq!(goes(&portico, "tool9"), "a");
    assert!(status(&portico, "held_back") > 0);
    set("maxmemory", "0");
    site.seed();
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    in_step(&portico, &site.redis);
    load.finish();
}

/// A user of portico's own, so that the test keeps its rights.
fn with_user(site: &Site) -> String {
    let password = format!(">{SECRET}");
    site.redis.command(&[
        "ACL", "SETUSER", "portico", "on", &password, "~*", "&*", "+@all",
    ]);
    format!("redis://portico:{SECRET}@{}/0", site.redis.address())
}

/// Portico's user loses something while it is connected, and gets it back.
#[track_caller]
fn check_rights(lose: &[&[&str]], reason: &str, back: &[&str]) {
    let site = Site::new();
    let url = with_user(&site);
    let portico = Builder::new().registry_at(&url).start();
    let load = site.load(&portico);
    let before = served(&portico);
    for command in lose {
        site.redis.command(command);
    }
    // A change, so that it is asked for.
    site.redis.route("tool1", ".*", &site.b.url());
    soon_says(&portico, reason);
    connected(&portico, false);
    load.go_on();
    assert_eq!(served(&portico), before);
    site.redis.command(back);
    soon_goes(&portico, "tool1", "b");
    in_step(&portico, &site.redis);
    load.finish();
    let stderr = portico.stderr();
    assert!(!stderr.contains("hunter2"), "{stderr}");
    assert!(stderr.matches("ERROR").count() <= 3, "{stderr}");
}

#[test]
fn a_password_that_changes_is_named_and_never_shown() {
    let password = format!(">{SECRET}");
    check_rights(
        &[
            &["ACL", "SETUSER", "portico", "resetpass", ">hunter2-other"],
            &["CLIENT", "KILL", "USER", "portico"],
        ],
        "it refuses the user or the password of registry.url",
        &["ACL", "SETUSER", "portico", &password],
    );
}

#[test]
fn a_user_that_is_deleted() {
    let password = format!(">{SECRET}");
    check_rights(
        &[&["ACL", "DELUSER", "portico"]],
        "it refuses the user or the password of registry.url",
        &[
            "ACL", "SETUSER", "portico", "on", &password, "~*", "&*", "+@all",
        ],
    );
}

#[test]
fn rights_that_are_taken_away_are_not_an_empty_redis() {
    check_rights(
        &[&["ACL", "SETUSER", "portico", "-hgetall"]],
        "NOPERM",
        &["ACL", "SETUSER", "portico", "+@all"],
    );
    check_rights(
        &[&["ACL", "SETUSER", "portico", "resetkeys"]],
        "NOPERM",
        &["ACL", "SETUSER", "portico", "~*"],
    );
}

#[test]
fn a_start_with_a_wrong_password_goes_by_the_snapshot() {
    let site = Site::new();
    let snapshot = site.snapshot();
    with_user(&site);
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), snapshot).unwrap();
    let url = format!("redis://portico:hunter2-wrong@{}/0", site.redis.address());
    let portico = builder.registry_at(&url).start();
    let load = site.load(&portico);
    soon_says(&portico, "refuses the user or the password of registry.url");
    load.go_on();
    let mended = ["ACL", "SETUSER", "portico", ">hunter2-wrong"];
    site.redis.command(&mended);
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    load.finish();
    assert!(
        !portico.stderr().contains("hunter2"),
        "{}",
        portico.stderr()
    );
}

/// Everything vanishes in one way or another, and comes back within the grace time.
#[track_caller]
fn check_emptied(empty: impl FnOnce(&mut Site)) {
    let mut site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    let before = served(&portico);
    empty(&mut site);
    soon_says(
        &portico,
        "a large part of the routes vanished from redis at once",
    );
    assert_eq!(served(&portico), before);
    assert_eq!(status(&portico, "held_back") as usize, Site::TOOLS + 1);
    // Changes act at once.
    site.redis.route("tool1", ".*", &site.b.url());
    soon_goes(&portico, "tool1", "b");
    load.go_on();
    site.seed();
    eventually("nothing is held back", SOON, || {
        (status(&portico, "held_back") == 0).then_some(())
    });
    in_step(&portico, &site.redis);
    load.finish();
}

#[test]
fn an_emptied_redis_empties_nothing() {
    check_emptied(|site| site.redis.restart());
    check_emptied(|site| _ = site.redis.command(&["FLUSHALL"]));
    check_emptied(|site| _ = site.redis.command(&["FLUSHDB", "ASYNC"]));
}

#[test]
fn a_flush_of_another_database_changes_nothing() {
    let site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    for _ in 0..3 {
        site.redis
            .command_in(5, &["HSET", "prefix:tool0", ".*", "http://127.0.0.1:1"]);
        site.redis.command_in(5, &["FLUSHDB"]);
    }
    soon_says(&portico, "redis was flushed or replaced");
    in_step(&portico, &site.redis);
    load.finish();
    assert_eq!(said(&portico, "ERROR"), 0, "{}", portico.stderr());
    let told = said(&portico, "redis was flushed or replaced");
    assert!(told <= 3, "{}", portico.stderr());
}

/// Another table in another database: some the same, some changed, one more, a few less.
fn other_table(site: &Site) {
    let set = |tool: &str, url: String| {
        let key = format!("prefix:{tool}");
        site.redis.command_in(1, &["HSET", &key, ".*", &url]);
    };
    for index in 0..Site::TOOLS - 3 {
        let url = if index == 1 {
            site.b.url()
        } else {
            site.a.url()
        };
        set(&format!("tool{index}"), url);
    }
    set("moved", site.a.url());
    set("swapped", site.b.url());
    site.redis.command_in(1, &["SET", "redirect:moved", "x"]);
}

/// SWAPDB pushes nothing.
#[test]
fn a_swapped_database_is_found_when_asked_to_look() {
    let site = Site::new();
    other_table(&site);
    let portico = site.start();
    let load = site.load(&portico);
    site.redis.command(&["SWAPDB", "0", "1"]);
    refresh(&portico);
    assert_eq!(goes(&portico, "tool1"), "b");
    assert_eq!(goes(&portico, "swapped"), "b");
    in_step(&portico, &site.redis);
    load.finish();
}

/// Its number of keys gives it away within seconds.
#[test]
fn a_swapped_database_is_found_by_its_size() {
    let site = Site::new();
    other_table(&site);
    let portico = site.start();
    let load = site.load(&portico);
    site.redis.command(&["SWAPDB", "0", "1"]);
    soon_goes(&portico, "swapped", "b");
    in_step(&portico, &site.redis);
    load.finish();
}

/// At each moment at which a writer stops, the route is what redis holds.
#[test]
fn half_written_hashes_are_what_they_are() {
    let site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    let (a, b) = (site.a.url(), site.b.url());
    let steps: &[&[&[&str]]] = &[
        // Field by field.
        &[&["HSET", "prefix:slow", "^/api/.*", &b]],
        &[&["HSET", "prefix:slow", ".*", &a]],
        &[&["HSET", "prefix:slow", BAD_PATTERN, &a]],
        &[&["HSET", "prefix:slow", "^/x", BAD_BACKEND]],
        &[&["HDEL", "prefix:slow", ".*"]],
        &[&["SET", "redirect:slow", "x"]],
        // A registration anew, as the grid does it.
        &[&["DEL", "prefix:slow"], &["HSET", "prefix:slow", ".*", &b]],
        &[&["DEL", "prefix:slow"]],
        &[&["HSET", "prefix:slow", ".*", &a, "^/api/.*", &b]],
        // In a transaction, and one that is given up.
        &[
            &["MULTI"],
            &["DEL", "prefix:slow"],
            &["HSET", "prefix:slow", ".*", &b],
            &["DEL", "redirect:slow"],
            &["EXEC"],
        ],
        &[
            &["MULTI"],
            &["DEL", "prefix:slow"],
            &["HSET", "prefix:never", ".*", &b],
            &["DISCARD"],
        ],
        // Not a hash, and a hash again.
        &[&["SET", "prefix:slow", "x"]],
        &[&["DEL", "prefix:slow"], &["HSET", "prefix:slow", ".*", &a]],
        &[&["RENAME", "prefix:slow", "prefix:renamed"]],
        &[&["COPY", "prefix:renamed", "prefix:slow"]],
        &[&["MOVE", "prefix:renamed", "3"]],
        &[&["PEXPIRE", "prefix:slow", "1"]],
    ];
    let mut session = site.redis.session();
    for step in steps {
        for command in *step {
            session.ask(command).unwrap();
        }
        in_step(&portico, &site.redis);
    }
    // DEL + HSET of one that is there all the time: each answer is the old, the new or nobody's.
    for index in 0..200 {
        let url = if index % 2 == 0 { &b } else { &a };
        session.ask(&["DEL", "prefix:tool1"]).unwrap();
        session.ask(&["HSET", "prefix:tool1", ".*", url]).unwrap();
        assert!(["a", "b", "404"].contains(&goes(&portico, "tool1").as_str()));
    }
    in_step(&portico, &site.redis);
    load.finish();
    // One tool, again and again, is no mass removal.
    assert_eq!(said(&portico, "ERROR"), 0, "{}", portico.stderr());
}

/// Redis drops a client that does not take its pushes fast enough; here, one burst is enough.
#[test]
fn a_burst_that_breaks_the_connection_is_not_missed() {
    let site = Site::new();
    let portico = site.start();
    let load = site.load(&portico);
    let limit = |limit: &str| {
        let name = "client-output-buffer-limit";
        site.redis.command(&["CONFIG", "SET", name, limit]);
    };
    let mut session = site.redis.session();
    let (a, b) = (site.a.url(), site.b.url());
    for url in [&a, &b] {
        let mut commands = vec![vec!["MULTI".to_owned()]];
        for index in 0..6000 {
            let key = format!("prefix:{}{index}", "x".repeat(50));
            commands.push(vec!["HSET".into(), key, ".*".into(), url.clone()]);
        }
        assert!(session.ask_all(&commands).iter().all(Result::is_ok));
        let before = status(&portico, "disconnects");
        limit("normal 262144 0 0");
        session.ask(&["EXEC"]).unwrap();
        eventually("the burst was too large", SOON, || {
            (status(&portico, "disconnects") > before).then_some(())
        });
        // So that the test itself may read the whole table.
        limit("normal 0 0 0");
        in_step(&portico, &site.redis);
    }
    load.finish();
}

/// Bursts while portico cannot read at all: many more pushes than it takes at once.
#[test]
fn changes_pile_up_while_redis_is_unreachable_or_frozen() {
    let site = Site::new();
    let relay = Relay::start(site.redis.address(), Way::Through);
    let portico = Builder::new().registry_at(&relay.url()).start();
    let load = site.load(&portico);
    relay.set(Way::Slow(Duration::from_millis(50)));
    let mut session = site.redis.session();
    for round in 0..5 {
        let url = if round % 2 == 0 {
            site.b.url()
        } else {
            site.a.url()
        };
        let commands: Vec<Vec<String>> = (0..1000)
            .map(|index| {
                let key = format!("prefix:many{index}");
                vec!["HSET".into(), key, ".*".into(), url.clone()]
            })
            .collect();
        assert!(session.ask_all(&commands).iter().all(Result::is_ok));
        thread::sleep(Duration::from_millis(200));
    }
    relay.set(Way::Through);
    in_step(&portico, &site.redis);
    load.finish();
}

/// Something in between swallows what redis pushes: only a look at everything finds it.
#[test]
fn lost_pushes_are_found_when_asked_to_look() {
    let site = Site::new();
    let relay = Relay::start(site.redis.address(), Way::Through);
    let portico = Builder::new().registry_at(&relay.url()).start();
    let load = site.load(&portico);
    site.redis.route("tool2", ".*", &site.b.url());
    soon_goes(&portico, "tool2", "b");
    relay.set(Way::NoPushes);
    site.redis.route("tool1", ".*", &site.b.url());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        assert_eq!(goes(&portico, "tool1"), "a", "the push has arrived");
    }
    refresh(&portico);
    assert_eq!(goes(&portico, "tool1"), "b");
    in_step(&portico, &site.redis);
    load.finish();
}
