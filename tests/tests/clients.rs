//! Programs that people use: curl, Python's http.client and websockets.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, Running, program};
use portico_tests::{SOON, body_bytes, eventually, free_address, show};

fn site() -> (Origin, Portico) {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    (origin, portico)
}

/// Runs curl against the TLS listener, verifying the certificate, with these words and then
/// the URL of this target.
#[track_caller]
fn curl(portico: &Portico, words: &[&str], target: &str) -> String {
    let port = portico.https.port();
    let resolve = format!("{HOST}:{port}:127.0.0.1");
    let (ca, url) = (portico.ca_file(), format!("https://{HOST}:{port}{target}"));
    let mut all = vec![
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        // HTTP/2 has tests of its own.
        "--http1.1",
        "--resolve",
        &resolve,
        "--cacert",
        ca.to_str().unwrap(),
    ];
    all.extend(words);
    all.push(&url);
    String::from_utf8_lossy(&program("curl", &all).stdout).into_owned()
}

#[test]
fn curl_gets_and_posts() {
    let (origin, portico) = site();
    let answer = curl(&portico, &["--include"], "/x?y=z");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"backend\": \"grid\""),
        "{answer}"
    );
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
        head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length: 1000"),
        "{head}"
    );
    assert_eq!(
        curl(
            &portico,
            &[
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code} %{size_download}"
            ],
            "/chunked/123456"
        ),
        "200 123456"
    );
    assert_eq!(
        curl(
            &portico,
            &[
                "--location",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--user-agent",
                ""
            ],
            "/"
        ),
        "403"
    );
}

#[test]
fn curl_uploads_with_100_continue_and_in_chunks() {
    let (origin, portico) = site();
    let file = portico.folder.path().join("body");
    std::fs::write(&file, body_bytes(3_000_000)).unwrap();
    let name = file.to_str().unwrap();
    for words in [
        &["--upload-file", name][..],
        &[
            "--upload-file",
            name,
            "--header",
            "Transfer-Encoding: chunked",
        ],
        &[
            "--upload-file",
            name,
            "--header",
            "Expect: 100-continue",
            "--expect100-timeout",
            "30",
        ],
        &["--upload-file", name, "--http1.0"],
    ] {
        let answer = curl(&portico, words, "/up");
        assert!(
            answer.contains("\"body_length\": 3000000"),
            "{words:?}: {answer}"
        );
        origin.take();
    }
}

#[test]
fn curl_speaks_http_1_0() {
    let (origin, portico) = site();
    let answer = curl(&portico, &["--http1.0", "--include"], "/chunked/5000");
    assert!(
        !answer.to_lowercase().contains("transfer-encoding"),
        "{}",
        show(answer.as_bytes())
    );
    assert!(answer.len() > 5000, "{}", answer.len());
    assert_eq!(origin.take_one().version, "HTTP/1.1");
}

#[test]
fn curl_reuses_its_connection() {
    let (_origin, portico) = site();
    let second = format!("https://{HOST}:{}/b", portico.https.port());
    let counts = curl(
        &portico,
        &[
            "--write-out",
            "%{num_connects} ",
            "--output",
            "/dev/null",
            "--output",
            "/dev/null",
            &second,
        ],
        "/a",
    );
    assert_eq!(counts.trim(), "1 0");
}

#[test]
fn curl_with_tls_1_2_and_a_wrong_name() {
    let (_origin, portico) = site();
    let answer = curl(&portico, &["--tls-max", "1.2", "--include"], "/");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Runs a Python program that gets the HTTPS port and the CA file as arguments.
#[track_caller]
fn python(interpreter: &str, code: &str, port: u16, ca: &Path) -> Output {
    program(
        interpreter,
        &["-c", code, &port.to_string(), ca.to_str().unwrap()],
    )
}

#[test]
fn pythons_http_client_keeps_its_connection() {
    let (origin, portico) = site();
    let code = r#"
import http.client, json, socket, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
class Connection(http.client.HTTPSConnection):
    def connect(self):
        plain = socket.create_connection(("127.0.0.1", self.port))
        self.sock = context.wrap_socket(plain, server_hostname=self.host)
connection = Connection("grid.toolforge.org", port)
agent = {"User-Agent": "python"}
sockets = set()
for method, target, body in [("GET", "/a", None), ("POST", "/b", b"x" * 100000), ("PUT", "/c", iter([b"ab", b"cd"])),
                             ("HEAD", "/d", None), ("DELETE", "/e", None), ("GET", "/chunked/9999", None)]:
    connection.request(method, target, body=body, headers=agent, encode_chunked=not isinstance(body, (bytes, type(None))))
    sockets.add(id(connection.sock))
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, (method, answer.status, data)
    if target == "/c":
        assert json.loads(data)["body_length"] == 4, data
    if target == "/chunked/9999":
        assert len(data) == 9999
assert len(sockets) == 1, "reconnected"
connection.request("GET", "/status/404", headers=agent)
answer = connection.getresponse()
assert answer.status == 404 and answer.read() == b"status 404\n"
"#;
    python("python3", code, portico.https.port(), &portico.ca_file());
    assert_eq!(origin.take().len(), 7);
}

/// A Python that has the `websockets` package: Debian's has, another one first in the PATH may not.
fn python_with_websockets() -> &'static str {
    let has = |name: &&&str| {
        let probe = Command::new(name)
            .args(["-c", "import websockets"])
            .stderr(Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"]
        .iter()
        .find(has)
        .copied()
        .expect("no python3 with websockets; install it: apt-get install python3-websockets")
}

#[test]
fn a_real_websocket_client_reaches_a_real_websocket_server() {
    let interpreter = python_with_websockets();
    let address: SocketAddr = free_address();
    let server = r#"
import asyncio, sys, websockets
async def echo(connection, path=None):
    async for message in connection:
        await connection.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None):
        await asyncio.Future()
asyncio.run(main())
"#;
    let port = address.port().to_string();
    let _serving = Running(
        Command::new(interpreter)
            .args(["-c", server, &port])
            .spawn()
            .unwrap(),
    );
    eventually("the server listens", SOON, || {
        std::net::TcpStream::connect(address).ok()
    });
    let portico = Builder::new()
        .route("grid", &format!("http://{address}"))
        .start();
    let client = r#"
import asyncio, ssl, sys, websockets
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
async def main():
    url = f"wss://grid.toolforge.org:{port}/chat"
    async with websockets.connect(url, ssl=context, server_hostname="grid.toolforge.org", host="127.0.0.1", port=port, max_size=None) as connection:
        for message in ["hello", b"\x00\xff", "x" * 1000000]:
            await connection.send(message)
            assert await connection.recv() == message
        pong = await connection.ping()
        await asyncio.wait_for(pong, 20)
    assert connection.close_code == 1000, connection.close_code
asyncio.run(main())
"#;
    python(
        interpreter,
        client,
        portico.https.port(),
        &portico.ca_file(),
    );
}
