//! Each row of the mending table and each refusal with data, every cut of every
//! sample, and a naive twin.

use proptest::prelude::*;

use super::super::request::tests::{damage, damaged};
use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head: 300,
    target: 0,
    fields: 8,
};

const GET: RequestKind = RequestKind {
    head: false,
    upgrade: false,
};

/// What the parser says after each of these lengths was there, up to the first verdict. Each read
/// goes into the buffer that the parser has mended so far, as on a connection.
fn verdict(
    raw: &[u8],
    request: RequestKind,
    cuts: impl IntoIterator<Item = usize>,
) -> Result<String, ResponseError> {
    let mut parser = ResponseParser::new(LIMITS);
    let mut buf = Vec::new();
    for cut in cuts {
        buf.extend_from_slice(&raw[buf.len()..cut]);
        match parser.parse(&mut buf, request) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete) => {
                // Never touches what comes after the head.
                let len = parser.head().len;
                assert_eq!(buf[len..], raw[len..cut]);
                assert_eq!(parser.parse(&mut buf, request), Ok(Parsed::Complete));
                check_safe(parser.head(), &buf);
                return Ok(show(parser.head(), &buf));
            }
            Err(error) => {
                assert_eq!(parser.parse(&mut buf, request), Err(error));
                return Err(error);
            }
        }
    }
    Ok("partial".into())
}

/// Whatever came, what is passed on cannot end a line.
fn check_safe(head: &ResponseHead, buf: &[u8]) {
    assert!(fields::is_clean(head.reason.of(buf)));
    for field in &head.fields {
        let (name, value) = (field.name.of(buf), field.value.of(buf));
        assert!(!name.is_empty() && fields::token_length(name) == name.len());
        assert!(fields::is_clean(value), "{value:?}");
    }
}

fn show(head: &ResponseHead, buf: &[u8]) -> String {
    let text = |span: Span| String::from_utf8_lossy(span.of(buf)).into_owned();
    let mut out = format!(
        "{} {:?} {:?} {:?}",
        head.status,
        text(head.reason),
        head.version,
        head.framing
    );
    if let Some(length) = head.content_length {
        out += &format!(" states={length}");
    }
    if head.reusable {
        out += " reusable";
    }
    for field in &head.fields {
        out += &format!(" [{}|{}]", text(field.name), text(field.value));
    }
    out
}

#[track_caller]
fn every_cut(raw: &[u8], request: RequestKind) -> Result<String, ResponseError> {
    let whole = verdict(raw, request, [raw.len()]);
    assert_eq!(whole, verdict(raw, request, 0..=raw.len()), "byte by byte");
    for cut in 0..raw.len() {
        assert_eq!(
            whole,
            verdict(raw, request, [cut, raw.len()]),
            "cut at {cut}"
        );
    }
    whole
}

#[track_caller]
fn accepted(raw: &str, want: &str) {
    assert_eq!(every_cut(raw.as_bytes(), GET).as_deref(), Ok(want));
    for cut in 0..raw.len() {
        assert_eq!(
            verdict(raw.as_bytes(), GET, [cut]).as_deref(),
            Ok("partial")
        );
    }
}

#[track_caller]
fn refused(raw: impl AsRef<[u8]>, want: ResponseError) {
    assert_eq!(every_cut(raw.as_ref(), GET), Err(want));
}

/// An answer with these fields after the status line.
#[track_caller]
fn with_fields(fields: &str, want: &str) {
    accepted(
        &format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"),
        &format!("200 \"OK\" Http11 {want}"),
    );
}

#[track_caller]
fn fields_refused(fields: &str, want: ResponseError) {
    refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), want);
}

#[test]
fn status_lines() {
    let tail = "Http11 Length(0) states=0 reusable [Content-Length|0]";
    for (line, want) in [
        ("HTTP/1.1 200 OK", format!("200 \"OK\" {tail}")),
        (
            "HTTP/1.1 404 Not  Found at\tall ",
            format!("404 \"Not  Found at\\tall\" {tail}"),
        ),
        ("HTTP/1.1 599 ", format!("599 \"\" {tail}")),
        ("HTTP/1.1 200", format!("200 \"\" {tail}")),
        ("HTTP/1.1 200  OK", format!("200 \"OK\" {tail}")),
        ("HTTP/1.1 200\tOK", format!("200 \"OK\" {tail}")),
        ("HTTP/1.2 200 OK", format!("200 \"OK\" {tail}")),
        ("HTTP/1.1 200 \0a\rb\x7f", format!("200 \"a b\" {tail}")),
    ] {
        accepted(&format!("{line}\r\nContent-Length: 0\r\n\r\n"), &want);
        accepted(&format!("{line}\nContent-Length: 0\n\n"), &want);
    }
    accepted("HTTP/1.0 200 OK\r\n\r\n", "200 \"OK\" Http10 UntilClose");
    for line in [
        "",
        " HTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "ICY 200 OK",
        "http/1.1 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.x 200 OK",
        "HTTP/1.10 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 2\x000 OK",
        "HTTP/1.1",
        "SSH-2.0-OpenSSH_9.2",
        "\x15\x03\x03\0\x02",
    ] {
        refused(format!("{line}\r\n\r\n"), ResponseError::BadStatusLine);
    }
    for status in ["000", "099", "600", "999"] {
        refused(
            format!("HTTP/1.1 {status} X\r\n\r\n"),
            ResponseError::BadStatus,
        );
    }
    // Found out without a line end.
    refused("SSH-2.0-OpenSSH", ResponseError::BadStatusLine);
}

#[test]
fn lines_are_mended() {
    with_fields("A: b\nC: d", "UntilClose [A|b] [C|d]");
    with_fields("A : b\r\nC\t :d", "UntilClose [A|b] [C|d]");
    with_fields("A: b\r\n c\r\n\t d ", "UntilClose [A|b   c    d]");
    with_fields("A:\r\n b\n c", "UntilClose [A|b  c]");
    with_fields("A: b\r\n \r\n\t\r\n c", "UntilClose [A|b         c]");
    with_fields("A:\r\n ", "UntilClose [A|]");
    with_fields("A: x\0y\rz\x7f\x1b", "UntilClose [A|x y z]");
    with_fields("A: \0\r\r", "UntilClose [A|]");
    with_fields("A: x\r\n y\0z", "UntilClose [A|x   y z]");
    with_fields("A: \u{fc}", "UntilClose [A|\u{fc}]");
    with_fields("A:", "UntilClose [A|]");
}

#[test]
fn broken_lines_are_dropped_and_the_connection_is_not_reused() {
    let rest = "Content-Length: 1\r\nZ: z";
    let kept = "Length(1) states=1 reusable [Content-Length|1] [Z|z]";
    with_fields(rest, kept);
    for line in [
        "no colon",
        ": no name",
        "(: x",
        "A\0: x",
        "A B: x",
        "A\u{e9}: x",
        " folded under nothing",
        "broken name: x\r\n folded: y",
        "\rA: x",
        "\r",
    ] {
        with_fields(&format!("{line}\r\n{rest}"), &kept.replace(" reusable", ""));
    }
    // A broken framing field is none; but who knows what the tool sends now.
    with_fields(
        "Content-Length: 1\r\nTransfer-Encoding\x0b: chunked",
        "Length(1) states=1 [Content-Length|1]",
    );
}

#[test]
fn framing() {
    with_fields(
        "Content-Length: 7",
        "Length(7) states=7 reusable [Content-Length|7]",
    );
    with_fields(
        "Content-Length : 7",
        "Length(7) states=7 reusable [Content-Length|7]",
    );
    with_fields(
        "Content-Length: 7\r\ncontent-length: 07",
        "Length(7) states=7 reusable [Content-Length|7] [content-length|07]",
    );
    with_fields(
        "Content-Length: 7, 7",
        "Length(7) states=7 reusable [Content-Length|7, 7]",
    );
    with_fields(
        "Content-Length:\r\n 7",
        "Length(7) states=7 reusable [Content-Length|7]",
    );
    with_fields("Content_Length: 7", "UntilClose [Content_Length|7]");
    with_fields(
        "Transfer-Encoding: Chunked",
        "Chunked reusable [Transfer-Encoding|Chunked]",
    );
    with_fields(
        "Transfer-Encoding : chunked",
        "Chunked reusable [Transfer-Encoding|chunked]",
    );
    with_fields(
        "Transfer-Encoding: chunked\r\nContent-Length: 7",
        "Chunked [Transfer-Encoding|chunked] [Content-Length|7]",
    );
    with_fields(
        "Content-Length: 7\r\nTransfer-Encoding: chunked",
        "Chunked [Content-Length|7] [Transfer-Encoding|chunked]",
    );
    accepted(
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        "200 \"OK\" Http10 Chunked [Connection|keep-alive] [Transfer-Encoding|chunked]",
    );
    for (a, b) in [("7", "8"), ("7", "7, 8"), ("1, 2", "1"), ("0", "7")] {
        fields_refused(
            &format!("Content-Length: {a}\r\nContent-Length: {b}"),
            ResponseError::ConflictingLengths,
        );
    }
    for length in [
        "",
        "x",
        "-1",
        "+1",
        "1 1",
        "1\r\n 1",
        "1;2",
        ",",
        "1,",
        ",1",
        "1,,1",
        "1\0",
        "\x0b1",
        "1\r",
        "0x1",
        "9223372036854775808",
    ] {
        fields_refused(
            &format!("Content-Length: {length}"),
            ResponseError::BadContentLength,
        );
    }
    for coding in [
        "",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "gzip",
        "xchunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "\x0bchunked",
        "chunked\0",
        "chun\r\n ked",
        "chunked\r\nTransfer-Encoding: identity",
    ] {
        fields_refused(
            &format!("Transfer-Encoding: {coding}"),
            ResponseError::BadTransferEncoding,
        );
    }
}

#[test]
fn answers_without_a_body() {
    #[track_caller]
    fn check(request: RequestKind, head: &str, want: &str) {
        let raw = format!("HTTP/1.1 {head}\r\n\r\n");
        let got = every_cut(raw.as_bytes(), request).unwrap();
        assert_eq!(got.split(" [").next(), Some(want));
    }
    let head = RequestKind { head: true, ..GET };
    check(
        head,
        "200 OK\r\nContent-Length: 7",
        "200 \"OK\" Http11 None states=7 reusable",
    );
    check(
        head,
        "200 OK\r\nTransfer-Encoding: chunked",
        "200 \"OK\" Http11 None reusable",
    );
    check(head, "200 OK", "200 \"OK\" Http11 None reusable");
    check(
        head,
        "200 OK\r\nConnection: close",
        "200 \"OK\" Http11 None",
    );
    check(
        GET,
        "304 NM\r\nContent-Length: 7",
        "304 \"NM\" Http11 None states=7 reusable",
    );
    check(GET, "304 NM", "304 \"NM\" Http11 None reusable");
    check(GET, "204 NC", "204 \"NC\" Http11 None reusable");
    check(
        GET,
        "204 NC\r\nContent-Length: 0",
        "204 \"NC\" Http11 None reusable",
    );
    // These two promise a body that must not be: it may come all the same.
    check(GET, "204 NC\r\nContent-Length: 7", "204 \"NC\" Http11 None");
    check(
        GET,
        "204 NC\r\nTransfer-Encoding: chunked",
        "204 \"NC\" Http11 None",
    );
    check(GET, "100 Continue", "100 \"Continue\" Http11 None reusable");
    check(
        GET,
        "103 Early Hints\r\nLink: </x>",
        "103 \"Early Hints\" Http11 None reusable",
    );
}

#[test]
fn switching_protocols() {
    #[track_caller]
    fn check(upgrade: bool, fields: &str, want: bool) {
        let raw = format!("HTTP/1.1 101 X\r\n{fields}\r\n\r\n");
        let got = every_cut(
            raw.as_bytes(),
            RequestKind {
                head: false,
                upgrade,
            },
        );
        match want {
            true => assert!(got.unwrap().starts_with("101 \"X\" Http11 None [")),
            false => assert_eq!(got, Err(ResponseError::UnexpectedUpgrade)),
        }
    }
    check(true, "Upgrade: WebSocket\r\nConnection: upgrade", true);
    check(false, "Upgrade: websocket\r\nConnection: upgrade", false);
    check(true, "Upgrade: h2c\r\nConnection: upgrade", false);
    check(true, "Connection: upgrade", false);
}

#[test]
fn persistence() {
    let length = "Content-Length: 0\r\nConnection:";
    let rest = |value: &str| format!(" [Content-Length|0] [Connection|{value}]");
    for (value, reusable) in [
        ("keep-alive", true),
        ("close", false),
        ("Close, x", false),
        ("x", true),
    ] {
        let word = if reusable { " reusable" } else { "" };
        with_fields(
            &format!("{length} {value}"),
            &format!("Length(0) states=0{word}{}", rest(value)),
        );
    }
    for (value, reusable) in [
        ("keep-alive", true),
        ("x", false),
        ("keep-alive, close", false),
    ] {
        let word = if reusable { " reusable" } else { "" };
        accepted(
            &format!("HTTP/1.0 200 OK\r\n{length} {value}\r\n\r\n"),
            &format!("200 \"OK\" Http10 Length(0) states=0{word}{}", rest(value)),
        );
    }
}

#[test]
fn limits() {
    let line = "HTTP/1.1 200 OK\r\n";
    let value = "v".repeat(LIMITS.head - line.len() - "a: \r\n\r\n".len());
    accepted(
        &format!("{line}a: {value}\r\n\r\n"),
        &format!("200 \"OK\" Http11 UntilClose [a|{value}]"),
    );
    refused(
        format!("{line}a: {value}v\r\n\r\n"),
        ResponseError::HeadTooLarge,
    );
    refused(
        format!("{line}{}", "v".repeat(LIMITS.head)),
        ResponseError::HeadTooLarge,
    );
    refused(
        format!("{line}{}", " \n".repeat(LIMITS.head)),
        ResponseError::HeadTooLarge,
    );
    let many = "a: b\r\n".repeat(LIMITS.fields);
    assert!(every_cut(format!("{line}{many}\r\n").as_bytes(), GET).is_ok());
    refused(
        format!("{line}{many}a: b\r\n\r\n"),
        ResponseError::TooManyFields,
    );
    refused(
        format!("{line}Connection: {}\r\n\r\n", "a,".repeat(33)),
        ResponseError::TooManyConnectionOptions,
    );
}

#[test]
fn nominated_fields() {
    let mut raw =
        *b"HTTP/1.1 200 OK\r\nX-Hop: 1\r\nSet-Cookie: a\r\nConnection: x-hop, set-cookie\r\n\r\n";
    let mut parser = ResponseParser::new(LIMITS);
    assert_eq!(parser.parse(&mut raw, GET), Ok(Parsed::Complete));
    let head = parser.head();
    let nominated: Vec<bool> = head
        .fields
        .iter()
        .map(|field| head.nominated(&raw, field))
        .collect();
    assert_eq!(nominated, [true, false, false]);
}

#[test]
fn one_parser_reads_interim_and_final_answers() {
    let mut raw = b"HTTP/1.1 103 Early Hints\r\nbroken\r\nConnection: close, x\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec();
    let mut parser = ResponseParser::new(LIMITS);
    assert_eq!(parser.parse(&mut raw, GET), Ok(Parsed::Complete));
    assert_eq!(parser.head().status, 103);
    let rest = &mut raw[parser.head().len..];
    parser.reset();
    assert_eq!(parser.parse(rest, GET), Ok(Parsed::Complete));
    assert_eq!(
        show(parser.head(), rest),
        "200 \"OK\" Http11 Length(1) states=1 reusable [Content-Length|1]"
    );
    assert_eq!(parser.head().len, rest.len() - 1);
}

/// The naive twin for heads that are whole and hold lines only: `Err` stands for any
/// refusal, of the same kind.
fn naive(raw: &[u8], request: RequestKind) -> Result<String, ResponseError> {
    let mut at = 0;
    let mut lines = Vec::new();
    if !raw.iter().zip(b"HTTP/1.").all(|(a, b)| a == b) {
        return Err(ResponseError::BadStatusLine);
    }
    // Field lines with what is folded under them already joined; `None` marks a dropped one.
    let mut head: Option<(u16, String, bool)> = None;
    let mut fields: Vec<Option<(String, String)>> = Vec::new();
    let mut count = 0;
    loop {
        let lf = at
            + raw[at..]
                .iter()
                .position(|&byte| byte == b'\n')
                .ok_or(ResponseError::HeadTooLarge)?;
        if lf >= LIMITS.head {
            return Err(ResponseError::HeadTooLarge);
        }
        let line = raw[at..lf].strip_suffix(b"\r").unwrap_or(&raw[at..lf]);
        lines.push(line);
        at = lf + 1;
        let Some(_) = head else {
            let text: Vec<u8> = line.to_vec();
            let fits = text.len() >= 12
                && text[7].is_ascii_digit()
                && text[8] == b' '
                && text[9..12].iter().all(u8::is_ascii_digit)
                && matches!(text.get(12), None | Some(b' ' | b'\t'));
            if !fits {
                return Err(ResponseError::BadStatusLine);
            }
            let status: u16 = String::from_utf8_lossy(&text[9..12]).parse().unwrap();
            if !(100..600).contains(&status) {
                return Err(ResponseError::BadStatus);
            }
            head = Some((status, clean(&text[12..]), text[7] == b'0'));
            continue;
        };
        if line.is_empty() {
            break;
        }
        let dirty = line
            .iter()
            .any(|&byte| byte == 0x7f || byte < 0x20 && byte != 9);
        let refuse_dirty = |name: &str| match name.to_ascii_lowercase().as_str() {
            "content-length" if dirty => Err(ResponseError::BadContentLength),
            "transfer-encoding" if dirty => Err(ResponseError::BadTransferEncoding),
            _ => Ok(()),
        };
        if line[0] == b' ' || line[0] == b'\t' {
            match fields.last_mut() {
                Some(Some((name, value))) => {
                    refuse_dirty(name)?;
                    value.push(' ');
                    value.push_str(&clean(line));
                }
                _ => fields.push(None),
            }
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let name = colon.map(|colon| {
            String::from_utf8_lossy(&line[..colon])
                .trim_end_matches([' ', '\t'])
                .to_string()
        });
        match (colon, name) {
            (Some(colon), Some(name))
                if !name.is_empty()
                    && name.bytes().all(|byte| {
                        byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
                    }) =>
            {
                refuse_dirty(&name)?;
                if count == LIMITS.fields {
                    return Err(ResponseError::TooManyFields);
                }
                count += 1;
                fields.push(Some((name, clean(&line[colon + 1..]))));
            }
            _ => fields.push(None),
        }
    }
    let (status, reason, old) = head.unwrap();
    let dropped = fields.contains(&None);
    let fields: Vec<(String, String)> = fields.into_iter().flatten().collect();
    let all = |wanted: &str| -> Vec<String> {
        fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim().to_ascii_lowercase())
            .collect()
    };
    let has = |list: &str, wanted: &str| {
        all(list)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|item| item.trim() == wanted)
    };
    let mut length: Option<u64> = None;
    let mut codings = 0;
    for (name, value) in &fields {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            for item in value.split(',') {
                let item = item.trim();
                if item.is_empty() || !item.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(ResponseError::BadContentLength);
                }
                let stated =
                    item.parse::<i64>()
                        .map_err(|_| ResponseError::BadContentLength)? as u64;
                if length.is_some_and(|length| length != stated) {
                    return Err(ResponseError::ConflictingLengths);
                }
                length = Some(stated);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            codings += 1;
            if codings > 1 || !value.eq_ignore_ascii_case("chunked") {
                return Err(ResponseError::BadTransferEncoding);
            }
        }
    }
    let chunked = codings == 1;
    if status == 101 && !(request.upgrade && has("upgrade", "websocket")) {
        return Err(ResponseError::UnexpectedUpgrade);
    }
    let never = status < 200 || status == 204;
    let framing = match (never || status == 304 || request.head, chunked, length) {
        (true, _, _) => "None".to_string(),
        (_, true, _) => "Chunked".to_string(),
        (_, _, Some(length)) => format!("Length({length})"),
        _ => "UntilClose".to_string(),
    };
    let mut reusable = if old {
        has("connection", "keep-alive") && !has("connection", "close")
    } else {
        !has("connection", "close")
    };
    if dropped
        || framing == "UntilClose"
        || status == 101
        || chunked && (old || length.is_some())
        || never && (chunked || length.unwrap_or(0) > 0)
    {
        reusable = false;
    }
    let mut out = format!(
        "{status} {reason:?} {} {framing}",
        if old { "Http10" } else { "Http11" }
    );
    if let Some(length) = length.filter(|_| !chunked && !never) {
        out += &format!(" states={length}");
    }
    if reusable {
        out += " reusable";
    }
    for (name, value) in &fields {
        out += &format!(" [{name}|{}]", value.trim_matches([' ', '\t']));
    }
    Ok(out)
}

fn clean(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes
        .iter()
        .map(|&byte| {
            if byte == 0x7f || byte < 0x20 && byte != 9 {
                b' '
            } else {
                byte
            }
        })
        .collect();
    String::from_utf8_lossy(&bytes)
        .trim_matches([' ', '\t'])
        .to_string()
}

/// Folding joins with as many spaces as there were bytes; how many does not matter.
fn squeezed(text: Result<String, ResponseError>) -> Result<String, ResponseError> {
    text.map(|text| {
        text.replace("\\t", " ")
            .split([' ', '\t'])
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// Heads of answers that are fine or nearly so.
pub(crate) fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let one_of = |texts: &[&'static str]| prop::sample::select(texts.to_vec());
    let line = prop_oneof![
        9 => one_of(&["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 404", "HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified"]),
        1 => one_of(&["HTTP/1.1 103 Early Hints", "HTTP/1.1 101 Switching", "HTTP/1.1 700 X", "HTTP/1.1 20 X"]),
    ];
    let field = prop_oneof![
        8 => one_of(&["A: b", "B:", "D: two  words", "Connection: close", "Connection: keep-alive", "Upgrade: websocket"]),
        4 => one_of(&["Content-Length: 5", "content-length: 5", "Content-Length: 5, 5", "Transfer-Encoding: chunked"]),
        4 => one_of(&["A : b", " folded", "\tfolded again", " ", "no colon", "Bad Name: x", "C: \0x\ry"]),
        1 => one_of(&["Content-Length: 6", "Content-Length: x", "Transfer-Encoding: gzip, chunked"]),
    ];
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]);
    let lines = prop::collection::vec((field, end), 0..10);
    (line, lines).prop_map(|(line, lines)| {
        let mut head = format!("{line}\r\n");
        for (line, end) in lines {
            head += line;
            head += end;
        }
        head += "\r\n";
        head.into_bytes()
    })
}

fn any_kind() -> impl Strategy<Value = RequestKind> {
    (prop::bool::weighted(0.2), prop::bool::weighted(0.3))
        .prop_map(|(head, upgrade)| RequestKind { head, upgrade })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_twin(head in any_head(), damage in damage(), kind in any_kind()) {
        let mut raw = damaged(head, &damage);
        raw.extend_from_slice(b"\r\n\r\n");
        prop_assert_eq!(squeezed(verdict(&raw, kind, [raw.len()])), squeezed(naive(&raw, kind)));
    }

    #[test]
    fn cuts_do_not_matter(head in any_head(), damage in damage(), kind in any_kind(), mut cuts in prop::collection::vec(0..300usize, 0..6)) {
        let mut raw = damaged(head, &damage);
        raw.extend_from_slice(b"HTTP/1.1 2");
        cuts.sort_unstable();
        cuts.retain(|&cut| cut < raw.len());
        cuts.push(raw.len());
        prop_assert_eq!(verdict(&raw, kind, [raw.len()]), verdict(&raw, kind, cuts));
    }

    #[test]
    fn noise_is_no_panic(raw in prop::collection::vec(any::<u8>(), 0..400), kind in any_kind()) {
        let raw = [b"HTTP/1.1 200 OK\n", &raw[..]].concat();
        prop_assert_eq!(verdict(&raw, kind, [raw.len()]), verdict(&raw, kind, 0..=raw.len()));
    }
}
