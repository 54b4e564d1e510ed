//! `/explain`: what would become of a request. Only the question is read here.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};

use super::State;
use super::answer::{Body, Form, bad_request, json_bytes, refusal, text};
use super::query::Query;

/// A request that nobody sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its URL, as it was given.
    pub url: String,
    /// Its method; `GET` unless given.
    pub method: String,
    /// Its fields.
    pub headers: Vec<(String, String)>,
}

/// What would become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// For people.
    pub text: String,
    /// For scripts: JSON.
    pub json: Vec<u8>,
}

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let (question, form) = match question(request) {
        Ok(understood) => understood,
        Err(why) => return bad_request(&why),
    };
    if state.explain.is_none() {
        return refusal(StatusCode::NOT_IMPLEMENTED, "explain is not built yet");
    }
    let explained = state.aside(false, move |state| {
        let explain = state.explain.as_ref()?;
        Some(explain(&state.process, &question))
    });
    match (explained.await, form) {
        (Ok(Some(Ok(explained))), Form::Json) => json_bytes(StatusCode::OK, explained.json),
        (Ok(Some(Ok(explained))), Form::Text) => text(StatusCode::OK, explained.text),
        (Ok(Some(Err(why))), _) => bad_request(&why),
        (Ok(None), _) => refusal(StatusCode::NOT_IMPLEMENTED, "explain is not built yet"),
        (Err(response), _) => response,
    }
}

fn question<B>(request: &Request<B>) -> Result<(Question, Form), String> {
    let query = Query::parse(request, &["url", "method", "header", "format"])?;
    let form = Form::of(request, &query, Form::Text)?;
    let Some(url) = query.one("url")?.filter(|url| !url.is_empty()) else {
        return Err(
            "the parameter url is missing: /explain?url=https://tool.example.org/path".to_owned(),
        );
    };
    let header = |line: &str| match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("{line:?} is no header: Name: value")),
    };
    let question = Question {
        url: url.to_owned(),
        method: query.one("method")?.unwrap_or("GET").to_owned(),
        headers: query.all("header").map(header).collect::<Result<_, _>>()?,
    };
    Ok((question, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Understood<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    #[track_caller]
    fn check(query: &str, expected: Result<Understood<'_>, &str>) {
        let request = Request::get(format!("/explain?{query}")).body(()).unwrap();
        match (question(&request), expected) {
            (Ok((found, _)), Ok((url, method, headers))) => {
                assert_eq!((found.url.as_str(), found.method.as_str()), (url, method));
                let pairs = found.headers.iter();
                let pairs: Vec<_> = pairs.map(|(a, b)| (a.as_str(), b.as_str())).collect();
                assert_eq!(pairs, headers);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn questions() {
        let url = "https://grid.toolforge.org/a?b=c&d";
        check(
            "url=https%3A%2F%2Fgrid.toolforge.org%2Fa%3Fb%3Dc%26d",
            Ok((url, "GET", &[])),
        );
        check(
            "url=x&method=POST&header=A:+b&header=C:d:e",
            Ok(("x", "POST", &[("A", "b"), ("C", "d:e")])),
        );
        check("", Err("url is missing"));
        check("url=", Err("url is missing"));
        check("url=a&url=b", Err("twice"));
        check("url=a&header=b", Err("no header"));
        check("url=a&b=c", Err("no parameter"));
    }
}
