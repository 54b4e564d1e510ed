//! What encoders give is decoded by decoders that know nothing of them.

use proptest::prelude::*;
use zstd_safe::DCtx;

use super::*;

const ALL: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];
const LEVELS: Levels = Levels {
    gzip: 5,
    br: 4,
    zstd: 3,
};

/// What can be decoded of `encoded`, and whether it is complete.
fn decode(algorithm: Algorithm, encoded: &[u8]) -> (Vec<u8>, bool) {
    match algorithm {
        Algorithm::Gzip => read_all(flate2::read::GzDecoder::new(encoded)),
        Algorithm::Br => read_all(brotli::Decompressor::new(encoded, 4096)),
        Algorithm::Zstd => {
            let mut decoded = Vec::new();
            let mut input = InBuffer::around(encoded);
            let mut context = DCtx::create();
            loop {
                decoded.reserve(4096);
                let begin = decoded.len();
                let mut output = OutBuffer::around_pos(&mut decoded, begin);
                let left = context.decompress_stream(&mut output, &mut input).unwrap();
                if left == 0 {
                    assert_eq!(input.pos(), encoded.len(), "bytes behind the end");
                    return (decoded, true);
                }
                if input.pos() == encoded.len() && decoded.len() == begin {
                    return (decoded, false);
                }
            }
        }
    }
}

fn read_all(mut reader: impl std::io::Read) -> (Vec<u8>, bool) {
    let mut decoded = Vec::new();
    let mut part = [0; 4096];
    loop {
        match reader.read(&mut part) {
            Ok(0) => return (decoded, true),
            Ok(n) => decoded.extend_from_slice(&part[..n]),
            Err(_) => return (decoded, false),
        }
    }
}

/// Text as tools send it.
fn json(length: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut number: u64 = 1;
    while text.len() < length {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let row = format!(
            "{{\"id\":{},\"title\":\"Page {}\"}},",
            number >> 40,
            number >> 55
        );
        text.extend_from_slice(row.as_bytes());
    }
    text.truncate(length);
    text
}

fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 88_172_645_463_325_252;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Encodes the pieces; after each, all so far can be decoded.
#[track_caller]
fn check_pieces(encoders: &Rc<Encoders>, algorithm: Algorithm, known: bool, pieces: &[&[u8]]) {
    let whole = pieces.concat();
    let length = known.then_some(whole.len() as u64);
    let mut encoder = encoders.take(algorithm, &LEVELS, length).unwrap();
    let (mut out, mut given) = (Vec::new(), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        let end = index + 1 == pieces.len();
        encoder.encode(piece, end, &mut out).unwrap();
        given.extend_from_slice(piece);
        let (decoded, complete) = decode(algorithm, &out);
        assert!(
            decoded == given,
            "{algorithm:?}: not all of piece {index} can be decoded"
        );
        assert!(
            complete == end || given.is_empty(),
            "{algorithm:?}, piece {index}"
        );
    }
}

#[test]
fn every_cut() {
    let encoders = Rc::new(Encoders::default());
    let text = json(150);
    for algorithm in ALL {
        for at in 0..=text.len() {
            let (left, right) = text.split_at(at);
            check_pieces(&encoders, algorithm, at % 2 == 0, &[left, right]);
            check_pieces(&encoders, algorithm, at % 2 == 1, &[left, right, b""]);
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        check_pieces(&encoders, algorithm, false, &bytes);
    }
}

#[test]
fn nothing() {
    let encoders = Rc::new(Encoders::default());
    for algorithm in ALL {
        check_pieces(&encoders, algorithm, false, &[b""]);
        check_pieces(&encoders, algorithm, true, &[b"", b"", b""]);
        let mut encoder = encoders.take(algorithm, &LEVELS, None).unwrap();
        let mut out = Vec::new();
        encoder.encode(b"a", false, &mut out).unwrap();
        let flushed = out.len();
        encoder.encode(b"", false, &mut out).unwrap();
        assert_eq!(out.len(), flushed, "{algorithm:?}: nothing costs nothing");
        encoder.encode(b"", true, &mut out).unwrap();
        let ended = out.len();
        encoder.encode(b"more", true, &mut out).unwrap();
        assert_eq!(out.len(), ended, "{algorithm:?}: the end is the end");
    }
}

#[test]
fn every_level() {
    let text = json(3 * PIECE);
    let pieces: Vec<&[u8]> = text.chunks(PIECE).collect();
    let encoders = Rc::new(Encoders::default());
    for level in 0..=9 {
        for algorithm in ALL {
            let levels = Levels {
                gzip: level.max(1),
                br: level.min(6),
                zstd: level.max(1),
            };
            let mut encoder = encoders.take(algorithm, &levels, None).unwrap();
            let mut out = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let end = index + 1 == pieces.len();
                encoder.encode(piece, end, &mut out).unwrap();
            }
            assert!(
                decode(algorithm, &out) == (text.clone(), true),
                "{algorithm:?} {level}"
            );
            assert!(
                out.len() < text.len() / 2,
                "{algorithm:?} {level}: {}",
                out.len()
            );
        }
    }
}

/// A long body costs what a short one does: the output of a piece is never much larger than the
/// piece, and the one encoder that can say how large it is stays as documented.
#[test]
fn long_bodies() {
    let encoders = Rc::new(Encoders::default());
    for (data, most) in [
        (noise(2 << 20), PIECE + PIECE / 8),
        (json(2 << 20), PIECE / 2),
    ] {
        for algorithm in ALL {
            let mut encoder = encoders
                .take(algorithm, &LEVELS, Some(data.len() as u64))
                .unwrap();
            let mut all = Vec::new();
            for piece in data.chunks(PIECE) {
                let mut out = Vec::new();
                encoder.encode(piece, false, &mut out).unwrap();
                assert!(out.len() <= most, "{algorithm:?}: {}", out.len());
                all.append(&mut out);
            }
            encoder.encode(b"", true, &mut all).unwrap();
            assert!(
                decode(algorithm, &all) == (data.clone(), true),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn zstd_keeps_to_its_memory() {
    let data = json(1 << 20);
    for level in 1..=9 {
        for length in [None, Some(data.len() as u64)] {
            let encoders = Encoders::default();
            let mut context = encoders.zstd(level, length).unwrap();
            let mut out = Vec::new();
            for piece in data.chunks(PIECE) {
                zstd_encode(&mut context, piece, false, &mut out).unwrap();
            }
            let size = context.sizeof();
            assert!(size <= 3_800_000, "level {level}: {size}");
        }
    }
}

#[test]
fn a_broken_promise_is_an_error() {
    let encoders = Rc::new(Encoders::default());
    for (promised, data) in [(5, &b"1234"[..]), (5, b"123456")] {
        let mut encoder = encoders
            .take(Algorithm::Zstd, &LEVELS, Some(promised))
            .unwrap();
        let (first, rest) = data.split_at(1);
        encoder.encode(first, false, &mut Vec::new()).unwrap();
        let ended = encoder.encode(rest, true, &mut Vec::new());
        assert_eq!(ended, Err(EncodeError(Algorithm::Zstd)));
        drop(encoder);
        // And the next answer does not suffer.
        check_pieces(&encoders, Algorithm::Zstd, true, &[b"1234"]);
    }
}

#[test]
fn an_abandoned_encoder_is_clean_again() {
    let encoders = Rc::new(Encoders::default());
    for algorithm in ALL {
        for known in [false, true] {
            let length = known.then_some(1_000_000);
            let mut encoder = encoders.take(algorithm, &LEVELS, length).unwrap();
            encoder
                .encode(&json(PIECE), false, &mut Vec::new())
                .unwrap();
            drop(encoder);
            assert_eq!(encoders.alive.get(), 0);
            check_pieces(&encoders, algorithm, !known, &[b"next", b" answer"]);
        }
    }
    assert_eq!(encoders.gzip.borrow().len(), 1, "one served all");
    assert_eq!(encoders.zstd.borrow().len(), 1, "one served all");
}

#[test]
fn a_reload_changes_the_level() {
    let encoders = Rc::new(Encoders::default());
    let sizes = |level: u32| {
        let levels = Levels {
            gzip: level,
            br: level.min(6),
            zstd: level,
        };
        ALL.map(|algorithm| {
            let mut out = Vec::new();
            let mut encoder = encoders.take(algorithm, &levels, None).unwrap();
            encoder.encode(&json(PIECE), true, &mut out).unwrap();
            out
        })
    };
    let (fast, small, fast_again) = (sizes(1), sizes(9), sizes(1));
    assert!(fast == fast_again);
    for (fast, small) in fast.iter().zip(&small) {
        assert!(small.len() < fast.len(), "{} {}", small.len(), fast.len());
    }
}

#[test]
fn encoders_are_bounded() {
    let encoders = Rc::new(Encoders::default());
    let take = |algorithm| encoders.take(algorithm, &LEVELS, None);
    let mut all: Vec<Encoder> = (0..MAX_ALIVE)
        .map(|index| take(ALL[index % 3]).unwrap())
        .collect();
    assert!(ALL.into_iter().all(|algorithm| take(algorithm).is_none()));
    all.pop();
    assert!(take(Algorithm::Gzip).is_some());
    drop(all);
    assert_eq!(encoders.alive.get(), 0);
    assert_eq!(encoders.gzip.borrow().len(), MAX_SPARE);
    assert_eq!(encoders.zstd.borrow().len(), MAX_SPARE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_data_in_any_pieces(
        data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3000),
            prop::collection::vec(0..3_u8, 0..20_000),
        ],
        size in 1..5000_usize,
        known in any::<bool>(),
    ) {
        let encoders = Rc::new(Encoders::default());
        let mut pieces: Vec<&[u8]> = data.chunks(size).take(20).collect();
        pieces.push(b"");
        for algorithm in ALL {
            check_pieces(&encoders, algorithm, known, &pieces);
        }
    }
}
