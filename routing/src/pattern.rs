//! Patterns of routes: regular expressions over the canonical path, with cheaper ways to match where they exist.
//!
//! Does not order patterns; [`crate::table::Entry`] does. Does not see the query.
//!
//! Invariant: for every path that starts with `/`, [`Pattern::matches`] says what an unanchored search with the
//! regular expression says.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use thiserror::Error;

/// The longest source of a pattern in bytes.
pub const MAX_PATTERN: usize = 1024;

/// Bytes that a compiled expression may take. Also bounds the time of a search: it is at most proportional to this
/// times the length of the path.
const MAX_COMPILED: usize = 32 << 10;

/// Bytes that the lazily built automaton of an expression may take on each thread that searches with it.
const MAX_AUTOMATON: usize = 128 << 10;

/// How deep groups may nest.
const MAX_NESTING: u32 = 32;

/// A compiled pattern. Equal to another one when their sources are equal.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    matcher: Matcher,
}

/// How a pattern is matched, cheapest first. The order matters to routing too: what matches everything is tried last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Matches every path: `.*`, `^/.*$`, the empty pattern. Costs nothing.
    CatchAll,
    /// Matches paths that start with a literal: `^/api/`, `^/api/.*`. Costs one comparison.
    Prefix,
    /// Everything else: a search by the regex engine, linear in the length of the path.
    Regex,
}

#[derive(Clone, Debug)]
enum Matcher {
    CatchAll,
    Prefix(Box<[u8]>),
    Regex(Box<Regex>),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// Not a regular expression that the engine knows; it has no look-around and no back-references.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// It would need too much memory and time.
    #[error("the pattern is too large when compiled")]
    TooLarge,
}

impl Pattern {
    /// Compiles a pattern. Expressions work on bytes (as PCRE did in the legacy system, without its `u` flag): `.` is any byte,
    /// `\w` is ASCII.
    ///
    /// # Errors
    /// [`PatternError`] when it is too long, not an expression, or too large.
    pub fn compile(source: &str) -> Result<Pattern, PatternError> {
        if source.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let matcher = match cheap_matcher(&parse(source)?) {
            Some(matcher) => matcher,
            None => Matcher::Regex(Box::new(compile_regex(source)?)),
        };
        Ok(Pattern {
            source: source.into(),
            matcher,
        })
    }

    /// The text that the pattern was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the pattern matches somewhere in `path`, which is canonical (it starts with `/`) and has no query.
    #[inline]
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::CatchAll => true,
            Matcher::Prefix(prefix) => path.starts_with(prefix),
            Matcher::Regex(regex) => regex.is_match(path),
        }
    }

    /// How the pattern is matched.
    pub fn strategy(&self) -> Strategy {
        match self.matcher {
            Matcher::CatchAll => Strategy::CatchAll,
            Matcher::Prefix(_) => Strategy::Prefix,
            Matcher::Regex(_) => Strategy::Regex,
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// The engine's own parser, set as [`compile_regex`] sets the engine, so that both read the same expression.
fn parse(source: &str) -> Result<Hir, PatternError> {
    regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .dot_matches_new_line(true)
        .nest_limit(MAX_NESTING)
        .build()
        .parse(source)
        .map_err(|error| {
            PatternError::Syntax(match error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                _ => "unknown mistake".to_owned(),
            })
        })
}

fn compile_regex(source: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(source)
        .unicode(false)
        .dot_matches_new_line(true)
        .nest_limit(MAX_NESTING)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_AUTOMATON)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            error => PatternError::Syntax(error.to_string()),
        })
}

/// A matcher that needs no engine, where the expression is `start? literal? tail` with a tail that always matches.
fn cheap_matcher(hir: &Hir) -> Option<Matcher> {
    let mut parts = Vec::new();
    flatten(hir, &mut parts);
    let mut rest = &*parts;
    let mut anchored = false;
    while let [first, others @ ..] = rest
        && matches!(first.kind(), HirKind::Look(Look::Start))
    {
        anchored = true;
        rest = others;
    }
    let mut literal = Vec::new();
    while let [first, others @ ..] = rest
        && let HirKind::Literal(text) = first.kind()
    {
        literal.extend_from_slice(&text.0);
        rest = others;
    }
    if !tail_always_matches(rest, anchored || !literal.is_empty()) {
        return None;
    }
    match (anchored, &*literal) {
        // Every canonical path starts with a slash.
        (_, b"" | b"/") => Some(Matcher::CatchAll),
        (true, literal) => Some(Matcher::Prefix(literal.into())),
        (false, _) => None,
    }
}

/// The parts of nested concatenations in order. Groups do not matter to whether an expression matches.
fn flatten<'h>(hir: &'h Hir, parts: &mut Vec<&'h Hir>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Concat(subs) => subs.iter().for_each(|sub| flatten(sub, parts)),
        HirKind::Capture(capture) => flatten(&capture.sub, parts),
        _ => parts.push(hir),
    }
}

/// Whether `tail` matches at any place where it is tried (`placed`), or at some place of any path (not `placed`).
/// It does when all its parts match the empty string; before an end anchor one of them must also be able to run to
/// the end, unless the whole expression is free to begin there.
fn tail_always_matches(tail: &[&Hir], placed: bool) -> bool {
    let (tail, to_the_end) = match tail {
        [before @ .., last] if matches!(last.kind(), HirKind::Look(Look::End)) => (before, true),
        _ => (tail, false),
    };
    let all_may_be_empty = tail.iter().all(|part| {
        part.properties().minimum_len() == Some(0) && part.properties().look_set().is_empty()
    });
    all_may_be_empty && (!to_the_end || !placed || tail.iter().any(|part| is_any_bytes(part)))
}

/// `.*`, greedy or not, and what the parser reads as the same: any number of any bytes.
fn is_any_bytes(hir: &Hir) -> bool {
    let HirKind::Repetition(repetition) = hir.kind() else {
        return false;
    };
    let mut sub = &*repetition.sub;
    while let HirKind::Capture(capture) = sub.kind() {
        sub = &capture.sub;
    }
    let HirKind::Class(Class::Bytes(class)) = sub.kind() else {
        return false;
    };
    let every_byte = matches!(class.ranges(), [range] if range.start() == 0 && range.end() == 255);
    repetition.min == 0 && repetition.max.is_none() && every_byte
}
