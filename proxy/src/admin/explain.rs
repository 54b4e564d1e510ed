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
    match explained.await {
        Ok(Ok(explanation)) => match form {
            Form::Json => json(StatusCode::OK, &explanation),
            Form::Text => text(StatusCode::OK, explanation.to_string()),
        },
        Ok(Err(error)) => bad_request(&error.to_string()),
        Err(response) => response,
    }
}

fn question<B>(request: &Request<B>) -> Result<(Question, Form), String> {
    let known = ["url", "method", "header", "client", "format"];
    let query = Query::parse(request, &known)
        .map_err(|error| format!("{error}; a & within the URL is written %26"))?;
    let form = Form::of(request, &query, Form::Text)?;
    let Some(url) = query.one("url")?.filter(|url| !url.is_empty()) else {
        return Err(
            "the parameter url is missing: /explain?url=https://tool.example.org/path".to_owned(),
        );
    };
    let mut question = Question::new(url);
    if let Some(method) = query.one("method")? {
        method.clone_into(&mut question.method);
    }
    for header in query.all("header") {
        question
            .add_header(header)
            .map_err(|error| error.to_string())?;
    }
    if let Some(client) = query.one("client")? {
        let address = client.parse();
        question.client =
            Some(address.map_err(|_| format!("client={client:?} is not an IP address"))?);
    }
    Ok((question, form))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(query: &str) -> Result<Question, String> {
        let request = Request::get(format!("/explain?{query}")).body(()).unwrap();
        question(&request).map(|(question, _)| question)
    }

    #[track_caller]
    fn check(query: &str, method: &str, headers: &[(&str, &str)]) {
        let question = asked(query).unwrap();
        assert_eq!(question.url, "https://grid.toolforge.org/a?b=c&d");
        assert_eq!(question.method, method);
        let pairs = question.headers.iter();
        let pairs: Vec<_> = pairs.map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, headers);
    }

    #[test]
    fn questions() {
        let url = "url=https%3A%2F%2Fgrid.toolforge.org%2Fa%3Fb%3Dc%26d";
        check(url, "GET", &[]);
        check(
            &format!("{url}&method=POST&header=A:+b&header=C:d:e&header=D:"),
            "POST",
            &[("A", "b"), ("C", "d:e"), ("D", "")],
        );
        let address = asked("url=https://a&client=192.0.2.1").unwrap().client;
        assert_eq!(address, Some("192.0.2.1".parse().unwrap()));
    }

    #[track_caller]
    fn check_wrong(query: &str, expected: &str) {
        let error = asked(query).unwrap_err();
        assert!(error.contains(expected), "{query}: {error}");
    }

    #[test]
    fn what_is_no_question() {
        check_wrong("", "url is missing");
        check_wrong("url=", "url is missing");
        check_wrong("method=GET", "url is missing");
        check_wrong("url=a&url=b", "twice");
        check_wrong("url=https://a/?x&y=1", "no parameter \"y\"");
        check_wrong("url=https://a/?x&y=1", "%26");
        check_wrong("url=https://a&header=x", "'Name: value'");
        check_wrong("url=https://a&header=x%0a:%20y", "in one line");
        check_wrong("url=https://a&client=x", "not an IP address");
    }

    proptest! {
        /// What the command line asks is what arrives.
        #[test]
        fn a_question_survives_its_way(
            url in ".{1,40}",
            method in "[A-Z]{1,8}",
            headers in prop::collection::vec(("[a-zA-Z-]{1,8}", "[!-~]{0,8}"), 0..3),
        ) {
            let question = Question { url, method, headers, client: None };
            let again = asked(&question.to_query()).unwrap();
            prop_assert_eq!(again, question);
        }
    }
}
