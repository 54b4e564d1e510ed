//! `/metrics`: the text that the metrics make, beside the control thread.

use std::sync::Arc;

use hyper::{Response, StatusCode};

use super::State;
use super::answer::{Body, answer};
use crate::telemetry::metrics::{CONTENT_TYPE, exposition};

pub(super) async fn page(state: &Arc<State>) -> Response<Body> {
    let made = state.aside(false, |state| exposition(&state.process));
    match made.await {
        Ok(text) => answer(StatusCode::OK, CONTENT_TYPE, Body::Whole(Some(text.into()))),
        Err(response) => response,
    }
}
