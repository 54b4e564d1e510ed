//! TCP listeners: what goes in comes out, in both directions and to its end; who may connect, where
//! to, and what becomes of connections when clients, nodes or portico go.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::portico::{Builder, Portico};
use portico_tests::redis::Redis;
use portico_tests::tcp_node::{Checks, Node, prepare};
use portico_tests::{CHECKSUM_START, MIB, SOON, checksum, eventually, free_address};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A listener before some nodes.
struct Setup {
    portico: Portico,
    listen: SocketAddr,
    _checks: Checks,
}

/// A TCP listener `t` before a pool of these nodes; `listener` and `pool`: more keys of each, `more`:
/// of anything else.
#[track_caller]
fn setup(nodes: &[SocketAddr], listener: &str, pool: &str, more: &str) -> Setup {
    let (checks, listen) = (Checks::start(), free_address());
    let builder = Builder::new()
        .with(&checks.pool("p", nodes, pool))
        .with(&tcp(listen, listener))
        .with(more);
    let portico = builder.start();
    Setup {
        portico,
        listen,
        _checks: checks,
    }
}

fn tcp(listen: SocketAddr, more: &str) -> String {
    format!("[[tcp]]\nname = 't'\nlisten = ['{listen}']\npool = 'p'\n{more}")
}

#[track_caller]
fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&to, SOON).expect("portico accepts");
    prepare(&socket);
    socket
}

/// From another address of this machine.
#[track_caller]
fn connect_from(source: IpAddr, to: SocketAddr) -> TcpStream {
    try_connect(source, to).expect("portico accepts")
}

fn try_connect(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), SOON)?;
    let socket = TcpStream::from(socket);
    prepare(&socket);
    Ok(socket)
}

/// All that comes until the other side ends.
#[track_caller]
fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).expect("a clean end");
    all
}

#[track_caller]
fn exact(socket: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    socket.read_exact(&mut got).expect("that many bytes");
    assert_eq!(got, expected);
}

/// A connection that is reset at once, perhaps before this side has seen that it was accepted.
#[track_caller]
fn refused(to: SocketAddr, from: IpAddr) {
    match try_connect(from, to) {
        Ok(mut socket) => expect_reset(&mut socket),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// The connection ends with a reset.
#[track_caller]
fn expect_reset(socket: &mut TcpStream) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => panic!("a clean end"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                return;
            }
        }
    }
}

fn reset(socket: TcpStream) {
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

fn count(portico: &Portico, metric: &str, labels: &str) -> f64 {
    let more = if labels.is_empty() {
        String::new()
    } else {
        format!(",{labels}")
    };
    let series = format!("portico_tcp_{metric}{{listener=\"t\"{more}}}");
    portico
        .metric(&series)
        .unwrap_or_else(|| panic!("no {series}"))
}

/// A counter of a node of the pool `p`; `kind`: of errors.
#[track_caller]
fn of_node(portico: &Portico, node: SocketAddr, metric: &str, kind: &str) -> f64 {
    let more = match kind {
        "" => String::new(),
        kind => format!(",kind=\"{kind}\""),
    };
    let series = format!("portico_node_{metric}_total{{pool=\"p\",node=\"{node}\"{more}}}");
    portico
        .metric(&series)
        .unwrap_or_else(|| panic!("no {series}"))
}

#[track_caller]
fn wait_for(portico: &Portico, metric: &str, labels: &str, value: f64) {
    eventually(&format!("{metric} {labels} is {value}"), SOON, || {
        (count(portico, metric, labels) == value).then_some(())
    });
}

/// A warning with all of these parts stands in the log.
#[track_caller]
fn says_why(portico: &Portico, parts: &[&str]) {
    eventually(&format!("a warning with {parts:?}"), SOON, || {
        let log = portico.stderr();
        let mut warnings = log.lines().filter(|line| line.contains(" WARN "));
        let found = warnings.any(|line| parts.iter().all(|part| line.contains(part)));
        found.then_some(())
    });
}

/// A port and seed for a stream of bytes that is not the same anywhere.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let bytes = (0..length).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes.collect()
}

#[test]
fn bytes_pass_both_ways_in_any_pieces() {
    let node = Node::echo("hello ");
    let setup = setup(&[node.address()], "", "", "");
    let mut client = connect(setup.listen);
    exact(&mut client, b"hello ");
    let bytes = noise(1, 200_000);
    let mut at = 0;
    for size in [
        1, 2, 1, 100, 1, 4095, 4096, 16_383, 16_384, 16_385, 40_000, 1, 65_536,
    ] {
        let piece = &bytes[at..at + size];
        client.write_all(piece).unwrap();
        exact(&mut client, piece);
        at += size;
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), b"");
    wait_for(&setup.portico, "endings_total", "ending=\"complete\"", 1.0);
    wait_for(&setup.portico, "connections", "", 0.0);
    assert_eq!(count(&setup.portico, "received_bytes_total", ""), at as f64);
    assert_eq!(
        count(&setup.portico, "sent_bytes_total", ""),
        (at + 6) as f64
    );
}

#[test]
fn either_side_may_end_and_still_be_answered() {
    // The node ends first, and gets the rest.
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let node = Node::start(move |mut socket| {
        socket.write_all(b"bye").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        tell.lock().unwrap().send(all).unwrap();
    });
    let setup = setup(&[node.address()], "", "", "");
    let mut client = connect(setup.listen);
    assert_eq!(rest(&mut client), b"bye");
    client.write_all(b"so long").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(SOON).unwrap(), b"so long");
    wait_for(&setup.portico, "endings_total", "ending=\"complete\"", 1.0);
}

/// Sends `length` bytes each way at the same time, to readers that pause, and compares checksums.
#[track_caller]
fn transfer(length: usize, chunk: usize, pauses: usize) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let node = Node::start(move |socket| {
        let sum = exchange(socket, 2, length, chunk, pauses);
        tell.lock().unwrap().send(sum).unwrap();
    });
    let setup = setup(&[node.address()], "", "", "");
    let client = exchange(connect(setup.listen), 1, length, chunk, pauses);
    let node = told.recv_timeout(SOON).unwrap();
    let expected = |seed| checksum(CHECKSUM_START, &stream(seed, length));
    assert_eq!((client, node), (expected(2), expected(1)));
    wait_for(&setup.portico, "endings_total", "ending=\"complete\"", 1.0);
    assert_eq!(count(&setup.portico, "sent_bytes_total", ""), length as f64);
}

fn stream(seed: u64, length: usize) -> Vec<u8> {
    // A prime number of bytes, again and again: no block looks like its neighbour.
    let block = noise(seed, 65_537);
    block.iter().copied().cycle().take(length).collect()
}

/// Sends a stream, and gives the checksum of what comes meanwhile.
fn exchange(socket: TcpStream, seed: u64, length: usize, chunk: usize, pauses: usize) -> u64 {
    let mut writer = socket.try_clone().unwrap();
    let sending = thread::spawn(move || {
        for piece in stream(seed, length).chunks(chunk) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut reader, mut sum, mut buffer) = (socket, CHECKSUM_START, vec![0; chunk]);
    let mut reads = 0;
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            n => sum = checksum(sum, &buffer[..n]),
        }
        reads += 1;
        if reads <= pauses {
            thread::sleep(Duration::from_millis(20));
        }
    }
    sending.join().unwrap();
    sum
}

#[test]
fn large_transfers_arrive_whole() {
    transfer(64 * MIB as usize, 256 * 1024, 0);
}

#[test]
fn slow_readers_get_everything() {
    transfer(8 * MIB as usize, 100_000, 30);
    transfer(MIB as usize, 1000, 20);
}

/// One worker, and streams that never end on it: those who say little still have their turn.
#[test]
fn streams_without_end_let_others_have_their_turn() {
    let node = Node::start(|mut socket| {
        let mut kind = [0];
        if socket.read_exact(&mut kind).is_err() {
            return;
        }
        let bytes = noise(7, 256 * 1024);
        match kind {
            [b'e'] => portico_tests::tcp_node::echo(socket, ""),
            _ => while socket.write_all(&bytes).is_ok() {},
        }
    });
    let setup = setup(&[node.address()], "", "", "[server]\nworkers = 1");
    let streams: Vec<_> = (0..3).map(|_| connect(setup.listen)).collect();
    for mut stream in &streams {
        stream.write_all(b"s").unwrap();
    }
    let reading = streams.iter().map(|stream| {
        let mut stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            let mut chunk = vec![0; 256 * 1024];
            while matches!(stream.read(&mut chunk), Ok(1..)) {}
        })
    });
    let reading: Vec<_> = reading.collect();
    let mut echo = connect(setup.listen);
    echo.write_all(b"e").unwrap();
    for n in 0..200_u8 {
        echo.write_all(&[n]).unwrap();
        exact(&mut echo, &[n]);
    }
    assert!(count(&setup.portico, "sent_bytes_total", "") > MIB as f64);
    for stream in &streams {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    for reader in reading {
        reader.join().unwrap();
    }
}

#[test]
fn many_connections_at_once_do_not_mix() {
    let node = Node::echo("");
    let setup = setup(&[node.address()], "", "", "");
    let clients: Vec<_> = (0..200_u64)
        .map(|seed| {
            let listen = setup.listen;
            thread::spawn(move || {
                let mut client = connect(listen);
                let bytes = noise(seed + 1, 30_000);
                for piece in bytes.chunks(1 + seed as usize * 100) {
                    client.write_all(piece).unwrap();
                    exact(&mut client, piece);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    wait_for(&setup.portico, "accepted_total", "", 200.0);
    wait_for(&setup.portico, "connections", "", 0.0);
}

#[track_caller]
fn check_allow(allow: &str, listen: SocketAddr, from: IpAddr, allowed: bool) {
    let node = Node::echo("hello");
    let checks = Checks::start();
    let portico = Builder::new()
        .with(&checks.pool("p", &[node.address()], ""))
        .with(&tcp(listen, &format!("allow = {allow}")))
        .start();
    if allowed {
        exact(&mut connect_from(from, listen), b"hello");
        return;
    }
    for _ in 0..11 {
        refused(listen, from);
    }
    let refused = "reason=\"not_allowed\"";
    wait_for(&portico, "unserved_total", refused, 11.0);
    assert_eq!(count(&portico, "accepted_total", ""), 11.0);
    assert_eq!(node.connections(), 0);
    // Once for each worker, and not for each connection.
    let said = portico.stderr().matches("does not name; add them").count();
    assert!((1..=2).contains(&said), "{said} times");
}

#[test]
fn networks_that_may_connect() {
    let v4 = |last| IpAddr::from([127, 0, 0, last]);
    let (v6, port) = (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), || {
        free_address().port()
    });
    let any6 = || SocketAddr::from(([0_u16; 8], port()));
    check_allow("[]", free_address(), v4(2), true);
    check_allow("['127.0.0.2/32']", free_address(), v4(2), true);
    check_allow("['127.0.0.2/32']", free_address(), v4(3), false);
    check_allow("['::1/128', '127.0.0.0/30']", free_address(), v4(3), true);
    check_allow("['::1/128']", free_address(), v4(1), false);
    // IPv4 through an IPv6 socket is IPv4.
    let mapped = |address: SocketAddr| SocketAddr::new(v4(1), address.port());
    let listen = any6();
    let node = Node::echo("hello");
    let setup = setup(
        &[node.address()],
        &format!(
            "allow = ['127.0.0.1/32']\n[[tcp]]\nname = 'six'\nlisten = ['{listen}']\npool = 'p'\nallow = ['127.0.0.1/32']"
        ),
        "",
        "",
    );
    exact(&mut connect(mapped(listen)), b"hello");
    refused(SocketAddr::new(v6, listen.port()), v6);
    drop(setup);
    let six = SocketAddr::new(v6, port());
    check_allow("['::1/128']", six, v6, true);
    check_allow("['2001:db8::/32', '127.0.0.0/8']", six, v6, false);
}

/// A header of version 2, as the node should get it or a balancer sends it.
fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let mut addresses = Vec::new();
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    for end in [source, destination] {
        addresses.extend(end.port().to_be_bytes());
    }
    header.push(if source.is_ipv4() { 0x11 } else { 0x21 });
    header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
    [header, addresses].concat()
}

/// What the node gets of a client that sends `sent` and ends.
#[track_caller]
fn node_gets(listener: &str, sent: &[u8]) -> Result<Vec<u8>, ErrorKind> {
    let node = Node::start(|mut socket| {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        socket.write_all(&all).unwrap();
    });
    let setup = setup(&[node.address()], listener, "", "");
    let mut client = connect(setup.listen);
    client.write_all(sent).unwrap();
    // Who is refused may be reset by now.
    let _ = client.shutdown(Shutdown::Write);
    let mut got = Vec::new();
    match client.read_to_end(&mut got) {
        Ok(_) => Ok(got),
        Err(error) => {
            assert_eq!(node.connections(), 0);
            Err(error.kind())
        }
    }
}

#[test]
fn a_balancer_in_front_says_who_the_client_is() {
    let believe = "proxy_protocol_from = ['127.0.0.1/32']";
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 6443\r\nbytes";
    assert_eq!(node_gets(believe, line).unwrap(), b"bytes");
    // `allow` is about the client and not about the balancer.
    let only = |network: &str| format!("{believe}\nallow = ['{network}']");
    let gone = Err(ErrorKind::ConnectionReset);
    assert_eq!(node_gets(&only("192.0.2.0/24"), line).unwrap(), b"bytes");
    assert_eq!(node_gets(&only("127.0.0.0/8"), line), gone);
    let six = v2(
        "[2001:db8::1]:9".parse().unwrap(),
        "[2001:db8::2]:1".parse().unwrap(),
    );
    let six = [&six[..], b"bytes"].concat();
    assert_eq!(node_gets(&only("2001:db8::/32"), &six).unwrap(), b"bytes");
    // The balancer's own checks are its own.
    let own = b"PROXY UNKNOWN\r\nbytes";
    assert_eq!(node_gets(&only("127.0.0.0/8"), own).unwrap(), b"bytes");
    assert_eq!(node_gets(&only("192.0.2.0/24"), own), gone);
    // Without its header it is nobody, and others are not asked for one.
    assert_eq!(node_gets(believe, b"GET / HTTP/1.1\r\n\r\n"), gone);
    let others = "proxy_protocol_from = ['192.0.2.0/24']";
    assert_eq!(node_gets(others, line).unwrap(), line);
}

#[test]
fn nodes_are_told_who_the_client_is() {
    let node = Node::start(|mut socket| {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        socket.write_all(&all).unwrap();
    });
    let tell = "send_proxy_protocol = true\nproxy_protocol_from = ['127.0.0.2/32']";
    let setup = setup(&[node.address()], tell, "", "");
    let mut client = connect(setup.listen);
    let me = client.local_addr().unwrap();
    client.write_all(b"bytes").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let expected = [&v2(me, setup.listen)[..], b"bytes"].concat();
    assert_eq!(rest(&mut client), expected);
    // Behind a balancer: what its header says.
    let mut balancer = connect_from(IpAddr::from([127, 0, 0, 2]), setup.listen);
    let ends = ["192.0.2.1:1000", "192.0.2.2:443"].map(|end| end.parse().unwrap());
    let header = v2(ends[0], ends[1]);
    balancer.write_all(&header).unwrap();
    balancer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut balancer), header);
}

#[test]
fn a_silent_connection_is_reset_and_a_busy_one_is_not() {
    let node = Node::echo("hello");
    let setup = setup(&[node.address()], "idle_timeout = '3s'", "", "");
    let mut silent = connect(setup.listen);
    let mut busy = connect(setup.listen);
    exact(&mut silent, b"hello");
    exact(&mut busy, b"hello");
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(100));
        busy.write_all(b"x").unwrap();
        exact(&mut busy, b"x");
    }
    expect_reset(&mut silent);
    wait_for(&setup.portico, "endings_total", "ending=\"idle\"", 1.0);
    wait_for(&setup.portico, "connections", "", 1.0);
    busy.write_all(b"x").unwrap();
    exact(&mut busy, b"x");
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let node = Node::start(move |mut socket| {
        let mut first = [0];
        socket.read_exact(&mut first).unwrap();
        if first == [b'r'] {
            return reset(socket);
        }
        socket.write_all(b"y").unwrap();
        let end = socket.read(&mut first).map_err(|error| error.kind());
        tell.lock().unwrap().send(end).unwrap();
    });
    let setup = setup(&[node.address()], "", "", "");
    let mut client = connect(setup.listen);
    client.write_all(b"r").unwrap();
    expect_reset(&mut client);
    wait_for(
        &setup.portico,
        "endings_total",
        "ending=\"node_reset\"",
        1.0,
    );
    let errors = |kind: &str| of_node(&setup.portico, node.address(), "errors", kind);
    assert_eq!((errors("response"), errors("connect")), (1.0, 0.0));
    let mut client = connect(setup.listen);
    client.write_all(b"x").unwrap();
    exact(&mut client, b"y");
    reset(client);
    let end = told.recv_timeout(SOON).unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    wait_for(
        &setup.portico,
        "endings_total",
        "ending=\"client_reset\"",
        1.0,
    );
    assert_eq!(
        errors("response"),
        1.0,
        "the client's doing is not the node's"
    );
}

/// A client that is gone while the node takes nothing must not hold a place for an hour.
#[test]
fn a_client_that_resets_while_the_node_takes_nothing_is_noticed() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let node = Node::start(move |socket| {
        // Reads nothing.
        let _ = released.lock().unwrap().recv_timeout(2 * SOON);
        drop(socket);
    });
    let setup = setup(&[node.address()], "", "", "");
    let client = connect(setup.listen);
    client.set_nonblocking(true).unwrap();
    let full = |mut socket: &TcpStream| {
        let chunk = vec![0; 64 * 1024];
        let mut sent = 0;
        let mut pauses = 0;
        while pauses < 25 {
            match socket.write(&chunk) {
                Ok(n) => (sent, pauses) = (sent + n, 0),
                Err(_) => {
                    pauses += 1;
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
        sent
    };
    assert!(full(&client) > 100_000);
    reset(client);
    wait_for(
        &setup.portico,
        "endings_total",
        "ending=\"client_reset\"",
        1.0,
    );
    release.send(()).unwrap();
}

#[test]
fn another_node_is_taken_when_one_cannot_be_connected_to() {
    let dead = free_address();
    let node = Node::echo("alive");
    let setup = setup(&[dead, node.address()], "", "", "");
    for _ in 0..20 {
        exact(&mut connect(setup.listen), b"alive");
    }
    assert_eq!(node.connections(), 20);
    // It was taken out: not each connection tries it.
    let failures = count(&setup.portico, "connect_failures_total", "");
    assert!(
        (1.0..=2.0).contains(&failures),
        "{failures} connect failures"
    );
    let of_dead = |metric, kind| of_node(&setup.portico, dead, metric, kind);
    assert_eq!(of_dead("errors", "connect"), failures);
    assert_eq!(of_dead("redispatches", ""), failures);
    drop(node);
    refused(setup.listen, LOOPBACK);
    wait_for(
        &setup.portico,
        "unserved_total",
        "reason=\"unreachable\"",
        1.0,
    );
    says_why(
        &setup.portico,
        &["since no node could be connected to", "listener=t pool=p "],
    );
}

#[test]
fn each_node_is_tried_once() {
    let dead = [(); 2].map(|()| free_address());
    let setup = setup(&dead, "", "", "");
    refused(setup.listen, LOOPBACK);
    wait_for(
        &setup.portico,
        "unserved_total",
        "reason=\"unreachable\"",
        1.0,
    );
    for node in dead {
        assert_eq!(of_node(&setup.portico, node, "errors", "connect"), 1.0);
    }
}

/// By name, since the configuration refuses such an address: the connection would come back again
/// and again.
#[test]
fn portico_itself_is_no_node() {
    let listen = free_address();
    let pool = format!(
        "[pools.p]\nnodes = ['localhost:{}']\ncheck = {{ interval = '1h' }}",
        listen.port()
    );
    let portico = Builder::new().with(&pool).with(&tcp(listen, "")).start();
    refused(listen, LOOPBACK);
    wait_for(&portico, "unserved_total", "reason=\"unreachable\"", 1.0);
    assert_eq!(count(&portico, "accepted_total", ""), 1.0);
}

#[test]
fn the_budget_for_retries_is_kept_to() {
    let dead = [(); 3].map(|()| free_address());
    let setup = setup(&dead, "", "", "");
    for _ in 0..20 {
        refused(setup.listen, LOOPBACK);
    }
    let unreachable = "reason=\"unreachable\"";
    wait_for(&setup.portico, "unserved_total", unreachable, 20.0);
    // Without it each connection would try all three.
    let failures = count(&setup.portico, "connect_failures_total", "");
    assert!(
        (20.0..60.0).contains(&failures),
        "{failures} connect failures"
    );
    let budget = "portico_pool_retries_refused_total{pool=\"p\"}";
    assert!(
        setup
            .portico
            .metric(budget)
            .is_some_and(|refused| refused > 0.0)
    );
}

#[test]
fn connections_wait_for_a_place_in_their_order() {
    let node = Node::echo("go");
    let pool = "max_connections = 2\nmax_queue = 2\nqueue_timeout = '30s'";
    let setup = setup(&[node.address()], "", pool, "");
    let mut first: Vec<_> = (0..2).map(|_| connect(setup.listen)).collect();
    first.iter_mut().for_each(|client| exact(client, b"go"));
    let mut waiting = Vec::new();
    for n in 1..=2 {
        waiting.push(connect(setup.listen));
        wait_for(&setup.portico, "connections", "", 2.0 + f64::from(n));
    }
    // They wait, so the queue is full.
    thread::sleep(Duration::from_millis(200));
    refused(setup.listen, LOOPBACK);
    wait_for(
        &setup.portico,
        "unserved_total",
        "reason=\"queue_full\"",
        1.0,
    );
    assert_eq!(node.connections(), 2);
    drop(first.remove(0));
    exact(&mut waiting[0], b"go");
    assert_eq!(node.connections(), 3);
    // One that leaves makes room in the queue, and takes no place.
    drop(waiting.remove(1));
    wait_for(
        &setup.portico,
        "unserved_total",
        "reason=\"client_gone\"",
        1.0,
    );
    let mut last = connect(setup.listen);
    drop(first);
    exact(&mut last, b"go");
    assert_eq!(node.connections(), 4);
}

#[test]
fn a_wait_for_a_place_has_an_end() {
    let node = Node::echo("go");
    let pool = "max_connections = 1\nqueue_timeout = '300ms'";
    let setup = setup(&[node.address()], "", pool, "");
    let mut first = connect(setup.listen);
    exact(&mut first, b"go");
    refused(setup.listen, LOOPBACK);
    wait_for(
        &setup.portico,
        "unserved_total",
        "reason=\"queue_timeout\"",
        1.0,
    );
    let reason = "listener=t pool=p reason=\"queue_timeout\"";
    says_why(&setup.portico, &["for want of a place at a node", reason]);
}

#[test]
fn a_pool_without_a_node_in_rotation_resets() {
    let node = Node::echo("go");
    let setup = setup(&[node.address()], "", "", "");
    let (admin, address) = (setup.portico.admin, node.address());
    let request = format!(
        "POST /pools/drain?pool=p&node={address} HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(Client::tcp(admin).exchange(request).status, 200);
    refused(setup.listen, LOOPBACK);
    wait_for(&setup.portico, "unserved_total", "reason=\"no_node\"", 1.0);
    says_why(
        &setup.portico,
        &[
            "since no node of its pool is in rotation",
            "listener=t pool=p ",
        ],
    );
}

#[test]
fn a_reload_cuts_nothing_and_changes_what_comes_next() {
    let (one, two) = (Node::echo("one"), Node::echo("two"));
    let mut setup = setup(&[one.address()], "", "", "");
    let mut old = connect(setup.listen);
    exact(&mut old, b"one");
    let pool = setup._checks.pool("other", &[two.address()], "");
    let more = |listen: SocketAddr, more: &str| {
        format!("{pool}\n[[tcp]]\nname = 't'\nlisten = ['{listen}']\npool = 'other'\n{more}")
    };
    // Another pool and other rules, at the same address: the sockets stay.
    let before = listening(&setup.portico, setup.listen);
    let listen = setup.listen;
    setup.portico.change(&more(
        listen,
        "idle_timeout = '30s'\nallow = ['127.0.0.0/8']",
    ));
    assert!(setup.portico.reload(), "{}", setup.portico.stderr());
    assert_eq!(listening(&setup.portico, listen), before);
    exact(&mut connect(listen), b"two");
    setup
        .portico
        .change(&more(listen, "allow = ['192.0.2.0/24']"));
    assert!(setup.portico.reload());
    refused(listen, LOOPBACK);
    // It moves, and then it is gone.
    let elsewhere = free_address();
    setup.portico.change(&more(elsewhere, ""));
    assert!(setup.portico.reload());
    exact(&mut connect(elsewhere), b"two");
    eventually("the old address is closed", SOON, || {
        TcpStream::connect(listen).err()
    });
    setup.portico.change("tcp = []");
    assert!(setup.portico.reload());
    eventually("the new address is closed", SOON, || {
        TcpStream::connect(elsewhere).err()
    });
    old.write_all(b"still here").unwrap();
    exact(&mut old, b"still here");
    old.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut old), b"");
}

/// The inodes of the sockets that listen on an address, one for each worker. The table of the system
/// may miss some while others come and go.
fn listening(portico: &Portico, address: SocketAddr) -> BTreeSet<String> {
    let hex = format!(":{:04X}", address.port());
    eventually("a socket for each worker", SOON, || {
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", portico.pid())).unwrap();
        let lines = table.lines().skip(1);
        let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listening = words.filter(|words| words[1].ends_with(&hex) && words[3] == "0A");
        let inodes: BTreeSet<String> = listening.map(|words| words[9].to_owned()).collect();
        (inodes.len() == 2).then_some(inodes)
    })
}

#[test]
fn a_check_counts_listeners_and_an_address_in_use_fails_start_and_reload() {
    let node = Node::echo("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let checks = Checks::start();
    let builder = Builder::new()
        .with(&checks.pool("p", &[node.address()], ""))
        .with(&tcp(taken.1, ""));
    let words = [taken.1.to_string(), "in use by another process".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let checked = builder.command("check", &[]);
    assert!(checked.stdout.contains("TCP listeners: 1"), "{checked:?}");
    builder.command("run", &[]).expect(1, &words);
    let mut setup = setup(&[node.address()], "", "", "");
    setup.portico.change(&tcp(taken.1, ""));
    assert!(!setup.portico.reload());
    assert!(setup.portico.stderr().contains("in use by another process"));
    exact(&mut connect(setup.listen), b"");
}

/// Whoever may write routes must not get past `allow` by way of portico itself.
#[test]
fn no_route_leads_to_a_listener() {
    let node = Node::echo("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let redis = Redis::start();
    let (checks, listen) = (Checks::start(), free_address());
    redis.route("loop", ".*", &format!("http://{listen}"));
    redis.route("node", ".*", &format!("http://{}", node.address()));
    let portico = Builder::new()
        .with(&checks.pool("p", &[node.address()], ""))
        .with(&tcp(listen, ""))
        .registry(&redis)
        .start();
    let status = |tool: &str| {
        let host = format!("{tool}.toolforge.org");
        portico.tcp().exchange(get(&host, "/")).status
    };
    assert_eq!((status("node"), status("loop")), (200, 404));
    assert!(portico.stderr().contains("portico's own listener"));
    assert_eq!(node.connections(), 1);
    assert_eq!(count(&portico, "accepted_total", ""), 0.0);
}

#[test]
fn a_stop_lets_connections_end_and_cuts_them_at_last() {
    let node = Node::echo("go");
    let mut setup = setup(&[node.address()], "", "", "[server]\ndrain = '6s'");
    let (mut patient, mut stubborn) = (connect(setup.listen), connect(setup.listen));
    exact(&mut patient, b"go");
    exact(&mut stubborn, b"go");
    setup.portico.terminate();
    eventually("the listener is closed", SOON, || {
        TcpStream::connect(setup.listen).err()
    });
    patient.write_all(b"a last word").unwrap();
    exact(&mut patient, b"a last word");
    patient.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut patient), b"");
    assert!(setup.portico.is_running());
    expect_reset(&mut stubborn);
    assert!(setup.portico.wait(SOON).success());
    assert!(setup.portico.stderr().contains("server.drain is over"));
}

/// Open descriptors of portico, by what they are.
fn descriptors(portico: &Portico) -> (usize, usize) {
    let folder = format!("/proc/{}/fd", portico.pid());
    let links = std::fs::read_dir(folder).unwrap();
    let names = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let of = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
    (of("socket:"), of("pipe:"))
}

#[test]
fn no_descriptor_is_left_over() {
    let node = Node::start(|mut socket| {
        let mut kind = [0];
        if socket.read_exact(&mut kind).is_err() {
            return;
        }
        let bytes = noise(3, 300_000);
        match kind[0] {
            // Ends well, breaks off, never ends by itself.
            b'w' => socket.write_all(&bytes).unwrap(),
            b'r' => {
                let _ = socket.write_all(&bytes);
                reset(socket);
            }
            _ => while socket.write_all(&bytes).is_ok() {},
        }
    });
    let setup = setup(&[node.address()], "", "", "");
    let go = |times: usize| {
        for kind in [b'w', b'r', b'e'].into_iter().cycle().take(times) {
            let mut client = connect(setup.listen);
            client.write_all(&[kind]).unwrap();
            let mut some = vec![0; 200_000];
            let _ = client.read_exact(&mut some);
            if kind == b'w' {
                rest(&mut client);
            }
        }
        wait_for(&setup.portico, "connections", "", 0.0);
    };
    // Both workers are there when they have served somebody.
    go(20);
    let (before, _) = descriptors(&setup.portico);
    go(120);
    eventually("sockets are closed", SOON, || {
        (descriptors(&setup.portico).0 <= before).then_some(())
    });
    // A few are kept for what comes next, at most 8 for each of two workers.
    let (_, pipes) = descriptors(&setup.portico);
    assert!(pipes <= 2 * 2 * 8 + 8, "{pipes} ends of pipes");
}

#[test]
fn without_descriptors_clients_wait_and_bytes_are_copied() {
    let node = Node::echo("go");
    // Hardly more than portico needs for itself.
    let (checks, listen) = (Checks::start(), free_address());
    let portico = Builder::new()
        .with(&checks.pool("p", &[node.address()], ""))
        .with(&tcp(listen, ""))
        .descriptors(140)
        .start();
    let clients: Vec<_> = (0..40_u64)
        .map(|seed| {
            thread::spawn(move || {
                let mut client = connect(listen);
                exact(&mut client, b"go");
                let bytes = noise(seed + 1, 400_000);
                let mut writer = client.try_clone().unwrap();
                let all = bytes.clone();
                let sending = thread::spawn(move || writer.write_all(&all));
                exact(&mut client, &bytes);
                sending.join().unwrap().unwrap();
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    wait_for(&portico, "connections", "", 0.0);
    assert!(!portico.stderr().contains("ERROR"), "{}", portico.stderr());
}
