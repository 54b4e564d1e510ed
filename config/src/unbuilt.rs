//! What the contract promises and portico does not do yet.
//!
//! Every such key is read and checked like the others, and its default is off; a value that
//! somebody wrote and that turns it on is refused, because silence would be a promise. Whoever
//! builds a feature deletes its line here, gives the key its default in `file` and its place in
//! `config`. Nothing else knows the list but the reference, which marks the keys.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::reader::{Mistake, Reader, join};

/// The keys (`*` stands for any name) and the values of them that are not built yet.
pub(crate) const NOT_BUILT: &[(&str, When)] = &[
    ("rate.per_second", When::NotZero),
    ("refuse.user_agents", When::NotEmpty),
    ("refuse.referers", When::NotEmpty),
    ("refuse.addresses", When::NotEmpty),
    ("refuse.tools", When::NotEmpty),
    ("refuse.everything", When::True),
    ("registration", When::Written),
];

/// Which values of a key are not built yet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Written,
    NotEmpty,
    NotZero,
    True,
}

impl When {
    fn holds(self, value: &DeValue<'_>) -> bool {
        let text = value.as_str();
        match self {
            Self::Written => true,
            Self::NotEmpty => {
                text.is_some_and(|text| !text.is_empty())
                    || value.as_array().is_some_and(|list| !list.is_empty())
            }
            Self::NotZero => value
                .as_integer()
                .is_some_and(|number| number.as_str() != "0"),
            Self::True => value.as_bool() == Some(true),
        }
    }

    /// What to do about it.
    fn instead(self) -> String {
        match self {
            Self::Written => "leave it out".to_owned(),
            Self::NotEmpty => "leave it out or empty".to_owned(),
            Self::NotZero => "leave it out, or 0".to_owned(),
            Self::True => "leave it out, or false".to_owned(),
        }
    }

    /// The note in the reference.
    pub(crate) fn note(self) -> String {
        match self {
            Self::Written | Self::NotEmpty => "Not built yet: may not be set.".to_owned(),
            Self::NotZero => "Not built yet: only `0`.".to_owned(),
            Self::True => "Not built yet: only `false`.".to_owned(),
        }
    }
}

/// The note on a key of the reference (`pools.*.balance`), if some of it is not built yet.
pub(crate) fn note(key: &str) -> Option<String> {
    NOT_BUILT
        .iter()
        .find(|(pattern, _)| *pattern == key)
        .map(|(_, when)| when.note())
}

/// Reports every value of the file that is not built yet.
pub(crate) fn check(reader: &mut Reader<'_>, root: &DeTable<'_>) {
    for (pattern, when) in NOT_BUILT {
        let steps: Vec<&str> = pattern.split('.').collect();
        find(reader, root, &steps, "", *when);
    }
}

fn find(reader: &mut Reader<'_>, table: &DeTable<'_>, steps: &[&str], parent: &str, when: When) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    for (name, value) in table {
        if *step != "*" && name.get_ref() != step {
            continue;
        }
        let key = join(parent, name.get_ref());
        match value.get_ref() {
            _ if rest.is_empty() => refuse(reader, &key, value, when),
            DeValue::Table(inner) => find(reader, inner, rest, &key, when),
            _ => {}
        }
    }
}

fn refuse(reader: &mut Reader<'_>, key: &str, value: &Spanned<DeValue<'_>>, when: When) {
    if !when.holds(value.get_ref()) {
        return;
    }
    // Of a list of tables each has its own place.
    let tables = value
        .get_ref()
        .as_array()
        .filter(|list| list.iter().any(|item| item.get_ref().is_table()));
    let spans: Vec<_> = match tables {
        Some(list) => list
            .iter()
            .enumerate()
            .map(|(i, item)| (format!("{key}[{i}]"), item.span()))
            .collect(),
        None => vec![(key.to_owned(), value.span())],
    };
    for (key, span) in spans {
        let at = reader.place(key, span);
        // A value that is wrong in itself is reported already.
        if !reader.has_error_at(at.offset) {
            reader.error(&at, Mistake::new("not built yet").allowed(when.instead()));
        }
    }
}
