//! Requests with random damage: portico may refuse them, but it may not hang, answer garbage, send
//! garbage to the tool, or see a request where a strict reader sees none.
//!
//! The damage is pseudo-random with fixed seeds. `PORTICO_MUTATIONS` sets how many
//! connections each seed tries.

use std::thread;

use portico_tests::origin::Origin;
use portico_tests::portico::{HOST, Portico};
use portico_tests::{client, show, wire};

/// What good requests look like, several kinds of bodies and pipelines.
fn seeds() -> Vec<String> {
    let get = |target: &str| client::get(HOST, target);
    let chunked = |target: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        )
    };
    let inner = get("/smuggled");
    let size = inner.len();
    vec![
        get("/a") + &get("/b"),
        client::post(HOST, "/a", &inner) + &get("/b"),
        chunked("/a", &format!("{size:x}\r\n{inner}\r\n0\r\n\r\n")) + &get("/b"),
        chunked("/a", "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n") + &client::post(HOST, "/b", "x") + &get("/c"),
        get("/a").replace("\r\n\r\n", "\r\nConnection: keep-alive, X-Y\r\nX-Y: z\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc") + &get("/b"),
        format!("GET http://{HOST}/a HTTP/1.1\r\nHost: other\r\nUser-Agent: t\r\nAccept: */*\r\nCookie: a=b; c=d\r\n\r\n") + &get("/b"),
        format!("POST /a HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\nConnection: keep-alive\r\nContent-Length: {size}\r\n\r\n{inner}") + &get("/b"),
    ]
}

/// What is put into a request, or in place of a byte of it.
const DAMAGE: [&str; 34] = [
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\r\n\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "#",
    "%",
    "/",
    "\x0b",
    "\x7f",
    "\u{a0}",
    "0",
    "9",
    "a",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length:+5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "transfer_encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: content-length\r\n",
    "Host: x\r\n",
    "Upgrade: websocket\r\nConnection: upgrade\r\n",
    "Expect: 100-continue\r\n",
    "0\r\n\r\n",
];

/// A small generator of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

fn damaged(numbers: &mut Numbers, good: &str) -> Vec<u8> {
    let mut bytes = good.as_bytes().to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(bytes.len());
        let damage = DAMAGE[numbers.below(DAMAGE.len())].as_bytes();
        // Half of the damage goes where a line begins: there it means most.
        let line = bytes[..at]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        match numbers.below(6) {
            0 => drop(bytes.splice(at..at, damage.iter().copied())),
            1 => drop(bytes.splice(at..=at, damage.iter().copied())),
            2 => drop(bytes.remove(at)),
            3 => bytes[at] = bytes[at].wrapping_add(1 << numbers.below(8)),
            _ => drop(bytes.splice(line..line, damage.iter().copied())),
        }
    }
    bytes
}

/// The targets of the requests that a strict reader finds, until the first thing
/// that it cannot read.
fn strictly_read(mut bytes: &[u8]) -> Vec<String> {
    let mut targets = Vec::new();
    while let Some((target, rest)) = strict_request(bytes) {
        targets.push(target);
        bytes = rest;
    }
    targets
}

fn strict_request(bytes: &[u8]) -> Option<(String, &[u8])> {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (line, mut fields) = wire::parse_head(&bytes[..end]).ok()?;
    let target = line.split(' ').nth(1)?.to_owned();
    let target = match target.strip_prefix("http://") {
        None => target,
        // Absolute-form: what stands behind the authority; an empty path is "/" (RFC 9112, 3.2.1).
        Some(rest) => match rest.find(['/', '?']) {
            None => "/".to_owned(),
            Some(at) if rest[at..].starts_with('/') => rest[at..].to_owned(),
            Some(at) => format!("/{}", &rest[at..]),
        },
    };
    for (_, value) in &mut fields {
        value.make_ascii_lowercase();
    }
    let rest = &bytes[end..];
    let rest = match wire::framing(&fields).ok()? {
        wire::Framing::Unsaid => rest,
        wire::Framing::Length(length) => rest.get(usize::try_from(length).ok()?..)?,
        wire::Framing::Chunked => after_chunks(rest)?,
    };
    Some((target, rest))
}

fn after_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    let line = |bytes: &[u8]| bytes.windows(2).position(|window| window == b"\r\n");
    loop {
        let end = line(bytes)?;
        let digits = bytes[..end].split(|byte| *byte == b';').next()?;
        let digits = std::str::from_utf8(digits)
            .ok()?
            .trim_end_matches([' ', '\t']);
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let end = line(bytes)?;
        bytes = &bytes[end + 2..];
        if end == 0 {
            return Some(bytes);
        }
    }
}

/// Sends the bytes and no more, and reads all answers; what is wrong with them.
fn outcome(portico: &Portico, origin: &Origin, bytes: &[u8], tls: bool) -> Result<(), String> {
    let mut client = portico.try_client(tls).map_err(|error| error.to_string())?;
    let _ = client.wire.send(bytes);
    client.shutdown_write();
    loop {
        match client.try_response(false) {
            Ok(Some(answer)) if answer.status == 101 => return Err("101 from an echo".into()),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) if client::closed(&error) => break,
            Err(error) => return Err(format!("answers: {error}")),
        }
    }
    let mut expected = strictly_read(bytes).into_iter();
    for request in origin.take() {
        if !expected.any(|target| target == request.target) {
            return Err(format!(
                "the tool got {} {}",
                request.method, request.target
            ));
        }
    }
    Ok(())
}

#[test]
fn damaged_requests_do_no_harm() {
    let count = std::env::var("PORTICO_MUTATIONS").map_or(150, |count| count.parse().unwrap());
    // Every thread has an origin and a portico of its own, so that what arrives is
    // known to be its own.
    thread::scope(|scope| {
        for (index, good) in seeds().into_iter().enumerate() {
            scope.spawn(move || {
                let origin = Origin::echo("grid");
                let portico = Portico::before(&origin);
                let mut numbers = Numbers(index as u64 + 1);
                for round in 0..count {
                    let bytes = damaged(&mut numbers, &good);
                    if let Err(wrong) = outcome(&portico, &origin, &bytes, round % 8 == 0) {
                        panic!("{wrong}: seed {index}, round {round}: {}", show(&bytes));
                    }
                }
                let answer = portico.tcp().exchange(client::get(HOST, "/"));
                assert_eq!(answer.status, 200);
            });
        }
    });
}

/// The reader that judges must itself be right.
#[test]
fn the_strict_reader_reads_good_requests() {
    for good in seeds() {
        let targets = strictly_read(good.as_bytes());
        assert!(
            targets.len() >= 2 && targets[0] == "/a" && targets[1] == "/b",
            "{targets:?} in {good}"
        );
    }
}
