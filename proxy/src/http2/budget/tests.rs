use std::time::Duration;

use proptest::prelude::*;

use super::oracle::{Event, check_bytes};
use super::*;

const PREFACE_BYTES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn headers(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, b"\x82\x84\x87")
}

fn reset(stream: u32, error: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &error.to_be_bytes())
}

/// What happens in one round on a connection: frames received, frames sent.
type Round = (Vec<u8>, Vec<u8>);

/// `make` says what happens in each of `rounds`, spread evenly over `secs`; `expected` is the
/// abuse, and the round in which it shows.
#[track_caller]
fn check(
    peer: Peer,
    rounds: u32,
    secs: u64,
    make: fn(u32) -> Round,
    expected: Option<(Abuse, u32)>,
) {
    let preface = |sent| Event {
        after: Duration::ZERO,
        sent,
        bytes: PREFACE_BYTES.to_vec(),
    };
    let mut events = vec![preface(peer == Peer::Server)];
    for round in 0..rounds {
        let (received, sent) = make(round);
        let after = Duration::from_secs(secs) / rounds;
        for (after, sent, bytes) in [(after, false, received), (Duration::ZERO, true, sent)] {
            events.push(Event { after, sent, bytes });
        }
    }
    let story = oracle::check(peer, &events);
    let got = story.last().unwrap().0.err();
    let round = (story.len() as u32 - 2) / 2;
    assert_eq!(got.map(|abuse| (abuse, round)), expected);
}

const CALM: Option<(Abuse, u32)> = None;

/// Any number of frames of one kind at once, on stream 0.
#[track_caller]
fn check_flood(kind: u8, burst: u32, abuse: Abuse) {
    let make: fn(u32) -> Round = match kind {
        kind::PING => |_| (frame(kind::PING, 0, 0, &[0; 8]), vec![]),
        kind::SETTINGS => |_| (frame(kind::SETTINGS, 0, 0, &[]), vec![]),
        kind::PRIORITY => |_| (frame(kind::PRIORITY, 0, 1, &[0; 5]), vec![]),
        kind::PRIORITY_UPDATE => |_| (frame(kind::PRIORITY_UPDATE, 0, 0, &[0; 7]), vec![]),
        kind::WINDOW_UPDATE => |_| (frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), vec![]),
        kind::RST_STREAM => |_| (reset(1, 8), vec![]),
        5 => |_| (frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), vec![]),
        7 => |_| (frame(7, 0, 0, &[0; 8]), vec![]),
        10 => |_| (frame(10, 0, 0, &[0; 2]), vec![]),
        _ => |_| (frame(0xfb, 0xff, u32::MAX, &[7; 100]), vec![]),
    };
    for peer in [Peer::Client, Peer::Server] {
        check(peer, burst, 0, make, CALM);
        check(peer, burst + 1, 0, make, Some((abuse, burst)));
    }
}

#[test]
fn floods() {
    check_flood(kind::PING, 100, Abuse::Pings);
    check_flood(kind::SETTINGS, 100, Abuse::Settings);
    check_flood(kind::PRIORITY, 1000, Abuse::Priorities);
    check_flood(kind::PRIORITY_UPDATE, 1000, Abuse::Priorities);
    check_flood(kind::WINDOW_UPDATE, 1000, Abuse::WindowUpdates);
    check_flood(kind::RST_STREAM, 500, Abuse::Resets);
    check_flood(5, 100, Abuse::OtherFrames);
    check_flood(7, 100, Abuse::OtherFrames);
    check_flood(10, 100, Abuse::OtherFrames);
    check_flood(0xfb, 100, Abuse::OtherFrames);
}

#[test]
fn acknowledgements_count_too() {
    let acks = |_| (frame(kind::PING, 1, 0, &[0; 8]), vec![]);
    check(Peer::Client, 101, 0, acks, Some((Abuse::Pings, 100)));
}

#[test]
fn rapid_reset() {
    let pairs = |round| {
        let stream = 2 * round + 1;
        ([headers(stream), reset(stream, 8)].concat(), vec![])
    };
    // The first stream opened earns nothing: the bucket is full.
    check(Peer::Client, 999, 0, pairs, CALM);
    check(Peer::Client, 2000, 0, pairs, Some((Abuse::Resets, 999)));
    check(Peer::Client, 10_000, 20, pairs, Some((Abuse::Resets, 1248)));
    check(Peer::Client, 10_000, 200, pairs, CALM);
}

#[test]
fn a_stop_button_and_a_dragged_map_are_no_abuse() {
    // 100 requests, all cancelled, five times in a row.
    let page = |page| {
        let streams = (0..100).map(move |n| 200 * page + 2 * n + 1);
        let opened = streams.clone().flat_map(headers);
        (
            opened
                .chain(streams.flat_map(|stream| reset(stream, 8)))
                .collect(),
            vec![],
        )
    };
    check(Peer::Client, 5, 0, page, CALM);
    // Half of all streams, for ever.
    let map = |round| {
        let stream = 4 * round + 1;
        (
            [headers(stream), headers(stream + 2), reset(stream, 8)].concat(),
            vec![],
        )
    };
    check(Peer::Client, 10_000, 0, map, CALM);
}

#[test]
fn provoked_resets() {
    let provoked = |round| {
        let stream = 2 * round + 1;
        (headers(stream), reset(stream, 3))
    };
    let expected = Some((Abuse::ProvokedResets, 142));
    check(Peer::Client, 1000, 0, provoked, expected);
    // A tool's failure, an answer without need of the rest, a deadline.
    for make in [
        (|round| (headers(2 * round + 1), reset(2 * round + 1, 2))) as fn(u32) -> Round,
        |round| (headers(2 * round + 1), reset(2 * round + 1, 0)),
        |round| (headers(2 * round + 1), reset(2 * round + 1, 8)),
    ] {
        check(Peer::Client, 10_000, 0, make, CALM);
    }
}

/// RST_STREAM of a wrong size has no error code, and not that of the one before.
#[test]
fn an_error_code_belongs_to_one_frame() {
    let odd = |round| match round {
        0 => (headers(1), reset(1, 3)),
        _ => (vec![], frame(kind::RST_STREAM, 0, 1, b"")),
    };
    check(Peer::Client, 1000, 0, odd, CALM);
}

#[test]
fn useful_work_earns() {
    let data = |length: usize| frame(kind::DATA, 0, 1, &vec![0; length]);
    assert_eq!(data(5).len(), 14);
    // gRPC measures the path with each message that it gets.
    let measures = |_| {
        let sent = frame(kind::DATA, 0, 1, b"hello");
        (frame(kind::PING, 0, 0, &[0; 8]), sent)
    };
    check(Peer::Client, 10_000, 0, measures, CALM);
    // A client that opens both windows after each frame.
    let updates = |_| {
        let update = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]);
        (
            [update(0), update(1)].concat(),
            frame(kind::DATA, 0, 1, &[0; 256]),
        )
    };
    check(Peer::Client, 10_000, 0, updates, CALM);
    // By single bytes that is too much.
    let dribble = |_| {
        let update = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
        (
            [update(0), update(1)].concat(),
            frame(kind::DATA, 0, 1, &[0; 1]),
        )
    };
    let expected = Some((Abuse::WindowUpdates, 999));
    check(Peer::Client, 10_000, 0, dribble, expected);
    // Answers to pings are not work, nor is empty DATA.
    let pongs = |_| {
        let pong = frame(kind::PING, 1, 0, &[0; 8]);
        let empty = frame(kind::DATA, 0, 1, b"");
        (frame(kind::PING, 0, 0, &[0; 8]), [pong, empty].concat())
    };
    check(Peer::Client, 1000, 0, pongs, Some((Abuse::Pings, 100)));
    // A stream with each: grease, trailers, priorities, a ping.
    let busy = |round| {
        let stream = 2 * round + 1;
        let mut frames = [
            frame(0x0b, 0, 0, b"grease"),
            headers(stream),
            headers(stream),
        ]
        .concat();
        frames.extend((0..10).flat_map(|_| frame(kind::PRIORITY, 0, stream, &[0; 5])));
        frames.extend(frame(kind::PING, 0, 0, &[0; 8]));
        (frames, vec![])
    };
    check(Peer::Client, 10_000, 0, busy, CALM);
}

#[test]
fn time_brings_tokens_back() {
    let ping = |_| (frame(kind::PING, 0, 0, &[0; 8]), vec![]);
    check(Peer::Client, 2000, 200, ping, CALM);
    check(Peer::Client, 2000, 100, ping, Some((Abuse::Pings, 199)));
    // Of a long time no more than a burst.
    let bursts = |_| (frame(kind::PING, 0, 0, &[0; 8]).repeat(101), vec![]);
    check(Peer::Client, 1, 10_000_000, bursts, Some((Abuse::Pings, 0)));
}

#[test]
fn a_backend() {
    // It may refuse each request, and may send interim answers and trailers.
    let refuses = |round| (reset(2 * round + 1, 7), headers(2 * round + 1));
    check(Peer::Server, 10_000, 0, refuses, CALM);
    let answers = |round| (headers(2 * round + 1).repeat(4), headers(2 * round + 3));
    check(Peer::Server, 10_000, 0, answers, CALM);
    // The answers to all streams of a connection may come at once.
    let many = |_| {
        let streams = (0..100).map(|n| 2 * n + 1);
        let answers = streams.clone().flat_map(|stream| headers(stream).repeat(3));
        (answers.collect(), vec![])
    };
    check(Peer::Server, 1, 0, many, CALM);
    // Interim answers without end are not.
    let interim = |_| (headers(1), headers(1));
    let expected = Some((Abuse::Headers, 401));
    check(Peer::Server, 10_000, 0, interim, expected);
}

#[test]
fn large_payloads_are_skipped() {
    let now = Instant::now();
    let mut budget = Budget::new(Peer::Client, now);
    assert!(!budget.preface_done());
    assert_eq!(budget.observe(&PREFACE_BYTES[..23], now), Ok(()));
    assert!(!budget.preface_done());
    assert_eq!(budget.observe(&PREFACE_BYTES[23..], now), Ok(()));
    assert!(budget.preface_done());
    // The longest frame there is, full of what would be PING frames.
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let payload = ping
        .iter()
        .copied()
        .cycle()
        .take(0xff_ffff)
        .collect::<Vec<_>>();
    let large = frame(kind::DATA, 0, 1, &payload);
    for piece in large.chunks(8191) {
        assert_eq!(budget.observe(piece, now), Ok(()));
    }
    assert_eq!(budget.observe(&ping.repeat(100), now), Ok(()));
    assert_eq!(budget.observe(&ping, now), Err(Abuse::Pings));
}

#[test]
fn the_first_frame_is_settings() {
    for (first, lacks) in [
        (kind::SETTINGS, false),
        (kind::HEADERS, true),
        (kind::PING, true),
    ] {
        let now = Instant::now();
        let mut budget = Budget::new(Peer::Client, now);
        assert_eq!(budget.observe(PREFACE_BYTES, now), Ok(()));
        assert!(!budget.lacks_settings());
        for kind in [first, kind::SETTINGS, kind::PING] {
            assert_eq!(budget.observe(&frame(kind, 0, 0, &[]), now), Ok(()));
            assert_eq!(budget.lacks_settings(), lacks, "{first} first");
        }
    }
}

#[test]
fn header_blocks_have_an_end() {
    let now = Instant::now();
    let mut budget = Budget::new(Peer::Client, now);
    let mut check = |bytes: &[u8], expected: bool| {
        assert_eq!(budget.observe(bytes, now), Ok(()));
        assert_eq!(budget.in_header_block(), expected, "{bytes:?}");
    };
    check(PREFACE_BYTES, false);
    let whole = headers(1);
    check(&whole[..9], true);
    check(&whole[9..11], true);
    check(&whole[11..], false);
    check(&frame(kind::DATA, 0, 1, b"data")[..11], false);
    check(b"ta", false);
    check(&frame(kind::HEADERS, 0, 3, b"\x82"), true);
    check(&frame(kind::CONTINUATION, 0, 3, b""), true);
    check(
        &frame(kind::CONTINUATION, END_HEADERS, 3, b"\x84\x87")[..10],
        true,
    );
    check(b"\x87", false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_split_and_the_twin_agree(data in prop::collection::vec(any::<u8>(), 0..200)) {
        check_bytes(&data);
    }
}
