//! What is in force: every key with its value, and whether somebody wrote it.
//!
//! Made from the same declarations as the reader and the reference, so that no key can be missing.
//! Passwords in URLs are blanked here already: nothing that is kept could show one.
//!
//! Invariant: [`Settings::to_toml`] is a valid file that means the same, passwords apart.

use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use crate::config::blank_password;
use crate::file::File;
use crate::reader::{Absent, FromToml as _, KeyDoc, Reader, Shape, TableDoc, join};

/// Every key of the configuration in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The file that was read.
    pub file: String,
    entries: Vec<(String, Node)>,
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// With all its tables, as TOML writes it: `pools.ingress.nodes[0].weight`.
    pub key: String,
    /// `None` when the key holds nothing. Passwords are `***`.
    pub value: Option<Value>,
    /// Why it holds that.
    pub origin: Origin,
}

/// Why a key holds what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It stands in this line of the file.
    Written(usize),
    /// Nobody wrote it.
    Default,
    /// Nobody wrote it, and it has no value, which means this.
    Unset(&'static str),
    /// The file said something else, which could not be had.
    Adjusted(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Value(Option<Value>, Origin),
    /// A table with known keys, or one of free names that hold plain values.
    Table(Vec<(String, Node)>),
    /// Tables under free names: `[pools.ingress]`.
    Named(Vec<(String, Vec<(String, Node)>)>),
    /// `[[tcp]]`
    List(Vec<Vec<(String, Node)>>),
}

impl Settings {
    /// Of a file that was read without a mistake.
    pub(crate) fn new(reader: &Reader<'_>, root: &DeTable<'_>) -> Self {
        let keys = File::table().map(|table| table.keys).unwrap_or_default();
        Self {
            file: reader.file().to_owned(),
            entries: entries(reader, &keys, Some(root)),
        }
    }

    /// Notes that something else than the file says is in force.
    pub fn adjust(&mut self, table: &str, key: &str, value: impl Into<Value>, why: &str) {
        if let Some(Node::Table(entries)) = find_mut(&mut self.entries, table)
            && let Some(node) = find_mut(entries, key)
        {
            *node = Node::Value(Some(value.into()), Origin::Adjusted(why.to_owned()));
        }
    }

    /// Notes that of a table, or of one key of it, the value of `old` stays in force.
    pub fn keep(&mut self, old: &Self, table: &str, key: Option<&str>, why: &str) {
        let old = find(&old.entries, table);
        let (Some(old), Some(own)) = (old, find_mut(&mut self.entries, table)) else {
            return;
        };
        let (old, own) = match (key, old, own) {
            (None, old, own) => (Some(old), Some(own)),
            (Some(key), Node::Table(old), Node::Table(own)) => (find(old, key), find_mut(own, key)),
            (Some(_), ..) => (None, None),
        };
        if let (Some(old), Some(own)) = (old, own) {
            *own = old.clone();
            own.adjusted(why);
        }
    }

    /// Every key, in the order of the reference.
    pub fn list(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        flatten(&mut all, "", &self.entries);
        all
    }

    /// A file that means the same, with a remark on each key.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (name, node) in &self.entries {
            match node {
                Node::Table(entries) => section(&mut out, &format!("[{name}]"), name, entries),
                Node::Named(tables) if tables.is_empty() => {
                    let _ = writeln!(out, "\n# No [{name}].");
                }
                Node::Named(tables) => {
                    for (key, entries) in tables {
                        let path = join(name, key);
                        section(&mut out, &format!("[{path}]"), &path, entries);
                    }
                }
                Node::List(tables) => {
                    for entries in tables {
                        section(&mut out, &format!("[[{name}]]"), name, entries);
                    }
                }
                Node::Value(_, Origin::Unset(meaning)) => {
                    let _ = writeln!(out, "\n# [{name}] is left out: {meaning}.");
                }
                // A plain value up here could only be an empty list of tables.
                Node::Value(..) => {
                    let _ = writeln!(out, "\n# No [[{name}]].");
                }
            }
        }
        out
    }
}

impl Node {
    fn adjusted(&mut self, why: &str) {
        match self {
            Self::Value(Some(_), origin) => *origin = Origin::Adjusted(why.to_owned()),
            Self::Value(None, _) => {}
            Self::Table(entries) => entries.iter_mut().for_each(|(_, node)| node.adjusted(why)),
            Self::Named(_) | Self::List(_) => {}
        }
    }
}

fn find<'e>(entries: &'e [(String, Node)], name: &str) -> Option<&'e Node> {
    let found = entries.iter().find(|(key, _)| key == name);
    found.map(|(_, node)| node)
}

fn find_mut<'e>(entries: &'e mut [(String, Node)], name: &str) -> Option<&'e mut Node> {
    let found = entries.iter_mut().find(|(key, _)| key == name);
    found.map(|(_, node)| node)
}

fn entries(
    reader: &Reader<'_>,
    keys: &[KeyDoc],
    table: Option<&DeTable<'_>>,
) -> Vec<(String, Node)> {
    let of = |key: &KeyDoc| {
        let written = table.and_then(|table| table.get(key.name));
        (key.name.to_owned(), node(reader, key, written))
    };
    keys.iter().map(of).collect()
}

fn node(reader: &Reader<'_>, key: &KeyDoc, written: Option<&Spanned<DeValue<'_>>>) -> Node {
    if written.is_none()
        && let Absent::Unset { meaning, .. } = key.absent
    {
        return Node::Value(None, Origin::Unset(meaning));
    }
    match (&key.table, written) {
        (Some(doc), _) => tables(reader, doc, written),
        (None, Some(value)) => match value.get_ref() {
            DeValue::Table(table) => Node::Table(free_names(reader, key, table)),
            _ => written_value(reader, value),
        },
        (None, None) => default_of(key),
    }
}

fn tables(reader: &Reader<'_>, doc: &TableDoc, written: Option<&Spanned<DeValue<'_>>>) -> Node {
    let value = written.map(Spanned::get_ref);
    match (doc.shape, value) {
        (Shape::One, _) => Node::Table(entries(
            reader,
            &doc.keys,
            value.and_then(DeValue::as_table),
        )),
        (Shape::Map, _) => {
            let named = in_order(value.and_then(DeValue::as_table));
            let table = |(name, value): (&str, &Spanned<DeValue<'_>>)| {
                let table = value.get_ref().as_table();
                (name.to_owned(), entries(reader, &doc.keys, table))
            };
            Node::Named(named.into_iter().map(table).collect())
        }
        (Shape::List, Some(DeValue::Array(items))) if !items.is_empty() => Node::List(
            (items.iter())
                .map(|item| list_item(reader, doc, item))
                .collect(),
        ),
        (Shape::List, _) => Node::Value(
            Some(Value::Array(Vec::new())),
            written.map_or(Origin::Default, |value| origin(reader, value)),
        ),
    }
}

/// A plain value in a list of tables stands for the key that every such table must have.
fn list_item(
    reader: &Reader<'_>,
    doc: &TableDoc,
    item: &Spanned<DeValue<'_>>,
) -> Vec<(String, Node)> {
    let mut all = entries(reader, &doc.keys, item.get_ref().as_table());
    if !item.get_ref().is_table() {
        let required = |key: &KeyDoc| matches!(key.absent, Absent::Required(_));
        let index = doc.keys.iter().position(required);
        if let Some((_, node)) = index.and_then(|index| all.get_mut(index)) {
            *node = written_value(reader, item);
        }
    }
    all
}

/// A table of names that the operator chooses; what is written joins what stands there by default.
fn free_names(reader: &Reader<'_>, key: &KeyDoc, table: &DeTable<'_>) -> Vec<(String, Node)> {
    let mut all = match default_of(key) {
        Node::Table(entries) => entries,
        _ => Vec::new(),
    };
    for (name, value) in in_order(Some(table)) {
        // The only such defaults are those of header fields, whose names have no case.
        all.retain(|(default, _)| !default.eq_ignore_ascii_case(name));
        all.push((name.to_owned(), written_value(reader, value)));
    }
    all
}

fn default_of(key: &KeyDoc) -> Node {
    let (Absent::Default(text) | Absent::Required(text)) = key.absent else {
        return Node::Value(None, Origin::Default);
    };
    // The test of the reference reads all defaults: there is no other outcome.
    let Ok(parsed) = DeValue::parse(text) else {
        return Node::Value(None, Origin::Default);
    };
    let node = |value: &DeValue<'_>| Node::Value(Some(plain(value)), Origin::Default);
    match parsed.get_ref() {
        DeValue::Table(table) => {
            let entries = in_order(Some(table)).into_iter();
            let entry = |(name, value): (&str, &Spanned<DeValue<'_>>)| {
                (name.to_owned(), node(value.get_ref()))
            };
            Node::Table(entries.map(entry).collect())
        }
        value => node(value),
    }
}

fn in_order<'v, 'i>(table: Option<&'v DeTable<'i>>) -> Vec<(&'v str, &'v Spanned<DeValue<'i>>)> {
    let mut all: Vec<_> = table.into_iter().flatten().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all.into_iter()
        .map(|(key, value)| (key.get_ref().as_ref(), value))
        .collect()
}

fn written_value(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>) -> Node {
    Node::Value(Some(plain(value.get_ref())), origin(reader, value))
}

fn origin(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>) -> Origin {
    Origin::Written(reader.line(&reader.place(String::new(), value.span())))
}

/// The value without places and passwords.
fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(without_password(text)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(
                |_| Value::String(number.as_str().to_owned()),
                Value::Integer,
            ),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| Value::String(number.as_str().to_owned()), Value::Float),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| plain(item.get_ref())).collect())
        }
        DeValue::Table(table) => Value::Table(
            (table.iter())
                .map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())))
                .collect(),
        ),
    }
}

/// URLs stand in several keys, and in any of them may be a password.
fn without_password(text: &str) -> String {
    let is_url = text.contains("://") || text.starts_with("unix:");
    if is_url && text.contains(['@', '?']) {
        blank_password(text)
    } else {
        text.to_owned()
    }
}

fn flatten(all: &mut Vec<Setting>, parent: &str, entries: &[(String, Node)]) {
    for (name, node) in entries {
        let key = join(parent, name);
        match node {
            Node::Value(value, origin) => all.push(Setting {
                key,
                value: value.clone(),
                origin: origin.clone(),
            }),
            Node::Table(entries) => flatten(all, &key, entries),
            Node::Named(tables) => {
                for (name, entries) in tables {
                    flatten(all, &join(&key, name), entries);
                }
            }
            Node::List(tables) => {
                for (index, entries) in tables.iter().enumerate() {
                    flatten(all, &format!("{key}[{index}]"), entries);
                }
            }
        }
    }
}

/// A table with its own header, and the lists of tables in it.
fn section(out: &mut String, header: &str, path: &str, entries: &[(String, Node)]) {
    let _ = writeln!(out, "\n{header}");
    lines(out, "", entries);
    for (name, node) in entries {
        if let Node::List(tables) = node {
            let path = join(path, name);
            for entries in tables {
                section(out, &format!("[[{path}]]"), &path, entries);
            }
        }
    }
}

fn lines(out: &mut String, parent: &str, entries: &[(String, Node)]) {
    for (name, node) in entries {
        let key = join(parent, name);
        match node {
            Node::Value(None, Origin::Unset(meaning)) => {
                let _ = writeln!(out, "# {key} is not set: {meaning}");
            }
            Node::Value(None, _) => {}
            Node::Value(Some(value), origin) => {
                let _ = match origin {
                    Origin::Written(line) => writeln!(out, "{key} = {value} # line {line}"),
                    Origin::Adjusted(why) => writeln!(out, "{key} = {value} # {why}"),
                    Origin::Default | Origin::Unset(_) => {
                        writeln!(out, "{key} = {value} # default")
                    }
                };
            }
            Node::Table(entries) if entries.is_empty() => {
                let _ = writeln!(out, "# {key} is empty");
            }
            Node::Table(entries) => lines(out, &key, entries),
            // No table that is nested in another one has free names; lists follow.
            Node::Named(_) | Node::List(_) => {}
        }
    }
}
