//! The administration: its pages over TCP and over a unix socket, who may ask, and what it stands.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, Response, closed, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{self, Builder, HOST, Portico, Running, program};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually, free_address, signal};
use serde_json::Value;

fn json(answer: &Response) -> Value {
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(&answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

// --- pages

/// Path, what its type begins with, and something that stands in it.
const PAGES: &[(&str, &str, &str)] = &[
    ("/", "text/plain", "/healthz"),
    ("/healthz", "text/plain", "ok\n"),
    ("/readyz", "text/plain", "ready\n"),
    ("/readyz?format=json", "application/json", "\"ready\": true"),
    ("/metrics", "text/plain; version=0.0.4", "# HELP portico_"),
    ("/routes", "application/json", "\"grid\""),
    ("/routes/changes", "application/json", "\"changes\": ["),
    ("/routes/changes?format=text", "text/plain", "# no change"),
    (
        "/list",
        "application/json",
        "{\"grid\": {\"status\": \"active\"}}",
    ),
    (
        "/config",
        "application/toml",
        "canonical = \"toolforge.org\" # line",
    ),
    (
        "/config?format=json",
        "application/json",
        "\"server.drain\"",
    ),
    ("/status", "application/json", "\"uptime_seconds\""),
    ("/status?format=text", "text/plain", "state"),
    (
        "/explain?url=https://grid.toolforge.org/",
        "text/plain",
        "grid",
    ),
];

#[track_caller]
fn check_page(answer: &Response, kind: &str, part: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = answer.field("content-type").unwrap_or_default();
    assert!(found.starts_with(kind), "{found}");
    assert!(
        answer.text().contains(part),
        "no {part:?} in {}",
        answer.text()
    );
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    assert!(
        answer
            .field("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
}

#[test]
fn every_page_is_there() {
    let (_origin, portico) = portico::echo();
    for (target, kind, part) in PAGES {
        check_page(&portico.admin_get(target), kind, part);
    }
    // All of them on one connection, asked for at once.
    let host = portico.admin.to_string();
    let mut client = Client::tcp(portico.admin);
    client.send(
        PAGES
            .iter()
            .map(|(target, ..)| get(&host, target))
            .collect::<String>(),
    );
    for (_, kind, part) in PAGES {
        check_page(&client.response(), kind, part);
    }
    let head = format!("HEAD /status HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send(head);
    assert_eq!(client.head_response().status, 200);
    check_page(&client.exchange(get(&host, "/healthz")), "text/plain", "ok");
}

#[test]
fn forms_by_accept() {
    let (_origin, portico) = portico::echo();
    let kind = |target: &str, accept: &str| {
        let host = portico.admin;
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n");
        let answer = Client::tcp(portico.admin).exchange(request);
        answer
            .field("content-type")
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(kind("/status", "text/plain"), "text/plain");
    assert_eq!(kind("/status", "*/*"), "application/json");
    assert_eq!(kind("/status", "text/html,*/*;q=0.8"), "text/plain");
    assert_eq!(kind("/readyz", "application/json"), "application/json");
    assert_eq!(kind("/config", "application/json"), "application/json");
    assert_eq!(kind("/config", "*/*"), "application/toml");
    assert_eq!(kind("/", "text/html"), "text/html");
    assert_eq!(kind("/", "*/*"), "text/plain");
}

#[track_caller]
fn check_refused(portico: &Portico, request: &str, status: u16, part: &str) -> Response {
    let host = portico.admin.to_string();
    let request = request.replace("HOST", &host).replace('\n', "\r\n");
    let answer = Client::tcp(portico.admin).exchange(&request);
    assert_eq!(answer.status, status, "{request}{answer:?}");
    assert!(
        answer.text().contains(part),
        "no {part:?} in {}",
        answer.text()
    );
    answer
}

#[test]
fn what_is_not_there_is_said() {
    let (_origin, portico) = portico::echo();
    check_refused(
        &portico,
        "GET /nope HTTP/1.1\nHost: HOST\n\n",
        404,
        "/healthz",
    );
    check_refused(
        &portico,
        "GET /status/ HTTP/1.1\nHost: HOST\n\n",
        404,
        "/healthz",
    );
    let answer = check_refused(
        &portico,
        "POST /status HTTP/1.1\nHost: HOST\n\n",
        405,
        "GET",
    );
    assert_eq!(answer.field("allow"), Some("GET, HEAD"));
    let answer = check_refused(
        &portico,
        "GET /reload HTTP/1.1\nHost: HOST\n\n",
        405,
        "POST",
    );
    assert_eq!(answer.field("allow"), Some("POST"));
    check_refused(
        &portico,
        "GET /status?formt=text HTTP/1.1\nHost: HOST\n\n",
        400,
        "known: format",
    );
    check_refused(
        &portico,
        "GET /status?format=xml HTTP/1.1\nHost: HOST\n\n",
        400,
        "json or text",
    );
    check_refused(
        &portico,
        "GET /routes?page_size=0 HTTP/1.1\nHost: HOST\n\n",
        400,
        "1 to 10000",
    );
    check_refused(
        &portico,
        "GET /routes?page_size=10001 HTTP/1.1\nHost: HOST\n\n",
        400,
        "1 to 10000",
    );
    check_refused(
        &portico,
        "GET /explain HTTP/1.1\nHost: HOST\n\n",
        400,
        "url is missing",
    );
}

#[test]
fn over_a_unix_socket() {
    let origin = Origin::echo("grid");
    let builder = Builder::new().route("grid", &origin.url());
    let socket = builder.folder().join("admin.sock");
    // Left behind by a process that is gone.
    drop(UnixListener::bind(&socket).unwrap());
    let mut portico = builder.with(&with_socket(&socket)).start();
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let path = socket.to_str().unwrap();
    for (target, _, part) in PAGES {
        // Whatever the host: no browser comes this way.
        let url = format!("http://portico{target}");
        let output = program("curl", &["-sS", "--fail", "--unix-socket", path, &url]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(part), "{text}");
    }
    assert!(
        Client::try_tcp(portico.admin).is_err(),
        "nobody listens on TCP"
    );
    // Another one does not take it away.
    let second = Builder::new().with(&with_socket(&socket));
    second.command("run", &[]).expect(1, &[path, "in use"]);
    assert!(UnixStream::connect(&socket).is_ok());
    portico.terminate();
    assert!(portico.wait(SOON).success());
    assert!(!socket.exists(), "the file is removed");
}

fn with_socket(socket: &Path) -> String {
    format!("[listen]\nadmin = 'unix:{}'", socket.display())
}

#[test]
fn sockets_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: PathBuf, word: &str| {
        let builder = Builder::new().with(&with_socket(&path));
        let shown = path.to_str().unwrap().to_owned();
        builder.command("run", &[]).expect(1, &[&shown, word]);
    };
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    check(file.clone(), "no socket");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    check(folder.path().join("none/admin.sock"), "no such directory");
}

#[test]
fn an_address_that_is_in_use_is_named() {
    let (_origin, portico) = portico::echo();
    let admin = portico.admin;
    let second = Builder::new().with(&format!("[listen]\nadmin = '{admin}'"));
    second
        .command("run", &[])
        .expect(1, &[&admin.to_string(), "in use"]);
}

#[test]
fn it_can_be_off_and_the_world_is_warned_of() {
    let portico = Builder::new().with("[listen]\nadmin = ''").start();
    assert!(Client::try_tcp(portico.admin).is_err());
    let open = format!("0.0.0.0:{}", free_address().port());
    let builder = Builder::new().with(&format!("[listen]\nadmin = '{open}'"));
    builder
        .command("check", &[])
        .expect(0, &["listen.admin", &open, "reloaded"]);
}

// --- ready

#[test]
fn draining_is_not_ready() {
    let origin = Origin::echo("grid");
    let mut portico = Builder::new().route("grid", &origin.url()).start();
    let mut client = portico.tcp();
    client.send(get(HOST, "/sleep/2000"));
    eventually("the tool is asked", SOON, || {
        (origin.heads() > 0).then_some(())
    });
    portico.terminate();
    eventually("it drains", SOON, || {
        (portico.admin_get("/readyz").status == 503).then_some(())
    });
    assert!(portico.admin_get("/readyz").text().contains("draining"));
    assert_eq!(portico.admin_get("/healthz").status, 200);
    assert_eq!(json(&portico.admin_get("/status"))["state"], "draining");
    assert_eq!(client.response().status, 200);
    assert!(portico.wait(SOON).success());
}

/// While routes are loaded nobody is served, and the administration says so.
#[test]
fn starting_is_not_ready() {
    let redis = Redis::start();
    let builder = Builder::new().registry(&redis);
    let config = builder.write();
    redis.freeze();
    let mut process = Running(
        Command::new(portico::binary())
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let ask = |target: &str| {
        let mut client = Client::try_tcp(builder.admin()).ok()?;
        Some(client.exchange(get("localhost", target)))
    };
    let answer = eventually("it answers", SOON, || ask("/readyz"));
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("starting"), "{answer:?}");
    assert!(answer.text().contains("no routes"), "{answer:?}");
    assert_eq!(ask("/healthz").unwrap().status, 200);
    redis.thaw();
    eventually("it is ready", SOON, || {
        ask("/readyz").filter(|answer| answer.status == 200)
    });
    // A registry that is away leaves the routes as they were.
    redis.freeze();
    eventually("the registry is away", SOON, || {
        let status = json(&ask("/status")?);
        (status["registry"]["connected"] == false).then_some(())
    });
    assert_eq!(ask("/readyz").unwrap().status, 200);
    redis.thaw();
    signal(process.0.id(), "TERM");
    assert!(portico::wait(&mut process.0, SOON).unwrap().success());
}

// --- what the pages say

#[test]
fn status_tells_what_goes_on() {
    let origin = Origin::echo("grid");
    let redis = Redis::start();
    redis.route("one", ".*", &origin.url());
    redis.route("two", ".*", &origin.url());
    let down = free_address();
    let portico = Builder::new()
        .registry(&redis)
        .route("grid", &origin.url())
        .ingress(&[origin.address(), down])
        .with("[pools.ingress.check]\ninterval = '100ms'\ndown_interval = '100ms'")
        .with("[log]\naccess = 'stderr'")
        .start();
    let _client = portico.tls().exchange(get(HOST, "/"));
    let lines = || json(&portico.admin_get("/status"))["access_log"]["lines"].as_u64();
    eventually("its line is written", SOON, || {
        (lines() >= Some(1)).then_some(())
    });
    let status = eventually("the node is down", SOON, || {
        let status = json(&portico.admin_get("/status"));
        (status["pools"][0]["nodes"][1]["up"] == false).then_some(status)
    });
    let pid = portico.pid();
    assert_eq!(status["pid"], pid);
    assert_eq!(status["state"], "serving");
    assert_eq!(status["ready"], true);
    assert_eq!(status["workers"], 2);
    assert_eq!(status["tools"]["registry"], 2);
    assert_eq!(status["tools"]["config"], 1);
    assert!(status["connections"]["limit"].as_u64().unwrap() > 0);
    assert_eq!(status["registry"]["connected"], true);
    assert_eq!(status["registry"]["source"], "redis");
    assert!(status["registry"]["age_seconds"].as_u64().unwrap() < 60);
    assert_eq!(status["certificates"][0]["name"], "*.toolforge.org");
    assert!(status["certificates"][0]["days_left"].is_i64());
    assert_eq!(status["pools"][0]["nodes"][0]["up"], true);
    assert_eq!(status["access_log"]["on"], true);
    assert_eq!(status["access_log"]["dropped"]["queue_full"], 0);
    let text = portico.admin_get("/status?format=text").text();
    assert!(text.contains(&format!("{down} DOWN")), "{text}");
    assert!(text.contains("registry             connected"), "{text}");
    // Open connections are counted while they are open.
    let open = || {
        json(&portico.admin_get("/status"))["connections"]["open"]
            .as_u64()
            .unwrap()
    };
    let clients: Vec<Client> = (0..5).map(|_| portico.tcp()).collect();
    eventually("five are open", SOON, || (open() >= 5).then_some(()));
    drop(clients);
    eventually("all are closed", SOON, || (open() == 0).then_some(()));
}

#[test]
fn the_configuration_can_be_loaded_again() {
    let origin = Origin::echo("grid");
    let builder = Builder::new().route("grid", &origin.url());
    let written = portico_config::load(&builder.write()).unwrap().config;
    let portico = builder.start();
    let shown = portico.admin_get("/config").text();
    let again = portico_config::parse("shown", &shown).unwrap().config;
    assert_eq!(again.listen, written.listen);
    assert_eq!(again.tls, written.tls);
    assert_eq!(again.rules.routes, written.rules.routes);
    assert_eq!(again.headers.set, written.headers.set);
    let all = json(&portico.admin_get("/config?format=json"));
    let find = |key: &str| {
        let mut settings = all["settings"].as_array().unwrap().iter();
        settings
            .find(|setting| setting["key"] == key)
            .unwrap_or_else(|| panic!("no {key}"))
    };
    assert_eq!(find("server.workers")["value"], 2);
    assert_eq!(find("server.workers")["origin"], "file");
    assert_eq!(find("timeouts.header")["origin"], "default");
    assert_eq!(find("ingress.pool")["origin"], "unset");
}

#[test]
fn a_limit_that_was_lowered_is_shown_as_such() {
    let portico = Builder::new().descriptors(300).start();
    let shown = portico.admin_get("/config").text();
    assert!(shown.contains(" # lowered from 65536"), "{shown}");
}

/// The names that a walk through all pages meets.
fn walk(portico: &Portico, first: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(target) = next {
        let page = json(&portico.admin_get(&target));
        let tools = page["tools"].as_array().unwrap();
        names.extend(
            tools
                .iter()
                .map(|tool| tool["tool"].as_str().unwrap().to_owned()),
        );
        next = page["next"].as_str().map(str::to_owned);
    }
    names
}

#[test]
fn routes_page_by_page() {
    let origin = Origin::echo("grid");
    let redis = Redis::start();
    fill(&redis, 2500, &origin.url());
    redis.command(&[
        "HSET",
        "prefix:bad-one",
        "(",
        &origin.url(),
        "^/a",
        "http://127.0.0.1:1",
    ]);
    redis.command(&["HSET", "prefix:zz-bad", ".*", "ftp://x"]);
    redis.redirect("tool-0007");
    redis.route("fixed", ".*", "http://192.0.2.1:1");
    let portico = Builder::new()
        .registry(&redis)
        .route("fixed", &origin.url())
        .start();

    let names = walk(&portico, "/routes");
    let mut expected: BTreeSet<String> = (1..=2500).map(|n| format!("tool-{n:04}")).collect();
    expected.extend(["bad-one", "zz-bad", "fixed"].map(str::to_owned));
    assert!(names.iter().eq(&expected), "each once, in order");
    assert_eq!(walk(&portico, "/routes?page_size=1000"), names);
    assert_eq!(walk(&portico, "/routes?bad"), ["bad-one", "zz-bad"]);
    assert_eq!(
        walk(&portico, "/routes?bad&page_size=1"),
        ["bad-one", "zz-bad"]
    );
    assert_eq!(walk(&portico, "/routes?tool=TOOL-000&page_size=4").len(), 9);
    assert_eq!(
        walk(&portico, "/routes?contains=2&tool=tool-000"),
        ["tool-0002"]
    );
    assert_eq!(walk(&portico, "/routes?tool=nobody"), [] as [&str; 0]);
    assert_eq!(json(&portico.admin_get("/routes"))["matching"], 2503);

    let one =
        |tool: &str| json(&portico.admin_get(&format!("/routes?tool={tool}")))["tools"][0].clone();
    let fixed = one("fixed");
    assert_eq!(fixed["decided_by"], "config");
    assert_eq!(fixed["entries"][0]["source"], "config");
    assert_eq!(
        fixed["entries"][1]["routes"][0]["backend"],
        "http://192.0.2.1:1"
    );
    let bad = one("bad-one");
    assert_eq!(bad["decided_by"], "registry");
    assert!(
        bad["entries"][0]["bad"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("unclosed")
    );
    assert_eq!(one("zz-bad")["decided_by"], "ingress");
    assert_eq!(one("tool-0007")["entries"][0]["redirect"], true);

    let list = json(&portico.admin_get("/list"));
    let list = list.as_object().unwrap();
    assert!(list.keys().eq(&expected));
    assert!(
        list.values()
            .all(|tool| *tool == serde_json::json!({ "status": "active" }))
    );
}

/// `tool-0001` and so on, all at one backend.
fn fill(redis: &Redis, count: usize, backend: &str) {
    let script = "for n = 1, tonumber(ARGV[1]) do \
                  redis.call('HSET', string.format('prefix:tool-%04d', n), '.*', ARGV[2]) end";
    redis.command(&["EVAL", script, "0", &count.to_string(), backend]);
}

// --- reload

/// `POST /reload`: the status and what it says.
#[track_caller]
fn post_reload(admin: std::net::SocketAddr) -> (u16, String) {
    let request = format!("POST /reload HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n");
    let answer = Client::tcp(admin).exchange(request);
    (answer.status, answer.text())
}

/// So few that none have to be taken back, wherever this runs: no warning.
fn few_connections() -> Builder {
    Builder::new().with("[limits]\nconnections = 100")
}

#[test]
fn a_reload_that_is_asked_for() {
    let (a, b) = (Origin::echo("a"), Origin::echo("b"));
    let mut portico = few_connections().route("grid", &a.url()).start();
    let goes = |portico: &Portico| portico.tcp().exchange(get(HOST, "/")).text();
    assert!(goes(&portico).contains("\"a\""));
    portico.change(&format!("[routes]\ngrid = '{}'", b.url()));
    assert_eq!(post_reload(portico.admin), (200, "reloaded\n".to_owned()));
    assert!(goes(&portico).contains("\"b\""));
    portico.change("[server]\nworkers = 7");
    let (status, text) = post_reload(portico.admin);
    assert_eq!(status, 200);
    assert!(text.contains("warning: server.workers"), "{text}");
    let config = portico.admin_get("/config").text();
    assert!(
        config.contains("\nworkers = 2 # changed in the file"),
        "{config}"
    );
    let reloads = json(&portico.admin_get("/status"))["reloads"].clone();
    assert_eq!(
        (&reloads["succeeded"], &reloads["failed"]),
        (&2.into(), &0.into())
    );
    assert!(
        reloads["last"]["warnings"][0]
            .as_str()
            .unwrap()
            .contains("server.workers")
    );
    // All mistakes at once, and nothing has changed.
    portico.change(
        "[server]\nworkers = 'x'\n[timeouts]\nheader = 'soon'\n[routes]\ngrid = 'http://192.0.2.1'",
    );
    let (status, text) = post_reload(portico.admin);
    assert_eq!(status, 422);
    for part in ["nothing was changed", "server.workers", "timeouts.header"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(goes(&portico).contains("\"b\""));
    let status = json(&portico.admin_get("/status"));
    assert_eq!(status["reloads"]["failed"], 1);
    assert!(
        status["reloads"]["last"]["mistakes"]
            .as_str()
            .unwrap()
            .contains("timeouts.header")
    );
    let text = portico.admin_get("/status?format=text").text();
    assert!(text.contains("FAILED"), "{text}");
}

/// The answer to the reload comes from where it was asked for; then the address is free.
#[test]
fn the_administration_moves() {
    let mut portico = few_connections().start();
    let first = portico.admin;
    let closed = || TcpStream::connect(first).is_err();
    let second = free_address();
    portico.change(&format!("[listen]\nadmin = '{second}'"));
    assert_eq!(post_reload(first).0, 200);
    eventually("the old address is given back", SOON, || {
        closed().then_some(())
    });
    portico.admin = second;
    assert_eq!(portico.admin_get("/healthz").status, 200);
    // An address that cannot be had: it stays where it is.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    portico.change(&format!("[listen]\nadmin = '{address}'"));
    let (status, text) = post_reload(second);
    assert_eq!(status, 422);
    assert!(
        text.contains(&address.to_string()) && text.contains("in use"),
        "{text}"
    );
    assert_eq!(portico.admin_get("/healthz").status, 200);
    let socket = portico.folder.path().join("admin.sock");
    portico.change(&with_socket(&socket));
    assert_eq!(post_reload(second).0, 200);
    let ask = |method: &str, page: &str| {
        let path = socket.to_str().unwrap();
        let url = format!("http://localhost{page}");
        let words = ["-sS", "--fail", "-X", method, "--unix-socket", path, &url];
        String::from_utf8(program("curl", &words).stdout).unwrap()
    };
    assert_eq!(ask("GET", "/healthz"), "ok\n");
    portico.change("[listen]\nadmin = ''");
    assert_eq!(ask("POST", "/reload"), "reloaded\n");
    eventually("the file is removed", SOON, || {
        (!socket.exists()).then_some(())
    });
    portico.change(&format!("[listen]\nadmin = '{first}'"));
    assert!(portico.reload());
    portico.admin = first;
    assert_eq!(portico.admin_get("/healthz").status, 200);
}

// --- secrets

#[test]
fn no_page_shows_the_password() {
    let redis = Redis::start();
    redis.require_password("s3cret-w0rd");
    let builder = Builder::new();
    let (address, snapshot) = (redis.address(), builder.snapshot());
    let url = format!("redis://:s3cret-w0rd@{address}/0");
    let portico = builder
        .with(&format!(
            "[registry]\nurl = '{url}'\nsnapshot = {snapshot:?}"
        ))
        .with("[log]\nlevel = 'trace'")
        .start();
    let mut seen = String::new();
    for (target, ..) in PAGES {
        seen.push_str(&portico.admin_get(target).text());
    }
    let explain = format!("/explain?url=https://{HOST}/");
    for target in ["/nope", "/routes?bad", &explain] {
        seen.push_str(&portico.admin_get(target).text());
    }
    let host = portico.admin;
    let reload = format!("POST /reload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    seen.push_str(&Client::tcp(host).exchange(reload).text());
    assert!(seen.contains("redis://:***@"), "{seen}");
    assert!(!seen.contains("s3cret"), "{seen}");
    assert!(!portico.stderr().contains("s3cret"), "{}", portico.stderr());
}

// --- who may ask

#[test]
fn no_route_leads_there() {
    let redis = Redis::start();
    let builder = Builder::new().registry(&redis);
    let port = builder.admin().port();
    redis.route("address", ".*", &format!("http://127.0.0.1:{port}"));
    redis.route("name", ".*", &format!("http://localhost:{port}"));
    let builder = builder.with(&format!("[routes]\nfixed = 'http://localhost:{port}'"));
    let portico = builder.start();
    assert_eq!(portico.admin_get("/healthz").status, 200);
    for (tool, status) in [("address", 404), ("name", 502), ("fixed", 502)] {
        // The name may have to be resolved first.
        let host = format!("{tool}.toolforge.org");
        let mut answer = portico.tcp().exchange(get(&host, "/status"));
        if answer.status == 503 {
            thread::sleep(Duration::from_secs(1));
            answer = portico.tcp().exchange(get(&host, "/status"));
        }
        assert_eq!(answer.status, status, "{tool}: {answer:?}");
        assert!(!answer.text().contains("uptime"), "{answer:?}");
    }
    let bad = json(&portico.admin_get("/routes?bad"));
    let reason = bad["tools"][0]["entries"][0]["bad"][0]["reason"]
        .as_str()
        .unwrap();
    assert!(reason.contains("own listener"), "{reason}");
    eventually("it is said", SOON, || {
        portico.stderr().contains("own listener").then_some(())
    });
}

/// The name of a node is fine when the configuration is read, and may lead anywhere later. The Host is
/// one that the administration takes for its own.
#[test]
fn no_node_leads_there() {
    let builder = Builder::new();
    let port = builder.admin().port();
    let portico = builder
        .with("[server]\nname = 'proxy.toolforge.org'")
        .with(&format!("[pools.ingress]\nnodes = ['localhost:{port}']"))
        .start();
    eventually("the node's address is found out", SOON, || {
        let answer = portico
            .tcp()
            .exchange(get("proxy.toolforge.org", "/status"));
        assert!([502, 503].contains(&answer.status), "{answer:?}");
        portico.stderr().contains("own listener").then_some(())
    });
}

#[test]
fn web_pages_are_kept_out() {
    let (_origin, portico) = portico::echo();
    let rebound = "GET /config HTTP/1.1\nHost: evil.example:9113\n\n";
    let answer = check_refused(&portico, rebound, 403, "Host");
    assert!(!answer.text().contains("canonical"));
    let absolute = "GET http://evil.example/config HTTP/1.1\nHost: HOST\n\n";
    check_refused(&portico, absolute, 403, "Host");
    let form =
        "POST /reload HTTP/1.1\nHost: HOST\nOrigin: https://evil.example\nContent-Length: 0\n\n";
    check_refused(&portico, form, 403, "Origin");
    let sandboxed = "POST /reload HTTP/1.1\nHost: HOST\nOrigin: null\nContent-Length: 0\n\n";
    check_refused(&portico, sandboxed, 403, "Origin");
    let image = "GET /reload HTTP/1.1\nHost: HOST\nSec-Fetch-Site: cross-site\n\n";
    check_refused(&portico, image, 403, "Sec-Fetch-Site");
    let other_port = "POST /reload HTTP/1.1\nHost: HOST\nSec-Fetch-Site: same-site\n\n";
    check_refused(&portico, other_port, 403, "Sec-Fetch-Site");
    for host in ["localhost", "127.0.0.1", "[::1]:80"] {
        assert_eq!(
            Client::tcp(portico.admin)
                .exchange(get(host, "/healthz"))
                .status,
            200
        );
    }
    // As old health checks do.
    let mut old = Client::tcp(portico.admin);
    old.send("GET /healthz HTTP/1.0\r\n\r\n");
    let mut text = String::new();
    old.wire.stream.read_to_string(&mut text).unwrap();
    assert!(
        text.contains(" 200 OK\r\n") && text.ends_with("\r\n\r\nok\n"),
        "{text}"
    );
}

/// Prometheus comes by name.
#[test]
fn the_machines_own_name_will_do() {
    let portico = Builder::new()
        .with("[server]\nname = 'proxy-5.example.org'")
        .start();
    let ask = |host: &str| {
        Client::tcp(portico.admin)
            .exchange(get(host, "/metrics"))
            .status
    };
    assert_eq!(ask("proxy-5.example.org:9113"), 200);
    assert_eq!(ask("proxy-6.example.org:9113"), 403);
}

// --- hostile clients

/// What the administration does with these bytes on a connection that then stays open: the status
/// of its answer, or 0 when it just closes.
fn outcome(portico: &Portico, bytes: &[u8]) -> u16 {
    let mut client = Client::tcp(portico.admin);
    let _ = client.wire.send(bytes);
    match client.try_response(false) {
        Ok(Some(answer)) => answer.status,
        Ok(None) => 0,
        Err(error) if closed(&error) => 0,
        Err(error) => panic!(
            "{error}: {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        ),
    }
}

#[test]
fn heads_and_bodies_are_bounded() {
    let (_origin, portico) = portico::echo();
    let check = |request: String, expected: &[u16]| {
        let status = outcome(&portico, request.as_bytes());
        assert!(expected.contains(&status), "{status} for {:.60}", request);
    };
    let start = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
    check(
        format!("{start}X: {}\r\n\r\n", "x".repeat(1 << 20)),
        &[431, 0],
    );
    check(format!("{start}{}\r\n", "X: y\r\n".repeat(200)), &[431]);
    check(
        format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "x".repeat(100_000)
        ),
        &[414, 431, 0],
    );
    check(
        format!("{start}Content-Length: 10000000000\r\n\r\n"),
        &[413],
    );
    check(
        format!("{start}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        &[400],
    );
    check(
        format!("{start}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"),
        &[200, 400],
    );
    check("\x16\x03\x01\x02\x00\x01".repeat(100), &[400, 0]);
    check(
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        &[400, 505, 0],
    );
    check(
        format!("{start}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        &[200],
    );
    check(
        "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        &[404, 405],
    );
    check(
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        &[404, 405],
    );
    // A body that no page reads, and never ends.
    let mut client = Client::tcp(portico.admin);
    client.send(format!("{start}Transfer-Encoding: chunked\r\n\r\n"));
    assert_eq!(client.response().status, 200);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let sent = (0..1000)
        .take_while(|_| client.wire.send(&chunk).is_ok())
        .count();
    assert!(sent < 1000, "all of it was taken");
    assert_eq!(portico.admin_get("/healthz").status, 200);
}

/// A crowd that says nothing: clients behind it are told so, the proxy itself goes on, and when the
/// time of the silent ones is over, others are served again although none of them has left.
#[test]
fn a_thousand_connections_that_say_nothing() {
    let (_origin, portico) = portico::echo();
    let before = portico.resident_bytes();
    let mut crowd: Vec<Client> = Vec::new();
    for index in 0..1000 {
        let Ok(mut client) = Client::try_tcp(portico.admin) else {
            continue;
        };
        if index % 2 == 0 {
            let _ = client.wire.send("GET /status HTTP/1.1\r\nHost: loc");
        }
        crowd.push(client);
    }
    let host = portico.admin.to_string();
    let status = eventually("it is full", SOON, || {
        let mut client = Client::try_tcp(portico.admin).ok()?;
        client.wire.send(get(&host, "/healthz")).ok()?;
        client.try_response(false).ok()?.map(|answer| answer.status)
    });
    assert_eq!(status, 503);
    assert_eq!(
        portico.tcp().exchange(get(HOST, "/")).status,
        200,
        "the proxy serves"
    );
    let grown = portico.resident_bytes().saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes more");
    let start = Instant::now();
    eventually("the silent ones are cut", Duration::from_secs(30), || {
        let mut client = Client::try_tcp(portico.admin).ok()?;
        client.wire.send(get(&host, "/healthz")).ok()?;
        let answer = client.try_response(false).ok()??;
        (answer.status == 200).then_some(())
    });
    assert!(start.elapsed() > Duration::from_secs(3), "it was not full");
    drop(crowd);
}

#[test]
fn slow_heads_are_cut() {
    let (_origin, portico) = portico::echo();
    let start = Instant::now();
    let mut client = Client::tcp(portico.admin);
    client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n");
    eventually("it is cut", Duration::from_secs(30), || {
        let _ = client.wire.send("X: y\r\n");
        thread::sleep(Duration::from_millis(500));
        client
            .wire
            .stream
            .set_read_timeout(Duration::from_millis(10));
        let mut byte = [0; 1024];
        match client.wire.stream.read(&mut byte) {
            Ok(0) => Some(()),
            Ok(_) => None,
            Err(error) => closed(&error).then_some(()),
        }
    });
    assert!(
        start.elapsed() > Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

/// A client that takes nothing of a long answer is cut, and holds nobody else up meanwhile.
#[test]
fn clients_that_take_nothing_are_cut() {
    let redis = Redis::start();
    fill(&redis, 200_000, "http://127.0.0.1:1");
    let portico = Builder::new().registry(&redis).start();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&portico.admin.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream
        .write_all(get("localhost", "/list").as_bytes())
        .unwrap();
    let client = stream.local_addr().unwrap();
    // The page takes a while to be made where the machine is busy; the cut comes 10 s after that.
    eventually("portico has let go", 3 * SOON, || {
        let asked = Instant::now();
        assert_eq!(portico.admin_get("/healthz").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "it is held up");
        thread::sleep(Duration::from_millis(500));
        (!is_established(portico.admin, client)).then_some(())
    });
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let whole = bytes.ends_with(b"\r\n0\r\n\r\n");
    assert!(!whole, "all {} bytes came; {ended:?}", bytes.len());
}

/// Whether a connection has not been closed by its side at `local`.
fn is_established(local: SocketAddr, peer: SocketAddr) -> bool {
    const ESTABLISHED: &str = "01";
    let of = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let ends = [of(local), of(peer), ESTABLISHED.to_owned()];
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines();
    lines.any(|line| line.split_whitespace().skip(1).take(3).eq(&ends))
}

/// Pages that look at the whole table, all at once: the others, and the proxy, do not wait.
#[test]
fn heavy_pages_hold_nobody_up() {
    let origin = Origin::echo("grid");
    let redis = Redis::start();
    fill(&redis, 100_000, "http://127.0.0.1:1");
    let portico = Builder::new()
        .registry(&redis)
        .route("grid", &origin.url())
        .start();
    let host = portico.admin.to_string();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::tcp(portico.admin)).collect();
    for client in &mut clients {
        client.send(get(&host, "/routes?contains=9&page_size=1000"));
    }
    let asked = Instant::now();
    assert_eq!(portico.admin_get("/healthz").status, 200);
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 200);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    // Each gives its place back: more than may be sent at once.
    let lists: Vec<u16> = (0..8).map(|_| portico.admin_get("/list").status).collect();
    assert!(lists.iter().all(|status| *status == 200), "{lists:?}");
}
