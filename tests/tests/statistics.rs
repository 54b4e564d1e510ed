//! Statistics: what pages, metrics and HAProxy's CSV say agrees with what clients did, and with each
//! other.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use portico_tests::client::{Client, Response, get, post};
use portico_tests::gate::Gate;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, program};
use portico_tests::tcp_node::{Checks, Node, prepare};
use portico_tests::{SOON, eventually, free_address};
use serde_json::Value;

fn json(answer: &Response) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn builder(nodes: &[SocketAddr]) -> Builder {
    Builder::new().ingress(nodes).with(
        "[server]\nworkers = 2\n[pools.ingress.check]\ninterval = '100ms'\ndown_interval = '100ms'",
    )
}

/// As programs read HAProxy's CSV: the first line begins with `# `, columns go by name.
const READER: &str = r##"
import csv, json, sys
text = sys.stdin.read()
assert text.startswith("# "), text[:20]
rows = list(csv.DictReader(text[2:].splitlines()))
for row in rows:
    # The last column is the one behind the last comma.
    assert row.pop("") == "", row
    assert None not in row, row
json.dump(rows, sys.stdout)
"##;

type Row = HashMap<String, String>;

/// The rows of `/status.csv`, read by Python.
#[track_caller]
fn csv(portico: &Portico) -> Vec<Row> {
    let answer = portico.admin_get("/status.csv");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.field("content-type"),
        Some("text/csv; charset=utf-8")
    );
    let mut python = Command::new("python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut input = python.stdin.take().expect("a pipe");
    input.write_all(answer.text().as_bytes()).expect("it reads");
    drop(input);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", answer.text());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[track_caller]
fn row<'a>(rows: &'a [Row], proxy: &str, server: &str) -> &'a Row {
    rows.iter()
        .find(|row| row["pxname"] == proxy && row["svname"] == server)
        .unwrap_or_else(|| panic!("no {proxy} {server} in {rows:#?}"))
}

#[track_caller]
fn check_row(row: &Row, expected: &[(&str, &str)]) {
    for (column, value) in expected {
        assert_eq!(row[*column], *value, "{column} in {row:#?}");
    }
}

#[test]
fn numbers_agree_with_what_clients_did() {
    let origin = Origin::echo("ingress");
    let address = origin.address();
    let portico = builder(&[address]).start();
    // Over both listeners, and so over more than one connection.
    for client in [&mut portico.tcp(), &mut portico.tls()] {
        for target in [
            "/",
            "/status/204",
            "/status/404",
            "/status/500",
            "/redir?to=/",
        ] {
            client.exchange(get(HOST, target));
        }
    }
    let body = "x".repeat(1000);
    let client = &mut portico.tcp();
    assert_eq!(
        client.exchange(post(HOST, "/status/200", &body)).status,
        200
    );
    assert_eq!(client.exchange(get(HOST, "/bytes/5000")).status, 200);
    assert_eq!(origin.take().len(), 12);
    // A request is told when it has ended, which is after its place was given back and its bytes were
    // counted for the node.
    let rows = eventually("all is counted", SOON, || {
        let rows = csv(&portico);
        let asked = ["http", "https"].map(|name| &*row(&rows, name, "FRONTEND")["req_tot"]);
        (asked == ["7", "5"]).then_some(rows)
    });
    let found = portico.node(address);
    assert_eq!(
        (&found["in_flight"], &found["sessions"]),
        (&0.into(), &12.into())
    );
    let expected: Value = serde_json::json!({ "1xx": 0, "2xx": 6, "3xx": 2, "4xx": 2, "5xx": 2 });
    assert_eq!(found["answers"], expected);
    assert_eq!(found["bytes_in"], 1000);
    let out = found["bytes_out"].as_u64().unwrap();
    assert!((5000..15_000).contains(&out), "{out}");
    assert_eq!(found["connect_errors"], 0);
    assert_eq!(found["response_errors"], 0);
    assert!(found["most_in_flight"].as_u64() >= Some(1));

    // The same in metrics.
    let labels = format!("pool=\"ingress\",node=\"{address}\"");
    let metric =
        |name: &str, more: &str| portico.metric(&format!("portico_node_{name}{{{labels}{more}}}"));
    assert_eq!(metric("sessions_total", ""), Some(12.0));
    assert_eq!(metric("answers_total", ",class=\"2xx\""), Some(6.0));
    assert_eq!(metric("answers_total", ",class=\"5xx\""), Some(2.0));
    assert_eq!(metric("bytes_total", ",direction=\"in\""), Some(1000.0));
    assert_eq!(
        metric("bytes_total", ",direction=\"out\""),
        Some(out as f64)
    );
    assert_eq!(metric("in_flight", ""), Some(0.0));

    // And in HAProxy's columns.
    let out = out.to_string();
    let counts = [
        ("stot", "12"),
        ("scur", "0"),
        ("bin", "1000"),
        ("bout", &out),
        ("hrsp_1xx", "0"),
        ("hrsp_2xx", "6"),
        ("hrsp_3xx", "2"),
        ("hrsp_4xx", "2"),
        ("hrsp_5xx", "2"),
        ("econ", "0"),
        ("status", "UP"),
        ("mode", "http"),
    ];
    let server = row(&rows, "ingress", &address.to_string());
    check_row(server, &counts);
    check_row(
        server,
        &[("type", "2"), ("slim", "1000"), ("weight", "100")],
    );
    let backend = row(&rows, "ingress", "BACKEND");
    check_row(backend, &counts);
    check_row(
        backend,
        &[
            ("type", "1"),
            ("act", "1"),
            ("qcur", "0"),
            ("qlimit", "256"),
        ],
    );
    let (http, https) = (
        row(&rows, "http", "FRONTEND"),
        row(&rows, "https", "FRONTEND"),
    );
    let of_each = [
        ("hrsp_3xx", "1"),
        ("hrsp_4xx", "1"),
        ("hrsp_5xx", "1"),
        ("status", "OPEN"),
    ];
    for frontend in [http, https] {
        check_row(frontend, &of_each);
        check_row(frontend, &[("type", "0"), ("mode", "http")]);
    }
    check_row(
        http,
        &[("req_tot", "7"), ("hrsp_2xx", "4"), ("bin", "1000")],
    );
    check_row(https, &[("req_tot", "5"), ("hrsp_2xx", "2"), ("bin", "0")]);
    let sent = |row: &Row| row["bout"].parse::<u64>().expect("a number");
    assert_eq!((sent(http) + sent(https)).to_string(), out);
}

#[test]
fn answers_that_fail_and_repeats_are_counted() {
    let origin = Origin::scripted("fails", |connection| {
        let mut first = true;
        while let Some(request) = connection.read_request() {
            match &*request.target {
                "/die" if !first => return,
                "/junk" => {
                    connection.send("this is no HTTP\r\n\r\n");
                    return;
                }
                "/half" => {
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                _ => connection.send_text("ok"),
            };
            first = false;
        }
    });
    let address = origin.address();
    let portico = Builder::new()
        .ingress(&[address])
        .with("[server]\nworkers = 1\n[pools.ingress.check]\ninterval = '1h'")
        .start();
    let check = |retries: u64, errors: u64| {
        let counted = || {
            let found = portico.node(address);
            let same = found["retries"] == retries && found["response_errors"] == errors;
            same.then_some(())
        };
        eventually(
            &format!("{retries} retries, {errors} errors"),
            SOON,
            counted,
        );
    };
    let mut client = portico.tcp();
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    assert_eq!(client.exchange(get(HOST, "/die")).status, 200);
    check(1, 0);
    assert_eq!(client.exchange(get(HOST, "/junk")).status, 502);
    check(1, 1);
    client.send(get(HOST, "/half"));
    assert!(client.try_response(false).is_err());
    check(1, 2);
    let rows = csv(&portico);
    for server in [&*address.to_string(), "BACKEND"] {
        let counts = [
            ("wretr", "1"),
            ("eresp", "2"),
            ("econ", "0"),
            ("wredis", "0"),
        ];
        check_row(row(&rows, "ingress", server), &counts);
    }
}

#[test]
fn failures_are_counted_where_they_belong() {
    let (alive, dead) = (Origin::echo("ingress"), free_address());
    // No check takes the dead one out: requests do.
    let portico = Builder::new()
        .ingress(&[dead, alive.address()])
        .with(
            "[server]\nworkers = 1\n\
             [pools.ingress.check]\ninterval = '1h'\ndown_interval = '1h'\ntimeout = '1s'",
        )
        .start();
    let mut client = portico.tcp();
    for _ in 0..6 {
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    }
    let found = portico.node(dead);
    assert_eq!(found["state"], "DOWN");
    assert!(found["connect_errors"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["connect_errors"], found["redispatches"], "{found}");
    assert_eq!(found["answers"]["2xx"], 0);
    assert_eq!(found["checks"]["downs"], 1);
    assert_eq!(portico.node(alive.address())["answers"]["2xx"], 6);
    let rows = csv(&portico);
    let server = row(&rows, "ingress", &dead.to_string());
    let errors = found["connect_errors"].to_string();
    check_row(
        server,
        &[
            ("econ", &errors),
            ("wredis", &errors),
            ("status", "DOWN"),
            ("chkdown", "1"),
        ],
    );
    check_row(
        row(&rows, "ingress", "BACKEND"),
        &[("econ", &errors), ("act", "1")],
    );
    let series =
        format!("portico_node_errors_total{{pool=\"ingress\",node=\"{dead}\",kind=\"connect\"}}");
    assert_eq!(portico.metric(&series).map(|n| n.to_string()), Some(errors));
}

#[test]
fn a_body_that_a_node_took_before_it_broke_is_counted() {
    let breaks = Origin::scripted("breaks", |exchange| {
        exchange.read_request();
    });
    let address = breaks.address();
    let portico = builder(&[address]).start();
    let body = "x".repeat(1000);
    let answer = portico.tcp().exchange(post(HOST, "/", &body));
    assert_eq!(answer.status, 502);
    let found = portico.node(address);
    assert_eq!(found["response_errors"], 1, "{found}");
    assert_eq!(found["bytes_in"], 1000, "{found}");
}

#[test]
fn checks_are_told() {
    let origin = Origin::scripted("ingress", |connection| {
        while let Some(request) = connection.read_request() {
            let (status, text) = match request.target.as_str() {
                "/healthz" => (418, "no, thanks"),
                _ => (200, "ok"),
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            connection.send(head + text);
        }
    });
    let dead = free_address();
    let portico = builder(&[origin.address(), dead])
        .with("[pools.ingress.check]\nkind = 'http'\npath = '/healthz'")
        .start();
    let found = eventually("both are down", SOON, || {
        let nodes = [origin.address(), dead].map(|address| portico.node(address));
        nodes
            .iter()
            .all(|node| node["up"] == false)
            .then_some(nodes)
    });
    assert_eq!(found[0]["checks"]["last"]["code"], "L7STS");
    assert_eq!(found[0]["checks"]["last"]["status"], 418);
    assert!(
        found[0]["checks"]["failed"].as_u64() >= Some(2),
        "{found:?}"
    );
    assert_eq!(found[1]["checks"]["last"]["code"], "L4CON");
    let rows = csv(&portico);
    let first = row(&rows, "ingress", &origin.address().to_string());
    check_row(
        first,
        &[
            ("check_status", "L7STS"),
            ("check_code", "418"),
            ("check_desc", "Layer7 wrong status"),
            ("status", "DOWN"),
            ("check_rise", "2"),
            ("check_fall", "2"),
        ],
    );
    assert!(first["check_duration"].parse::<u64>().is_ok(), "{first:?}");
    assert!(first["lastchg"].parse::<u64>().is_ok(), "{first:?}");
    check_row(
        row(&rows, "ingress", &dead.to_string()),
        &[("check_status", "L4CON"), ("check_code", "")],
    );
    check_row(
        row(&rows, "ingress", "BACKEND"),
        &[("status", "DOWN"), ("act", "0")],
    );
    let text = portico.admin_get("/status?format=text").text();
    for part in ["NO NODE THAT IS IN ROTATION IS UP", "418", "DOWN for"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // The same report everywhere.
    let status = json(&portico.admin_get("/status"));
    assert_eq!(status["pools"][0]["nodes"][0]["state"], "DOWN");
    assert_eq!(status["pools"][0]["ingress_percent"], 100);
}

#[test]
fn states_have_haproxys_words() {
    let nodes = [1, 2, 3].map(|n| Origin::echo(&format!("node-{n}")));
    let addresses = nodes.each_ref().map(Origin::address);
    let portico = builder(&addresses).start();
    for (what, node) in [("drain", addresses[1]), ("maintenance", addresses[2])] {
        let host = portico.admin;
        let request =
            format!("POST /pools/{what}?pool=ingress&node={node} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Client::tcp(host).exchange(request).status, 200);
    }
    let rows = csv(&portico);
    let status = |server: &str| row(&rows, "ingress", server)["status"].clone();
    let found = addresses.map(|address| status(&address.to_string()));
    assert_eq!(found, ["UP", "DRAIN", "MAINT"]);
    assert_eq!(status("BACKEND"), "UP");
    // Nothing is told of a listener that there is not.
    assert_eq!(
        rows.iter()
            .filter(|row| row["svname"] == "FRONTEND")
            .count(),
        2
    );
    assert_eq!(rows.len(), 2 + 3 + 1);
    let answer = portico.admin_get("/status.csv?format=json");
    assert_eq!(answer.status, 400);
}

#[test]
fn who_waits_is_told() {
    let gate = Gate::shut();
    let portico = builder(&[gate.address()])
        .with("[pools.ingress]\nmax_connections = 1\nmax_queue = 7")
        .start();
    let mut clients: Vec<Client> = (0..3).map(|_| portico.tcp()).collect();
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    gate.wait_for(1);
    let metric = |name: &str| portico.metric(&format!("portico_pool_{name}{{pool=\"ingress\"}}"));
    eventually("two wait", SOON, || {
        (metric("waiting") == Some(2.0)).then_some(())
    });
    assert_eq!(metric("queue_limit"), Some(7.0));
    let rows = csv(&portico);
    let waiting = [
        ("qcur", "2"),
        ("qmax", "2"),
        ("qlimit", "7"),
        ("scur", "1"),
        ("smax", "1"),
        ("slim", "1"),
    ];
    check_row(row(&rows, "ingress", "BACKEND"), &waiting);
    let text = portico.admin_get("/pools?format=text").text();
    assert!(
        text.lines()
            .any(|line| line.contains("(all)") && line.contains("2/7")),
        "{text}"
    );
    gate.release_all();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    eventually("nobody waits", SOON, || {
        (metric("waiting") == Some(0.0)).then_some(())
    });
    assert_eq!(metric("waiting_most"), Some(2.0));
}

#[test]
fn tcp_listeners_are_told() {
    let (checks, server, listen) = (Checks::start(), Node::echo("hello"), free_address());
    let refuses = free_address();
    let table = |name: &str, listen: SocketAddr, allow: &str| {
        format!("{{ name = '{name}', listen = ['{listen}'], pool = 'kube', allow = ['{allow}'] }}")
    };
    let open = table("open", listen, "127.0.0.0/8");
    let shut = table("shut", refuses, "192.0.2.0/24");
    let portico = Builder::new()
        .with(&checks.pool("kube", &[server.address()], ""))
        .with(&format!("tcp = [{open}, {shut}]"))
        .start();
    let mut socket = TcpStream::connect(listen).expect("portico accepts");
    prepare(&socket);
    socket.write_all(&[7; 1000]).expect("sent");
    let mut echoed = vec![0; "hello".len() + 1000];
    socket.read_exact(&mut echoed).expect("echoed");
    let mut refused = TcpStream::connect(refuses).expect("the kernel accepts");
    prepare(&refused);
    let _ = refused.read(&mut [0]);
    let rows = eventually("all is counted", SOON, || {
        let rows = csv(&portico);
        let done = row(&rows, "shut", "FRONTEND")["dcon"] == "1"
            && row(&rows, "open", "FRONTEND")["bout"] == "1005";
        done.then_some(rows)
    });
    let frontend = [
        ("scur", "1"),
        ("stot", "1"),
        ("bin", "1000"),
        ("mode", "tcp"),
        ("status", "OPEN"),
        ("hrsp_2xx", ""),
    ];
    check_row(row(&rows, "open", "FRONTEND"), &frontend);
    check_row(
        row(&rows, "shut", "FRONTEND"),
        &[("stot", "1"), ("bin", "0")],
    );
    let server = [
        ("scur", "1"),
        ("stot", "1"),
        ("bin", "1000"),
        ("bout", "1005"),
        ("mode", "tcp"),
        ("hrsp_2xx", ""),
        ("type", "2"),
    ];
    check_row(row(&rows, "kube", &server_name(&rows)), &server);
    let pools = json(&portico.admin_get("/pools"));
    assert_eq!(
        pools["pools"][0]["tcp"],
        serde_json::json!(["open", "shut"])
    );
    assert_eq!(pools["pools"][0]["ingress_percent"], Value::Null);
    drop(socket);
    eventually("its place is free", SOON, || {
        let rows = csv(&portico);
        let free = row(&rows, "kube", "BACKEND")["scur"] == "0";
        (free && row(&rows, "open", "FRONTEND")["scur"] == "0").then_some(())
    });
}

/// The one server of the pool `kube`.
fn server_name(rows: &[Row]) -> String {
    let mut servers = rows.iter().filter(|row| row["type"] == "2");
    servers.next().expect("a server")["svname"].clone()
}

#[test]
fn shares_of_a_split_are_told() {
    let nodes = [1, 2].map(|n| Origin::echo(&format!("node-{n}")));
    let [first, second] = nodes.each_ref().map(Origin::address);
    let portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nnodes = ['{first}']\n[pools.gateway]\nnodes = ['{second}']\n\
             [ingress]\nsplit = {{ ingress = 90, gateway = 10 }}"
        ))
        .start();
    let pools = json(&portico.admin_get("/pools"));
    let shares = [0, 1].map(|n| pools["pools"][n]["ingress_percent"].as_u64());
    assert_eq!(shares, [Some(10), Some(90)]);
    let text = portico.admin_get("/status?format=text").text();
    for part in ["10 % of the ingress", "90 % of the ingress"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

// --- alerts

/// An alert of docs/operating.md: its expression, and for how long it must hold.
fn alerts() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let text = std::fs::read_to_string(path).expect("docs/operating.md");
    let table = text.split_once("| alert when |").expect("a table").1;
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let alerts = rows.map(|row| {
        let (expression, rest) = row
            .strip_prefix("| `")
            .and_then(|row| row.split_once('`'))
            .unwrap_or_else(|| panic!("{row}"));
        let cell = rest.split_once(" |").map_or(rest, |(cell, _)| cell);
        let lasts = match cell
            .strip_prefix(" for ")
            .and_then(|span| span.split_once(' '))
        {
            Some((count, unit)) => format!("{count}{}", &unit[..1]),
            None => "0s".to_owned(),
        };
        // A bar would end the cell of the table.
        (expression.replace("\\|", "|"), lasts)
    });
    alerts.collect()
}

/// Alerts are rules for Prometheus; each is called by its expression.
fn rules() -> Value {
    let rules = alerts().into_iter().map(|(expression, lasts)| {
        serde_json::json!({ "alert": expression, "expr": expression, "for": lasts })
    });
    serde_json::json!({ "groups": [{ "name": "portico", "rules": rules.collect::<Vec<_>>() }] })
}

/// What fires when: series with their values minute by minute, the minute, labels of what fires.
#[track_caller]
fn check_alert(part: &str, series: &[(&str, &str)], minute: u32, fires: Option<&str>) {
    let named = alerts();
    let found = named
        .iter()
        .find(|(expression, _)| expression.contains(part));
    let (alert, _) = found.unwrap_or_else(|| panic!("no alert with {part}"));
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    write("rules.yml", &rules());
    let series = series
        .iter()
        .map(|(series, values)| serde_json::json!({ "series": series, "values": values }));
    let fires = fires.map(|labels| {
        let labels = labels.split(',').filter_map(|pair| pair.split_once('='));
        let labels: HashMap<&str, &str> = labels.collect();
        serde_json::json!({ "exp_labels": labels })
    });
    let test = serde_json::json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series.collect::<Vec<_>>(),
            "alert_rule_test": [{
                "eval_time": format!("{minute}m"),
                "alertname": alert,
                "exp_alerts": fires.into_iter().collect::<Vec<_>>(),
            }],
        }],
    });
    program(
        "promtool",
        &["check", "rules", &write("rules.yml", &rules())],
    );
    program("promtool", &["test", "rules", &write("test.yml", &test)]);
}

#[test]
fn alerts_fire_when_they_should() {
    assert!(alerts().len() > 10);
    let waiting = ("portico_pool_waiting{pool=\"a\"}", "0 7 7 0 7x9");
    check_alert("portico_pool_waiting", &[waiting], 1, None);
    check_alert("portico_pool_waiting", &[waiting], 2, Some("pool=a"));
    check_alert("portico_pool_waiting", &[waiting], 4, None);

    let up = [
        ("portico_node_up{pool=\"a\",node=\"1\"}", "0x9"),
        ("portico_node_up{pool=\"a\",node=\"2\"}", "1x9"),
        ("portico_node_in_rotation{pool=\"a\",node=\"1\"}", "1x9"),
        ("portico_node_in_rotation{pool=\"a\",node=\"2\"}", "1 1 0x7"),
    ];
    let part = "portico_node_up * portico_node_in_rotation";
    check_alert(part, &up, 1, None);
    check_alert(part, &up, 4, Some("pool=a"));

    let downs = (
        "portico_node_downs_total{pool=\"a\",node=\"1\"}",
        "0x30 1 2x60",
    );
    check_alert("portico_node_downs_total", &[downs], 60, None);
    let downs = (
        "portico_node_downs_total{pool=\"a\",node=\"1\"}",
        "0x30 1 2 3 4 5x60",
    );
    check_alert(
        "portico_node_downs_total",
        &[downs],
        60,
        Some("pool=a,node=1"),
    );

    let drained = (
        "portico_node_in_rotation{pool=\"a\",node=\"1\"}",
        "1 0x2000",
    );
    let part = "portico_node_in_rotation == 0";
    check_alert(part, &[drained], 1440, None);
    check_alert(part, &[drained], 1442, Some("pool=a,node=1"));
}
