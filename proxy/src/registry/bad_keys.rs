//! Keys of redis that are meant for tools and name no possible one.
//!
//! The first of them by name, with the reason, and how many there are. Decides nothing else and asks
//! nobody. Exact while there are no more than are listed.
//!
//! Invariant: bounded, whatever stands in redis.

use std::collections::BTreeSet;

use portico_routing::host::MAX_LABEL;

use super::stored::{PREFIX, REDIRECT, tool_of};

/// So many are listed, and so many that were pushed wait to be looked at.
pub(super) const MAX_LISTED: usize = 100;

/// A longer key is listed by its beginning, and not looked at when it is pushed.
pub(super) const MAX_KEY_BYTES: usize = 512;

/// Bytes of a key that are shown.
const MAX_SHOWN: usize = 200;

/// A key of redis that names no possible tool, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadKey {
    /// The key, lossily as UTF-8, cut to a bounded length.
    pub key: Box<str>,
    /// What is wrong with it.
    pub reason: Box<str>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct BadKeys {
    listed: BTreeSet<Box<[u8]>>,
    count: u64,
}

impl BadKeys {
    /// `key` is in redis; whether that is news.
    pub(super) fn add(&mut self, key: &[u8]) -> bool {
        let key = key.get(..MAX_KEY_BYTES).unwrap_or(key);
        if self.listed.contains(key) {
            return false;
        }
        self.count += 1;
        self.listed.len() < MAX_LISTED && self.listed.insert(key.into())
    }

    /// A push named `key`, and redis holds it or not; whether the list has changed.
    pub(super) fn set_pushed(&mut self, key: &[u8], exists: bool) -> bool {
        if exists {
            // While some are only counted, nobody knows whether this is one of them.
            return self.count == self.listed.len() as u64 && self.add(key);
        }
        let listed = self.listed.remove(key);
        self.count -= u64::from(listed);
        listed
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The list, for people.
    pub(super) fn list(&self) -> Vec<BadKey> {
        let listed = self.listed.iter();
        listed
            .map(|key| BadKey {
                key: shown(key),
                reason: reason(key).into(),
            })
            .collect()
    }
}

/// Whether `key` is meant for a tool, names no possible one and is short enough to be looked at.
pub(super) fn is_bad(key: &[u8]) -> bool {
    key.len() <= MAX_KEY_BYTES && tool_in(key).is_some() && tool_of(key).is_none()
}

/// `key`, lossily as UTF-8, cut to a bounded length.
pub(super) fn shown(key: &[u8]) -> Box<str> {
    match key.get(..MAX_SHOWN) {
        Some(start) if key.len() > MAX_SHOWN => {
            format!("{}\u{2026}", String::from_utf8_lossy(start)).into()
        }
        _ => String::from_utf8_lossy(key).into(),
    }
}

/// Why `key` names no possible tool: a tool is the first label of a host name.
pub(super) fn reason(key: &[u8]) -> String {
    let tool = tool_in(key).unwrap_or(key);
    if tool.is_empty() {
        "it names no tool".into()
    } else if tool.len() > MAX_LABEL {
        format!("the name is longer than {MAX_LABEL} bytes, the limit for a part of a host name")
    } else if tool.contains(&b'.') {
        "the name has a dot; a tool is one part of a host name".into()
    } else if tool.iter().any(u8::is_ascii_uppercase) {
        "the name has upper-case letters; hosts are looked up in lower case".into()
    } else if str::from_utf8(tool).is_err() {
        "the name is not UTF-8".into()
    } else {
        "the name has other characters than a-z, 0-9, - and _".into()
    }
}

fn tool_in(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(PREFIX.as_bytes())
        .or_else(|| key.strip_prefix(REDIRECT.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_reason(key: &[u8], contained: &str) {
        assert!(is_bad(key));
        let reason = reason(key);
        assert!(reason.contains(contained), "{reason:?} lacks {contained:?}");
    }

    #[test]
    fn the_reason_is_the_name() {
        check_reason(b"prefix:", "names no tool");
        check_reason(b"redirect:", "names no tool");
        check_reason(&[b"prefix:".as_slice(), &[b'a'; 64]].concat(), "63 bytes");
        check_reason(b"prefix:a.b", "a dot");
        check_reason(b"redirect:Grid", "upper-case");
        check_reason(b"prefix:\xff", "UTF-8");
        check_reason("prefix:\u{e9}".as_bytes(), "other characters");
        check_reason(b"prefix:a:b", "other characters");
        assert!(!is_bad(b"prefix:grid") && !is_bad(b"k8s:Grid"));
        assert!(!is_bad(
            &[b"prefix:".as_slice(), &[b'a'; MAX_KEY_BYTES]].concat()
        ));
    }

    #[test]
    fn the_list_is_bounded_and_exact_while_it_is_short() {
        let key = |n: usize| format!("prefix:T{n}").into_bytes();
        let mut keys = BadKeys::default();
        assert!(keys.add(&key(0)) && !keys.add(&key(0)));
        assert!(!keys.set_pushed(&key(0), true) && keys.set_pushed(&key(1), true));
        assert!(keys.set_pushed(&key(0), false) && !keys.set_pushed(&key(0), false));
        assert_eq!((keys.count(), keys.list().len()), (1, 1));
        for n in 0..2 * MAX_LISTED {
            keys.add(&key(n));
        }
        assert_eq!(keys.count(), 2 * MAX_LISTED as u64);
        assert_eq!(keys.list().len(), MAX_LISTED);
        assert!(!keys.set_pushed(&key(1000), true));
        assert_eq!(keys.count(), 2 * MAX_LISTED as u64);
        let long = [b"prefix:".as_slice(), &[b'a'; 1 << 20]].concat();
        let mut keys = BadKeys::default();
        keys.add(&long);
        assert!(keys.list()[0].key.len() < 2 * MAX_SHOWN);
        assert!(keys.list()[0].reason.contains("63 bytes"));
    }
}
