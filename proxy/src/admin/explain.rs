//! `/explain`: what would become of a request. The question is read, and answered, elsewhere; here it
//! only gets its form.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};

use super::State;
use super::answer::{Body, Form, answer, bad_request, refusal};
use super::query::Query;

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let Some(explain) = state.explain.clone() else {
        return refusal(StatusCode::NOT_IMPLEMENTED, "explain is not built yet");
    };
    let (format, question) = split(request.uri().query().unwrap_or_default());
    let query = Query::of(&format, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Text)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    let explained = state.aside(false, move |state| {
        explain(&state.process, &question, form == Form::Json)
    });
    match explained.await {
        Ok((status, kind, text)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            answer(status, kind, Body::Whole(Some(text.into())))
        }
        Err(response) => response,
    }
}

/// The query without the form of the answer, which is no part of the question, and that form.
fn split(query: &str) -> (String, String) {
    let is_format = |pair: &&str| pair.split('=').next() == Some("format");
    let (format, question): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_format);
    (format.join("&"), question.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, format: &str, question: &str) {
        assert_eq!(split(query), (format.to_owned(), question.to_owned()));
    }

    #[test]
    fn the_form_is_no_part_of_the_question() {
        check("", "", "");
        check(
            "url=a%26format=x&header=b:+c",
            "",
            "url=a%26format=x&header=b:+c",
        );
        check("format=json&url=a", "format=json", "url=a");
        check(
            "url=a&format=json&method=B",
            "format=json",
            "url=a&method=B",
        );
        check("formats=json", "", "formats=json");
    }
}
