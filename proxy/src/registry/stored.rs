//! What redis holds for a tool, and how its answers are read.
//!
//! Keys, and the answers to HLEN, HGETALL and SCAN, as values of our own. Sends nothing.
//!
//! Invariant: an answer that means "not now" (LOADING, MASTERDOWN, NOPERM) is an error and
//! never looks like a missing key.

use portico_routing::table::valid_tool;
use redis::{Cmd, ServerError, Value};

use super::link_error::{LinkError, refused};

/// A hash with more fields is bad as a whole.
const MAX_FIELDS: u64 = 1000;

/// A hash that takes more memory of redis is bad as a whole and is not even read. The largest good
/// one, of [`MAX_FIELDS`] of the longest patterns and backends, takes 3.6 MB.
const MAX_HASH_BYTES: u64 = 4 << 20;

/// What a field takes, roughly, where only their number is known.
const USUAL_FIELD_BYTES: u64 = 100;

pub(super) const PREFIX: &str = "prefix:";
pub(super) const REDIRECT: &str = "redirect:";

/// The two kinds of keys, in the order in which they are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Prefix,
    Redirect,
}

/// The tool that a key of redis is about; `None` when the key is none of ours or its tool
/// can never be asked for.
pub(super) fn tool_of(key: &[u8]) -> Option<&str> {
    let tool = key
        .strip_prefix(PREFIX.as_bytes())
        .or_else(|| key.strip_prefix(REDIRECT.as_bytes()))?;
    str::from_utf8(tool).ok().filter(|tool| valid_tool(tool))
}

/// What redis holds for one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) hash: Hash,
    pub(super) redirect: bool,
}

#[cfg(test)]
impl Stored {
    /// Neither of the tool's keys exists.
    pub(super) fn is_absent(&self) -> bool {
        self.hash == Hash::Absent && !self.redirect
    }
}

/// The value of a `prefix:` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Absent,
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
    /// It exists and cannot be used, for this reason.
    Unusable(String),
}

/// How the size of a hash is asked before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizing {
    /// MEMORY USAGE. It looks at up to as many fields as a good hash has, so that one long value in
    /// the midst of short ones is seen too; redis takes no longer for it than for HLEN (measured on
    /// 7.0: 1 us, 20 us with 1,000 fields).
    Bytes,
    /// HLEN, where the other is refused: few and huge fields are then read.
    Fields,
}

impl Sizing {
    /// The question for `key`, to be answered to [`hash_size`].
    pub(super) fn question(self, key: String) -> Cmd {
        let mut question = redis::cmd(match self {
            Sizing::Bytes => "MEMORY",
            Sizing::Fields => "HLEN",
        });
        match self {
            Sizing::Bytes => question
                .arg("USAGE")
                .arg(key)
                .arg("SAMPLES")
                .arg(MAX_FIELDS),
            Sizing::Fields => question.arg(key),
        };
        question
    }
}

/// How large a hash is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// So many bytes, roughly: it may be read.
    Read(u64),
    Known(Hash),
}

pub(super) fn hash_size(sizing: Sizing, answer: Value) -> Result<Size, LinkError> {
    match sizing {
        Sizing::Bytes => hash_bytes(&answer),
        Sizing::Fields => number_of_fields(answer),
    }
}

fn hash_bytes(answer: &Value) -> Result<Size, LinkError> {
    match answer {
        Value::Nil => Ok(Size::Known(Hash::Absent)),
        Value::Int(bytes) => match u64::try_from(*bytes) {
            Ok(bytes) if bytes <= MAX_HASH_BYTES => Ok(Size::Read(bytes)),
            Ok(bytes) => Ok(Size::Known(Hash::Unusable(format!(
                "the key takes {bytes} bytes of redis' memory; the limit is {MAX_HASH_BYTES}"
            )))),
            Err(_) => Err(LinkError::Answer("MEMORY USAGE")),
        },
        // Also when the right to it was taken away: the next connection does without.
        Value::ServerError(error) => Err(refused(error)),
        _ => Err(LinkError::Answer("MEMORY USAGE")),
    }
}

fn number_of_fields(answer: Value) -> Result<Size, LinkError> {
    match answer {
        Value::Int(0) => Ok(Size::Known(Hash::Absent)),
        Value::Int(fields) => match u64::try_from(fields) {
            Ok(fields) if fields <= MAX_FIELDS => Ok(Size::Read(fields * USUAL_FIELD_BYTES)),
            Ok(fields) => Ok(Size::Known(Hash::Unusable(format!(
                "the hash has {fields} fields; the limit is {MAX_FIELDS}"
            )))),
            Err(_) => Err(LinkError::Answer("HLEN")),
        },
        Value::ServerError(error) => wrong_type(&error).map(Size::Known),
        _ => Err(LinkError::Answer("HLEN")),
    }
}

pub(super) fn hash_fields(answer: Value) -> Result<Hash, LinkError> {
    let pairs = match answer {
        Value::Map(pairs) => pairs,
        // RESP2: fields and values in turn.
        Value::Array(flat) => pairs_of(flat)?,
        Value::ServerError(error) => return wrong_type(&error),
        _ => return Err(LinkError::Answer("HGETALL")),
    };
    // It may have grown since its size was asked; the push that tells so is on its way.
    if pairs.len() as u64 > MAX_FIELDS {
        return Ok(Hash::Unusable(format!(
            "the hash has {} fields; the limit is {MAX_FIELDS}",
            pairs.len()
        )));
    }
    let mut fields = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match pair {
            (Value::BulkString(field), Value::BulkString(value)) => fields.push((field, value)),
            _ => return Err(LinkError::Answer("HGETALL")),
        }
    }
    Ok(if fields.is_empty() {
        Hash::Absent
    } else {
        Hash::Fields(fields)
    })
}

fn pairs_of(flat: Vec<Value>) -> Result<Vec<(Value, Value)>, LinkError> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let Some(field) = flat.next() {
        let value = flat.next().ok_or(LinkError::Answer("HGETALL"))?;
        pairs.push((field, value));
    }
    Ok(pairs)
}

/// A key of another type is that tool's mistake; every other refusal is about the connection.
fn wrong_type(error: &ServerError) -> Result<Hash, LinkError> {
    if error.code() == "WRONGTYPE" {
        Ok(Hash::Unusable(
            "the key holds another type than a hash".into(),
        ))
    } else {
        Err(refused(error))
    }
}

pub(super) fn scan_answer(answer: Value) -> Result<(u64, Vec<Vec<u8>>), LinkError> {
    let parts = match answer {
        Value::Array(parts) => parts,
        Value::ServerError(error) => return Err(refused(&error)),
        _ => return Err(LinkError::Answer("SCAN")),
    };
    let mut parts = parts.into_iter();
    let (Some(Value::BulkString(cursor)), Some(Value::Array(found)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err(LinkError::Answer("SCAN"));
    };
    let cursor = str::from_utf8(&cursor)
        .ok()
        .and_then(|cursor| cursor.parse().ok())
        .ok_or(LinkError::Answer("SCAN"))?;
    let mut keys = Vec::with_capacity(found.len());
    for key in found {
        match key {
            Value::BulkString(key) => keys.push(key),
            _ => return Err(LinkError::Answer("SCAN")),
        }
    }
    Ok((cursor, keys))
}

pub(super) fn key(prefix: &str, tool: &str) -> String {
    [prefix, tool].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn server_error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    #[track_caller]
    fn check_tool(key: &[u8], tool: Option<&str>) {
        assert_eq!(tool_of(key), tool);
    }

    #[test]
    fn keys_name_their_tool() {
        check_tool(b"prefix:grid", Some("grid"));
        check_tool(b"redirect:ru_monuments", Some("ru_monuments"));
        check_tool(b"prefix:redirect", Some("redirect"));
        check_tool(b"prefix:", None);
        check_tool(b"prefix", None);
        check_tool(b"PREFIX:grid", None);
        check_tool(b"prefix:Grid", None);
        check_tool(b"prefix:a:b", None);
        check_tool(b"prefix:\xff\xfe", None);
        check_tool(b"k8s_services", None);
        check_tool(
            &[b"prefix:".as_slice(), &[b'a'; 63]].concat(),
            Some(&"a".repeat(63)),
        );
        check_tool(&[b"prefix:".as_slice(), &[b'a'; 64]].concat(), None);
    }

    #[track_caller]
    fn check_fields(answer: Value, expected: Result<Hash, &str>) {
        let got = hash_fields(answer).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn only_a_wrong_type_is_the_tools_own_mistake() {
        let field = (b".*".to_vec(), b"http://192.0.2.1:80".to_vec());
        let map = Value::Map(vec![(text(".*"), text("http://192.0.2.1:80"))]);
        check_fields(map, Ok(Hash::Fields(vec![field.clone()])));
        let flat = Value::Array(vec![text(".*"), text("http://192.0.2.1:80")]);
        check_fields(flat, Ok(Hash::Fields(vec![field])));
        check_fields(Value::Array(vec![]), Ok(Hash::Absent));
        check_fields(
            Value::Array(vec![text(".*")]),
            Err("it gave an answer to HGETALL that makes no sense"),
        );
        check_fields(Value::Map(vec![]), Ok(Hash::Absent));
        check_fields(
            server_error("WRONGTYPE Operation against a key"),
            Ok(Hash::Unusable(
                "the key holds another type than a hash".into(),
            )),
        );
        let loading = "LOADING Redis is loading the dataset in memory";
        check_fields(server_error(loading), Err(loading));
        let right = "the user of registry.url lacks a right (NOPERM no); it needs +ping +scan +exists +hgetall \
                     +dbsize +memory|usage ~prefix:* ~redirect:*, and +client|tracking to be told of changes";
        check_fields(server_error("NOPERM no"), Err(right));
        check_fields(
            Value::Nil,
            Err("it gave an answer to HGETALL that makes no sense"),
        );
        let many = (0..1001)
            .map(|n| (text(&n.to_string()), text("x")))
            .collect();
        let reason = "the hash has 1001 fields; the limit is 1000";
        check_fields(Value::Map(many), Ok(Hash::Unusable(reason.into())));
    }

    #[track_caller]
    fn check_size(sizing: Sizing, answer: Value, expected: Result<u64, &str>) {
        match (hash_size(sizing, answer).unwrap(), expected) {
            (Size::Read(bytes), Ok(expected)) => assert_eq!(bytes, expected),
            (Size::Known(Hash::Absent), Err("")) => {}
            (Size::Known(Hash::Unusable(reason)), Err(expected)) => {
                assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
            }
            (got, _) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_huge_hash_is_not_read() {
        let (bytes, fields) = (Sizing::Bytes, Sizing::Fields);
        check_size(bytes, Value::Nil, Err(""));
        check_size(bytes, Value::Int(104), Ok(104));
        check_size(bytes, Value::Int(4 << 20), Ok(4 << 20));
        check_size(bytes, Value::Int((4 << 20) + 1), Err("4194305 bytes"));
        check_size(fields, Value::Int(0), Err(""));
        check_size(fields, Value::Int(1000), Ok(100_000));
        check_size(fields, Value::Int(1001), Err("1001 fields"));
        check_size(fields, server_error("WRONGTYPE no"), Err("another type"));
    }

    #[test]
    fn a_loading_redis_does_not_look_empty() {
        assert!(scan_answer(server_error("LOADING wait")).is_err());
        for sizing in [Sizing::Bytes, Sizing::Fields] {
            for error in ["LOADING wait", "MASTERDOWN Link with MASTER is down"] {
                assert!(hash_size(sizing, server_error(error)).is_err());
            }
            assert!(hash_size(sizing, text("1")).is_err());
            assert!(hash_size(sizing, Value::Int(-1)).is_err());
        }
        let empty = Value::Array(vec![text("0"), Value::Array(vec![])]);
        assert_eq!(scan_answer(empty), Ok((0, vec![])));
    }
}
