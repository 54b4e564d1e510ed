//! Honest use of HTTP/2 that looks a little like the attacks of `http2_abuse.rs`: it passes.

use std::thread;
use std::time::{Duration, Instant};

use portico_tests::http2::{Frame, Head, Http2, Outcome, code, kind, setting};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, echo};

/// A client that opens its windows by a little all the time is slow, not dead.
#[test]
fn a_slow_window_is_no_dead_one() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nwrite = '4s'")
        .start();
    let mut client = portico.http2();
    client.windows = false;
    let stream = client.request(&Head::get(HOST, "/bytes/200000"), true);
    let mut taken = 65_535;
    while client.received < taken {
        client.read_frame().unwrap().unwrap();
    }
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(700));
        client.send(&Frame::window_update(0, 1000));
        client.send(&Frame::window_update(stream, 1000));
        taken += 1000;
        while client.received < taken {
            client.read_frame().unwrap().expect("not given up");
        }
    }
    client.send(&Frame::window_update(0, 1 << 20));
    client.send(&Frame::window_update(stream, 1 << 20));
    assert_eq!(client.answer(stream).body.length, 200_000);
}

/// Whoever reads slowly, so that portico's socket is full all the time, is not dead either.
#[test]
fn a_slow_reader_is_no_dead_one() {
    const STREAMS: usize = 60;
    const LENGTH: u64 = 1_000_000;
    let write = Duration::from_secs(3);
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nwrite = '3s'")
        .start();
    let mut client = portico.http2_bare().open_wide();
    client.windows = false;
    let head = Head::get(HOST, &format!("/bytes/{LENGTH}"));
    let streams: Vec<u32> = (0..STREAMS).map(|_| client.request(&head, true)).collect();
    let start = Instant::now();
    while start.elapsed() < 2 * write {
        let before = client.received;
        while client.received < before + 100_000 {
            client.read_frame().unwrap().expect("not given up");
        }
        thread::sleep(Duration::from_millis(40));
    }
    assert!(
        client.received < STREAMS as u64 * LENGTH / 2,
        "{} were no slow read",
        client.received
    );
    for stream in streams {
        assert_eq!(client.answer(stream).body.length, LENGTH);
    }
}

#[test]
fn a_thousand_requests_on_one_connection() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    for turn in 0..1000 {
        let body = turn % 3 == 0;
        let head = Head::new(if body { "POST" } else { "GET" }, HOST, "/bytes/10");
        let stream = client.request(&head, !body);
        if body {
            // As many clients end a request: with an empty frame.
            client.send(&Frame::data(stream, b"abc".to_vec(), false));
            client.send(&Frame::data(stream, [], true));
        }
        client.send(&Frame::priority(stream, 0));
        assert_eq!(client.answer(stream).status, 200, "{turn}");
    }
}

/// A browser that leaves a page cancels all of it, and goes on.
#[test]
fn a_page_that_is_left() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    for _ in 0..3 {
        let streams: Vec<u32> = (0..100)
            .map(|_| client.request(&Head::get(HOST, "/sleep/100"), true))
            .collect();
        for stream in streams {
            client.send(&Frame::rst(stream, code::CANCEL));
        }
        assert_eq!(client.exchange(&Head::get(HOST, "/")).status, 200);
    }
    // One in five of a long session, such as a map that is moved about.
    for turn in 0..500 {
        let stream = client.request(&Head::get(HOST, "/bytes/100"), true);
        if turn % 5 == 0 {
            client.send(&Frame::rst(stream, code::CANCEL));
        } else {
            assert_eq!(client.answer(stream).status, 200, "{turn}");
        }
    }
}

/// Small messages of a gRPC stream.
#[test]
fn an_upload_in_small_frames() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    for turn in 0..10_000 {
        client.send(&Frame::data(stream, b"x".to_vec(), false));
        // A burst now and then is fine; what waits unread is bounded, by the h2 crate.
        if turn % 200 == 0 {
            assert!(matches!(client.fate(), Outcome::Alive), "{turn}");
        }
    }
    client.send(&Frame::data(stream, [], true));
    assert_eq!(client.answer(stream).status, 200);
    assert_eq!(origin.take_one().body.length, 10_000);
}

/// A window update for each frame, and pings to measure the way, as some clients do.
#[test]
fn a_download_with_many_updates_and_pings() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    client.windows = false;
    let stream = client.request(&Head::get(HOST, "/bytes/20000000"), true);
    let (mut turn, mut small) = (0, 0);
    while !client.so_far(stream).ended {
        let frame = client.read_frame().unwrap().expect("all of it");
        if frame.kind == kind::DATA && !frame.payload.is_empty() {
            let length = frame.payload.len() as u32;
            client.send(&Frame::window_update(0, length));
            client.send(&Frame::window_update(stream, length));
            turn += 1;
            small += usize::from(length < 256);
            if turn % 20 == 0 {
                client.send(&Frame::ping([9; 8]));
            }
        }
    }
    assert_eq!(client.so_far(stream).body.length, 20_000_000);
    // A small frame opens the window by little, for which there must not be another small one.
    assert!(small < 400, "{small} of {turn} frames are small");
}

/// A window that was once opened by little: where each frame gives back what it brought, the little
/// must not go round as a small frame of its own for ever.
#[test]
fn a_silly_window_heals() {
    const WINDOW: u32 = 16_384;
    const LITTLE: u32 = 100;
    let (_origin, portico) = echo();
    let mut client = portico.http2_with(&[(setting::INITIAL_WINDOW_SIZE, WINDOW)]);
    client.windows = false;
    client.send(&Frame::window_update(0, 1 << 24));
    let stream = client.request(&Head::get(HOST, "/bytes/2000000"), true);
    let mut taken = 0;
    let mut take = |client: &mut Http2, room: u32| {
        taken += u64::from(room);
        while client.received < taken {
            client.read_frame().unwrap().unwrap();
        }
    };
    take(&mut client, WINDOW);
    let mut rooms = vec![WINDOW - 20 * LITTLE];
    rooms.extend([LITTLE; 20]);
    for &room in &rooms {
        client.send(&Frame::window_update(stream, room));
        take(&mut client, room);
    }
    // All frames are given back as they came, and so are all behind them.
    for room in rooms {
        client.send(&Frame::window_update(stream, room));
        thread::sleep(Duration::from_millis(1));
    }
    let mut small = 0;
    while !client.so_far(stream).ended {
        let frame = client.read_frame().unwrap().expect("all of it");
        if frame.kind == kind::DATA && !frame.payload.is_empty() {
            thread::sleep(Duration::from_millis(1));
            let length = frame.payload.len() as u32;
            client.send(&Frame::window_update(stream, length));
            small += usize::from(length < 256);
        }
    }
    assert_eq!(client.so_far(stream).body.length, 2_000_000);
    assert!(small < 200, "{small} frames are small");
}

/// A connection that is kept alive by a PING now and then, for long.
#[test]
fn pings_now_and_then() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    for _ in 0..60 {
        assert!(matches!(client.fate(), Outcome::Alive));
        thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(client.exchange(&Head::get(HOST, "/")).status, 200);
}

/// Old Firefox and nghttp2 begin with a tree of idle streams; all change their settings once.
#[test]
fn a_usual_beginning() {
    let (_origin, portico) = echo();
    let mut client = portico.http2_with(&[
        (setting::HEADER_TABLE_SIZE, 65_536),
        (setting::ENABLE_PUSH, 0),
        (setting::INITIAL_WINDOW_SIZE, 6_291_456),
        (setting::MAX_HEADER_LIST_SIZE, 262_144),
    ]);
    client.send(&Frame::window_update(0, 15_663_105));
    for stream in [3, 5, 7, 9, 11] {
        client.send(&Frame::priority(stream, 0));
    }
    client.skip_to(13);
    for _ in 0..20 {
        assert_eq!(
            client.exchange(&Head::get(HOST, "/bytes/100000")).status,
            200
        );
    }
}
