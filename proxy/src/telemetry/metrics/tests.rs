//! The exposition as a whole: what is described is there, what happens is counted, and Prometheus'
//! own checker has nothing to say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::descriptions;
use super::exposition;
use super::shard::{Connect, FAILURES, To, Words};
use super::tools::{MAX_OTHERS, MAX_TOOLS};
use crate::client::{ClientInfo, TlsSession};
use crate::http1::{BodyError, RequestError};
use crate::pools::live::{Change, Wish};
use crate::process::Process;
use crate::registry::RegistryStatus;
use crate::reloads::ReloadReport;
use crate::request_id::RequestIds;
use crate::response::compress::ALGORITHMS;
use crate::response::failure::Failure;
use crate::tcp::counts::Unserved;
use crate::telemetry::record::{Ending, Failed, Record, Route};
use portico_routing::host::HostError;
use portico_routing::path::PathError;
use portico_routing::table::Entry;

/// A process with everything that has metrics, but no certificate: those need files.
fn process() -> Arc<Process> {
    let config = r#"
        [listen]
        https = []
        redirect = false
        [domains]
        canonical = "toolforge.org"
        [routes]
        static = "http://127.0.0.1:1"
        [pools.ingress]
        nodes = ["127.0.0.1:2", "127.0.0.1:3"]
        [ingress]
        pool = "ingress"
        [[tcp]]
        name = "t"
        listen = ["127.0.0.1:5"]
        pool = "ingress"
        [registry]
        url = "redis://127.0.0.1:4"
        snapshot = "/nonexistent/routes"
    "#;
    let config = portico_config::parse("test", config).unwrap().config;
    crate::start::prepare_config(config, Vec::new())
        .unwrap()
        .process
}

fn client() -> ClientInfo {
    ClientInfo {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        over_tls: true,
        tls: None,
        port: 443,
    }
}

/// A request that a tool answered.
fn answered<'a>(client: &'a ClientInfo, tool: &'a str, status: u16) -> Record<'a> {
    Record {
        tool: Some(tool),
        route: Route::Tool,
        status,
        received: 10,
        sent: 1000,
        attempts: 1,
        duration: Duration::from_millis(30),
        first_byte: Some(Duration::from_millis(20)),
        connect: Some(Duration::from_millis(2)),
        upstream_head: Some(Duration::from_millis(15)),
        queued: None,
        ..Record::new(RequestIds::default().next(), client)
    }
}

/// Series and their values.
fn series(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect()
}

#[track_caller]
fn check(text: &str, expected: &[(&str, f64)]) {
    let series = series(text);
    for (name, value) in expected {
        assert_eq!(series.get(name), Some(value), "{name}");
    }
}

#[test]
fn what_is_described_is_exposed_and_nothing_else() {
    let process = process();
    let _worker = process.metrics.shard();
    let text = exposition(&process);
    let exposed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    // Nothing has happened yet, and there is no certificate.
    let absent = |name: &str| name == "portico_tool_requests_total" || name.contains("certificate");
    let described = descriptions::all().map(|metric| metric.name);
    let described: BTreeSet<&str> = described.filter(|name| !absent(name)).collect();
    assert_eq!(exposed, described);
}

#[test]
fn every_series_has_the_described_labels() {
    let process = process();
    let worker = process.metrics.shard();
    worker.request(&answered(&client(), "static", 200));
    for (name, _) in series(&exposition(&process)) {
        let (family, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<&str> = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|pair| Some(pair.split_once('=')?.0))
            .filter(|label| *label != "le")
            .collect();
        let suffixes = ["", "_bucket", "_sum", "_count"];
        let described = suffixes
            .iter()
            .find_map(|suffix| descriptions::find(family.strip_suffix(suffix)?));
        assert_eq!(labels, described.unwrap().labels, "{name}");
    }
}

#[test]
fn tcp_listeners_are_counted_over_all_workers() {
    let process = process();
    let workers = [process.metrics.shard(), process.metrics.shard()];
    // One that a reload has removed, with a connection, and the one of the configuration.
    let names = ["gone", "t"].map(Arc::from);
    let counts = workers.each_ref().map(|worker| {
        names.each_ref().map(|name| {
            let counts = worker.tcp.listener(name);
            counts.accepted.inc();
            counts.open.up();
            counts.received.add(5);
            counts.unserved.inc(Unserved::QueueFull);
            counts
        })
    });
    let full =
        |name| format!("portico_tcp_unserved_total{{listener=\"{name}\",reason=\"queue_full\"}}");
    check(
        &exposition(&process),
        &[
            ("portico_tcp_accepted_total{listener=\"t\"}", 2.0),
            ("portico_tcp_connections{listener=\"gone\"}", 2.0),
            ("portico_tcp_received_bytes_total{listener=\"gone\"}", 10.0),
            (&full("t"), 2.0),
        ],
    );
    drop(counts);
    // Nobody counts for them any more, which is seen when another one begins.
    let other = workers
        .each_ref()
        .map(|worker| worker.tcp.listener(&Arc::from("other")));
    let text = exposition(&process);
    assert!(!text.contains("listener=\"gone\""));
    check(
        &text,
        &[("portico_tcp_accepted_total{listener=\"t\"}", 0.0)],
    );
    drop(other);
}

#[test]
fn requests_are_counted_over_all_workers() {
    let process = process();
    let workers = [process.metrics.shard(), process.metrics.shard()];
    let client = client();
    for worker in &workers {
        worker.request_begins();
        worker.request(&answered(&client, "static", 200));
        worker.request_begins();
    }
    workers[0].request(&Record {
        reused: true,
        attempts: 3,
        dry_run: true,
        ending: Ending::BrokenOff,
        ..answered(&client, "made-up", 200)
    });
    workers[1].request(&Record {
        route: Route::Ingress,
        failure: Some((&Failure::PlatformTimeout).into()),
        upstream_head: None,
        queued: None,
        connect: None,
        ..answered(&client, "unknown", 504)
    });
    workers[1].request_begins();
    // A tunnel is no slow request.
    workers[1].request(&Record {
        duration: Duration::from_secs(5000),
        ..answered(&client, "static", 101)
    });
    workers[1].request_begins();
    workers[1].request(&Record {
        route: Route::Fallback,
        failure: Some((&Failure::NotFound).into()),
        ..answered(&client, "scanned", 404)
    });
    workers[0].request_begins();
    check(
        &exposition(&process),
        &[
            ("portico_requests_total{route=\"tool\",status=\"2xx\"}", 3.0),
            ("portico_requests_total{route=\"tool\",status=\"1xx\"}", 1.0),
            (
                "portico_requests_total{route=\"ingress\",status=\"5xx\"}",
                1.0,
            ),
            ("portico_requests_in_flight", 1.0),
            (
                "portico_request_duration_seconds_bucket{route=\"tool\",le=\"0.025\"}",
                0.0,
            ),
            (
                "portico_request_duration_seconds_bucket{route=\"tool\",le=\"0.05\"}",
                3.0,
            ),
            (
                "portico_request_duration_seconds_bucket{route=\"tool\",le=\"+Inf\"}",
                3.0,
            ),
            (
                "portico_request_first_byte_seconds_count{route=\"tool\"}",
                4.0,
            ),
            ("portico_request_body_bytes_total{route=\"tool\"}", 40.0),
            ("portico_response_body_bytes_total{route=\"tool\"}", 4000.0),
            ("portico_request_endings_total{ending=\"broken_off\"}", 1.0),
            (
                "portico_failures_total{side=\"platform\",code=\"platform_timeout\"}",
                1.0,
            ),
            (
                "portico_dry_run_refusals_total{code=\"no_user_agent\"}",
                1.0,
            ),
            ("portico_fallback_failures_total", 1.0),
            (
                "portico_tool_requests_total{tool=\"static\",status=\"2xx\"}",
                2.0,
            ),
            (
                "portico_tool_requests_total{tool=\"made-up\",status=\"2xx\"}",
                1.0,
            ),
            (
                "portico_tool_requests_total{tool=\"[other]\",status=\"5xx\"}",
                1.0,
            ),
            ("portico_tool_labels", 2.0),
            (
                "portico_upstream_requests_total{destination=\"tool\",connection=\"reused\"}",
                1.0,
            ),
            (
                "portico_upstream_requests_total{destination=\"ingress\",connection=\"none\"}",
                1.0,
            ),
            ("portico_upstream_retries_total{destination=\"tool\"}", 2.0),
            (
                "portico_upstream_head_seconds_count{destination=\"ingress\"}",
                0.0,
            ),
        ],
    );
}

/// The same for nodes, summed over two workers.
#[test]
fn every_number_of_a_node_has_its_own_metric() {
    let process = process();
    let snapshot = process.snapshot.load();
    let pool = snapshot.pools.get("ingress").unwrap();
    let node = &pool.members().nodes[1];
    let lane = node.lane(0);
    lane.sessions.add(1);
    lane.bytes_in.add(2);
    lane.bytes_out.add(3);
    lane.connect_errors.add(4);
    lane.response_errors.add(5);
    lane.retries.add(6);
    lane.redispatches.add(7);
    for (n, answers) in lane.answers.iter().enumerate() {
        answers.add(10 + n as u64);
    }
    node.standing(|standing| {
        standing.health.failed_checks = 20;
        standing.health.downs = 21;
    });
    pool.change(node, Change::Wish(Wish::Drain));
    let text = exposition(&process);
    let value = |name: &str, more: &str| {
        let series = format!("{name}{{pool=\"ingress\",node=\"127.0.0.1:3\"{more}}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series}")).to_owned()
    };
    let class = |class: &str| value("portico_node_answers_total", &format!(",class=\"{class}\""));
    let plain = |name: &str| value(&format!("portico_node_{name}"), "");
    assert_eq!(plain("sessions_total"), "1");
    assert_eq!(value("portico_node_bytes_total", ",direction=\"in\""), "2");
    assert_eq!(value("portico_node_bytes_total", ",direction=\"out\""), "3");
    assert_eq!(value("portico_node_errors_total", ",kind=\"connect\""), "4");
    assert_eq!(
        value("portico_node_errors_total", ",kind=\"response\""),
        "5"
    );
    assert_eq!(plain("retries_total"), "6");
    assert_eq!(plain("redispatches_total"), "7");
    assert_eq!((class("1xx"), class("5xx")), ("10".into(), "14".into()));
    assert_eq!(plain("checks_failed_total"), "20");
    assert_eq!(plain("downs_total"), "21");
    assert_eq!(
        (plain("up"), plain("in_rotation")),
        ("1".into(), "0".into())
    );
    assert_eq!(plain("weight"), "0");
    assert_eq!(plain("in_flight_limit"), "1000");
    assert!(text.contains("portico_node_weight{pool=\"ingress\",node=\"127.0.0.1:2\"} 100\n"));
    assert!(text.contains("portico_pool_queue_limit{pool=\"ingress\"} 256\n"));
}

/// No number is shown as another one: all differ.
#[test]
fn every_number_has_its_own_metric() {
    let mut process = process();
    let fields = Arc::get_mut(&mut process).unwrap();
    fields.registry_status = Arc::new(RegistryStatus::sample());
    fields.connections.resize(31);
    fields.backends.resize(33);
    let _clients: Vec<_> = (0..3).map(|_| process.connections.try_take()).collect();
    let _backends: Vec<_> = (0..4).map(|_| process.backends.try_take()).collect();
    let pool = process
        .snapshot
        .load()
        .pools
        .get("ingress")
        .unwrap()
        .clone();
    pool.connect_failed(&pool.members().nodes[1], &"refused");
    for _ in 0..5 {
        process.reloads.note(&Ok(ReloadReport::default()));
    }
    let shard = process.metrics.shard();
    shard.upstream_idle.set(6);
    shard.h2c_idle.set(7);
    shard.h2c_used.set(8);
    shard.accept_waits.add(9);
    shard.compression_refused.add(10);
    for (n, bytes) in shard.compression.iter().enumerate() {
        bytes.input.set(20 + n as u64);
        bytes.output.set(10 + n as u64);
    }
    let client = client();
    shard.request(&Record {
        ending: Ending::ClientGone,
        ..answered(&client, "static", 200)
    });
    shard.request(&Record {
        route: Route::Fallback,
        ..answered(&client, "static", 200)
    });
    let slow = Duration::from_secs(2);
    shard.connect(Route::Ingress, Connect::Failed, slow);
    shard.connect(Route::Ingress, Connect::Connected, Duration::ZERO);
    for (version, resumed) in [("TLSv1.2", false), ("TLSv1.3", true), ("TLSv1.3", true)] {
        let session = TlsSession {
            version,
            cipher: "",
            resumed,
        };
        shard.handshake(Some(&session), slow);
    }
    let algorithm = |n: usize, what: &str| {
        let name = ALGORITHMS[n].as_str();
        format!("portico_compression_{what}_bytes_total{{algorithm=\"{name}\"}}")
    };
    let (input, output) = (algorithm(1, "input"), algorithm(1, "output"));
    check(
        &exposition(&process),
        &[
            ("portico_registry_held_back", 101.0),
            ("portico_registry_kept", 37.0),
            ("portico_registry_bad_tools", 38.0),
            ("portico_registry_bad_keys", 102.0),
            ("portico_registry_snapshot_timestamp_seconds", 106.0),
            ("portico_registry_snapshot_write_seconds", 1.5),
            ("portico_registry_changes_total", 103.0),
            ("portico_registry_drift_total", 104.0),
            ("portico_registry_snapshot_failures_total", 2.0),
            ("portico_registry_disconnects_total", 3.0),
            ("portico_registry_connected", 1.0),
            ("portico_registry_source{source=\"redis\"}", 0.0),
            ("portico_registry_source{source=\"snapshot\"}", 1.0),
            ("portico_registry_mode{mode=\"tracking\"}", 0.0),
            ("portico_registry_mode{mode=\"keyspace\"}", 1.0),
            ("portico_registry_mode{mode=\"polling\"}", 0.0),
            ("portico_registry_table_timestamp_seconds", 105.0),
            ("portico_connection_places", 31.0),
            ("portico_connection_places_taken", 3.0),
            ("portico_upstream_places", 33.0),
            ("portico_upstream_places_taken", 4.0),
            (
                "portico_node_up{pool=\"ingress\",node=\"127.0.0.1:2\"}",
                1.0,
            ),
            (
                "portico_node_up{pool=\"ingress\",node=\"127.0.0.1:3\"}",
                0.0,
            ),
            ("portico_config_reloads_total{result=\"success\"}", 5.0),
            ("portico_config_reloads_total{result=\"failure\"}", 0.0),
            ("portico_upstream_idle_connections", 6.0),
            ("portico_upstream_h2c_connections{state=\"idle\"}", 7.0),
            ("portico_upstream_h2c_connections{state=\"used\"}", 8.0),
            ("portico_accept_waits_total", 9.0),
            ("portico_compression_refused_total", 10.0),
            (&input, 21.0),
            (&output, 11.0),
            ("portico_request_endings_total{ending=\"client_gone\"}", 1.0),
            ("portico_request_endings_total{ending=\"complete\"}", 1.0),
            // It answered.
            ("portico_fallback_failures_total", 0.0),
            (
                "portico_upstream_connects_total{destination=\"ingress\",result=\"failed\"}",
                1.0,
            ),
            (
                "portico_upstream_connect_duration_seconds_count{destination=\"ingress\"}",
                1.0,
            ),
            (
                "portico_tls_handshakes_total{version=\"TLSv1.2\",resumed=\"no\"}",
                1.0,
            ),
            (
                "portico_tls_handshakes_total{version=\"TLSv1.3\",resumed=\"yes\"}",
                2.0,
            ),
            (
                "portico_tls_handshake_duration_seconds_count{resumed=\"no\"}",
                1.0,
            ),
            (
                "portico_tls_handshake_duration_seconds_count{resumed=\"yes\"}",
                2.0,
            ),
        ],
    );
}

#[test]
fn totals_are_those_of_all_workers() {
    let process = process();
    let workers = [process.metrics.shard(), process.metrics.shard()];
    let client = client();
    for (worker, failure) in workers
        .iter()
        .zip([Failure::ToolClosed, Failure::Exhausted])
    {
        worker.request_begins();
        worker.request_begins();
        worker.request(&Record {
            failure: Some((&failure).into()),
            ..answered(&client, "static", 502)
        });
    }
    let totals = process.metrics.totals();
    assert_eq!(
        (totals.requests, totals.in_flight, totals.tunnels),
        (2, 2, 0)
    );
    let sides = totals.failures;
    let sides = [sides.client, sides.tool, sides.platform, sides.proxy];
    assert_eq!(sides, [0, 1, 0, 1]);
}

#[test]
fn reloads_are_counted() {
    let process = process();
    check(
        &exposition(&process),
        &[("portico_config_last_reload_successful", 1.0)],
    );
    process.reloads.note(&Err("no".to_owned()));
    assert_eq!(process.reloads.last_success(), None, "nothing was taken up");
    process.reloads.note(&Ok(ReloadReport::default()));
    let taken_up = process.reloads.last_success();
    assert!(taken_up.is_some());
    for _ in 0..2 {
        process.reloads.note(&Err("no".to_owned()));
    }
    assert_eq!(process.reloads.last_success(), taken_up);
    check(
        &exposition(&process),
        &[
            ("portico_config_reloads_total{result=\"success\"}", 1.0),
            ("portico_config_reloads_total{result=\"failure\"}", 3.0),
            ("portico_config_last_reload_successful", 0.0),
        ],
    );
}

/// One of each. A new kind of failure makes [`place_of`] fail to build, and belongs here too.
fn failures() -> Vec<Failure> {
    vec![
        Failure::Malformed(RequestError::BareLf),
        Failure::HeaderTimeout,
        Failure::BadHost(None::<HostError>),
        Failure::BadPath(PathError::BadEscape),
        Failure::BadBody(BodyError::BadChunkSize),
        Failure::BodyTimeout,
        Failure::BodyTooLarge,
        Failure::NoUserAgent,
        Failure::Loop,
        Failure::NotFound,
        Failure::ToolBusy,
        Failure::ToolUnreachable,
        Failure::ToolClosed,
        Failure::ToolTimeout,
        Failure::ToolMalformed,
        Failure::ToolForbidden,
        Failure::ToolUnresolved,
        Failure::PlatformUnreachable,
        Failure::PlatformClosed,
        Failure::PlatformTimeout,
        Failure::PlatformMalformed,
        Failure::PlatformBusy,
        Failure::PlatformDrained,
        Failure::NoIngress,
        Failure::Exhausted,
    ]
}

fn place_of(failure: &Failure) -> usize {
    match failure {
        Failure::Malformed(_) => 0,
        Failure::HeaderTimeout => 1,
        Failure::BadHost(_) => 2,
        Failure::BadPath(_) => 3,
        Failure::BadBody(_) => 4,
        Failure::BodyTimeout => 5,
        Failure::BodyTooLarge => 6,
        Failure::NoUserAgent => 7,
        Failure::NotFound => 8,
        Failure::NoIngress => 9,
        Failure::ToolBusy => 10,
        Failure::ToolUnreachable => 11,
        Failure::ToolClosed => 12,
        Failure::ToolTimeout => 13,
        Failure::ToolMalformed => 14,
        Failure::ToolForbidden => 15,
        Failure::ToolUnresolved => 16,
        Failure::PlatformUnreachable => 17,
        Failure::PlatformClosed => 18,
        Failure::PlatformTimeout => 19,
        Failure::PlatformMalformed => 20,
        Failure::PlatformBusy => 21,
        Failure::PlatformDrained => 22,
        Failure::Loop => 23,
        Failure::Exhausted => 24,
    }
}

#[test]
fn every_failure_has_its_counter() {
    let failures = failures();
    assert_eq!(failures.len(), FAILURES.len());
    for failure in &failures {
        let failed = Failed::from(failure);
        let (side, code) = FAILURES[place_of(failure)];
        assert_eq!((failed.side, failed.code), (side, code));
    }
}

#[test]
fn every_failure_stands_in_the_operators_manual() {
    let manual = include_str!("../../../../docs/operating.md");
    for failure in &failures() {
        let (status, side) = failure.status_and_side();
        let row = format!("| `{}` | {status}", failure.code());
        let row = manual.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{failure:?} is not in docs/operating.md"));
        assert!(row.contains(&format!(" | {side} | ")), "{row}");
    }
}

#[test]
fn labels_stand_in_the_order_of_their_counters() {
    for (place, route) in Route::ALL.into_iter().enumerate() {
        assert_eq!(route as usize, place);
    }
    for (place, ending) in Ending::ALL.into_iter().enumerate() {
        assert_eq!(ending as usize, place);
    }
    for (place, to) in To::ALL.iter().enumerate() {
        assert_eq!(to.place(), place);
    }
}

/// So many series there may be in all: tools, and all else.
const MAX_SERIES: usize = (MAX_TOOLS + 1) * 6 + 1_000;

#[test]
fn ten_thousand_random_tools_leave_the_series_under_their_bound() {
    let process = process();
    let worker = process.metrics.shard();
    let client = client();
    let before = series(&exposition(&process)).len();
    for n in 0..10_000 {
        let tool = format!("random-{n}");
        for status in [200, 404, 502, 0, 302, 101] {
            worker.request(&answered(&client, &tool, status));
        }
    }
    let text = exposition(&process);
    let others = series(&text).len() - before;
    assert!(others <= MAX_OTHERS * 6 + 6, "{others} more series");
    for n in 0..MAX_TOOLS {
        let _ = process.table.set(&format!("tool-{n}"), Entry::default());
    }
    for n in 0..MAX_TOOLS {
        let tool = format!("tool-{n}");
        for status in [200, 404, 502, 0, 302, 101] {
            worker.request(&answered(&client, &tool, status));
        }
    }
    let all = series(&exposition(&process)).len();
    assert!(all > MAX_TOOLS * 6 && all <= MAX_SERIES, "{all} series");
}

#[test]
fn promtool_has_nothing_to_say() {
    let process = process();
    let worker = process.metrics.shard();
    worker.request(&answered(&client(), "static", 200));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool does not start ({error}); scripts/test installs it")
        });
    let text = exposition(&process);
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Figures, not a test: `cargo test --release -p portico --lib -- --ignored --nocapture
/// what_counting_costs`. Time of the CPU, the least of some rounds, so that other programs matter
/// little.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stderr, reason = "says what it measured")]
fn what_counting_costs() {
    let process = process();
    let worker = process.metrics.shard();
    let client = client();
    let names = |prefix: &str| -> Vec<String> {
        let names = (0..10_000).map(|n| format!("{prefix}-{n}"));
        names.collect()
    };
    let (tools, unknown) = (names("tool"), names("random"));
    for tool in &tools {
        let _ = process.table.set(tool, Entry::default());
    }
    for (what, tools, status) in [
        ("one tool", &tools[..1], 200),
        ("100 tools", &tools[..100], 200),
        ("2,000 tools in turn", &tools[..2000], 200),
        ("10,000 tools in turn", &tools[..], 200),
        ("10,000 unknown tools in turn", &unknown[..], 404),
    ] {
        let mut record = answered(&client, "", status);
        let requests = 1_000_000;
        let each = least(5, || {
            for tool in tools.iter().cycle().take(requests) {
                record.tool = Some(tool);
                worker.request_begins();
                worker.request(std::hint::black_box(&record));
            }
        }) / u32::try_from(requests).unwrap();
        let mut bytes = 0;
        let scrape = least(20, || bytes = exposition(&process).len());
        eprintln!("{what}: {each:?} a request; a scrape {scrape:?}, {bytes} bytes");
    }
}

fn least(rounds: usize, mut work: impl FnMut()) -> Duration {
    // The first number is the thread's time on a CPU, in nanoseconds, in steps of 4 ms.
    let now = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanos = text.split(' ').next().unwrap().parse().unwrap();
        Duration::from_nanos(nanos)
    };
    let took = (0..rounds).map(|_| {
        let begin = now();
        work();
        now() - begin
    });
    took.min().unwrap_or_default()
}
