//! Flow control of RFC 9113 (5.2 and 6.9), both ways: what breaks it, and that it is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portico_tests::http2::rows::{Rows, Want};
use portico_tests::http2::{Frame, Head, Http2, Outcome, WINDOW, code, setting};
use portico_tests::origin::Origin;
use portico_tests::portico::{HOST, Portico, echo};
use portico_tests::{CHECKSUM_START, SOON, body_bytes, checksum, eventually};

const MAX: u32 = (1 << 31) - 1;

fn upload(client: &mut Http2) {
    client.request(&Head::post(HOST, "/up"), false);
}

#[test]
fn what_breaks_flow_control() {
    let mut rows = Rows::start();
    let flow = &[code::FLOW_CONTROL_ERROR];
    rows.row(
        "6.9",
        "an increment of 0 on a stream",
        Want::Either(1, &[code::PROTOCOL_ERROR]),
        |c| {
            upload(c);
            c.send(&Frame::window_update(1, 0));
        },
    );
    rows.row(
        "6.9",
        "an increment of 0 on the connection",
        Want::Connection(&[code::PROTOCOL_ERROR]),
        |c| {
            c.send(&Frame::window_update(0, 0));
        },
    );
    rows.row(
        "6.9",
        "the reserved bit of an increment is ignored",
        Want::Fine,
        |c| {
            c.send(&Frame::window_update(0, 1 << 31 | 5));
        },
    );
    rows.row(
        "6.9.1",
        "a stream's window over 2^31-1",
        Want::Either(1, flow),
        |c| {
            upload(c);
            c.send(&Frame::window_update(1, MAX));
        },
    );
    rows.row(
        "6.9.1",
        "the connection's window over 2^31-1",
        Want::Connection(flow),
        |c| {
            c.send(&Frame::window_update(0, MAX));
        },
    );
    rows.row(
        "6.9.1",
        "windows of exactly 2^31-1",
        Want::Status(1, 200),
        |c| {
            c.send(&Frame::window_update(0, MAX - WINDOW as u32));
            upload(c);
            c.send(&Frame::window_update(1, MAX - WINDOW as u32));
            c.send(&Frame::data(1, b"x".to_vec(), true));
        },
    );
    rows.row(
        "6.9.2",
        "settings that push a window over 2^31-1",
        Want::Connection(flow),
        |c| {
            upload(c);
            c.send(&Frame::window_update(1, 1 << 30));
            c.send(&Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, MAX)]));
        },
    );
    rows.finish();
}

/// The tool reads nothing and we send on without leave (6.9.1): stream or connection error.
#[test]
fn data_beyond_the_window_is_an_error() {
    let origin = Origin::scripted("stuck", |connection| {
        connection.read_head();
        std::thread::sleep(SOON);
    });
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    upload(&mut client);
    let frame = Frame::data(1, vec![0; 16_384], false).bytes();
    let before = portico.resident_bytes();
    let mut sent = 0;
    while sent < 64 << 20 && !client.is_over() && client.so_far(1).reset.is_none() {
        if client.try_send_bytes(&frame).is_err() || client.drain().is_err() {
            break;
        }
        sent += 16_384;
    }
    let found = client.outcome(1);
    assert!(
        matches!(found, Outcome::Reset(found) | Outcome::Goaway(found) if found == code::FLOW_CONTROL_ERROR),
        "after {sent} bytes: {found:?}"
    );
    let grown = portico.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 16, "{grown} MiB more");
}

/// What the client did not give leave for does not come; [`Http2`] fails where it does.
#[test]
fn windows_of_clients_are_kept() {
    let (_origin, portico) = echo();
    // Nothing at all, then one byte, then the rest.
    let mut client = portico.http2_with(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    client.windows = false;
    let stream = client.request(&Head::get(HOST, "/bytes/1000"), true);
    assert_eq!(client.head(stream).status, 200);
    client.fate();
    assert_eq!(
        client.so_far(stream).body.length,
        0,
        "6.9.2: no window, no DATA"
    );
    client.send(&Frame::window_update(stream, 1));
    while client.so_far(stream).body.length == 0 {
        client.read_frame().unwrap().unwrap();
    }
    client.fate();
    assert_eq!(client.so_far(stream).body.length, 1);
    client.send(&Frame::window_update(stream, 5000));
    let answer = client.answer(stream);
    assert_eq!(
        answer.body.checksum,
        checksum(CHECKSUM_START, &body_bytes(1000))
    );
    // An answer without a body needs no window.
    let head = Head::new("HEAD", HOST, "/bytes/1000");
    assert_eq!(client.exchange(&head).field("content-length"), Some("1000"));
}

/// 6.9.2: a window may become negative, and is filled from there.
#[test]
fn a_negative_window_is_no_window() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    client.windows = false;
    let stream = client.request(&Head::get(HOST, "/bytes/100000"), true);
    while client.so_far(stream).body.length < WINDOW as u64 {
        client.read_frame().unwrap().unwrap();
    }
    client.send(&Frame::window_update(0, 1 << 20));
    // -65,435 now.
    client.send(&Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
    client.send(&Frame::window_update(stream, 65_435));
    client.fate();
    client.fate();
    assert_eq!(client.so_far(stream).body.length, WINDOW as u64);
    client.send(&Frame::window_update(stream, 10));
    while client.so_far(stream).body.length == WINDOW as u64 {
        client.read_frame().unwrap().unwrap();
    }
    client.fate();
    assert_eq!(client.so_far(stream).body.length, WINDOW as u64 + 10);
    // A larger initial window opens it at once.
    client.send(&Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 100_000)]));
    assert_eq!(client.answer(stream).body.length, 100_000);
}

/// The connection's window is one for all streams (5.2.1).
#[test]
fn the_connections_window_is_kept() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    client.windows = false;
    let streams: Vec<u32> = (0..3)
        .map(|_| client.request(&Head::get(HOST, "/bytes/40000"), true))
        .collect();
    while client.received < WINDOW as u64 {
        client.read_frame().unwrap().unwrap();
    }
    client.fate();
    assert_eq!(client.received, WINDOW as u64);
    client.send(&Frame::window_update(0, 1 << 20));
    for stream in streams {
        assert_eq!(client.answer(stream).body.length, 40_000);
    }
}

/// Padding counts as DATA (6.9.1): who forgets to give it back stalls the upload.
#[test]
fn padding_is_given_back_to_the_window() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    for _ in 0..2000 {
        while client.room(stream) < 300 {
            client
                .read_frame()
                .unwrap()
                .expect("the window opens again");
        }
        client.send(&Frame::data(stream, b"x".to_vec(), false).padded(255));
        client.drain().unwrap();
    }
    client.send(&Frame::data(stream, [], true));
    assert_eq!(client.answer(stream).status, 200);
    assert_eq!(origin.take_one().body.length, 2000);
}

/// The window follows the tool: a tool that does not read stops the client, others go on.
#[test]
fn a_tool_that_does_not_read_stops_its_upload_only() {
    let go = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&go);
    let origin = Origin::scripted("gated", move |connection| {
        while let Some(mut request) = connection.read_head() {
            if request.target == "/slow" {
                eventually("the test lets it go on", SOON, || {
                    gate.load(Ordering::SeqCst).then_some(())
                });
            }
            connection.read_body(&mut request);
            connection.send_text(&request.body.length.to_string());
        }
    });
    let portico = Portico::before(&origin);
    let before = portico.resident_bytes();
    let mut client = portico.http2();
    let slow = client.request(&Head::post(HOST, "/slow"), false);
    let mut sent: u64 = 0;
    // Until nothing more is allowed for a while.
    client.stream.set_read_timeout(Duration::from_millis(700));
    while sent < 64 << 20 {
        let room = client.room(slow).min(16_384);
        if room > 0 {
            client.send(&Frame::data(slow, vec![0; room as usize], false));
            client.drain().unwrap();
            sent += room as u64;
        } else if client.read_frame().is_err() {
            break;
        }
    }
    assert!(sent < 64 << 20, "no flow control");
    let grown = portico.resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 16, "{grown} MiB more");
    client.stream.set_read_timeout(SOON);
    // The connection's window is not eaten up by one stream (5.2.2).
    let other = client.request(&Head::post(HOST, "/other"), false);
    client.send_body(other, &vec![0; 300_000], true);
    assert_eq!(client.answer(other).text(), "300000");
    go.store(true, Ordering::SeqCst);
    client.send_body(slow, b"end", true);
    assert_eq!(client.answer(slow).text(), (sent + 3).to_string());
}

/// A stream that its client does not read holds nobody up (5.2.2).
#[test]
fn a_slow_reader_does_not_slow_other_streams() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    client.windows = false;
    let slow: Vec<u32> = (0..5)
        .map(|_| client.request(&Head::get(HOST, "/bytes/10000000"), true))
        .collect();
    while client.received < WINDOW as u64 {
        client.read_frame().unwrap().unwrap();
    }
    client.send(&Frame::window_update(0, 100 << 20));
    // Each takes what its own window allows, and stops there.
    while client.received < 5 * WINDOW as u64 {
        client.read_frame().unwrap().unwrap();
    }
    for _ in 0..20 {
        let stream = client.request(&Head::get(HOST, "/bytes/60000"), true);
        assert_eq!(client.answer(stream).body.length, 60_000);
    }
    client.windows = true;
    for stream in &slow {
        client.send(&Frame::window_update(*stream, 1 << 20));
    }
    for stream in slow {
        assert_eq!(client.answer(stream).body.length, 10_000_000);
    }
}

/// A larger frame size than the smallest is used only when it is allowed; both are legal.
#[test]
fn frames_stay_within_the_clients_size() {
    let (_origin, portico) = echo();
    let mut client = portico.http2_with(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    client.send(&Frame::window_update(0, 10 << 20));
    // [`Http2::read_frame`] fails on a longer frame.
    assert_eq!(
        client
            .exchange(&Head::get(HOST, "/bytes/5000000"))
            .body
            .length,
        5_000_000
    );
}
