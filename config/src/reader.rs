//! Reads a TOML tree with places into typed values, and goes on after a mistake.
//!
//! A type says by [`FromToml`] what may stand for it and reads it; `table!` makes such a type
//! of a list of keys, each with its type, what holds when it is absent, and its
//! documentation. From the same list come the unknown keys, the nearest names and the
//! reference, so these cannot drift apart.
//!
//! Nothing here knows a key of portico or compares two of them: see `file` and `check`.
//!
//! Invariant: who returns `None` has reported why (or the key is absent and needs no value).

mod shapes;

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Positions, Severity, nearest};

pub(crate) use shapes::{Absent, Field, Item, List, Map, MapEntry, default_value};

/// Collects mistakes while a file is read and checked.
pub(crate) struct Reader<'a> {
    file: &'a str,
    positions: Positions<'a>,
    found: Vec<Diagnostic>,
    /// The keys of the whole file, to find out where a misplaced key belongs.
    root: fn() -> Option<TableDoc>,
    /// While a default is read: the offset in the file that stands for it.
    in_default: Option<usize>,
    /// Lines that are no TOML.
    syntax_error_lines: Vec<usize>,
    /// Whether parts of the file could not be read at all, so that what is
    /// missing may well be there.
    pub(crate) incomplete: bool,
}

/// Where something stands: its key with all tables, and its offset in the file.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) offset: usize,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) message: String,
    pub(crate) allowed: Option<String>,
    pub(crate) suggestion: Option<String>,
}

impl Mistake {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            allowed: None,
            suggestion: None,
        }
    }

    pub(crate) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str, root: fn() -> Option<TableDoc>) -> Self {
        Self {
            file,
            positions: Positions::new(text),
            found: Vec::new(),
            root,
            in_default: None,
            syntax_error_lines: Vec::new(),
            incomplete: false,
        }
    }

    /// The name of the file.
    pub(crate) fn file(&self) -> &str {
        self.file
    }

    pub(crate) fn error(&mut self, at: &Place, mistake: Mistake) {
        self.report(at, mistake, Severity::Error);
    }

    pub(crate) fn warning(&mut self, at: &Place, mistake: Mistake) {
        self.report(at, mistake, Severity::Warning);
    }

    /// Reports text that is no TOML.
    pub(crate) fn syntax_error(&mut self, at: &Place, message: &str) {
        self.error(at, Mistake::new(format!("no valid TOML: {message}")));
        self.syntax_error_lines.push(self.line(at));
    }

    fn report(&mut self, at: &Place, mistake: Mistake, severity: Severity) {
        let (line, column) = self.positions.find(at.offset);
        if self.syntax_error_lines.contains(&line) {
            // What was understood of such a line is a guess, and a mistake in it
            // would only lead astray.
            return;
        }
        self.found.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            column,
            key: at.key.clone(),
            message: mistake.message,
            allowed: mistake.allowed,
            suggestion: mistake.suggestion,
            severity,
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// The line of a place.
    pub(crate) fn line(&self, at: &Place) -> usize {
        self.positions.find(at.offset).0
    }

    /// Whether an error at this very place is known already.
    pub(crate) fn has_error_at(&self, offset: usize) -> bool {
        let (line, column) = self.positions.find(offset);
        self.found
            .iter()
            .any(|d| (d.line, d.column, d.severity) == (line, column, Severity::Error))
    }

    /// Everything that was found, in the order of the file.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| (d.line, d.column, d.severity));
        self.found
    }

    /// The place of a key or value below `parent`.
    pub(crate) fn place(&self, key: String, span: Range<usize>) -> Place {
        Place {
            key,
            offset: self.in_default.unwrap_or(span.start),
        }
    }

    /// Reports a value of the wrong type.
    pub(crate) fn wrong_type(
        &mut self,
        value: &DeValue<'_>,
        at: &Place,
        allowed: String,
        suggestion: Option<String>,
    ) {
        let mistake = Mistake::new(format!(
            "{} does not fit here",
            with_article(value.type_str())
        ));
        self.error(at, mistake.allowed(allowed).suggest(suggestion));
    }

    /// The value as a table, or a mistake.
    pub(crate) fn table<'v, 'i>(
        &mut self,
        value: &'v DeValue<'i>,
        at: &Place,
        allowed: impl FnOnce() -> String,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.as_table();
        if table.is_none() {
            self.wrong_type(value, at, allowed(), None);
        }
        table
    }

    /// Reports the keys of `table` that are none of `known`.
    pub(crate) fn unknown_keys(&mut self, table: &DeTable<'_>, at: &Place, known: &[&str]) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let elsewhere = self.table_with(name);
            let near = nearest(name, known.iter().copied()).map(str::to_owned);
            let suggestion = if value.get_ref().is_table() {
                // [pool.ingress] means [pools.ingress] and not the key `ingress.pool`.
                near.or(elsewhere)
            } else {
                elsewhere.or(near)
            };
            let message = if at.key.is_empty() {
                "there is no such table".to_owned()
            } else {
                format!("there is no such key in {}", at.key)
            };
            let place = self.place(join(&at.key, name), key.span());
            self.error(
                &place,
                Mistake::new(message)
                    .allowed(known.join(", "))
                    .suggest(suggestion),
            );
        }
    }

    /// `table.key` when a table at the top of the file has a key of that name.
    fn table_with(&self, name: &str) -> Option<String> {
        let root = (self.root)()?;
        root.keys.iter().find_map(|table| {
            let has = table
                .table
                .as_ref()?
                .keys
                .iter()
                .any(|key| key.name == name);
            has.then(|| join(table.name, name))
        })
    }
}

/// `key` below `parent`, quoted when TOML would want it so.
pub(crate) fn join(parent: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let key = if !key.is_empty() && key.bytes().all(bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if parent.is_empty() {
        key
    } else {
        format!("{parent}.{key}")
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// `"a", "b" or "c"`
pub(crate) fn or_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// A value that can be read from TOML.
pub(crate) trait FromToml: Sized {
    /// What may stand here, in words: for diagnostics and for the reference.
    fn allowed() -> String;

    /// The keys, where this is a table (or a list or map of tables).
    fn table() -> Option<TableDoc> {
        None
    }

    /// Reads the value; `None` after a mistake has been reported.
    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self>;
}

/// A value that is written as a string. It is what keys of maps are, too.
pub(crate) trait FromText: Sized {
    /// What may stand here, in words.
    fn allowed() -> String;

    /// Reads the text. A mistake that does not say what is allowed gets [`FromText::allowed`].
    fn from_text(text: &str) -> Result<Self, Mistake>;

    /// What was probably meant by a value that is no string.
    fn suggest_for(_value: &DeValue<'_>) -> Option<String> {
        None
    }
}

impl<T: FromText> FromToml for T {
    fn allowed() -> String {
        <T as FromText>::allowed()
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let Some(text) = value.as_str() else {
            reader.wrong_type(value, at, <T as FromText>::allowed(), T::suggest_for(value));
            return None;
        };
        read_text(reader, text, at)
    }
}

fn read_text<T: FromText>(reader: &mut Reader<'_>, text: &str, at: &Place) -> Option<T> {
    match T::from_text(text) {
        Ok(value) => Some(value),
        Err(mut mistake) => {
            mistake.allowed.get_or_insert_with(<T as FromText>::allowed);
            reader.error(at, mistake);
            None
        }
    }
}

impl FromToml for bool {
    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let read = value.as_bool();
        if read.is_none() {
            let meant = match value.as_str().map(str::to_lowercase).as_deref() {
                Some("true" | "yes" | "on") => Some("true".to_owned()),
                Some("false" | "no" | "off") => Some("false".to_owned()),
                _ => None,
            };
            reader.wrong_type(value, at, Self::allowed(), meant);
        }
        read
    }
}

/// A table as the reference shows it.
#[derive(Debug)]
pub(crate) struct TableDoc {
    pub(crate) shape: Shape,
    pub(crate) intro: &'static [&'static str],
    pub(crate) keys: Vec<KeyDoc>,
}

/// How tables of one kind stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `[name]`
    One,
    /// `[[name]]`
    List,
    /// `[name.any]`
    Map,
}

/// A key as the reference shows it.
#[derive(Debug)]
pub(crate) struct KeyDoc {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) allowed: String,
    pub(crate) absent: Absent,
    pub(crate) table: Option<TableDoc>,
}

/// Declares a table of the file: its introduction, and for each key the documentation, name, type
/// and what holds when it is absent.
macro_rules! table {
    (
        $(#[doc = $intro:literal])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $absent:expr,
            )*
        }
    ) => {
        $(#[doc = $intro])*
        #[derive(Debug)]
        #[allow(dead_code, reason = "keys that are not built yet are checked but not used")]
        pub(crate) struct $name {
            /// Where the table is.
            pub(crate) at: $crate::reader::Place,
            $( $(#[doc = $doc])* pub(crate) $key: $crate::reader::Field<$type>, )*
        }

        impl $crate::reader::FromToml for $name {
            fn allowed() -> String {
                let keys: &[&str] = &[$(stringify!($key)),*];
                format!("a table with the keys {}", keys.join(", "))
            }

            fn table() -> Option<$crate::reader::TableDoc> {
                Some($crate::reader::TableDoc {
                    shape: $crate::reader::Shape::One,
                    intro: &[$($intro),*],
                    keys: vec![$($crate::reader::KeyDoc {
                        name: stringify!($key),
                        doc: &[$($doc),*],
                        allowed: <$type as $crate::reader::FromToml>::allowed(),
                        absent: $absent,
                        table: <$type as $crate::reader::FromToml>::table(),
                    }),*],
                })
            }

            fn read(
                reader: &mut $crate::reader::Reader<'_>,
                value: &toml::de::DeValue<'_>,
                at: &$crate::reader::Place,
            ) -> Option<Self> {
                let table = reader.table(value, at, Self::allowed)?;
                reader.unknown_keys(table, at, &[$(stringify!($key)),*]);
                Some(Self {
                    at: at.clone(),
                    $($key: $crate::reader::Field::read(reader, table, at, stringify!($key), $absent),)*
                })
            }
        }
    };
}
pub(crate) use table;

/// Declares the words that stand for the variants of an enum.
macro_rules! choice {
    ($type:ty { $($word:literal => $variant:expr),* $(,)? }) => {
        impl $crate::reader::FromText for $type {
            fn allowed() -> String {
                let words: &[&str] = &[$($word),*];
                $crate::reader::or_list(words)
            }

            fn from_text(text: &str) -> Result<Self, $crate::reader::Mistake> {
                match text {
                    $($word => Ok($variant),)*
                    _ => Err($crate::reader::Mistake::new(format!("{text:?} is none of the choices"))
                        .suggest($crate::diagnostic::nearest(text, [$($word),*]).map(|word| format!("{word:?}")))),
                }
            }
        }
    };
}
pub(crate) use choice;
