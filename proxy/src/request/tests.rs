//! The order of the phases, without a socket.

use super::*;
use crate::http1::{HeadLimits, Parsed};
use crate::process::Process;
use crate::start;

const CONFIG: &str = r#"
    [listen]
    http = ["127.0.0.1:0"]
    https = []
    redirect = REDIRECT

    [domains]
    canonical = "toolforge.org"
    legacy = ["tools.wmflabs.org"]
    rename = { ru_monuments = "ru-monuments" }
    reserved = ["login"]

    [routes]
    grid = "http://192.0.2.1:8000"

    [pools.ingress]
    nodes = ["192.0.2.2:30000"]

    [limits]
    body = "1KiB"
    in_flight_per_tool = 1
"#;

fn process(redirect: bool) -> std::sync::Arc<Process> {
    process_of(&CONFIG.replace("REDIRECT", &redirect.to_string()))
}

fn process_of(text: &str) -> std::sync::Arc<Process> {
    let config = portico_config::parse("test", text).unwrap().config;
    start::prepare_config(config, Vec::new()).unwrap().process
}

/// Plans for a client that came over TLS, or over plain HTTP with `redirect` on.
fn planned(process: &Process, over_tls: bool, raw: &str) -> (Plan, Request) {
    let mut parser = RequestParser::new(HeadLimits {
        head: 4096,
        target: 1024,
        fields: 32,
    });
    assert_eq!(
        parser.parse(raw.as_bytes()),
        Ok(Parsed::Complete),
        "{raw:?}"
    );
    let reader = crate::snapshot::SnapshotReader::new(std::sync::Arc::clone(&process.snapshot));
    let mut request = Request::new(
        reader.load(),
        crate::request_id::RequestIds::default().next(),
        parser.head(),
        raw.as_bytes(),
        parser.head().version,
    );
    let client = ClientInfo {
        address: "192.0.2.9".parse().unwrap(),
        over_tls,
        tls: None,
        port: 443,
    };
    let plan = plan(
        &mut request,
        (&process.table, &process.tools),
        &client,
        parser.head(),
        raw.as_bytes(),
    );
    (plan, request)
}

fn described(plan: &Plan) -> String {
    match plan {
        Plan::Forward(Destination::Tool(backend)) => backend.to_string(),
        Plan::Forward(Destination::Ingress(pool)) => format!("pool {}", pool.name),
        Plan::Forward(Destination::Fallback(fallback)) => format!("404 {}", fallback.backend),
        Plan::Answer(Own::Healthy) => "healthy".to_owned(),
        Plan::Answer(Own::Capabilities) => "capabilities".to_owned(),
        Plan::Answer(Own::Redirect { status, location }) => {
            format!("{status} {}", String::from_utf8_lossy(location))
        }
        Plan::Fail(failure) => format!("{failure:?}"),
    }
}

#[track_caller]
fn check_over(over_tls: bool, line: &str, host: &str, more: &str, expected: &str) {
    let raw = format!("{line}\r\nHost: {host}\r\n{more}\r\n");
    let (plan, _) = planned(&process(true), over_tls, &raw);
    assert_eq!(described(&plan), expected, "{raw:?}");
}

#[track_caller]
fn check(line: &str, host: &str, expected: &str) {
    check_over(true, line, host, "User-Agent: t\r\n", expected);
}

#[test]
fn where_requests_go() {
    let get = "GET /x HTTP/1.1";
    check(get, "grid.toolforge.org", "http://192.0.2.1:8000");
    check(get, "GRID.toolforge.org.:443", "http://192.0.2.1:8000");
    check(get, "other.toolforge.org", "pool ingress");
    check(get, "login.toolforge.org", "pool ingress");
    check(get, "toolforge.org", "pool ingress");
    check(get, "tools.wmflabs.org", "pool ingress");
    check(
        "GET /grid/x HTTP/1.1",
        "tools.wmflabs.org",
        "http://192.0.2.1:8000",
    );
    check(get, "example.org", "NotFound");
    check(get, "a.b.toolforge.org", "NotFound");
    check(
        get,
        "ru_monuments.toolforge.org",
        "301 https://ru-monuments.toolforge.org/x",
    );
    check(
        "GET https://grid.toolforge.org/x HTTP/1.1",
        "example.org",
        "http://192.0.2.1:8000",
    );
}

#[test]
fn health_comes_before_everything_but_a_broken_host() {
    let health = "GET /.well-known/healthz HTTP/1.1";
    for over_tls in [true, false] {
        for host in ["grid.toolforge.org", "192.0.2.7", "example.org"] {
            check_over(over_tls, health, host, "", "healthy");
        }
        check_over(over_tls, health, "a@b", "", "BadHost(Some(BadByte(64)))");
    }
    check(
        "GET /.well-known/healthz?x HTTP/1.1",
        "example.org",
        "healthy",
    );
    check(
        "POST /.well-known/healthz HTTP/1.1",
        "grid.toolforge.org",
        "http://192.0.2.1:8000",
    );
    check(
        "GET /.well-known/healthzfoo HTTP/1.1",
        "grid.toolforge.org",
        "http://192.0.2.1:8000",
    );
    let (plan, _) = planned(
        &process(true),
        true,
        "GET /.well-known/healthz HTTP/1.0\r\n\r\n",
    );
    assert_eq!(described(&plan), "healthy");
    let (plan, _) = planned(&process(true), true, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(described(&plan), "BadHost(None)");
}

#[test]
fn https_comes_before_refusals() {
    let get = "GET /x?y HTTP/1.1";
    check_over(
        false,
        get,
        "grid.toolforge.org",
        "",
        "301 https://grid.toolforge.org/x?y",
    );
    check_over(
        false,
        get,
        "tools.wmflabs.org",
        "",
        "301 https://tools.wmflabs.org/x?y",
    );
    // A permanent redirect may only point at a host that exists (T258730).
    check_over(false, get, "example.org", "User-Agent: t\r\n", "NotFound");
    check_over(false, get, "example.org", "", "NoUserAgent");
    let raw = "GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\n\r\n";
    let (plan, _) = planned(&process(false), false, raw);
    assert_eq!(described(&plan), "http://192.0.2.1:8000");
}

#[test]
fn a_refusal_knows_its_tool() {
    let raw = "GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\n\r\n";
    let (plan, request) = planned(&process(false), true, raw);
    assert_eq!(described(&plan), "NoUserAgent");
    assert_eq!(request.tool.unwrap().as_str(), "grid");
}

#[test]
fn refusals_come_before_routing() {
    let get = "GET /x HTTP/1.1";
    check_over(true, get, "example.org", "", "NoUserAgent");
    check_over(true, get, "example.org", "User-Agent:\r\n", "NoUserAgent");
    let large = "User-Agent: t\r\nContent-Length: 1025\r\n";
    check_over(
        true,
        "POST /x HTTP/1.1",
        "example.org",
        large,
        "BodyTooLarge",
    );
    let again = "User-Agent: t\r\nVia: 1.1 other, 1.1 portico\r\n";
    check_over(true, get, "grid.toolforge.org", again, "Loop");
    let others = "User-Agent: t\r\nVia: 1.1 porticos\r\n";
    check_over(
        true,
        get,
        "grid.toolforge.org",
        others,
        "http://192.0.2.1:8000",
    );
    check(
        "GET /../../x HTTP/1.1",
        "grid.toolforge.org",
        "BadPath(ClimbsAboveRoot)",
    );
    check("OPTIONS * HTTP/1.1", "grid.toolforge.org", "capabilities");
}

#[test]
fn a_tool_has_so_many_places() {
    let process = process(true);
    let raw = "GET /robots.txt HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\n\r\n";
    let (first, request) = planned(&process, true, raw);
    assert_eq!(described(&first), "http://192.0.2.1:8000");
    assert_eq!(request.default_file, Some(DefaultFile::Robots));
    assert_eq!(described(&planned(&process, true, raw).0), "ToolBusy");
    drop(request);
    assert_eq!(
        described(&planned(&process, true, raw).0),
        "http://192.0.2.1:8000"
    );
}

#[test]
fn what_nothing_answers_goes_to_the_fallback_while_it_has_room() {
    let text = CONFIG.replace("REDIRECT", "true").replace(
        "[pools.ingress]\n    nodes = [\"192.0.2.2:30000\"]",
        "[fallback]\n    backend = \"http://192.0.2.4/404\"",
    );
    let process = process_of(&text);
    let to = |over_tls, host: &str, path: &str| {
        let raw = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\n\r\n");
        let (plan, request) = planned(&process, over_tls, &raw);
        (described(&plan), request)
    };
    let fallback = "404 http://192.0.2.4:80/404";
    // Its answer to /robots.txt is its own affair.
    for path in ["/x", "/robots.txt"] {
        for over_tls in [true, false] {
            let (plan, request) = to(over_tls, "example.org", path);
            assert_eq!((plan.as_str(), request.default_file), (fallback, None));
        }
    }
    assert_eq!(to(true, "a.b.toolforge.org", "/").0, fallback);
    // There is no ingress.
    assert_eq!(to(true, "other.toolforge.org", "/").0, fallback);
    assert_eq!(
        to(false, "other.toolforge.org", "/").0,
        "301 https://other.toolforge.org/"
    );
    assert_eq!(
        to(true, "example.org", "/../x").0,
        "BadPath(ClimbsAboveRoot)"
    );
    let (first, request) = to(true, "example.org", "/");
    assert_eq!(first, fallback);
    assert_eq!(to(true, "example.com", "/").0, "NotFound");
    assert_eq!(to(true, "other.toolforge.org", "/").0, "NoIngress");
    assert_eq!(
        to(true, "grid.toolforge.org", "/").0,
        "http://192.0.2.1:8000"
    );
    drop(request);
    assert_eq!(to(true, "example.com", "/").0, fallback);
}

#[test]
fn leave_for_a_second_attempt_ends_with_the_attempt() {
    let process = process(true);
    let raw = "GET / HTTP/1.1\r\nHost: other.toolforge.org\r\nUser-Agent: t\r\n\r\n";
    let (_, mut request) = planned(&process, true, raw);
    let budget = crate::pools::retry::RetryBudget::default();
    request
        .retry
        .replace(budget.try_take(0, std::time::Instant::now()));
    assert_eq!(budget.under_way(), 1);
    // The page that says what failed may take long to write.
    request.leave_node();
    assert_eq!(budget.under_way(), 0);
}
