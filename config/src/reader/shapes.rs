//! What holds other values: lists, maps, and the keys of a table.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{FromText, FromToml, Mistake, Place, Reader, Shape, TableDoc, join, read_text};

/// A list that keeps the place of each of its items.
#[derive(Debug)]
pub(crate) struct List<T> {
    /// The items that could be read.
    pub(crate) items: Vec<Item<T>>,
    /// Whether there were others.
    pub(crate) incomplete: bool,
}

/// An item of a list with its place.
#[derive(Debug, Clone)]
pub(crate) struct Item<T> {
    pub(crate) value: T,
    pub(crate) at: Place,
}

impl<T> List<T> {
    /// Empty in the file, and not because of mistakes.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.incomplete
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.items.into_iter().map(|item| item.value)
    }
}

impl<T: FromToml> FromToml for List<T> {
    fn allowed() -> String {
        format!("a list; each item is {}", T::allowed())
    }

    fn table() -> Option<TableDoc> {
        Some(TableDoc {
            shape: Shape::List,
            ..T::table()?
        })
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let Some(array) = value.as_array() else {
            let meant = value.as_str().map(|text| format!("[{text:?}]"));
            reader.wrong_type(value, at, Self::allowed(), meant);
            return None;
        };
        let mut list = Self {
            items: Vec::new(),
            incomplete: false,
        };
        for (i, item) in array.iter().enumerate() {
            let at = reader.place(format!("{}[{i}]", at.key), item.span());
            match T::read(reader, item.get_ref(), &at) {
                Some(value) => list.items.push(Item { value, at }),
                None => list.incomplete = true,
            }
        }
        Some(list)
    }
}

/// A table whose keys are names that the operator chooses, in the order of the file.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    pub(crate) entries: Vec<MapEntry<K, V>>,
}

#[derive(Debug)]
pub(crate) struct MapEntry<K, V> {
    pub(crate) key: K,
    pub(crate) key_at: Place,
    /// `None` when there was a mistake in it.
    pub(crate) value: Option<V>,
    pub(crate) value_at: Place,
}

impl<K: FromText, V: FromToml> FromToml for Map<K, V> {
    fn allowed() -> String {
        format!(
            "a table; each key is {}, each value {}",
            <K as FromText>::allowed(),
            V::allowed()
        )
    }

    fn table() -> Option<TableDoc> {
        Some(TableDoc {
            shape: Shape::Map,
            ..V::table()?
        })
    }

    fn read(reader: &mut Reader<'_>, value: &DeValue<'_>, at: &Place) -> Option<Self> {
        let table = reader.table(value, at, Self::allowed)?;
        let mut written: Vec<(&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)> =
            table.iter().collect();
        written.sort_by_key(|(key, _)| key.span().start);
        let mut entries = Vec::new();
        for (key, value) in written {
            let path = join(&at.key, key.get_ref());
            let key_at = reader.place(path.clone(), key.span());
            let value_at = reader.place(path, value.span());
            let name = read_text(reader, key.get_ref(), &key_at);
            let value = V::read(reader, value.get_ref(), &value_at);
            if let Some(key) = name {
                entries.push(MapEntry {
                    key,
                    key_at,
                    value,
                    value_at,
                });
            }
        }
        Some(Self { entries })
    }
}

/// A key of a table with what it holds.
#[derive(Debug)]
pub(crate) struct Field<T> {
    /// `None` after a mistake, or when the key is absent and has no default.
    pub(crate) value: Option<T>,
    /// The value's place; for an absent key that of its table.
    pub(crate) at: Place,
    /// Whether the key is in the file.
    pub(crate) written: bool,
}

/// What holds when a key is absent. The texts are TOML.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Absent {
    /// This value.
    Default(&'static str),
    /// It may not be; with an example.
    Required(&'static str),
    /// No value, which means `meaning`; with an example.
    Unset {
        example: &'static str,
        meaning: &'static str,
    },
}

impl<T> Field<T> {
    /// The place, if the key is in the file.
    pub(crate) fn place(&self) -> Option<Place> {
        self.written.then(|| self.at.clone())
    }

    /// The value with its place, to be compared with others.
    pub(crate) fn item(&self) -> Option<Item<&T>> {
        self.value.as_ref().map(|value| Item {
            value,
            at: self.at.clone(),
        })
    }
}

impl<T: FromToml> Field<T> {
    /// Reads `key` of `table`, which stands at `parent`.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        table: &DeTable<'_>,
        parent: &Place,
        key: &'static str,
        absent: Absent,
    ) -> Self {
        let path = join(&parent.key, key);
        if let Some(value) = table.get(key) {
            let at = reader.place(path, value.span());
            let value = T::read(reader, value.get_ref(), &at);
            return Self {
                value,
                at,
                written: reader.in_default.is_none(),
            };
        }
        let at = Place {
            key: path,
            offset: parent.offset,
        };
        let value = match absent {
            Absent::Default(text) => read_default(reader, text, &at),
            Absent::Unset { .. } => None,
            Absent::Required(example) => {
                if !reader.incomplete {
                    let example = format!("{}, for example {key} = {example}", T::allowed());
                    reader.error(&at, Mistake::new("is missing").allowed(example));
                }
                None
            }
        };
        Self {
            value,
            at,
            written: false,
        }
    }
}

fn read_default<T: FromToml>(reader: &mut Reader<'_>, text: &'static str, at: &Place) -> Option<T> {
    // A default that is no TOML would be a mistake of ours: the test of the
    // reference reads them all.
    let value = DeValue::parse(text).ok()?;
    let before = reader.in_default.replace(at.offset);
    let read = T::read(reader, value.get_ref(), at);
    reader.in_default = before;
    read
}

/// The value that a default stands for; `None` only if the default is not valid, which would
/// be a mistake of ours.
pub(crate) fn default_value<T: FromToml>(text: &'static str) -> Option<T> {
    let mut reader = Reader::new("default", "", || None);
    read_default(
        &mut reader,
        text,
        &Place {
            key: String::new(),
            offset: 0,
        },
    )
}
