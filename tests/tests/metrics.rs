//! Metrics, as a real Prometheus server sees them: everything that is documented exists, what
//! happens is counted, and no client can make the series many.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use portico_tests::client::{Client, get, post};
use portico_tests::http2::{Frame, Head};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, Running};
use portico_tests::redis::Redis;
use portico_tests::websocket;
use portico_tests::{SOON, eventually, free_address};
use tempfile::TempDir;

/// A Prometheus server that scrapes one portico, often.
struct Prometheus {
    address: SocketAddr,
    _process: Running,
    _folder: TempDir,
}

impl Prometheus {
    #[track_caller]
    fn of(admin: SocketAddr) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs:\n\
             - job_name: portico\n  static_configs: [{{targets: [\"{admin}\"]}}]\n"
        );
        std::fs::write(&config, text).expect("configuration written");
        let address = free_address();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("prometheus does not start ({error}); scripts/test installs it")
            });
        let prometheus = Self {
            address,
            _process: Running(process),
            _folder: folder,
        };
        eventually("prometheus has scraped portico", SOON, || {
            let mut client = Client::try_tcp(address).ok()?;
            client.send(get("prometheus", "/-/ready"));
            let ready = client.try_response(false).ok()??;
            (ready.status == 200 && prometheus.value("up") == Some(1.0)).then_some(())
        });
        prometheus
    }

    /// What `/api/v1/<path>` says.
    #[track_caller]
    fn ask(&self, path: &str) -> serde_json::Value {
        let mut client = Client::tcp(self.address);
        let answer = client.exchange(get("prometheus", &format!("/api/v1/{path}")));
        let said: serde_json::Value =
            serde_json::from_str(&answer.text()).expect("Prometheus speaks JSON");
        assert_eq!(said["status"], "success", "{path}: {said}");
        said["data"].clone()
    }

    /// The sum of what a query gives; `None`: nothing.
    #[track_caller]
    fn value(&self, query: &str) -> Option<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let said = self.ask(&format!("query?query={escaped}"));
        let found = said["result"].as_array().expect("a vector");
        let values = found.iter().map(|one| {
            let text = one["value"][1].as_str().expect("a value");
            text.parse::<f64>().expect("a number")
        });
        (!found.is_empty()).then(|| values.sum())
    }

    /// Waits until a query gives such a value.
    #[track_caller]
    fn wait(&self, query: &str, good: impl Fn(f64) -> bool) -> f64 {
        let last = std::cell::Cell::new(None);
        let what = || format!("{query}, which was {:?}", last.get());
        let start = std::time::Instant::now();
        loop {
            last.set(self.value(query));
            if let Some(value) = last.get().filter(|value| good(*value)) {
                return value;
            }
            assert!(start.elapsed() < SOON, "not in time: {}", what());
            thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// The names of all metrics.
    fn names(&self) -> BTreeSet<String> {
        let names = self.ask("label/__name__/values");
        let names = names.as_array().expect("a list").iter();
        names
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect()
    }
}

/// Names and types of the metrics in docs/metrics.md.
fn documented() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        Some((name.to_owned(), cells.next()?.to_owned()))
    });
    rows.collect()
}

/// A site with everything that has metrics.
struct Site {
    portico: Portico,
    admin: SocketAddr,
    redis: Redis,
    _origins: Vec<Origin>,
}

/// Another address of this machine, from which the PROXY protocol is expected.
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Where nobody listens.
const BROKEN: &str = "broken.toolforge.org";

fn site() -> Site {
    let redis = Redis::start();
    let echo = Origin::echo("grid");
    let ingress = Origin::echo("ingress");
    let chat = Origin::scripted("chat", websocket::echo);
    let half = Origin::scripted("half", |connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
        }
    });
    redis.route("registered", ".*", &echo.url());
    redis.route("registered", "(", &echo.url());
    redis.route("half", ".*", &half.url());
    let admin = free_address();

    let builder = Builder::new();
    let log = builder.folder().join("access.log");
    let portico = builder
        .with(&format!("[log]\naccess = {log:?}"))
        .with(&format!(
            "[listen]\nadmin = '{admin}'\nproxy_protocol_from = ['{BALANCER}/32']"
        ))
        .registry(&redis)
        .route("grid", &echo.url())
        .route("chat", &chat.url())
        .route("broken", &format!("http://{}", free_address()))
        .ingress(&[ingress.address(), free_address()])
        .with(&format!(
            "[fallback]\nbackend = 'http://{}'",
            free_address()
        ))
        .with(&format!(
            "[[tcp]]\nname = 'passed-on'\nlisten = ['{}']\npool = 'ingress'",
            free_address()
        ))
        .start();

    Site {
        portico,
        admin,
        redis,
        _origins: vec![echo, ingress, chat, half],
    }
}

/// Some of everything that is counted.
fn load(site: &mut Site) {
    let portico = &mut site.portico;
    for mut client in [portico.tcp(), portico.tls(), portico.tls()] {
        for _ in 0..20 {
            assert_eq!(client.exchange(get(HOST, "/")).status, 200);
        }
        client.exchange(get("registered.toolforge.org", "/"));
        client.exchange(get("anything.toolforge.org", "/"));
        client.exchange(get("foreign.example", "/"));
        client.exchange(get("grid.toolforge.org", "/.well-known/healthz"));
        client.exchange(post(HOST, "/", "a body"));
        assert_eq!(client.exchange(get(BROKEN, "/")).status, 502);
    }
    let encoded = "GET /json HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\nAccept-Encoding: gzip\r\n\r\n";
    let answer = portico.tls().exchange(encoded);
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    // The answer breaks off; what the client gets of it is not the matter here.
    let mut client = portico.tls();
    client.send(get("half.toolforge.org", "/"));
    let _ = client.try_response(false);
    portico
        .tcp()
        .exchange("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(portico.http2().exchange(&Head::get(HOST, "/")).status, 200);
    let mut flood = portico.http2();
    flood.flood(&Frame::ping([0; 8]).bytes(), 2_000);
    // Plain HTTP where TLS is spoken.
    let mut plain = Client::tcp(portico.https);
    plain.send(get(HOST, "/"));
    let _ = plain.try_response(false);
    let mut balancer = Client::tcp_from(BALANCER, portico.http);
    balancer.send(get(HOST, "/"));
    balancer.expect_closed();
    portico.change("[limits]\nuri = '4KiB'");
    assert!(portico.reload());
    portico.change("[limits]\nuri = 'much'");
    assert!(!portico.reload());
    site.redis.route("later", ".*", "http://127.0.0.1:9");
}

/// What [`load`] has moved, and how far at the least.
const MOVED: &[(&str, f64)] = &[
    ("portico_build_info", 1.0),
    ("portico_requests_total{route='tool',status='2xx'}", 60.0),
    ("portico_requests_total{route='tool',status='5xx'}", 3.0),
    ("portico_requests_total{route='ingress',status='2xx'}", 3.0),
    ("portico_requests_total{route='fallback',status='4xx'}", 3.0),
    ("portico_requests_total{route='own',status='2xx'}", 3.0),
    ("portico_requests_total{route='none',status='4xx'}", 1.0),
    ("portico_request_duration_seconds_count{route='tool'}", 60.0),
    ("portico_request_duration_seconds_sum{route='tool'}", 1e-6),
    (
        "portico_request_duration_seconds_bucket{route='tool',le='3600'}",
        60.0,
    ),
    (
        "portico_request_first_byte_seconds_count{route='tool'}",
        60.0,
    ),
    ("portico_request_body_bytes_total{route='tool'}", 18.0),
    ("portico_response_body_bytes_total{route='tool'}", 6000.0),
    ("portico_request_endings_total{ending='complete'}", 60.0),
    ("portico_request_endings_total{ending='broken_off'}", 1.0),
    (
        "portico_failures_total{side='tool',code='tool_unreachable'}",
        3.0,
    ),
    (
        "portico_failures_total{side='client',code='malformed'}",
        1.0,
    ),
    (
        "portico_compression_input_bytes_total{algorithm='gzip'}",
        5000.0,
    ),
    (
        "portico_compression_output_bytes_total{algorithm='gzip'}",
        20.0,
    ),
    (
        "portico_tool_requests_total{tool='grid',status='2xx'}",
        60.0,
    ),
    (
        "portico_tool_requests_total{tool='registered',status='2xx'}",
        3.0,
    ),
    (
        "portico_tool_requests_total{tool='anything',status='2xx'}",
        3.0,
    ),
    (
        "portico_tool_requests_total{tool='broken',status='5xx'}",
        3.0,
    ),
    ("portico_tool_labels", 4.0),
    ("portico_connections_accepted_total{tls='no'}", 3.0),
    ("portico_connections_accepted_total{tls='yes'}", 3.0),
    (
        "portico_connections_opened_total{protocol='http1',tls='yes'}",
        3.0,
    ),
    (
        "portico_connections_opened_total{protocol='http1',tls='no'}",
        2.0,
    ),
    (
        "portico_connections_opened_total{protocol='http2',tls='yes'}",
        2.0,
    ),
    ("portico_connection_places", 10.0),
    (
        "portico_proxy_protocol_refusals_total{reason='malformed'}",
        1.0,
    ),
    ("portico_http2_refusals_total{kind='pings'}", 1.0),
    (
        "portico_tls_handshakes_total{version='TLSv1.3',resumed='no'}",
        1.0,
    ),
    (
        "portico_tls_handshakes_total{version='TLSv1.3',resumed='yes'}",
        1.0,
    ),
    (
        "portico_tls_handshake_duration_seconds_count{resumed='no'}",
        1.0,
    ),
    (
        "portico_tls_handshake_failures_total{reason='not_tls'}",
        1.0,
    ),
    (
        "portico_certificate_not_after_timestamp_seconds - time()",
        3600.0,
    ),
    (
        "portico_upstream_connects_total{destination='tool',result='connected'}",
        2.0,
    ),
    (
        "portico_upstream_connects_total{destination='tool',result='failed'}",
        3.0,
    ),
    (
        "portico_upstream_connect_duration_seconds_count{destination='ingress'}",
        1.0,
    ),
    (
        "portico_upstream_requests_total{destination='tool',connection='new'}",
        1.0,
    ),
    (
        "portico_upstream_requests_total{destination='tool',connection='reused'}",
        40.0,
    ),
    (
        "portico_upstream_requests_total{destination='fallback',connection='none'}",
        3.0,
    ),
    (
        "portico_upstream_head_seconds_count{destination='tool'}",
        60.0,
    ),
    ("portico_upstream_idle_connections", 1.0),
    ("portico_upstream_places", 10.0),
    ("portico_upstream_places_taken", 1.0),
    ("portico_fallback_failures_total", 3.0),
    ("portico_node_up", 1.0),
    ("count(portico_node_up == 0)", 1.0),
    ("portico_registry_connected", 1.0),
    ("portico_access_log_lines_total", 60.0),
    (
        "portico_access_log_bytes_total / portico_access_log_lines_total",
        100.0,
    ),
    ("portico_registry_source{source='redis'}", 1.0),
    ("portico_registry_mode{mode='tracking'}", 1.0),
    ("portico_registry_tools", 3.0),
    ("portico_registry_bad_routes", 1.0),
    ("portico_registry_bad_tools", 1.0),
    ("portico_registry_snapshot_timestamp_seconds", 1e9),
    ("portico_registry_snapshot_write_seconds", 1e-6),
    ("portico_registry_changes_total", 3.0),
    ("portico_config_reloads_total{result='success'}", 1.0),
    ("portico_config_reloads_total{result='failure'}", 1.0),
    ("portico_event_loop_lag_seconds_count{worker='0'}", 10.0),
    ("portico_event_loop_lag_seconds_count{worker='1'}", 10.0),
    ("process_cpu_seconds_total", 0.01),
    ("process_open_fds", 10.0),
    ("process_max_fds", 100.0),
    ("process_resident_memory_bytes", 1e6),
    ("process_threads", 3.0),
];

#[test]
fn what_is_documented_exists_and_moves() {
    let mut site = site();
    let prometheus = Prometheus::of(site.admin);
    load(&mut site);
    for (query, least) in MOVED {
        prometheus.wait(query, |value| value >= *least);
    }
    prometheus.wait("portico_config_last_reload_successful", |value| {
        value == 0.0
    });
    let age = "time() - portico_registry_table_timestamp_seconds";
    prometheus.wait(age, |age| (-1.0..60.0).contains(&age));

    let since = "time() - portico_config_last_reload_success_timestamp_seconds";
    prometheus.wait(since, |age| (-1.0..60.0).contains(&age));

    // What goes up and down again.
    prometheus.wait("portico_requests_in_flight", |value| value == 0.0);
    let mut chat = site.portico.tls();
    websocket::upgrade(&mut chat, "chat.toolforge.org", "/");
    prometheus.wait("portico_tunnels", |value| value == 1.0);
    prometheus.wait("portico_requests_in_flight", |value| value == 1.0);
    prometheus.wait("portico_connections{protocol='http1',tls='yes'}", |value| {
        value >= 1.0
    });
    let taken = "portico_connection_places_taken";
    prometheus.wait(taken, |value| value >= 1.0);
    drop(chat);
    prometheus.wait("portico_tunnels", |value| value == 0.0);
    prometheus.wait("portico_requests_in_flight", |value| value == 0.0);
    prometheus.wait("portico_requests_total{route='tool',status='1xx'}", |n| {
        n == 1.0
    });
    prometheus.wait("sum(portico_connections)", |value| value == 0.0);
    prometheus.wait(taken, |value| value == 0.0);
    site.redis.kill();
    prometheus.wait("portico_registry_connected", |value| value == 0.0);
    prometheus.wait("portico_registry_disconnects_total", |value| value == 1.0);

    let names = prometheus.names();
    let documented = documented();
    assert!(documented.len() > 50, "{documented:?}");
    for (name, kind) in &documented {
        let series: &[&str] = match kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in series {
            let series = format!("{name}{suffix}");
            assert!(names.contains(&series), "{series} is documented only");
        }
    }
    let known = |name: &str| {
        let plain = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        documented.iter().any(|(of, _)| of == name || of == plain)
    };
    let of_portico = |name: &&String| name.starts_with("portico_") || name.starts_with("process_");
    let unknown: Vec<_> = names
        .iter()
        .filter(of_portico)
        .filter(|name| !known(name))
        .collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
}

/// Why connections came to nothing, and what goes down again.
#[test]
fn failures_have_their_reasons_and_gauges_go_down() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = Origin::scripted("plain", |connection| {
        let _ = connection.wire.read_some();
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let echo = Origin::echo("grid");
    let portico = Builder::new()
        .with(&format!(
            "[listen]\nproxy_protocol_from = ['{BALANCER}/32']\n\
             [timeouts]\nhandshake = '500ms'\nconnect = '2s'\nupstream_idle = '3s'"
        ))
        .route("grid", &echo.url())
        .route("no-tls", &plain.url().replace("http:", "https:"))
        .route(
            "silent",
            &format!("https://{}", silent.local_addr().unwrap()),
        )
        .start();
    let wait = |series: &str, expected: f64| {
        let last = std::cell::Cell::new(None);
        eventually(series, SOON, || {
            last.set(portico.metric(series));
            (last.get() == Some(expected)).then_some(())
        });
    };
    // Handshakes.
    let mut slow = Client::tcp(portico.https);
    let mut gone = Client::tcp(portico.https);
    gone.send(b"\x16\x03\x01");
    drop(gone);
    let handshakes =
        |why: &str| format!("portico_tls_handshake_failures_total{{reason=\"{why}\"}}");
    // The harness has looked whether somebody listens, too.
    eventually("one that is gone", SOON, || {
        (portico.metric(&handshakes("gone")) >= Some(1.0)).then_some(())
    });
    wait(&handshakes("timeout"), 1.0);
    wait(&handshakes("protocol"), 0.0);
    slow.expect_closed();
    // Load balancers.
    let mut slow = Client::tcp_from(BALANCER, portico.http);
    let mut gone = Client::tcp_from(BALANCER, portico.http);
    gone.send("PROXY");
    drop(gone);
    let balancers =
        |why: &str| format!("portico_proxy_protocol_refusals_total{{reason=\"{why}\"}}");
    wait(&balancers("gone"), 1.0);
    wait(&balancers("timeout"), 1.0);
    wait(&balancers("malformed"), 0.0);
    slow.expect_closed();
    // Backends.
    let mut client = portico.tcp();
    let mut ask = |host: &str| client.exchange(get(host, "/")).status;
    assert_eq!(ask("no-tls.toolforge.org"), 502);
    assert_eq!(ask("silent.toolforge.org"), 504);
    let connects = |what: &str| {
        format!("portico_upstream_connects_total{{destination=\"tool\",result=\"{what}\"}}")
    };
    wait(&connects("tls"), 1.0);
    wait(&connects("timeout"), 1.0);
    wait(&connects("failed"), 0.0);
    // A head that is none begins and ends, and takes nobody else's place.
    let mut waits = portico.tcp();
    waits.send(get(HOST, "/sleep/5000"));
    eventually("it is under way", SOON, || {
        (echo.heads() == 1).then_some(())
    });
    Client::tcp(portico.http).exchange("BROKEN\r\n\r\n");
    wait("portico_requests_in_flight", 1.0);
    assert_eq!(waits.response().status, 200);
    wait("portico_requests_in_flight", 0.0);
    wait("portico_upstream_idle_connections", 1.0);
    wait("portico_upstream_idle_connections", 0.0);
}

#[test]
fn promtool_has_nothing_to_say_about_a_loaded_portico() {
    let mut site = site();
    load(&mut site);
    let answer = Client::tcp(site.admin).exchange(get(&site.admin.to_string(), "/metrics"));
    assert_eq!(answer.status, 200);
    let kind = answer.field("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    assert!(answer.text().contains("portico_build_info"));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts; scripts/test installs it");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin
        .write_all(answer.text().as_bytes())
        .expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Names that clients make up, of tools and of hosts.
const MADE_UP: usize = 10_000;
/// Tools that are not registered and have a label all the same: see docs/metrics.md.
const OTHERS: f64 = 2_000.0;

#[test]
fn made_up_names_leave_the_series_under_their_bound() {
    let site = site();
    let prometheus = Prometheus::of(site.admin);
    let count = "count({__name__=~\"portico_.+\"})";
    let before = prometheus.wait(count, |value| value > 100.0);
    let portico = &site.portico;
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut client = portico.tcp();
                for n in (thread..MADE_UP).step_by(4) {
                    let answer = client.exchange(get(&format!("t{n}-x.toolforge.org"), "/"));
                    assert_eq!(answer.status, 200, "the ingress knows every tool");
                    let answer = client.exchange(get(&format!("h{n}.example"), "/"));
                    assert_eq!(answer.status, 404);
                }
            });
        }
    });
    let tools = "sum(portico_tool_requests_total)";
    prometheus.wait(tools, |value| value >= MADE_UP as f64);
    let labels = prometheus.wait("portico_tool_labels", |value| value > 0.0);
    assert_eq!(labels, OTHERS);
    let other = "portico_tool_requests_total{tool='[other]',status='2xx'}";
    let other = prometheus.wait(other, |value| value > 0.0);
    assert_eq!(other, MADE_UP as f64 - OTHERS);
    let after = prometheus.wait(count, |value| value > before);
    assert!(
        after <= before + OTHERS + 20.0,
        "{before} series before, {after} after"
    );
}
