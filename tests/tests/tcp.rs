//! TCP listeners: what goes in comes out, in both directions and to its end; who may connect, where
//! to, and what becomes of connections when clients, nodes or portico go.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portico_tests::node::{Checks, Node, prepare};
use portico_tests::portico::{Builder, Portico};
use portico_tests::{CHECKSUM_START, MIB, SOON, checksum, eventually, free_address};

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
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::new(source, 0).into())
        .expect("bound");
    socket
        .connect_timeout(&to.into(), SOON)
        .expect("portico accepts");
    let socket = TcpStream::from(socket);
    prepare(&socket);
    socket
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

/// Whether the connection ended with a reset.
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

#[track_caller]
fn wait_for(portico: &Portico, metric: &str, labels: &str, value: f64) {
    eventually(&format!("{metric} {labels} is {value}"), SOON, || {
        (count(portico, metric, labels) == value).then_some(())
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
