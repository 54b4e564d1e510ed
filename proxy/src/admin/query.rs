//! The query of a request: `name=value` pairs, percent-encoded.
//!
//! Names that a page does not know are refused: a slip of the pen must not look like an answer.

use hyper::Request;

use crate::percent::decode;

/// Pairs of one query; longer ones are refused.
const MAX_PAIRS: usize = 64;

/// A query that was understood.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query; all names are among `known`.
    pub(super) fn parse<B>(request: &Request<B>, known: &[&str]) -> Result<Self, String> {
        let mut pairs = Vec::new();
        let query = request.uri().query().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "none".to_owned(),
                    _ => known.join(", "),
                };
                return Err(format!(
                    "there is no parameter {name:?} here; known: {known}"
                ));
            }
            if pairs.len() == MAX_PAIRS {
                return Err(format!("a query has at most {MAX_PAIRS} parameters"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// All values of a name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let same = move |pair: &&(String, String)| pair.0 == name;
        self.0.iter().filter(same).map(|(_, value)| value.as_str())
    }

    /// The value of a name that may stand once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, String> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(format!("the parameter {name} stands twice")),
        }
    }

    /// Whether a name stands there that says yes or no: `bad`, `bad=1`, `bad=false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.one(name)? {
            None | Some("0" | "false" | "no") => Ok(false),
            Some("" | "1" | "true" | "yes") => Ok(true),
            Some(other) => Err(format!("{name} is true or false, not {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Result<&[(&str, &str)], &str>) {
        let request = Request::get(format!("/?{query}")).body(()).unwrap();
        match (Query::parse(&request, &["a", "b"]), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> = found
                    .0
                    .iter()
                    .map(|(a, b)| (a.as_str(), b.as_str()))
                    .collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn queries() {
        check("", Ok(&[]));
        check("a=1&b=2", Ok(&[("a", "1"), ("b", "2")]));
        check("a&&b=", Ok(&[("a", ""), ("b", "")]));
        check("a=b=c", Ok(&[("a", "b=c")]));
        check("a=%2F%c3%A9+x", Ok(&[("a", "/\u{e9} x")]));
        check("a=%2", Err("percent-encoded"));
        check("a=%", Err("percent-encoded"));
        check("a=%+1", Err("percent-encoded"));
        check("a=%zz", Err("percent-encoded"));
        check("a=%ff", Err("UTF-8"));
        check("c=1", Err("known: a, b"));
        check(&"a&".repeat(65), Err("at most 64"));
    }
}
