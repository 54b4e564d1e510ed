//! `/explain`: what would become of a request. Only the question is read here.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};

use super::State;
use super::answer::{Body, Form, bad_request, json, text};
use super::query::Query;
use crate::explain::{Question, explain};

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let (question, form) = match question(request) {
        Ok(understood) => understood,
        Err(why) => return bad_request(&why),
    };
    let explained = state.aside(false, move |state| explain(&state.process, &question));
    match (explained.await, form) {
        (Ok(Ok(explanation)), Form::Json) => json(StatusCode::OK, &explanation),
        (Ok(Ok(explanation)), Form::Text) => text(StatusCode::OK, explanation.to_string()),
        (Ok(Err(error)), _) => bad_request(&error.to_string()),
        (Err(response), _) => response,
    }
}

fn question<B>(request: &Request<B>) -> Result<(Question, Form), String> {
    let known = ["url", "method", "header", "client", "format"];
    let query = Query::parse(request, &known)?;
    let form = Form::of(request, &query, Form::Text)?;
    let Some(url) = query.one("url")?.filter(|url| !url.is_empty()) else {
        return Err(
            "the parameter url is missing: /explain?url=https://tool.example.org/path".to_owned(),
        );
    };
    let mut question = Question::new(url);
    if let Some(method) = query.one("method")? {
        question.method = method.to_owned();
    }
    for header in query.all("header") {
        question
            .add_header(header)
            .map_err(|error| error.to_string())?;
    }
    if let Some(client) = query.one("client")? {
        let address = client.parse();
        question.client = Some(address.map_err(|_| format!("{client:?} is not an IP address"))?);
    }
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

    /// What `portico explain --admin` asks is what is understood.
    #[test]
    fn the_command_is_understood() {
        let mut asked = Question::new("https://grid.toolforge.org/a%2F?b=c+d&e=\u{e9} #f");
        asked.method = "PURGE".to_owned();
        asked.client = "2001:db8::1".parse().ok();
        for header in ["User-Agent:", "X: a&b=c+d%20", "Via: 1.1 x"] {
            asked.add_header(header).unwrap();
        }
        let uri = format!("/explain?{}", asked.to_query());
        let (found, _) = question(&Request::get(uri).body(()).unwrap()).unwrap();
        assert_eq!(found, asked);
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
        check("url=a&header=b", Err("'Name: value'"));
        check("url=a&client=b", Err("not an IP address"));
        check("url=a&b=c", Err("no parameter"));
    }
}
