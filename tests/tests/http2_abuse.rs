//! Attacks with frames that are legal one by one (RFC 9113, 10.5): each ends its connection, the
//! tools see little or nothing, memory comes back, and others are served meanwhile. The reverse is
//! in `http2_honest.rs`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::http2::{
    Frame, Head, Http2, MAX_FRAME, Outcome, PREFACE, code, flag, kind, setting,
};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{MIB, SOON, body_bytes, eventually};

const CALM: &[u32] = &[code::ENHANCE_YOUR_CALM];
/// How many requests of one attacking connection a tool may see at most.
const HEADS: usize = 100;
/// What may stay in use behind an attack: caches of the allocator, pages of code.
const LEFT: u64 = 24 * MIB;

/// One worker, so that the attacker and the others share it.
fn site(toml: &str) -> (Origin, Origin, Portico) {
    let (origin, other) = (Origin::echo("grid"), Origin::echo("other"));
    let portico = Builder::new()
        .route("grid", &origin.url())
        .route("other", &other.url())
        .with("[server]\nworkers = 1")
        .with(toml)
        .start();
    (origin, other, portico)
}

/// Asks for something again and again until told to stop; gives the longest wait.
fn bystander(portico: &Portico, stop: &AtomicBool, served: &AtomicUsize) -> Duration {
    let mut longest = Duration::ZERO;
    let mut client = portico.http2();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = client.exchange(&Head::get("other.toolforge.org", "/bytes/1000"));
        assert_eq!(answer.body.length, 1000);
        longest = longest.max(start.elapsed());
        served.fetch_add(1, Ordering::Relaxed);
    }
    longest
}

/// Runs an attack on two connections, one after the other. Each must end with one of these codes.
#[track_caller]
fn check(what: &str, codes: &[u32], attack: impl Fn(&mut Http2)) {
    let (origin, _other, portico) = site("");
    assert_eq!(portico.http2().exchange(&Head::get(HOST, "/")).status, 200);
    let (before, heads) = (portico.resident_bytes(), origin.heads());
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let others = scope.spawn(|| bystander(&portico, &stop, &served));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                let mut client = portico.http2();
                attack(&mut client);
                client.expect_goaway(codes);
            }
            let so_far = served.load(Ordering::Relaxed);
            eventually("others are served behind it", SOON, || {
                (served.load(Ordering::Relaxed) > so_far).then_some(())
            });
        }));
        stop.store(true, Ordering::Relaxed);
        let longest = others.join().expect("others are served");
        if let Err(panic) = ended {
            eprintln!("--- {what}");
            std::panic::resume_unwind(panic);
        }
        assert!(
            longest < Duration::from_secs(5),
            "{what}: others waited {longest:?}"
        );
    });
    let seen = origin.heads() - heads;
    assert!(seen <= 2 * HEADS, "{what}: {seen} requests at the tool");
    let after = eventually_small(&portico, before);
    assert!(
        after <= before + LEFT,
        "{what}: {before} bytes before, {after} behind it"
    );
    // What reached the tool at all is no malformed request.
    origin.forgive();
}

/// Memory in use, once it stopped shrinking.
fn eventually_small(portico: &Portico, before: u64) -> u64 {
    let start = Instant::now();
    loop {
        let now = portico.resident_bytes();
        if now <= before + LEFT || start.elapsed() > Duration::from_secs(5) {
            return now;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn bytes(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::bytes).collect()
}

/// A request on the stream of this turn, and a frame behind it.
fn request_and(
    turn: u32,
    head: &Head,
    end: bool,
    behind: impl FnOnce(u32) -> Option<Frame>,
) -> Vec<u8> {
    let stream = 2 * turn + 1;
    let mut out = Frame::headers(stream, head, end).bytes();
    out.extend(behind(stream).iter().flat_map(Frame::bytes));
    out
}

// --- resets

#[test]
fn rapid_reset() {
    let head = Head::get(HOST, "/");
    check("HEADERS, RST_STREAM", CALM, |c| {
        c.expect_head(19_999, &head);
        c.flood_with(10_000, |turn| {
            request_and(turn, &head, true, |id| Some(Frame::rst(id, code::CANCEL)))
        });
    });
}

/// The same with a body that is never sent: nothing is answered, so nothing is completed.
#[test]
fn rapid_reset_of_uploads() {
    let head = Head::post(HOST, "/").with("content-length", "1000");
    check("POST, RST_STREAM", CALM, |c| {
        c.expect_head(19_999, &head);
        c.flood_with(10_000, |turn| {
            request_and(turn, &head, false, |id| {
                Some(Frame::rst(id, code::NO_ERROR))
            })
        });
    });
}

/// Resets that portico itself is made to send ("MadeYouReset").
#[test]
fn provoked_resets() {
    let (get, post) = (Head::get(HOST, "/"), Head::post(HOST, "/"));
    type Provoke<'a> = (&'a str, &'a Head, bool, fn(u32) -> Option<Frame>);
    let upper = post.clone().with("UPPER", "x");
    let hop = post.clone().with("connection", "close");
    let short = post.clone().with("content-length", "1");
    let cases: &[Provoke<'_>] = &[
        ("WINDOW_UPDATE by 0", &post, false, |id| {
            Some(Frame::window_update(id, 0))
        }),
        ("a window that overflows", &post, false, |id| {
            Some(Frame::window_update(id, (1 << 31) - 1))
        }),
        ("DATA behind the end", &get, true, |id| {
            Some(Frame::data(id, b"x".to_vec(), true))
        }),
        ("HEADERS behind the end", &get, true, |id| {
            Some(Frame::headers(id, &Head::default().with("x", "y"), true))
        }),
        ("PRIORITY of a wrong size", &post, false, |id| {
            Some(Frame::new(kind::PRIORITY, 0, id, vec![0; 4]))
        }),
        ("a stream that depends on itself", &post, false, |id| {
            Some(Frame::priority(id, id))
        }),
        ("an upper-case name", &upper, true, |_| None),
        ("a field of the connection", &hop, true, |_| None),
        ("more than Content-Length", &short, false, |id| {
            Some(Frame::data(id, b"four".to_vec(), true))
        }),
    ];
    for (what, head, end, behind) in cases {
        // What RFC 9113 makes a connection error by itself is as good an end.
        let codes = &[
            code::ENHANCE_YOUR_CALM,
            code::PROTOCOL_ERROR,
            code::STREAM_CLOSED,
            code::FRAME_SIZE_ERROR,
            code::FLOW_CONTROL_ERROR,
        ];
        check(what, codes, |c| {
            c.expect_head(19_999, head);
            c.flood_with(10_000, |turn| request_and(turn, head, *end, behind));
        });
    }
}

/// Streams over the limit are refused, not for ever.
#[test]
fn refused_streams() {
    let head = Head::get(HOST, "/sleep/30000");
    check("streams over the limit", CALM, |c| {
        c.expect_head(19_999, &head);
        c.flood_with(10_000, |turn| request_and(turn, &head, true, |_| None));
    });
}

// --- field blocks

#[test]
fn continuations_without_end() {
    let begin = |client: &mut Http2| {
        let block = Head::get(HOST, "/").block();
        client.send(&Frame::new(kind::HEADERS, flag::END_STREAM, 1, block));
    };
    // A literal of 16,000 bytes in each; one byte in each; nothing in each.
    let large = Head::default().with("x", "y".repeat(16_000)).block();
    // The bytes of one long string, one by one.
    let mut long = b"\x00\x01x".to_vec();
    long.extend([0x7f, 0x81, 0xff, 0xff, 0x07]);
    for (what, piece, times) in [
        ("large", large, 1000),
        ("of one byte", b"a".to_vec(), 100_000),
        ("empty", Vec::new(), 100_000),
    ] {
        let what = format!("CONTINUATION frames, {what}");
        check(&what, CALM, |c| {
            begin(c);
            if piece.len() == 1 {
                c.send(&Frame::continuation(1, long.clone(), false));
            }
            c.flood(&Frame::continuation(1, piece.clone(), false).bytes(), times);
        });
    }
}

/// 431 as over HTTP/1.1 while the list can be read; far above it the connection may end too.
#[test]
fn field_lists_that_are_too_large() {
    let (origin, _other, portico) = site("");
    let heads = origin.heads();
    let mut client = portico.http2();
    for size in [33_000, 40_000, 60_000] {
        let head = Head::get(HOST, "/").with("x", "y".repeat(size));
        assert_eq!(client.exchange(&head).status, 431, "{size}");
    }
    let many = (0..3000).fold(Head::get(HOST, "/"), |head, i| {
        head.with("x", i.to_string())
    });
    let stream = client.request(&many, true);
    let found = client.outcome(stream);
    assert!(
        matches!(&found, Outcome::Answer(answer) if answer.status == 431)
            || matches!(found, Outcome::Goaway(_)),
        "{found:?}"
    );
    for size in [100_000, 1_000_000, 8_000_000] {
        let mut client = portico.http2();
        let head = Head::get(HOST, "/").with("x", "y".repeat(size));
        let block = head.block();
        client.expect_head(1, &head);
        let mut first = true;
        let mut pieces = block.chunks(16_384).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() {
                flag::END_HEADERS
            } else {
                0
            };
            let frame = if first {
                Frame::new(kind::HEADERS, flags | flag::END_STREAM, 1, piece)
            } else {
                Frame::new(kind::CONTINUATION, flags, 1, piece)
            };
            first = false;
            if client.try_send(&frame).is_err() || client.drain().is_err() {
                break;
            }
        }
        let found = client.outcome(1);
        let right = match &found {
            Outcome::Answer(answer) => answer.status == 431,
            Outcome::Goaway(code) => CALM.contains(code),
            Outcome::Reset(_) | Outcome::Closed | Outcome::Alive => false,
        };
        assert!(right, "{size}: {found:?}");
    }
    assert_eq!(origin.heads(), heads);
}

/// One field of 4,000 bytes in the dynamic table, named thousands of times by one byte each.
#[test]
fn a_field_block_that_grows_when_it_is_read() {
    let (origin, _other, portico) = site("");
    let heads = origin.heads();
    let before = portico.resident_bytes();
    let mut most = before;
    for _ in 0..20 {
        let mut client = portico.http2();
        let mut block = Head::get(HOST, "/").block();
        // Literal with incremental indexing: "x: aaa...".
        let mut literal = Head::default().with("x", "a".repeat(3900)).block();
        literal[0] = 0x40;
        block.extend(literal);
        block.extend(vec![0xbe; 12_000]);
        client.expect_head(1, &Head::get(HOST, "/"));
        let frame = Frame::new(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            1,
            block,
        );
        client.send(&frame);
        let found = client.outcome(1);
        most = most.max(portico.resident_bytes());
        let right = match &found {
            Outcome::Answer(answer) => answer.status == 431,
            Outcome::Goaway(_) => true,
            _ => false,
        };
        assert!(right, "{found:?}");
    }
    assert_eq!(origin.heads(), heads);
    assert!(
        most < before + LEFT,
        "{before} bytes before, {most} at most"
    );
}

// --- frames that ask for work and carry nothing

#[test]
fn floods_of_small_frames() {
    let open = |client: &mut Http2| {
        client.request(&Head::post(HOST, "/"), false);
    };
    let toggled = [
        Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]),
        Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 30)]),
    ];
    for (what, frames, times) in [
        ("SETTINGS", vec![Frame::settings(&[])], 50_000),
        ("SETTINGS that change windows", toggled.to_vec(), 20_000),
        ("PING", vec![Frame::ping([0; 8])], 50_000),
        (
            "PING acknowledgements",
            vec![Frame::new(kind::PING, flag::ACK, 0, [0; 8])],
            100_000,
        ),
        ("PRIORITY", vec![Frame::priority(1, 0)], 100_000),
        (
            "PRIORITY of idle streams",
            vec![Frame::priority(901, 0)],
            100_000,
        ),
        ("empty DATA", vec![Frame::data(1, [], false)], 100_000),
        (
            "WINDOW_UPDATE of the connection",
            vec![Frame::window_update(0, 1)],
            100_000,
        ),
        (
            "WINDOW_UPDATE of a stream",
            vec![Frame::window_update(1, 1)],
            100_000,
        ),
        (
            "unknown frames",
            vec![Frame::new(0x42, 0, 0, b"?".to_vec())],
            100_000,
        ),
        (
            "unknown frames of a stream",
            vec![Frame::new(0xfa, 0, 1, [])],
            100_000,
        ),
        (
            "RST_STREAM of a closed stream",
            vec![Frame::rst(1, 8)],
            100_000,
        ),
        ("GOAWAY", vec![Frame::goaway(0, 0)], 100_000),
    ] {
        // GOAWAY is the last word: that connection may as well end politely.
        let codes = &[code::ENHANCE_YOUR_CALM, code::NO_ERROR];
        let codes = if what == "GOAWAY" { &codes[..] } else { CALM };
        check(what, codes, |c| {
            open(c);
            c.flood(&bytes(&frames), times);
        });
    }
}

/// Whoever floods can read why it is sent away: what it has sent meanwhile does not turn the close
/// into a reset, which would destroy what is still on its way.
#[test]
fn a_flood_can_read_why_it_ended() {
    let (_origin, _other, portico) = site("");
    let mut client = portico.http2_bare().open_wide();
    client.windows = false;
    // So much that GOAWAY has to wait in portico's socket until the client reads.
    for _ in 0..4 {
        client.request(&Head::get(HOST, "/bytes/200000"), true);
    }
    thread::sleep(Duration::from_millis(300));
    let flood = Frame::ping([0; 8]).bytes().repeat(100_000);
    let sent = client.try_send_bytes(&flood);
    client.expect_goaway(CALM);
    assert!(sent.is_ok(), "{sent:?}");
}

/// Padding only: it eats the window, and is given back.
#[test]
fn a_flood_of_padding() {
    check("DATA of padding", CALM, |c| {
        let stream = c.request(&Head::post(HOST, "/"), false);
        let frame = Frame::data(stream, [], false).padded(255).bytes();
        for _ in 0..100_000 {
            while c.room(stream) < 256 {
                if !matches!(c.read_frame(), Ok(Some(_))) || c.is_over() {
                    return;
                }
            }
            let frame_of = Frame::data(stream, [], false).padded(255);
            assert_eq!(frame_of.bytes(), frame);
            if c.try_send(&frame_of).is_err() || c.is_over() {
                return;
            }
        }
    });
}

/// Whoever asks and never reads the answers: nothing piles up.
#[test]
fn a_client_that_never_reads() {
    for frame in [Frame::ping([0; 8]), Frame::settings(&[])] {
        let (_origin, _other, portico) = site("[timeouts]\nwrite = '1s'");
        portico.http2().exchange(&Head::get(HOST, "/"));
        let before = portico.resident_bytes();
        let mut client = portico.http2();
        client
            .stream
            .tcp()
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let chunk = frame.bytes().repeat(1000);
        let mut most = before;
        let mut sent = 0;
        while sent < 1000 && client.try_send_bytes(&chunk).is_ok() {
            most = most.max(portico.resident_bytes());
            sent += 1;
        }
        // Whether it was told or not: that is the end.
        client.stream.set_read_timeout(SOON);
        while let Ok(Some(_)) = client.read_frame() {}
        assert!(
            client.is_over() || client.try_send_bytes(&chunk).is_err(),
            "after {sent}"
        );
        assert!(
            most < before + LEFT,
            "{before} bytes before, {most} at most"
        );
        assert_eq!(portico.http2().exchange(&Head::get(HOST, "/")).status, 200);
    }
}

// --- waiting for ever

/// Many large answers and no window for any: they are given up after `timeouts.write`, at the tool
/// too.
#[test]
fn a_window_that_never_opens() {
    let stopped = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&stopped);
    let origin = Origin::scripted("pours", move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let block = body_bytes(100_000);
        while connection.send(&block) {}
        count.fetch_add(1, Ordering::SeqCst);
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[server]\nworkers = 1\n[timeouts]\nwrite = '700ms'")
        .start();
    for settings in [&[(setting::INITIAL_WINDOW_SIZE, 0)][..], &[]] {
        stopped.store(0, Ordering::SeqCst);
        let before = portico.resident_bytes();
        let mut client = portico.http2_with(settings);
        client.windows = false;
        let start = Instant::now();
        let streams: Vec<u32> = (0..100)
            .map(|_| client.request(&Head::get(HOST, "/"), true))
            .collect();
        let mut most = before;
        eventually("all are given up at the tool", SOON, || {
            most = most.max(portico.resident_bytes());
            (stopped.load(Ordering::SeqCst) == 100).then_some(())
        });
        assert!(
            start.elapsed() >= Duration::from_millis(700),
            "{:?}",
            start.elapsed()
        );
        // 100 streams with some 200 KiB each at most: what was read and cannot go on.
        assert!(
            most < before + 32 * MIB,
            "{before} bytes before, {most} at most"
        );
        for stream in streams {
            let found = client.outcome(stream);
            assert!(
                matches!(
                    found,
                    Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed
                ),
                "{found:?}"
            );
        }
        let after = eventually_small(&portico, before);
        assert!(
            after <= before + LEFT,
            "{before} bytes before, {after} behind it"
        );
    }
}

#[test]
fn slow_beginnings_are_cut() {
    let (origin, _other, portico) =
        site("[timeouts]\nheader = '600ms'\nhandshake = '600ms'\nkeep_alive = '600ms'");
    let head = Head::get(HOST, "/");
    let block = head.block();
    type Begin<'a> = (&'a str, &'a dyn Fn(&mut Http2));
    let cases: &[Begin<'_>] = &[
        ("nothing behind the handshake", &|_| {}),
        ("half a preface", &|c| {
            c.try_send_bytes(&PREFACE[..10]).unwrap()
        }),
        ("a preface and no SETTINGS", &|c| {
            c.try_send_bytes(PREFACE).unwrap()
        }),
        ("half a frame", &|c| {
            c.start(&[]);
            c.try_send_bytes(&Frame::headers(1, &head, true).bytes()[..20])
                .unwrap();
        }),
        ("half a field block", &|c| {
            c.start(&[]);
            c.send(&Frame::new(
                kind::HEADERS,
                flag::END_STREAM,
                1,
                &block[..20],
            ));
        }),
    ];
    for (what, begin) in cases {
        let start = Instant::now();
        let mut client = portico.http2_bare();
        client.acks = false;
        begin(&mut client);
        while let Ok(Some(_)) = client.read_frame() {}
        let taken = start.elapsed();
        assert!(
            taken >= Duration::from_millis(600) && taken < Duration::from_secs(10),
            "{what}: {taken:?}"
        );
    }
    // Byte by byte, each in time: the time of a head is total.
    let mut client = portico.http2();
    let start = Instant::now();
    for byte in Frame::headers(1, &head.with("x", "y".repeat(200)), true).bytes() {
        if client.try_send_bytes(&[byte]).is_err() || start.elapsed() > Duration::from_secs(6) {
            break;
        }
        thread::sleep(Duration::from_millis(60));
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "slowly sent heads have no end"
    );
    assert_eq!(origin.heads(), 0);
}

/// Frames of other kinds do not make a silent connection a busy one for ever: what is no request
/// does not count (or the budgets of this file end it).
#[test]
fn a_body_that_stalls_is_cut() {
    let gone = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&gone);
    let origin = Origin::scripted("waits", move |connection| {
        connection.read_request();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nbody_idle = '500ms'")
        .start();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    client.send(&Frame::data(stream, b"abc".to_vec(), false));
    let found = client.outcome(stream);
    let right = match &found {
        Outcome::Answer(answer) => answer.status == 408,
        Outcome::Reset(code) => *code != code::NO_ERROR,
        _ => false,
    };
    assert!(right, "{found:?}");
    eventually("the tool's connection ends too", SOON, || {
        (gone.load(Ordering::SeqCst) == 1).then_some(())
    });
    assert!(origin.take().is_empty(), "the tool got a complete request");
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(client.exchange(&healthz).status, 200);
}

// --- descriptors

/// Each stream may need a connection to a tool. However many there are, new clients are accepted.
#[test]
fn streams_that_wait_leave_descriptors_for_other_clients() {
    let origin = Origin::echo("grid");
    // 64 are for the process itself, two thirds of the others for clients: 80 are left for tools. The
    // administration would have some more.
    let portico = Builder::new()
        .with("[listen]\nadmin = ''")
        .route("grid", &origin.url())
        .descriptors(300)
        .start();
    let mut client = portico.http2();
    let streams: Vec<u32> = (0..100)
        .map(|_| client.request(&Head::get(HOST, "/sleep/1500"), true))
        .collect();
    let mut second = portico.http2();
    for _ in 0..100 {
        second.request(&Head::get(HOST, "/sleep/1500"), true);
    }
    eventually("the tool is asked", SOON, || {
        (origin.heads() > 70).then_some(())
    });
    let mut others: Vec<Http2> = (0..60).map(|_| portico.http2()).collect();
    for other in &mut others {
        let answer = other.exchange(&Head::get(HOST, "/.well-known/healthz"));
        assert_eq!(answer.status, 200);
    }
    let statuses: Vec<u16> = streams.iter().map(|&id| client.answer(id).status).collect();
    assert!(
        statuses.iter().all(|status| matches!(status, 200 | 503)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        origin.heads() <= 80,
        "{} requests at the tool",
        origin.heads()
    );
}

// --- what one byte can hold

/// A tool that takes nothing keeps what its client has sent in memory. Sent as single bytes between
/// large frames for another tool, each byte would keep the buffer that it was read into.
#[test]
fn single_bytes_for_a_tool_that_takes_nothing() {
    const BYTES: usize = 8000;
    let stalled = Origin::scripted("stalled", |connection| {
        while connection.read_head().is_some() {
            thread::sleep(Duration::from_secs(30));
        }
    });
    let taking = Origin::scripted("taking", Connection::wait_for_close);
    let portico = Builder::new()
        .route("grid", &stalled.url())
        .route("other", &taking.url())
        .with("[server]\nworkers = 1\n[limits]\nbody = '1GiB'")
        .start();
    let mut client = portico.http2();
    let slow = client.request(&Head::post(HOST, "/"), false);
    let fast = client.request(&Head::post("other.toolforge.org", "/"), false);
    // As much as the kernel takes: then the window stays as it is.
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(500) {
        client.drain().unwrap();
        // Portico gives room again when half of it is used.
        if client.room(slow) > 100_000 {
            client.send_body(slow, &[b'x'; 16_384], false);
            last = Instant::now();
        }
    }
    let before = portico.resident_bytes();
    for _ in 0..BYTES {
        while client.room(fast) < MAX_FRAME as i64 {
            client.read_frame().unwrap().expect("leave to send");
        }
        client.send(&Frame::data(fast, [b'x'; MAX_FRAME], false));
        client.send(&Frame::data(slow, *b"x", false));
        client.drain().unwrap();
    }
    let after = portico.resident_bytes();
    assert!(
        after <= before + LEFT,
        "{before} bytes before, {after} behind {BYTES} single bytes"
    );
    stalled.forgive();
    taking.forgive();
}

/// Interim answers have no windows: what a client does not read of them waits in memory.
#[test]
fn interim_answers_for_a_client_that_never_reads() {
    let origin = Origin::scripted("hints", |connection| {
        if connection.read_head().is_some() {
            let hints = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n",
                "x".repeat(30_000)
            );
            while connection.send(&hints) {}
        }
    });
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    assert_eq!(
        client
            .exchange(&Head::get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
    let before = portico.resident_bytes();
    let streams: Vec<u32> = (0..30)
        .map(|_| client.request(&Head::get(HOST, "/"), true))
        .collect();
    eventually("the tool is given up", SOON, || {
        (origin.connections() == streams.len()).then_some(())
    });
    thread::sleep(Duration::from_millis(500));
    let after = portico.resident_bytes();
    assert!(
        after <= before + LEFT,
        "{before} bytes before, {after} behind the hints"
    );
    assert_eq!(client.answer(streams[0]).status, 502);
    origin.forgive();
}
