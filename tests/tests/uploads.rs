//! Large uploads with a told length, plain and over TLS: every byte of them, and what becomes of them
//! when the client or the tool leaves in the middle, or the tool is slow.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::wire::Body;
use portico_tests::{CHECKSUM_START, MIB, SOON, body_bytes, checksum};

/// A portico with one worker: what one request leaves behind, the next one finds.
fn before(origin: &Origin, toml: &str) -> Portico {
    let builder = Builder::new().with("[server]\nworkers = 1").with(toml);
    builder.route("grid", &origin.url()).start()
}

fn head(length: u64) -> String {
    format!(
        "POST /up HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Says what it got, after it got all of it.
fn summary(connection: &mut Connection) {
    while let Some(request) = connection.read_request() {
        if !connection.send_text(&told_of(&request.body)) {
            return;
        }
    }
}

fn told_of(body: &Body) -> String {
    format!("{} {:016x}", body.length, body.checksum)
}

fn told(body: &[u8]) -> String {
    format!("{} {:016x}", body.len(), checksum(CHECKSUM_START, body))
}

/// Lengths around those of buffers, sent in pieces of all sizes, with the next request in the same
/// write as the end.
#[test]
fn every_byte_arrives_and_not_one_of_the_next_request() {
    const SMALL: usize = 16 << 10;
    const LARGE: usize = 62 << 10;
    let origin = Origin::scripted("summary", summary);
    let portico = before(&origin, "");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 33) as usize % below
    };
    let mut clients = [portico.tcp(), portico.tls()];
    let mut sum = 0;
    let edges = [
        SMALL,
        LARGE,
        SMALL + LARGE,
        2 * LARGE,
        256 << 10,
        1 << 20,
        (1 << 20) + SMALL,
    ];
    let near = edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]);
    let lengths = near.chain([1, 3 << 20, (5 << 20) + 7]);
    for length in lengths {
        let body = body_bytes(length);
        for client in &mut clients {
            let mut bytes = head(length as u64).into_bytes();
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(get(HOST, "/next").as_bytes());
            let mut rest = &bytes[..];
            // One in four goes out at once.
            let most = [usize::MAX, 3 * LARGE, 2 * SMALL, 5000 + length / 50][random(4)];
            while !rest.is_empty() {
                let n = rest.len().min(1 + random(most.min(rest.len())));
                let n = if most == usize::MAX { rest.len() } else { n };
                client.send(&rest[..n]);
                rest = &rest[n..];
            }
            assert_eq!(client.response().text(), told(&body), "{length}");
            assert_eq!(client.response().text(), told(b""), "behind {length}");
            sum += length;
        }
    }
    let targets: Vec<_> = origin
        .take()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert!(
        targets.chunks(2).all(|pair| pair == ["/up", "/next"]),
        "{targets:?}"
    );
    let counted = portico.metric("portico_request_body_bytes_total{route=\"tool\"}");
    assert_eq!(counted, Some(sum as f64));
}

/// The client leaves in the middle, cleanly or not: the tool never gets a whole request, and
/// connections of others are not touched.
#[test]
fn an_upload_that_breaks_off_breaks_off_for_the_tool() {
    let (tell, hear) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::scripted("cut", move |connection| {
        while let Some(mut request) = connection.read_head() {
            let whole = connection.read_body(&mut request);
            tell.lock()
                .unwrap()
                .send((whole, request.body.length))
                .unwrap();
            if !whole || !connection.send_text("whole") {
                return;
            }
        }
    });
    let portico = before(&origin, "");
    for reset in [false, true] {
        for mut client in [portico.tcp(), portico.tls()] {
            client.send(head(8 * MIB));
            client.send(body_bytes(3 << 20));
            if reset {
                client.reset();
            } else {
                client.shutdown_write();
            }
            let (whole, length) = hear.recv_timeout(SOON).unwrap();
            assert!(!whole && length <= 3 * MIB, "{whole} {length}");
            let mut other = portico.tcp();
            other.send(head(MIB));
            other.send(body_bytes(1 << 20));
            assert_eq!(other.response().text(), "whole");
            assert_eq!(hear.recv_timeout(SOON).unwrap(), (true, MIB));
        }
    }
    origin.forgive();
}

/// A tool that reads a part and closes, without an answer or with one: the client gets 502 or the
/// answer, and what was on its way to the tool is nobody's next request.
#[test]
fn a_tool_that_leaves_in_the_middle_of_an_upload() {
    for (answer, expected) in [
        ("", 502),
        ("HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n", 507),
    ] {
        let origin = Origin::scripted("leaves", move |connection| {
            let Some(request) = connection.read_head() else {
                return;
            };
            if request.target == "/next" {
                connection
                    .send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnext");
                return;
            }
            let mut got = 0;
            while got < 2 << 20 {
                match connection.wire.read_some() {
                    Ok(bytes) if !bytes.is_empty() => got += bytes.len(),
                    _ => return,
                }
            }
            connection.send(answer);
        });
        let portico = before(&origin, "");
        for mut client in [portico.tcp(), portico.tls()] {
            client.send(head(8 * MIB));
            let piece = body_bytes(64 << 10);
            for _ in 0..128 {
                if client.wire.send(&piece).is_err() {
                    break;
                }
            }
            assert_eq!(client.response().status, expected, "{answer:?}");
            assert_eq!(portico.tcp().exchange(get(HOST, "/next")).text(), "next");
        }
        origin.forgive();
    }
}

/// A tool that reads slowly gets it all; one that reads nothing more is given up after
/// `timeouts.response`.
#[test]
fn a_tool_that_reads_slowly_and_one_that_has_stopped() {
    let (_over, until_over) = mpsc::channel::<()>();
    let until_over = Mutex::new(until_over);
    let origin = Origin::scripted("slow", move |connection| {
        while let Some(mut request) = connection.read_head() {
            if request.target == "/stuck" {
                let _ = until_over.lock().unwrap().recv();
                return;
            }
            // The client fills all buffers on the way, and waits.
            thread::sleep(Duration::from_secs(2));
            if !connection.read_body(&mut request) {
                return;
            }
            connection.send_text(&told_of(&request.body));
        }
    });
    let portico = before(&origin, "[timeouts]\nresponse = '5s'");
    let body = body_bytes(24 << 20);
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(head(body.len() as u64));
        client.send(&body);
        assert_eq!(client.response().text(), told(&body));
    }
    let portico = before(&origin, "[timeouts]\nresponse = '1s'");
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(head(64 * MIB).replace("/up", "/stuck"));
        write_while_it_goes(&mut client);
        assert_eq!(client.response().status, 504);
    }
    origin.forgive();
}

/// Writes until nothing is taken any more.
fn write_while_it_goes(client: &mut Client) {
    let piece = body_bytes(64 << 10);
    let limit = Some(Duration::from_millis(500));
    client.wire.stream.tcp().set_write_timeout(limit).unwrap();
    for _ in 0..1024 {
        if client.wire.send(&piece).is_err() {
            return;
        }
    }
}
