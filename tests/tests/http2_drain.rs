//! How an HTTP/2 connection ends when nobody is at fault (RFC 9113, 6.8).

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::http2::{Frame, Head, code};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{SOON, eventually};

#[test]
fn sigterm_says_goaway_and_lets_streams_finish() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let mut client = portico.http2();
    let mut idle = portico.http2();
    let waiting = client.request(&Head::get(HOST, "/sleep/1500"), true);
    let upload = client.request(&Head::post(HOST, "/up"), false);
    client.send(&Frame::data(upload, b"01234".to_vec(), false));
    let download = client.request(&Head::get(HOST, "/bytes/20000000"), true);
    eventually("all are at the tool", SOON, || {
        (origin.heads() == 3).then_some(())
    });
    portico.terminate();
    while client.goaways.is_empty() {
        client.read_frame().unwrap().expect("GOAWAY before the end");
    }
    assert_eq!(client.goaways[0].1, code::NO_ERROR);
    client.send(&Frame::data(upload, b"56789".to_vec(), true));
    assert_eq!(client.answer(waiting).status, 200);
    assert_eq!(client.answer(upload).status, 200);
    assert_eq!(client.answer(download).body.length, 20_000_000);
    client.expect_goaway(&[code::NO_ERROR]);
    let last = client.goaways.last().unwrap().0;
    assert!(last >= download, "the last stream is {last}");
    idle.expect_goaway(&[code::NO_ERROR]);
    assert!(portico.wait(SOON).success());
}

/// Requests without a pause until the end: what GOAWAY counts as accepted is answered, and only
/// what it does not is lost (6.8), so that a client knows what to repeat.
#[test]
fn sigterm_under_load_loses_no_accepted_stream() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = portico.http2();
                scope.spawn(move || {
                    let mut streams = Vec::new();
                    while client.goaways.is_empty() {
                        let stream = client.next_stream();
                        client.expect_head(stream, &Head::default());
                        let head = Head::get(HOST, "/x");
                        if client
                            .try_send(&Frame::headers(stream, &head, true))
                            .is_err()
                        {
                            break;
                        }
                        streams.push(stream);
                        // Some in flight at any time.
                        while streams.len() >= 8 && !client.so_far(streams[streams.len() - 8]).ended
                        {
                            if !matches!(client.read_frame(), Ok(Some(_))) {
                                return (client, streams);
                            }
                        }
                    }
                    while let Ok(Some(_)) = client.read_frame() {}
                    (client, streams)
                })
            })
            .collect();
        eventually("a load runs", SOON, || {
            (origin.heads() > 1000).then_some(())
        });
        portico.terminate();
        for client in clients {
            let (client, streams) = client.join().unwrap();
            let last = client.goaways.last().expect("GOAWAY").0;
            for stream in streams {
                let answer = client.so_far(stream);
                let lost = !(answer.ended && answer.status == 200);
                // Refused is as good as not accepted (8.7).
                let refused = answer.reset == Some(code::REFUSED_STREAM);
                assert!(
                    !lost || stream > last || refused,
                    "stream {stream} of {last}: {answer:?}"
                );
            }
        }
    });
    assert!(portico.wait(SOON).success());
}

#[test]
fn idle_connections_are_closed() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nkeep_alive = '600ms'")
        .start();
    let mut client = portico.http2();
    assert_eq!(client.exchange(&Head::get(HOST, "/")).status, 200);
    // A stream keeps it open, however long it takes.
    let start = Instant::now();
    assert_eq!(client.exchange(&Head::get(HOST, "/sleep/1500")).status, 200);
    client.expect_goaway(&[code::NO_ERROR]);
    assert!(
        start.elapsed() >= Duration::from_millis(1500 + 600),
        "{:?}",
        start.elapsed()
    );
    // One that never says anything, and one that only pings.
    let mut silent = portico.http2();
    silent.expect_goaway(&[code::NO_ERROR]);
}

/// The end of the last stream begins the idle time, also where the client has its answer long
/// before and nothing follows.
#[test]
fn the_idle_time_begins_with_the_end_of_the_last_stream() {
    let portico = Builder::new()
        .with("[timeouts]\nkeep_alive = '500ms'\n[limits]\nbody = '1KiB'")
        .start();
    let mut client = portico.http2();
    let head = Head::post(HOST, "/").with("content-length", "2000");
    let stream = client.request(&head, false);
    assert_eq!(client.answer(stream).status, 413);
    client.send_body(stream, &[0; 2000], true);
    client.expect_goaway(&[code::NO_ERROR]);
}
