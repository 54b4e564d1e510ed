//! RFC 9113, section 8: what a request must be like. Each row names its section.

use portico_tests::http2::rows::{Rows, Want};
use portico_tests::http2::{Frame, Head, Outcome, code};
use portico_tests::portico::HOST;

use Want::{Malformed, MalformedOrEnd, Status, Stream};

fn page() -> Head {
    Head::get(HOST, "/page")
}

fn post() -> Head {
    Head::post(HOST, "/up")
}

#[test]
fn section_8_1_framing() {
    let mut rows = Rows::start();
    rows.row(
        "8.1",
        "a second HEADERS that does not end the stream",
        Malformed(1),
        |c| {
            c.request(&post(), false);
            c.send(&Frame::headers(1, &Head::default().with("x-t", "1"), false));
        },
    );
    for name in [":method", ":path", ":status", ":authority"] {
        let what = format!("trailers with {name}");
        // The h2 crate forgets some of them instead, before anybody sees them.
        rows.run("8.1", &what, |portico| {
            let mut client = portico.http2();
            let stream = client.request(&post().with("te", "trailers"), false);
            client.send(&Frame::data(stream, b"body".to_vec(), false));
            let trailers = Head::default().with(name, "/").with("x-t", "1");
            client.send(&Frame::headers(stream, &trailers, true));
            match client.outcome(stream) {
                Outcome::Reset(code::PROTOCOL_ERROR) | Outcome::Goaway(code::PROTOCOL_ERROR) => {}
                Outcome::Answer(answer) if matches!(answer.status, 200 | 400) => {}
                other => return Err(format!("{other:?}")),
            }
            Ok(())
        });
        let seen = rows.origin.take();
        let right = seen.iter().all(|request| {
            let mut names = request.trailers.iter().map(|(name, _)| &**name);
            names.all(|name| name == "x-t")
        });
        rows.run("8.1", &what, |_| {
            right.then_some(()).ok_or(format!("{seen:?}"))
        });
    }
    rows.row(
        "8.1",
        "DATA behind trailers",
        Want::Either(1, &[code::STREAM_CLOSED, code::PROTOCOL_ERROR]),
        |c| {
            c.request(&Head::post(HOST, "/sleep/2000"), false);
            c.send(&Frame::headers(1, &Head::default().with("x-t", "1"), true));
            c.send(&Frame::data(1, b"x".to_vec(), true));
        },
    );
    for (what, length, body) in [
        ("more than the length", "3", "four"),
        ("less than the length", "5", "four"),
        ("a length that is no number", "4x", "four"),
        ("a length with a sign", "+4", "four"),
        ("an empty length", "", "four"),
        ("a length in a list", "4, 4", "four"),
    ] {
        rows.row("8.1.1", what, Malformed(1), |c| {
            c.request(&post().with("content-length", length), false);
            c.send(&Frame::data(1, body.as_bytes().to_vec(), true));
        });
    }
    rows.row(
        "8.1.1",
        "a length and an end without a body",
        Malformed(1),
        |c| {
            c.request(&post().with("content-length", "5"), true);
        },
    );
    // The tool has all of it before it turns out to be wrong: a request without a body.
    rows.row(
        "8.1.1",
        "something instead of nothing",
        Stream(1, &[code::PROTOCOL_ERROR]),
        |c| {
            c.request(
                &Head::post(HOST, "/sleep/2000").with("content-length", "0"),
                false,
            );
            c.send(&Frame::data(1, b"x".to_vec(), true));
        },
    );
    rows.row("8.1.1", "two lengths that differ", Malformed(1), |c| {
        c.request(
            &post()
                .with("content-length", "4")
                .with("content-length", "5"),
            false,
        );
        c.send(&Frame::data(1, b"four".to_vec(), true));
    });
    rows.row(
        "8.1.1",
        "more than the length, before the end",
        Malformed(1),
        |c| {
            c.request(&post().with("content-length", "3"), false);
            c.send(&Frame::data(1, b"four".to_vec(), false));
        },
    );
    rows.row(
        "8.1.1",
        "trailers before the length is there",
        Malformed(1),
        |c| {
            c.request(&post().with("content-length", "5"), false);
            c.send(&Frame::data(1, b"four".to_vec(), false));
            c.send(&Frame::headers(1, &Head::default().with("x-t", "1"), true));
        },
    );
    rows.row("8.1.1", "a right length", Status(1, 200), |c| {
        c.request(&post().with("content-length", "4"), false);
        c.send(&Frame::data(1, b"fo".to_vec(), false));
        c.send(&Frame::data(1, b"ur".to_vec(), false));
        c.send(&Frame::data(1, [], true));
    });
    rows.row("8.1", "a GET with a body", Status(1, 200), |c| {
        c.request(&page(), false);
        c.send(&Frame::data(1, b"body".to_vec(), true));
    });
    rows.finish();
}

#[test]
fn section_8_2_fields() {
    let mut rows = Rows::start();
    for (section, name, value) in [
        ("8.2.1", &b"X-Upper"[..], &b"1"[..]),
        ("8.2.1", b"x-Y", b"1"),
        ("8.2.1", b"x y", b"1"),
        ("8.2.1", b" x", b"1"),
        ("8.2.1", b"x ", b"1"),
        ("8.2.1", b"x:y", b"1"),
        ("8.2.1", b"x\0", b"1"),
        ("8.2.1", b"x\r\ny", b"1"),
        ("8.2.1", b"x\x7f", b"1"),
        ("8.2.1", b"x\xc3\xa4", b"1"),
        ("8.2.1", b"(x)", b"1"),
        ("8.2.1", b"", b"1"),
        ("8.2.1", b"x", b"a\0b"),
        ("8.2.1", b"x", b"a\rb"),
        ("8.2.1", b"x", b"a\nb"),
        ("8.2.1", b"x", b"a\r\nevil: 1"),
        ("8.2.1", b"x", b" a"),
        ("8.2.1", b"x", b"a\t"),
        ("8.2.2", b"connection", b"close"),
        ("8.2.2", b"connection", b"x-a"),
        ("8.2.2", b"proxy-connection", b"keep-alive"),
        ("8.2.2", b"keep-alive", b"timeout=5"),
        ("8.2.2", b"transfer-encoding", b"chunked"),
        ("8.2.2", b"upgrade", b"websocket"),
        ("8.2.2", b"te", b"gzip"),
        ("8.2.2", b"te", b"trailers, gzip"),
    ] {
        let what = format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        let heads = rows.origin.heads();
        // The h2 crate ends the connection where a name or a value cannot be one at all.
        rows.row(section, &what, MalformedOrEnd(1), |c| {
            c.request(&page().with(name, value), true);
        });
        let seen = rows.origin.heads();
        rows.run(section, &what, |_| {
            (seen == heads)
                .then_some(())
                .ok_or("the origin saw a head".into())
        });
    }
    for (section, name, value) in [
        ("8.2.1", &b"x"[..], &b""[..]),
        ("8.2.1", b"x", b"a b\tc"),
        ("8.2.1", b"x", b"\xc3\xa4\xff"),
        ("8.2.1", b"!#$%&'*+-.^_`|~09az", b"1"),
        ("8.2.2", b"te", b"trailers"),
    ] {
        let what = format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        rows.row(section, &what, Status(1, 200), |c| {
            c.request(&page().with(name, value), true);
        });
    }
    rows.finish();
}

/// 8.2.3: crumbs become one field again.
#[test]
fn section_8_2_3_cookies_are_joined() {
    let rows = Rows::start();
    let mut client = rows.portico.http2();
    let head = page()
        .with("cookie", "a=1")
        .with("x-between", "y")
        .with("cookie", "b=2; c=3")
        .with("cookie", "d=\"4\"");
    assert_eq!(client.exchange(&head).status, 200);
    let seen = rows.origin.take_one();
    assert_eq!(seen.count("cookie"), 1, "{seen:?}");
    assert_eq!(seen.field("cookie"), Some("a=1; b=2; c=3; d=\"4\""));
    rows.finish();
}

#[test]
fn section_8_3_pseudo_fields() {
    let mut rows = Rows::start();
    let plain = || {
        Head::default()
            .with(":method", "GET")
            .with(":scheme", "https")
            .with(":path", "/page")
            .with("user-agent", "t")
    };
    for (section, what, head) in [
        (
            "8.3",
            "a pseudo-field behind a field",
            plain().with(":authority", HOST),
        ),
        (
            "8.3",
            "an unknown pseudo-field",
            page().first(":colour", "red"),
        ),
        ("8.3", "one of answers", page().first(":status", "200")),
        (
            "8.3",
            "an upper-case one",
            page().without(":method").first(":Method", "GET"),
        ),
        ("8.3", "an empty name of one", page().first(":", "x")),
        ("8.3.1", "no :method", page().without(":method")),
        ("8.3.1", "no :scheme", page().without(":scheme")),
        ("8.3.1", "no :path", page().without(":path")),
        ("8.3.1", "two :method", page().first(":method", "GET")),
        ("8.3.1", "two :scheme", page().first(":scheme", "https")),
        ("8.3.1", "two :path", page().first(":path", "/page")),
        ("8.3.1", "two :authority", page().first(":authority", HOST)),
        ("8.3.1", "an empty :path", page().set(":path", "")),
        ("8.3.1", "an empty :method", page().set(":method", "")),
        (
            "8.3.1",
            "a :method that is no token",
            page().set(":method", "GE T"),
        ),
        (
            "8.3.1",
            "a :path without a slash",
            page().set(":path", "page"),
        ),
        (
            "8.3.1",
            "a :path that is an URL",
            page().set(":path", "https://grid.toolforge.org/"),
        ),
        ("8.3.1", "a :path with a space", page().set(":path", "/a b")),
        (
            "8.3.1",
            "a :path with a line",
            page().set(":path", "/ HTTP/1.1\r\nx: y"),
        ),
        ("8.3.1", "a :path with NUL", page().set(":path", "/\0")),
        (
            "8.3.1",
            "an asterisk for another method",
            page().set(":path", "*"),
        ),
        (
            "8.3.1",
            "an :authority with a user",
            page().set(":authority", "me@grid.toolforge.org"),
        ),
        (
            "8.3.1",
            "an :authority with a line",
            page().set(":authority", "grid.toolforge.org\r\nx: y"),
        ),
        (
            "8.3.1",
            "an :authority with a path",
            page().set(":authority", "grid.toolforge.org/x"),
        ),
        (
            "8.3.1",
            "another host than :authority",
            page().with("host", "other.toolforge.org"),
        ),
        (
            "8.3.1",
            "two hosts",
            plain().with("host", HOST).with("host", HOST),
        ),
        ("8.3.1", "no host at all", plain()),
        (
            "8.5",
            "CONNECT with a path",
            page().set(":method", "CONNECT"),
        ),
        (
            "RFC 8441, 4",
            ":protocol without CONNECT",
            page().first(":protocol", "websocket"),
        ),
    ] {
        let heads = rows.origin.heads();
        rows.row(section, what, MalformedOrEnd(1), |c| {
            c.request(&head, true);
        });
        let seen = rows.origin.heads();
        rows.run(section, what, |_| {
            (seen == heads)
                .then_some(())
                .ok_or("the origin saw a head".into())
        });
    }
    for (section, what, head) in [
        (
            "8.3.1",
            "host instead of :authority",
            plain().with("host", HOST),
        ),
        ("8.3.1", "the same host twice", page().with("host", HOST)),
        (
            "8.3.1",
            "a method of its own",
            page().set(":method", "PURGE"),
        ),
        (
            "8.3.1",
            "pseudo-fields in any order",
            Head::default()
                .with(":path", "/page")
                .with(":authority", HOST)
                .with(":scheme", "https")
                .with(":method", "GET")
                .with("user-agent", "t"),
        ),
    ] {
        rows.row(section, what, Status(1, 200), |c| {
            c.request(&head, true);
        });
    }
    rows.row("8.3.1", "OPTIONS *", Status(1, 200), |c| {
        c.request(&page().set(":method", "OPTIONS").set(":path", "*"), true);
    });
    // A proxy for the whole world it is not.
    for authority in ["grid.toolforge.org:443", "127.0.0.1:22", ""] {
        rows.run("8.5", "CONNECT", |portico| {
            let mut client = portico.http2();
            let mut head = Head::default().with(":method", "CONNECT");
            if !authority.is_empty() {
                head = head.with(":authority", authority);
            }
            let head = head.with("user-agent", "t");
            let stream = client.request(&head, false);
            match client.outcome(stream) {
                Outcome::Reset(_) => Ok(()),
                Outcome::Answer(answer) if matches!(answer.status, 400..=599) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    let seen = rows.origin.take();
    rows.run("8.5", "CONNECT", |_| {
        seen.is_empty().then_some(()).ok_or(format!("{seen:?}"))
    });
    rows.finish();
}

/// What both versions say of the same head must be the same (8.3.1, RFC 9110, 7.2).
#[test]
fn the_origin_sees_one_host_in_front() {
    let rows = Rows::start();
    let mut client = rows.portico.http2();
    for head in [
        // The h2 crate cuts a fragment off, which no client sends.
        Head::get("GRID.toolforge.org:443", "/x?y#z"),
        Head::get("GRID.toolforge.org:443", "/x?y").with("host", "grid.toolforge.org:443"),
    ] {
        let stream = client.request(&head, true);
        if let Outcome::Answer(answer) = client.outcome(stream)
            && answer.status == 200
        {
            let seen = rows.origin.take_one();
            assert_eq!((seen.count("host"), &*seen.target), (1, "/x?y"), "{seen:?}");
            assert_eq!(seen.field("host"), Some("grid.toolforge.org"), "{seen:?}");
            assert!(
                !seen.fields.iter().any(|(name, _)| name.starts_with(':')),
                "{seen:?}"
            );
        }
    }
    rows.finish();
}
