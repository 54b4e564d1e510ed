//! How changes in redis become known, with servers and users that allow more or less: client
//! tracking, keyspace notifications, polling.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::get;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::redis::{Redis, Reply};
use portico_tests::registry::refresh;
use portico_tests::{SOON, eventually, free_address};

/// So many tools at `a` to start with: one more or less is a small change.
const TOOLS: usize = 20;

/// What a server allows, and the mode that follows.
struct Way {
    mode: &'static str,
    /// Rules that limit portico's user, who may do everything else.
    rules: &'static [&'static str],
    /// `notify-keyspace-events`.
    events: &'static str,
    /// What the log says about it.
    said: &'static [&'static str],
}

const TRACKING: Way = Way {
    mode: "tracking",
    rules: &[],
    events: "",
    said: &["redis tells of changed routes at once"],
};

const KEYSPACE: Way = Way {
    mode: "keyspace",
    rules: &["-client|tracking"],
    events: "KA",
    said: &[
        "by keyspace notifications",
        "CLIENT TRACKING",
        "allow it with ACL SETUSER portico +client|tracking",
    ],
};

const POLLING: Way = Way {
    mode: "polling",
    rules: &["-client|tracking"],
    events: "",
    said: &["is read again every few seconds", "lacks Kg$lshzxe"],
};

/// Everything that is not needed is refused; just enough letters.
const LEAST_KEYSPACE: Way = Way {
    mode: "keyspace",
    rules: &[
        "-@all",
        "+scan",
        "+hlen",
        "+hgetall",
        "+exists",
        "+psubscribe",
        "+config|get",
    ],
    events: "Kg$lshzxe",
    said: &["by keyspace notifications"],
};

/// Nothing but reading.
const LEAST: Way = Way {
    mode: "polling",
    rules: &["-@all", "+scan", "+hlen", "+hgetall", "+exists"],
    events: "KA",
    said: &["is read again every few seconds", "PSUBSCRIBE"],
};

const DEAF: Way = Way {
    mode: "polling",
    rules: &["-client|tracking", "resetchannels"],
    events: "KA",
    said: &["is read again every few seconds", "PSUBSCRIBE"],
};

/// It is told of changes and cannot know whether of all.
const HINTED: Way = Way {
    mode: "polling",
    rules: &["-client|tracking", "-config"],
    events: "KA",
    said: &["is read again every few seconds", "CONFIG GET"],
};

struct Site {
    redis: Redis,
    a: Origin,
    b: Origin,
}

impl Site {
    fn new(way: &Way) -> Site {
        let site = Site {
            redis: Redis::start(),
            a: Origin::echo("a"),
            b: Origin::echo("b"),
        };
        site.allow(way);
        site.fill(0, TOOLS, &site.a);
        site
    }

    /// portico's user may do from now on what `way` says.
    fn allow(&self, way: &Way) {
        let all = ["reset", "on", ">s3cret", "~*", "&*", "+@all"];
        let words = [&["ACL", "SETUSER", "portico"][..], &all, way.rules].concat();
        // This first: portico may connect anew in between.
        self.redis
            .command(&["CONFIG", "SET", "notify-keyspace-events", way.events]);
        self.redis.command(&words);
    }

    /// `tool0` and so on, in this database.
    fn fill(&self, database: u8, tools: usize, origin: &Origin) {
        let script =
            "for i = 0, ARGV[1] - 1 do redis.call('HSET', 'prefix:tool' .. i, '.*', ARGV[2]) end";
        let count = tools.to_string();
        self.redis
            .command_in(database, &["EVAL", script, "0", &count, &origin.url()]);
    }

    fn start(&self) -> Portico {
        self.start_at(self.redis.address(), "10s")
    }

    fn start_at(&self, address: SocketAddr, grace: &str) -> Portico {
        let builder = Builder::new();
        let snapshot = builder.snapshot();
        let url = format!("redis://portico:s3cret@{address}/0");
        builder
            .with(&format!(
                "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}\nmass_removal.grace = {grace:?}"
            ))
            .start()
    }

    fn kick(&self) {
        self.redis.command(&["CLIENT", "KILL", "USER", "portico"]);
    }

    /// How often redis has run a command since `CONFIG RESETSTAT`.
    fn calls(&self, command: &str) -> u64 {
        let start = format!("cmdstat_{command}:calls=");
        self.info("commandstats", &start)
    }

    fn info(&self, section: &str, start: &str) -> u64 {
        let Reply::Bulk(Some(text)) = self.redis.command(&["INFO", section]) else {
            panic!("no INFO {section}");
        };
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(start));
        let digits = value.map_or("0", |v| {
            v.split(|c: char| !c.is_ascii_digit()).next().unwrap()
        });
        digits.parse().unwrap()
    }

    fn reset_calls(&self) {
        self.redis.command(&["CONFIG", "RESETSTAT"]);
    }
}

/// Where a tool's requests go: `a`, `b`, or the status of portico's own answer.
fn goes(portico: &Portico, tool: &str) -> String {
    let host = format!("{tool}.toolforge.org");
    let answer = portico.tcp().exchange(get(&host, "/"));
    let text = answer.text();
    let name = text
        .strip_prefix("{\"backend\": \"")
        .and_then(|rest| rest.split('"').next());
    name.map_or(answer.status.to_string(), str::to_owned)
}

#[track_caller]
fn soon_goes(portico: &Portico, tool: &str, to: &str) {
    eventually(&format!("{tool} goes to {to}"), SOON, || {
        (goes(portico, tool) == to).then_some(())
    });
}

#[track_caller]
fn soon_is(portico: &Portico, mode: &str) {
    eventually(&format!("the mode is {mode}"), SOON, || {
        let is = |mode| portico.metric(&format!("portico_registry_mode{{mode=\"{mode}\"}}"));
        (is(mode) == Some(1.0)).then_some(())
    });
    let modes = ["tracking", "keyspace", "polling"];
    let others = modes.into_iter().filter(|other| *other != mode);
    for other in others {
        let series = format!("portico_registry_mode{{mode=\"{other}\"}}");
        assert_eq!(portico.metric(&series), Some(0.0), "{series}");
    }
    let status = portico.admin_get("/status").text();
    let compact: String = status.split_whitespace().collect();
    assert!(
        compact.contains(&format!("\"mode\":\"{mode}\"")),
        "{status}"
    );
    let no_reason = compact.contains("\"mode_reason\":null");
    assert_eq!(no_reason, mode == "tracking", "{status}");
}

/// Every kind of change is seen; told ones without reading the whole table.
#[track_caller]
fn check_changes(way: &Way, portico: &Portico, site: &Site) {
    soon_is(portico, way.mode);
    for words in way.said {
        assert!(
            portico.stderr().contains(words),
            "{words}:\n{}",
            portico.stderr()
        );
    }
    site.reset_calls();
    let redis = &site.redis;
    redis.route("new", ".*", &site.b.url());
    redis.route("tool0", ".*", &site.b.url());
    redis.command(&["DEL", "prefix:tool1"]);
    redis.command(&["RENAME", "prefix:tool2", "prefix:renamed"]);
    redis.command(&["PEXPIRE", "prefix:tool3", "1"]);
    redis.redirect("tool4");
    redis.command(&["SET", "prefix:tool5", "not a hash any more"]);
    redis.command(&["RPUSH", "list", "x"]);
    redis.command(&["SORT", "list", "ALPHA", "STORE", "prefix:tool6"]);
    redis.command(&["SADD", "set", "x"]);
    redis.command(&["SUNIONSTORE", "prefix:tool7", "set"]);
    redis.command(&["ZADD", "sorted", "1", "x"]);
    redis.command(&["ZUNIONSTORE", "prefix:tool8", "1", "sorted"]);
    redis.command(&["HDEL", "prefix:tool9", ".*"]);
    redis.command(&["UNLINK", "prefix:tool10"]);
    redis.command(&["COPY", "prefix:new", "prefix:tool11", "REPLACE"]);
    redis.command(&["MOVE", "prefix:tool12", "5"]);
    for gone in [1, 2, 3, 5, 6, 7, 8, 9, 10, 12] {
        soon_goes(portico, &format!("tool{gone}"), "404");
    }
    for (tool, to) in [
        ("new", "b"),
        ("tool0", "b"),
        ("renamed", "a"),
        ("tool11", "b"),
    ] {
        soon_goes(portico, tool, to);
    }
    let moved = || {
        portico
            .tcp()
            .exchange(get("tools.wmflabs.org", "/tool4/x"))
            .status
    };
    eventually("tool4 has moved", SOON, || (moved() == 307).then_some(()));
    redis.command(&["DEL", "redirect:tool4"]);
    eventually("tool4 is back", SOON, || (moved() == 200).then_some(()));
    if way.mode != "polling" {
        // The other keys that were made here, of which nothing was told, are worth one comparison.
        assert!(site.calls("scan") <= 4, "{}", site.calls("scan"));
    }
    // Another database does not count.
    let url = site.b.url();
    redis.command_in(1, &["HSET", "prefix:tool13", ".*", &url]);
    redis.command_in(1, &["HSET", "prefix:other", ".*", &url]);
    redis.command_in(1, &["FLUSHDB"]);
    redis.route("last", ".*", &url);
    soon_goes(portico, "last", "b");
    assert_eq!(
        (goes(portico, "tool13"), goes(portico, "other")),
        ("a".into(), "404".into())
    );
    assert_eq!(portico.metric("portico_registry_drift_total"), Some(0.0));
    assert_eq!(
        portico.metric("portico_registry_disconnects_total"),
        Some(0.0)
    );
}

#[track_caller]
fn check_way(way: &Way) {
    let site = Site::new(way);
    let portico = site.start();
    check_changes(way, &portico, &site);
    let fallback = [
        "by keyspace notifications",
        "is read again every few seconds",
    ];
    let said = |words| portico.stderr().matches(words).count();
    let expected = usize::from(way.mode != "tracking");
    assert_eq!(fallback.into_iter().map(said).sum::<usize>(), expected);
}

#[test]
fn by_client_tracking() {
    check_way(&TRACKING);
}

#[test]
fn by_keyspace_notifications() {
    check_way(&KEYSPACE);
}

#[test]
fn by_keyspace_notifications_with_the_least_rights() {
    check_way(&LEAST_KEYSPACE);
}

#[test]
fn by_polling() {
    check_way(&POLLING);
}

#[test]
fn by_polling_with_the_least_rights() {
    check_way(&LEAST);
}

#[test]
fn by_polling_without_channels() {
    check_way(&DEAF);
}

#[test]
fn by_polling_with_hints() {
    check_way(&HINTED);
}

/// What is published is a reason to look at once, even if it is not known to be complete.
#[test]
fn hints_are_taken_at_once() {
    let site = Site::new(&HINTED);
    let portico = site.start();
    soon_is(&portico, "polling");
    let mut targets = [(&site.b, "b"), (&site.a, "a")].into_iter().cycle();
    // A comparison may fall into the time that is looked at, but not each time.
    eventually(
        "a change is seen without reading the whole table",
        SOON,
        || {
            let (target, name) = targets.next()?;
            site.reset_calls();
            site.redis.route("tool0", ".*", &target.url());
            soon_goes(&portico, "tool0", name);
            (site.calls("scan") == 0).then_some(())
        },
    );
}

/// A server that does not know HELLO: the words of both sides pass through, but for that one.
fn without_hello(redis: SocketAddr) -> SocketAddr {
    fn pump(mut from: TcpStream, mut to: TcpStream, word: &'static [u8; 5], by: &'static [u8; 5]) {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let part = &mut buffer[..count];
            while let Some(at) = part.windows(5).position(|w| w == word) {
                part[at..at + 5].copy_from_slice(by);
            }
            if to.write_all(part).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
    let address = free_address();
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(redis).unwrap();
            let (to_server, from_client) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pump(from_client, to_server, b"HELLO", b"HALLO"));
            thread::spawn(move || pump(server, client, b"HALLO", b"HELLO"));
        }
    });
    address
}

#[test]
fn by_polling_without_resp3() {
    let way = Way {
        mode: "polling",
        said: &[
            "RESP3",
            "unknown command",
            "is read again every few seconds",
        ],
        ..TRACKING
    };
    let site = Site::new(&way);
    let portico = site.start_at(without_hello(site.redis.address()), "10s");
    check_changes(&way, &portico, &site);
}

/// FLUSHALL is noticed soon, held back, and believed after the grace time.
#[track_caller]
fn check_flush(way: &Way) {
    let site = Site::new(way);
    let portico = site.start_at(site.redis.address(), "3s");
    soon_is(&portico, way.mode);
    site.redis.command(&["FLUSHALL"]);
    eventually("the flush is noticed", Duration::from_secs(10), || {
        (portico.metric("portico_registry_held_back") == Some(TOOLS as f64)).then_some(())
    });
    assert_eq!(goes(&portico, "tool0"), "a");
    // Redis kept its users: only the routes are gone.
    soon_goes(&portico, "tool0", "404");
    assert_eq!(portico.metric("portico_registry_tools"), Some(0.0));
}

#[test]
fn a_flush_under_client_tracking() {
    check_flush(&TRACKING);
}

#[test]
fn a_flush_under_keyspace_notifications() {
    check_flush(&KEYSPACE);
}

#[test]
fn a_flush_under_polling() {
    check_flush(&POLLING);
}

/// SWAPDB, of which nothing is told. It takes 3 s where the number of keys differs.
#[track_caller]
fn check_swap(way: &Way, drift: bool) {
    let site = Site::new(way);
    let portico = site.start();
    soon_is(&portico, way.mode);
    site.fill(1, TOOLS + 5, &site.b);
    // What is told of that is seen to before the swap.
    site.redis.route("tool0", "^/x", &site.a.url());
    eventually("it is seen", SOON, || {
        let answer = portico.admin_get("/routes?tool=tool0").text();
        answer.contains("^/x").then_some(())
    });
    site.redis.command(&["SWAPDB", "0", "1"]);
    eventually("the swap is noticed", Duration::from_secs(10), || {
        (goes(&portico, "tool0") == "b").then_some(())
    });
    for tool in ["tool19", "tool24"] {
        soon_goes(&portico, tool, "b");
    }
    eventually("the comparison is through", SOON, || {
        let tools = portico.metric("portico_registry_tools")?;
        (tools == TOOLS as f64 + 5.0).then_some(())
    });
    // Drift is told at its end; another one begins behind that.
    refresh(&portico);
    // tool0 may have been read once more on its own, after the swap.
    let drifted = portico.metric("portico_registry_drift_total").unwrap();
    let warned = portico.stderr().contains("it had not said so");
    assert_eq!(
        (drifted >= TOOLS as f64, drifted > 0.0, warned),
        (drift, drift, drift),
        "{drifted}"
    );
}

#[test]
fn a_swap_under_client_tracking() {
    check_swap(&TRACKING, true);
}

#[test]
fn a_swap_under_keyspace_notifications() {
    check_swap(&KEYSPACE, true);
}

/// Every change is found by reading the table then: that is no drift.
#[test]
fn a_swap_under_polling() {
    check_swap(&POLLING, false);
}

#[test]
fn each_connection_is_probed_anew() {
    let mut site = Site::new(&TRACKING);
    let portico = site.start();
    soon_is(&portico, "tracking");
    for (way, tool, to, name) in [
        (&KEYSPACE, "tool0", &site.b, "b"),
        (&POLLING, "tool1", &site.b, "b"),
        (&TRACKING, "tool0", &site.a, "a"),
    ] {
        site.allow(way);
        site.kick();
        soon_is(&portico, way.mode);
        site.redis.route(tool, ".*", &to.url());
        soon_goes(&portico, tool, name);
    }
    // Redis comes back empty, its users too: none may enter, and that is no lesser mode.
    site.redis.restart();
    eventually("it is not connected", SOON, || {
        (portico.metric("portico_registry_connected") == Some(0.0)).then_some(())
    });
    soon_is(&portico, "tracking");
    site.fill(0, TOOLS, &site.b);
    site.allow(&KEYSPACE);
    soon_is(&portico, "keyspace");
    soon_goes(&portico, "tool1", "b");
    site.redis.route("tool1", ".*", &site.a.url());
    soon_goes(&portico, "tool1", "a");
}

/// One change costs one look at its keys and one read, whatever the table's size; a burst is read
/// in batches.
#[track_caller]
fn check_cost(way: &Way) {
    let site = Site::new(way);
    site.fill(0, 3000, &site.a);
    let portico = site.start();
    soon_is(&portico, way.mode);
    let costs = |reads: u64| {
        // How large a hash is, is asked by one of these.
        let sizes = site.calls("hlen") + site.calls("memory|usage");
        assert_eq!(sizes, reads);
        for command in ["exists", "hgetall"] {
            assert_eq!(site.calls(command), reads, "{command}");
        }
        assert_eq!(site.calls("scan"), 0);
    };
    site.reset_calls();
    site.redis.route("tool0", ".*", &site.b.url());
    soon_goes(&portico, "tool0", "b");
    costs(1);

    site.reset_calls();
    let script = "for i = 1, 5000 do redis.call('HSET', 'prefix:burst' .. i, '.*', ARGV[1]) end";
    site.redis.command(&["EVAL", script, "0", &site.b.url()]);
    eventually("5,000 tools more", SOON, || {
        (portico.metric("portico_registry_tools") == Some(8000.0)).then_some(())
    });
    assert_eq!(goes(&portico, "burst5000"), "b");
    costs(5000);
    // 15,000 commands, one by one, would be as many reads from the socket.
    let reads = site.info("stats", "total_reads_processed:");
    assert!(reads < 1000, "{reads} reads");
    assert_eq!(
        portico.metric("portico_registry_disconnects_total"),
        Some(0.0)
    );
}

#[test]
fn what_a_change_costs_under_client_tracking() {
    check_cost(&TRACKING);
}

#[test]
fn what_a_change_costs_under_keyspace_notifications() {
    check_cost(&KEYSPACE);
}

/// Nothing but a sign of life every few seconds.
#[test]
fn what_it_costs_when_nothing_happens() {
    let site = Site::new(&TRACKING);
    site.fill(0, 10, &site.a);
    let portico = site.start();
    soon_is(&portico, TRACKING.mode);
    site.reset_calls();
    let begin = Instant::now();
    eventually("three signs of life", SOON * 2, || {
        (site.calls("ping") >= 3).then_some(())
    });
    // The first may have been due just then.
    let taken = begin.elapsed();
    assert!(taken > Duration::from_secs(5), "{taken:?}");
    assert_eq!((site.calls("scan"), site.calls("hgetall")), (0, 0));
}

/// Anybody may publish what looks like a notification.
#[test]
fn forged_notifications_do_no_harm() {
    let site = Site::new(&KEYSPACE);
    let portico = site.start();
    soon_is(&portico, "keyspace");
    for (channel, event) in [
        ("__keyspace@0__:prefix:", "del"),
        ("__keyspace@0__:prefix:UPPER.case\r\n", "hset"),
        ("__keyspace@0__:prefix:tool0", "del"),
        ("__keyspace@0__:redirect:tool0", ""),
    ] {
        site.redis.command(&["PUBLISH", channel, event]);
    }
    let script =
        "for i = 1, 120000 do redis.call('PUBLISH', '__keyspace@0__:prefix:x' .. i, 'del') end";
    site.redis.command(&["EVAL", script, "0"]);
    site.redis.route("new", ".*", &site.b.url());
    soon_goes(&portico, "new", "b");
    assert_eq!(goes(&portico, "tool0"), "a");
    assert_eq!(
        portico.metric("portico_registry_tools"),
        Some(TOOLS as f64 + 1.0)
    );
}

/// People find the connection in CLIENT LIST.
#[test]
fn the_connection_has_a_name() {
    let site = Site::new(&TRACKING);
    let portico = site.start();
    soon_is(&portico, "tracking");
    let Reply::Bulk(Some(list)) = site.redis.command(&["CLIENT", "LIST"]) else {
        panic!("no list");
    };
    let list = String::from_utf8(list).unwrap();
    assert!(list.contains(" name=portico "), "{list}");
}
