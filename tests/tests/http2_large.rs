//! A GiB over HTTP/2, each way, in bounded memory.

use portico_tests::http2::{Frame, Head, Http2, MAX_FRAME, kind, setting};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{MIB, body_bytes};

const LENGTH: u64 = 1 << 30;
/// What portico may use more while it passes.
const MORE: u64 = 32 * MIB;
/// After so many bytes the pattern repeats ([`body_bytes`]).
const PERIOD: u64 = 251;

/// Bytes of a long body, from any place on.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Pattern {
        Pattern(body_bytes(256 * 1024))
    }

    fn at(&self, place: u64, length: usize) -> &[u8] {
        &self.0[(place % PERIOD) as usize..][..length]
    }
}

/// Sends and takes bodies of [`LENGTH`].
fn large(connection: &mut Connection) {
    let pattern = Pattern::new();
    while let Some(request) = connection.read_head() {
        if request.method == "GET" {
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ));
            let mut sent = 0;
            while sent < LENGTH {
                let now = (LENGTH - sent).min(128 * 1024) as usize;
                if !connection.send(pattern.at(sent, now)) {
                    return;
                }
                sent += now as u64;
            }
            continue;
        }
        assert_eq!(request.field("content-length"), Some(&*LENGTH.to_string()));
        let (mut taken, mut right) = (0, true);
        while taken < LENGTH {
            let bytes = connection.wire.read_some().unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            right &= bytes == pattern.at(taken, bytes.len());
            taken += bytes.len() as u64;
        }
        connection.send_text(if right { "as sent" } else { "changed" });
    }
}

/// Downloads into nowhere, comparing; gives the most memory in use.
fn download(client: &mut Http2, portico: &Portico) -> u64 {
    let pattern = Pattern::new();
    client.bodies = false;
    let stream = client.request(&Head::get(HOST, "/"), true);
    let (mut taken, mut most) = (0, 0);
    while !client.so_far(stream).ended {
        let frame = client.read_frame().unwrap().expect("all of it");
        if frame.kind == kind::DATA {
            assert!(
                frame.payload == pattern.at(taken, frame.payload.len()),
                "changed at {taken}"
            );
            let before = taken;
            taken += frame.payload.len() as u64;
            if before / (4 * MIB) != taken / (4 * MIB) {
                most = most.max(portico.resident_bytes());
            }
        }
    }
    assert_eq!(taken, LENGTH);
    most
}

/// Uploads within the windows; gives the most memory in use.
fn upload(client: &mut Http2, portico: &Portico) -> u64 {
    let pattern = Pattern::new();
    let head = Head::post(HOST, "/").with("content-length", LENGTH.to_string());
    let stream = client.request(&head, false);
    let (mut sent, mut most) = (0, 0);
    while sent < LENGTH {
        while client.room(stream) <= 0 {
            client.read_frame().unwrap().expect("leave to send");
        }
        let room = (client.room(stream) as u64).min(MAX_FRAME as u64);
        let now = room.min(LENGTH - sent) as usize;
        let end = sent + now as u64 == LENGTH;
        client.send(&Frame::data(stream, pattern.at(sent, now), end));
        if sent / (4 * MIB) != (sent + now as u64) / (4 * MIB) {
            most = most.max(portico.resident_bytes());
            client.drain().unwrap();
        }
        sent += now as u64;
    }
    client.bodies = true;
    let answer = client.answer(stream);
    assert_eq!((answer.status, answer.text().as_str()), (200, "as sent"));
    most
}

#[test]
fn a_gib_passes_each_way_in_bounded_memory() {
    let origin = Origin::scripted("large", large);
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nbody = '2GiB'")
        .start();
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(portico.http2().exchange(&healthz).status, 200);
    let before = portico.resident_bytes();
    let check = |what: &str, most: u64| {
        let more = most.saturating_sub(before);
        assert!(more < MORE, "{what}: {} KiB more", more >> 10);
        eprintln!("{what}: {} KiB more at most", more >> 10);
    };
    // With windows as a browser's.
    let mut client = portico.http2_with(&[(setting::INITIAL_WINDOW_SIZE, 6 << 20)]);
    check("download", download(&mut client, &portico));
    check("upload", upload(&mut client, &portico));
}
