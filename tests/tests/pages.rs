//! The pages that portico makes when something goes wrong: to everybody in their form, with whose
//! fault it is and what an operator needs to find the request; and templates of one's own.

use portico_tests::client::{Client, Response, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{SOON, eventually, free_address};

const HEALTHZ: &str = "/.well-known/healthz";
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// One way to fail, and what is said of it.
struct Case {
    target: &'static str,
    host: &'static str,
    /// Lines behind Accept.
    fields: String,
    status: u16,
    fault: &'static str,
    words: &'static str,
}

fn case(host: &'static str, status: u16, fault: &'static str, words: &'static str) -> Case {
    Case {
        target: "/x?<script>",
        host,
        fields: "User-Agent: t\r\n".into(),
        status,
        fault,
        words,
    }
}

fn request(method: &str, case: &Case, accept: Option<&str>) -> String {
    let accept = accept.map_or(String::new(), |accept| format!("Accept: {accept}\r\n"));
    format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\n{accept}{}\r\n",
        case.target, case.host, case.fields
    )
}

#[track_caller]
fn field(answer: &Response, name: &str) -> String {
    assert_eq!(answer.count(name), 1, "{name} in {answer:?}");
    answer.field(name).unwrap().to_owned()
}

/// Asserts a page in every form, to GET and to HEAD.
#[track_caller]
fn check(portico: &Portico, case: &Case) {
    for (accept, media_type) in [
        (Some(BROWSER), "text/html; charset=utf-8"),
        (Some("application/json"), "application/json"),
        (Some("application/problem+json"), "application/problem+json"),
        (Some("*/*"), "text/plain; charset=utf-8"),
        (None, "text/plain; charset=utf-8"),
    ] {
        let mut client = portico.tls();
        let answer = client.exchange(request("GET", case, accept));
        check_page(&answer, case, media_type);
        check_next(&mut client, &answer);

        let mut client = portico.tls();
        client.send(request("HEAD", case, accept));
        let head = client.head_response();
        assert_eq!(head.status, case.status, "{head:?}");
        for name in ["content-type", "content-length", "cache-control", "vary"] {
            assert_eq!(field(&head, name), field(&answer, name));
        }
        check_next(&mut client, &head);
    }
}

#[track_caller]
fn check_page(answer: &Response, case: &Case, media_type: &str) {
    let body = answer.text();
    assert_eq!(answer.status, case.status, "{body}");
    assert_eq!(field(answer, "content-type"), media_type);
    assert_eq!(field(answer, "content-length"), body.len().to_string());
    assert_eq!(field(answer, "cache-control"), "no-store");
    assert_eq!(field(answer, "vary"), "Accept");
    assert_eq!(field(answer, "x-content-type-options"), "nosniff");
    field(answer, "date");
    assert_eq!(answer.count("retry-after"), usize::from(case.status == 503));
    let html = media_type.starts_with("text/html");
    assert_eq!(answer.count("content-security-policy"), usize::from(html));
    let id = field(answer, "x-request-id");
    for part in [&id[..], "proxy-1.example", case.fault] {
        assert!(body.contains(part), "no {part:?} in {body}");
    }
    assert!(
        !body.contains("script>") && !body.contains("127.0.0.1"),
        "{body}"
    );
    let said = if media_type.ends_with("json") {
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(value["status"], case.status);
        assert_eq!(value["fault"], case.fault);
        assert_eq!(value["request_id"], id);
        value["detail"].as_str().unwrap().to_owned()
    } else {
        body.replace("&#39;", "'")
    };
    assert!(said.contains(case.words), "no {:?} in {said}", case.words);
}

/// Nothing but the page came: the next answer follows, or the end.
#[track_caller]
fn check_next(client: &mut Client, answer: &Response) {
    if answer.says_close() {
        client.expect_closed();
    } else {
        assert_eq!(client.exchange(get(HOST, HEALTHZ)).status, 200);
    }
}

fn builder() -> Builder {
    Builder::new().with("server.name = 'proxy-1.example'")
}

#[test]
fn what_clients_do_wrong() {
    let origin = Origin::echo("grid");
    let portico = builder()
        .route("grid", &origin.url())
        .with("limits = { body = '1KiB', header = '2KiB', uri = '256B' }")
        .start();
    let with = |fields: &str, case: Case| Case {
        fields: fields.into(),
        ..case
    };
    check(
        &portico,
        &case("example.org", 404, "client", "The URL you have requested"),
    );
    check(
        &portico,
        &case(
            "none.toolforge.org",
            404,
            "client",
            "The URL you have requested",
        ),
    );
    check(
        &portico,
        &with(
            "",
            case(HOST, 403, "client", "Requests must have a user agent"),
        ),
    );
    check(
        &portico,
        &with(
            "User-Agent: t\r\nContent-Length: 1025\r\n",
            case(HOST, 413, "client", "larger than this service allows"),
        ),
    );
    check(
        &portico,
        &with(
            "User-Agent: t\r\nVia: 1.1 portico\r\n",
            case(HOST, 508, "platform", "has come through this proxy before"),
        ),
    );
    check(
        &portico,
        &Case {
            target: "/../../x",
            ..case(HOST, 400, "client", "climbs above the root")
        },
    );
    check(
        &portico,
        &with(
            "Bad Name: x\r\n",
            case(HOST, 400, "client", "white space before the colon"),
        ),
    );
    check(
        &portico,
        &with(
            &format!("Cookie: {}\r\n", "a".repeat(2048)),
            case(HOST, 431, "client", "header fields too large"),
        ),
    );
    let long: &'static str = Box::leak(format!("/{}", "a".repeat(256)).into_boxed_str());
    check(
        &portico,
        &Case {
            target: long,
            ..case(HOST, 414, "client", "request target too long")
        },
    );
    assert_eq!(origin.heads(), 0);
}

#[test]
fn what_tools_and_the_platform_do_wrong() {
    let silent = Origin::scripted(
        "silent",
        |connection| {
            while connection.read_request().is_some() {}
        },
    );
    let garbage = Origin::scripted("garbage", |connection| {
        connection.read_request();
        connection.send("SSH-2.0-OpenSSH\r\n\r\n");
    });
    let rude = Origin::scripted("rude", |connection| {
        connection.read_request();
    });
    let portico = builder()
        .route("broken", &format!("http://{}", free_address()))
        .route("garbage", &garbage.url())
        .route("rude", &rude.url())
        .ingress(&[free_address()])
        .start();
    for case in [
        case(
            "broken.toolforge.org",
            502,
            "tool",
            "does not run, or refuses",
        ),
        case("garbage.toolforge.org", 502, "tool", "not valid HTTP"),
        case("rude.toolforge.org", 502, "tool", "without an answer"),
        case(
            "other.toolforge.org",
            502,
            "platform",
            "ingress nodes can be reached",
        ),
    ] {
        check(&portico, &case);
    }
    let silent = builder()
        .route("silent", &silent.url())
        .with("timeouts.response = '200ms'")
        .start();
    let late = "did not answer in time";
    check(&silent, &case("silent.toolforge.org", 504, "tool", late));
}

#[test]
fn a_busy_tool() {
    let silent = Origin::scripted(
        "silent",
        |connection| {
            while connection.read_request().is_some() {}
        },
    );
    let portico = builder()
        .route("grid", &silent.url())
        .with("limits.in_flight_per_tool = 1")
        .start();
    let mut first = portico.tcp();
    first.send(get(HOST, "/"));
    eventually("the first is in flight", SOON, || {
        (silent.heads() == 1).then_some(())
    });
    check(&portico, &case(HOST, 503, "tool", "overloaded"));
}

/// The page cannot tell which address refused, which rule was broken, or why an answer ended: the
/// log does, under the id of the request.
#[test]
fn the_log_says_why_a_tool_failed() {
    #[track_caller]
    fn check(url: &str, why: &str) {
        let portico = Builder::new()
            .route("grid", url)
            .with("log.level = 'debug'")
            .start();
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        let _ = client.try_response(false);
        eventually("the log says why", SOON, || {
            let log = portico.stderr();
            let line = log.lines().find(|line| line.contains(why))?;
            let (_, id) = line.split_once("id=")?;
            let id = id.split(' ').next()?;
            let of_id = |line: &&str| line.contains(id) && line.contains("request finished");
            log.lines().find(of_id).map(|_| ())
        });
    }
    let answers = |answer: &'static str| {
        Origin::scripted("grid", move |exchange| {
            if exchange.read_request().is_some() {
                exchange.send(answer);
            }
        })
    };
    check(
        &format!("http://{}", free_address()),
        "cannot connect to a backend",
    );
    check(&answers("nonsense\r\n\r\n").url(), "the head of an answer");
    check(
        &answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").url(),
        "the backend closed its connection before the end",
    );
    check(
        &answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n").url(),
        "the backend's body is not valid",
    );
}

/// An operator is given the id and looks for it.
#[test]
fn the_log_names_the_request() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("log.level = 'debug'")
        .start();
    let mut ids = Vec::new();
    let mut client = portico.tcp();
    for request in [
        get("example.org", "/"),
        get("example.org", "/"),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
    ] {
        ids.push(field(&client.exchange(request), "x-request-id"));
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    for id in ids {
        eventually("the log names it", SOON, || {
            portico.stderr().contains(&id).then_some(())
        });
    }
    // Tools and their clients see none of it.
    let answer = portico.tcp().exchange(get(HOST, "/"));
    assert_eq!(answer.count("x-request-id"), 0);
    assert!(
        !origin
            .take_one()
            .fields
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))
    );
}

/// Two policies would both be in force, and the site's would take the page its style.
#[test]
fn the_policy_of_a_page_is_its_own() {
    let portico = builder()
        .with("headers.set = { Content-Security-Policy = \"default-src 'self'\", X-Site = 'b' }")
        .start();
    let case = case("example.org", 404, "client", "The URL");
    let page = portico.tls().exchange(request("GET", &case, Some(BROWSER)));
    let policy = field(&page, "content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(field(&page, "x-site"), "b");
    let text = portico.tls().exchange(request("GET", &case, None));
    assert_eq!(
        field(&text, "content-security-policy"),
        "default-src 'self'"
    );
}

/// With these templates.
#[track_caller]
fn templates(files: &[(&str, &str)]) -> Builder {
    let builder = builder();
    let directory = builder.folder().join("pages");
    std::fs::create_dir(&directory).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
    builder.with(&format!("pages.templates = {directory:?}"))
}

#[test]
fn templates_of_ones_own() {
    let portico = templates(&[
        ("page.html", "<h1>{{status}} {{fault}} {{request_id}}</h1>"),
        (
            "404.html",
            "<style>p{color:red}</style><p>{{detail}}{{#tool}} {{tool}}{{/tool}}</p>",
        ),
    ])
    .start();
    let page = |host, accept| {
        let case = case(host, 0, "", "");
        let answer = portico.tls().exchange(request("GET", &case, accept));
        let id = field(&answer, "x-request-id");
        (answer.text().replace(&id, "ID"), answer)
    };
    let (text, answer) = page("none.toolforge.org", Some(BROWSER));
    assert!(
        text.starts_with("<style>p{color:red}</style><p>The URL you have requested"),
        "{text}"
    );
    assert!(text.ends_with(" none</p>"), "{text}");
    let policy = field(&answer, "content-security-policy");
    assert!(policy.contains("style-src 'sha256-"), "{policy}");
    let (text, answer) = page("a..b", Some(BROWSER));
    assert_eq!(text, "<h1>400 client ID</h1>");
    let policy = field(&answer, "content-security-policy");
    assert!(!policy.contains("style-src"), "{policy}");
    let (text, _) = page("none.toolforge.org", None);
    assert!(text.starts_with("404 Not Found"), "{text}");
}

#[test]
fn broken_templates_are_refused() {
    let broken = templates(&[("404.html", "<p>\n{{titel}}\n<script>"), ("nope.html", "")]);
    let words = [
        "404.html:2:1: error: there is no placeholder \"titel\"",
        "404.html:3:1: error: scripts do not run on these pages",
        "nope.html: error: pages.templates: portico makes no such page",
    ];
    broken.command("check", &[]).expect(2, &words);
    broken.command("run", &[]).expect(2, &words);
    let absent = builder().with("pages.templates = '/nonexistent'");
    absent.command("check", &[]).expect(
        2,
        &["/nonexistent: error: pages.templates: the directory of templates cannot be read"],
    );
}
