//! Fields of answers that come again and again, as the `h2` crate wants them.
//!
//! Most lines of an answer's head stood in the one before it: what portico adds to every answer,
//! what a tool says each time. To read a line anew takes checks of each byte and allocations; to
//! find it here takes a hash and a comparison.
//!
//! Not here: what a line means. Nothing depends on what was kept, but for the time it takes.
//!
//! Bounds: [`SLOTS`] lines of at most [`LONGEST`] bytes. A line is kept when it comes for the second
//! time, so that those which are new each time (lengths, tags) cost nothing; never Set-Cookie, since
//! secrets shall not stay in memory.

use std::cell::RefCell;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};

use super::head;

/// Lines that are kept, each in the slot that its hash says.
const SLOTS: usize = 128;
/// Longer lines are not kept.
const LONGEST: usize = 256;

/// The lines of one worker.
#[derive(Debug)]
pub struct RepeatedFields {
    hasher: RandomState,
    slots: RefCell<Box<[Slot]>>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    kept: Option<Kept>,
    /// The hash of the last line that was not found here.
    missed: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    line: Box<[u8]>,
    name: HeaderName,
    value: HeaderValue,
    /// It was found since another line wanted its slot.
    used: bool,
}

impl Default for RepeatedFields {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            slots: RefCell::new(vec![Slot::default(); SLOTS].into()),
        }
    }
}

impl RepeatedFields {
    /// The field of a line, as [`head::read_field`] has it.
    pub fn read(&self, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
        let hash = self.hasher.hash_one(line);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(hash as usize % SLOTS)?;
        if let Some(kept) = &mut slot.kept
            && *kept.line == *line
        {
            kept.used = true;
            return Some((kept.name.clone(), kept.value.clone()));
        }
        let (name, value) = head::read_field(line, HeaderValue::from_bytes)?;
        if slot.missed == hash && line.len() <= LONGEST && name != SET_COOKIE {
            slot.keep(line, &name, &value);
        }
        slot.missed = hash;
        Some((name, value))
    }
}

impl Slot {
    /// Keeps a line, unless the one that is here was used lately. Two that both come with every
    /// answer would otherwise push each other out for ever.
    fn keep(&mut self, line: &[u8], name: &HeaderName, value: &HeaderValue) {
        match &mut self.kept {
            Some(kept) if kept.used => kept.used = false,
            kept => {
                *kept = Some(Kept {
                    line: line.into(),
                    name: name.clone(),
                    value: value.clone(),
                    used: false,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(fields: &RepeatedFields) -> Vec<String> {
        let slots = fields.slots.borrow();
        let lines = slots.iter().flat_map(|slot| &slot.kept);
        let mut lines: Vec<_> = lines
            .map(|kept| String::from_utf8(kept.line.to_vec()).unwrap())
            .collect();
        lines.sort();
        lines
    }

    /// What is kept after these lines.
    #[track_caller]
    fn check(lines: &[&str], expected: &[&str]) {
        let fields = RepeatedFields::default();
        for line in lines {
            fields.read(line.as_bytes()).unwrap();
        }
        assert_eq!(kept(&fields), expected);
    }

    #[test]
    fn a_line_is_kept_when_it_comes_again() {
        check(&["a: b", "c: d"], &[]);
        check(&["a: b", "a: b"], &["a: b"]);
        check(&["a: b", "a: c"], &[]);
        check(&["set-cookie: a", "set-cookie: a", "set-cookie: a"], &[]);
        let long = format!("a: {}", "x".repeat(LONGEST));
        check(&[&long, &long], &[]);
    }

    #[test]
    fn what_is_used_is_not_pushed_out() {
        let mut slot = Slot::default();
        let mut keep = |line: &str, used: bool| {
            let (name, value) = head::read_field(line.as_bytes(), HeaderValue::from_bytes).unwrap();
            slot.keep(line.as_bytes(), &name, &value);
            let kept = slot.kept.as_mut().unwrap();
            kept.used |= used;
            String::from_utf8(kept.line.to_vec()).unwrap()
        };
        assert_eq!(keep("a: b", true), "a: b");
        assert_eq!(keep("c: d", true), "a: b");
        assert_eq!(keep("c: d", false), "a: b");
        assert_eq!(keep("c: d", false), "c: d");
    }

    proptest! {
        /// Whatever came before, a line gives what it gives for itself.
        #[test]
        fn nothing_depends_on_what_was_kept(
            lines in prop::collection::vec("(a|B|content-length|x-y|set-cookie|)(:|: |)[a-c\u{0}]{0,2}", 0..400)
        ) {
            let fields = RepeatedFields::default();
            for line in lines {
                let alone = head::read_field(line.as_bytes(), HeaderValue::from_bytes);
                prop_assert_eq!(fields.read(line.as_bytes()), alone);
            }
            prop_assert!(kept(&fields).len() <= SLOTS);
        }
    }
}
