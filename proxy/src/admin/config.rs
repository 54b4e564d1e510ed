//! `/config`: the configuration in force, as a file that could be loaded, or as JSON. Passwords were
//! blanked when it was read.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode};
use portico_config::{Origin, Settings};
use serde_json::{Value, json};

use super::State;
use super::answer::{self, Body, Form, bad_request};
use super::query::Query;

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Text)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    // A file of 4 MiB takes a while.
    let made = state.aside(false, move |state| {
        shown(form, &state.process.snapshot.load().config.settings)
    });
    made.await.unwrap_or_else(|response| response)
}

fn shown(form: Form, settings: &Settings) -> Response<Body> {
    match form {
        Form::Text => {
            let file = &settings.file;
            let text = format!(
                "# The configuration in force, from {file}. Passwords are ***.\n{}",
                settings.to_toml()
            );
            answer::answer(
                StatusCode::OK,
                "application/toml; charset=utf-8",
                Body::Whole(Some(text.into())),
            )
        }
        Form::Json => answer::json(StatusCode::OK, &as_json(settings)),
    }
}

fn as_json(settings: &Settings) -> Value {
    let setting = |setting: portico_config::Setting| {
        let mut said = json!({ "key": setting.key, "value": setting.value });
        match setting.origin {
            Origin::Written(line) => {
                said["origin"] = "file".into();
                said["line"] = line.into();
            }
            Origin::Default => said["origin"] = "default".into(),
            Origin::Unset(meaning) => {
                said["origin"] = "unset".into();
                said["note"] = meaning.into();
            }
            Origin::Adjusted(why) => {
                said["origin"] = "adjusted".into();
                said["note"] = why.into();
            }
        }
        said
    };
    let all: Vec<Value> = settings.list().into_iter().map(setting).collect();
    json!({ "file": settings.file, "settings": all })
}
