//! Health checks: what a node is asked, which answers are good, and what becomes of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get, post};
use portico_tests::origin::{Connection, Origin, Received};
use portico_tests::portico::{Builder, Portico};
use portico_tests::tls::{Authority, Pair};
use portico_tests::{SOON, eventually, free_address, signal};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Often enough for a test.
const OFTEN: &str = "interval = '50ms', down_interval = '50ms'";

/// How messages begin.
const UP: &str = "node is up: its checks succeed";
const DOWN: &str = "node is down;";

/// A pool of these nodes with this check.
#[track_caller]
fn pool(nodes: &[&str], check: &str) -> Builder {
    Builder::new().with(&format!(
        "[pools.ingress]\nnodes = {nodes:?}\ncheck = {{ {OFTEN}, {check} }}\n\
         [ingress]\npool = 'ingress'"
    ))
}

fn is_up(portico: &Portico, node: &str) -> bool {
    let series = format!("portico_node_up{{pool=\"ingress\",node=\"{node}\"}}");
    portico.metric(&series) == Some(1.0)
}

/// What was said of a node.
fn said(portico: &Portico, what: &str, node: &str) -> Vec<String> {
    let node = format!("node={node} ");
    let log = portico.stderr();
    let lines = log
        .lines()
        .filter(|line| line.contains(what) && format!("{line} ").contains(&node));
    lines.map(str::to_owned).collect()
}

/// A node at `address`, or else at that of the origin, is taken for up by checks, or for down.
#[track_caller]
fn check(what: &str, origin: &Origin, check: &str, expected: Result<(), &str>) {
    check_at(what, origin, &origin.address().to_string(), check, expected);
}

#[track_caller]
fn check_at(what: &str, origin: &Origin, node: &str, check: &str, expected: Result<(), &str>) {
    let authority = Authority::new();
    let builder = pool(&[node], check);
    let builder = trusting(builder, &authority);
    judge(what, origin, node, &builder.start(), expected);
}

#[track_caller]
fn judge(what: &str, origin: &Origin, node: &str, portico: &Portico, expected: Result<(), &str>) {
    match expected {
        Ok(()) => {
            let before = origin.connections();
            eventually(what, SOON, || {
                (origin.connections() >= before + 5).then_some(())
            });
            assert!(is_up(portico, node), "{what}: {}", portico.stderr());
            assert!(said(portico, DOWN, node).is_empty(), "{what}");
        }
        Err(why) => {
            let lines = eventually(what, SOON, || {
                Some(said(portico, DOWN, node)).filter(|lines| !lines.is_empty())
            });
            assert!(lines[0].contains(why), "{what}: {why:?} in {lines:?}");
            assert!(!is_up(portico, node), "{what}");
        }
    }
}

/// portico trusts certificates of this authority.
fn trusting(builder: Builder, authority: &Authority) -> Builder {
    let file = builder.folder().join("trusted.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    builder.env("SSL_CERT_FILE", file.to_str().unwrap())
}

#[test]
fn what_a_check_by_tcp_wants() {
    let origin = Origin::echo("node");
    check("somebody listens", &origin, "kind = 'tcp'", Ok(()));
    let refused = Err("its checks fail: cannot connect: Connection refused");
    let nobody = free_address().to_string();
    check_at("nobody listens", &origin, &nobody, "kind = 'tcp'", refused);
    let port = format!("port = {}", origin.address().port());
    check_at("its own port", &origin, &nobody, &port, Ok(()));
    let port = format!("port = {}", free_address().port());
    check("the wrong port", &origin, &port, refused);
}

#[test]
fn what_a_check_by_http_wants() {
    let origin = Origin::echo("node");
    let http = |more: &str, expected| {
        let rule = format!("kind = 'http', {more}");
        check(more, &origin, &rule, expected);
    };
    http("path = '/healthz'", Ok(()));
    http("path = '/status/204', expect = 204", Ok(()));
    http(
        "path = '/status/503'",
        Err("its checks fail: answered 503, not 200"),
    );
    http(
        "path = '/redir?to=/elsewhere'",
        Err("answered 302, not 200"),
    );
    http(
        "path = '/status/200', expect = 404",
        Err("answered 200, not 404"),
    );
    http(
        "path = '/sleep/600000', timeout = '1s'",
        Err("no answer within 1 s"),
    );
}

#[test]
fn odd_answers_to_a_check_by_http() {
    let check = |what: &str, answer: &'static [u8], expected| {
        let origin = Origin::scripted(what, move |connection: &mut Connection| {
            if connection.read_request().is_some() {
                connection.send(answer);
            }
        });
        check(what, &origin, "kind = 'http'", expected);
    };
    check(
        "a body without an end",
        b"HTTP/1.1 200 OK\r\n\r\nbody",
        Ok(()),
    );
    check("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n", Ok(()));
    check(
        "an interim answer first",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        Ok(()),
    );
    check(
        "an interim answer only",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        Err("it closed the connection without an answer"),
    );
    check(
        "nothing",
        b"",
        Err("it closed the connection without an answer"),
    );
    check(
        "half a head",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        Err("it closed the connection without an answer"),
    );
    check(
        "another protocol",
        b"220 mail.example ESMTP\r\n",
        Err("what it answered is not HTTP"),
    );
}

/// A node that never ends its head takes no memory for ever.
#[test]
fn an_answer_without_an_end() {
    let origin = Origin::scripted("endless", |connection: &mut Connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\n");
            while connection.send("A: b\r\n") {}
        }
    });
    check(
        "an endless head",
        &origin,
        "kind = 'http'",
        Err("its checks fail"),
    );
}

#[test]
fn what_a_check_asks() {
    let asked = |node: &str, origin: &Origin, more: &str| -> Received {
        let portico = pool(&[node], &format!("kind = 'http', {more}")).start();
        let mut requests = eventually("a check", SOON, || {
            Some(origin.take()).filter(|all| !all.is_empty())
        });
        drop(portico);
        requests.remove(0)
    };
    let origin = Origin::echo("node");
    let address = origin.address().to_string();
    let request = asked(&address, &origin, "path = '/healthz/ready?verbose'");
    assert_eq!(request.method, "GET");
    assert_eq!(request.target, "/healthz/ready?verbose");
    assert_eq!(request.field("host"), Some(&*address));
    assert_eq!(request.field("connection"), Some("close"));
    let agent = request.field("user-agent").unwrap();
    assert!(agent.starts_with("portico-check/"), "{agent}");
    let request = asked(&address, &origin, "host = 'healthz.example'");
    assert_eq!(request.field("host"), Some("healthz.example"));
    assert_eq!(request.target, "/");
    // As Istio has it: the port that answers checks is not the one that serves.
    let port = origin.address().port();
    let serves = free_address().to_string();
    let request = asked(&serves, &origin, &format!("port = {port}"));
    assert_eq!(request.field("host"), Some(&*address));
    let request = asked(&format!("localhost:{port}"), &origin, "");
    assert_eq!(request.field("host"), Some(&*format!("localhost:{port}")));
}

/// Shows a certificate, and notes the names that it was asked for.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn ResolvesServerCert>,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_owned);
        self.names.lock().unwrap().push(name);
        self.inner.resolve(hello)
    }
}

/// An origin with this certificate; what is asked for is noted.
fn noting(pair: &Pair) -> (Origin, Arc<Mutex<Vec<Option<String>>>>) {
    let names = Arc::default();
    let mut config: ServerConfig = (*pair.server_config()).clone();
    config.cert_resolver = Arc::new(Noting {
        inner: Arc::clone(&config.cert_resolver),
        names: Arc::clone(&names),
    });
    (Origin::echo_tls("tls", Arc::new(config)), names)
}

#[test]
fn what_a_check_by_https_wants() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let check =
        |what: &str, pair: Pair, host: &str, more: &str, expected: Result<Option<&str>, &str>| {
            let (origin, names) = noting(&pair);
            let node = format!("{host}:{}", origin.address().port());
            let rule = format!("kind = 'https', path = '/healthz' {more}");
            let portico = trusting(pool(&[&node], &rule), &authority).start();
            judge(what, &origin, &node, &portico, expected.map(|_| ()));
            if let Ok(name) = expected {
                let names = names.lock().unwrap();
                assert!(
                    names.iter().all(|asked| asked.as_deref() == name),
                    "{what}: {names:?}"
                );
                let request = origin.take().remove(0);
                assert_eq!(request.target, "/healthz", "{what}");
            }
        };
    let of_address = || authority.issue(&["127.0.0.1"]);
    let of_name = || authority.issue(&["api.example"]);
    let unknown = Err("its checks fail: the TLS handshake failed: invalid peer certificate");
    let expired = Err("invalid peer certificate: certificate expired");
    let other_name = Err("invalid peer certificate: certificate not valid for name");
    let address = "127.0.0.1";
    check("an address", of_address(), address, "", Ok(None));
    check("the wrong name", of_name(), address, "", other_name);
    check(
        "sni",
        of_name(),
        address,
        ", sni = 'api.example'",
        Ok(Some("api.example")),
    );
    check(
        "host",
        of_name(),
        address,
        ", host = 'api.example'",
        Ok(Some("api.example")),
    );
    let both = ", host = 'other.example', sni = 'api.example'";
    check(
        "sni before host",
        of_name(),
        address,
        both,
        Ok(Some("api.example")),
    );
    let local = authority.issue(&["localhost"]);
    check(
        "its own name",
        local,
        "localhost",
        "",
        Ok(Some("localhost")),
    );
    let over = || authority.issue_expired(&["127.0.0.1"]);
    check("expired", over(), address, "", expired);
    check(
        "a stranger's",
        stranger.issue(&["127.0.0.1"]),
        address,
        "",
        unknown,
    );
    // As HAProxy checks the Kubernetes API.
    let blind = ", verify = false";
    check("expired, unverified", over(), address, blind, Ok(None));
    check(
        "a stranger's, unverified",
        stranger.issue(&["x"]),
        address,
        blind,
        Ok(None),
    );
    let named = ", verify = false, sni = 'api.example'";
    check(
        "unverified by name",
        stranger.issue(&["x"]),
        address,
        named,
        Ok(Some("api.example")),
    );
    let status = ", verify = false, expect = 401";
    check(
        "the wrong status",
        of_address(),
        address,
        status,
        Err("answered 200, not 401"),
    );
}

#[test]
fn tls_where_there_is_none() {
    let origin = Origin::scripted("no TLS", |connection: &mut Connection| {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let rule = "kind = 'https', verify = false";
    check(
        "plain for TLS",
        &origin,
        rule,
        Err("its checks fail: the TLS handshake failed"),
    );
    origin.forgive();
    let silent = Origin::scripted("silent", Connection::wait_for_close);
    let rule = "kind = 'https', verify = false, timeout = '1s'";
    let hangs = Err("the TLS handshake did not end within 1 s");
    check("no handshake", &silent, rule, hangs);
}

/// By name, since the configuration refuses such an address: it would be up, and every request
/// would come back.
#[test]
fn portico_itself_is_no_node() {
    let origin = Origin::echo("unused");
    let builder = Builder::new();
    let node = format!("localhost:{}", builder.http().port());
    let portico = builder
        .with(&format!(
            "[pools.ingress]\nnodes = ['{node}']\ncheck = {{ {OFTEN} }}"
        ))
        .start();
    let own = Err("its checks fail: the address is portico's own listener");
    judge("portico", &origin, &node, &portico, own);
    // The only node is tried all the same: not that one. It would be a loop (508).
    let answer = portico.tcp().exchange(get("x.toolforge.org", "/"));
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[test]
fn a_name_that_does_not_resolve() {
    let origin = Origin::echo("unused");
    let node = "node.invalid:80";
    let unresolved = Err("its checks fail: its name does not resolve");
    check_at("no such name", &origin, node, "kind = 'http'", unresolved);
}

/// A node by a name that nobody has heard of before is not down for that.
#[test]
fn a_name_that_a_reload_brings() {
    let (old, new) = (Origin::echo("old"), Origin::echo("new"));
    let old = old.address().to_string();
    let node = format!("localhost:{}", new.address().port());
    let mut portico = pool(&[&old], "fall = 1").start();
    portico.change(&format!("[pools.ingress]\nnodes = ['{old}', '{node}']"));
    assert!(portico.reload());
    judge("the new node", &new, &node, &portico, Ok(()));
}

#[test]
fn a_node_with_an_ipv6_address() {
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        return;
    };
    let address: SocketAddr = listener.local_addr().unwrap();
    drop(listener);
    let origin = Origin::echo_on("six", address);
    let node = address.to_string();
    check("by TCP", &origin, "kind = 'tcp'", Ok(()));
    let portico = pool(&[&node], "kind = 'http'").start();
    judge("by HTTP", &origin, &node, &portico, Ok(()));
    assert_eq!(origin.take().remove(0).field("host"), Some(&*node));
}

/// A node whose checks are answered by a rhythm that the test sets, and which answers all else.
struct Moody {
    origin: Origin,
    checks: Arc<AtomicUsize>,
    rhythm: Arc<Mutex<&'static [u16]>>,
}

impl Moody {
    fn new(name: &'static str, rhythm: &'static [u16]) -> Moody {
        let checks = Arc::new(AtomicUsize::new(0));
        let rhythm = Arc::new(Mutex::new(rhythm));
        let (count, statuses) = (Arc::clone(&checks), Arc::clone(&rhythm));
        let origin = Origin::scripted(name, move |connection: &mut Connection| {
            while let Some(request) = connection.read_request() {
                if request.target != "/healthz" {
                    connection.send_text(name);
                    continue;
                }
                let statuses = *statuses.lock().unwrap();
                let status = statuses[count.fetch_add(1, SeqCst) % statuses.len()];
                connection.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        Moody {
            origin,
            checks,
            rhythm,
        }
    }

    fn beat(&self, rhythm: &'static [u16]) {
        *self.rhythm.lock().unwrap() = rhythm;
    }

    fn address(&self) -> String {
        self.origin.address().to_string()
    }

    /// Waits for so many more checks.
    #[track_caller]
    fn wait_for(&self, checks: usize) {
        let before = self.checks.load(SeqCst);
        eventually("checks go on", SOON, || {
            (self.checks.load(SeqCst) >= before + checks).then_some(())
        });
    }
}

const MOODY: &str = "kind = 'http', path = '/healthz'";

#[track_caller]
fn wait_until_said(portico: &Portico, what: &str, node: &str, times: usize) -> Vec<String> {
    eventually(what, SOON, || {
        Some(said(portico, what, node)).filter(|lines| lines.len() >= times)
    })
}

/// Who answered.
fn served(client: &mut Client) -> String {
    client.exchange(get("x.toolforge.org", "/")).text()
}

#[test]
fn rise_and_fall_count_in_a_row() {
    let node = Moody::new("moody", &[200, 503, 503]);
    let address = node.address();
    let portico = pool(&[&address], &format!("{MOODY}, rise = 2, fall = 3")).start();
    node.wait_for(20);
    assert!(said(&portico, DOWN, &address).is_empty());
    node.beat(&[503]);
    let lines = wait_until_said(&portico, DOWN, &address, 1);
    let why = format!("answered 503, not 200 (GET http://{address}/healthz, 3 in a row)");
    assert!(lines[0].contains(&why), "{lines:?}");
    assert!(
        lines[0].contains("after 2 good checks in a row"),
        "{lines:?}"
    );
    node.beat(&[200, 503]);
    node.wait_for(20);
    assert!(said(&portico, UP, &address).is_empty());
    node.beat(&[200]);
    let lines = wait_until_said(&portico, UP, &address, 1);
    assert!(lines[0].contains("down_for="), "{lines:?}");
    assert!(is_up(&portico, &address));
}

/// More than may be checked at a time.
#[test]
fn nodes_that_hang_do_not_keep_others_from_being_checked() {
    let silent: Vec<Origin> = (0..20)
        .map(|_| Origin::scripted("silent", Connection::wait_for_close))
        .collect();
    let node = Moody::new("alive", &[200]);
    let mut nodes: Vec<String> = (silent.iter())
        .map(|origin| origin.address().to_string())
        .collect();
    nodes.push(node.address());
    let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
    let portico = pool(&nodes, &format!("{MOODY}, timeout = '500ms', fall = 1")).start();
    for hangs in &nodes[..20] {
        wait_until_said(&portico, "no answer within 500 ms", hangs, 1);
    }
    node.wait_for(5);
    eventually("the other is up", SOON, || {
        is_up(&portico, &node.address()).then_some(())
    });
    assert_eq!(served(&mut portico.tcp()), "alive");
}

/// Nodes that cannot be connected to, while their checks, on a port of its own, are good.
struct Liar {
    address: String,
    checks: Origin,
}

impl Liar {
    fn new() -> Liar {
        Liar {
            address: free_address().to_string(),
            checks: Origin::echo("health"),
        }
    }

    fn rule(&self) -> String {
        format!("port = {}, rise = 2", self.checks.address().port())
    }
}

#[test]
fn a_node_that_fails_again_soon_is_held_down() {
    let (liar, good) = (Liar::new(), Origin::echo("good"));
    let nodes = [&*liar.address, &good.address().to_string()];
    let portico = pool(&nodes, &liar.rule())
        .with("[pools.ingress]\nslow_start = '0s'")
        .start();
    let mut client = portico.tcp();
    // Nobody notices.
    let mut ask = || assert_eq!(client.exchange(get("x.toolforge.org", "/")).status, 200);
    let mut downs = |times| {
        eventually("it is ejected", SOON, || {
            ask();
            let lines = said(&portico, DOWN, &liar.address);
            (lines.len() == times).then_some(lines)
        })
    };
    let lines = downs(1);
    let why = "a connection to it failed: cannot connect: Connection refused";
    assert!(lines[0].contains(why), "{lines:?}");
    assert!(
        lines[0].contains("back=\"after 2 good checks in a row\""),
        "{lines:?}"
    );
    wait_until_said(&portico, UP, &liar.address, 1);
    let lines = downs(2);
    let ejected = Instant::now();
    assert!(lines[1].contains("and not before 10 s"), "{lines:?}");
    let told = portico.admin_get("/pools?format=text").text();
    assert!(
        told.contains("; held down for ") || ejected.elapsed() > Duration::from_secs(9),
        "{told}"
    );
    let checks = liar.checks.connections();
    eventually("good checks", SOON, || {
        (liar.checks.connections() > checks + 10).then_some(())
    });
    let ups = said(&portico, UP, &liar.address).len();
    // Unless this machine stood still.
    assert!(ups == 1 || ejected.elapsed() > Duration::from_secs(9));
    wait_until_said(&portico, UP, &liar.address, 2);
}

/// Its port is open, so that checks by TCP are good, and every request breaks.
#[test]
fn a_node_that_breaks_every_connection() {
    let breaks = Origin::scripted("breaks", |connection: &mut Connection| {
        connection.read_request();
    });
    let good = Origin::echo("good");
    let node = breaks.address().to_string();
    let portico = pool(&[&node, &good.address().to_string()], "rise = 1000").start();
    let mut client = portico.tcp();
    let mut failed = 0;
    eventually("it is ejected", SOON, || {
        // By itself: a POST may have run.
        let answer = client.exchange(post("x.toolforge.org", "/", "a"));
        failed += usize::from(answer.status != 200);
        (!said(&portico, DOWN, &node).is_empty()).then_some(())
    });
    assert_eq!(failed, 5);
    let lines = said(&portico, DOWN, &node);
    let why = "it broke 5 connections in a row before it answered";
    assert!(lines[0].contains(why), "{lines:?}");
    // Its checks do not say it.
    for page in ["/pools?format=text", "/status?format=text"] {
        let text = portico.admin_get(page).text();
        let mut told = text.lines().filter(|line| line.contains(&node));
        let why = format!("; down: {why}");
        assert!(told.any(|line| line.ends_with(&why)), "{text}");
    }
    for _ in 0..10 {
        assert_eq!(
            client.exchange(post("x.toolforge.org", "/", "a")).status,
            200
        );
    }
}

/// What a tool answers is no fault of the node.
#[test]
fn answers_of_5xx_are_no_failures_of_the_node() {
    let (node, other) = (Origin::echo("node"), Origin::echo("other"));
    let (address, other) = (node.address().to_string(), other.address().to_string());
    let portico = pool(&[&address, &other], "rise = 2").start();
    let mut client = portico.tcp();
    for _ in 0..30 {
        let answer = client.exchange(get("x.toolforge.org", "/status/502"));
        assert_eq!(answer.status, 502);
    }
    assert!(node.take().len() > 10);
    assert!(is_up(&portico, &address) && !portico.stderr().contains(DOWN));
}

#[test]
fn the_last_node_is_not_ejected() {
    let liar = Liar::new();
    let portico = pool(&[&liar.address], &liar.rule()).start();
    let mut client = portico.tcp();
    for _ in 0..10 {
        let answer = client.exchange(get("x.toolforge.org", "/"));
        assert_eq!(answer.status, 502);
    }
    let lines = wait_until_said(&portico, "node fails, and stays in use", &liar.address, 1);
    assert!(lines[0].contains("Connection refused"), "{lines:?}");
    assert!(said(&portico, DOWN, &liar.address).is_empty());
    assert!(is_up(&portico, &liar.address));
}

/// With none up all are tried: a broken check is no outage.
#[test]
fn checks_that_fail_everywhere_are_no_outage() {
    let nodes = [Moody::new("a", &[503]), Moody::new("b", &[503])];
    let (a, b) = (nodes[0].address(), nodes[1].address());
    let portico = pool(&[&a, &b], MOODY).start();
    wait_until_said(&portico, DOWN, &a, 1);
    wait_until_said(&portico, DOWN, &b, 1);
    eventually("that is said", SOON, || {
        let said = portico.stderr();
        said.contains("no node of the pool is up").then_some(())
    });
    let mut client = portico.tcp();
    let mut answers: Vec<String> = (0..4).map(|_| served(&mut client)).collect();
    answers.sort();
    assert_eq!(answers, ["a", "a", "b", "b"]);
}

/// A node that comes back gets its share bit by bit.
#[test]
fn slow_start() {
    let (back, there) = (Moody::new("back", &[503]), Moody::new("there", &[200]));
    let address = back.address();
    let portico = pool(&[&address, &there.address()], MOODY)
        .with("[pools.ingress]\nslow_start = '8s'")
        .start();
    let mut client = portico.tcp();
    // Of a hundred.
    let mut share = || (0..100).filter(|_| served(&mut client) == "back").count();
    wait_until_said(&portico, DOWN, &address, 1);
    assert_eq!(share(), 0);
    back.beat(&[200]);
    wait_until_said(&portico, UP, &address, 1);
    let first = share();
    assert!(first < 35, "{first}");
    let mut shares = vec![first];
    eventually("all of its share", SOON * 3, || {
        shares.push(share());
        (*shares.last()? >= 48).then_some(())
    });
    // Steps of a second; a hundred requests may end in the middle of a turn.
    let grows = shares.windows(2).all(|pair| pair[0] <= pair[1] + 1);
    let steps = shares.iter().filter(|share| (5..45).contains(*share));
    assert!(grows && steps.count() > 2, "{shares:?}");
}

/// All that portico was given had their full share from the start.
#[test]
fn a_start_is_no_slow_start() {
    let nodes = [Moody::new("a", &[200]), Moody::new("b", &[200])];
    let (a, b) = (nodes[0].address(), nodes[1].address());
    let portico = pool(&[&a, &b], MOODY).start();
    let mut client = portico.tcp();
    let of_a = (0..20).filter(|_| served(&mut client) == "a").count();
    assert_eq!(of_a, 10);
}

/// A reload each moment neither starves checks nor makes more of them.
#[test]
fn reloads_leave_the_schedule_alone() {
    let node = Moody::new("node", &[200]);
    let check = "check = { kind = 'http', path = '/healthz', interval = '400ms' }";
    let toml = format!("[pools.ingress]\nnodes = ['{}']\n{check}", node.address());
    let mut portico = Builder::new().with(&toml).start();
    node.wait_for(1);
    let (start, before) = (Instant::now(), node.checks.load(SeqCst));
    let mut reloads = 0;
    while node.checks.load(SeqCst) < before + 6 {
        reloads += 1;
        // Something else changes, and the pool does, too.
        portico.change(&format!("[pools.ingress]\nmax_queue = {reloads}"));
        assert!(portico.reload());
        assert!(start.elapsed() < SOON, "checks go on");
    }
    // 6 intervals, of which the first had begun, each a tenth shorter.
    assert!(
        start.elapsed() > Duration::from_millis(5 * 360),
        "{reloads}"
    );
    assert!(reloads > 6, "{reloads}");
}

#[test]
fn a_node_that_a_reload_removes_is_checked_no_more() {
    let (goes, stays) = (Moody::new("goes", &[200]), Moody::new("stays", &[200]));
    let often = format!("{MOODY}, interval = '50ms'");
    let pool = |nodes: &str| format!("[pools.ingress]\nnodes = [{nodes}]\ncheck = {{ {often} }}");
    let remaining = format!("'{}'", stays.address());
    let both = format!("{remaining}, '{}'", goes.address());
    let mut portico = Builder::new().with(&pool(&both)).start();
    goes.wait_for(2);
    portico.change(&pool(&remaining));
    assert!(portico.reload());
    // One may have been under way.
    stays.wait_for(3);
    let before = goes.checks.load(SeqCst);
    stays.wait_for(20);
    assert!(goes.checks.load(SeqCst) <= before + 1);
}

/// What a reload changes of a check holds for the next one, and that comes as soon as is asked for.
#[test]
fn a_reload_changes_checks() {
    let (node, stays) = (Moody::new("node", &[503]), Moody::new("stays", &[200]));
    let (address, other) = (node.address(), stays.address());
    let slow = format!("{MOODY}, interval = '1h', down_interval = '1h', fall = 2");
    let mut portico = Builder::new()
        .with(&format!(
            "[pools.ingress]\nnodes = ['{address}', '{other}']\ncheck = {{ {slow} }}"
        ))
        .start();
    node.wait_for(0);
    portico.change("[pools.ingress]\ncheck = { interval = '50ms' }");
    assert!(portico.reload());
    // The first bad one was before the reload.
    wait_until_said(&portico, DOWN, &address, 1);
    portico.change("[pools.ingress]\ncheck = { expect = 503, down_interval = '50ms' }");
    assert!(portico.reload());
    wait_until_said(&portico, UP, &address, 1);
    wait_until_said(&portico, DOWN, &other, 1);
    // Down it stays, though the pool changes around it.
    portico.change(&format!(
        "[pools.ingress]\nnodes = ['{other}', '{address}', '{}']",
        free_address()
    ));
    assert!(portico.reload());
    assert!(!is_up(&portico, &other) && is_up(&portico, &address));
}

/// A check that timed out while portico itself stood still is not the node's fault.
#[test]
fn nobody_is_blamed_while_portico_stands_still() {
    // It answers after a while, so that portico is stopped in the middle of a check.
    let origin = Origin::scripted("slow", |connection: &mut Connection| {
        if connection.read_request().is_some() {
            sleep(Duration::from_millis(200));
            connection.send_text("well");
        }
    });
    let address = origin.address().to_string();
    let rule = "kind = 'http', timeout = '2s', fall = 1";
    let portico = pool(&[&address], rule).start();
    for _ in 0..3 {
        let before = origin.heads();
        eventually("a check", SOON, || (origin.heads() > before).then_some(()));
        signal(portico.pid(), "STOP");
        sleep(Duration::from_millis(2500));
        signal(portico.pid(), "CONT");
    }
    let before = origin.heads();
    eventually("checks", SOON, || {
        (origin.heads() > before + 2).then_some(())
    });
    assert!(said(&portico, DOWN, &address).is_empty());
    let series =
        format!("portico_node_checks_discarded_total{{pool=\"ingress\",node=\"{address}\"}}");
    assert!(portico.metric(&series).is_some());
}
