//! What redis holds for one tool, as an entry of the table: never fails, what is bad
//! is skipped and shown.

use portico_routing::table::{BadRoute, Entry};

use super::Admit;
use super::stored::{Hash, Stored};

/// Longest field (pattern) of a hash, in bytes.
const MAX_FIELD_BYTES: usize = 1024;

/// Longest value (backend URL) of a hash, in bytes.
const MAX_VALUE_BYTES: usize = 2048;

/// The table's entry for what redis holds; empty when it holds nothing.
pub(super) fn entry_of(stored: &Stored, admit: &Admit) -> Entry {
    let fields = match &stored.hash {
        Hash::Absent => return Entry::build([], stored.redirect, &**admit),
        Hash::Unusable(reason) => {
            let mut entry = Entry::build([], stored.redirect, &**admit);
            entry.bad = Box::new([BadRoute::new(b"", b"", reason)]);
            return entry;
        }
        Hash::Fields(fields) => fields,
    };
    let mut oversized = Vec::new();
    let mut usable: Vec<(&[u8], &[u8])> = Vec::with_capacity(fields.len());
    for (field, value) in fields {
        match too_long(field, value) {
            None => usable.push((field, value)),
            Some(reason) => oversized.push(BadRoute::new(field, value, &reason)),
        }
    }
    let mut entry = Entry::build(usable, stored.redirect, &**admit);
    if !oversized.is_empty() {
        // HGETALL has no order of its own; with it the entry would seem to change.
        oversized.sort_unstable_by(|a, b| (&a.field, &a.value).cmp(&(&b.field, &b.value)));
        let mut bad = std::mem::take(&mut entry.bad).into_vec();
        bad.extend(oversized);
        entry.bad = BadRoute::list(bad);
    }
    entry
}

fn too_long(field: &[u8], value: &[u8]) -> Option<String> {
    if field.len() > MAX_FIELD_BYTES {
        Some(format!(
            "the pattern is longer than {MAX_FIELD_BYTES} bytes"
        ))
    } else if value.len() > MAX_VALUE_BYTES {
        Some(format!(
            "the backend is longer than {MAX_VALUE_BYTES} bytes"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn fields(pairs: &[(&[u8], &[u8])]) -> Stored {
        let pairs = pairs.iter().map(|(f, v)| (f.to_vec(), v.to_vec()));
        Stored {
            hash: Hash::Fields(pairs.collect()),
            redirect: false,
        }
    }

    fn admit_all() -> Admit {
        Arc::new(|_| Ok(()))
    }

    #[track_caller]
    fn check_entry(stored: &Stored, routes: &[&str], bad: &[&str]) {
        let refuse: Admit = Arc::new(|backend| {
            if backend.port == 1 {
                Err("refused here".into())
            } else {
                Ok(())
            }
        });
        let entry = entry_of(stored, &refuse);
        let sources: Vec<_> = entry
            .routes
            .iter()
            .map(|route| route.pattern.source())
            .collect();
        assert_eq!(sources, routes);
        assert_eq!(entry.bad.len(), bad.len(), "{:?}", entry.bad);
        for (got, expected) in entry.bad.iter().zip(bad) {
            assert!(got.reason.contains(expected), "{got:?} lacks {expected:?}");
        }
    }

    #[test]
    fn bad_fields_are_skipped_one_by_one() {
        let url = b"http://192.0.2.1:80".as_slice();
        check_entry(
            &fields(&[(b".*", url), (b"/api/.*", url)]),
            &["/api/.*", ".*"],
            &[],
        );
        check_entry(&fields(&[(b".*", url), (b"(", url)]), &[".*"], &[""]);
        check_entry(
            &fields(&[(b".*", url), (b"\xff", url)]),
            &[".*"],
            &["UTF-8"],
        );
        check_entry(
            &fields(&[(b".*", url), (b"/a", b"http://192.0.2.1:1")]),
            &[".*"],
            &["refused here"],
        );
        let long = [b'a'; MAX_FIELD_BYTES + 1];
        check_entry(&fields(&[(b".*", url), (&long, url)]), &[".*"], &["1024"]);
        let long = [url, &[b'a'; MAX_VALUE_BYTES]].concat();
        check_entry(&fields(&[(b".*", url), (b"/a", &long)]), &[".*"], &["2048"]);
        let unusable = Stored {
            hash: Hash::Unusable("another type".into()),
            redirect: true,
        };
        check_entry(&unusable, &[], &["another type"]);
        assert!(entry_of(&unusable, &admit_all()).redirect);
    }

    #[test]
    fn the_order_of_hgetall_does_not_matter() {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for n in 0..400 {
            pairs.push((format!("/p{n}").into(), b"http://192.0.2.1:80".to_vec()));
            pairs.push((
                format!("{}{n}", "a".repeat(MAX_FIELD_BYTES)).into(),
                vec![n as u8],
            ));
        }
        let entry = |pairs: &[(Vec<u8>, Vec<u8>)]| {
            let stored = Stored {
                hash: Hash::Fields(pairs.to_vec()),
                redirect: false,
            };
            entry_of(&stored, &admit_all())
        };
        let forward = entry(&pairs);
        pairs.reverse();
        assert!(forward == entry(&pairs));
    }
}
