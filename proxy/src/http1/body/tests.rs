//! Each rule with data, every cut of every sample, and a naive twin.

use proptest::prelude::*;

use super::super::request::tests::{damage, damaged};
use super::*;

const STRICT: BodyLimits = BodyLimits {
    trailers: 100,
    extension: 300,
    tolerant: false,
};
const TOLERANT: BodyLimits = BodyLimits {
    tolerant: true,
    ..STRICT
};

/// Data, trailers, whether the body is done, and bytes consumed.
type Outcome = Result<(Vec<u8>, String, bool, usize), BodyError>;

fn decode(
    raw: &[u8],
    framing: Framing,
    limits: BodyLimits,
    cuts: impl IntoIterator<Item = usize>,
) -> Outcome {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut data, mut consumed) = (Vec::new(), 0);
    for cut in cuts {
        if decoder.is_done() {
            break;
        }
        let mut buf = raw[consumed..cut].to_vec();
        let decoded = match decoder.decode(&mut buf) {
            Ok(decoded) => decoded,
            Err(error) => {
                assert_eq!(decoder.decode(&mut buf), Err(error));
                assert_eq!(decoder.eof(), Err(error));
                return Err(error);
            }
        };
        assert!(decoded.data <= decoded.consumed && decoded.consumed <= buf.len());
        assert!(decoded.done || decoded.consumed == buf.len());
        assert_eq!(
            buf[decoded.consumed..],
            raw[consumed + decoded.consumed..cut],
            "touched what follows"
        );
        data.extend_from_slice(&buf[..decoded.data]);
        consumed += decoded.consumed;
    }
    let trailers = String::from_utf8_lossy(decoder.trailers()).into_owned();
    let done = decoder.is_done();
    if done {
        // The end is the end.
        let mut more = *b"more";
        assert_eq!(
            decoder.decode(&mut more),
            Ok(Decoded {
                consumed: 0,
                data: 0,
                done: true
            })
        );
        assert_eq!(decoder.eof(), Ok(()));
    }
    Ok((data, trailers, done, consumed))
}

#[track_caller]
fn every_cut(raw: &[u8], framing: Framing, limits: BodyLimits) -> Outcome {
    let whole = decode(raw, framing, limits, [raw.len()]);
    assert_eq!(
        whole,
        decode(raw, framing, limits, 0..=raw.len()),
        "byte by byte"
    );
    for cut in 0..raw.len() {
        assert_eq!(
            whole,
            decode(raw, framing, limits, [cut, raw.len()]),
            "cut at {cut}"
        );
    }
    whole
}

/// A whole chunked body, followed by the next message.
#[track_caller]
fn chunked(limits: BodyLimits, raw: &str, data: &str, trailers: &str) {
    let want = Ok((
        data.as_bytes().to_vec(),
        trailers.to_string(),
        true,
        raw.len(),
    ));
    assert_eq!(
        every_cut(
            format!("{raw}GET / HTTP/1.1\r\n").as_bytes(),
            Framing::Chunked,
            limits
        ),
        want
    );
    for cut in 0..raw.len() {
        let (_, _, done, consumed) =
            decode(raw.as_bytes(), Framing::Chunked, limits, [cut]).unwrap();
        assert_eq!((done, consumed), (false, cut));
    }
}

#[track_caller]
fn both(raw: &str, data: &str, trailers: &str) {
    chunked(STRICT, raw, data, trailers);
    chunked(TOLERANT, raw, data, trailers);
}

#[track_caller]
fn refused(limits: BodyLimits, raw: &str, want: BodyError) {
    assert_eq!(
        every_cut(raw.as_bytes(), Framing::Chunked, limits),
        Err(want)
    );
}

#[track_caller]
fn refused_by_both(raw: &str, want: BodyError) {
    refused(STRICT, raw, want);
    refused(TOLERANT, raw, want);
}

#[test]
fn lengths() {
    #[track_caller]
    fn check(framing: Framing, raw: &str, data: &str, done: bool) {
        let want = Ok((data.as_bytes().to_vec(), String::new(), done, data.len()));
        assert_eq!(every_cut(raw.as_bytes(), framing, STRICT), want);
    }
    check(Framing::None, "next", "", true);
    check(Framing::Length(0), "next", "", true);
    check(Framing::Length(3), "abcnext", "abc", true);
    check(Framing::Length(3), "abc", "abc", true);
    check(Framing::Length(4), "abc", "abc", false);
    check(Framing::Length(u64::MAX), "abc", "abc", false);
    check(Framing::UntilClose, "abc", "abc", false);
}

#[test]
fn closing() {
    #[track_caller]
    fn check(framing: Framing, raw: &str, want: Result<(), BodyError>) {
        let mut decoder = BodyDecoder::new(framing, TOLERANT);
        decoder.decode(&mut raw.as_bytes().to_vec()).unwrap();
        assert_eq!(decoder.eof(), want);
        assert_eq!(decoder.eof(), want);
        assert_eq!(decoder.is_done(), want.is_ok());
    }
    check(Framing::None, "", Ok(()));
    check(Framing::Length(0), "", Ok(()));
    check(Framing::Length(3), "abc", Ok(()));
    check(Framing::UntilClose, "", Ok(()));
    check(Framing::UntilClose, "abc", Ok(()));
    check(Framing::Chunked, "0\r\n\r\n", Ok(()));
    check(Framing::Length(3), "ab", Err(BodyError::Truncated));
    for raw in [
        "",
        "3",
        "3\r\nabc",
        "3\r\nabc\r\n",
        "0\r\n",
        "0\r\nA: b\r\n",
        "0\r\n\r",
    ] {
        check(Framing::Chunked, raw, Err(BodyError::Truncated));
    }
}

#[test]
fn chunks() {
    both("0\r\n\r\n", "", "");
    both("3\r\nabc\r\n0\r\n\r\n", "abc", "");
    both(
        "3\r\nabc\r\n00b\r\nhello world\r\n1\r\n\n\r\n0000\r\n\r\n",
        "abchello world\n",
        "",
    );
    both(
        "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        "01234567890123456789",
        "",
    );
    both("0000000000000003\r\nabc\r\n0\r\n\r\n", "abc", "");
    // Data that looks like framing.
    both("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n", "");
}

#[test]
fn chunk_extensions() {
    both("3;a\r\nabc\r\n0;b=\"c;d\"\r\n\r\n", "abc", "");
    both("3 ;\ta = b\r\nabc\r\n0 \t; x\r\n\r\n", "abc", "");
    both("1;\u{e9}\r\na\r\n0\r\n\r\n", "a", "");
    refused_by_both("3;a\rb\r\nabc\r\n", BodyError::BareCr);
    refused_by_both("3;a\0\r\nabc\r\n", BodyError::BadChunkExtension);
    refused(STRICT, "3;a\nabc\r\n0\r\n\r\n", BodyError::BareLf);
    chunked(TOLERANT, "3;a\nabc\r\n0\r\n\r\n", "abc", "");
    let long = "x".repeat(LINE_EXTENSION - 1);
    both(&format!("1;{long}\r\na\r\n0\r\n\r\n"), "a", "");
    refused_by_both(
        &format!("1;{long}x\r\na\r\n0\r\n\r\n"),
        BodyError::ChunkExtensionTooLarge,
    );
    refused_by_both(
        &format!("1 {}", " ".repeat(LINE_EXTENSION)),
        BodyError::ChunkExtensionTooLarge,
    );
    // Over the body: 300 times one byte and one more.
    let many = "1;\r\na\r\n".repeat(STRICT.extension);
    both(
        &format!("{many}0\r\n\r\n"),
        &"a".repeat(STRICT.extension),
        "",
    );
    refused_by_both(
        &format!("{many}0;\r\n\r\n"),
        BodyError::ChunkExtensionTooLarge,
    );
}

#[test]
fn chunk_sizes() {
    for raw in [
        "\r\n",
        " 3\r\n",
        "x\r\n",
        "0x3\r\n",
        "+3\r\n",
        "-3\r\n",
        ";a\r\n",
        "3,\r\n",
        "3 x\r\n",
        "3_\r\n",
        "3\0\r\n",
        "G\r\n",
        "\u{ff13}\r\n",
    ] {
        refused_by_both(raw, BodyError::BadChunkSize);
    }
    for raw in [
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "00000000000000003\r\n",
        "fffffffffffffffffff\r\n",
    ] {
        refused_by_both(raw, BodyError::ChunkSizeTooLarge);
    }
    let largest = every_cut(b"7fffffffffffffff\r\nabc", Framing::Chunked, STRICT);
    assert_eq!(largest, Ok((b"abc".to_vec(), String::new(), false, 21)));
    refused(STRICT, "3 \r\nabc\r\n0\r\n\r\n", BodyError::BadChunkSize);
    chunked(TOLERANT, "3 \r\nabc\r\n0\t\n\r\n", "abc", "");
}

#[test]
fn line_ends_of_chunks() {
    refused_by_both("3\rabc\r\n", BodyError::BareCr);
    refused_by_both("3\r\nabc\rx", BodyError::BareCr);
    refused_by_both("3\r\nabcd\r\n", BodyError::MissingChunkEnd);
    refused_by_both("3\r\nabc0\r\n\r\n", BodyError::MissingChunkEnd);
    refused(STRICT, "3\nabc\r\n0\r\n\r\n", BodyError::BareLf);
    refused(STRICT, "3\r\nabc\n0\r\n\r\n", BodyError::BareLf);
    refused(STRICT, "0\n\r\n", BodyError::BareLf);
    refused(STRICT, "0\r\n\n", BodyError::BareLf);
    chunked(TOLERANT, "3\nabc\n0\n\n", "abc", "");
}

#[test]
fn trailers() {
    let body = |trailers: &str| format!("1\r\na\r\n0\r\n{trailers}\r\n");
    both(
        &body("Grpc-Status: 0\r\nX:\t y \r\n"),
        "a",
        "Grpc-Status: 0\r\nX: y\r\n",
    );
    both(&body("X:\r\n"), "a", "X: \r\n");
    // Forbidden ones are dropped (RFC 9110, 6.5.1).
    for name in [
        "Authorization",
        "Set-Cookie",
        "content-type",
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "X-Forwarded-For",
        "Content_Length",
        "Via",
        "Date",
        "Cookie",
        "Expect",
        "Cache-Control",
    ] {
        both(&body(&format!("{name}: x\r\nX: y\r\n")), "a", "X: y\r\n");
    }
    for name in ["Content-Length", "Transfer-Encoding", "hOsT"] {
        refused(
            STRICT,
            &body(&format!("{name}: 5\r\n")),
            BodyError::FramingFieldInTrailers,
        );
        chunked(
            TOLERANT,
            &body(&format!("{name}: 5\r\n folded\r\nX: y\r\n")),
            "a",
            "X: y\r\n",
        );
    }
    for (line, mended) in [
        ("X : y", "X: y\r\n"),
        ("X: y\r\n z\r\n\t w", "X: y z w\r\n"),
        ("X: a\0b\rc", "X: a b c\r\n"),
        ("no colon\r\n folded", ""),
        ("X: y\r\nno colon\r\n folded", "X: y\r\n"),
        (": y", ""),
        ("A B: y", ""),
        (" folded under nothing", ""),
        ("X\0: y", ""),
        ("\rX: y", ""),
        ("X: y\x7f", "X: y\r\n"),
    ] {
        refused(STRICT, &body(&format!("{line}\r\n")), BodyError::BadTrailer);
        chunked(TOLERANT, &body(&format!("{line}\r\n")), "a", mended);
    }
    refused(STRICT, &body("X: y\n"), BodyError::BareLf);
    chunked(TOLERANT, &body("X: y\n"), "a", "X: y\r\n");
}

#[test]
fn trailers_are_bounded() {
    let value = "v".repeat(STRICT.trailers - "X: \r\n".len());
    both(
        &format!("0\r\nX: {value}\r\n\r\n"),
        "",
        &format!("X: {value}\r\n"),
    );
    refused_by_both(
        &format!("0\r\nX: {value}v\r\n\r\n"),
        BodyError::TrailersTooLarge,
    );
    refused_by_both(
        &format!("0\r\n{}", "v".repeat(STRICT.trailers + 3)),
        BodyError::TrailersTooLarge,
    );
    refused(
        TOLERANT,
        &format!("0\r\n{}", "x\n".repeat(STRICT.trailers)),
        BodyError::TrailersTooLarge,
    );
}

#[test]
fn every_error_has_a_status_and_names_its_source() {
    for (error, status) in [
        (BodyError::BadChunkSize, 400),
        (BodyError::TrailersTooLarge, 431),
        (BodyError::Truncated, 400),
    ] {
        assert_eq!(error.status(), status);
        assert!(error.to_string().contains("RFC"), "{error}");
    }
}

#[test]
fn a_large_body_in_many_reads() {
    let data: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8).collect();
    let mut raw = Vec::new();
    for (index, chunk) in data.chunks(7_777).enumerate() {
        raw.extend_from_slice(
            format!(
                "{:x}{}\r\n",
                chunk.len(),
                if index % 3 == 0 { ";x" } else { "" }
            )
            .as_bytes(),
        );
        raw.extend_from_slice(chunk);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"0\r\n\r\n");
    for step in [1_000, 4_096, 65_536] {
        let cuts = (0..raw.len()).step_by(step).chain([raw.len()]);
        let got = decode(&raw, Framing::Chunked, STRICT, cuts);
        assert_eq!(got, Ok((data.clone(), String::new(), true, raw.len())));
    }
}

/// The naive twin of the strict decoder, for input that is there at once: None for anything it does
/// not accept as whole.
fn naive(raw: &[u8], limits: BodyLimits) -> Option<(Vec<u8>, String, bool, usize)> {
    let line = |at: usize| -> Option<(&[u8], usize)> {
        let lf = at + raw.get(at..)?.iter().position(|&byte| byte == b'\n')?;
        Some((raw[at..lf].strip_suffix(b"\r")?, lf + 1))
    };
    let (mut at, mut data, mut extensions) = (0, Vec::new(), 0);
    loop {
        let (text, next) = line(at)?;
        let digits = text
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let extension = &text[digits..];
        extensions += extension.len();
        let size = u64::from_str_radix(std::str::from_utf8(&text[..digits]).ok()?, 16).ok()?;
        let begins_well = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
        let clean = extension
            .iter()
            .all(|&byte| byte != 0x7f && (byte >= 0x20 || byte == 9));
        if digits > 16
            || size > i64::MAX as u64
            || !begins_well
            || !clean
            || extension.len() > 256
            || extensions > limits.extension
        {
            return None;
        }
        at = next;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size as usize)?;
        data.extend_from_slice(raw.get(at..end)?);
        if raw.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    let start = at;
    let mut trailers = String::new();
    loop {
        let (text, next) = line(at)?;
        at = next;
        if at - start > limits.trailers + 2 {
            return None;
        }
        if text.is_empty() {
            return Some((data, trailers, true, at));
        }
        let colon = text.iter().position(|&byte| byte == b':')?;
        let (name, value) = (
            String::from_utf8(text[..colon].to_vec()).ok()?,
            &text[colon + 1..],
        );
        let token = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let framing = ["content-length", "transfer-encoding", "host"]
            .contains(&name.to_ascii_lowercase().as_str());
        if !token
            || framing
            || value
                .iter()
                .any(|&byte| byte == 0x7f || byte < 0x20 && byte != 9)
        {
            return None;
        }
        if !["connection", "set-cookie"].contains(&name.to_ascii_lowercase().as_str()) {
            trailers += &format!(
                "{name}: {}\r\n",
                String::from_utf8_lossy(value).trim_matches([' ', '\t'])
            );
        }
    }
}

/// Chunked bodies that are fine or nearly so.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop::sample::select(vec!["", "", "", ";x", " ;y=\"z\"", " "]);
    let chunk = (
        prop::collection::vec(any::<u8>(), 1..20),
        extension,
        prop::bool::ANY,
    );
    let trailer = prop::sample::select(vec![
        "X-Sum: 1\r\n",
        "Connection: x\r\n",
        "Host: a\r\n",
        "Y:z\r\n",
        "X : y\r\n",
        " folded\r\n",
        "Set-Cookie: a\r\n",
        "no colon\r\n",
    ]);
    let end = prop::sample::select(vec!["0\r\n", "0\r\n", "00;x\r\n"]);
    (
        prop::collection::vec(chunk, 0..5),
        end,
        prop::collection::vec(trailer, 0..3),
    )
        .prop_map(|(chunks, end, trailers)| {
            let mut raw = Vec::new();
            for (data, extension, upper) in chunks {
                let size = if upper {
                    format!("{:X}", data.len())
                } else {
                    format!("{:x}", data.len())
                };
                raw.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
                raw.extend_from_slice(&data);
                raw.extend_from_slice(b"\r\n");
            }
            raw.extend_from_slice(end.as_bytes());
            raw.extend_from_slice(trailers.concat().as_bytes());
            raw.extend_from_slice(b"\r\n");
            raw
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_twin(body in any_body(), damage in damage()) {
        let raw = damaged(body, &damage);
        let got = decode(&raw, Framing::Chunked, STRICT, [raw.len()]).ok().filter(|(_, _, done, _)| *done);
        prop_assert_eq!(got, naive(&raw, STRICT));
    }

    #[test]
    fn tolerant_where_strict(body in any_body(), damage in damage()) {
        let raw = damaged(body, &damage);
        if let Ok(strict) = decode(&raw, Framing::Chunked, STRICT, [raw.len()]) {
            prop_assert_eq!(Ok(strict), decode(&raw, Framing::Chunked, TOLERANT, [raw.len()]));
        }
    }

    #[test]
    fn cuts_do_not_matter(body in any_body(), damage in damage(), tolerant: bool, mut cuts in prop::collection::vec(0..200usize, 0..6)) {
        let mut raw = damaged(body, &damage);
        raw.extend_from_slice(b"GET /");
        cuts.sort_unstable();
        cuts.retain(|&cut| cut < raw.len());
        cuts.push(raw.len());
        let limits = BodyLimits { tolerant, ..STRICT };
        prop_assert_eq!(decode(&raw, Framing::Chunked, limits, [raw.len()]), decode(&raw, Framing::Chunked, limits, cuts));
    }
}
