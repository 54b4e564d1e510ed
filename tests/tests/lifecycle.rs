//! Start, stop, mistakes, and the demo: what an operator meets.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, get, post};
use portico_tests::origin::Origin;
use portico_tests::portico::{self, Builder, HOST, Portico, Running};
use portico_tests::websocket::{self, TEXT};
use portico_tests::{SOON, eventually, signal};

// --- start

#[test]
fn memory_comes_in_small_pages() {
    let portico = Builder::new().start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", portico.pid())).unwrap();
    // Kernels from 5.0 on tell.
    let told = status
        .lines()
        .find_map(|line| line.strip_prefix("THP_enabled:"));
    assert_eq!(told.map(str::trim), Some("0"), "{status}");
}

// --- stop

#[test]
fn sigterm_without_requests_ends_at_once() {
    for name in ["TERM", "INT"] {
        let mut portico = Builder::new().start();
        let mut idle = portico.tls();
        assert_eq!(idle.exchange(get(HOST, "/.well-known/healthz")).status, 200);
        let start = Instant::now();
        signal(portico.pid(), name);
        assert!(portico.wait(SOON).success());
        idle.expect_closed();
        // Long before the drain time of 30 s.
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn sigterm_lets_requests_in_flight_finish() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let mut clients: Vec<Client> = (0..10)
        .map(|_| portico.tcp())
        .chain((0..10).map(|_| portico.tls()))
        .collect();
    for client in &mut clients {
        client.send(get(HOST, "/sleep/4000"));
    }
    // A download that is half way, and an upload that is.
    let mut download = portico.tcp();
    download.send(get(HOST, "/bytes/30000000"));
    let mut upload = portico.tls();
    upload.send(format!(
        "POST /up HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 10\r\n\r\n01234"
    ));
    eventually("all are at the tool", SOON, || {
        (origin.heads() == 22).then_some(())
    });
    portico.terminate();
    eventually("it takes no more", SOON, || {
        std::net::TcpStream::connect(portico.http)
            .is_err()
            .then_some(())
    });
    upload.send("56789");
    assert_eq!(upload.response().status, 200);
    for mut client in clients {
        let answer = client.response();
        assert_eq!(answer.status, 200);
        assert!(answer.says_close(), "so that the client knows: {answer:?}");
        client.expect_closed();
    }
    assert_eq!(download.response().body.length, 30_000_000);
    assert!(portico.wait(SOON).success());
}

/// Clients that ask without a pause over kept and over new connections: no request that was sent
/// before the signal is lost.
#[test]
fn sigterm_under_load_loses_no_request() {
    let origin = Origin::echo("grid");
    let mut portico = Builder::new()
        .route("grid", &origin.url())
        .with("[server]\nworkers = 2")
        .start();
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let lost: Mutex<Vec<(Instant, String)>> = Mutex::new(Vec::new());
    let mut signalled = Instant::now();
    thread::scope(|scope| {
        for index in 0..8 {
            let (portico, stop, answered, lost) = (&portico, &stop, &answered, &lost);
            scope.spawn(move || load(portico, index % 2 == 0, index % 4 < 2, stop, answered, lost));
        }
        eventually("a load runs", SOON, || {
            (answered.load(Ordering::Relaxed) > 500).then_some(())
        });
        signalled = Instant::now();
        portico.terminate();
        eventually("it takes no more", SOON, || {
            std::net::TcpStream::connect(portico.http)
                .is_err()
                .then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(portico.wait(SOON).success());
    let lost = lost.into_inner().unwrap();
    let before: Vec<_> = lost.iter().filter(|(sent, _)| *sent < signalled).collect();
    assert!(
        before.is_empty(),
        "{} of {} requests lost: {before:?}",
        before.len(),
        answered.into_inner()
    );
}

/// One client's loop; notes each request that was written whole and not answered, with the
/// time it was written.
fn load(
    portico: &Portico,
    tls: bool,
    keep: bool,
    stop: &AtomicBool,
    answered: &AtomicUsize,
    lost: &Mutex<Vec<(Instant, String)>>,
) {
    let request = if keep {
        get(HOST, "/")
    } else {
        get(HOST, "/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    };
    'connections: while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = portico.try_client(tls) else {
            return;
        };
        loop {
            if client.wire.send(&request).is_err() {
                continue 'connections;
            }
            let sent = Instant::now();
            match client.try_response(false) {
                Ok(Some(answer)) if answer.status == 200 => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    if !keep || answer.says_close() || stop.load(Ordering::Relaxed) {
                        continue 'connections;
                    }
                }
                other => {
                    lost.lock().unwrap().push((sent, format!("{other:?}")));
                    continue 'connections;
                }
            }
        }
    }
}

#[test]
fn the_drain_time_is_an_end() {
    let origin = Origin::echo("grid");
    let mut portico = Builder::new()
        .route("grid", &origin.url())
        .with("[server]\ndrain = '1s'")
        .start();
    let mut client = portico.tcp();
    client.send(get(HOST, "/sleep/30000"));
    eventually("it is at the tool", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    let start = Instant::now();
    portico.terminate();
    portico.wait(Duration::from_secs(15));
    assert!(
        start.elapsed() >= Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn tunnels_do_not_outlive_the_drain_time() {
    let origin = Origin::scripted("ws", websocket::echo);
    let mut portico = Builder::new()
        .route("grid", &origin.url())
        .with("[server]\ndrain = '1s'")
        .start();
    let mut client = portico.tcp();
    websocket::upgrade(&mut client, HOST, "/");
    client.send(websocket::frame(TEXT, b"hello", true));
    websocket::read_frame(&mut client.wire).unwrap();
    portico.terminate();
    portico.wait(Duration::from_secs(15));
    client.expect_closed();
}

#[test]
fn a_second_signal_is_not_waited_for() {
    let origin = Origin::echo("grid");
    let mut portico = Portico::before(&origin);
    let mut client = portico.tcp();
    client.send(get(HOST, "/sleep/20000"));
    eventually("it is at the tool", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    portico.terminate();
    eventually("it drains", SOON, || {
        portico.stderr().contains("stopping").then_some(())
    });
    thread::sleep(Duration::from_millis(300));
    assert!(portico.is_running());
    portico.terminate();
    portico.wait(Duration::from_secs(10));
}

/// Signals whose features are not built yet, or that programs send without thinking.
#[test]
fn other_signals_do_not_end_it() {
    let mut portico = Builder::new().start();
    for name in ["HUP", "USR1", "PIPE"] {
        signal(portico.pid(), name);
        thread::sleep(Duration::from_millis(200));
        assert!(portico.is_running(), "SIG{name} ended it");
    }
    assert_eq!(
        portico
            .tcp()
            .exchange(get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
}

// --- start

/// One sentence: no backtrace, no debug output, nothing to scroll through.
#[track_caller]
fn expect_one_sentence(finished: &portico::Finished, words: &[&str]) {
    finished.expect(1, words);
    let lines: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert!((1..=4).contains(&lines.len()), "{finished:#?}");
    assert!(
        !finished.stderr.contains("backtrace") && !finished.stderr.contains("Os {"),
        "{finished:#?}"
    );
}

#[test]
fn an_address_in_use_is_said() {
    let builder = Builder::new();
    let _taken = TcpListener::bind(builder.http()).unwrap();
    let address = builder.http().to_string();
    expect_one_sentence(&builder.command("run", &[]), &[&address]);
}

/// Listeners share their port among the workers; that must not let a second portico in.
#[test]
fn a_second_portico_on_the_same_address_is_refused() {
    let first = Builder::new().start();
    let config = first.folder.path().join("portico.toml");
    let finished = portico::run(&["run", "--config", config.to_str().unwrap()]);
    expect_one_sentence(&finished, &[&first.http.port().to_string()]);
    assert_eq!(
        first
            .tcp()
            .exchange(get(HOST, "/.well-known/healthz"))
            .status,
        200
    );
}

#[test]
fn certificates_that_cannot_serve_are_said() {
    let pairs = |builder: &Builder| {
        (
            builder.authority().issue(&["a.example"]),
            builder.authority().issue(&["a.example"]),
        )
    };
    // The file does not exist.
    let builder = Builder::new()
        .with("[tls]\ncertificates = [{ chain = '/nonexistent.crt', key = '/nonexistent.key' }]");
    expect_one_sentence(&builder.command("run", &[]), &["/nonexistent.crt"]);
    // A directory.
    let builder = Builder::new().with("[tls]\ncertificates = [{ chain = '/tmp', key = '/tmp' }]");
    expect_one_sentence(&builder.command("run", &[]), &["/tmp"]);
    // The key is another one's.
    let builder = Builder::new();
    let (mut pair, other) = pairs(&builder);
    pair.key = other.key;
    expect_one_sentence(
        &builder.certificates(&[pair]).command("run", &[]),
        &["0.key"],
    );
    // Neither is what it should be.
    let builder = Builder::new();
    let (mut pair, _) = pairs(&builder);
    pair.chain = "garbage".into();
    expect_one_sentence(
        &builder.certificates(&[pair]).command("run", &[]),
        &["0.crt"],
    );
}

#[test]
fn check_finds_what_start_would() {
    let builder = Builder::new();
    builder.command("check", &[]).expect(0, &[]);
    let expired = builder.authority().issue_expired(&["a.example"]);
    let finished = builder.certificates(&[expired]).command("check", &[]);
    assert_ne!(finished.code, Some(0), "{finished:#?}");
    assert!(
        finished.stderr.contains("0.crt") && finished.stderr.contains("expired"),
        "{finished:#?}"
    );
    let builder = Builder::new()
        .with("[tls]\ncertificates = [{ chain = '/nonexistent.crt', key = '/nonexistent.key' }]");
    let finished = builder.command("check", &[]);
    assert_ne!(finished.code, Some(0), "{finished:#?}");
    assert!(
        finished.stderr.contains("/nonexistent.crt"),
        "{finished:#?}"
    );
    // It binds nothing.
    let builder = Builder::new();
    let _taken = TcpListener::bind(builder.http()).unwrap();
    builder.command("check", &[]).expect(0, &[]);
}

#[test]
fn check_warns_of_hosts_that_no_certificate_names() {
    let builder = Builder::new();
    let named = builder.command("check", &[]);
    named.expect(0, &[]);
    assert!(!named.stderr.contains("no certificate"), "{named:#?}");
    // The domain itself is not its tools.
    let pair = builder.authority().issue(&["toolforge.org", "a.example"]);
    let unnamed = builder.certificates(&[pair]).command("check", &[]);
    unnamed.expect(0, &["names *.toolforge.org", "names tools.wmflabs.org"]);
}

#[test]
fn all_mistakes_of_a_configuration_are_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portico.toml");
    let text = "[listen]\nhttp = [\"127.0.0.1:1\"]\nhttps = []\nredirekt = true\n\n[timeouts]\nheader = \"soon\"\n\n\
                [domains]\ncanonical = 5\n\n[ingress]\npool = \"nowhere\"\n";
    std::fs::write(&file, text).unwrap();
    for command in ["run", "check"] {
        let finished = portico::run(&[command, "--config", file.to_str().unwrap()]);
        finished.expect(
            2,
            &[
                "portico.toml:4:1",
                "redirekt",
                "redirect",
                "portico.toml:7:10",
                "header",
                "portico.toml:10:13",
                "canonical",
                "portico.toml:13:8",
                "nowhere",
            ],
        );
    }
}

#[test]
fn files_that_are_no_configuration_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portico.toml");
    let path = file.to_str().unwrap();
    let finished = portico::run(&["check", "--config", path]);
    assert!(
        matches!(finished.code, Some(1 | 2)) && finished.stderr.contains(path),
        "{finished:#?}"
    );
    for (content, place) in [
        (&b"[listen\n"[..], "portico.toml:1:"),
        (b"a = 1\na = 2\n", "portico.toml:2:"),
        (b"x = \"\xff\"\n", "portico.toml"),
    ] {
        std::fs::write(&file, content).unwrap();
        portico::run(&["check", "--config", path]).expect(2, &[place]);
    }
}

#[test]
fn features_that_are_not_built_yet_are_refused_where_somebody_turns_them_on() {
    for (toml, key) in [
        ("[rate]\nper_second = 10", "per_second"),
        ("[refuse]\neverything = true", "everything"),
    ] {
        Builder::new()
            .with(toml)
            .command("check", &[])
            .expect(2, &[key, "not built yet"]);
    }
}

#[test]
fn arguments_that_are_none_are_said() {
    for words in [&["run"][..], &["nonsense"], &["run", "--confg", "x"]] {
        let finished = portico::run(words);
        assert_eq!(finished.code, Some(2), "{finished:#?}");
    }
    for words in [&["--help"][..], &["--version"]] {
        let finished = portico::run(words);
        assert!(
            finished.code == Some(0) && finished.stdout.contains("portico"),
            "{finished:#?}"
        );
    }
}

#[test]
fn an_unserved_host_is_a_404_that_helps() {
    let portico = Builder::new()
        .with("[fallback]\nhelp_url = 'https://help.example/'")
        .start();
    let mut client = portico.tls();
    for host in ["unknown.example", "no-such-tool.toolforge.org"] {
        let answer = client.exchange(get(host, "/x"));
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(
            answer.text().contains("The URL you have requested"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(
        client
            .exchange(post("unknown.example", "/x", "body"))
            .status,
        404
    );
}

/// A reload, or a rotation of the log, may be asked for before portico has read its files.
#[test]
fn signals_during_the_start_do_not_end_it() {
    for name in ["HUP", "USR1", "USR2"] {
        let builder = Builder::new();
        let config = builder.write();
        let pipe = builder.folder().join("pipe.toml");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let mut portico = Running(
            Command::new(portico::binary())
                .arg("run")
                .arg("--config")
                .arg(&pipe)
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        // Opens when portico does, which then waits for the text.
        let mut text = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        signal(portico.0.id(), name);
        text.write_all(&std::fs::read(config).unwrap()).unwrap();
        drop(text);
        eventually("it listens", SOON, || {
            assert_eq!(portico.0.try_wait().unwrap(), None, "SIG{name}");
            std::net::TcpStream::connect(builder.http()).ok()
        });
    }
}

// --- demo

/// Runs `portico demo` and pastes each curl line that it prints.
#[test]
fn the_demos_curl_lines_work_when_pasted() {
    let mut demo = Running(
        Command::new(portico::binary())
            .arg("demo")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let stdout = portico::collect(demo.0.stdout.take().unwrap());
    let stderr = portico::collect(demo.0.stderr.take().unwrap());
    let printed = || stdout.lock().unwrap().clone() + &stderr.lock().unwrap();
    let lines = eventually("the demo prints curl lines", SOON, || {
        let text = printed();
        // All of them: nothing more comes for a moment.
        thread::sleep(Duration::from_millis(500));
        let lines: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("curl "))
            .map(str::to_owned)
            .collect();
        (!lines.is_empty() && printed() == text).then_some(lines)
    });
    for line in lines {
        let shell = Command::new("bash")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&shell.stdout), said(&shell.stderr));
        assert!(
            shell.status.success() && !out.is_empty(),
            "{line}\n{out}\n{err}\n{}",
            printed()
        );
    }
    signal(demo.0.id(), "TERM");
    let status = portico::wait(&mut demo.0, SOON);
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}\n{}",
        printed()
    );
}

/// They are loaded before there is a log: `portico run` must say it all the same.
#[test]
fn missing_roots_of_trust_are_said_at_start() {
    let without_roots = || {
        let builder = Builder::new().env("SSL_CERT_FILE", "/nonexistent");
        builder.env("SSL_CERT_DIR", "/nonexistent")
    };
    let portico = without_roots().start();
    let log = portico.stderr();
    assert!(
        log.contains("no system root certificate was found"),
        "{log}"
    );
}
