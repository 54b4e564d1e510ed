//! What redis pushes, until somebody takes it.
//!
//! What redis pushes (measured on 7.0): the keys written in any database, also when the value stays
//! the same; a null for FLUSHALL, FLUSHDB of any database and a replica's full resync; nothing for
//! SWAPDB. So a push says only "look again".
//!
//! Invariant: pushes are taken in whatever their rate, and their number is bounded.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::bad_keys::{MAX_LISTED, is_bad};
use super::stored::tool_of;

/// With more changes than this waiting, the whole table is compared instead.
const MAX_PENDING: usize = 100_000;

/// The invalidations that have arrived and were not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    news: Mutex<News>,
    wake: Notify,
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
            let mut news = self.lock();
            match push.kind {
                PushKind::Disconnection => news.lost = true,
                PushKind::Invalidate => note_keys(&mut news, &push.data),
                // Nothing else was subscribed to.
                _ => return,
            }
            if news.is_empty() {
                return;
            }
        }
        self.wake.notify_one();
    }

    /// All that has arrived since the last call.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    /// Returns when there is something to take. Safe to drop and to call again.
    pub(super) async fn arrived(&self) {
        while self.lock().is_empty() {
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // News is whole at every moment, so a panic elsewhere harms nothing.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of an invalidation; a null means that everything may have changed.
fn note_keys(news: &mut News, data: &[Value]) {
    match data {
        [Value::Array(keys)] => {
            for key in keys {
                if let Value::BulkString(key) = key {
                    note_key(news, key);
                }
            }
            if news.tools.len() > MAX_PENDING {
                news.tools = HashSet::new();
                news.everything = true;
            }
        }
        // Null, or something that only a future redis sends: looking at everything is always right.
        _ => news.everything = true,
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
    fn check_push(
        kind: PushKind,
        data: Vec<Value>,
        (tools, bad_keys): (&[&str], &[&str]),
        everything: bool,
        lost: bool,
    ) {
        let pending = Pending::default();
        pending.note(PushInfo { kind, data });
        let expected = News {
            tools: tools.iter().map(|tool| Box::from(*tool)).collect(),
            bad_keys: bad_keys.iter().map(|key| key.as_bytes().into()).collect(),
            everything,
            lost,
        };
        assert_eq!(pending.take(), expected);
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
            (&["a", "b"], &["prefix:\u{1}"]),
            false,
            false,
        );
        check_push(
            PushKind::Invalidate,
            vec![Value::Nil],
            (&[], &[]),
            true,
            false,
        );
        check_push(PushKind::Invalidate, vec![], (&[], &[]), true, false);
        check_push(PushKind::Disconnection, vec![], (&[], &[]), false, true);
        check_push(PushKind::Message, vec![text("x")], (&[], &[]), false, false);
    }

    #[test]
    fn bad_keys_are_bounded() {
        let pending = Pending::default();
        let keys = (0..10 * MAX_LISTED).map(|n| text(&format!("prefix:T{n}")));
        pending.note(PushInfo {
            kind: PushKind::Invalidate,
            data: vec![Value::Array(keys.collect())],
        });
        assert_eq!(pending.take().bad_keys.len(), MAX_LISTED);
    }

    #[test]
    fn too_many_changes_become_one_look_at_everything() {
        let pending = Pending::default();
        for start in (0..=MAX_PENDING).step_by(1000) {
            let keys = (start..start + 1000).map(|n| text(&format!("prefix:t{n}")));
            let data = vec![Value::Array(keys.collect())];
            pending.note(PushInfo {
                kind: PushKind::Invalidate,
                data,
            });
        }
        let news = pending.take();
        assert!(news.everything);
        assert!(news.tools.len() <= MAX_PENDING);
    }
}
