//! Whether an answer is compressed, as data.

use super::*;
use crate::http1::{HeadLimits, Parsed, RequestKind, ResponseParser};

const CONFIG: &str = r#"
    [listen]
    https = []
    redirect = false
    [domains]
    canonical = "toolforge.org"
    [compression]
    off_for = ["secret"]
"#;

const ENCODE: Plan = Plan::Encode(Algorithm::Br);
const TYPE: &str = "Content-Type: text/html\r\n";

fn compression(toml: &str) -> Compression {
    let config = portico_config::parse("test", toml).unwrap().config;
    config.compression
}

/// The plan for an answer with this start line and these fields, for a client that prefers `br`
/// and has a weak ETag.
fn planned(config: &Compression, tool: &str, kind: RequestKind, start: &str, fields: &str) -> Plan {
    let mut head = format!("HTTP/1.1 {start}\r\n{fields}\r\n").into_bytes();
    let mut parser = ResponseParser::new(HeadLimits {
        head: 4096,
        target: 0,
        fields: 32,
    });
    assert_eq!(parser.parse(&mut head, kind), Ok(Parsed::Complete));
    let of = |encoding, has_weak| {
        let accepts = Accepts { encoding, has_weak };
        plan(config, Some(tool), accepts, parser.head(), &head)
    };
    let for_br = of(Some(Algorithm::Br), true);
    let without = |plan| match plan {
        Plan::Untouched => Plan::Untouched,
        _ => Plan::Identity,
    };
    assert_eq!(
        of(None, false),
        without(for_br),
        "what varies does so for all"
    );
    // A validator decides on a 304, Accept-Encoding on all else.
    let (weak, br) = match for_br {
        Plan::NotModified => (for_br, without(for_br)),
        _ => (without(for_br), for_br),
    };
    assert_eq!(of(None, true), weak);
    assert_eq!(of(Some(Algorithm::Br), false), br);
    for_br
}

#[track_caller]
fn check_status(start: &str, fields: &str, expected: Plan) {
    let got = planned(
        &compression(CONFIG),
        "t",
        RequestKind::default(),
        start,
        fields,
    );
    assert_eq!(got, expected, "{start} {fields:?}");
}

#[track_caller]
fn check(fields: &str, expected: Plan) {
    check_status("200 OK", fields, expected);
}

#[test]
fn statuses() {
    for start in [
        "200 OK", "201 x", "203 x", "300 x", "302 x", "403 x", "404 x", "500 x", "599 x",
    ] {
        check_status(start, TYPE, ENCODE);
    }
    for start in ["103 x", "204 x", "205 x", "206 x", "226 x"] {
        check_status(start, TYPE, Plan::Untouched);
    }
}

#[test]
fn media_types() {
    for listed in [
        "text/html",
        "TEXT/Html",
        "text/html; charset=utf-8",
        "application/json ;x",
    ] {
        check(&format!("Content-Type: {listed}\r\n"), ENCODE);
    }
    for other in [
        "",
        ";",
        "text",
        "text/htmlx",
        "text/event-stream",
        "image/png",
        "text/html, a/b",
    ] {
        check(&format!("Content-Type: {other}\r\n"), Plan::Untouched);
    }
    check("", Plan::Untouched);
    check(
        &format!("{TYPE}Content-Type: image/png\r\n"),
        Plan::Untouched,
    );
    let streams = format!("{CONFIG}types = ['text/event-stream', 'Text/X']");
    let config = compression(&streams);
    for (media_type, expected) in [("text/event-stream;a", Plan::Untouched), ("text/x", ENCODE)] {
        let fields = format!("Content-Type: {media_type}\r\n");
        let got = planned(&config, "t", RequestKind::default(), "200 OK", &fields);
        assert_eq!(got, expected, "{media_type}");
    }
}

#[test]
fn what_speaks_against_it() {
    let check = |field: &str, expected| check(&format!("{field}\r\n{TYPE}"), expected);
    check("Content-Encoding: gzip", Plan::Untouched);
    check("Content-Encoding: identity, br", Plan::Untouched);
    check("Content-Encoding: Identity", ENCODE);
    check("Content-Encoding: ", ENCODE);
    check("Cache-Control: public, No-Transform", Plan::Untouched);
    check("Cache-Control: no-transformation, no-store", ENCODE);
    check("Content-Range: bytes 0-1/5", Plan::Untouched);
    check("X-Accel-Buffering: NO", Plan::Untouched);
    check("X-Accel-Buffering: yes", ENCODE);
    check("Vary: *", ENCODE);
}

#[test]
fn lengths() {
    let check =
        |length: &str, expected| check(&format!("{TYPE}Content-Length: {length}\r\n"), expected);
    check("0", Plan::Untouched);
    check("1023", Plan::Untouched);
    check("1024", ENCODE);
    check("9999999999", ENCODE);
    let config = compression(&format!("{CONFIG}min_size = 0"));
    for (length, expected) in [("0", Plan::Untouched), ("1", ENCODE)] {
        let fields = format!("{TYPE}Content-Length: {length}\r\n");
        let got = planned(&config, "t", RequestKind::default(), "200 OK", &fields);
        assert_eq!(got, expected, "{length}");
    }
}

#[test]
fn not_modified() {
    let check = |fields: &str, expected| check_status("304 Not Modified", fields, expected);
    check("ETag: \"x\"\r\n", Plan::NotModified);
    check(TYPE, Plan::NotModified);
    check("Content-Length: 0\r\n", Plan::NotModified);
    check("Content-Type: image/png\r\n", Plan::Untouched);
    check("Content-Encoding: gzip\r\n", Plan::Untouched);
    check("Cache-Control: no-transform\r\n", Plan::Untouched);
    check("X-Accel-Buffering: no\r\n", Plan::Untouched);
}

#[test]
fn head_is_like_get() {
    for (fields, expected) in [
        (TYPE, ENCODE),
        ("Content-Type: text/css\r\nContent-Length: 5000\r\n", ENCODE),
        (
            "Content-Type: text/css\r\nContent-Length: 5\r\n",
            Plan::Untouched,
        ),
    ] {
        for head in [false, true] {
            let kind = RequestKind {
                head,
                upgrade: false,
            };
            let got = planned(&compression(CONFIG), "t", kind, "200 OK", fields);
            assert_eq!(got, expected, "{fields:?}");
        }
    }
}

#[test]
fn tools_can_be_left_alone() {
    let kind = RequestKind::default();
    let config = compression(CONFIG);
    for (tool, expected) in [("secret", Plan::Untouched), ("secrets", ENCODE)] {
        assert_eq!(planned(&config, tool, kind, "200 OK", TYPE), expected);
        let not_modified = planned(&config, tool, kind, "304 x", "");
        assert_eq!(not_modified.varies(), expected.varies());
    }
    let off = compression(&format!("{CONFIG}algorithms = []"));
    assert_eq!(planned(&off, "t", kind, "200 OK", TYPE), Plan::Untouched);
    assert_eq!(planned(&off, "t", kind, "304 x", ""), Plan::Untouched);
}
