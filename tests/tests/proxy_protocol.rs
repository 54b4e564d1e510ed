//! The PROXY protocol: who a balancer says the client is, from whom that is believed, and what
//! becomes of connections without it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get};
use portico_tests::origin::{Origin, Received};
use portico_tests::portico::{Builder, HOST, Portico, program};
use portico_tests::{SOON, eventually, free_address};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Another address of this machine.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A header of version 2 from 192.0.2.1:1000 to 192.0.2.2:8443.
fn v2() -> Vec<u8> {
    block(
        0x21,
        0x11,
        &[192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0x20, 0xfb],
    )
}

fn block(command: u8, family: u8, held: &[u8]) -> Vec<u8> {
    let length = u16::try_from(held.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, held].concat()
}

/// A tool that is told addresses, and a portico that believes these balancers.
fn believing(networks: &str) -> (Origin, Builder) {
    let origin = Origin::echo("grid");
    let builder = Builder::new()
        .route("grid", &origin.url())
        .with(&format!("[listen]\nproxy_protocol_from = {networks}"))
        .with("[headers]\nclient_address = 'forwarded'");
    (origin, builder)
}

/// A client on both listeners, whose connection begins with these bytes.
fn clients(portico: &Portico, header: &[u8]) -> [Client; 2] {
    [portico.tcp(), portico.tls()].map(|client| {
        // Below TLS, whose handshake begins with the first request.
        let mut tcp: &TcpStream = client.wire.stream.tcp();
        tcp.write_all(header).expect("portico reads");
        client
    })
}

/// The address and the port that the tool was told.
fn told(request: &Received) -> (String, String) {
    let field = |name| request.field(name).unwrap_or_default().to_owned();
    (field("x-forwarded-for"), field("x-forwarded-port"))
}

/// Behind this header a request is answered, and the next; the tool gets this address, and this
/// port unless it is the listener's own.
#[track_caller]
fn check(header: &[u8], address: &str, port: Option<u16>) {
    let (origin, builder) = believing("['127.0.0.1/32']");
    let portico = builder.start();
    let own = [portico.http.port(), portico.https.port()];
    for (mut client, own) in clients(&portico, header).into_iter().zip(own) {
        let expected = (address.to_owned(), port.unwrap_or(own).to_string());
        for _ in 0..2 {
            let answer = client.exchange(get(HOST, "/"));
            assert_eq!(answer.status, 200, "{}", header.escape_ascii());
            assert_eq!(
                told(&origin.take_one()),
                expected,
                "{}",
                header.escape_ascii()
            );
        }
    }
    assert!(!portico.stderr().contains("WARN closed"));
}

#[test]
fn a_line_names_the_client() {
    check(
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n",
        "192.0.2.1",
        Some(443),
    );
    check(
        b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\n",
        "2001:db8::1",
        Some(443),
    );
    check(
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1000 0\r\n",
        "192.0.2.1",
        None,
    );
    check(
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1000 443\r\n",
        "127.0.0.1",
        None,
    );
}

#[test]
fn a_block_names_the_client() {
    check(&v2(), "192.0.2.1", Some(8443));
    let mut v6 = [0; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[15] = 1;
    v6[35] = 80;
    check(&block(0x21, 0x21, &v6), "2001::1", Some(80));
    let with_tlvs = [&v2()[16..], b"\x02\x00\x0dtoolforge.org\xee\x00\x00"].concat();
    check(&block(0x21, 0x11, &with_tlvs), "192.0.2.1", Some(8443));
    // The balancer itself, and clients without an address.
    check(&block(0x20, 0x00, &[]), "127.0.0.1", None);
    check(&block(0x20, 0x11, &v2()[16..]), "127.0.0.1", None);
    check(&block(0x21, 0x00, &[]), "127.0.0.1", None);
    check(&block(0x21, 0x31, &[b'/'; 216]), "127.0.0.1", None);
    check(&block(0x20, 0x00, &[0; 4080]), "127.0.0.1", None);
}

/// The header and the request behind it in pieces of every kind: not a byte is lost or taken twice.
#[test]
fn bytes_may_be_split_anywhere() {
    let (origin, builder) = believing("['127.0.0.0/8']");
    let portico = builder.start();
    for header in [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n".to_vec(),
        v2(),
    ] {
        let whole = [&header[..], get(HOST, "/x").as_bytes()].concat();
        for piece in [1, 2, 7, header.len() - 1, header.len() + 1, whole.len()] {
            let mut client = portico.tcp();
            client.send_in_pieces(&whole, piece, Duration::from_millis(1));
            assert_eq!(client.response().status, 200, "pieces of {piece}");
            let got = origin.take_one();
            assert_eq!(got.target, "/x");
            assert_eq!(told(&got).0, "192.0.2.1");
        }
    }
    // Under TLS.
    for piece in [1, 5, 27] {
        let mut client = portico.tls();
        for part in v2().chunks(piece) {
            let mut tcp: &TcpStream = client.wire.stream.tcp();
            tcp.write_all(part).expect("portico reads");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
        assert_eq!(told(&origin.take_one()).0, "192.0.2.1");
    }
}

#[test]
fn connections_without_a_header_are_closed_without_a_word() {
    let (origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[server]\nworkers = 1").start();
    let long_line = format!("PROXY UNKNOWN {}", "x".repeat(100));
    let long_block = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    for bytes in [
        get(HOST, "/").as_bytes(),
        b"G",
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\n",
        long_line.as_bytes(),
        &long_block,
        &block(0x22, 0x11, &[0; 12]),
        &block(0x21, 0x11, &[0; 4]),
        &block(0x21, 0x11, &[&v2()[16..], b"\x03\x00\x04crc?"].concat()),
    ] {
        for address in [portico.http, portico.https] {
            let mut client = Client::tcp(address);
            client.send(bytes);
            client.expect_closed();
        }
    }
    assert_eq!(origin.heads(), 0);
    let warnings = |said: &str| said.matches("WARN closed a connection").count();
    // What it writes is collected a little later.
    eventually("a warning", SOON, || {
        (warnings(&portico.stderr()) > 0).then_some(())
    });
    let said = portico.stderr();
    assert_eq!(warnings(&said), 1, "said once, not for each: {said}");
    assert!(
        said.contains("these bytes are no PROXY protocol header"),
        "{said}"
    );
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let (_origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[timeouts]\nhandshake = '500ms'").start();
    for bytes in [&b""[..], b"PROXY TCP4 192.", &v2()[..20]] {
        for address in [portico.http, portico.https] {
            let start = Instant::now();
            let mut client = Client::tcp(address);
            client.send(bytes);
            client.expect_closed();
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(500), "{took:?}");
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
    }
}

#[test]
fn balancers_that_only_connect_are_not_worth_a_warning() {
    let (_origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[log]\nlevel = 'debug'").start();
    drop(portico.tcp());
    eventually("it is seen", SOON, || {
        let seen = "a balancer's connection came to nothing";
        portico.stderr().contains(seen).then_some(())
    });
    assert!(!portico.stderr().contains("WARN closed"));
}

/// Whoever is not in the list cannot choose an address: the header is then no HTTP and no TLS.
#[test]
fn headers_of_others_are_not_looked_for() {
    let (origin, builder) = believing("['127.0.0.2/32', '192.0.2.0/24']");
    let portico = builder.start();
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n".to_vec();
    for header in [line, v2()] {
        let request = [&header[..], get(HOST, "/").as_bytes()].concat();
        let answer = Client::tcp(portico.http).exchange(&request);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.says_close());
        let [_, mut over_tls] = clients(&portico, &header);
        assert!(over_tls.wire.send(get(HOST, "/")).is_err(), "no handshake");
    }
    assert_eq!(origin.heads(), 0);
    // The same address without a header is served, and is itself.
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 200);
    assert_eq!(told(&origin.take_one()).0, "127.0.0.1");
    // Of who is in the list the header is required.
    let mut balancer = Client::tcp_from(OTHER, portico.http);
    assert_eq!(
        balancer
            .exchange([&v2()[..], get(HOST, "/").as_bytes()].concat())
            .status,
        200
    );
    assert_eq!(told(&origin.take_one()).0, "192.0.2.1");
    let mut silent = Client::tcp_from(OTHER, portico.http);
    silent.send(get(HOST, "/"));
    silent.expect_closed();
}

#[test]
fn the_client_cannot_add_a_header_of_its_own() {
    let (origin, builder) = believing("['127.0.0.1']");
    let portico = builder.start();
    let second = b"PROXY TCP4 203.0.113.1 192.0.2.2 1 2\r\n";
    let request = [&v2()[..], second, get(HOST, "/").as_bytes()].concat();
    let answer = portico.tcp().exchange(request);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(origin.heads(), 0);
}

/// A peer that comes through a socket for both families is an IPv4 one all the same.
#[test]
fn mapped_addresses_are_ipv4() {
    let (origin, builder) = believing("['127.0.0.1/32']");
    let port = builder.http().port();
    let portico = builder
        .with(&format!("[listen]\nhttp = ['[::]:{port}']"))
        .start();
    let request = [&v2()[..], get(HOST, "/").as_bytes()].concat();
    assert_eq!(
        Client::tcp((LOOPBACK, port).into())
            .exchange(request)
            .status,
        200
    );
    assert_eq!(told(&origin.take_one()).0, "192.0.2.1");
    drop(portico);
}

#[test]
fn redirects_and_health_work_behind_a_balancer() {
    let (_origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[listen]\nredirect = true").start();
    let [mut client, _] = clients(&portico, &v2());
    assert_eq!(client.exchange(get(HOST, "/x")).status, 301);
    let health = client.exchange(get("any.example", "/.well-known/healthz"));
    assert_eq!(health.status, 200);
}

#[test]
fn curl_over_http2_behind_a_header() {
    let (origin, builder) = believing("['127.0.0.1']");
    let portico = builder.start();
    let port = portico.https.port();
    let ca = portico.ca_file();
    let output = program(
        "curl",
        &[
            "--silent",
            "--show-error",
            "--http2",
            "--haproxy-protocol",
            "--cacert",
            ca.to_str().expect("a UTF-8 path"),
            "--resolve",
            &format!("{HOST}:{port}:127.0.0.1"),
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
            &format!("https://{HOST}:{port}/x"),
        ],
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 200");
    let expected = ("127.0.0.1".to_owned(), port.to_string());
    assert_eq!(told(&origin.take_one()), expected);
}

// --- a real balancer

/// A running haproxy, killed on drop.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// HAProxy on a new address, in TCP mode before `server`.
fn haproxy(portico: &Portico, server: SocketAddr, options: &str) -> (Haproxy, SocketAddr) {
    let address = free_address();
    let file = portico
        .folder
        .path()
        .join(format!("haproxy-{}.cfg", address.port()));
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n \
         timeout check 5s\n\
         listen front\n bind {address}\n server portico {server} {options}\n"
    );
    std::fs::write(&file, config).expect("written");
    let child = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("haproxy starts; scripts/test installs it");
    let running = Haproxy(child);
    eventually("haproxy listens", SOON, || TcpStream::connect(address).ok());
    (running, address)
}

#[test]
fn haproxy_in_front() {
    let (origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[log]\nlevel = 'debug'").start();
    for options in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2-ssl-cn",
    ] {
        let (_running, address) = haproxy(&portico, portico.http, options);
        let mut client = Client::tcp_from(OTHER, address);
        for _ in 0..2 {
            assert_eq!(client.exchange(get(HOST, "/")).status, 200, "{options}");
            let expected = ("127.0.0.2".to_owned(), address.port().to_string());
            assert_eq!(told(&origin.take_one()), expected, "{options}");
        }
        let (_running, address) = haproxy(&portico, portico.https, options);
        let config = portico.authority.client_config(rustls::ALL_VERSIONS);
        let mut client = Client::tls(address, &config, HOST);
        assert_eq!(client.exchange(get(HOST, "/")).status, 200, "{options}");
        assert_eq!(told(&origin.take_one()).1, address.port().to_string());
    }
    assert!(!portico.stderr().contains("WARN closed"));
}

/// HAProxy checks a server on behalf of nobody: LOCAL.
#[test]
fn haproxy_finds_it_healthy() {
    let (origin, builder) = believing("['127.0.0.1']");
    let portico = builder.with("[log]\nlevel = 'debug'").start();
    let checks = "check inter 50ms rise 1 fall 1 check-send-proxy send-proxy-v2\n \
                  option httpchk GET /.well-known/healthz";
    let (_running, address) = haproxy(&portico, portico.http, checks);
    eventually("it is checked", SOON, || {
        let checked = portico.stderr().matches("request finished").count();
        (checked >= 3).then_some(())
    });
    let answer = Client::tcp(address).exchange(get(HOST, "/"));
    assert_eq!(answer.status, 200);
    origin.take_one();
    assert!(!portico.stderr().contains("WARN closed"));
}
