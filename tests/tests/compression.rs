//! Compression of answers, as curl and its decoders see it: bodies of every framing, over both
//! protocols, streams that are not held back, variants and what caches are told.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use portico_tests::client::Response;
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico, canned, program};
use portico_tests::{SOON, body_bytes};

const ENCODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// The words that make curl ask for this encoding and decode it, or any other that comes.
fn curl_words(portico: &Portico, protocol: &str, encoding: &str, target: &str) -> Vec<String> {
    let port = portico.https.port();
    let mut words = vec!["--silent", "--show-error", "--no-buffer", "--compressed"];
    words.extend(["--max-time", "60", protocol]);
    let mut words: Vec<String> = words.into_iter().map(String::from).collect();
    words.extend(["--resolve".into(), format!("{HOST}:{port}:127.0.0.1")]);
    words.extend(["--cacert".into(), portico.ca_file().display().to_string()]);
    words.extend(["--header".into(), format!("Accept-Encoding: {encoding}")]);
    words.push(format!("https://{HOST}:{port}{target}"));
    words
}

/// Text, and noise behind it, so that encoders meet what they cannot compress too.
fn text(length: usize) -> Vec<u8> {
    let mut text = b"The quick brown fox jumps over the lazy dog.\n".repeat(length / 60);
    text.extend_from_slice(&body_bytes(length - text.len()));
    text
}

/// `/length/N`, `/chunked/N`, `/close/N`: a text of N bytes in that framing.
fn framings(connection: &mut Connection) {
    while let Some(request) = connection.read_request() {
        let mut words = request.target.split('/').skip(1);
        let (framing, length) = (words.next(), words.next());
        let body = text(length.unwrap().parse().unwrap());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nETag: \"x\"\r\n";
        match framing.unwrap() {
            "length" => {
                connection.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()));
                connection.send(body);
            }
            "chunked" => {
                connection.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                for piece in body.chunks(10_000) {
                    connection.send(format!("{:x}\r\n", piece.len()));
                    connection.send(piece);
                    connection.send("\r\n");
                }
                connection.send("0\r\n\r\n");
            }
            _ => {
                connection.send(format!("{head}\r\n"));
                connection.send(body);
                return;
            }
        }
    }
}

#[test]
fn curl_decodes_what_it_asked_for() {
    let origin = Origin::scripted("grid", framings);
    let portico = Portico::before(&origin);
    for protocol in ["--http1.1", "--http2"] {
        for encoding in ENCODINGS {
            for framing in ["length", "chunked", "close"] {
                for length in [1024, 16_384, 1_000_000] {
                    let target = format!("/{framing}/{length}");
                    let head = portico.folder.path().join("head");
                    let head_file = head.display().to_string();
                    let mut words = vec!["--dump-header".to_owned(), head_file];
                    words.extend(curl_words(&portico, protocol, encoding, &target));
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let output = program("curl", &words).stdout;
                    let case = format!("{protocol} {encoding} {target}");
                    assert!(output == text(length), "{case}: {} bytes", output.len());
                    let head = std::fs::read_to_string(&head).unwrap().to_lowercase();
                    for line in [
                        &format!("content-encoding: {encoding}\r\n"),
                        "vary: accept-encoding\r\n",
                        "etag: w/\"x\"\r\n",
                    ] {
                        assert!(head.contains(line), "{case}: {head}");
                    }
                    assert!(!head.contains("content-length"), "{case}: {head}");
                }
            }
        }
    }
}

/// Each line is decoded by the client before the tool says the next.
#[test]
fn a_stream_is_not_held_back() {
    let (seen, has_seen) = mpsc::channel();
    let has_seen = Mutex::new(has_seen);
    let origin = Origin::scripted("grid", move |connection| {
        while connection.read_request().is_some() {
            connection.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            for _ in 0..3 {
                connection.send("5\r\nline\n\r\n");
                has_seen.lock().unwrap().recv_timeout(SOON).unwrap();
            }
            connection.send("0\r\n\r\n");
        }
    });
    let portico = Portico::before(&origin);
    for protocol in ["--http1.1", "--http2"] {
        for encoding in ENCODINGS {
            let mut curl = start(&curl_words(&portico, protocol, encoding, "/"));
            let stdout = curl.stdout.as_mut().unwrap();
            let mut line = [0; 5];
            for _ in 0..3 {
                stdout.read_exact(&mut line).unwrap();
                assert_eq!(&line, b"line\n", "{protocol} {encoding}");
                seen.send(()).unwrap();
            }
            assert!(curl.wait().unwrap().success(), "{protocol} {encoding}");
        }
    }
}

fn start(words: &[String]) -> Child {
    let mut curl = Command::new("curl");
    curl.args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    curl.spawn().expect("curl starts")
}

/// A tool that is always ahead of the encoder, for longer than `timeouts.response`, and pauses then:
/// only the pause counts as its silence.
#[test]
fn what_was_never_waited_for_is_no_silence() {
    let origin = Origin::scripted("grid", |connection| {
        if connection.read_request().is_some() {
            let mut first = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n".to_vec();
            // Digits: the slowest text there is.
            let mut piece = body_bytes(1 << 20);
            for byte in &mut piece {
                *byte = b'0' + *byte % 10;
            }
            first.extend(&piece);
            connection.send(&first);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(5) {
                connection.send(&piece);
            }
            std::thread::sleep(Duration::from_secs(2));
            connection.send("the end");
        }
    });
    let builder = Builder::new()
        .with("[server]\nworkers = 1\n[timeouts]\nresponse = '4s'\n[compression]\nlevel.gzip = 9");
    let portico = builder.route("grid", &origin.url()).start();
    let mut curl = start(&curl_words(&portico, "--http1.1", "gzip", "/"));
    let mut stdout = curl.stdout.take().unwrap();
    let (mut chunk, mut last) = (vec![0; 1 << 16], Vec::new());
    loop {
        match stdout.read(&mut chunk).unwrap() {
            0 => break,
            n => last = [last, chunk[..n].to_vec()].concat(),
        }
        last = last.split_off(last.len().saturating_sub(7));
    }
    assert_eq!(String::from_utf8_lossy(&last), "the end");
    assert!(curl.wait().unwrap().success());
}

/// A part is never taken for the whole, though each part could be decoded.
#[test]
fn a_body_that_breaks_off_is_an_error() {
    let (_origin, portico) = canned_and_gone(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\nonly this",
    );
    for protocol in ["--http1.1", "--http2"] {
        for encoding in ENCODINGS {
            let mut curl = start(&curl_words(&portico, protocol, encoding, "/"));
            let mut output = String::new();
            let stdout = curl.stdout.as_mut().unwrap();
            stdout.read_to_string(&mut output).unwrap();
            let status = curl.wait().unwrap();
            assert!(!status.success(), "{protocol} {encoding}: {output:?}");
        }
    }
}

fn canned_and_gone(answer: &'static str) -> (Origin, Portico) {
    let origin = Origin::scripted("grid", move |connection| {
        if connection.read_request().is_some() {
            connection.send(answer);
        }
    });
    let portico = Portico::before(&origin);
    (origin, portico)
}

fn request(method: &str, more: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{more}\r\n")
}

/// The whole of what depends on encodings in an answer's head.
fn variant(response: &Response) -> [Option<&str>; 6] {
    let names = "content-encoding vary etag content-length accept-ranges repr-digest";
    let mut names = names.split(' ');
    std::array::from_fn(|_| response.field(names.next().unwrap()))
}

#[test]
fn variants_of_a_resource() {
    static PAGE: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nVary: Cookie\r\nETag: \"x\"\r\n\
        Content-Length: 1024\r\nAccept-Ranges: bytes\r\nRepr-Digest: sha-256=:AA==:\r\n\r\n";
    let page: &[u8] = [PAGE, &[b'a'; 1024]].concat().leak();
    let (_origin, portico) = canned(page);
    let mut client = portico.tcp();
    let vary = Some("Cookie, Accept-Encoding");
    let plain = [
        None,
        vary,
        Some("\"x\""),
        Some("1024"),
        Some("bytes"),
        Some("sha-256=:AA==:"),
    ];
    for accept in [
        "",
        "Accept-Encoding: gzip;q=0\r\n",
        "Accept-Encoding: deflate\r\n",
    ] {
        let answer = client.exchange(request("GET", accept));
        assert_eq!(variant(&answer), plain, "{accept:?}");
    }
    for encoding in ENCODINGS {
        let accept = format!("Accept-Encoding: {encoding}\r\n");
        let expected = [Some(encoding), vary, Some("W/\"x\""), None, None, None];
        let answer = client.exchange(request("GET", &accept));
        assert_eq!(variant(&answer), expected);
        assert!(answer.chunked && answer.body.length < 200, "{encoding}");
    }
    let old =
        format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_eq!(variant(&client.exchange(old)), plain);
}

#[test]
fn head_and_304_are_of_the_same_variant() {
    let origin = Origin::scripted("grid", |connection| {
        while let Some(request) = connection.read_request() {
            connection.send(match request.method.as_str() {
                "HEAD" => "HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nETag: \"x\"\r\nContent-Length: 9999\r\n\r\n",
                _ => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            });
        }
    });
    let portico = Portico::before(&origin);
    let mut client = portico.tcp();
    let vary = Some("Accept-Encoding");
    let accept = "Accept-Encoding: br\r\n";

    client.send(request("HEAD", accept));
    let weak = Some("W/\"x\"");
    let head = client.head_response();
    assert_eq!(variant(&head), [Some("br"), vary, weak, None, None, None]);
    client.send(request("HEAD", ""));
    let strong = Some("\"x\"");
    let head = client.head_response();
    let length = Some("9999");
    assert_eq!(variant(&head), [None, vary, strong, length, None, None]);

    // As the client has it, whatever it would get now.
    for (tag, accept) in [(weak, accept), (weak, ""), (strong, accept), (strong, "")] {
        let more = format!("{accept}If-None-Match: {}\r\n", tag.unwrap());
        let not_modified = client.exchange(request("GET", &more));
        assert_eq!(variant(&not_modified), [None, vary, tag, None, None, None]);
    }
}

#[test]
fn tools_and_the_configuration_turn_it_off() {
    let origin = Origin::echo("grid");
    let check = |toml: &str, expected: Option<&str>| {
        let builder = Builder::new().route("grid", &origin.url()).with(toml);
        let portico = builder.start();
        let mut client = portico.tcp();
        let request = request("GET", "Accept-Encoding: gzip, br, zstd\r\n");
        let answer = client.exchange(request.replacen(" / ", " /json ", 1));
        assert_eq!(answer.field("content-encoding"), expected, "{toml}");
        assert_eq!(answer.field("vary").is_some(), expected.is_some(), "{toml}");
    };
    check("", Some("zstd"));
    check("[compression]\nalgorithms = ['gzip', 'zstd']", Some("gzip"));
    check("[compression]\nalgorithms = []", None);
    check("[compression]\noff_for = ['grid']", None);
    check("[compression]\nmin_size = '5001B'", None);
    check("[compression]\ntypes = ['text/html']", None);
}
