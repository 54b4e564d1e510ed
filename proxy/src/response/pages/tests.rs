//! What pages say, to whom, and which templates are refused.

use super::testing::{loaded, pages};
use super::*;
use crate::http1::{BodyError, RequestError};
use crate::request_id::RequestIds;
use crate::response::failure::Side;

/// One of each, as far as pages are concerned.
const FAILURES: [Failure; 26] = [
    Failure::Malformed(RequestError::BareLf),
    Failure::Malformed(RequestError::MethodNotAllowed),
    Failure::Malformed(RequestError::TargetTooLong),
    Failure::Malformed(RequestError::ExpectationFailed),
    Failure::Malformed(RequestError::HeadTooLarge),
    Failure::Malformed(RequestError::UnsupportedVersion),
    Failure::HeaderTimeout,
    Failure::BadHost(None),
    Failure::BadBody(BodyError::BadChunkSize),
    Failure::BodyTimeout,
    Failure::BodyTooLarge,
    Failure::NoUserAgent,
    Failure::Loop,
    Failure::NotFound,
    Failure::NoIngress,
    Failure::ToolBusy,
    Failure::ToolUnreachable,
    Failure::ToolClosed,
    Failure::ToolTimeout,
    Failure::ToolForbidden,
    Failure::PlatformUnreachable,
    Failure::PlatformTimeout,
    Failure::PlatformMalformed,
    Failure::PlatformBusy,
    Failure::PlatformDrained,
    Failure::Exhausted,
];

fn page<'a>(failure: &'a Failure, format: Format) -> Page<'a> {
    Page {
        failure,
        format,
        tool: Some("mytool"),
        host: Some("mytool.toolforge.org"),
        request_id: RequestIds::default().next(),
        date: "Fri, 20 Nov 2026 13:00:00 GMT",
    }
}

#[track_caller]
fn contains(body: &str, parts: &[&str]) {
    for part in parts {
        assert!(body.contains(part), "no {part:?} in {body}");
    }
}

#[test]
fn every_failure_in_every_form() {
    let pages = pages("");
    for failure in &FAILURES {
        let (status, side) = failure.status_and_side();
        assert!(STATUSES.contains(&status), "{failure:?}");
        let (number, side) = (status.to_string(), side.to_string());
        let said = ["mytool", "proxy-1.example", "20 Nov 2026 13:00:00 UTC"];

        let html = page(failure, Format::Html);
        let (id, words) = (html.request_id.to_string(), Words::of(failure));
        let html = pages.render(&html);
        assert_eq!(html.content_type, "text/html; charset=utf-8");
        assert!(html.policy.unwrap().contains("style-src 'sha256-"));
        contains(&html.body, &said);
        let class = format!("class=\"way {side}\"");
        contains(
            &html.body,
            &[&number, &id, &class, &words.title.replace('\'', "&#39;")],
        );
        assert_eq!(html.body.matches("<h1>").count(), 1);
        assert!(!html.body.contains("{{") && html.body.len() < 8192);

        let text = pages.render(&page(failure, Format::Text));
        assert_eq!(text.content_type, "text/plain; charset=utf-8");
        contains(&text.body, &said);
        contains(&text.body, &[&number, words.title, &failure.to_string()]);
        contains(
            &text.body,
            &[&format!("fault: {side}"), "help: https://help.example/ ("],
        );

        for (format, media_type) in [
            (Format::Problem, "application/problem+json"),
            (Format::Json, "application/json"),
        ] {
            let page = page(failure, format);
            let json = pages.render(&page);
            assert_eq!(json.content_type, media_type);
            let value: serde_json::Value = serde_json::from_str(&json.body).unwrap();
            assert_eq!(
                value,
                serde_json::json!({
                    "type": "about:blank",
                    "title": reason_phrase(status),
                    "status": status,
                    "detail": failure.to_string(),
                    "fault": side,
                    "tool": "mytool",
                    "host": "mytool.toolforge.org",
                    "server": "proxy-1.example",
                    "request_id": page.request_id.to_string(),
                    "time": "Fri, 20 Nov 2026 13:00:00 UTC",
                    "help": "https://help.example/",
                })
            );
        }
    }
}

/// A monitor waits for these words (T200616 and the blackbox check).
#[test]
fn the_words_that_others_rely_on() {
    for (failure, words) in [
        (Failure::NotFound, "The URL you have requested"),
        (Failure::NoIngress, "The URL you have requested"),
        (Failure::NoUserAgent, "Requests must have a user agent"),
    ] {
        for format in [Format::Html, Format::Text, Format::Json, Format::Problem] {
            contains(&pages("").render(&page(&failure, format)).body, &[words]);
        }
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let config = "listen = { https = [], redirect = false }\ndomains.canonical = 'toolforge.org'";
    let config = portico_config::parse("test", config).unwrap().config;
    let pages = Pages::load(&config).unwrap();
    let page = |format| Page {
        tool: None,
        host: None,
        ..page(&Failure::HeaderTimeout, format)
    };
    let html = pages.render(&page(Format::Html)).body;
    let text = pages.render(&page(Format::Text)).body;
    let json = pages.render(&page(Format::Json)).body;
    for absent in [
        "<dt>Tool", "<dt>Host", "help", "tool:", "host:", "\"host\"", "\"tool\"",
    ] {
        for body in [&html, &text, &json] {
            assert!(!body.contains(absent), "{absent} in {body}");
        }
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    contains(&text, &[&format!("server: {host}\n")]);
}

/// Hosts and tools are valid names by then; pages do not rely on it.
#[test]
fn hostile_values_stay_text() {
    let hostile = "\"'><script>alert(1)</script>\u{0}\r\nX: y";
    let pages = pages("");
    let page = |format| Page {
        tool: Some(hostile),
        host: Some(hostile),
        ..page(&Failure::NotFound, format)
    };
    let html = pages.render(&page(Format::Html)).body;
    assert!(!html.contains("<script"), "{html}");
    contains(&html, &["&quot;&#39;&gt;&lt;script&gt;"]);
    let json = pages.render(&page(Format::Json)).body;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["host"], hostile);
}

/// Contrast of text as WCAG 2 has it, for the pairs of colours that the page uses.
#[test]
fn the_page_can_be_read() {
    let luminance = |hex: &str| {
        let hex: String = match hex.len() {
            3 => hex.chars().flat_map(|c| [c, c]).collect(),
            _ => hex.to_owned(),
        };
        let channel = |i: usize| {
            let value = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
    };
    let themes: Vec<&str> = PAGE.split("--page:").skip(1).collect();
    assert_eq!(themes.len(), 2);
    for theme in themes {
        let colour = |name: &str| {
            let (_, rest) = match name {
                "page" => ("", theme),
                _ => theme.split_once(&format!("--{name}:")).unwrap(),
            };
            luminance(
                rest.split(';')
                    .next()
                    .unwrap()
                    .trim()
                    .trim_start_matches('#'),
            )
        };
        for (text, back) in [
            ("text", "card"),
            ("soft", "card"),
            ("bad", "card"),
            ("bad", "bad-back"),
            ("good", "card"),
            ("link", "card"),
        ] {
            let (a, b) = (colour(text), colour(back));
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "{text} on {back}: {contrast}");
        }
    }
}

#[test]
fn sides_have_a_place_on_the_way() {
    let sides = [Side::Client, Side::Proxy, Side::Platform, Side::Tool];
    for (place, side) in (1..).zip(sides) {
        contains(PAGE, &[&format!(".{side} li:nth-child({place})::before")]);
        assert!(!blame(side).is_empty());
    }
}

/// A directory with these files.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

fn table(path: &Path) -> String {
    format!("pages.templates = {:?}\n", path.to_str().unwrap())
}

#[test]
fn templates_take_the_place_of_the_page() {
    let own = directory(&[
        ("page.html", b"<p>{{status}} {{fault}}"),
        ("404.html", b"<style>p{}</style>{{detail}}"),
        ("notes.txt", b"{{not a template}}"),
    ]);
    let pages = pages(&table(own.path()));
    let busy = pages.render(&page(&Failure::ToolBusy, Format::Html));
    assert_eq!(busy.body, "<p>503 tool");
    assert!(!busy.policy.unwrap().contains("sha256"));
    let missing = pages.render(&page(&Failure::NotFound, Format::Html));
    contains(
        &missing.body,
        &["<style>p{}</style>The URL you have requested"],
    );
    assert!(missing.policy.unwrap().contains("sha256"));
    // Without `page.html` the built-in page serves the others.
    let own = directory(&[("404.html", b"mine")]);
    let pages = testing::pages(&table(own.path()));
    assert_eq!(
        pages.render(&page(&Failure::NotFound, Format::Html)).body,
        "mine"
    );
    let busy = pages.render(&page(&Failure::ToolBusy, Format::Html));
    contains(&busy.body, &["<h1>This tool is overloaded</h1>"]);
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    let mistakes = loaded(&table(path)).unwrap_err();
    let shown: Vec<String> = mistakes
        .iter()
        .map(|mistake| {
            let line = mistake.to_string().lines().next().unwrap().to_owned();
            line.replace(path.to_str().unwrap(), "D")
        })
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn templates_with_mistakes_are_refused() {
    let large = vec![b' '; MAX_TEMPLATE + 1];
    let own = directory(&[
        ("402.html", b""),
        ("404.html", b"ok\n{{titel}}{{#tool}}"),
        ("0503.html", b""),
        ("502.html", b"ok\n\xc3\xbc\xff"),
        ("page.html", &large),
    ]);
    refused(
        own.path(),
        &[
            "D/0503.html: error: pages.templates: portico makes no such page",
            "D/402.html: error: pages.templates: portico makes no such page",
            "D/404.html:2:1: error: there is no placeholder \"titel\"",
            "D/404.html:2:10: error: the section tool is not closed",
            "D/502.html:2:2: error: this byte is not UTF-8",
            "D/page.html: error: pages.templates: the template is larger than 256 KiB",
        ],
    );
    let empty = directory(&[]);
    refused(
        empty.path(),
        &["D: error: pages.templates: there is no template here"],
    );
    let absent = empty.path().join("absent");
    refused(
        &absent,
        &[
            "D: error: pages.templates: the directory of templates cannot be read: No such file or directory (os error 2)",
        ],
    );
    let folder = directory(&[]);
    std::fs::create_dir(folder.path().join("page.html")).unwrap();
    refused(
        folder.path(),
        &[
            "D/page.html: error: pages.templates: the template cannot be read: Is a directory (os error 21)",
        ],
    );
}

#[test]
fn the_documents_keep_their_word() {
    let text = include_str!("../../../../docs/pages.md");
    let (_, rest) = text.split_once("```html\n").unwrap();
    let own = directory(&[("page.html", rest.split("```").next().unwrap().as_bytes())]);
    let pages = pages(&table(own.path()));
    let html = pages.render(&page(&Failure::ToolBusy, Format::Html)).body;
    contains(
        &html,
        &["<h1>This tool is overloaded</h1>", "<b>mytool</b>"],
    );
    for name in crate::response::template::NAMES {
        contains(text, &[&format!("`{name}`")]);
    }
}
