//! Health checks: what a node is asked, which answers are good, and what becomes of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portico_tests::origin::{Connection, Origin, Received};
use portico_tests::portico::{Builder, Portico};
use portico_tests::tls::{Authority, Pair};
use portico_tests::{SOON, eventually, free_address};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Often enough for a test.
const OFTEN: &str = "interval = '50ms', down_interval = '50ms'";

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
            assert!(said(portico, "node is down", node).is_empty(), "{what}");
        }
        Err(why) => {
            let lines = eventually(what, SOON, || {
                Some(said(portico, "node is down", node)).filter(|lines| !lines.is_empty())
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
}

#[test]
fn a_name_that_does_not_resolve() {
    let origin = Origin::echo("unused");
    let node = "node.invalid:80";
    let unresolved = Err("its checks fail: its name does not resolve");
    check_at("no such name", &origin, node, "kind = 'http'", unresolved);
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
