//! Clients whose windows are open and who do not read: what waits for them is bounded, and so is the
//! time that it waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use portico_tests::http2::{Frame, Head, kind};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST};
use portico_tests::{MIB, SOON, eventually};

/// After `timeouts.write` the connection is closed and the tool is told.
#[test]
fn a_client_that_reads_nothing_is_closed() {
    let given_up = Arc::new(AtomicUsize::new(0));
    let origin = Origin::scripted("endless", {
        let given_up = Arc::clone(&given_up);
        move |connection| {
            if connection.read_request().is_none() {
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\n\r\n");
            while connection.send([0; 16_384]) {}
            given_up.fetch_add(1, Ordering::SeqCst);
        }
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nwrite = '1s'")
        .start();
    let mut client = portico.http2_bare().open_wide();
    let streams = 3;
    for _ in 0..streams {
        client.request(&Head::get(HOST, "/"), true);
    }
    eventually("the tool is told", SOON, || {
        (given_up.load(Ordering::SeqCst) == streams).then_some(())
    });
    // Who goes on to send finds nobody there.
    eventually("the connection is closed", SOON, || {
        client.try_send(&Frame::ping([0; 8])).err()
    });
}

/// A tool writes byte by byte, and each byte would be a frame: however few bytes wait, there must
/// not be many frames, each of which costs some hundred bytes.
#[test]
fn single_bytes_for_a_client_that_reads_nothing() {
    const STREAMS: usize = 10;
    const LENGTH: usize = 8_000;
    const FILL: usize = 12_000_000;
    let written = Arc::new(AtomicUsize::new(0));
    let origin = Origin::scripted("bytes", {
        let written = Arc::clone(&written);
        move |connection| {
            while let Some(request) = connection.read_request() {
                connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                if request.target == "/fill" {
                    connection.send(format!("{FILL:x}\r\n{}\r\n", "x".repeat(FILL)));
                } else {
                    for _ in 0..LENGTH {
                        connection.send("1\r\nx\r\n");
                        // So that they are read one by one.
                        thread::sleep(Duration::from_micros(20));
                    }
                    written.fetch_add(1, Ordering::SeqCst);
                }
                connection.send("0\r\n\r\n");
            }
        }
    });
    let portico = Builder::new().route("grid", &origin.url()).start();
    let mut client = portico.http2_bare().open_wide();
    client.windows = false;
    // The socket is full before the bytes come.
    let fill = client.request(&Head::get(HOST, "/fill"), true);
    client.head(fill);
    thread::sleep(Duration::from_millis(300));
    let before = portico.resident_bytes();
    let streams: Vec<u32> = (0..STREAMS)
        .map(|_| client.request(&Head::get(HOST, "/bytes"), true))
        .collect();
    let mut most = 0;
    eventually("the tool has written all", SOON, || {
        most = most.max(portico.resident_bytes());
        (written.load(Ordering::SeqCst) == STREAMS).then_some(())
    });
    assert!(
        most < before + 24 * MIB,
        "{before} bytes before, {most} at most"
    );
    let mut frames = 0;
    while !streams.iter().all(|&stream| client.so_far(stream).ended) {
        let frame = client.read_frame().unwrap().expect("all of it");
        frames += usize::from(frame.kind == kind::DATA && frame.stream != fill);
    }
    for stream in streams {
        assert_eq!(client.so_far(stream).body.length, LENGTH as u64);
    }
    assert_eq!(client.answer(fill).body.length, FILL as u64);
    // Single bytes before portico stops to read, many at once behind them.
    assert!(
        frames < STREAMS * 200,
        "{frames} frames waited for the client"
    );
}
