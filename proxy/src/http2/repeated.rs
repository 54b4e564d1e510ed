//! Fields that come again and again, as the `h2` crate wants them: of answers to clients, of requests
//! to backends, of trailers.
//!
//! Most lines of a head stood in the one before it: what portico adds to every answer, what a tool
//! says each time. To read a line anew takes checks of each byte and allocations; to
//! find it here takes a hash and a comparison.
//!
//! Not here: what a line means. Nothing depends on what was kept, but for the time it takes.
//!
//! Bounds: [`SETS`] times [`WAYS`] lines of at most [`LONGEST`] bytes. A line is kept when it comes for
//! the second time, so that those which are new each time (lengths, tags) cost nothing; never
//! cookies and credentials ([`SECRETS`]), which would stay in memory until another line takes their
//! place, as a secret under any other name does. A line is found by all of its bytes: nobody gets
//! what only somebody else was told.

use std::cell::RefCell;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};

use super::head;

/// Sets of lines; the hash of a line says in which one it is looked for.
const SETS: usize = 32;
/// Lines of a set. The ten of a head hardly ever meet in one, where one line each would not do:
/// more than four do in one worker of 4,000, two of ten in 128 single places in three of ten.
const WAYS: usize = 4;
/// Fields that are not kept.
const SECRETS: [HeaderName; 4] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE];
/// Longer lines are not kept.
const LONGEST: usize = 256;

/// The lines of one worker, of answers or of requests.
#[derive(Debug)]
pub struct RepeatedFields {
    hasher: RandomState,
    sets: RefCell<Box<[Set]>>,
}

#[derive(Debug, Clone, Default)]
struct Set {
    kept: [Option<Kept>; WAYS],
    /// The hashes of the last lines that were not found here.
    missed: [u64; WAYS],
    /// Which of them is the oldest.
    oldest: usize,
}

#[derive(Debug, Clone)]
struct Kept {
    hash: u64,
    line: Box<[u8]>,
    name: HeaderName,
    value: HeaderValue,
    /// It came since another line wanted its place.
    used: bool,
}

impl Default for RepeatedFields {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            sets: RefCell::new(vec![Set::default(); SETS].into()),
        }
    }
}

impl RepeatedFields {
    /// The field of a line, as [`head::read_field`] has it.
    pub fn read(&self, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
        let hash = self.hasher.hash_one(line);
        let mut sets = self.sets.borrow_mut();
        let set = sets.get_mut(hash as usize % SETS)?;
        if let Some(kept) = set.find(hash, line) {
            kept.used = true;
            return Some((kept.name.clone(), kept.value.clone()));
        }
        let (name, value) = head::read_field(line)?;
        if set.missed_before(hash) && line.len() <= LONGEST && !SECRETS.contains(&name) {
            set.keep(Kept {
                hash,
                line: line.into(),
                name: name.clone(),
                value: value.clone(),
                used: true,
            });
        }
        Some((name, value))
    }
}

impl Set {
    fn find(&mut self, hash: u64, line: &[u8]) -> Option<&mut Kept> {
        let mut kept = self.kept.iter_mut().flatten();
        kept.find(|kept| kept.hash == hash && *kept.line == *line)
    }

    /// Whether a line that is not found here was not found lately either; next time it was.
    fn missed_before(&mut self, hash: u64) -> bool {
        let before = self.missed.contains(&hash);
        if !before && let Some(oldest) = self.missed.get_mut(self.oldest) {
            *oldest = hash;
            self.oldest = (self.oldest + 1) % WAYS;
        }
        before
    }

    /// Keeps a line where there is none, or one that was not used lately. If all were, it has to
    /// come again: those that come with every head would otherwise push each other out for ever.
    fn keep(&mut self, new: Kept) {
        let is_free = |kept: &&mut Option<Kept>| kept.as_ref().is_none_or(|kept| !kept.used);
        match self.kept.iter_mut().find(is_free) {
            Some(place) => *place = Some(new),
            None => {
                let kept = self.kept.iter_mut().flatten();
                kept.for_each(|kept| kept.used = false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(set: &Set) -> Vec<String> {
        let kept = set.kept.iter().flatten();
        kept.map(|kept| String::from_utf8(kept.line.to_vec()).unwrap())
            .collect()
    }

    fn kept(fields: &RepeatedFields) -> Vec<String> {
        let mut kept: Vec<_> = fields.sets.borrow().iter().flat_map(lines).collect();
        kept.sort();
        kept
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
        for secret in SECRETS {
            let line = format!("{secret}: a");
            check(&[&line, &line, &line], &[]);
        }
        let long = format!("a: {}", "x".repeat(LONGEST));
        check(&[&long, &long], &[]);
    }

    #[test]
    fn what_is_used_is_not_pushed_out() {
        let mut set = Set::default();
        let mut keep = |line: &str, used: bool| {
            let (name, value) = head::read_field(line.as_bytes()).unwrap();
            set.keep(Kept {
                hash: 0,
                line: line.as_bytes().into(),
                name,
                value,
                used,
            });
            lines(&set).concat()
        };
        assert_eq!(keep("a:  ", true), "a:  ");
        assert_eq!(keep("b:  ", false), "a:  b:  ");
        assert_eq!(keep("c:  ", true), "a:  c:  ");
        assert_eq!(keep("d:  ", true), "a:  c:  d:  ");
        assert_eq!(keep("e:  ", true), "a:  c:  d:  e:  ");
        assert_eq!(keep("f:  ", true), "a:  c:  d:  e:  ");
        assert_eq!(keep("f:  ", true), "f:  c:  d:  e:  ");
    }

    /// The lines of an answer that comes again and again, whatever sets they meet in.
    #[test]
    fn all_lines_of_a_repeated_answer_are_kept() {
        for workers in 0..100 {
            let fields = RepeatedFields::default();
            let answer: Vec<_> = (0..WAYS).map(|line| format!("a: {line}")).collect();
            for _ in 0..2 {
                for line in &answer {
                    fields.read(line.as_bytes()).unwrap();
                }
            }
            assert_eq!(kept(&fields), answer, "worker {workers}");
        }
    }

    proptest! {
        /// Whatever came before, a line gives what it gives for itself.
        #[test]
        fn nothing_depends_on_what_was_kept(
            lines in prop::collection::vec("(a|B|content-length|x-y|set-cookie|)(:|: |)[a-c\u{0}]{0,2}", 0..400)
        ) {
            let fields = RepeatedFields::default();
            for line in lines {
                let alone = head::read_field(line.as_bytes());
                prop_assert_eq!(fields.read(line.as_bytes()), alone);
            }
            prop_assert!(kept(&fields).len() <= SETS * WAYS);
        }
    }
}
