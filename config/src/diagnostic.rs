//! Mistakes and warnings, with the place in the file where they are.
//!
//! A diagnostic is written for a person at three in the morning: what is wrong, where, what
//! is allowed, what is the nearest valid name. It never quotes a password. Nothing here
//! decides what is a mistake.

use std::fmt;

/// More mistakes than this are counted, not shown.
const MAX_SHOWN: usize = 100;

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but probably does not do what was meant.
    Warning,
}

/// One mistake or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as it was given.
    pub file: String,
    /// Line, from 1; 0 when it is about the file as a whole (it cannot be read).
    pub line: usize,
    /// Column in characters, from 1; 0 when `line` is.
    pub column: usize,
    /// The key with its tables (`listen.https[0]`); empty when there is none.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What may stand there, or what to do.
    pub allowed: Option<String>,
    /// The nearest thing that would be valid.
    pub suggestion: Option<String>,
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "\n    allowed: {allowed}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\n    did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// All mistakes of a configuration (and its warnings), in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Mistakes that are sorted already.
    pub(crate) fn new(sorted: Vec<Diagnostic>) -> Self {
        Self(sorted)
    }

    /// The mistakes and warnings one by one, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.0
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().take(MAX_SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.0.len() > MAX_SHOWN {
            write!(f, "\nand {} more", self.0.len() - MAX_SHOWN)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Turns byte offsets into lines and columns.
#[derive(Debug)]
pub(crate) struct Positions<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Positions<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0)
            .chain(newlines.map(|(i, _)| i + 1))
            .collect();
        Self { text, line_starts }
    }

    /// Line and column (both from 1, columns in characters: a tab is one) of a byte offset; an
    /// offset behind the text is its end, one within a character is that character.
    pub(crate) fn find(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self
            .line_starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(0, |before| before.chars().count());
        (line.max(1), column + 1)
    }
}

/// The candidate nearest to `name`, if any is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A long name costs a quadratic comparison and is no typing mistake.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score = strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase())
            .max(strsim::jaro_winkler(&lower, &candidate.to_lowercase()) - 0.3);
        if score >= 0.5 && best.is_none_or(|(old, _)| score > old) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_position(text: &str, offset: usize, line: usize, column: usize) {
        assert_eq!(Positions::new(text).find(offset), (line, column));
    }

    #[test]
    fn positions_count_characters() {
        check_position("", 0, 1, 1);
        check_position("a", 7, 1, 2);
        check_position("a\nb", 2, 2, 1);
        check_position("a\r\nb", 3, 2, 1);
        check_position("\tk", 1, 1, 2);
        check_position("\u{fc}\u{20ac}k", 5, 1, 3);
        check_position("\u{20ac}", 1, 1, 1);
    }

    #[track_caller]
    fn check_nearest(name: &str, expected: Option<&str>) {
        assert_eq!(
            nearest(name, ["http", "https", "redirect", "admin", "keep_alive"]),
            expected
        );
    }

    #[test]
    fn nearest_names() {
        check_nearest("htpps", Some("https"));
        check_nearest("Redirect", Some("redirect"));
        check_nearest("keepalive", Some("keep_alive"));
        check_nearest("redir", Some("redirect"));
        check_nearest("zzz", None);
    }
}
