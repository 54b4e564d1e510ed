//! A naive twin of [`Budget`] that keeps all bytes and counts with long words. For tests and
//! fuzzing only; [`check`] panics on a difference.

use std::time::{Duration, Instant};

use super::*;

/// Something that happens on a connection.
pub(super) struct Event {
    /// Later than the one before by this.
    pub(super) after: Duration,
    /// Whether we sent it; else the peer did.
    pub(super) sent: bool,
    /// Any number of bytes.
    pub(super) bytes: Vec<u8>,
}

/// What a budget says after each event; the first abuse ends it.
pub(super) type Story = Vec<(Result<(), Abuse>, bool, bool)>;

/// Tells the story of `events`, each cut into pieces of `cut` bytes.
pub(super) fn story(peer: Peer, events: &[Event], cut: usize) -> Story {
    let mut now = Instant::now();
    let mut budget = Budget::new(peer, now);
    let mut story = Story::new();
    for event in events {
        now += event.after;
        let verdict = event.bytes.chunks(cut).try_for_each(|piece| {
            if event.sent {
                budget.observe_sent(piece, || now)
            } else {
                budget.observe(piece, now)
            }
        });
        story.push((verdict, budget.in_header_block(), budget.preface_done()));
        if verdict.is_err() {
            break;
        }
    }
    story
}

/// Compares the budget with its twin, and with itself on other cuts.
pub(super) fn check(peer: Peer, events: &[Event]) -> Story {
    let whole = story(peer, events, usize::MAX);
    for cut in [1, 5, 12, 100] {
        let verdicts = |story: &Story| story.iter().map(|told| told.0).collect::<Vec<_>>();
        let cut = story(peer, events, cut);
        assert_eq!(verdicts(&whole), verdicts(&cut));
        // After an abuse it does not matter what was seen of the rest.
        let same = whole.iter().zip(&cut).filter(|(told, _)| told.0.is_ok());
        same.for_each(|(whole, cut)| assert_eq!(whole, cut));
    }
    let twin = twin(peer, events);
    assert_eq!(twin.len(), whole.len());
    for (told, twin) in whole.iter().zip(&twin) {
        assert_eq!(told.0, twin.0);
        if told.0.is_ok() {
            assert_eq!(told, twin);
        }
    }
    whole
}

fn twin(peer: Peer, events: &[Event]) -> Story {
    let limits = [
        RESETS,
        PINGS,
        SETTINGS,
        PRIORITIES,
        WINDOW_UPDATES,
        OTHER_FRAMES,
        HEADERS,
    ];
    // In millionths, so that microseconds count too.
    let mut levels = limits.map(|limit| u128::from(limit.burst) * 1_000_000);
    let mut earn = [0_u128; 7];
    let mut bytes = [Vec::new(), Vec::new()];
    let mut seen = [0; 2];
    seen[usize::from(peer == Peer::Server)] = 24;
    let mut last_stream = 0;
    let (mut open, mut block_end) = (false, 0);
    let mut elapsed = 0;
    let mut story = Story::new();
    for event in events {
        // Whole milliseconds only.
        let before = elapsed / 1000;
        elapsed += event.after.as_micros();
        for (level, limit) in levels.iter_mut().zip(limits) {
            *level += (elapsed / 1000 - before) * u128::from(limit.per_second) * 1000;
            *level = (*level).min(u128::from(limit.burst) * 1_000_000);
        }
        let way = usize::from(event.sent);
        bytes[way].extend_from_slice(&event.bytes);
        let mut verdict = Ok(());
        while let Some(frame) = frame_at(&bytes[way], seen[way]) {
            let (length, kind, flags, stream, error) = frame;
            seen[way] += 9 + length;
            let opens = kind == 1 && event.sent == (peer == Peer::Server) && stream > last_stream;
            let mut charge = None;
            if opens {
                last_stream = stream;
                earn[0] = if event.sent { 1_000 } else { 500 };
                for which in 1..7 {
                    earn[which] = u128::from(limits[which].per_stream);
                }
            } else if event.sent && kind == 0 && length > 0 {
                earn[1] = 1_000;
                earn[4] = if length < 256 { 1_000 } else { 4_000 };
            } else if event.sent && kind == 3 && [1, 3, 5, 6, 7, 9, 11].contains(&error) {
                charge = Some((0, 4, Abuse::ProvokedResets));
            } else if !event.sent {
                charge = match kind {
                    0 | 9 => None,
                    3 => Some((0, 1, Abuse::Resets)),
                    6 => Some((1, 1, Abuse::Pings)),
                    4 => Some((2, 1, Abuse::Settings)),
                    2 | 16 => Some((3, 1, Abuse::Priorities)),
                    8 => Some((4, 1, Abuse::WindowUpdates)),
                    1 => Some((6, 1, Abuse::Headers)),
                    _ => Some((5, 1, Abuse::OtherFrames)),
                };
            }
            for which in 0..7 {
                let full = u128::from(limits[which].burst) * 1_000_000;
                levels[which] = (levels[which] + std::mem::take(&mut earn[which]) * 1000).min(full);
            }
            if !event.sent && (kind == 1 || kind == 9) {
                open = flags & 4 == 0;
                block_end = seen[way];
            }
            if let Some((which, tokens, abuse)) = charge {
                match levels[which].checked_sub(tokens * 1_000_000) {
                    Some(left) => levels[which] = left,
                    None => verdict = Err(abuse),
                }
            }
            if verdict.is_err() {
                break;
            }
        }
        let client = usize::from(peer == Peer::Server);
        let preface = peer == Peer::Server || bytes[client].len() >= 24;
        story.push((verdict, open || bytes[0].len() < block_end, preface));
        if verdict.is_err() {
            break;
        }
    }
    story
}

/// Length, type, flags, stream and error code of the frame at `start`, if they are there.
fn frame_at(bytes: &[u8], start: usize) -> Option<(usize, u8, u8, u32, u32)> {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u32, |word, &byte| word << 8 | u32::from(byte))
    };
    let head = bytes.get(start..start + 9)?;
    let (length, kind) = (word(&head[..3]) as usize, head[3]);
    let error = match (length, kind) {
        (4, 3) => word(bytes.get(start + 9..start + 13)?),
        _ => 0,
    };
    Some((length, kind, head[4], word(&head[5..]) & 0x7fff_ffff, error))
}

/// The types of frames that matter, those that decide about resets more than once, and two others.
const KINDS: [u8; 15] = [0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 8, 9, 16, 17, 0xfb];

/// Makes a connection out of any bytes and checks it.
pub(super) fn check_bytes(data: &[u8]) {
    let (&first, rest) = data.split_first().unwrap_or((&0, &[]));
    let (peer, client_sends) = match first & 1 {
        0 => (Peer::Client, false),
        _ => (Peer::Server, true),
    };
    let mut events = vec![Event {
        after: Duration::ZERO,
        sent: client_sends,
        bytes: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    }];
    let mut stream = 1_u32;
    for op in rest.chunks_exact(6) {
        let &[what, kind, flags, length, repeat, pause] = op else {
            unreachable!()
        };
        let mut bytes = Vec::new();
        for _ in 0..=u32::from(repeat) * u32::from(what >> 4) {
            stream += 2 * u32::from(what & 2 != 0);
            let kind = KINDS[usize::from(kind) % KINDS.len()];
            let length = match kind {
                3 if what & 4 != 0 => 4,
                _ => usize::from(length) * if what & 8 != 0 { 3 } else { 1 },
            };
            bytes.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
            bytes.extend([kind, flags]);
            bytes.extend((stream | u32::from(pause & 1) << 31).to_be_bytes());
            bytes.resize(bytes.len() + length, 0);
            // The error code of RST_STREAM, among others.
            if let Some(last) = bytes.last_mut().filter(|_| length > 0) {
                *last = pause % 13;
            }
        }
        // Some frames arrive in two events.
        let rest = bytes.split_off(bytes.len() - usize::from(flags).min(bytes.len()));
        let pauses = [u64::from(pause) * 1700, u64::from(what) * 300];
        for (bytes, pause) in [bytes, rest].into_iter().zip(pauses) {
            events.push(Event {
                after: Duration::from_micros(pause),
                sent: what & 1 != 0,
                bytes,
            });
        }
    }
    check(peer, &events);
}
