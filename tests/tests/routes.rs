//! `portico routes` and the pages behind it: the table, its changes, what is held back and what a
//! person decides about it, snapshots and what differs between them. With a real redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portico_tests::client::{Client, Response};
use portico_tests::portico::{Builder, Finished, Portico, run};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually};
use serde_json::{Value, json};

const A: &str = "http://192.0.2.1:8000";
const B: &str = "http://192.0.2.2:8000";

fn json(answer: &Response) -> Value {
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(&answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A portico and its redis, which holds `tool-0001` and so on.
struct Site {
    redis: Redis,
    portico: Portico,
}

/// `tool-0001` and so on, all at one backend.
fn fill(redis: &Redis, count: usize) {
    let script = "for n = 1, tonumber(ARGV[1]) do \
                  redis.call('HSET', string.format('prefix:tool-%04d', n), '.*', ARGV[2]) end";
    redis.command(&["EVAL", script, "0", &count.to_string(), A]);
}

impl Site {
    fn new(count: usize) -> Site {
        Site::with(count, |_| {}, "")
    }

    fn with(count: usize, more: impl Fn(&Redis), toml: &str) -> Site {
        let redis = Redis::start();
        fill(&redis, count);
        more(&redis);
        let portico = Builder::new().registry(&redis).with(toml).start();
        Site { redis, portico }
    }

    /// `portico routes` with the configuration of the portico that serves.
    #[track_caller]
    fn routes(&self, words: &[&str]) -> Finished {
        routes(&self.portico, words)
    }

    /// The same, of the portico that serves.
    #[track_caller]
    fn live(&self, words: &[&str]) -> Finished {
        let admin = self.portico.admin.to_string();
        let mut all = vec!["--admin", &admin];
        all.extend(words);
        self.routes(&all)
    }

    fn folder(&self) -> &Path {
        self.portico.folder.path()
    }

    /// A copy of the table in use.
    fn copy(&self, name: &str) -> PathBuf {
        let answer = self.portico.admin_get("/snapshot");
        assert_eq!(answer.status, 200, "{answer:?}");
        let path = self.folder().join(name);
        std::fs::write(&path, &answer.body.bytes).unwrap();
        path
    }

    /// Waits until the journal has this many changes.
    fn changes(&self, count: usize) -> Vec<Value> {
        eventually("the changes are noted", SOON, || {
            let page = json(&self.portico.admin_get("/routes/changes"));
            let changes = page["changes"].as_array().unwrap().clone();
            (changes.len() >= count).then_some(changes)
        })
    }

    /// Empties redis, and waits until that is held back.
    fn vanish(&self, held: u64) {
        self.redis.command(&["FLUSHALL"]);
        eventually("it is held back", SOON, || {
            (self.status()["held_back"] == held).then_some(())
        });
    }

    fn status(&self) -> Value {
        json(&self.portico.admin_get("/status"))["registry"].clone()
    }

    fn tools(&self) -> Value {
        json(&self.portico.admin_get("/status"))["tools"]["registry"].clone()
    }
}

#[track_caller]
fn routes(portico: &Portico, words: &[&str]) -> Finished {
    let config = portico.folder.path().join("portico.toml");
    let mut all = vec!["routes", "--config", config.to_str().unwrap()];
    all.extend(words);
    run(&all)
}

/// Standard output, of a command that succeeded.
#[track_caller]
fn said(finished: &Finished) -> &str {
    finished.expect(0, &[]);
    assert!(finished.stderr.is_empty(), "{finished:#?}");
    &finished.stdout
}

/// No byte that a terminal would take for more than text.
#[track_caller]
fn check_harmless(text: &str) {
    let harmful = |c: &char| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}';
    assert_eq!(text.chars().find(harmful), None, "{text:?}");
}

// --- the table

#[test]
fn the_table_in_use_is_that_of_a_start() {
    let site = Site::with(
        2500,
        |redis| {
            redis.route("fixed", ".*", B);
            redis.route("bad-one", "(", A);
            redis.redirect("moved");
        },
        &format!("[routes]\nfixed = {A:?}"),
    );
    let (start, live) = (site.routes(&[]), site.live(&[]));
    let (start, live) = (said(&start), said(&live));
    let (head, start) = start.split_once('\n').unwrap();
    let redis = site.redis.address();
    let expected = format!("# 2503 tools, of redis at {redis}/0, as it is now");
    assert_eq!(head, expected);
    let (head, live) = live.split_once('\n').unwrap();
    let admin = site.portico.admin;
    let expected = format!("# 2503 tools, of the portico at {admin}, from redis, in step ");
    assert!(head.starts_with(&expected), "{head}");
    assert_eq!(start, live, "page by page it is the same");
    let lines = start.lines().filter(|line| line.starts_with("tool-"));
    assert_eq!(lines.count(), 2500);
    for line in [
        format!("fixed\t.*\t{A}\tconfig"),
        format!("fixed\t.*\t{B}\tregistry, behind the configuration"),
        "moved\tredirect\tfrom legacy paths to its own host\tregistry".to_owned(),
        format!("tool-2500\t.*\t{A}\tregistry"),
    ] {
        assert!(start.lines().any(|other| other == line), "no {line:?}");
    }

    let whole: Value = serde_json::from_str(said(&site.live(&["--json"]))).unwrap();
    assert_eq!(whole["matching"], 2503);
    assert_eq!(whole["source"], "redis");
    assert!(whole["last_sync"].is_string() && whole["age_seconds"].is_u64());
    let offline: Value = serde_json::from_str(said(&site.routes(&["--json"]))).unwrap();
    assert_eq!(whole["tools"], offline["tools"]);
    let page = json(&site.portico.admin_get("/routes"));
    assert_eq!(page["tools"][99], whole["tools"][99]);
    assert_eq!(page["source"], "redis");
    assert!(page["last_sync"].is_string() && page["age_seconds"].is_u64());
    assert!(page.get("bad_keys").is_none());
}

#[test]
fn a_table_of_more_than_one_page_is_listed_whole() {
    let site = Site::new(10_001);
    let text = site.live(&[]);
    let tools = said(&text).lines().filter(|line| line.starts_with("tool-"));
    assert_eq!(tools.count(), 10_001);
    let listed: Value = serde_json::from_str(said(&site.live(&["--json"]))).unwrap();
    assert_eq!(listed["tools"].as_array().unwrap().len(), 10_001);
}

#[test]
fn one_tool_by_its_name() {
    let site = Site::new(12);
    for ask in [Site::routes, Site::live] {
        let one = ask(&site, &["--tool", "Tool-0001"]);
        let lines: Vec<&str> = said(&one).lines().collect();
        assert!(lines[0].starts_with("# 1 tool, of "), "{lines:?}");
        assert_eq!(lines[1..], [format!("tool-0001\t.*\t{A}\tregistry")]);
        // A name that begins so is another one.
        let none = ask(&site, &["--tool", "tool-000"]);
        none.expect(1, &["there is no tool \"tool-000\"; near: tool-0001, "]);
        assert_eq!(none.stdout.lines().count(), 1);
        ask(&site, &["--tool", "\x1b[1m"]).expect(1, &["no tool \"\\\\u{1b}[1m\"\n"]);
        let fine = ask(&site, &["--tool", "tool-0001", "--bad"]);
        assert!(said(&fine).starts_with("# 0 tools with something bad, of "));
    }
}

#[test]
fn what_is_bad_is_shown_with_its_reason() {
    let site = Site::with(
        12,
        |redis| {
            redis.route("bad-one", "(", A);
            redis.route("bad-one", "^/x", "ftp://x\x1b[2J");
        },
        "",
    );
    for ask in [Site::routes, Site::live] {
        let bad = ask(&site, &["--bad"]);
        let text = said(&bad);
        check_harmless(text);
        assert!(
            text.starts_with("# 1 tool with something bad, of "),
            "{text}"
        );
        assert!(text.contains("\nbad-one\tBAD (\t"), "{text}");
        assert!(
            text.contains("\nbad-one\tBAD ^/x\tftp://x\\u{1b}[2J\t"),
            "{text}"
        );
        assert!(!text.contains("tool-0001"), "{text}");
        let value: Value = serde_json::from_str(said(&ask(&site, &["--bad", "--json"]))).unwrap();
        assert_eq!(value["tools"][0]["tool"], "bad-one");
    }
}

#[test]
fn keys_that_name_no_tool_are_shown() {
    let bad_key = |redis: &Redis| {
        redis.command(&[&b"HSET"[..], b"prefix:\xff\x1b", b".*", A.as_bytes()]);
    };
    let site = Site::with(12, bad_key, "");
    for ask in [Site::routes, Site::live] {
        let bad = ask(&site, &["--bad"]);
        let text = said(&bad);
        check_harmless(text);
        assert!(
            text.starts_with("# 0 tools with something bad, of "),
            "{text}"
        );
        assert!(text.contains("\n\tBAD KEY prefix:"), "{text}");
        let value: Value = serde_json::from_str(said(&ask(&site, &["--bad", "--json"]))).unwrap();
        assert_eq!(value["bad_keys"].as_array().unwrap().len(), 1, "{value}");
        let one = ask(&site, &["--json"]);
        assert!(!one.stdout.contains("bad_keys"), "they were not asked for");
    }
    let key = json(&site.portico.admin_get("/routes?bad"))["bad_keys"][0].clone();
    assert!(key["key"].as_str().unwrap().contains("prefix:"), "{key}");
    assert!(key["reason"].is_string(), "{key}");
    let text = site.portico.admin_get("/status?format=text").text();
    assert!(
        text.contains("1 keys that name no tool: portico routes --bad"),
        "{text}"
    );
}

#[test]
fn a_snapshot_is_said_to_be_one() {
    let site = Site::new(12);
    let snapshot = site.folder().join("routes.snapshot");
    eventually("it is written", SOON, || snapshot.exists().then_some(()));
    let Site { mut redis, portico } = site;
    let offline = routes(&portico, &["--from-snapshot"]);
    let text = said(&offline);
    let expected = format!(
        "# 12 tools, of the snapshot {}, which is ",
        snapshot.display()
    );
    assert!(text.starts_with(&expected), "{text}");
    redis.kill();
    let gone = routes(&portico, &[]);
    let text = said(&gone);
    assert!(text.starts_with(&expected), "{text}");
    assert!(
        text.contains("cannot be used: Connection refused"),
        "{text}"
    );
    // One that started from it says so.
    let builder = Builder::new();
    std::fs::copy(&snapshot, builder.snapshot()).unwrap();
    let site = Site {
        portico: builder.registry(&redis).start(),
        redis,
    };
    let live = site.live(&[]);
    let (head, _) = said(&live).split_once('\n').unwrap();
    let expected = format!(
        "# 12 tools, of the portico at {}, from the snapshot of 20",
        site.portico.admin
    );
    assert!(head.starts_with(&expected), "{head}");
    let page = json(&site.portico.admin_get("/routes"));
    assert_eq!(page["source"], "snapshot");
    assert!(page["snapshot_written"].is_string() && page["last_sync"].is_null());
}

// --- changes

#[test]
fn changes_tell_what_was_and_what_is() {
    let site = Site::new(20);
    assert_eq!(
        said(&site.routes(&["changes"])),
        "# no change since the routes were loaded\n"
    );
    site.redis
        .command(&["HSET", "prefix:tool-0001", ".*", B, "^/api/.*", A]);
    site.changes(1);
    site.redis.command(&["DEL", "prefix:tool-0002"]);
    site.changes(2);
    site.redis.redirect("new");
    let changes = site.changes(3);

    assert_eq!(changes[0]["tool"], "tool-0001");
    assert_eq!(changes[0]["cause"], "pushed");
    assert_eq!(
        changes[0]["old"]["routes"],
        json!([{"pattern": ".*", "backend": A}])
    );
    assert_eq!(
        changes[0]["new"]["routes"],
        json!([{"pattern": "^/api/.*", "backend": A}, {"pattern": ".*", "backend": B}])
    );
    assert!(changes[1]["new"].is_null() && changes[2]["old"].is_null());
    assert_eq!(changes[2]["new"]["redirect"], true);
    let text = site.routes(&["changes"]);
    let lines: Vec<&str> = said(&text)
        .lines()
        .map(|line| line.get(20..).unwrap_or(line))
        .collect();
    let expected = [
        "  tool-0001  changed, pushed".to_owned(),
        format!("    ~ .* -> {B} (was {A})").split_off(20),
        format!("    + ^/api/.* -> {A}").split_off(20),
        "  tool-0002  gone, pushed".to_owned(),
        format!("    - .* -> {A}").split_off(20),
        "  new  new, pushed".to_owned(),
        "    + redirect from legacy paths to its own host"
            .to_owned()
            .split_off(20),
    ];
    assert_eq!(lines, expected);
    // The same by its page, and by another address.
    let page = site.portico.admin_get("/routes/changes?format=text").text();
    assert_eq!(page, text.stdout);
    assert_eq!(site.live(&["changes"]).stdout, text.stdout);
    let value: Value = serde_json::from_str(said(&site.routes(&["changes", "--json"]))).unwrap();
    assert_eq!(value["changes"].as_array().unwrap(), &changes);
}

#[test]
fn the_last_hundred_changes_are_kept_and_harm_no_terminal() {
    let site = Site::new(20);
    let pattern = format!("^/\x1b]0;x\x07\u{202e}{}", "a".repeat(900));
    for n in 0..103 {
        let backend = format!("http://192.0.2.1:8{n:03}/\u{9b}31m");
        site.redis.route("tool-0001", &pattern, &backend);
        site.redis.route("tool-0001", &format!("^/{n}/.*"), A);
        let last = format!("^/{n}/.*");
        eventually("it is noted", SOON, || {
            let page = site.portico.admin_get("/routes/changes").text();
            page.contains(&last).then_some(())
        });
    }
    let changes = site.changes(100);
    assert_eq!(changes.len(), 100);
    assert!(changes[99].to_string().contains("^/102/.*"));
    for target in ["/routes", "/routes/changes", "/routes/changes?format=text"] {
        check_harmless(&site.portico.admin_get(target).text());
    }
    check_harmless(said(&site.routes(&["changes", "--json"])));
    check_harmless(said(&site.routes(&["--json"])));
    let text = site.routes(&["changes"]);
    let text = said(&text);
    check_harmless(text);
    let long = text.lines().find(|line| line.chars().count() > 100);
    assert_eq!(long, None);
    assert!(text.contains("+ ^/102/.* -> "), "{text}");
}

// --- snapshots

#[test]
fn snapshots_and_the_live_table_are_compared() {
    let site = Site::new(20);
    let old = site.copy("old");
    let old = old.to_str().unwrap();
    let same = site.routes(&["diff", old, "live"]);
    let lines: Vec<&str> = said(&same).lines().collect();
    assert!(
        lines[0].starts_with("# - ") && lines[0].ends_with(", 20 tools"),
        "{lines:?}"
    );
    assert!(lines[1].contains(&format!("# + the portico at {}", site.portico.admin)));
    let none = "# 0 tools differ: 0 added, 0 removed, 0 changed; 20 are the same";
    assert_eq!(lines[2..], [none]);

    site.redis
        .command(&["HSET", "prefix:tool-0001", ".*", B, "^/\x1b]2J", A]);
    site.redis.command(&["DEL", "prefix:tool-0002"]);
    site.redis.route("new", ".*", A);
    site.redis.redirect("new");
    site.changes(3);
    eventually("the last change is in", SOON, || {
        let tool = json(&site.portico.admin_get("/routes?tool=new"))["tools"][0].clone();
        (tool["entries"][0]["redirect"] == true).then_some(())
    });
    let expected = [
        format!("+ new .* -> {A}"),
        "+ new redirect from legacy paths to its own host".to_owned(),
        format!("~ tool-0001 .* -> {B} (was {A})"),
        format!("+ tool-0001 ^/\\u{{1b}}]2J -> {A}"),
        format!("- tool-0002 .* -> {A}"),
        "# 3 tools differ: 1 added, 1 removed, 1 changed; 18 are the same".to_owned(),
    ];
    let new = site.copy("new");
    let new = new.to_str().unwrap();
    // The words before the command, behind it, and by another address.
    let admin = site.portico.admin.to_string();
    for words in [
        &["diff", old, "live"][..],
        &["diff", old, new],
        &["diff", old, "live", "--admin", &admin],
    ] {
        let different = site.routes(words);
        different.expect(1, &[]);
        assert!(different.stderr.is_empty(), "{different:#?}");
        let lines: Vec<&str> = different.stdout.lines().skip(2).collect();
        assert_eq!(lines, expected);
    }
    let turned = site.routes(&["diff", "live", old]);
    assert!(
        turned
            .stdout
            .contains(&format!("\n~ tool-0001 .* -> {A} (was {B})\n"))
    );
    let different = site.routes(&["diff", old, new, "--json"]);
    different.expect(1, &[]);
    let value: Value = serde_json::from_str(&different.stdout).unwrap();
    check_harmless(&different.stdout);
    assert_eq!(value["old"]["tools"], 20);
    assert_eq!(
        value["counts"],
        json!({"added": 1, "removed": 1, "changed": 1, "same": 18})
    );
    let tools: Vec<_> = value["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["tool"])
        .collect();
    assert_eq!(tools, ["new", "tool-0001", "tool-0002"]);
    assert!(value["differences"][2]["new"].is_null());

    // What was written to disk by the portico that serves is the same thing.
    let disk = site.folder().join("routes.snapshot");
    eventually("it is written", SOON, || {
        let finished = site.routes(&["diff", disk.to_str().unwrap(), "live"]);
        (finished.code == Some(0)).then_some(())
    });
}

#[test]
fn what_cannot_be_compared_is_trouble() {
    let site = Site::new(3);
    let good = site.copy("good");
    let good = good.to_str().unwrap();
    let torn = site.folder().join("torn");
    let bytes = std::fs::read(good).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() - 9]).unwrap();
    let torn = torn.to_str().unwrap();
    site.routes(&["diff", good, torn])
        .expect(2, &["torn", "damaged"]);
    site.routes(&["diff", "/nowhere", good])
        .expect(2, &["there is no snapshot", "/nowhere"]);
    site.routes(&["diff", good, good, "--admin", "127.0.0.1:1"])
        .expect(0, &[]);
    let nobody = ["diff", good, "live", "--admin", "127.0.0.1:1"];
    site.routes(&nobody)
        .expect(2, &["cannot ask portico at 127.0.0.1:1"]);
    site.routes(&["diff", good]).expect(2, &["<NEW>"]);
}

// --- deciding by hand

#[test]
fn what_vanished_is_shown_kept_and_applied() {
    let site = Site::new(30);
    site.vanish(30);
    let status = site.status();
    assert_eq!(
        (&status["kept"], &status["held_until"].is_string()),
        (&json!(0), &true)
    );
    let text = site.portico.admin_get("/status?format=text").text();
    let expected = "30 TOOLS VANISHED FROM REDIS and stay in use until 20";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("portico routes keep | apply"), "{text}");
    // It is in the table, page by page.
    let page = json(&site.portico.admin_get("/routes?held&page_size=4"));
    assert_eq!(page["matching"], 30);
    assert_eq!(
        page["next"],
        "/routes?held=true&page_size=4&after=tool-0004"
    );
    let held = &page["tools"][0]["held_back"];
    assert!(
        held["since"].is_string() && held["until"].is_string(),
        "{page}"
    );
    let one = site.live(&["--tool", "tool-0001"]);
    assert!(
        said(&one).contains("tool-0001\tHELD BACK\tuntil 20"),
        "{one:#?}"
    );

    // One comes back; it is not held any more.
    site.redis.route("tool-0001", ".*", B);
    eventually("it is back", SOON, || {
        (site.status()["held_back"] == 29).then_some(())
    });
    let page = json(&site.portico.admin_get("/routes?held"));
    assert_eq!(page["matching"], 29);
    let kept = site.routes(&["keep"]);
    let expected = "29 tools that redis does not hold: kept until it holds them again, or until \
                    portico routes apply; 30 tools in the table\n";
    assert_eq!(said(&kept), expected);
    let status = site.status();
    assert_eq!(
        (&status["held_back"], &status["kept"]),
        (&json!(29), &json!(29))
    );
    assert!(status["held_until"].is_null());
    let text = site.portico.admin_get("/status?format=text").text();
    assert!(
        text.contains("29 TOOLS that redis does not hold ARE KEPT by hand"),
        "{text}"
    );
    let one = site.live(&["--tool", "tool-0002"]);
    assert!(
        said(&one).contains("tool-0002\tHELD BACK\tkept by hand\t"),
        "{one:#?}"
    );

    let refreshed = site.routes(&["refresh"]);
    let text = said(&refreshed);
    assert!(
        text.starts_with("compared with redis: 0 set, 0 removed; 30 tools"),
        "{text}"
    );
    let applied = site.routes(&["apply"]);
    let expected = "removed 29 tools; 1 tool in the table\nnothing is held back\n";
    assert_eq!(said(&applied), expected);
    assert_eq!(site.tools(), 1);
    let changes = site.changes(30);
    let applied = changes.iter().filter(|change| change["cause"] == "applied");
    assert_eq!(applied.count(), 29);
    let again = site.routes(&["apply", "--json"]);
    let value: Value = serde_json::from_str(said(&again)).unwrap();
    let expected =
        json!({"done": "apply", "set": 0, "removed": 0, "held_back": 0, "kept": 0, "tools": 1});
    assert_eq!(value, expected);
}

#[test]
fn a_refresh_finds_what_redis_did_not_tell() {
    let elsewhere = |redis: &Redis| {
        redis.command_in(1, &["HSET", "prefix:other", ".*", B]);
        for n in 1..12 {
            let key = format!("prefix:tool-{n:04}");
            redis.command_in(1, &["HSET", &key, ".*", A]);
        }
    };
    let site = Site::with(12, elsewhere, "");
    // It pushes nothing.
    site.redis.command(&["SWAPDB", "0", "1"]);
    let refreshed = site.routes(&["refresh", "--json"]);
    let value: Value = serde_json::from_str(said(&refreshed)).unwrap();
    let counts = ["set", "removed", "tools"].map(|name| &value[name]);
    assert_eq!(counts, [&json!(1), &json!(1), &json!(12)]);
}

/// As docs/operating.md has it, for when the grace time is over.
#[test]
fn a_copy_of_the_table_brings_routes_back() {
    let site = Site::new(30);
    let copy = std::fs::read(site.copy("copy")).unwrap();
    let Site { redis, mut portico } = site;
    redis.command(&["FLUSHALL"]);
    portico.terminate();
    assert!(portico.wait(SOON).success());
    let builder = Builder::new();
    std::fs::write(builder.snapshot(), &copy).unwrap();
    let portico = builder.registry(&redis).start();
    let site = Site { redis, portico };
    let kept = site.routes(&["keep"]);
    assert!(said(&kept).starts_with("30 tools that redis does not hold: kept"));
    let old = site.folder().join("old");
    std::fs::write(&old, &copy).unwrap();
    let same = site.routes(&["diff", old.to_str().unwrap(), "live"]);
    same.expect(0, &[]);
}

#[test]
fn without_redis_only_keeping_is_possible() {
    let mut site = Site::new(30);
    site.vanish(30);
    site.redis.kill();
    eventually("it is noticed", SOON, || {
        (site.status()["connected"] == false).then_some(())
    });
    for command in ["apply", "refresh"] {
        let refused = site.routes(&[command]);
        refused.expect(1, &["answers 503", "redis"]);
        assert!(refused.stdout.is_empty(), "{refused:#?}");
    }
    assert_eq!(site.tools(), 30);
    assert!(said(&site.routes(&["keep"])).starts_with("30 tools that redis does not hold: kept"));
}

#[test]
fn without_a_registry_there_is_nothing_to_decide() {
    let portico = Builder::new().route("grid", A).start();
    for command in ["apply", "keep", "refresh"] {
        let refused = routes(&portico, &[command]);
        refused.expect(1, &["answers 409: no [registry] is configured"]);
    }
    let admin = portico.admin.to_string();
    let live = routes(&portico, &["--admin", &admin]);
    let text = said(&live);
    assert!(
        text.contains("from its configuration; there is no registry\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("\ngrid\t.*\t{A}\tconfig\n")),
        "{text}"
    );
    assert_eq!(
        said(&routes(&portico, &["changes"])),
        "# no change since the routes were loaded\n"
    );
    let page = json(&portico.admin_get("/routes"));
    assert!(page["source"].is_null(), "{page}");
    routes(&portico, &["diff", "live", "live"]).expect(2, &["answers 409"]);
}

#[test]
fn nobody_to_ask_is_said() {
    let off = Builder::new().with("[listen]\nadmin = ''").route("grid", A);
    off.command("routes", &["apply"])
        .expect(1, &["listen.admin is off in "]);
    let builder = Builder::new().route("grid", A);
    let address = format!("cannot ask portico at {}", builder.admin());
    for command in ["apply", "keep", "refresh", "changes"] {
        builder
            .command("routes", &[command])
            .expect(1, &[&address, "does it run"]);
    }
    builder
        .command("routes", &["--bad", "changes"])
        .expect(2, &["--bad"]);
    let both = ["--admin", "127.0.0.1:1", "--from-snapshot"];
    builder
        .command("routes", &both)
        .expect(2, &["cannot be used with"]);
    builder
        .command("routes", &["--admin", "127.0.0.1:1"])
        .expect(1, &["127.0.0.1:1"]);
    let broken = Builder::new().with("[limits]\nbody = 'much'");
    broken
        .command("routes", &["apply"])
        .expect(2, &["limits.body"]);
}

// --- who may

#[track_caller]
fn check_refused(admin: SocketAddr, request: &str, status: u16, part: &str) {
    let request = request
        .replace("HOST", &admin.to_string())
        .replace('\n', "\r\n");
    let answer = Client::tcp(admin).exchange(request);
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.text().contains(part), "{answer:?}");
}

#[test]
fn only_programs_decide_and_only_by_post() {
    let site = Site::new(30);
    site.vanish(30);
    let admin = site.portico.admin;
    for path in ["/routes/apply", "/routes/keep", "/routes/refresh"] {
        let check = |head: &str, status, part| {
            let request = format!(
                "{}\nHost: HOST\n{}\n\n",
                head.split('|').next().unwrap(),
                head.split('|').nth(1).unwrap()
            );
            check_refused(admin, &request, status, part);
        };
        check(
            &format!("GET {path} HTTP/1.1|A: b"),
            405,
            "this page takes POST",
        );
        check(
            &format!("PUT {path} HTTP/1.1|Content-Length: 0"),
            405,
            "POST",
        );
        let post = format!("POST {path} HTTP/1.1|Content-Length: 0\n");
        check(
            &format!("{post}Origin: https://evil.example"),
            403,
            "Origin",
        );
        check(
            &format!("{post}Sec-Fetch-Site: cross-site"),
            403,
            "Sec-Fetch-Site",
        );
        check(
            &format!("{post}Sec-Fetch-Site: same-site"),
            403,
            "Sec-Fetch-Site",
        );
        check(
            &format!("POST {path}?now HTTP/1.1|Content-Length: 0"),
            400,
            "known: format",
        );
        let rebound = format!("POST {path} HTTP/1.1\nHost: evil.example\nContent-Length: 0\n\n");
        check_refused(admin, &rebound, 403, "Host");
    }
    let post = "POST /routes HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n";
    check_refused(admin, post, 405, "GET, HEAD");
    let status = site.status();
    assert_eq!(
        (&status["held_back"], &status["kept"]),
        (&json!(30), &json!(0))
    );
    assert_eq!(site.tools(), 30);
}
