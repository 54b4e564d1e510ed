//! Programs that people use, over HTTP/2: curl, nghttp, h2load, Chromium, grpcio.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portico_tests::origin::{Connection, Origin, Received};
use portico_tests::portico::{Builder, HOST, Portico, Running, canned, collect, echo, program};
use portico_tests::redis::Redis;
use portico_tests::{SOON, body_bytes, eventually, free_address, signal, websocket};
use serde_json::Value;

// --- curl

/// Runs curl over HTTP/2 against the TLS listener, verifying the certificate.
#[track_caller]
fn curl(portico: &Portico, words: &[&str], target: &str) -> String {
    let port = portico.https.port();
    let resolve = format!("{HOST}:{port}:127.0.0.1");
    let (ca, url) = (portico.ca_file(), format!("https://{HOST}:{port}{target}"));
    let mut all = vec!["--http2", "--silent", "--show-error", "--max-time", "60"];
    all.extend(["--resolve", &resolve, "--cacert", ca.to_str().unwrap()]);
    all.extend(words);
    all.push(&url);
    String::from_utf8_lossy(&program("curl", &all).stdout).into_owned()
}

#[test]
fn curl_gets_posts_and_heads() {
    let (origin, portico) = echo();
    let answer = curl(&portico, &["--include"], "/x?y=z");
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.contains("\"target\": \"/x?y=z\""), "{answer}");
    assert!(
        origin
            .take_one()
            .field("user-agent")
            .unwrap()
            .starts_with("curl/")
    );
    curl(&portico, &["--data", "a=b"], "/form");
    assert_eq!(origin.take_one().body.text(), "a=b");
    let head = curl(&portico, &["--head"], "/bytes/1000");
    assert!(
        head.starts_with("HTTP/2 200") && head.contains("content-length: 1000"),
        "{head}"
    );
    origin.take();
    let file = portico.folder.path().join("body");
    std::fs::write(&file, body_bytes(3_000_000)).unwrap();
    let upload = ["--upload-file", file.to_str().unwrap()];
    for more in [
        &[][..],
        &[
            "--header",
            "Expect: 100-continue",
            "--expect100-timeout",
            "30",
        ],
    ] {
        let answer = curl(&portico, &[&upload[..], more].concat(), "/up");
        assert!(answer.contains("\"body_length\": 3000000"), "{answer}");
        assert_eq!(origin.take_one().field("content-length"), Some("3000000"));
    }
    let size = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_version} %{http_code} %{size_download}",
    ];
    assert_eq!(curl(&portico, &size, "/chunked/1234567"), "2 200 1234567");
}

#[test]
fn curl_shows_trailers() {
    let (_origin, portico) = canned(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 12\r\n\r\n",
    );
    let answer = curl(
        &portico,
        &["--dump-header", "-", "--header", "TE: trailers"],
        "/",
    );
    assert!(answer.contains("x-sum: 12"), "{answer}");
}

// --- nghttp, h2load

/// The authority in place of the address, for the programs of nghttp2.
fn authority() -> String {
    format!(":authority: {HOST}")
}

#[test]
fn nghttp_gets_and_posts() {
    let (origin, portico) = echo();
    let url = |target: &str| format!("https://{}{target}", portico.https);
    let run = |words: &[&str]| {
        let all = [
            &[
                "--verbose",
                "--no-verify-peer",
                "--timeout=20",
                "-H",
                &authority(),
            ],
            words,
        ];
        let output = program("nghttp", &all.concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = run(&[&url("/x")]);
    assert!(
        said.contains(":status: 200") && !said.contains("RST_STREAM"),
        "{said}"
    );
    assert_eq!(origin.take_one().target, "/x");
    let file = portico.folder.path().join("body");
    std::fs::write(&file, body_bytes(200_000)).unwrap();
    let data = format!("--data={}", file.to_str().unwrap());
    let said = run(&[&data, "--trailer=x-t: 1", &url("/up")]);
    assert!(said.contains(":status: 200"), "{said}");
    // The trailer has no place in HTTP/1.1 behind a body whose length is told.
    assert_eq!(origin.take_one().body.length, 200_000);
    // Fifty at once, in fields of one table.
    let said = run(&["--null-out", "--multiply=50", &url("/bytes/100000")]);
    assert_eq!(said.matches(":status: 200").count(), 50);
}

#[test]
fn h2load_fails_nothing() {
    let (_origin, portico) = echo();
    let url = format!("https://{}/bytes/1000", portico.https);
    for (connections, streams, requests) in [
        ("1", "1", "2000"),
        ("1", "100", "2000"),
        ("2", "100", "2000"),
    ] {
        let words = [
            "-n",
            requests,
            "-c",
            connections,
            "-m",
            streams,
            "-H",
            &authority(),
            &url,
        ];
        let output = program("h2load", &words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let right =
            format!("{requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(
            said.contains(&right) && said.contains(&format!("{requests} 2xx")),
            "{said}"
        );
    }
}

// --- Chromium

const PAGE: &str = r#"<!doctype html><title>page</title><script>var loaded = 0;</script>
SCRIPTS
<script>
const report = what => fetch("/report", {method: "POST", body: JSON.stringify(what)});
onerror = (...what) => report({error: String(what)});
onload = () => {
    const entries = performance.getEntriesByType("resource").filter(e => e.name.includes("/asset/"));
    const page = performance.getEntriesByType("navigation")[0].nextHopProtocol;
    const what = {
        loaded,
        entries: entries.length,
        protocols: [page, ...new Set(entries.map(e => e.nextHopProtocol))],
    };
    const socket = new WebSocket(`wss://${location.host}/chat`);
    socket.onopen = () => socket.send("hello");
    socket.onmessage = message => report({...what, echo: message.data});
    socket.onerror = () => report({...what, echo: "error"});
};
</script>"#;

/// The page, its assets, the WebSocket, and where the page reports to.
fn site(connection: &mut Connection) {
    while let Some(request) = connection.read_request() {
        match &*request.target {
            "/chat" => return websocket::serve(connection, &request),
            "/page" => {
                let scripts: String = (0..200)
                    .map(|i| format!("<script src=/asset/{i}></script>"))
                    .collect();
                send(connection, "text/html", &PAGE.replace("SCRIPTS", &scripts));
            }
            target if target.starts_with("/asset/") => {
                let script = format!("loaded += 1; /* {} */", "x".repeat(2000));
                send(connection, "text/javascript", &script);
            }
            _ => send(connection, "text/plain", "ok"),
        }
    }
}

fn send(connection: &mut Connection, kind: &str, body: &str) {
    let length = body.len();
    connection.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
}

#[test]
fn chromium_loads_a_page_and_a_websocket_over_one_connection() {
    let origin = Origin::scripted("page", site);
    let portico = Portico::before(&origin);
    let folder = portico.folder.path();
    let netlog = folder.join("netlog.json");
    let mut chromium = Running(
        Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-extensions",
            ])
            .arg("--ignore-certificate-errors")
            .arg(format!(
                "--host-resolver-rules=MAP *.toolforge.org {}",
                portico.https
            ))
            .arg(format!(
                "--user-data-dir={}",
                folder.join("profile").display()
            ))
            .arg(format!("--log-net-log={}", netlog.display()))
            .arg(format!("https://{HOST}/page"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chromium starts; scripts/test installs it"),
    );
    let said = collect(chromium.0.stderr.take().unwrap());
    let mut seen: Vec<Received> = Vec::new();
    let report = eventually("the page reports", 2 * SOON, || {
        seen.extend(origin.take());
        let report = seen.iter().find(|request| request.target == "/report")?;
        Some(report.body.text())
    });
    let found: Value = serde_json::from_str(&report).unwrap();
    let expected = serde_json::json!({
        "loaded": 200, "entries": 200, "protocols": ["h2", "h2"], "echo": "hello"
    });
    assert_eq!(found, expected, "{}", said.lock().unwrap());
    let assets = seen
        .iter()
        .filter(|request| request.target.starts_with("/asset/"));
    assert_eq!(assets.count(), 200);
    // The log is written behind the events.
    eventually("the log has the WebSocket", SOON, || {
        let log = std::fs::read_to_string(&netlog).ok()?;
        log.contains(WEBSOCKET).then_some(())
    });
    signal(chromium.0.id(), "TERM");
    assert!(portico_tests::portico::wait(&mut chromium.0, SOON).is_some());
    let (sessions, sockets) = sessions(&netlog);
    assert_eq!(sessions, 1, "HTTP/2 connections to {HOST}");
    assert_eq!(sockets, 1, "streams with :protocol websocket");
}

/// What opens a WebSocket in a stream (RFC 8441, 4), as Chromium's log has it.
const WEBSOCKET: &str = "\":protocol: websocket\"";

/// Of a log of Chromium's: HTTP/2 connections to the tool, and WebSockets in streams. An event is a
/// line; the end may be missing.
fn sessions(netlog: &Path) -> (usize, usize) {
    let text = std::fs::read_to_string(netlog).unwrap();
    let mut lines = text.lines().map(|line| line.trim_end_matches(','));
    let constants = lines
        .next()
        .and_then(|line| line.strip_prefix("{\"constants\":"));
    let constants: Value = serde_json::from_str(constants.unwrap()).unwrap();
    let number = |name: &str| constants["logEventTypes"][name].as_u64().unwrap();
    let (session, headers) = (
        number("HTTP2_SESSION"),
        number("HTTP2_SESSION_SEND_HEADERS"),
    );
    let (mut begun, mut sockets) = (0, 0);
    for event in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let host = event["params"]["host"].as_str().unwrap_or_default();
        begun += usize::from(event["type"] == session && host.starts_with(HOST));
        sockets += usize::from(event["type"] == headers && event.to_string().contains(WEBSOCKET));
    }
    (begun, sockets)
}

// --- gRPC

/// A Python with grpcio: the one that scripts/test makes, or any.
fn python_with_grpc() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let candidates = [
        target.join("python/bin/python3"),
        "python3".into(),
        "/usr/bin/python3".into(),
    ];
    let has = |name: &PathBuf| {
        let probe = Command::new(name)
            .args(["-c", "import grpc"])
            .stderr(Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success())
    };
    let found = candidates.into_iter().find(has);
    found.expect("no python3 with grpcio; scripts/test makes one in target/python")
}

const SERVER: &str = r#"
import sys, threading, time
from concurrent import futures
import grpc

cancelled = threading.Event()

def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "at the end"), ("x-bin", b"\x00\xff")))
    context.send_initial_metadata((("x-initial", dict(context.invocation_metadata()).get("x-mine", "")),))
    return request[::-1]

def refuse(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100% \u00e4\n")

def sleep(request, context):
    context.add_callback(cancelled.set)
    time.sleep(3)
    return b"late"

def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"

def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()

def half(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()

def chat(requests, context):
    for request in requests:
        yield b"re: " + request

methods = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Half": grpc.unary_stream_rpc_method_handler(half),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Test", methods),))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import concurrent.futures, queue, sys, time
import grpc

address, ca = sys.argv[1], open(sys.argv[2], "rb").read()
channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=[
    ("grpc.ssl_target_name_override", "grid.toolforge.org"),
    ("grpc.default_authority", "grid.toolforge.org"),
    ("grpc.max_receive_message_length", -1),
])

def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")

unary = channel.unary_unary("/t.Test/Unary")
answer, call = unary.with_call(b"abc", metadata=(("x-mine", "yes"),), timeout=20)
assert answer == b"cba", answer
assert ("x-initial", "yes") in list(call.initial_metadata()), call.initial_metadata()
trailers = dict(call.trailing_metadata())
assert trailers["x-trailer"] == "at the end" and trailers["x-bin"] == b"\x00\xff", trailers
assert call.code() == grpc.StatusCode.OK
print("unary")

large = bytes(range(256)) * 16384
assert unary(large, timeout=20) == large[::-1]
assert unary(b"", timeout=20) == b""
print("large and empty messages")

error = failure(lambda: channel.unary_unary("/t.Test/Refuse")(b"", timeout=20))
assert error.code() == grpc.StatusCode.NOT_FOUND, error
assert error.details() == "no such thing: 100% \u00e4\n", error.details()
error = failure(lambda: channel.unary_unary("/t.Test/Nothing")(b"", timeout=20))
assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
print("statuses")

numbers = list(channel.unary_stream("/t.Test/Count")(b"1000", timeout=20))
assert numbers == [str(n).encode() for n in range(1000)], len(numbers)
stream = channel.unary_stream("/t.Test/Half")(b"", timeout=20)
assert next(stream) == b"one"
error = failure(lambda: next(stream))
assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough"), error
print("server streaming")

assert channel.stream_unary("/t.Test/Total")((b"x" * 1000 for _ in range(500)), timeout=20) == b"500000"
print("client streaming")

# Each message waits for the answer to the one before: nothing may be held back.
outgoing = queue.Queue()
chat = channel.stream_stream("/t.Test/Chat")(iter(outgoing.get, None), timeout=40)
for turn in range(200):
    outgoing.put(b"%d" % turn)
    assert next(chat) == b"re: %d" % turn
outgoing.put(None)
assert list(chat) == [] and chat.code() == grpc.StatusCode.OK
print("bidirectional streaming")

start = time.monotonic()
error = failure(lambda: channel.unary_unary("/t.Test/Sleep")(b"", timeout=0.5))
assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - start < 2.5, error
assert channel.unary_unary("/t.Test/WasCancelled")(b"", timeout=20) == b"yes"
print("deadline")

stream = channel.unary_stream("/t.Test/Count")(b"100000000", timeout=20)
next(stream)
stream.cancel()
assert unary(b"on", timeout=20) == b"no"
print("cancel")

with concurrent.futures.ThreadPoolExecutor(20) as pool:
    answers = list(pool.map(lambda n: unary(b"%d" % n, timeout=20), range(500)))
assert answers == [(b"%d" % n)[::-1] for n in range(500)]
print("at once")
"#;

#[test]
fn grpc_works_end_to_end() {
    let python = python_with_grpc();
    let python = python.to_str().unwrap();
    let address = free_address();
    let server = Running(
        Command::new(python)
            .args(["-c", SERVER, &address.to_string()])
            .spawn()
            .unwrap(),
    );
    eventually("the server listens", SOON, || {
        std::net::TcpStream::connect(address).ok()
    });
    let redis = Redis::start();
    redis.route("grid", ".*", &format!("h2c://{address}"));
    let portico = Builder::new().registry(&redis).start();
    let ca = portico.ca_file();
    let https = portico.https.to_string();
    let output = program(python, &["-c", CLIENT, &https, ca.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.ends_with("at once\n"), "{said}");
    // A backend that is gone is a status that clients understand, soon.
    drop(server);
    let code = CLIENT.split("answer, call = ").next().unwrap().to_owned()
        + "error = failure(lambda: unary(b'', timeout=20))\n\
           assert error.code() == grpc.StatusCode.UNAVAILABLE, error\n";
    program(python, &["-c", &code, &https, ca.to_str().unwrap()]);
}
