//! The access log, seen from outside: what its lines say, and that no request waits for them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get, post};
use portico_tests::http2::{Frame, Head, Http2, code, flag, kind};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, Running, program};
use portico_tests::{SOON, eventually, free_address, signal, websocket};
use serde_json::Value;

/// A configuration with an access log in the test's folder.
fn logging(origin: &Origin, format: &str) -> (Builder, PathBuf) {
    let builder = Builder::new().route("grid", &origin.url());
    let path = builder.folder().join("access.log");
    let builder = builder.with(&format!(
        "[log]\naccess = {path:?}\nformat = {format:?}\nlevel = \"debug\""
    ));
    (builder, path)
}

/// The lines of a file once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {path:?}"), SOON, || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(lines.len() <= count, "more than {count} lines:\n{text}");
        (lines.len() == count && text.ends_with('\n')).then_some(lines)
    })
}

#[track_caller]
fn objects(path: &Path, count: usize) -> Vec<Value> {
    let parse =
        |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    lines(path, count).iter().map(parse).collect()
}

// --- what lines say

#[test]
fn json_lines_tell_what_became_of_each_request() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let mut portico = builder.start();
    let mut tls = portico.tls();
    tls.exchange(post(HOST, "/a?b=c", "12345"));
    tls.exchange(get("nobody.toolforge.org", "/"));
    let mut plain = portico.tcp();
    plain.exchange("BROKEN \x1b[31m\"\r\n\r\n");
    let mut http2 = portico.http2();
    let head = Head::get(HOST, "/h2").with("referer", "https://example.org/\u{9b}");
    http2.exchange(&head.set("user-agent", b"x\"\\\xff\xc2\x9b".as_slice()));
    let found = objects(&path, 4);
    let of = |what: &str, key: &str| {
        let line = found.iter().find(|line| line.to_string().contains(what));
        line.unwrap_or_else(|| panic!("no {what} in {found:?}"))[key].clone()
    };
    let is = |what: &str, key: &str, value: Value| assert_eq!(of(what, key), value, "{what} {key}");

    is("/a?b=c", "client", "127.0.0.1".into());
    is("/a?b=c", "host", HOST.into());
    is("/a?b=c", "method", "POST".into());
    is("/a?b=c", "target", "/a?b=c".into());
    is("/a?b=c", "version", "HTTP/1.1".into());
    is("/a?b=c", "status", 200.into());
    is("/a?b=c", "received", 5.into());
    is("/a?b=c", "user_agent", "t".into());
    is("/a?b=c", "referer", Value::Null);
    is("/a?b=c", "tool", "grid".into());
    is("/a?b=c", "route", "tool".into());
    is("/a?b=c", "reason", "static_route".into());
    is("/a?b=c", "upstream", origin.address().to_string().into());
    is("/a?b=c", "attempts", 1.into());
    is("/a?b=c", "ending", "complete".into());
    assert!(of("/a?b=c", "sent").as_u64().unwrap() > 0);
    assert!(of("/a?b=c", "duration").as_f64().unwrap() < 10.0);
    assert_eq!(of("/a?b=c", "tls")["version"], "TLSv1.3");
    assert_eq!(of("/a?b=c", "id").as_str().unwrap().len(), 13);

    is("nobody", "status", 404.into());
    is("nobody", "reason", "unregistered".into());
    is("nobody", "upstream", Value::Null);
    assert_eq!(of("nobody", "failure")["code"], "no_ingress");
    assert_eq!(of("nobody", "failure")["side"], "client");

    is("BROKEN", "line", "BROKEN \u{1b}[31m\"".into());
    is("BROKEN", "status", 400.into());
    is("BROKEN", "host", Value::Null);
    is("BROKEN", "tls", Value::Null);
    assert_eq!(of("BROKEN", "failure")["code"], "malformed");

    is("/h2", "version", "HTTP/2.0".into());
    is("/h2", "user_agent", "x\"\\\u{fffd}\u{9b}".into());
    is("/h2", "referer", "https://example.org/\u{9b}".into());
    // Whatever was sent, a terminal gets plain text.
    let text = fs::read(&path).unwrap();
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    portico.terminate();
    assert!(portico.wait(SOON).success());
}

#[test]
fn hidden_addresses_are_hidden_in_all_that_is_written() {
    for (mode, shown) in [("masked", Some("127.0.0.0")), ("hashed", None)] {
        let origin = Origin::echo("grid");
        let (builder, path) = logging(&origin, "json");
        let portico = builder
            .with(&format!("[log]\nclient_address = {mode:?}"))
            .start();
        let client = || Client::tcp_from("127.0.0.77".parse().unwrap(), portico.http);
        client().exchange(get(HOST, "/"));
        client().exchange(get(HOST, "/"));
        client().exchange("BROKEN\r\n\r\n");
        let found = objects(&path, 3);
        let first = found[0]["client"].as_str().unwrap();
        assert!(
            found.iter().all(|line| line["client"] == first),
            "{found:?}"
        );
        assert!(shown.is_none_or(|shown| first == shown), "{first}");
        let text = fs::read_to_string(&path).unwrap();
        let said = portico.stderr();
        assert!(
            said.contains(first),
            "diagnostics show it in the same form: {said}"
        );
        assert!(
            !text.contains("127.0.0.77") && !said.contains("127.0.0.77"),
            "{text}{said}"
        );
    }
}

/// Requests that no answer was begun for.
#[test]
fn what_ends_without_an_answer_has_a_line() {
    let origin = Origin::echo("grid");
    let tunnels = Origin::scripted("ws", websocket::echo);
    let (builder, path) = logging(&origin, "json");
    let mut portico = builder
        .route("ws", &tunnels.url())
        .with("[server]\ndrain = '1s'")
        .start();
    let mut half = portico.tcp();
    half.send("GET /half HTTP/1.1\r\nHost: a");
    half.shutdown_write();
    half.expect_closed();
    let mut http2 = portico.http2();
    let stream = http2.request(&Head::get(HOST, "/padded").with("x", " y"), true);
    http2.expect_rst(stream, code::PROTOCOL_ERROR);
    // The head and the reset in one write.
    let stream = http2.next_stream();
    let block = Head::get(HOST, "/reset").block();
    let head = Frame::new(kind::HEADERS, flag::END_HEADERS, stream, block).bytes();
    let both = [head, Frame::rst(stream, code::CANCEL).bytes()].concat();
    http2.try_send_bytes(&both).unwrap();
    let mut slow = portico.tcp();
    slow.send(get(HOST, "/sleep/30000"));
    eventually("it is at the tool", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    let mut tunnel = portico.tcp();
    websocket::upgrade(&mut tunnel, "ws.toolforge.org", "/tunnel");
    tunnel.send(websocket::frame(websocket::TEXT, b"hello", true));
    websocket::read_frame(&mut tunnel.wire).unwrap();
    portico.terminate();
    portico.wait(Duration::from_secs(15));

    let found = objects(&path, 5);
    let check = |what: &str, status: u16, ending: &str, failure: Option<&str>| {
        let line = found.iter().find(|line| line.to_string().contains(what));
        let line = line.unwrap_or_else(|| panic!("no {what} in {found:?}"));
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["ending"], ending, "{line}");
        assert_eq!(line["failure"]["code"].as_str(), failure, "{line}");
    };
    check("GET /half HTTP/1.1", 400, "client_gone", Some("malformed"));
    check("/padded", 400, "cut", Some("malformed"));
    check("/reset", 499, "client_gone", None);
    check("/sleep", 0, "cut", None);
    check("/tunnel", 101, "cut", None);
    assert!(found.iter().all(|line| line["version"] != "HTTP/1.1"
        || ["/sleep/30000", "/tunnel"].contains(&line["target"].as_str().unwrap())));
}

/// The answer cannot be taken back then; the line says whose fault it is that it broke off.
#[test]
fn a_body_that_breaks_behind_the_begin_of_the_answer_is_blamed_on_its_client() {
    let origin = Origin::scripted("early", |connection| {
        connection.read_head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nearly");
        connection.wait_for_close();
    });
    let (builder, path) = logging(&origin, "json");
    let portico = builder.start();
    let mut client = portico.tcp();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    ));
    let mut begin = [0; 12];
    std::io::Read::read_exact(&mut client.wire.stream, &mut begin).unwrap();
    client.send("not a size\r\n");
    let line = &objects(&path, 1)[0];
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["ending"], "cut", "{line}");
    assert_eq!(line["failure"]["code"], "bad_body", "{line}");
    assert_eq!(line["failure"]["side"], "client", "{line}");
}

// --- as nginx writes it

/// A zone that is not the machine's own.
const ZONE: &str = "Asia/Kolkata";

/// nginx in front of the same origin, with the log of the legacy system.
struct Nginx {
    http: std::net::SocketAddr,
    https: std::net::SocketAddr,
    log: PathBuf,
    _running: Running,
}

fn nginx(portico: &Portico, origin: &Origin) -> Nginx {
    let folder = portico.folder.path().join("nginx");
    fs::create_dir(&folder).unwrap();
    let (http, https) = (free_address(), free_address());
    let at = |name: &str| portico.folder.path().join(name).display().to_string();
    let (log, origin) = (folder.join("access.log"), origin.address());
    let config = format!(
        r#"
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{}}
        http {{
            log_format vhosts '$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" (backend $upstream_addr)';
            access_log {log} vhosts;
            client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            underscores_in_headers on;
            server {{
                listen {http}; listen {https} ssl http2; server_name "-";
                ssl_certificate {chain}; ssl_certificate_key {key};
                location / {{ proxy_pass http://{origin}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
            }}
        }}
        "#,
        folder = folder.display(),
        log = log.display(),
        chain = at("portico.crt"),
        key = at("portico.key"),
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).unwrap();
    let child: Child = Command::new("nginx")
        .arg("-c")
        .arg(&path)
        .env("TZ", ZONE)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("nginx starts; scripts/test installs it");
    let running = Running(child);
    eventually("nginx listens", SOON, || Client::try_tcp(http).ok());
    Nginx {
        http,
        https,
        log,
        _running: running,
    }
}

/// The line with nothing of its time but the zone.
#[track_caller]
fn timeless(line: &str) -> String {
    let (before, rest) = line.split_once('[').expect("a time");
    let (time, after) = rest.split_once(']').expect("its end");
    assert_eq!(time.len(), "20/Nov/2026:16:26:02 +0000".len(), "{line}");
    let (_, zone) = time.split_once(' ').expect("a zone");
    format!("{before}[{zone}]{after}")
}

/// The last of so many lines.
#[track_caller]
fn last(path: &Path, count: usize) -> String {
    timeless(lines(path, count).last().unwrap())
}

/// Where the two may differ: sizes of pages that each makes itself.
fn without_size(line: &str) -> String {
    let (request, rest) = line.split_once("\" ").expect("the request's end");
    let mut words: Vec<&str> = rest.split(' ').collect();
    words[1] = "*";
    format!("{request}\" {}", words.join(" "))
}

#[test]
fn vhosts_lines_are_those_of_nginx() {
    let origin = Origin::scripted("canned", |connection| {
        while let Some(request) = connection.read_request() {
            if request.target.contains("silent") {
                return connection.wait_for_close();
            }
            let head = request.method == "HEAD";
            let body = if head { "" } else { "hello" };
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}"
            ));
        }
    });
    let (builder, log) = logging(&origin, "vhosts");
    let portico = builder
        .with("[refuse]\nempty_user_agent = false")
        .env("TZ", ZONE)
        .start();
    let nginx = nginx(&portico, &origin);
    let mut count = 0;
    // What both serve.
    let same: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: curl/8\r\nReferer: https://a.example/?b\r\n\r\n",
        b"GET /a%20b?c=%22d&e=f HTTP/1.1\r\nHost: GRID.Toolforge.ORG:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent:\r\nReferer: \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: a\"b\\c\td' (\xc3\xa9\xff) %22\\x22\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: \" 200 1 \"-\" \"-\" (backend x)\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: grid.toolforge.org\r\nUser-Agent:   padded  \r\n\r\n",
        b"HEAD /head HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\nConnection: close\r\n\r\n",
        b"POST /p HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\nContent-Length: 3\r\n\r\nabc",
        b"GET http://grid.toolforge.org/absolute HTTP/1.1\r\nHost: other.example\r\nUser-Agent: t\r\n\r\n",
        b"\r\nGET /behind-an-empty-line HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: t\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nAuthorization: Basic YTpi\r\nUser-Agent: t\r\n\r\n",
    ];
    for request in same {
        let shown = request.escape_ascii();
        for address in [portico.http, nginx.http] {
            let mut client = Client::tcp(address);
            client.send(request);
            let is_head = request.starts_with(b"HEAD");
            client.try_response(is_head).unwrap();
        }
        count += 1;
        let expected = last(&nginx.log, count);
        // nginx names the user, which portico never looks for.
        let expected = expected.replacen(" - a [", " - - [", 1);
        assert_eq!(last(&log, count), expected, "{shown}");
    }
    // What both refuse, with pages of their own.
    let refused: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GARBAGE \"\\\x1b[2J\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /two-hosts HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
    ];
    for request in refused {
        let shown = request.escape_ascii();
        for address in [portico.http, nginx.http] {
            let mut client = Client::tcp(address);
            client.send(request);
            assert!(client.wire.read_some().is_ok(), "{shown}");
        }
        count += 1;
        // nginx knows a host already when it sees the second one.
        let expected = without_size(&last(&nginx.log, count)).replacen("a.example ", "- ", 1);
        assert_eq!(without_size(&last(&log, count)), expected, "{shown}");
    }
    // A client that leaves before there is an answer.
    for address in [portico.http, nginx.http] {
        let before = origin.heads();
        let mut client = Client::tcp(address);
        client.send(get(HOST, "/silent"));
        eventually("the origin has it", SOON, || {
            (origin.heads() > before).then_some(())
        });
        client.reset();
    }
    count += 1;
    assert_eq!(last(&log, count), last(&nginx.log, count));
    assert!(last(&log, count).contains("[+0530]"));
    // Half a head, and then the end.
    for address in [portico.http, nginx.http] {
        let mut client = Client::tcp(address);
        client.send("GET /half HTTP/1.1\r\nUser-Ag");
        client.shutdown_write();
        client.expect_closed();
    }
    count += 1;
    let half = last(&log, count);
    assert_eq!(half, last(&nginx.log, count));
    assert!(half.contains("\"GET /half HTTP/1.1\" 400 0 "), "{half}");
    // HTTP/2.
    for address in [portico.https, nginx.https] {
        let http2 = Http2::connect(address, portico.tls_client(), HOST, &[b"h2"]).unwrap();
        let head = Head::get(HOST, "/h2?x='%22'").set("user-agent", b"\"\\\xff");
        http2.open(&[]).exchange(&head);
    }
    count += 1;
    assert_eq!(last(&log, count), last(&nginx.log, count));
}

// --- requests go on

/// Requests over one connection, all of which are answered, and soon.
#[track_caller]
fn ask(portico: &Portico, count: usize, from: usize) {
    let began = Instant::now();
    let mut client = portico.tcp();
    for number in from..from + count {
        let answer = client.exchange(get(HOST, &format!("/{number}")));
        assert_eq!(answer.status, 200);
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// The numbers in the targets of whole lines.
#[track_caller]
fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        object["target"].as_str().unwrap()[1..].parse().unwrap()
    };
    text.lines().map(number).collect()
}

/// The numbers from `first` on, once there are so many. Another worker may still have had some of
/// before.
#[track_caller]
fn since(first: usize, text: &str, count: usize) -> Option<Vec<usize>> {
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let new: Vec<usize> = numbers(whole).into_iter().filter(|n| *n >= first).collect();
    (new.len() == count).then_some(new)
}

/// What a log says of lines that are lost, and when they are not any more.
#[track_caller]
fn wait_for(portico: &Portico, words: &str) {
    eventually(words, 2 * SOON, || {
        portico.stderr().contains(words).then_some(())
    });
}

/// A small file system of its own, unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`: this process may not mount.
    fn mount(path: PathBuf, size: &str) -> Option<Tmpfs> {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        let done = mount.arg(&path).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
            .then(|| Tmpfs(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_no_request() {
    let origin = Origin::echo("grid");
    let (builder, _) = logging(&origin, "json");
    let disk = builder.folder().join("disk");
    let Some(disk) = Tmpfs::mount(disk, "64k") else {
        eprintln!(
            "may not mount a tmpfs: only /dev/full and a limit on the size of files are tested"
        );
        return;
    };
    let path = disk.0.join("access.log");
    let portico = builder
        .with(&format!("[log]\naccess = {path:?}\nlevel = \"info\""))
        .start();
    ask(&portico, 1000, 0);
    wait_for(&portico, "lines of the access log are lost");
    assert!(portico.stderr().contains("make room on the disk"));
    let full = fs::read_to_string(&path).unwrap();
    assert!(
        full.len() <= 64 << 10 && full.len() > 50 << 10,
        "{}",
        full.len()
    );
    // Nothing of that comes behind it.
    eventually("each is written or lost", SOON, || {
        let status = portico.admin_get("/status").text();
        let log = &serde_json::from_str::<Value>(&status).unwrap()["access_log"];
        let lost = log["dropped"]["write_failed"].as_u64()?;
        (log["lines"].as_u64()? + lost == 1000).then_some(())
    });
    // Somebody makes room, as rotation does.
    fs::remove_file(&path).unwrap();
    eventually("a new file", SOON, || path.exists().then_some(()));
    ask(&portico, 20, 1000);
    let new = eventually("the new lines", SOON, || {
        since(1000, &fs::read_to_string(&path).unwrap(), 20)
    });
    assert_eq!(new, (1000..1020).collect::<Vec<_>>());
    drop(portico);
}

/// Room that comes back in the same file: the torn line ends, and whole ones follow.
#[test]
fn a_file_that_may_grow_no_more_stops_no_request() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let portico = builder.with("[log]\nlevel = \"info\"").start();
    let limit = |bytes: &str| {
        let pid = portico.pid().to_string();
        program(
            "prlimit",
            &["--pid", &pid, &format!("--fsize={bytes}:unlimited")],
        );
    };
    limit("20000");
    ask(&portico, 200, 0);
    wait_for(&portico, "lines of the access log are lost");
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        20_000,
        "as far as it may"
    );
    limit("unlimited");
    ask(&portico, 50, 200);
    let whole = |line: &&str| line.ends_with('}');
    let (text, new) = eventually("whole lines again", SOON, || {
        let text = fs::read_to_string(&path).unwrap();
        let lines: String = text
            .lines()
            .filter(whole)
            .flat_map(|line| [line, "\n"])
            .collect();
        Some((text, since(200, &lines, 50)?))
    });
    assert_eq!(new, (200..250).collect::<Vec<_>>());
    let torn: Vec<&str> = text.lines().filter(|line| !whole(line)).collect();
    assert!(torn.len() <= 1, "{torn:?}");
}

#[test]
fn a_device_that_takes_nothing_stops_no_request() {
    let origin = Origin::echo("grid");
    let (builder, _) = logging(&origin, "vhosts");
    let mut portico = builder.with("[log]\naccess = \"/dev/full\"").start();
    let dropped = |portico: &Portico| {
        let status = portico.admin_get("/status").text();
        let status: Value = serde_json::from_str(&status).unwrap();
        status["access_log"]["dropped"]["write_failed"].as_u64()
    };
    for round in 1..=3 {
        ask(&portico, 500, 0);
        eventually("all are lost", SOON, || {
            (dropped(&portico) == Some(500 * round)).then_some(())
        });
    }
    let said = portico
        .stderr()
        .matches("lines of the access log are lost")
        .count();
    assert_eq!(said, 1, "once in half a minute");
    portico.terminate();
    assert!(portico.wait(SOON).success());
}

#[test]
fn a_deleted_file_is_made_anew() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let portico = builder.start();
    ask(&portico, 10, 0);
    lines(&path, 10);
    fs::remove_file(&path).unwrap();
    eventually("a new file", SOON, || path.exists().then_some(()));
    ask(&portico, 10, 10);
    let found = lines(&path, 10).join("\n");
    assert_eq!(numbers(&found), (10..20).collect::<Vec<_>>());
}

#[test]
fn a_file_that_was_replaced_without_a_word_is_noticed() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let portico = builder.start();
    ask(&portico, 10, 0);
    lines(&path, 10);
    fs::rename(&path, path.with_extension("log.1")).unwrap();
    // As logrotate's `create` does.
    fs::write(&path, "").unwrap();
    wait_for(&portico, "the access log was opened again");
    ask(&portico, 10, 10);
    let found = lines(&path, 10).join("\n");
    assert_eq!(numbers(&found), (10..20).collect::<Vec<_>>());
}

/// A named pipe in the test's folder, and a configuration that logs to it.
fn piped(origin: &Origin) -> (Builder, PathBuf) {
    let (builder, path) = logging(origin, "json");
    program("mkfifo", &[path.to_str().unwrap()]);
    (builder.with("[log]\nlevel = \"info\""), path)
}

/// Reads without waiting.
fn reader(path: &Path) -> fs::File {
    const O_NONBLOCK: i32 = 0o4000;
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(O_NONBLOCK);
    options.open(path).unwrap()
}

#[test]
fn a_pipe_that_nobody_reads_stops_no_request() {
    let origin = Origin::echo("grid");
    let (builder, path) = piped(&origin);
    builder.command("check", &[]).expect(0, &[]);
    let mut portico = builder.start();
    wait_for(&portico, "nobody reads the named pipe");
    ask(&portico, 1000, 0);
    let mut reader = reader(&path);
    wait_for(&portico, "the access log was opened again");
    ask(&portico, 5, 1000);
    let mut text = Vec::new();
    let new = eventually("the lines of now", SOON, || {
        let _ = reader.read_to_end(&mut text);
        since(1000, str::from_utf8(&text).unwrap(), 5)
    });
    assert_eq!(new, [1000, 1001, 1002, 1003, 1004]);
    portico.terminate();
    assert!(portico.wait(SOON).success());
}

#[test]
fn a_pipe_whose_reader_has_stopped_stops_no_request() {
    let origin = Origin::echo("grid");
    let (builder, path) = piped(&origin);
    let _held = {
        // A reader must be there first.
        let reader = reader(&path);
        let mut portico = builder.start();
        ask(&portico, 5000, 0);
        portico.terminate();
        let began = Instant::now();
        assert!(portico.wait(SOON).success());
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the end waits for 2 s at the most"
        );
        let said = portico.stderr();
        assert!(
            said.contains("the last lines of the access log are lost"),
            "{said}"
        );
        reader
    };
}

// --- rotation, start, end

#[test]
fn rotation_loses_no_line() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let mut portico = builder.with("[log]\nlevel = \"info\"").start();
    let mut old = Vec::new();
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&portico, 3000, 0));
        let end = Instant::now() + SOON;
        while !asking.is_finished() || (old.len() < 3 && Instant::now() < end) {
            if path.exists() {
                let name = path.with_extension(format!("log.{}", old.len()));
                fs::rename(&path, &name).unwrap();
                signal(portico.pid(), "USR1");
                old.push(name);
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(old.len() > 2, "it was rotated: {old:?}");
    portico.terminate();
    assert!(portico.wait(SOON).success());
    old.push(path);
    let text: String = old
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert_eq!(numbers(&text), (0..3000).collect::<Vec<_>>());
}

#[test]
fn a_reload_changes_target_format_and_addresses() {
    let origin = Origin::echo("grid");
    let mut portico = Builder::new().route("grid", &origin.url()).start();
    let (first, second) = (
        portico.folder.path().join("first.log"),
        portico.folder.path().join("second.log"),
    );
    let mut client = portico.tcp();
    let mut asked = 0;
    let mut reload_and_ask = |portico: &mut Portico, toml: &str, works: bool| {
        portico.change(toml);
        assert_eq!(portico.reload(), works, "{}", portico.stderr());
        let answer = client.exchange(get(HOST, &format!("/{asked}")));
        assert_eq!(answer.status, 200);
        asked += 1;
    };
    // On, while a connection is open; then another format in the same file; then a bad target.
    let on = format!("[log]\naccess = {first:?}\nformat = 'json'");
    reload_and_ask(&mut portico, &on, true);
    // A line has the form of the moment in which the request has ended, which is behind its answer.
    lines(&first, 1);
    let opened = descriptors(&portico, &[&first]);
    assert_eq!(opened.len(), 1);
    reload_and_ask(
        &mut portico,
        "[log]\nformat = 'vhosts'\nclient_address = 'masked'",
        true,
    );
    reload_and_ask(
        &mut portico,
        "[log]\naccess = '/no/such/folder/a.log'",
        false,
    );
    assert!(
        portico
            .stderr()
            .contains("log.access: cannot write to /no/such/folder/a.log")
    );
    assert_eq!(
        descriptors(&portico, &[&first]),
        opened,
        "it was not opened again"
    );
    let found = lines(&first, 3);
    assert!(found[0].contains("\"client\":\"127.0.0.1\""), "{found:?}");
    assert!(
        found[1].starts_with("grid.toolforge.org 127.0.0.0 - - ["),
        "{found:?}"
    );
    assert!(found[2].contains("GET /2 "), "{found:?}");
    // Elsewhere, and off.
    let elsewhere = format!("[log]\naccess = {second:?}\nformat = 'json'");
    reload_and_ask(&mut portico, &elsewhere, true);
    assert_eq!(objects(&second, 1)[0]["target"], "/3");
    reload_and_ask(&mut portico, "[log]\naccess = 'off'", true);
    // Nobody holds the files any more.
    eventually("both are closed", SOON, || {
        descriptors(&portico, &[&first, &second])
            .is_empty()
            .then_some(())
    });
    assert_eq!((lines(&first, 3).len(), lines(&second, 1).len()), (3, 1));
    // A reload that fails for another reason makes no file.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (third, taken) = (portico.folder.path().join("third.log"), taken.local_addr());
    let bad = format!(
        "[log]\naccess = {third:?}\n[listen]\nhttp = ['{}', '{}']",
        portico.http,
        taken.unwrap()
    );
    reload_and_ask(&mut portico, &bad, false);
    assert!(!third.exists());
}

/// The descriptors that portico has of these files.
fn descriptors(portico: &Portico, files: &[&Path]) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{}/fd", portico.pid())).unwrap();
    let mut found: Vec<PathBuf> = open
        .map(|fd| fd.unwrap().path())
        .filter(|fd| fs::read_link(fd).is_ok_and(|file| files.contains(&&*file)))
        .collect();
    found.sort();
    found
}

/// Lines of requests that ended before others were cut.
#[test]
fn a_second_signal_loses_no_line() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    // The lines are those of the worker that is cut.
    let mut portico = builder.with("[server]\nworkers = 1").start();
    let mut cut = portico.tcp();
    cut.send(get(HOST, "/sleep/15000"));
    eventually("it is under way", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    ask(&portico, 20, 0);
    portico.terminate();
    eventually("it drains", SOON, || {
        portico.stderr().contains("stopping").then_some(())
    });
    portico.terminate();
    portico.wait(SOON);
    let mut found = lines(&path, 21);
    found.retain(|line| !line.contains("\"cut\""));
    assert_eq!(numbers(&found.join("\n")), (0..20).collect::<Vec<_>>());
}

#[test]
fn the_last_line_is_written_at_the_end() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let mut portico = builder.start();
    let mut client = portico.tls();
    client.send(get(HOST, "/sleep/500"));
    eventually("it is under way", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    portico.terminate();
    assert_eq!(client.response().status, 200);
    assert!(portico.wait(SOON).success());
    assert_eq!(objects(&path, 1)[0]["target"], "/sleep/500");
}

#[test]
fn standard_error_takes_lines_too() {
    let origin = Origin::echo("grid");
    let (builder, _) = logging(&origin, "json");
    let portico = builder
        .with("[log]\naccess = \"stderr\"\nlevel = \"info\"")
        .start();
    ask(&portico, 3, 0);
    eventually("three lines", SOON, || {
        let said = portico.stderr();
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with('{')).collect();
        (lines.len() == 3).then(|| assert_eq!(numbers(&lines.join("\n")), [0, 1, 2]))
    });
}

#[test]
fn a_log_that_cannot_be_opened_is_said_at_the_start() {
    let origin = Origin::echo("grid");
    let (builder, path) = logging(&origin, "json");
    let builder = builder.with("[log]\naccess = \"/no/such/folder/access.log\"");
    for command in ["check", "run"] {
        let words = [
            "log.access: cannot write to /no/such/folder/access.log",
            "No such file",
        ];
        builder.command(command, &[]).expect(1, &words);
    }
    let builder = builder.with(&format!("[log]\naccess = {path:?}"));
    builder.command("check", &[]).expect(0, &[]);
    assert!(!path.exists(), "a check makes no file");
}

/// A WebSocket sees the configuration of its beginning for days; the log of then must be let go of
/// all the same, or its file comes back each time it is removed.
#[test]
fn a_websocket_does_not_keep_an_old_log_open() {
    let tunnels = Origin::scripted("ws", websocket::echo);
    let (builder, path) = logging(&tunnels, "json");
    let mut portico = builder.start();
    let other = path.with_file_name("other.log");
    let mut tunnel = portico.tcp();
    websocket::upgrade(&mut tunnel, HOST, "/");
    portico.change(&format!("[log]\naccess = {other:?}"));
    assert!(portico.reload());
    let open = || {
        let files = fs::read_dir(format!("/proc/{}/fd", portico.pid())).unwrap();
        let targets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        targets.filter(|target| *target == path).count()
    };
    eventually("the old file is let go of", SOON, || {
        (open() == 0).then_some(())
    });
    tunnel.send(websocket::frame(websocket::CLOSE, b"", true));
    websocket::read_frame(&mut tunnel.wire).unwrap();
    drop(tunnel);
    assert_eq!(objects(&other, 1)[0]["status"], 101);
}
