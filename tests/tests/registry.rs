//! The routing table and a real redis: starts, changes, entries and URLs of every kind. What happens
//! when redis fails is in `registry_failures.rs` and its neighbours.

use std::time::{Duration, Instant};

use portico_tests::client::get;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Portico};
use portico_tests::redis::Redis;
use portico_tests::registry::{goes, soon_goes};
use portico_tests::{SOON, eventually, free_address};

/// Ten tools at `a`: enough that one more or less is a small change.
fn seed(redis: &Redis, origin: &Origin) {
    for index in 0..10 {
        redis.route(&format!("tool{index}"), ".*", &origin.url());
    }
}

struct Site {
    redis: Redis,
    a: Origin,
    b: Origin,
}

impl Site {
    fn new() -> Site {
        let site = Site {
            redis: Redis::start(),
            a: Origin::echo("a"),
            b: Origin::echo("b"),
        };
        seed(&site.redis, &site.a);
        site
    }

    fn start(&self) -> Portico {
        Builder::new().registry(&self.redis).start()
    }
}

#[test]
fn without_redis_and_without_a_snapshot_there_is_no_start() {
    let url = format!("redis://:secret@{}/0", free_address());
    let builder = Builder::new();
    let snapshot = builder.snapshot();
    let builder = builder.with(&format!(
        "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
    ));
    let finished = builder.command("run", &[]);
    finished.expect(1, &["127.0.0.1"]);
    assert!(
        finished.stderr.to_lowercase().contains("redis"),
        "{finished:#?}"
    );
    assert!(
        !finished.stderr.contains("secret"),
        "the password is not for logs: {finished:#?}"
    );
}

#[test]
fn a_snapshot_stands_in_for_redis_at_start() {
    let mut site = Site::new();
    let mut first = site.start();
    assert_eq!(goes(&first, "tool0"), "a");
    let snapshot = first.folder.path().join("routes.snapshot");
    eventually("the snapshot is written", SOON, || {
        snapshot.exists().then_some(())
    });
    first.terminate();
    assert!(first.wait(SOON).success());
    site.redis.kill();

    let builder = Builder::new();
    std::fs::copy(&snapshot, builder.snapshot()).unwrap();
    let builder = builder.registry(&site.redis);
    let doubt = "a start would route by the snapshot on disk";
    builder.command("check", &[]).expect(0, &[doubt]);
    let second = builder.start();
    assert_eq!(goes(&second, "tool0"), "a");
    assert!(
        second.stderr().contains("snapshot"),
        "it says what it runs on:\n{}",
        second.stderr()
    );
    // And redis takes over when it comes.
    site.redis.restart();
    seed(&site.redis, &site.a);
    site.redis.route("tool0", ".*", &site.b.url());
    site.redis.route("new", ".*", &site.b.url());
    soon_goes(&second, "new", "b");
    soon_goes(&second, "tool0", "b");
}

#[test]
fn a_torn_snapshot_is_refused() {
    for content in [&b"garbage"[..], b"", &[0; 1000]] {
        let builder = Builder::new();
        let snapshot = builder.snapshot();
        std::fs::write(&snapshot, content).unwrap();
        let url = format!("redis://{}/0", free_address());
        let builder = builder.with(&format!(
            "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
        ));
        builder.command("run", &[]).expect(1, &["routes.snapshot"]);
    }
}

#[test]
fn changes_are_seen() {
    let site = Site::new();
    let portico = site.start();
    assert_eq!(
        (goes(&portico, "tool0"), goes(&portico, "new")),
        ("a".into(), "404".into())
    );
    site.redis.route("new", ".*", &site.b.url());
    soon_goes(&portico, "new", "b");
    site.redis.route("tool0", ".*", &site.b.url());
    soon_goes(&portico, "tool0", "b");
    site.redis.command(&["HDEL", "prefix:new", ".*"]);
    soon_goes(&portico, "new", "404");
    site.redis.command(&["DEL", "prefix:tool1"]);
    soon_goes(&portico, "tool1", "404");
    site.redis
        .command(&["RENAME", "prefix:tool2", "prefix:renamed"]);
    soon_goes(&portico, "renamed", "a");
    soon_goes(&portico, "tool2", "404");
    site.redis.command(&["PEXPIRE", "prefix:tool3", "1"]);
    soon_goes(&portico, "tool3", "404");
    let moved = || {
        portico
            .tcp()
            .exchange(get("tools.wmflabs.org", "/tool4/x"))
            .status
    };
    assert_eq!(moved(), 200);
    site.redis.redirect("tool4");
    eventually("tool4 has moved", SOON, || (moved() == 307).then_some(()));
    site.redis.command(&["DEL", "redirect:tool4"]);
    eventually("tool4 is back", SOON, || (moved() == 200).then_some(()));
    site.redis
        .command(&["SET", "prefix:tool5", "not a hash any more"]);
    soon_goes(&portico, "tool5", "404");
}

#[test]
fn static_routes_stand_before_the_registry() {
    let site = Site::new();
    let portico = Builder::new()
        .registry(&site.redis)
        .route("tool0", &site.b.url())
        .start();
    assert_eq!(
        (goes(&portico, "tool0"), goes(&portico, "tool1")),
        ("b".into(), "a".into())
    );
}

#[test]
fn other_databases_do_not_count() {
    let site = Site::new();
    let portico = site.start();
    let url = site.b.url();
    site.redis
        .command_in(1, &["HSET", "prefix:tool0", ".*", &url]);
    site.redis
        .command_in(1, &["HSET", "prefix:other", ".*", &url]);
    site.redis.command_in(1, &["DEL", "prefix:tool0"]);
    site.redis.command_in(1, &["FLUSHDB"]);
    // Something that portico does see, so that it has seen the rest.
    site.redis.route("last", ".*", &url);
    soon_goes(&portico, "last", "b");
    assert_eq!(
        (goes(&portico, "tool0"), goes(&portico, "other")),
        ("a".into(), "404".into())
    );
}

#[test]
fn routes_prints_the_table() {
    let site = Site::new();
    site.redis.route("broken", "(", &site.a.url());
    let builder = Builder::new()
        .registry(&site.redis)
        .route("fixed", &site.b.url());
    let finished = builder.command("routes", &[]);
    finished.expect(0, &[]);
    for part in ["tool0", "tool9", &site.a.url(), "fixed", &site.b.url()] {
        assert!(finished.stdout.contains(part), "no {part} in {finished:#?}");
    }
}

#[test]
fn a_hostile_registry_does_no_harm() {
    let site = Site::new();
    let long = "x".repeat(100_000);
    site.redis.command(&[
        &b"HSET"[..],
        b"prefix:\xff\xfe",
        b".*",
        b"http://127.0.0.1:1",
    ]);
    site.redis
        .command(&[&b"HSET"[..], b"prefix:bytes", b"\xff\xfe(", b"\x00\xff"]);
    site.redis.route(&long, ".*", &site.a.url());
    site.redis.route("longpattern", &long, &site.a.url());
    site.redis
        .route("longurl", ".*", &format!("http://{long}/"));
    site.redis.route("lookaround", "(?=a)", &site.a.url());
    site.redis
        .route("bomb", "((a{1000}){1000}){1000}", &site.a.url());
    site.redis.route("slow", "^(a+)+$", &site.a.url());
    site.redis.route("UPPER", ".*", &site.a.url());
    site.redis.route("", ".*", &site.a.url());
    site.redis
        .route("crlf", ".*", "http://127.0.0.1:80/\r\nX-Evil: 1");
    site.redis.route("scheme", ".*", "file:///etc/passwd");
    site.redis
        .route("user", ".*", "http://user:pass@127.0.0.1:80");
    for index in 0..2000 {
        site.redis
            .command(&["HSET", "prefix:many", &format!("^/{index}$"), &site.a.url()]);
    }
    let portico = site.start();
    assert_eq!(goes(&portico, "tool0"), "a");
    for tool in [
        "bytes",
        "longpattern",
        "longurl",
        "lookaround",
        "bomb",
        "crlf",
        "scheme",
        "user",
    ] {
        assert_eq!(goes(&portico, tool), "404", "{tool}");
    }
    let start = Instant::now();
    let evil = format!("/{}!", "a".repeat(5000));
    portico.tcp().exchange(get("slow.toolforge.org", &evil));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "a pattern took {:?}",
        start.elapsed()
    );
    assert_eq!(goes(&portico, "tool0"), "a");
}

/// Ways to say where redis is.
#[test]
fn redis_is_found_by_any_url() {
    let site = Site::new();
    let address = site.redis.address();
    let b = site.b.url();
    site.redis
        .command_in(3, &["HSET", "prefix:third", ".*", &b]);
    site.redis.require_password("s3cret");
    let socket = site.redis.socket();
    for (url, tool, to) in [
        (format!("redis://:s3cret@{address}"), "tool0", "a"),
        (format!("redis://default:s3cret@{address}/0"), "tool0", "a"),
        (
            format!("redis://:s3cret@localhost:{}/0", address.port()),
            "tool0",
            "a",
        ),
        (format!("redis://:s3cret@{address}/3"), "third", "b"),
        (
            format!("unix://{}?pass=s3cret", socket.display()),
            "tool0",
            "a",
        ),
    ] {
        let builder = Builder::new();
        let snapshot = builder.snapshot();
        let portico = builder
            .with(&format!(
                "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
            ))
            .start();
        assert_eq!(goes(&portico, tool), to, "{url}");
        assert!(!portico.stderr().contains("s3cret"), "{}", portico.stderr());
    }
    // A wrong password is not an empty table.
    let builder = Builder::new();
    let snapshot = builder.snapshot();
    let url = format!("redis://:wr0ng@{address}/0");
    let finished = builder
        .with(&format!(
            "[registry]\nurl = {url:?}\nsnapshot = {snapshot:?}"
        ))
        .command("run", &[]);
    finished.expect(1, &[]);
    assert!(!finished.stderr.contains("wr0ng"), "{finished:#?}");
}

/// With a certificate that the machine trusts, as a platform's own authority is trusted.
#[test]
fn redis_may_speak_tls() {
    let a = Origin::echo("a");
    let builder = Builder::new();
    let (redis, port) = Redis::start_tls(&builder.authority().issue(&["localhost", "127.0.0.1"]));
    redis.route("tool0", ".*", &a.url());
    let ca = builder.folder().join("ca.pem");
    let with = |builder: Builder| {
        let snapshot = builder.snapshot();
        builder.with(&format!(
            "[registry]\nurl = 'rediss://localhost:{port}/0'\nsnapshot = {snapshot:?}"
        ))
    };
    let portico = with(builder)
        .env("SSL_CERT_FILE", ca.to_str().unwrap())
        .start();
    assert_eq!(goes(&portico, "tool0"), "a");
    redis.route("new", ".*", &a.url());
    soon_goes(&portico, "new", "a");
    // Nobody vouches for this one.
    with(Builder::new())
        .command("run", &[])
        .expect(1, &["certificate"]);
}

/// `portico routes | head` is no failure.
#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let builder = Builder::new().route("grid", "http://192.0.2.1:8000");
    let config = builder.write();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(portico_tests::portico::binary())
        .args(["routes", "--config"])
        .arg(config)
        .stdout(writer)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
