//! What redis pushes, until somebody takes it.
//!
//! What tracking pushes (measured on 7.0): the keys written in any database, also when the value stays
//! the same; a null for FLUSHALL, FLUSHDB of any database and a replica's full resync; nothing for
//! SWAPDB. Keyspace notifications: each change of a key of our database with its name; nothing for a
//! flush. Anybody may publish one. So a push says only "look again".
//!
//! Invariant: pushes are taken in whatever their rate, and their number is bounded.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::bad_keys::{MAX_LISTED, is_bad};
use super::hint::Told;
use super::stored::tool_of;

/// With more changes than this waiting, the whole table is compared instead.
pub(super) const MAX_PENDING: usize = 100_000;

/// The names of keyspace notifications after which a key may be gone; DEL, UNLINK and the removal of
/// the last field of a hash are all `del`.
const REMOVALS: [&[u8]; 5] = [b"del", b"expired", b"evicted", b"rename_from", b"move_from"];

/// What has arrived and was not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    arrived: Mutex<Arrived>,
    wake: Notify,
}

#[derive(Default)]
struct Arrived {
    news: News,
    told: Told,
}

/// What there is to look at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// These tools changed, perhaps.
    pub(super) tools: HashSet<Box<str>>,
    /// Keys that name no possible tool, and came or went, perhaps; the first of them.
    pub(super) bad_keys: HashSet<Box<[u8]>>,
    /// Everything may have changed.
    pub(super) everything: bool,
    /// The connection is gone; nothing more will arrive.
    pub(super) lost: bool,
}

impl News {
    fn is_empty(&self) -> bool {
        self.tools.is_empty() && self.bad_keys.is_empty() && !self.everything && !self.lost
    }
}

impl Pending {
    /// Takes in one push message.
    pub(super) fn note(&self, push: PushInfo) {
        {
            let Arrived { news, told } = &mut *self.lock();
            match push.kind {
                PushKind::Disconnection => news.lost = true,
                PushKind::Invalidate => *told = *told + note_keys(news, &push.data),
                PushKind::PMessage => *told = *told + note_event(news, &push.data),
                // Confirmations; nothing else was subscribed to.
                _ => return,
            }
            if news.tools.len() > MAX_PENDING {
                news.tools = HashSet::new();
                news.everything = true;
            }
            if news.is_empty() {
                return;
            }
        }
        self.wake.notify_one();
    }

    /// All that has arrived since the last call.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut self.lock().news)
    }

    /// How much was told since the last call.
    pub(super) fn take_told(&self) -> Told {
        std::mem::take(&mut self.lock().told)
    }

    /// Returns when there is something to take. Safe to drop and to call again.
    pub(super) async fn arrived(&self) {
        while self.lock().news.is_empty() {
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arrived> {
        // Whole at every moment, so a panic elsewhere harms nothing.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of an invalidation; a null means that everything may have changed.
fn note_keys(news: &mut News, data: &[Value]) -> Told {
    let [Value::Array(keys)] = data else {
        // Null, or something that only a future redis sends: looking at everything is always right.
        news.everything = true;
        let any = u64::MAX;
        return Told {
            keys: any,
            removals: any,
        };
    };
    for key in keys {
        if let Value::BulkString(key) = key {
            note_key(news, key);
        }
    }
    // Of which database, and what became of them, it does not say.
    Told::default()
}

/// The key and the event of a keyspace notification: pattern, `__keyspace@<db>__:<key>`, event.
fn note_event(news: &mut News, data: &[Value]) -> Told {
    let [_, Value::BulkString(channel), Value::BulkString(event)] = data else {
        return Told::default();
    };
    // Only channels of our database were subscribed to.
    let Some(key) = channel.splitn(2, |byte| *byte == b':').nth(1) else {
        return Told::default();
    };
    note_key(news, key);
    Told {
        keys: 1,
        removals: u64::from(REMOVALS.contains(&event.as_slice())),
    }
}

fn note_key(news: &mut News, key: &[u8]) {
    match tool_of(key) {
        Some(tool) if !news.tools.contains(tool) => {
            news.tools.insert(tool.into());
        }
        None if is_bad(key) && news.bad_keys.len() < MAX_LISTED => {
            news.bad_keys.insert(key.into());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[track_caller]
    fn check_push(kind: PushKind, data: Vec<Value>, tools: &[&str], everything: bool, lost: bool) {
        let pending = Pending::default();
        pending.note(PushInfo { kind, data });
        let expected = News {
            tools: tools.iter().map(|tool| Box::from(*tool)).collect(),
            bad_keys: HashSet::new(),
            everything,
            lost,
        };
        let mut got = pending.take();
        got.bad_keys.clear();
        assert_eq!(got, expected);
        assert!(pending.take().is_empty());
    }

    #[test]
    fn pushes_say_what_to_look_at() {
        let keys = vec![
            text("prefix:a"),
            text("redirect:a"),
            text("prefix:b"),
            text("prefix:\u{1}"),
        ];
        check_push(
            PushKind::Invalidate,
            vec![Value::Array(keys)],
            &["a", "b"],
            false,
            false,
        );
        check_push(PushKind::Invalidate, vec![Value::Nil], &[], true, false);
        check_push(PushKind::Invalidate, vec![], &[], true, false);
        check_push(PushKind::Disconnection, vec![], &[], false, true);
        check_push(PushKind::Message, vec![text("x")], &[], false, false);
    }

    #[test]
    fn bad_keys_are_told_and_bounded() {
        let pending = Pending::default();
        let push = |keys: Vec<Value>| PushInfo {
            kind: PushKind::Invalidate,
            data: vec![Value::Array(keys)],
        };
        pending.note(push(vec![
            text("prefix:a"),
            text("prefix:A"),
            text("k8s:A"),
        ]));
        let key: Box<[u8]> = b"prefix:A".as_slice().into();
        assert_eq!(pending.take().bad_keys, HashSet::from([key]));
        let keys = (0..10 * MAX_LISTED).map(|n| text(&format!("prefix:T{n}")));
        pending.note(push(keys.collect()));
        assert_eq!(pending.take().bad_keys.len(), MAX_LISTED);
    }

    #[track_caller]
    fn check_event(channel: &str, event: &str, tools: &[&str], told: (u64, u64)) {
        let data = vec![text("pattern"), text(channel), text(event)];
        check_push(PushKind::PMessage, data.clone(), tools, false, false);
        let pending = Pending::default();
        pending.note(PushInfo {
            kind: PushKind::PMessage,
            data,
        });
        let (keys, removals) = told;
        assert_eq!(pending.take_told(), Told { keys, removals });
        assert_eq!(pending.take_told(), Told::default());
    }

    #[test]
    fn notifications_name_a_key_in_their_channel() {
        check_event("__keyspace@0__:prefix:a", "hset", &["a"], (1, 0));
        check_event("__keyspace@12__:redirect:a", "set", &["a"], (1, 0));
        check_event("__keyspace@0__:prefix:a", "del", &["a"], (1, 1));
        check_event("__keyspace@0__:prefix:a", "expired", &["a"], (1, 1));
        check_event("__keyspace@0__:prefix:a", "rename_from", &["a"], (1, 1));
        check_event("__keyspace@0__:prefix:a", "rename_to", &["a"], (1, 0));
        // Published by anybody.
        check_event("__keyspace@0__:prefix:", "del", &[], (1, 1));
        check_event("__keyspace@0__:prefix:a\r\nb", "hset", &[], (1, 0));
        check_event("nonsense", "hset", &[], (0, 0));
        check_event("", "", &[], (0, 0));
        check_push(PushKind::PMessage, vec![], &[], false, false);
        let nils = vec![Value::Nil, Value::Nil, Value::Nil];
        check_push(PushKind::PMessage, nils, &[], false, false);
    }

    #[test]
    fn invalidations_explain_all_keys_or_none() {
        let pending = Pending::default();
        let both = |n| Told {
            keys: n,
            removals: n,
        };
        for (data, expected) in [
            (
                vec![Value::Array(vec![text("prefix:a"), text("prefix:b")])],
                both(0),
            ),
            (vec![Value::Nil], both(u64::MAX)),
        ] {
            pending.note(PushInfo {
                kind: PushKind::Invalidate,
                data,
            });
            assert_eq!(pending.take_told(), expected);
        }
    }

    /// `push`: one that names `count` tools from this number on.
    #[track_caller]
    fn check_flood(count: usize, push: impl Fn(usize) -> PushInfo) {
        let pending = Pending::default();
        for start in (0..=2 * MAX_PENDING).step_by(count) {
            pending.note(push(start));
            let waiting = pending.lock().news.tools.len();
            assert!(waiting <= MAX_PENDING, "{waiting}");
        }
        assert!(pending.take().everything);
    }

    #[test]
    fn too_many_changes_become_one_look_at_everything() {
        check_flood(1000, |start| {
            let keys = (start..start + 1000).map(|n| text(&format!("prefix:t{n}")));
            PushInfo {
                kind: PushKind::Invalidate,
                data: vec![Value::Array(keys.collect())],
            }
        });
        check_flood(1, |start| {
            let channel = format!("__keyspace@0__:prefix:t{start}");
            PushInfo {
                kind: PushKind::PMessage,
                data: vec![text("pattern"), text(&channel), text("hset")],
            }
        });
    }
}
