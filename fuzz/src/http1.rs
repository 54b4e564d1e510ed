//! Checks of the HTTP/1 codec: the same verdict for every cut of the input, nothing unsafe let
//! through, and agreement with httparse and hyper on what both accept.

use portico_http1::*;

#[path = "../../proxy/src/http1/oracle.rs"]
mod oracle;

const LIMITS: HeadLimits = HeadLimits {
    head: 256,
    target: 64,
    fields: 16,
};

/// The input is tried with each cut in two up to this length; longer ones with some.
const ALL_CUTS: usize = 300;

/// Each way of cutting that is tried: the lengths that are there one after the other.
fn cuts(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let step = len / ALL_CUTS + 1;
    let two = (0..len).step_by(step).map(move |cut| vec![cut, len]);
    two.chain([(0..=len).collect()])
}

fn safe_field(buf: &[u8], field: &HeaderField) {
    let (name, value) = (field.name.of(buf), field.value.of(buf));
    assert!(!name.is_empty());
    assert!(
        name.iter()
            .all(|&byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
    );
    safe_text(value);
}

fn safe_text(text: &[u8]) {
    assert!(
        text.iter()
            .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
    );
}

fn read_request(raw: &[u8], cuts: &[usize]) -> Result<Option<RequestHead>, RequestError> {
    let mut parser = RequestParser::new(LIMITS);
    for &cut in cuts {
        if parser.parse(&raw[..cut])? == Parsed::Complete {
            return Ok(Some(parser.head().clone()));
        }
    }
    Ok(None)
}

/// Any bytes as a request and what follows it.
pub fn request(data: &[u8]) {
    let whole = read_request(data, &[data.len()]);
    for cuts in cuts(data.len()) {
        assert_eq!(whole, read_request(data, &cuts), "{cuts:?}");
    }
    if let Ok(Some(head)) = whole {
        assert!(head.len <= LIMITS.largest_head().min(data.len()));
        assert!(data[..head.len].ends_with(b"\r\n\r\n") && !data[..head.len].contains(&0));
        head.fields.iter().for_each(|field| safe_field(data, field));
        let target = head.target.of(data);
        assert!(
            target
                .iter()
                .all(|&byte| byte > b' ' && byte != 0x7f && byte != b'#')
        );
    }
    oracle::httparse_request(data);
    oracle::hyper_request(data);
}

type Answer = (ResponseHead, Vec<u8>);

fn read_response(
    raw: &[u8],
    request: RequestKind,
    cuts: &[usize],
) -> Result<Option<Answer>, ResponseError> {
    let mut parser = ResponseParser::new(LIMITS);
    let mut buf = Vec::new();
    for &cut in cuts {
        buf.extend_from_slice(&raw[buf.len()..cut]);
        if parser.parse(&mut buf, request)? == Parsed::Complete {
            let head = parser.head().clone();
            assert_eq!(buf[head.len..], raw[head.len..cut], "touched the body");
            buf.truncate(head.len);
            return Ok(Some((head, buf)));
        }
    }
    Ok(None)
}

/// A byte that says what was asked, then any bytes as the answer.
pub fn response(data: &[u8]) {
    let Some((&kind, raw)) = data.split_first() else {
        return;
    };
    let kind = RequestKind {
        head: kind & 1 != 0,
        upgrade: kind & 2 != 0,
    };
    let whole = read_response(raw, kind, &[raw.len()]);
    for cuts in cuts(raw.len()) {
        assert_eq!(whole, read_response(raw, kind, &cuts), "{cuts:?}");
    }
    if let Ok(Some((head, buf))) = whole {
        assert!(head.len <= LIMITS.head && (100..600).contains(&head.status));
        safe_text(head.reason.of(&buf));
        head.fields.iter().for_each(|field| safe_field(&buf, field));
    }
    oracle::hyper_response(raw, kind.head);
}

type Body = (Vec<u8>, Vec<u8>, bool, usize);

fn read_body(
    raw: &[u8],
    framing: Framing,
    limits: BodyLimits,
    cuts: &[usize],
) -> Result<Body, BodyError> {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut data, mut consumed) = (Vec::new(), 0);
    for &cut in cuts {
        if decoder.is_done() {
            break;
        }
        let mut buf = raw[consumed..cut].to_vec();
        let decoded = decoder.decode(&mut buf)?;
        assert!(decoded.data <= decoded.consumed);
        assert!(decoded.done || decoded.consumed == buf.len());
        assert_eq!(
            buf[decoded.consumed..],
            raw[consumed + decoded.consumed..cut],
            "touched what follows"
        );
        data.extend_from_slice(&buf[..decoded.data]);
        consumed += decoded.consumed;
    }
    Ok((
        data,
        decoder.trailers().to_vec(),
        decoder.is_done(),
        consumed,
    ))
}

/// A byte that chooses framing and tolerance, then any bytes as the body.
pub fn body(data: &[u8]) {
    let Some((&kind, raw)) = data.split_first() else {
        return;
    };
    let framing = match kind & 7 {
        0 => Framing::None,
        1 => Framing::Length(u64::from(kind >> 4)),
        2 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let strict = BodyLimits {
        trailers: 64,
        extension: 100,
        tolerant: false,
    };
    let tolerant = BodyLimits {
        tolerant: true,
        ..strict
    };
    let readings = [strict, tolerant].map(|limits| {
        let whole = read_body(raw, framing, limits, &[raw.len()]);
        for cuts in cuts(raw.len()) {
            assert_eq!(whole, read_body(raw, framing, limits, &cuts), "{cuts:?}");
        }
        whole
    });
    if let [Ok(strict), tolerant] = &readings {
        // Tolerance mends what is broken and reads everything else alike.
        assert_eq!(Ok(strict), tolerant.as_ref());
    }
    for (_, trailers, _, _) in readings.into_iter().flatten() {
        for line in trailers.split_inclusive(|&byte| byte == b'\n') {
            safe_text(line.strip_suffix(b"\r\n").expect("a whole line"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::run;

    #[test]
    fn request() {
        let seeds: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\nPOST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            b"PUT http://a.b:80/x HTTP/1.1\r\nhost: c\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"GET / HTTP/1.0\r\nConnection: keep-alive, X-A\r\nX-A: \t b \r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\nHost : a\r\n folded\r\n\0\r\n",
        ];
        run(super::request, seeds, 20_000);
    }

    #[test]
    fn response() {
        let seeds: &[&[u8]] = &[
            b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"\0HTTP/1.1 200 OK\nA : b\n c\r\n\td\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
            b"\0HTTP/1.0 200\r\nbroken\r\nA: \0\r\n\r\nhello",
            b"\x01HTTP/1.1 304 Not Modified\r\nContent-Length: 5, 5\r\nConnection: close\r\n\r\n",
            b"\x02HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n",
        ];
        run(super::response, seeds, 20_000);
    }

    #[test]
    fn body() {
        let seeds: &[&[u8]] = &[
            b"\x075\r\nhello\r\n0\r\n\r\nnext",
            b"\x07A;x=\"y\"\r\n0123456789\r\n00 ; z\r\nGrpc-Status: 0\r\nHost: a\r\n\r\n",
            b"\x073\nabc\n0\nA : b\n c\nbroken\n\n",
            b"\x077fffffffffffffff\r\nabc",
            b"\x51hello, world",
            b"\x02hello",
        ];
        run(super::body, seeds, 20_000);
    }
}
