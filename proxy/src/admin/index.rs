//! Which pages there are, and the page that lists them.

use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Body, Form, answer, bad_request, text};
use super::pools::Act;
use super::query::Query;
use crate::pools::live::Wish;

/// A page of the administration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Index,
    Healthz,
    Readyz,
    Metrics,
    Status,
    StatusCsv,
    Pools,
    PoolAct(Act),
    Routes,
    Changes,
    Snapshot,
    Explain,
    Config,
    List,
    Apply,
    Keep,
    Refresh,
    Reload,
}

/// Path, page, method, and what it is.
const PAGES: &[(&str, Page, &str, &str)] = &[
    (
        "/healthz",
        Page::Healthz,
        "GET",
        "whether the process lives",
    ),
    (
        "/readyz",
        Page::Readyz,
        "GET",
        "whether it should get requests, and why not",
    ),
    ("/metrics", Page::Metrics, "GET", "for Prometheus"),
    (
        "/status",
        Page::Status,
        "GET",
        "what goes on (?format=text)",
    ),
    (
        "/status.csv",
        Page::StatusCsv,
        "GET",
        "listeners, nodes and pools, as HAProxy's statistics have them",
    ),
    (
        "/pools",
        Page::Pools,
        "GET",
        "pools and their nodes (?format=text)",
    ),
    (
        "/routes",
        Page::Routes,
        "GET",
        "the routes of tools (?tool=, ?contains=, ?bad, ?held, ?page_size=, ?after=)",
    ),
    (
        "/routes/changes",
        Page::Changes,
        "GET",
        "the last changes of the routes (?format=text)",
    ),
    (
        "/snapshot",
        Page::Snapshot,
        "GET",
        "the routes of the registry, as the snapshot on disk has them",
    ),
    (
        "/explain",
        Page::Explain,
        "GET",
        "what becomes of a request (?url=, ?method=, ?header=, ?client=)",
    ),
    (
        "/config",
        Page::Config,
        "GET",
        "the configuration in force (?format=json)",
    ),
    (
        "/list",
        Page::List,
        "GET",
        "the names of all tools with routes",
    ),
    (
        "/routes/apply",
        Page::Apply,
        "POST",
        "have routes that are held back removed now",
    ),
    (
        "/routes/keep",
        Page::Keep,
        "POST",
        "have routes that are held back kept",
    ),
    (
        "/routes/refresh",
        Page::Refresh,
        "POST",
        "have the routes compared with redis now",
    ),
    (
        "/pools/drain",
        Page::PoolAct(Act::Wish(Wish::Drain)),
        "POST",
        "no new requests for a node (?pool=, ?node=)",
    ),
    (
        "/pools/maintenance",
        Page::PoolAct(Act::Wish(Wish::Maintenance)),
        "POST",
        "the same, and no checks (?pool=, ?node=)",
    ),
    (
        "/pools/ready",
        Page::PoolAct(Act::Wish(Wish::Ready)),
        "POST",
        "have a node used again (?pool=, ?node=)",
    ),
    (
        "/pools/weight",
        Page::PoolAct(Act::Weight),
        "POST",
        "set the weight of a node (?pool=, ?node=, ?weight=)",
    ),
    (
        "/reload",
        Page::Reload,
        "POST",
        "have the configuration read again",
    ),
];

impl Page {
    /// The page at this path.
    pub(super) fn find(path: &str) -> Option<Self> {
        if path == "/" {
            return Some(Self::Index);
        }
        let found = PAGES.iter().find(|(known, ..)| *known == path);
        found.map(|(_, page, ..)| *page)
    }

    /// Whether it changes something.
    pub(super) fn acts(self) -> bool {
        match self {
            Self::Apply | Self::Keep | Self::Refresh | Self::Reload | Self::PoolAct(_) => true,
            Self::Index
            | Self::Healthz
            | Self::Readyz
            | Self::Metrics
            | Self::Status
            | Self::StatusCsv
            | Self::Pools
            | Self::Routes
            | Self::Changes
            | Self::Snapshot
            | Self::Explain
            | Self::Config
            | Self::List => false,
        }
    }

    /// Whether it takes this method.
    pub(super) fn takes(self, method: &Method) -> bool {
        match self.acts() {
            true => method == Method::POST,
            false => method == Method::GET || method == Method::HEAD,
        }
    }
}

/// The pages: with links for browsers, as text for everybody else.
pub(super) fn page<B>(request: &Request<B>) -> Response<Body> {
    let form = Query::parse(request, &["format"]).and_then(|query| {
        let html = request.headers().get_all(hyper::header::ACCEPT).iter();
        let html = html.map(HeaderValue::as_bytes).any(|accept| {
            accept
                .windows(9)
                .any(|part| part.eq_ignore_ascii_case(b"text/html"))
        });
        Ok((
            Form::of(request, &query, Form::Text)?,
            html && query.one("format")?.is_none(),
        ))
    });
    match form {
        Ok((_, true)) => answer(
            StatusCode::OK,
            "text/html; charset=utf-8",
            Body::Whole(Some(html().into())),
        ),
        Ok(_) => text(StatusCode::OK, listing()),
        Err(why) => bad_request(&why),
    }
}

fn listing() -> String {
    let line = |(path, _, method, what): &(&str, Page, &str, &str)| {
        format!("{method:<4} {path:<19} {what}\n")
    };
    PAGES.iter().map(line).collect()
}

fn html() -> String {
    let item = |(path, _, method, what): &(&str, Page, &str, &str)| {
        let what = what.replace('&', "&amp;");
        match *method {
            "GET" => format!("<li><a href=\"{path}\">{path}</a> {what}</li>\n"),
            _ => format!("<li>{method} {path} {what}</li>\n"),
        }
    };
    let items: String = PAGES.iter().map(item).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>portico</title>\n\
         <h1>portico {}</h1>\n<ul>\n{items}</ul>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// 404 with the pages that there are.
pub(super) fn not_found() -> Response<Body> {
    text(
        StatusCode::NOT_FOUND,
        format!("there is no such page; there are:\n{}", listing()),
    )
}

/// 405
pub(super) fn wrong_method(page: Page) -> Response<Body> {
    let allow = if page.acts() { "POST" } else { "GET, HEAD" };
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this page takes {allow}\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}
