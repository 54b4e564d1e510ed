//! RFC 9113, section 5: states and numbers of streams, and how many there may be.

use portico_tests::http2::rows::{Rows, Want};
use portico_tests::http2::{Frame, Head, Http2, code, flag, setting};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};

use Want::{Connection, Either, Fine, Status};
use code::{PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
/// A stream that is gone may be forgotten: then its number is only a number too low (5.1.1).
const CLOSED_OR_LOW: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];

fn page() -> Head {
    Head::get(HOST, "/page")
}

/// An upload on stream 1 that is not ended.
fn upload(client: &mut Http2) {
    client.request(&Head::post(HOST, "/up"), false);
}

/// A request on stream 1 whose answer takes a while: half-closed from the client.
fn waiting(client: &mut Http2) {
    client.request(&Head::get(HOST, "/sleep/2000"), true);
}

/// A request on stream 1, answered: closed.
fn answered(client: &mut Http2) {
    assert_eq!(client.exchange(&page()).status, 200);
}

#[test]
fn section_5_1_stream_states() {
    let mut rows = Rows::start();
    for (what, frame) in [
        ("DATA", Frame::data(1, b"x".to_vec(), true)),
        ("RST_STREAM", Frame::rst(1, 8)),
        ("WINDOW_UPDATE", Frame::window_update(1, 100)),
        ("CONTINUATION", Frame::continuation(1, page().block(), true)),
    ] {
        let what = format!("idle: {what}");
        rows.row("5.1", &what, Connection(PROTOCOL), |c| c.send(&frame));
    }
    rows.row("5.1", "idle: PRIORITY", Fine, |c| {
        c.send(&Frame::priority(7, 0))
    });
    rows.row("5.1", "half-closed: DATA", Either(1, CLOSED_OR_LOW), |c| {
        waiting(c);
        c.send(&Frame::data(1, b"x".to_vec(), true));
    });
    rows.row(
        "5.1",
        "half-closed: HEADERS",
        Either(1, CLOSED_OR_LOW),
        |c| {
            waiting(c);
            c.send(&Frame::headers(1, &page(), true));
        },
    );
    rows.row(
        "5.1",
        "half-closed: WINDOW_UPDATE and PRIORITY",
        Status(1, 200),
        |c| {
            waiting(c);
            c.send(&Frame::window_update(1, 100));
            c.send(&Frame::priority(1, 0));
        },
    );
    rows.row("5.1", "half-closed: RST_STREAM", Fine, |c| {
        waiting(c);
        c.send(&Frame::rst(1, code::CANCEL));
    });
    rows.run("5.1", "closed: DATA", |portico| {
        let mut client = portico.http2();
        answered(&mut client);
        client.send(&Frame::data(1, b"x".to_vec(), true));
        client.expect_rst(1, STREAM_CLOSED);
        Ok(())
    });
    rows.row("5.1", "closed: HEADERS", Connection(CLOSED_OR_LOW), |c| {
        answered(c);
        c.send(&Frame::headers(1, &page(), true));
    });
    rows.row(
        "5.1",
        "closed: WINDOW_UPDATE, RST_STREAM, PRIORITY",
        Fine,
        |c| {
            answered(c);
            c.send(&Frame::window_update(1, 100));
            c.send(&Frame::rst(1, code::CANCEL));
            c.send(&Frame::priority(1, 0));
        },
    );
    rows.row(
        "5.1",
        "closed by our reset: HEADERS",
        Either(1, CLOSED_OR_LOW),
        |c| {
            upload(c);
            c.send(&Frame::rst(1, code::CANCEL));
            c.send(&Frame::headers(1, &page(), true));
        },
    );
    rows.row(
        "5.1",
        "reset by portico: what was under way is ignored",
        Fine,
        |c| {
            c.request(&Head::post(HOST, "/").with("connection", "close"), false);
            c.send(&Frame::data(1, vec![0; 1000], false));
            c.send(&Frame::window_update(1, 10));
            c.send(&Frame::data(1, vec![0; 1000], true));
        },
    );
    rows.row(
        "5.1",
        "reset by portico: its DATA is no loss to the window",
        Status(3, 200),
        |c| {
            c.request(&Head::post(HOST, "/").with("connection", "close"), false);
            for _ in 0..3 {
                c.send(&Frame::data(1, vec![0; 16_000], false));
            }
            let stream = c.request(&Head::post(HOST, "/"), false);
            c.send_body(stream, &vec![0; 100_000], true);
        },
    );
    rows.row("5.1.1", "an even number", Connection(PROTOCOL), |c| {
        c.send(&Frame::headers(2, &page(), true));
    });
    rows.row("5.1.1", "number 0", Connection(PROTOCOL), |c| {
        c.send(&Frame::headers(0, &page(), true));
    });
    rows.row(
        "5.1.1",
        "a number lower than the last",
        Connection(CLOSED_OR_LOW),
        |c| {
            c.send(&Frame::headers(5, &page(), true));
            c.send(&Frame::headers(3, &page(), true));
        },
    );
    rows.run("5.1.1", "the highest number", |portico| {
        let mut client = portico.http2();
        let last = (1 << 31) - 1;
        client.send(&Frame::headers(last, &page(), true));
        let answer = client.answer(last);
        (answer.status == 200)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    });
    rows.row("5.3", "a stream that depends on itself", Fine, |c| {
        // Deprecated: ignored, or the stream error of old (RFC 7540, 5.3.1).
        upload(c);
        c.send(&Frame::priority(1, 1));
    });
    rows.row("5.3", "HEADERS with a priority", Status(1, 200), |c| {
        let mut frame = Frame::headers(1, &page(), true);
        frame.flags |= flag::PRIORITY;
        frame.payload.splice(0..0, [0x80, 0, 0, 0, 255]);
        c.send(&frame.padded(9));
    });
    rows.finish();
}

#[test]
fn section_5_1_2_streams_are_limited() {
    let mut rows = Rows::start();
    rows.run("5.1.2", "the default is told", |portico| {
        let client = portico.http2();
        let told = client.settings.get(&setting::MAX_CONCURRENT_STREAMS);
        (told == Some(&100))
            .then_some(())
            .ok_or(format!("{told:?}"))
    });
    rows.finish();
    let origin = Origin::echo("grid");
    let builder = Builder::new().with("[limits]\nstreams = 3");
    let portico = builder.route("grid", &origin.url()).start();
    let mut client = portico.http2();
    assert_eq!(client.settings[&setting::MAX_CONCURRENT_STREAMS], 3);
    for _ in 0..3 {
        client.request(&Head::get(HOST, "/sleep/2000"), true);
    }
    // More than the client may know about: 5.1.2 lets it be tried again elsewhere.
    let fourth = client.request(&page(), true);
    client.expect_rst(fourth, REFUSED_STREAM);
    for stream in [1, 3, 5] {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(
        client.exchange(&page()).status,
        200,
        "places are free again"
    );
    let targets: Vec<String> = origin.take().into_iter().map(|r| r.target).collect();
    assert_eq!(
        targets.len(),
        4,
        "the refused one reached nobody: {targets:?}"
    );
}

/// Default, with a hundred at once: all are served.
#[test]
fn as_many_streams_as_allowed_are_served_at_once() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    let streams: Vec<u32> = (0..100)
        .map(|_| client.request(&Head::get(HOST, "/sleep/200"), true))
        .collect();
    for stream in streams {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(origin.take().len(), 100);
}
