//! Patterns of routes: regular expressions over the canonical path, with cheaper ways to
//! match where they exist.
//!
//! Does not order patterns; [`crate::table::Entry`] does. Does not see the query.
//!
//! Invariant: for every path that starts with `/`, [`Pattern::matches`] says what an unanchored
//! search with the regular expression says.

use std::sync::{Arc, LazyLock};

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use thiserror::Error;

/// The longest source of a pattern in bytes.
pub const MAX_PATTERN: usize = 1024;

/// Bytes that a compiled expression may take: enough for 100 alternatives of 5 bytes, or
/// for `[ab]{400}`. It bounds the time of a search as well, which may have to look at all
/// of the expression at each byte of the path: measured, a hostile pattern needs 20 ms
/// for a path of 8 KiB.
const MAX_COMPILED: usize = 32 << 10;

/// Bytes that the lazily built automaton of an expression may take on each thread
/// that searches with it.
const MAX_AUTOMATON: usize = 64 << 10;

/// How deep groups may nest.
const MAX_NESTING: u32 = 32;

/// What nearly all tools have, compiled once for all of them.
const USUAL: &str = ".*";

static USUAL_PATTERN: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(USUAL, Matcher::CatchAll));

/// A compiled pattern, cheap to clone and small in a table of a million. Equal to another one when
/// their sources are equal.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    source: Box<str>,
    matcher: Matcher,
}

/// How a pattern is matched, cheapest first. The order matters to routing too: what matches
/// everything is tried last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Matches every path: `.*`, `^/.*$`, the empty pattern. Costs nothing.
    CatchAll,
    /// Matches paths that start with a literal: `^/api/`, `^/api/.*`. Costs one comparison.
    Prefix,
    /// Matches paths that hold a literal anywhere: `/api/`, `/api/.*`. Costs one search for a text;
    /// as a regular expression it would take kilobytes.
    Contains,
    /// Everything else: a search by the regex engine, linear in the length of the path.
    Regex,
}

#[derive(Debug)]
enum Matcher {
    CatchAll,
    Prefix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Box<Regex>),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// Not a regular expression that the engine knows; it has no look-around
    /// and no back-references.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// It would need too much memory and time.
    #[error("the pattern is too large when compiled")]
    TooLarge,
}

impl Pattern {
    /// Compiles a pattern. Expressions work on bytes (as PCRE did in the legacy system, without its
    /// `u` flag): `.` is any byte, `\w` is ASCII.
    ///
    /// # Errors
    /// [`PatternError`] when it is too long, not an expression, or too large.
    pub fn compile(source: &str) -> Result<Pattern, PatternError> {
        if let Some(pattern) = Pattern::without_engine(source)? {
            return Ok(pattern);
        }
        let regex = compile_regex(source)?;
        Ok(Pattern::new(source, Matcher::Regex(Box::new(regex))))
    }

    /// The same for a pattern that can be matched without the regex engine; `None`: it cannot, which
    /// is found out without the time and memory that compiling takes.
    ///
    /// # Errors
    /// As [`Pattern::compile`].
    pub fn without_engine(source: &str) -> Result<Option<Pattern>, PatternError> {
        if source == USUAL {
            return Ok(Some(USUAL_PATTERN.clone()));
        }
        if source.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let matcher = cheap_matcher(&parse(source)?);
        Ok(matcher.map(|matcher| Pattern::new(source, matcher)))
    }

    fn new(source: &str, matcher: Matcher) -> Pattern {
        let source = source.into();
        Pattern(Arc::new(Compiled { source, matcher }))
    }

    /// The text that the pattern was compiled from.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether the pattern matches somewhere in `path`, which is canonical (it starts with
    /// `/`) and has no query.
    #[inline]
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.0.matcher {
            Matcher::CatchAll => true,
            Matcher::Prefix(prefix) => path.starts_with(prefix),
            Matcher::Contains(text) => memmem::find(path, text).is_some(),
            Matcher::Regex(regex) => regex.is_match(path),
        }
    }

    /// How the pattern is matched.
    pub fn strategy(&self) -> Strategy {
        match self.0.matcher {
            Matcher::CatchAll => Strategy::CatchAll,
            Matcher::Prefix(_) => Strategy::Prefix,
            Matcher::Contains(_) => Strategy::Contains,
            Matcher::Regex(_) => Strategy::Regex,
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.source() == other.source()
    }
}

impl Eq for Pattern {}

/// The engine's own parser, set as [`compile_regex`] sets the engine, so that both read
/// the same expression.
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

/// A matcher that needs no engine, where the expression is `start? literal? tail` with a tail
/// that always matches.
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
        (false, literal) => Some(Matcher::Contains(literal.into())),
    }
}

/// The parts of nested concatenations in order. Groups do not matter to whether
/// an expression matches.
fn flatten<'h>(hir: &'h Hir, parts: &mut Vec<&'h Hir>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Concat(subs) => subs.iter().for_each(|sub| flatten(sub, parts)),
        HirKind::Capture(capture) => flatten(&capture.sub, parts),
        _ => parts.push(hir),
    }
}

/// Whether `tail` matches at any place where it is tried (`placed`), or at some place of any path
/// (not `placed`). It does when all its parts match the empty string; before an end anchor one of
/// them must also be able to run to the end, unless the whole expression is free to begin there.
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

#[cfg(test)]
mod tests {
    use super::{Arc, MAX_PATTERN, Matcher, Pattern, Strategy, USUAL, compile_regex};
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as Generator;

    #[track_caller]
    fn check(source: &str, expected: Strategy) {
        let pattern = Pattern::compile(source).unwrap();
        assert_eq!(pattern.strategy(), expected, "{source:?}");
        assert_eq!(pattern.source(), source);
    }

    #[track_caller]
    fn check_prefix(source: &str, expected: &str) {
        match &Pattern::compile(source).unwrap().0.matcher {
            Matcher::Prefix(prefix) => assert_eq!(&**prefix, expected.as_bytes(), "{source:?}"),
            other => panic!("{source:?} is {other:?}"),
        }
    }

    #[test]
    fn catch_alls() {
        for source in [
            ".*",
            "",
            "^",
            "$",
            "^.*",
            ".*$",
            "^.*$",
            ".*?",
            "^.*?$",
            "(.*)",
            "^(.*)$",
            "(?s).*",
            "[^a]*|.*",
            "^[\\s\\S]*$",
            "a*",
            "^a?",
            "(x|)",
            "/",
            "/.*",
            "^/",
            "^/.*$",
            "^/?",
            "^/(.*)$",
            "^(?:/(?:.*))$",
            "\\A.*\\z",
            ".*.*$",
            "^.*a?$",
        ] {
            check(source, Strategy::CatchAll);
        }
    }

    #[test]
    fn prefixes() {
        check_prefix("^/api/.*", "/api/");
        check_prefix("^/api/", "/api/");
        check_prefix("^/api/.*$", "/api/");
        check_prefix("^/a\\.b\\-c/(.*)", "/a.b-c/");
        check_prefix("^\\x2fa", "/a");
        check_prefix("^/ab*", "/a");
        check_prefix("^/ab?c*.*$", "/a");
        check_prefix("^(/(a)(b))", "/ab");
        check_prefix("^\u{e9}", "\u{e9}");
        check_prefix("^a", "a");
        check_prefix("^(?:/a)", "/a");
    }

    #[test]
    fn texts_anywhere() {
        for source in [
            "/api/.*",
            "api",
            "/api/.*$",
            "(/a)(pi)b*",
            "/a\\.php",
            "ap?",
        ] {
            check(source, Strategy::Contains);
        }
    }

    #[test]
    fn the_usual_pattern_is_held_once() {
        let [one, other] = [USUAL; 2].map(|source| Pattern::compile(source).unwrap());
        assert!(Arc::ptr_eq(&one.0, &other.0));
    }

    #[test]
    fn regular_expressions() {
        for source in [
            "/api/.+",
            "api$",
            "(?i)api",
            "^/api$",
            "^/api\\b",
            "^/a|b",
            "^/a|^/b",
            "^/ab+c",
            "^/a.b",
            "^/a.+",
            "^/a{2}",
            "(?i)^/a",
            "(?m)^/a",
            "(?m)^.*$",
            "(?-s)^.*$",
            "^.*a",
            "^[^/]*$",
            "^/$",
            "^$",
            "a^b",
            "$a",
            "\\b",
            "^/[ab]",
            ".+",
        ] {
            check(source, Strategy::Regex);
        }
    }

    #[test]
    fn what_people_write_is_not_too_large() {
        let names: Vec<_> = (0..100).map(|n| format!("seg{n}")).collect();
        check(&format!("^/({})/.*", names.join("|")), Strategy::Regex);
        check(
            "^/(api|static)/[a-z0-9_-]{1,40}/(\\w+\\.)+html?$",
            Strategy::Regex,
        );
        check(&format!("^/{}", "a".repeat(1000)), Strategy::Prefix);
    }

    #[track_caller]
    fn check_match(source: &str, path: impl AsRef<[u8]>, expected: bool) {
        let path = path.as_ref();
        let pattern = Pattern::compile(source).unwrap();
        assert_eq!(pattern.matches(path), expected, "{source:?}");
        assert_eq!(compile_regex(source).unwrap().is_match(path), expected);
    }

    #[test]
    fn matches() {
        check_match("^.*$", b"/\xff\n\xc3", true);
        check_match(".*$", b"/\xff", true);
        check_match("^/[^/]+$", b"/\xff\xfe", true);
        check_match("^/\u{e9}", "/\u{e9}x", true);
        check_match("^/\\xff", b"/\xff", true);
        check_match("^/a|b", "/xb", true);
        check_match("^/ab*", "/a", true);
        check_match("^/ab*", "/ba", false);
        check_match("^/a\\.b", "/axb", false);
        check_match("^/api/.*", "/api", false);
        check_match("/api/.*", "/x/api/", true);
        check_match("/api/.*", "/x/apis", false);
        check_match("^/a$", "/ab", false);
        check_match("(?i)^/A", "/a", true);
        check_match("[a&&b]", "/a", false);
    }

    #[track_caller]
    fn check_error(source: &str, expected: &str) {
        let error = Pattern::compile(source).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn errors() {
        check_error("(", "unclosed group");
        check_error("*", "repetition operator missing expression");
        check_error("a{b", "repetition");
        check_error("(?=x)", "look-around");
        check_error("(a)\\1", "backreferences");
        check_error("\\p{Greek}", "Unicode");
        check_error("[z-a]", "range");
        check_error("^/a{1000}{1000}b$", "too large");
        check_error("((a{100}){100}){100}|x", "too large");
        check_error(&"a".repeat(MAX_PATTERN + 1), "longer than");
        check_error(&"(".repeat(200), "");
        check_error(&format!("{}a{}", "(".repeat(200), ")".repeat(200)), "nest");
    }

    /// What tools write, and what they write wrongly.
    fn source() -> impl Generator<Value = String> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                "^", "$", ".*", ".*?", "/", "/a", "a", "b", "ab", "\\.", "\\-", "\\/", "(", ")", "|", "*", "+", "?",
                "{2}", "[ab]", "[^/]", "[^/]*", "(?:", "(?i)", "(?s:", "(?-s)", "(?m)", "\\b", "\\n", "\\xff", "\u{e9}",
                ".", "\\A", "\\z", "[\\s\\S]*", "(?s-u:.)", "\\%", "%41",
            ]).prop_map(str::to_owned),
            1 => "\\\\?[!-~]",
        ];
        (any::<bool>(), prop::collection::vec(piece, 0..7)).prop_map(|(anchored, pieces)| {
            let start = if anchored { "^" } else { "" };
            format!("{start}{}", pieces.concat())
        })
    }

    fn path() -> impl Generator<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::sample::select(vec![&b"/"[..], b"a", b"b", b".", b"ab", b"-", b"%41", "\u{e9}".as_bytes(), b"\n", b"\xff"])
                .prop_map(<[u8]>::to_vec),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| [b"/", &*pieces.concat()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn as_the_plain_regular_expression(source in source(), paths in prop::collection::vec(path(), 1..8)) {
            let twin = compile_regex(&source);
            let pattern = Pattern::compile(&source);
            prop_assert_eq!(twin.is_ok(), pattern.is_ok(), "{:?} {:?}", twin, pattern);
            if let (Ok(twin), Ok(pattern)) = (twin, pattern) {
                for path in paths {
                    prop_assert_eq!(pattern.matches(&path), twin.is_match(&path), "{:?}", path);
                }
            }
        }
    }
}
