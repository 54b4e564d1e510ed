//! Each rule with data, every cut of every sample, and a naive twin.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head: 200,
    target: 40,
    fields: 6,
};

/// What the parser says after each of these lengths was there, up to the first verdict.
fn verdict(raw: &[u8], cuts: impl IntoIterator<Item = usize>) -> Result<String, RequestError> {
    let mut parser = RequestParser::new(LIMITS);
    for cut in cuts {
        match parser.parse(&raw[..cut]) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete) => {
                // Asked again it says the same, with more bytes there too.
                assert_eq!(parser.parse(raw), Ok(Parsed::Complete));
                return Ok(show(parser.head(), raw));
            }
            Err(error) => {
                assert_eq!(parser.parse(raw), Err(error));
                return Err(error);
            }
        }
    }
    Ok("partial".into())
}

fn show(head: &RequestHead, buf: &[u8]) -> String {
    let text = |span: Span| String::from_utf8_lossy(span.of(buf)).into_owned();
    let mut out = format!(
        "{} {} {:?} {:?} {:?} len={}",
        text(head.method_name),
        text(head.target),
        head.form,
        head.version,
        head.framing,
        head.len
    );
    for (name, span) in [
        ("authority", head.authority),
        ("host", head.host),
        ("ua", head.user_agent),
    ] {
        if let Some(span) = span {
            out += &format!(" {name}={}", text(span));
        }
    }
    for (name, set) in [
        ("keep", head.keep_alive),
        ("expect", head.expect_continue),
        ("websocket", head.upgrade_websocket),
    ] {
        if set {
            out += &format!(" {name}");
        }
    }
    for field in &head.fields {
        out += &format!(" [{}|{}]", text(field.name), text(field.value));
    }
    out
}

/// The same verdict at once, byte by byte and for every cut in two.
#[track_caller]
fn every_cut(raw: &[u8]) -> Result<String, RequestError> {
    let whole = verdict(raw, [raw.len()]);
    assert_eq!(whole, verdict(raw, 0..=raw.len()), "byte by byte");
    for cut in 0..raw.len() {
        assert_eq!(whole, verdict(raw, [cut, raw.len()]), "cut at {cut}");
    }
    whole
}

/// `fields` are the lines after the request line; what is expected leaves out the
/// fields and the length.
#[track_caller]
fn accepted(line: &str, fields: &str, want: &str) {
    let raw = format!("{line}\r\n{fields}\r\n");
    let got = every_cut(raw.as_bytes()).unwrap();
    let got = got.split(" [").next().unwrap();
    let want_length = format!(" len={}", raw.len());
    assert!(got.contains(&want_length), "{got}");
    assert_eq!(got.replace(&want_length, ""), want);
    for cut in 0..raw.len() {
        assert_eq!(verdict(raw.as_bytes(), [cut]).unwrap(), "partial", "{cut}");
    }
}

#[track_caller]
fn refused(raw: impl AsRef<[u8]>, want: RequestError) {
    assert_eq!(every_cut(raw.as_ref()), Err(want));
}

/// A request that is fine but for this field line.
#[track_caller]
fn field_refused(line: &str, want: RequestError) {
    refused(
        format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"),
        want,
    );
}

const HOST: &str = "Host: a.b\r\n";

#[test]
fn request_lines() {
    accepted(
        "GET / HTTP/1.1",
        HOST,
        "GET / Origin Http11 None host=a.b keep",
    );
    accepted(
        "get /x?y=z HTTP/1.1",
        HOST,
        "get /x?y=z Origin Http11 None host=a.b keep",
    );
    accepted(
        "M-SEARCH /%zz|<>\"{} HTTP/1.1",
        HOST,
        "M-SEARCH /%zz|<>\"{} Origin Http11 None host=a.b keep",
    );
    accepted(
        "GET /\u{e9} HTTP/1.1",
        HOST,
        "GET /\u{e9} Origin Http11 None host=a.b keep",
    );
    accepted(
        "GET //x/../y HTTP/1.1",
        HOST,
        "GET //x/../y Origin Http11 None host=a.b keep",
    );
    accepted("GET / HTTP/1.0", "", "GET / Origin Http10 None");
    accepted(
        "GET / HTTP/1.2",
        HOST,
        "GET / Origin Http11 None host=a.b keep",
    );
    accepted(
        "GET / HTTP/1.9",
        HOST,
        "GET / Origin Http11 None host=a.b keep",
    );
    accepted(
        "OPTIONS * HTTP/1.1",
        HOST,
        "OPTIONS * Asterisk Http11 None host=a.b keep",
    );
    // One empty line before the request (RFC 9112, 2.2).
    accepted(
        "\r\nGET / HTTP/1.1",
        HOST,
        "GET / Origin Http11 None host=a.b keep",
    );
    let method = "A".repeat(MAX_METHOD);
    accepted(
        &format!("{method} / HTTP/1.0"),
        "",
        &format!("{method} / Origin Http10 None"),
    );
    let target = format!("/{}", "a".repeat(LIMITS.target - 1));
    accepted(
        &format!("GET {target} HTTP/1.0"),
        "",
        &format!("GET {target} Origin Http10 None"),
    );
}

#[test]
fn absolute_form() {
    let line = |target: &str| format!("GET {target} HTTP/1.1");
    accepted(
        &line("http://c.d/x?y"),
        HOST,
        "GET /x?y Absolute Http11 None authority=c.d host=a.b keep",
    );
    accepted(
        &line("HTTPS://c.d:8443/"),
        HOST,
        "GET / Absolute Http11 None authority=c.d:8443 host=a.b keep",
    );
    accepted(
        &line("http://[::1]:80"),
        HOST,
        "GET  Absolute Http11 None authority=[::1]:80 host=a.b keep",
    );
    accepted(
        &line("http://c.d?x=/@"),
        HOST,
        "GET ?x=/@ Absolute Http11 None authority=c.d host=a.b keep",
    );
    accepted(
        "OPTIONS http://c.d HTTP/1.1",
        HOST,
        "OPTIONS  Asterisk Http11 None authority=c.d host=a.b keep",
    );
    accepted(
        "OPTIONS http://c.d/ HTTP/1.1",
        HOST,
        "OPTIONS / Absolute Http11 None authority=c.d host=a.b keep",
    );
    refused(
        "GET http://c.d/x HTTP/1.1\r\n\r\n",
        RequestError::MissingHost,
    );
    for (target, want) in [
        ("http://u@c.d/", RequestError::BadAuthority),
        ("http://u:p@c.d", RequestError::BadAuthority),
        ("http:///x", RequestError::BadAuthority),
        ("http://", RequestError::BadAuthority),
        ("https://?x", RequestError::BadAuthority),
        ("ftp://c.d/", RequestError::BadTargetForm),
        ("http:/c.d/", RequestError::BadTargetForm),
        ("http:c.d", RequestError::BadTargetForm),
        ("c.d:80", RequestError::BadTargetForm),
        ("x", RequestError::BadTargetForm),
        ("?x", RequestError::BadTargetForm),
        ("*", RequestError::BadTargetForm),
        ("**", RequestError::BadTargetForm),
    ] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), want);
    }
}

#[test]
fn a_slash_is_missing_only_in_an_absolute_form() {
    #[track_caller]
    fn check(line: &str, want: bool) {
        let raw = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut parser = RequestParser::new(LIMITS);
        assert_eq!(parser.parse(raw.as_bytes()), Ok(Parsed::Complete));
        assert_eq!(parser.head().needs_slash(raw.as_bytes()), want);
    }
    check("GET /x", false);
    check("GET http://a/x", false);
    check("GET http://a", true);
    check("GET http://a?x", true);
    check("OPTIONS *", false);
}

#[test]
fn broken_request_lines() {
    use RequestError::*;
    for (line, want) in [
        ("GET /\r\n", BadRequestLine),
        ("GET\r\n", BadRequestLine),
        ("GET \r\n", BadRequestLine),
        ("GET  / HTTP/1.1\r\n", BadRequestLine),
        ("\r\n\r\nGET / HTTP/1.1\r\n", BadRequestLine),
        (" GET / HTTP/1.1\r\n", BadMethod),
        ("\tGET / HTTP/1.1\r\n", BadMethod),
        ("G(T / HTTP/1.1\r\n", BadMethod),
        ("G\0T / HTTP/1.1\r\n", BadMethod),
        ("G\u{e9}T / HTTP/1.1\r\n", BadMethod),
        ("GET\t/ HTTP/1.1\r\n", BadMethod),
        (
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
            BadMethod,
        ),
        ("GET /a\tb HTTP/1.1\r\n", BadTargetByte),
        ("GET /a\0 HTTP/1.1\r\n", BadTargetByte),
        ("GET /a\x1f HTTP/1.1\r\n", BadTargetByte),
        ("GET /a\x7f HTTP/1.1\r\n", BadTargetByte),
        ("GET /a#b HTTP/1.1\r\n", BadTargetByte),
        ("GET # HTTP/1.1\r\n", BadTargetByte),
        ("GET /a b HTTP/1.1\r\n", BadVersion),
        ("GET / HTTP/1.1 \r\n", BadVersion),
        ("GET /  HTTP/1.1\r\n", BadVersion),
        ("GET / http/1.1\r\n", BadVersion),
        ("GET / HTTP/1\r\n", BadVersion),
        ("GET / HTTP/1.10\r\n", BadVersion),
        ("GET / HTTP/11.1\r\n", BadVersion),
        ("GET / HTTP/a.1\r\n", BadVersion),
        ("GET / HTTP/1,1\r\n", BadVersion),
        ("GET / HTTPS/1.1\r\n", BadVersion),
        ("GET / HTTP/0.9\r\n", UnsupportedVersion),
        ("GET / HTTP/2.0\r\n", UnsupportedVersion),
        ("GET / HTTP/3.0\r\n", UnsupportedVersion),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UnsupportedVersion),
        ("\nGET / HTTP/1.1\r\n", BareLf),
        ("\rGET / HTTP/1.1\r\n", BareCr),
        ("GET / HTTP/1.1\n", BareLf),
        ("GET / HTTP/1.1\rX", BareCr),
        ("GET / HTTP/1.1\r\r\n", BareCr),
        ("TRACE / HTTP/1.1\r\n", MethodNotAllowed),
        ("CONNECT a.b:443 HTTP/1.1\r\n", MethodNotAllowed),
        ("CONNECT / HTTP/1.1\r\n", MethodNotAllowed),
        // A TLS ClientHello on a plain port.
        ("\x16\x03\x01\x02\0\x01\0", BadMethod),
    ] {
        refused(format!("{line}Host: a\r\n\r\n"), want);
    }
}

#[test]
fn field_lines() {
    use RequestError::*;
    for (line, want) in [
        (": x", EmptyFieldName),
        ("X-A : x", SpaceBeforeColon),
        ("X-A\t: x", SpaceBeforeColon),
        ("X A: x", SpaceBeforeColon),
        ("X-A", BadFieldName),
        ("X(A): x", BadFieldName),
        ("X-\u{e9}: x", BadFieldName),
        ("X-A\x01: x", BadFieldName),
        ("X\0A: x", Nul),
        ("X\rA: x", BareCr),
        ("\rX: x", BareCr),
        (" X-A: x", LineFolding),
        ("X-A: x\r\n y", LineFolding),
        ("X-A: x\r\n\ty", LineFolding),
        ("X-A: x\r\n ", LineFolding),
        ("X-A: a\0b", Nul),
        ("X-A: a\rb", BareCr),
        ("X-A: a\r", BareCr),
        ("X-A: a\x01b", BadFieldValue),
        ("X-A: a\x7fb", BadFieldValue),
        ("X-A: a\x1b\0", BadFieldValue),
        ("X-A: a\nX-B: b", BareLf),
        ("X-A: a\n", BareLf),
        ("\n", BareLf),
    ] {
        field_refused(line, want);
    }
    // White space before the first field is no folding, but as bad (RFC 9112, 2.2).
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", LineFolding);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n", BareCr);
}

#[test]
fn fields_come_out_as_they_went_in() {
    let raw = b"GET / HTTP/1.1\r\nhOsT:a\r\nX-Empty:\r\nX-Space: \t \r\nX-Ows:\t a  b \xff\t\r\n!#$%&'*+-.^_`|~:x:y\r\n\r\n";
    let mut parser = RequestParser::new(LIMITS);
    assert_eq!(parser.parse(raw), Ok(Parsed::Complete));
    let fields: Vec<(&[u8], &[u8])> = parser
        .head()
        .fields
        .iter()
        .map(|field| (field.name.of(raw), field.value.of(raw)))
        .collect();
    let want: [(&[u8], &[u8]); 5] = [
        (b"hOsT", b"a"),
        (b"X-Empty", b""),
        (b"X-Space", b""),
        (b"X-Ows", b"a  b \xff"),
        (b"!#$%&'*+-.^_`|~", b"x:y"),
    ];
    assert_eq!(fields, want);
}

#[test]
fn limits() {
    let target = "a".repeat(LIMITS.target);
    refused(
        format!("GET /{target} HTTP/1.1\r\n"),
        RequestError::TargetTooLong,
    );
    // As soon as it is seen, whatever else is wrong with the line.
    refused(format!("GET /{target}"), RequestError::TargetTooLong);
    refused(
        format!("TRACE /{target} HTTP/2.0\r\n"),
        RequestError::TargetTooLong,
    );
    refused(
        format!("GET /{}", "a".repeat(70_000)),
        RequestError::TargetTooLong,
    );
    let line = "GET / HTTP/1.0\r\n";
    let value = "v".repeat(LIMITS.head - "a: \r\n\r\n".len());
    accepted(
        "GET / HTTP/1.0",
        &format!("a: {value}\r\n"),
        "GET / Origin Http10 None",
    );
    refused(
        format!("{line}a: {value}v\r\n\r\n"),
        RequestError::HeadTooLarge,
    );
    refused(
        format!("{line}a: {value}{value}"),
        RequestError::HeadTooLarge,
    );
    refused(
        format!("{line}{}", "\0".repeat(LIMITS.head)),
        RequestError::HeadTooLarge,
    );
    let fields = "a: b\r\n".repeat(LIMITS.fields);
    accepted("GET / HTTP/1.0", &fields, "GET / Origin Http10 None");
    refused(
        format!("{line}{fields}a: b\r\n\r\n"),
        RequestError::TooManyFields,
    );
    let options = "a,".repeat(33);
    refused(
        format!("{line}Connection: {options}\r\n\r\n"),
        RequestError::TooManyConnectionOptions,
    );
}

#[test]
fn no_head_is_larger_than_announced() {
    let line = format!(
        "\r\n{} /{} HTTP/1.0\r\n",
        "A".repeat(MAX_METHOD),
        "a".repeat(LIMITS.target - 1)
    );
    let raw = format!("{line}a: {}\r\n\r\n", "v".repeat(LIMITS.head - 7));
    assert_eq!(raw.len(), LIMITS.largest_head());
    assert!(verdict(raw.as_bytes(), [raw.len()]).is_ok());
}

#[test]
fn hosts() {
    refused("GET / HTTP/1.1\r\nX: y\r\n\r\n", RequestError::MissingHost);
    field_refused("Host: a", RequestError::RepeatedHost);
    field_refused("HOST: b", RequestError::RepeatedHost);
    refused(
        "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
        RequestError::RepeatedHost,
    );
    accepted(
        "GET / HTTP/1.1",
        "Host:\r\n",
        "GET / Origin Http11 None host= keep",
    );
}

#[test]
fn framing() {
    use RequestError::*;
    let line = "POST / HTTP/1.1";
    let fields = |more: &str| format!("Host: a\r\n{more}\r\n");
    accepted(
        line,
        &fields("Content-Length: 5"),
        "POST / Origin Http11 Length(5) host=a keep",
    );
    accepted(
        line,
        &fields("Content-Length: 0"),
        "POST / Origin Http11 Length(0) host=a keep",
    );
    accepted(
        line,
        &fields("Content-Length: 0005"),
        "POST / Origin Http11 Length(5) host=a keep",
    );
    accepted(
        line,
        &fields("transfer-encoding: CHUNKED"),
        "POST / Origin Http11 Chunked host=a keep",
    );
    // No other spelling of the name has to do with framing.
    accepted(
        line,
        &fields("Content_Length: 5"),
        "POST / Origin Http11 None host=a keep",
    );
    accepted(
        "POST / HTTP/1.0",
        "Content-Length: 9223372036854775807\r\n",
        "POST / Origin Http10 Length(9223372036854775807)",
    );
    for length in [
        "",
        "+1",
        "-1",
        "1,1",
        "1, 1",
        "0x1",
        "1 1",
        "1;",
        "a",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        field_refused(&format!("Content-Length: {length}"), BadContentLength);
    }
    field_refused(
        "Content-Length: 1\r\nContent-Length: 1",
        RepeatedContentLength,
    );
    field_refused(
        "Content-Length: 1\r\nContent-Length: 2",
        RepeatedContentLength,
    );
    field_refused(
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        LengthWithTransferEncoding,
    );
    field_refused(
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        LengthWithTransferEncoding,
    );
    field_refused(
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        RepeatedTransferEncoding,
    );
    for coding in [
        "",
        "xchunked",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "identity",
        "gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked chunked",
    ] {
        field_refused(&format!("Transfer-Encoding: {coding}"), BadTransferEncoding);
    }
    field_refused("Transfer-Encoding: \x0bchunked", BadFieldValue);
    field_refused("Transfer-Encoding : chunked", SpaceBeforeColon);
    field_refused("Content-Length\t: 5", SpaceBeforeColon);
    refused(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        TransferEncodingInHttp10,
    );
}

#[test]
fn persistence() {
    let connection = |value: &str| format!("Host: a\r\nConnection: {value}\r\n");
    let (http11, http10) = ("GET / HTTP/1.1", "GET / HTTP/1.0");
    let (keep11, close11) = (
        "GET / Origin Http11 None host=a keep",
        "GET / Origin Http11 None host=a",
    );
    let (keep10, close10) = (
        "GET / Origin Http10 None host=a keep",
        "GET / Origin Http10 None host=a",
    );
    accepted(http11, &connection("keep-alive"), keep11);
    accepted(http11, &connection("close"), close11);
    accepted(http11, &connection("x, CLOSE"), close11);
    accepted(http11, &connection("keep-alive, close"), close11);
    accepted(http11, &connection("closed"), keep11);
    accepted(http11, &connection("x\r\nConnection: close"), close11);
    accepted(http10, &connection("Keep-Alive"), keep10);
    accepted(http10, &connection("x"), close10);
    accepted(
        http10,
        &connection("keep-alive\r\nConnection: close"),
        close10,
    );
}

#[test]
fn expectations() {
    let fields = |more: &str| format!("Host: a\r\nExpect: {more}\r\n");
    accepted(
        "POST / HTTP/1.1",
        &fields("100-Continue\r\nContent-Length: 1"),
        "POST / Origin Http11 Length(1) host=a keep expect",
    );
    accepted(
        "POST / HTTP/1.1",
        &fields("100-continue\r\nTransfer-Encoding: chunked"),
        "POST / Origin Http11 Chunked host=a keep expect",
    );
    // Nothing to wait for (RFC 9110, 10.1.1).
    accepted(
        "POST / HTTP/1.1",
        &fields("100-continue"),
        "POST / Origin Http11 None host=a keep",
    );
    accepted(
        "POST / HTTP/1.1",
        &fields("100-continue\r\nContent-Length: 0"),
        "POST / Origin Http11 Length(0) host=a keep",
    );
    accepted(
        "POST / HTTP/1.0",
        &fields("100-continue\r\nContent-Length: 1"),
        "POST / Origin Http10 Length(1) host=a",
    );
    accepted(
        "POST / HTTP/1.0",
        &fields("miracles"),
        "POST / Origin Http10 None host=a",
    );
    field_refused("Expect: 200-ok", RequestError::ExpectationFailed);
    field_refused("Expect:", RequestError::ExpectationFailed);
    field_refused("Expect: 100-continue, x", RequestError::ExpectationFailed);
}

#[test]
fn websocket_handshakes() {
    let fields = |upgrade: &str, connection: &str| {
        format!("Host: a\r\nUpgrade: {upgrade}\r\nConnection: {connection}\r\n")
    };
    let (yes, no) = (
        "GET / Origin Http11 None host=a keep websocket",
        "GET / Origin Http11 None host=a keep",
    );
    accepted(
        "GET / HTTP/1.1",
        &fields("WebSocket", "keep-alive, UPGRADE"),
        yes,
    );
    accepted("GET / HTTP/1.1", &fields("h2c, websocket", "upgrade"), yes);
    accepted(
        "GET / HTTP/1.1",
        &fields("h2c", "Upgrade, HTTP2-Settings"),
        no,
    );
    accepted("GET / HTTP/1.1", &fields("websockets", "upgrade"), no);
    accepted("GET / HTTP/1.1", &fields("websocket", "keep-alive"), no);
    accepted(
        "POST / HTTP/1.1",
        &fields("websocket", "upgrade"),
        "POST / Origin Http11 None host=a keep",
    );
    accepted(
        "GET / HTTP/1.0",
        &fields("websocket", "upgrade"),
        "GET / Origin Http10 None host=a",
    );
    accepted(
        "GET / HTTP/1.1",
        &fields("websocket", "upgrade\r\nContent-Length: 1"),
        "GET / Origin Http11 Length(1) host=a keep",
    );
}

#[test]
fn user_agents() {
    accepted(
        "GET / HTTP/1.0",
        "User-Agent: x/1 (y)\r\nUser-Agent: z\r\n",
        "GET / Origin Http10 None ua=x/1 (y)",
    );
    accepted(
        "GET / HTTP/1.0",
        "User-Agent: \r\n",
        "GET / Origin Http10 None ua=",
    );
}

#[test]
fn nominated_fields() {
    let raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Secret: 1\r\nCookie: b\r\nX-Forwarded-Host: c\r\nConnection: close, x-secret\r\nConnection: Host, Cookie, X-Forwarded-Host\r\n\r\n";
    let mut parser = RequestParser::new(HeadLimits {
        fields: 100,
        ..LIMITS
    });
    assert_eq!(parser.parse(raw), Ok(Parsed::Complete));
    let head = parser.head();
    let nominated: Vec<&[u8]> = head
        .fields
        .iter()
        .filter(|field| head.nominated(raw, field))
        .map(|field| field.name.of(raw))
        .collect();
    assert_eq!(nominated, [b"X-Secret"]);
}

#[test]
fn one_parser_reads_pipelined_requests() {
    let requests = [
        "\r\nPOST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close, x\r\nUser-Agent: u\r\nX: 1\r\n\r\n",
        "GET /2 HTTP/1.0\r\nX: 1\r\n\r\n",
        "GET http://b/3 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET /4 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        "POST /5 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST /6 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let raw = requests.concat().into_bytes();
    let mut parser = RequestParser::new(LIMITS);
    let mut start = 0;
    for request in requests {
        let rest = &raw[start..];
        assert_eq!(parser.parse(rest), Ok(Parsed::Complete));
        // Nothing of an earlier one is left.
        let fresh = verdict(request.as_bytes(), [request.len()]).unwrap();
        assert_eq!(show(parser.head(), rest), fresh);
        let head = parser.head();
        let nominated = head.fields.iter().any(|field| head.nominated(rest, field));
        assert_eq!(nominated, start == 0);
        start += head.len;
        parser.reset();
    }
    assert_eq!(start, raw.len());
}

/// A head that comes byte by byte is looked at once: were each call to look at the whole line,
/// this would take minutes.
#[test]
fn slow_senders_cost_no_more() {
    let mut parser = RequestParser::new(HeadLimits {
        head: 1 << 20,
        target: 1 << 20,
        fields: 1,
    });
    let long = "a".repeat(400_000);
    let raw = format!("GET /{long} HTTP/1.1\r\nHost: {long}\r\n\r\n");
    for end in 0..raw.len() {
        let parsed = parser.parse(&raw.as_bytes()[..end]);
        assert_eq!(parsed, Ok(Parsed::Partial));
    }
    assert_eq!(parser.parse(raw.as_bytes()), Ok(Parsed::Complete));
}

#[test]
fn a_buffer_that_shrinks_is_no_panic() {
    let raw = b"GET / HTTP/1.1\r\nHost: abcdef\r\nX: y\r\n\r\n";
    for cut in 0..raw.len() {
        let mut parser = RequestParser::new(LIMITS);
        let _ = parser.parse(&raw[..cut]);
        let _ = parser.parse(&raw[..cut / 2]);
        let _ = parser.parse(b"");
    }
}

#[test]
fn every_error_has_a_status_and_names_its_source() {
    for error in [
        RequestError::BareLf,
        RequestError::TargetTooLong,
        RequestError::HeadTooLarge,
        RequestError::MethodNotAllowed,
        RequestError::UnsupportedVersion,
        RequestError::ExpectationFailed,
    ] {
        assert!(error.to_string().contains("RFC"), "{error}");
    }
    let statuses = [
        RequestError::BareLf,
        RequestError::MethodNotAllowed,
        RequestError::TargetTooLong,
        RequestError::ExpectationFailed,
        RequestError::TooManyFields,
        RequestError::UnsupportedVersion,
    ]
    .map(RequestError::status);
    assert_eq!(statuses, [400, 405, 414, 417, 431, 505]);
}

/// The naive twin: reads a whole head that is there at once, with plain searches, and says the
/// status or what it read. The input ends in an empty line, so there is always a verdict.
fn naive(raw: &[u8], limits: HeadLimits) -> Result<String, u16> {
    let skipped = if raw.starts_with(b"\r\n") { 2 } else { 0 };
    let rest = &raw[skipped..];
    let line_end = find(rest, b"\r\n");
    let line = &rest[..line_end];
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let (method, target, version) = (
        words.next().unwrap(),
        words.next().unwrap_or(b""),
        words.next().unwrap_or(b""),
    );
    let valid_target = target
        .iter()
        .take_while(|&&byte| byte > 0x20 && byte != 0x7f && byte != b'#')
        .count();
    if !naive_token(method) || method.len() > 32 {
        return Err(400);
    } else if valid_target > limits.target {
        return Err(414);
    } else if target.is_empty() || valid_target < target.len() {
        return Err(400);
    }
    let number = version.get(5..8).unwrap_or(b"???");
    if !version.starts_with(b"HTTP/")
        || !number[0].is_ascii_digit()
        || number[1] != b'.'
        || !number[2].is_ascii_digit()
    {
        return Err(400);
    } else if number[0] != b'1' {
        return Err(505);
    } else if version.len() != 8 {
        return Err(400);
    }
    let old = number[2] == b'0';
    if method == b"TRACE" || method == b"CONNECT" {
        return Err(405);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let target = text(target);
    let (mut form, mut authority, mut path) = ("Origin", None, target.clone());
    if target == "*" && method == b"OPTIONS" {
        form = "Asterisk";
    } else if !target.starts_with('/') {
        let lower = target.to_ascii_lowercase();
        let scheme = ["http://", "https://"]
            .into_iter()
            .find(|scheme| lower.starts_with(scheme))
            .ok_or(400u16)?;
        let rest = &target[scheme.len()..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        if rest[..end].is_empty() || rest[..end].contains('@') {
            return Err(400);
        }
        authority = Some(rest[..end].to_string());
        path = rest[end..].to_string();
        form = if path.is_empty() && method == b"OPTIONS" {
            "Asterisk"
        } else {
            "Absolute"
        };
    }

    let section = &rest[line_end + 2..];
    let mut at = 0;
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    let mut expect = false;
    loop {
        let lf = at + find(&section[at..], b"\n");
        if lf + 1 > limits.head {
            return Err(431);
        }
        let line = section[at..lf].strip_suffix(b"\r").ok_or(400u16)?;
        at = lf + 1;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':').ok_or(400u16)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !naive_token(name)
            || value
                .iter()
                .any(|&byte| byte == 0x7f || byte < 0x20 && byte != b'\t')
        {
            return Err(400);
        } else if fields.len() == limits.fields {
            return Err(431);
        }
        let value = text(value).trim_matches([' ', '\t']).to_string();
        let name_lower = text(name).to_ascii_lowercase();
        let repeated = fields
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(&name_lower));
        let has = |wanted: &str| {
            fields
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        let bad = match name_lower.as_str() {
            "host" => repeated,
            "content-length" => {
                repeated
                    || has("transfer-encoding")
                    || value.is_empty()
                    || !value.bytes().all(|byte| byte.is_ascii_digit())
                    || value
                        .parse::<u64>()
                        .map_or(true, |length| length >= 1 << 63)
            }
            "transfer-encoding" => {
                repeated || has("content-length") || old || !value.eq_ignore_ascii_case("chunked")
            }
            _ => false,
        };
        if bad {
            return Err(400);
        }
        if name_lower == "expect" && !old {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(417);
            }
            expect = true;
        }
        if name_lower == "connection" {
            options.extend(
                value
                    .split(',')
                    .map(|option| option.trim().to_ascii_lowercase()),
            );
        }
        fields.push((text(name), value));
    }
    let value_of = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.clone())
    };
    let host = value_of("host");
    if host.is_none() && !old {
        return Err(400);
    }
    let framing = match (value_of("content-length"), value_of("transfer-encoding")) {
        (Some(length), _) => format!("Length({})", length.parse::<u64>().unwrap()),
        (None, Some(_)) => "Chunked".into(),
        (None, None) => "None".into(),
    };
    let body = framing != "None" && framing != "Length(0)";
    let option = |wanted: &str| options.iter().any(|option| option == wanted);
    let keep = !option("close") && (!old || option("keep-alive"));
    let websocket = fields.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("upgrade")
            && value
                .split(',')
                .any(|item| item.trim().eq_ignore_ascii_case("websocket"))
    });
    let websocket = websocket && option("upgrade") && !old && method == b"GET" && !body;
    let version = if old { "Http10" } else { "Http11" };
    let len = skipped + line_end + 2 + at;
    let mut out = format!(
        "{} {path} {form} {version} {framing} len={len}",
        text(method)
    );
    for (name, value) in [
        ("authority", authority),
        ("host", host),
        ("ua", value_of("user-agent")),
    ] {
        out += &value.map_or(String::new(), |value| format!(" {name}={value}"));
    }
    for (name, set) in [
        ("keep", keep),
        ("expect", expect && body),
        ("websocket", websocket),
    ] {
        out += &if set {
            format!(" {name}")
        } else {
            String::new()
        };
    }
    for (name, value) in &fields {
        out += &format!(" [{name}|{value}]");
    }
    Ok(out)
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap()
}

fn naive_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Heads that are fine or nearly so.
pub(crate) fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let one_of =
        |texts: &[&'static str]| prop::sample::select(texts.to_vec()).prop_map(String::from);
    let method = prop_oneof![
        9 => one_of(&["GET", "POST", "HEAD", "OPTIONS", "PUT", "BREW", "get"]),
        1 => one_of(&["TRACE", "", "B(D"]),
    ];
    let target = prop_oneof![
        8 => one_of(&["/", "/a/b?c=d", "http://x.y/z", "https://x.y", "HTTP://X:8?q", "/%41/../b"]),
        1 => one_of(&["*", "http://u@x/", "ftp://x/", "x"]),
        1 => "/[a-z?/]{0,60}",
    ];
    let version = prop_oneof![
        9 => one_of(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
        1 => one_of(&["HTTP/1.7", "HTTP/2.0", "HTTP/1.10"]),
    ];
    let line = prop_oneof![
        16 => one_of(&["User-Agent: u", "User-Agent:", "X-A: 1", "X-B:\t two words ", "Cookie: a=b; c=d", "Accept: */*"]),
        4 => one_of(&["Connection: close", "Connection: keep-alive, Upgrade", "Connection: X-A,", "Upgrade: websocket", "Expect: 100-continue"]),
        4 => one_of(&["Content-Length: 5", "Content-Length: 0", "content-length: 7", "Transfer-Encoding: chunked"]),
        1 => one_of(&["Host: a.b", "X-C : x", " folded", "Expect: x", "Transfer-Encoding: gzip, chunked", "Content-Length: +5"]),
        1 => "[A-Za-z-]{1,8}: ?[ -~]{0,30}",
    ];
    let lines = prop::collection::vec(line, 0..8);
    let host = prop::bool::weighted(0.95);
    (
        prop::bool::weighted(0.1),
        method,
        target,
        version,
        host,
        lines,
    )
        .prop_map(|(empty, method, target, version, host, lines)| {
            let mut head = if empty {
                String::from("\r\n")
            } else {
                String::new()
            };
            head += &format!("{method} {target} {version}\r\n");
            if host {
                head += "Host: first\r\n";
            }
            for line in lines {
                head += &line;
                head += "\r\n";
            }
            head += "\r\n";
            head.into_bytes()
        })
}

/// Changes single bytes, mostly to those that matter.
pub(crate) fn damage() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    let byte =
        prop_oneof![4 => prop::sample::select(b"\r\n\0\t :,#\x7f\x0b;".to_vec()), 1 => any::<u8>()];
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec((any::<usize>(), 0..3u8, byte), 0..3),
    ]
}

pub(crate) fn damaged(mut raw: Vec<u8>, damage: &[(usize, u8, u8)]) -> Vec<u8> {
    for &(at, kind, byte) in damage {
        let at = at % raw.len().max(1);
        match kind {
            0 => raw.insert(at, byte),
            1 if at < raw.len() => raw[at] = byte,
            _ if at < raw.len() => drop(raw.remove(at)),
            _ => {}
        }
    }
    raw
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_twin(head in any_head(), damage in damage()) {
        let mut raw = damaged(head, &damage);
        raw.extend_from_slice(b"\r\n\r\n");
        let got = verdict(&raw, [raw.len()]).map_err(RequestError::status);
        prop_assert_eq!(got, naive(&raw, LIMITS));
    }

    #[test]
    fn cuts_do_not_matter(head in any_head(), damage in damage(), mut cuts in prop::collection::vec(0..300usize, 0..6)) {
        let mut raw = damaged(head, &damage);
        raw.extend_from_slice(b"GET / HTTP/1.1\r\n");
        cuts.sort_unstable();
        cuts.retain(|&cut| cut < raw.len());
        cuts.push(raw.len());
        prop_assert_eq!(verdict(&raw, [raw.len()]), verdict(&raw, cuts));
    }

    #[test]
    fn noise_is_no_panic(raw in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(verdict(&raw, [raw.len()]), verdict(&raw, 0..=raw.len()));
    }
}
