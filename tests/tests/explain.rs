//! `portico explain` says what the portico that serves then does: for every kind of request, where
//! it goes, with which head, and what comes back.

use std::io::Read;
use std::net::TcpListener;

use portico_tests::client::Response;
use portico_tests::origin::{Origin, Received};
use portico_tests::portico::{Builder, Finished, Portico, run};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually};
use serde_json::Value;

/// A portico that serves, and what stands behind it.
struct Site {
    portico: Portico,
    origins: [(&'static str, Origin); 4],
    _redis: Redis,
}

/// A request and what has to come of it.
struct Case {
    method: &'static str,
    url: &'static str,
    headers: &'static [&'static str],
    /// `forward` and the origin's name, or status and failure or location.
    expected: &'static str,
}

fn get(url: &'static str, expected: &'static str) -> Case {
    with(url, &[], expected)
}

fn with(url: &'static str, headers: &'static [&'static str], expected: &'static str) -> Case {
    send("GET", url, headers, expected)
}

fn send(
    method: &'static str,
    url: &'static str,
    headers: &'static [&'static str],
    expected: &'static str,
) -> Case {
    Case {
        method,
        url,
        headers,
        expected,
    }
}

/// What all requests say unless their headers say otherwise. JSON, to read the pages of failures.
const DEFAULTS: [&str; 2] = ["User-Agent: t", "Accept: application/json"];

impl Case {
    /// All fields but Host, as they are sent.
    fn fields(&self) -> Vec<&'static str> {
        let name = |line: &str| line.split(':').next().map(str::to_ascii_lowercase);
        let said = |line: &&str| self.headers.iter().any(|own| name(own) == name(line));
        let defaults = DEFAULTS.into_iter().filter(|line| !said(line));
        defaults.chain(self.headers.iter().copied()).collect()
    }

    fn arguments(&self) -> Vec<&str> {
        let mut words = vec![self.url, "--json", "--method", self.method];
        words.extend(["--client", "127.0.0.1"]);
        for field in self.fields() {
            words.extend(["--header", field]);
        }
        words
    }

    /// What a client sends.
    fn raw(&self) -> String {
        let (_, rest) = self.url.split_once("://").unwrap();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(end);
        let slash = if target.starts_with('/') { "" } else { "/" };
        let mut raw = format!("{} {slash}{target} HTTP/1.1\r\n", self.method);
        let fields = self.fields();
        if !fields.iter().any(|line| line.starts_with("Host:")) {
            raw.push_str(&format!("Host: {host}\r\n"));
        }
        for line in fields.iter().filter(|line| !line.ends_with(':')) {
            raw.push_str(&format!("{line}\r\n"));
        }
        raw.push_str("\r\n");
        if fields.contains(&"Content-Length: 4") {
            raw.push_str("body");
        }
        raw
    }
}

impl Site {
    /// The routes of the registry lead to `a` and `b`; `more` is laid over the configuration.
    fn start(more: impl Fn(&[(&'static str, Origin); 4]) -> String) -> Site {
        let redis = Redis::start();
        let origins = ["a", "b", "ingress", "fallback"].map(|name| (name, Origin::echo(name)));
        let (a, b) = (origins[0].1.url(), origins[1].1.url());
        redis.route("grid", ".*", &a);
        redis.route("multi", ".*", &a);
        redis.route("multi", "^/api/", &b);
        redis.route("moved", ".*", &a);
        redis.redirect("moved");
        redis.route("based", ".*", &format!("{b}/base"));
        redis.route("badre", "(", &a);
        redis.route("badre", ".*", &b);
        redis.route("badaddress", ".*", "http://169.254.169.254");
        redis.route("gone", ".*", "http://tool.invalid:8000");
        // Its own registry, by a name: known only once it is resolved.
        let port = redis.address().port();
        redis.route("sly", ".*", &format!("http://localhost:{port}"));
        let portico = Builder::new()
            .registry(&redis)
            .with(
                "[listen]\nredirect = true\n[limits]\nbody = '1KiB'\n\
                 [domains]\nrename = { old_name = 'grid' }\nreserved = ['login']",
            )
            .with(&more(&origins))
            .start();
        let site = Site {
            portico,
            origins,
            _redis: redis,
        };
        eventually("names are resolved", SOON, || {
            let case = get("https://sly.toolforge.org/", "");
            let answer = site.portico.tls().exchange(case.raw());
            answer.text().contains("not allowed").then_some(())
        });
        site
    }

    /// `portico explain` with the configuration of the portico that serves.
    fn explain(&self, words: &[&str]) -> Finished {
        let config = self.portico.folder.path().join("portico.toml");
        let mut all = vec!["explain", "--config", config.to_str().unwrap()];
        all.extend(words);
        run(&all)
    }

    #[track_caller]
    fn explained(&self, words: &[&str]) -> Value {
        let finished = self.explain(words);
        finished.expect(0, &[]);
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// What origins got, by their names.
    fn seen(&self) -> Vec<(&'static str, Received)> {
        let taken = |(name, origin): &(&'static str, Origin)| {
            let name = *name;
            let requests = origin.take().into_iter();
            requests
                .map(move |request| (name, request))
                .collect::<Vec<_>>()
        };
        self.origins.iter().flat_map(taken).collect()
    }

    #[track_caller]
    fn check(&self, case: &Case) {
        let explained = self.explained(&case.arguments());
        let mut client = match case.url.starts_with("https:") {
            true => self.portico.tls(),
            false => self.portico.tcp(),
        };
        client.send(case.raw());
        let answer = match case.method {
            "HEAD" => client.head_response(),
            _ => client.response(),
        };
        let seen = self.seen();
        let context = format!(
            "{} {}\n{explained:#}\n{} {:?}\n{seen:?}",
            case.method, case.url, answer.status, answer.fields
        );
        assert_eq!(self.summary(&explained), case.expected, "{context}");
        match explained["verdict"]["kind"].as_str().unwrap() {
            "forward" => {
                let [(_, request)] = &seen[..] else {
                    panic!("one origin is asked once: {context}");
                };
                assert_eq!(seen[0].0, &case.expected["forward ".len()..], "{context}");
                assert_eq!(
                    fields_to_backend(&explained),
                    fields_of(request),
                    "{context}"
                );
                check_answer(&explained["to_client"], &answer, &context);
            }
            _ => {
                assert!(seen.is_empty(), "{context}");
                check_own(&explained["answer"], &answer, case, &context);
            }
        }
    }

    /// The explanation in the words of [`Case::expected`].
    fn summary(&self, explained: &Value) -> String {
        let answer = &explained["answer"];
        if explained["verdict"]["kind"] != "forward" {
            let more = answer["failure"].as_str().or(answer["location"].as_str());
            return format!("{} {}", answer["status"], more.unwrap_or("ok"));
        }
        let address = &explained["backend"]["addresses"][0]["address"];
        let origin = self
            .origins
            .iter()
            .find(|(_, origin)| *address == origin.address().to_string());
        format!("forward {}", origin.map_or("nowhere", |(name, _)| name))
    }
}

/// Request line and fields that the backend gets, in any order.
fn fields_to_backend(explained: &Value) -> Vec<String> {
    let changes = &explained["to_backend"];
    let mut all = vec![changes["line"].as_str().unwrap().to_owned()];
    for (list, value) in [("kept", "value"), ("added", "value"), ("replaced", "to")] {
        for field in changes[list].as_array().unwrap() {
            let name = field["name"].as_str().unwrap().to_ascii_lowercase();
            all.push(format!("{name}: {}", field[value].as_str().unwrap()));
        }
    }
    all.sort();
    all
}

fn fields_of(request: &Received) -> Vec<String> {
    let fields = request.fields.iter();
    let fields = fields.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()));
    let line = format!("{} {} {}", request.method, request.target, request.version);
    let mut all: Vec<String> = std::iter::once(line).chain(fields).collect();
    all.sort();
    all
}

/// What the client got of an origin's answer.
#[track_caller]
fn check_answer(explained: &Value, answer: &Response, context: &str) {
    for field in explained["set"].as_array().unwrap() {
        let name = field["name"].as_str().unwrap();
        assert_eq!(
            answer.field(name),
            field["value"].as_str(),
            "{name}: {context}"
        );
        assert_eq!(answer.count(name), 1, "{name}: {context}");
    }
    for name in explained["hidden"].as_array().unwrap() {
        assert_eq!(answer.field(name.as_str().unwrap()), None, "{context}");
    }
    if let Some(location) = answer.field("location") {
        let becomes = &explained["location"];
        let to = becomes["to"].as_str().unwrap_or("http:");
        assert!(location.starts_with(to), "{to}: {context}");
    }
    let encoding = explained["compression"]["encoding"].as_str();
    let has_type = answer.field("content-type") == Some("application/json");
    if has_type && answer.field("content-length").is_none() {
        assert_eq!(answer.field("content-encoding"), encoding, "{context}");
    }
    let is_default = answer.text().starts_with("User-agent: *");
    assert_eq!(
        !explained["default_file"].is_null(),
        is_default,
        "{context}"
    );
}

/// What the client got of portico itself.
#[track_caller]
fn check_own(explained: &Value, answer: &Response, case: &Case, context: &str) {
    assert_eq!(explained["status"], answer.status, "{context}");
    assert_eq!(
        explained["location"].as_str(),
        answer.field("location"),
        "{context}"
    );
    for field in explained["fields"].as_array().unwrap() {
        let name = field["name"].as_str().unwrap();
        assert_eq!(
            answer.field(name),
            field["value"].as_str(),
            "{name}: {context}"
        );
    }
    if !explained["failure"].is_null() && case.method != "HEAD" {
        let page: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(page["fault"], explained["side"], "{context}");
        assert_eq!(page["detail"], explained["text"], "{context}");
    }
}

#[test]
fn it_says_what_portico_then_does() {
    let site = Site::start(|origins| {
        let node = origins[2].1.address();
        let fixed = origins[1].1.url();
        format!(
            "[pools.ingress]\nnodes = ['{node}']\n[ingress]\npool = 'ingress'\n\
             [headers]\nhide = ['X-Mine']\nclient_address_for = ['multi']\n\
             [routes]\nfixed = '{fixed}'"
        )
    });
    for case in [
        get("https://grid.toolforge.org/x?y=1", "forward a"),
        get(
            "http://grid.toolforge.org/x?y=1",
            "301 https://grid.toolforge.org/x?y=1",
        ),
        get("https://GRID.toolforge.org.:443/", "forward a"),
        get("https://grid.toolforge.org", "forward a"),
        get("https://grid.toolforge.org?q", "forward a"),
        get("https://none.toolforge.org/a", "forward ingress"),
        get("https://multi.toolforge.org/api/x", "forward b"),
        get("https://multi.toolforge.org/apix", "forward a"),
        get("https://multi.toolforge.org/x/../api//y", "forward b"),
        get("https://based.toolforge.org/x", "forward b"),
        get("https://fixed.toolforge.org/s/x", "forward b"),
        get("https://tools.wmflabs.org/fixed", "forward b"),
        get("https://badre.toolforge.org/", "forward b"),
        get("https://badaddress.toolforge.org/", "forward ingress"),
        get("https://tools.wmflabs.org/grid/x", "forward a"),
        get("https://tools.wmflabs.org/multi/api/", "forward b"),
        get("https://tools.wmflabs.org/", "forward ingress"),
        get("https://tools.wmflabs.org/No.Tool/", "forward ingress"),
        get(
            "https://tools.wmflabs.org/moved/x?y",
            "307 https://moved.toolforge.org/x?y",
        ),
        get("https://moved.toolforge.org/x", "forward a"),
        get(
            "https://old_name.toolforge.org/x//y",
            "301 https://grid.toolforge.org/x//y",
        ),
        get("https://login.toolforge.org/", "forward ingress"),
        get("https://toolforge.org/", "forward ingress"),
        get("https://evil.example/grid", "404 not_found"),
        get("http://evil.example/grid", "404 not_found"),
        get("https://a.b.toolforge.org/", "404 not_found"),
        get("https://grid.toolforge.org/a/./b/../%41%2f", "forward a"),
        get("https://grid.toolforge.org/a%2Fb", "forward a"),
        get("https://grid.toolforge.org/../x", "400 bad_path"),
        get("https://grid.toolforge.org/%zz", "400 bad_path"),
        get("https://gr%69d.toolforge.org/", "400 bad_host"),
        get("https://gone.toolforge.org/", "502 tool_unresolved"),
        get("https://sly.toolforge.org/", "502 tool_forbidden"),
        get("https://grid.toolforge.org/.well-known/healthz", "200 ok"),
        get("http://192.0.2.7/.well-known/healthz", "200 ok"),
        get("https://grid.toolforge.org/robots.txt", "forward a"),
        get("https://grid.toolforge.org/hdrs", "forward a"),
        get("https://tools.wmflabs.org/grid/hdrs", "forward a"),
        get(
            "https://grid.toolforge.org/redir?to=http://grid.toolforge.org/y",
            "forward a",
        ),
        with(
            "https://grid.toolforge.org/json",
            &["Accept-Encoding: br, gzip"],
            "forward a",
        ),
        with(
            "https://grid.toolforge.org/json",
            &["Accept-Encoding: identity"],
            "forward a",
        ),
        with(
            "https://grid.toolforge.org/",
            &["User-Agent:"],
            "403 no_user_agent",
        ),
        with(
            "https://grid.toolforge.org/",
            &["Via: 1.0 a, 1.1 portico"],
            "508 loop",
        ),
        with(
            "https://grid.toolforge.org/",
            &["Bad Name: x"],
            "400 malformed",
        ),
        with(
            "https://grid.toolforge.org/",
            &["Host: none.toolforge.org"],
            "forward ingress",
        ),
        with(
            "https://multi.toolforge.org/",
            &[
                "Connection: X-Hop, keep-alive",
                "X-Hop: 1",
                "X-Forwarded-For: 192.0.2.9",
                "TE: trailers",
                "Cookie: a=1",
                "Via: 1.1 other",
            ],
            "forward a",
        ),
        send(
            "POST",
            "https://grid.toolforge.org/",
            &["Content-Length: 4"],
            "forward a",
        ),
        send(
            "POST",
            "https://grid.toolforge.org/",
            &["Content-Length: 1025"],
            "413 body_too_large",
        ),
        send("OPTIONS", "https://grid.toolforge.org/", &[], "forward a"),
        send("HEAD", "https://grid.toolforge.org/x", &[], "forward a"),
        send("HEAD", "https://evil.example/", &[], "404 not_found"),
        send("TRACE", "https://grid.toolforge.org/", &[], "405 malformed"),
        send("PURGE", "https://grid.toolforge.org/x", &[], "forward a"),
    ] {
        site.check(&case);
    }
}

#[test]
fn nobodys_hosts_go_to_the_fallback_or_nowhere() {
    let site = Site::start(|origins| format!("[fallback]\nbackend = '{}/404'", origins[3].1.url()));
    for case in [
        get("https://evil.example/robots.txt", "forward fallback"),
        get("https://none.toolforge.org/", "forward fallback"),
        get("https://toolforge.org/", "forward fallback"),
        get("http://evil.example/", "forward fallback"),
        get("https://evil.example/..", "400 bad_path"),
    ] {
        site.check(&case);
    }
    let site = Site::start(|_| String::new());
    for case in [
        get("https://evil.example/", "404 not_found"),
        get("https://none.toolforge.org/", "404 no_ingress"),
        get("https://login.toolforge.org/", "404 no_ingress"),
    ] {
        site.check(&case);
    }
}

/// A backend that is to speak HTTP/2 is spoken to in HTTP/2.
#[test]
fn h2c() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let preface = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut preface = [0; 14];
        socket.read_exact(&mut preface).unwrap();
        preface
    });
    let url = format!("h2c://{address}");
    let builder = Builder::new().route("grid", &url);
    let finished = builder.command("explain", &["https://grid.toolforge.org/x", "--json"]);
    finished.expect(0, &[]);
    let explained: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(explained["backend"]["url"], url);
    assert_eq!(explained["backend"]["protocol"], "HTTP/2 without TLS");
    assert_eq!(explained["to_backend"]["line"], "GET /x HTTP/2");
    let portico = builder.start();
    let case = get("https://grid.toolforge.org/x", "");
    portico.tls().send(case.raw());
    assert_eq!(&preface.join().unwrap(), b"PRI * HTTP/2.0");
}

#[test]
fn without_redis_it_takes_the_snapshot() {
    let mut site = Site::start(|_| String::new());
    let snapshot = site.portico.folder.path().join("routes.snapshot");
    eventually("the snapshot is written", SOON, || {
        snapshot.exists().then_some(())
    });
    let words = [
        "https://multi.toolforge.org/api/",
        "--json",
        "--from-snapshot",
    ];
    let says = |explained: &Value, note: &str| {
        assert_eq!(site.summary(explained), "forward b");
        let notes = explained["notes"].to_string();
        assert!(notes.contains(note), "{note}: {notes}");
    };
    says(&site.explained(&words[..2]), "those of redis");
    says(&site.explained(&words), "the snapshot of ");
    // What redis says now is not what the snapshot says.
    site._redis.command(&["DEL", "prefix:multi"]);
    let config = site.portico.folder.path().join("portico.toml");
    site.portico.terminate();
    site.portico.wait(SOON);
    let asked = |more: &[&str]| {
        let mut all = vec!["explain", "--config", config.to_str().unwrap()];
        all.extend(more);
        run(&all)
    };
    asked(&words).expect(0, &[]);
    site._redis.kill();
    let finished = asked(&words[..2]);
    finished.expect(0, &[]);
    assert!(
        finished.stdout.contains("redis cannot be reached"),
        "{finished:#?}"
    );
    std::fs::remove_file(&snapshot).unwrap();
    asked(&words).expect(1, &["there is no snapshot of the routes at"]);
    asked(&words[..2]).expect(1, &["cannot load the routes from redis"]);
}

#[test]
fn mistakes_are_told() {
    let builder = Builder::new().route("grid", "http://192.0.2.1:8000");
    let check = |words: &[&str], code, says: &str| {
        builder.command("explain", words).expect(code, &[says]);
    };
    check(
        &["grid.toolforge.org/x"],
        2,
        "write https://grid.toolforge.org/x",
    );
    check(&["ftp://grid.toolforge.org/"], 2, "ftp://");
    check(&["https://"], 2, "names no host");
    check(&["https://a@b/"], 2, "user information");
    check(&["https://a/", "--header", "x"], 2, "'Name: value'");
    check(&["https://a/", "--method", "GET /"], 2, "not a method");
    check(&[], 2, "<URL>");
    check(
        &["https://a/", "--admin", "127.0.0.1:1"],
        1,
        "cannot ask portico at 127.0.0.1:1",
    );
    check(
        &["https://a/", "--admin", "unix:/nowhere"],
        1,
        "cannot ask portico at unix:/nowhere",
    );
    let broken = Builder::new().with("[limits]\nbody = 'much'");
    broken
        .command("explain", &["https://a/"])
        .expect(2, &["limits.body"]);
}

/// The example in the document, as it is printed. `UPDATE_DOCS=1` writes it.
#[test]
fn the_document_shows_what_is_printed() {
    let redis = Redis::start();
    redis.route("sub", ".*", "http://172.16.7.2:40123");
    redis.route("sub", "^/api/", "http://172.16.7.9:8000/v2");
    redis.route("sub", "^/old(", "http://172.16.7.9:8001");
    let builder = Builder::new()
        .registry(&redis)
        .with("[listen]\nhttps = ['[::]:443']\nhttp = ['[::]:80']");
    let words = [
        "https://sub.toolforge.org/x/../api/list?n=5",
        "--header",
        "Accept-Encoding: br",
    ];
    let finished = builder.command("explain", &words);
    finished.expect(0, &[]);
    let example = format!(
        "```text\n$ portico explain 'https://sub.toolforge.org/x/../api/list?n=5' --header 'Accept-Encoding: br'\n{}```\n",
        finished.stdout
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/explain.md");
    let text = std::fs::read_to_string(path).unwrap();
    let start = text.find("```text\n").unwrap();
    let end = start + text[start..].find("\n```\n").unwrap() + 5;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let fresh = format!("{}{example}{}", &text[..start], &text[end..]);
        std::fs::write(path, fresh).unwrap();
        return;
    }
    assert_eq!(&text[start..end], example, "UPDATE_DOCS=1 writes it");
}
