//! What explanations say, and that they say what the phases decide.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;

use super::*;
use crate::pools::Tried;
use crate::pools::live::Wish;
use crate::process::Process;
use crate::request::Own;
use crate::start;

const CONFIG: &str = r#"
    [listen]
    http = ["127.0.0.1:80"]
    https = []
    redirect = true

    [domains]
    canonical = "toolforge.org"
    legacy = ["tools.wmflabs.org"]
    rename = { ru_monuments = "ru-monuments" }
    reserved = ["login"]

    [routes]
    grid = "http://192.0.2.1:8000"
    gone = "http://tool.invalid:8000"
    cloud = "http://169.254.169.254:80"

    [pools.ingress]
    nodes = ["192.0.2.2:30000"]

    [limits]
    body = "1KiB"
    in_flight_per_tool = 2
"#;

fn process_of(text: &str) -> Arc<Process> {
    let config = portico_config::parse("test", text).unwrap().config;
    let process = start::prepare_config(config, Vec::new()).unwrap().process;
    let fields: [(&[u8], &[u8]); 4] = [
        (b".*", b"http://192.0.2.3:1/base"),
        (b"^/api/", b"h2c://192.0.2.3:2"),
        (b"(", b"http://192.0.2.3:3"),
        (b"\x1b[2J", b"http://192.0.2.3:4"),
    ];
    let entry = |redirect| Entry::build(fields, redirect, &|_| Ok(()));
    process.table.set("sub", entry(false));
    process.table.set("moved", entry(true));
    process
}

fn process() -> Arc<Process> {
    process_of(CONFIG)
}

/// Of the sample, tools 0 to 36 are kept by hand, and 37 to 100 for the grace time.
#[track_caller]
fn check_held(tool: &str, expected: Option<&str>) {
    let config = CONFIG.replace("redirect = true", "redirect = false");
    let mut process = process_of(&format!("{config}\n[registry]"));
    Arc::get_mut(&mut process).unwrap().registry_status =
        Arc::new(crate::registry::RegistryStatus::sample());
    let url = format!("http://{tool}.toolforge.org/");
    let notes = explain(&process, &question(&url, "GET", &[]))
        .unwrap()
        .notes;
    match expected {
        None => assert_eq!(notes, [""; 0]),
        Some(expected) => assert!(notes[0].contains(expected), "{notes:?}"),
    }
}

#[test]
fn a_tool_that_redis_no_longer_holds_is_said_to_be_held_back() {
    check_held("sub", None);
    check_held("5", Some("until it does, or until portico routes apply"));
    check_held("50", Some("they stay in use until Thu, 01 Jan 1970"));
}

impl Question {
    fn with(mut self, header: &str) -> Self {
        self.add_header(header).unwrap();
        self
    }
}

fn question(url: &str, method: &str, headers: &[&str]) -> Question {
    let mut question = Question::new(url);
    question.method = method.to_owned();
    for header in headers {
        question.add_header(header).unwrap();
    }
    question
}

/// Compares with a file beside this one; `BLESS=1` writes it.
#[track_caller]
fn golden_file(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/explain/golden");
    let path = folder.join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name}: look at it, then BLESS=1");
}

#[track_caller]
fn golden(name: &str, question: &Question) {
    let text = explain(&process(), question).unwrap().to_string();
    golden_file(&format!("{name}.txt"), &text);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// Scripts rely on the names.
#[test]
fn json() {
    let check = |name: &str, question: Question| {
        let explanation = explain(&process(), &question).unwrap();
        let text = serde_json::to_string_pretty(&explanation).unwrap();
        golden_file(&format!("{name}.json"), &(text + "\n"));
    };
    let url = "https://SUB.toolforge.org/robots.txt";
    check("tool", Question::new(url).with("X-Real-IP: 192.0.2.7"));
    check(
        "refused",
        Question::new("https://grid.toolforge.org/").with("User-Agent:"),
    );
}

#[test]
fn texts() {
    let get = |url| question(url, "GET", &[]);
    golden("tool", &get("https://sub.toolforge.org/api/../x"));
    golden(
        "canonical",
        &get("https://SUB.toolforge.org.:443/login/../robots.txt#top").with("Accept-Encoding: br"),
    );
    golden("ingress", &get("https://login.toolforge.org/robots.txt"));
    golden("redirect", &get("http://grid.toolforge.org/x"));
    golden("moved", &get("https://tools.wmflabs.org/moved/x?y"));
    golden(
        "refused",
        &question(
            "https://grid.toolforge.org/",
            "POST",
            &["User-Agent:", "Content-Length: 5000", "Via: 1.1 portico"],
        ),
    );
    golden("forbidden", &get("https://cloud.toolforge.org/"));
    golden(
        "foreign",
        &get("https://evil.example/").with("Accept: text/html"),
    );
    golden(
        "malformed",
        &get("https://grid.toolforge.org/").with("Bad Name: x"),
    );
    golden(
        "websocket",
        &question(
            "https://sub.toolforge.org/api/",
            "GET",
            &[
                "Connection: upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version: 13",
                "X-Forwarded-For: 192.0.2.7",
            ],
        ),
    );
}

const POOLS: &str = r#"
    [listen]
    http = ["127.0.0.1:80"]
    https = []
    redirect = false

    [domains]
    canonical = "toolforge.org"

    [pools.ingress]
    nodes = ["192.0.2.2:30000", { address = "192.0.2.3:30000", weight = 50 }, "192.0.2.4:30000", "192.0.2.5:30000"]
    max_connections = 2
    max_queue = 1
    queue_timeout = "2s"

    [pools.gateway]
    nodes = ["192.0.2.9:80"]

    [ingress]
    split = { ingress = 90, gateway = 10 }
"#;

/// A tool of that pool.
fn tool_of(process: &Process, pool: &str) -> String {
    let snapshot = process.snapshot.load();
    let names = (0..10_000).map(|n| format!("tool{n}"));
    let mut of_pool = names.filter(|name| *snapshot.ingress.pick(name).unwrap().name == *pool);
    of_pool.next().unwrap()
}

#[test]
fn what_is_known_of_pools_and_nodes() {
    let process = process_of(POOLS);
    let url = |pool| format!("https://{}.toolforge.org/", tool_of(&process, pool));
    let text = |pool| {
        let asked = question(&url(pool), "GET", &[]);
        explain(&process, &asked).unwrap().to_string()
    };
    assert!(text("gateway").contains("=> split           gateway: 10 %"));
    let pool = Arc::clone(process.snapshot.load().pools.get("ingress").unwrap());
    let nodes = &pool.members().nodes;
    pool.set_wish(&nodes[0], Wish::Drain);
    pool.connect_failed(&nodes[1], &"connection refused");
    pool.set_wish(&nodes[3], Wish::Maintenance);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let (turns, tried) = (RefCell::default(), Tried::default());
    let mut requests = [(); 3].map(|()| Box::pin(pool.enter(&turns, &tried)));
    let mut now = |n: usize| {
        let mut cx = Context::from_waker(Waker::noop());
        requests[n].as_mut().poll(&mut cx).map(Result::unwrap)
    };
    let _places = [now(0), now(1)];
    golden_file("pools.txt", &text("ingress"));
    let json = explain(&process, &question(&url("ingress"), "GET", &[])).unwrap();
    let json = serde_json::to_string_pretty(&json.backend).unwrap();
    golden_file("pools.json", &(json + "\n"));
    assert!(now(2).is_pending());
    check_failure(&text("ingress"), "platform_busy");
    pool.set_wish(&nodes[2], Wish::Drain);
    assert!(text("ingress").contains("No node is up: portico tries"));
    pool.set_wish(&nodes[1], Wish::Drain);
    check_failure(&text("ingress"), "platform_drained");
}

#[track_caller]
fn check_failure(text: &str, code: &str) {
    assert!(text.contains(&format!("failure         {code}")), "{text}");
}

/// The plan that the phases make of the same request, put into words that scripts see.
fn planned(process: &Process, over_tls: bool, raw: &[u8]) -> String {
    let snapshot = SnapshotReader::new(Arc::clone(&process.snapshot)).load();
    let mut parser = RequestParser::new(request_limits(&snapshot.config.limits));
    if let Err(error) = parser.parse(raw) {
        return format!("failure none {}", Failure::Malformed(error).code());
    }
    let head = parser.head();
    let id = RequestIds::default().next();
    let mut request = Request::new(snapshot, id, head, raw, head.version);
    let client = ClientInfo {
        address: "192.0.2.1".parse().unwrap(),
        over_tls,
        tls: None,
        port: 443,
    };
    let tables = (&*process.table, &process.tools);
    let plan = request::plan(&mut request, tables, &client, head, raw);
    let route = request.facts.route.get().as_str();
    match plan {
        Plan::Forward(Destination::Tool(backend)) => match backend.to_string().as_str() {
            "http://169.254.169.254:80" => "failure tool tool_forbidden".to_owned(),
            "http://tool.invalid:8000" => "failure tool tool_unresolved".to_owned(),
            url => format!("forward tool {url}"),
        },
        Plan::Forward(Destination::Ingress(pool)) => format!("forward ingress {}", pool.name),
        Plan::Forward(Destination::Fallback(fallback)) => {
            format!("forward fallback {}", fallback.backend)
        }
        Plan::Answer(Own::Healthy | Own::Capabilities) => "answer own 200".to_owned(),
        Plan::Answer(Own::Redirect { status, location }) => {
            format!("answer redirect {status} {}", text_of(&location))
        }
        Plan::Fail(failure) => format!("failure {route} {}", failure.code()),
    }
}

/// An explanation in the same words.
fn explained(explanation: &Explanation) -> String {
    let Verdict { kind, route, .. } = explanation.verdict;
    let more = match (&explanation.backend, &explanation.answer) {
        (_, Some(answer)) => match (answer.failure, &answer.location) {
            (Some(failure), _) => failure.to_owned(),
            (None, Some(location)) => format!("{} {location}", answer.status),
            (None, None) => answer.status.to_string(),
        },
        (Some(backend), None) => backend.url.clone().or(backend.pool.clone()).unwrap(),
        (None, None) => "nothing".to_owned(),
    };
    format!("{kind} {route} {more}")
}

/// The rule that the last step has to name.
fn rule_of(explanation: &Explanation) -> &'static [&'static str] {
    let failure = explanation
        .answer
        .as_ref()
        .and_then(|answer| answer.failure);
    match (
        failure,
        explanation.verdict.route,
        explanation.verdict.reason,
    ) {
        (Some("malformed"), ..) => &["http"],
        (Some("bad_host"), ..) => &["host"],
        (Some("no_user_agent" | "body_too_large" | "loop"), ..) => &["refuse"],
        (Some("tool_busy"), ..) => &["in_flight"],
        (Some("bad_path"), ..) => &["path"],
        (Some("not_found" | "no_ingress"), ..) | (None, "fallback", _) => &["fallback"],
        (_, "own", _) => &["health", "capabilities"],
        (_, "redirect", None) => &["https_redirect"],
        (_, "redirect", Some("renamed")) => &["rename"],
        (_, "redirect", Some("tool_moved")) => &["moved"],
        (_, "tool", Some("static_route")) => &["static_routes"],
        (_, "tool", Some("registry")) => &["registry"],
        (_, "ingress", Some("reserved_label")) => &["reserved"],
        (_, "ingress" | "redirect", Some("apex" | "legacy_root" | "legacy_no_tool")) => &["domain"],
        (_, "ingress", Some("unregistered" | "no_pattern_matched")) => &["ingress"],
        _ => &[],
    }
}

/// The policy that a failure comes from.
fn refusing(explanation: &Explanation) -> Vec<&'static str> {
    let refuses = |policy: &&Policy| policy.outcome == Outcome::Refuses;
    let policies = explanation.policies.iter().filter(refuses);
    policies.map(|policy| policy.policy).collect()
}

fn header() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "User-Agent:",
        "Content-Length: 5",
        "Content-Length: 1025",
        "Transfer-Encoding: chunked",
        "Via: 1.1 portico",
        "Via: 1.1 other",
        "Host:",
        "Host: a@b",
        "Host: sub.toolforge.org",
        "Bad Name: x",
        "Connection: close, X-Hop",
        "X-Hop: 1",
        "Expect: 100-continue",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_verdict_is_the_plan(
        over_tls: bool,
        ingress: bool,
        fallback: bool,
        busy in 0..3_u32,
        method in prop::sample::select(vec!["GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "TRACE", "PURGE"]),
        host in prop::sample::select(vec![
            "grid.toolforge.org", "sub.toolforge.org", "moved.toolforge.org", "gone.toolforge.org", "cloud.toolforge.org",
            "none.toolforge.org", "login.toolforge.org", "ru_monuments.toolforge.org", "toolforge.org", "a.b.toolforge.org",
            "tools.wmflabs.org", "evil.example", "GRID.toolforge.org.:443", "[::1]", "a..b", "127.0.0.1:x",
        ]),
        path in prop_oneof![
            prop::sample::select(vec!["", "/", "/.well-known/healthz", "/robots.txt", "/..", "/%zz"]).prop_map(str::to_owned),
            "(/(grid|sub|moved|gone|api|x|\\.\\.|%2F|%2e%2e)){1,4}/?(\\?y)?",
        ],
        headers in prop::collection::vec(header(), 0..3),
    ) {
        let mut config = CONFIG.to_owned();
        if !ingress {
            config = config.replace("[pools.ingress]\n    nodes = [\"192.0.2.2:30000\"]", "");
        }
        if fallback {
            config.push_str("[fallback]\nbackend = \"http://192.0.2.4/404\"");
        }
        let process = process_of(&config);
        let mut held = Vec::new();
        for _ in 0..busy {
            for tool in ["grid", "sub", FALLBACK] {
                held.push(process.tools.enter(tool, 2));
            }
        }
        let counts = || ["grid", "sub", FALLBACK].map(|tool| process.tools.in_flight(tool));
        let before = (counts(), process.tools.len());
        let scheme = if over_tls { "https" } else { "http" };
        let question = question(&format!("{scheme}://{host}{path}"), method, &headers);
        let explanation = explain(&process, &question).unwrap();
        prop_assert_eq!((counts(), process.tools.len()), before, "it takes no place");

        let said = |name: &str| headers.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut raw = format!("{method} {slash}{path} HTTP/1.1\r\n");
        if !said("host:") {
            raw.push_str(&format!("Host: {host}\r\n"));
        }
        if !said("user-agent:") {
            raw.push_str("User-Agent: curl/8\r\n");
        }
        raw.push_str("Accept: */*\r\n");
        for line in headers.iter().filter(|line| !line.ends_with(':')) {
            raw.push_str(&format!("{line}\r\n"));
        }
        raw.push_str("\r\n");
        let expected = planned(&process, over_tls, raw.as_bytes());
        prop_assert_eq!(explained(&explanation), expected.clone(), "{}\n{}", raw, explanation);

        let last = explanation.steps.last().unwrap();
        prop_assert!(last.decides && rule_of(&explanation).contains(&last.rule), "{}", explanation);
        let deciding = explanation.steps.iter().filter(|step| step.decides).count();
        prop_assert_eq!(deciding, 1);
        let policy = match expected.rsplit(' ').next() {
            Some("no_user_agent") => Some("user_agent"),
            Some("body_too_large") => Some("body_size"),
            Some("loop") => Some("loop"),
            Some("tool_busy") => Some("in_flight"),
            _ => None,
        };
        if let Some(policy) = policy {
            prop_assert_eq!(refusing(&explanation).first().copied(), Some(policy), "{}", explanation);
        } else if explanation.verdict.kind == "forward" {
            prop_assert!(refusing(&explanation).is_empty(), "{}", explanation);
        }
        prop_assert_eq!(explanation.to_backend.is_some(), explanation.verdict.kind == "forward");
        prop_assert_eq!(explanation.answer.is_none(), explanation.verdict.kind == "forward");
    }
}

proptest! {
    /// Whatever is asked, there is an answer: one step decides, and nothing reaches the terminal
    /// but text.
    #[test]
    fn every_question_has_an_answer(
        url in prop_oneof![
            "https?://[a-zA-Z0-9.:\\[\\]_%@-]{0,12}(\\.toolforge\\.org)?[/?#%.a*\u{e9} \\\\-]{0,8}",
            any::<String>(),
        ],
        method in prop_oneof![Just("GET".to_owned()), "[A-Za-z !\u{7f}]{0,34}", any::<String>()],
        headers in prop::collection::vec((any::<String>(), any::<String>()), 0..3),
    ) {
        let question = Question { url, method, headers, client: None };
        let explained = explain(&process(), &question);
        prop_assert_eq!(question.check().is_ok(), explained.is_ok());
        if let Ok(explanation) = explained {
            let deciding = explanation.steps.iter().filter(|step| step.decides).count();
            prop_assert_eq!(deciding, 1);
            let text = explanation.to_string();
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", text);
            prop_assert!(serde_json::to_string(&explanation).is_ok());
        }
        let query = question.to_query();
        prop_assert!(query.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[test]
fn a_dry_run_is_told() {
    let config = format!("{CONFIG}[refuse]\ndry_run = true");
    let question = question("https://grid.toolforge.org/", "GET", &["User-Agent:"]);
    let explanation = explain(&process_of(&config), &question).unwrap();
    assert_eq!(
        explained(&explanation),
        "forward tool http://192.0.2.1:8000"
    );
    let agent = &explanation.policies[0];
    assert_eq!(
        (agent.policy, agent.outcome),
        ("user_agent", Outcome::DryRun)
    );
}

#[test]
fn what_only_a_running_portico_knows() {
    let process = process();
    let question = question("https://none.toolforge.org/", "GET", &[]);
    let of = |seen| {
        let explanation = explain_seen(&process, &question, seen).unwrap();
        let state = explanation.backend.unwrap().addresses[0].state;
        (state, explanation.policies.last().unwrap().outcome)
    };
    assert_eq!(of(Seen::Offline), (State::NotKnown, Outcome::NotKnown));
    assert_eq!(of(Seen::Running), (State::Up, Outcome::Passes));
    let pool = process
        .snapshot
        .load()
        .pools
        .get("ingress")
        .unwrap()
        .clone();
    pool.fail_checks(&pool.members().nodes[0]);
    assert_eq!(of(Seen::Running), (State::Down, Outcome::Passes));
}

/// The sentences of an explanation, one a line.
fn sentences(process: &Process, url: &str, headers: &[&str]) -> String {
    let explanation = explain(process, &question(url, "GET", headers)).unwrap();
    explanation.to_string()
}

#[track_caller]
fn check_says(process: &Process, url: &str, headers: &[&str], expected: &str) {
    let said = sentences(process, url, headers);
    // Lines are wrapped.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&said).contains(expected), "no {expected:?} in {said}");
}

#[test]
fn what_is_counted_now_is_told() {
    let process = process();
    let _one = process.tools.enter("grid", 2);
    let url = "https://grid.toolforge.org/";
    check_says(&process, url, &[], "1 requests of grid are in flight");
    let pool = process
        .snapshot
        .load()
        .pools
        .get("ingress")
        .unwrap()
        .clone();
    pool.fail_checks(&pool.members().nodes[0]);
    let url = "https://none.toolforge.org/";
    check_says(&process, url, &[], "No node is up: portico tries");
}

#[test]
fn why_not_is_told() {
    let config = CONFIG
        .replace("redirect = true", "redirect = false")
        .replace("gone =", "moved = \"http://192.0.2.1:8000\"\n    gone =");
    let process = process_of(&format!(
        "{config}[compression]\noff_for = [\"grid\"]\n[headers]\nhide = [\"X-Powered-By\"]\n\
         [fallback]\nbackend = \"http://192.0.2.9:1\""
    ));
    let (plain, grid) = ("http://grid.toolforge.org/", "https://grid.toolforge.org/");
    check_says(&process, plain, &[], "listen.redirect is off.");
    let accepts = ["Accept-Encoding: gzip"];
    check_says(&process, grid, &accepts, "grid is in compression.off_for");
    check_says(&process, grid, &[], "removed x-powered-by");
    let moved = "https://tools.wmflabs.org/moved/";
    let first = "moved moved to its own host, but a static route goes first.";
    check_says(&process, moved, &[], first);
    let _full = [0; 2].map(|_| process.tools.enter(FALLBACK, 2));
    let full = "fallback.backend has too many requests in flight";
    check_says(&process, "https://foreign.example/", &[], full);
}
