use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use portico_config::{LogAddress, LogLevel};
use portico_routing::decide::Reason;
use proptest::prelude::*;
use rustix::fs::OFlags;

use super::*;
use crate::client::{ClientInfo, TlsSession};
use crate::http1::Version;
use crate::request_id::RequestIds;
use crate::response::failure::Side;
use crate::telemetry::record::{Ending, Failed, HeadText, Route};

/// 20 Nov 2026, 16:26:02.123 UTC.
const MOMENT: Duration = Duration::from_millis(1_795_191_962_123);
/// No wait of a test is longer.
const SOON: Duration = Duration::from_secs(10);

fn client() -> ClientInfo {
    ClientInfo {
        address: "192.0.2.77".parse::<IpAddr>().unwrap(),
        over_tls: true,
        tls: Some(TlsSession {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            resumed: false,
        }),
        port: 443,
    }
}

fn record(client: &ClientInfo) -> Record<'_> {
    Record {
        id: RequestIds::default().next(),
        time: SystemTime::UNIX_EPOCH + MOMENT,
        client,
        version: Some(Version::Http11),
        text: HeadText {
            line: b"GET /a?b=c HTTP/1.1",
            referer: Some(b"https://example.org/"),
            user_agent: Some(
                b"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            ),
        },
        host: Some("grid.toolforge.org"),
        tool: Some("grid"),
        route: Route::Tool,
        reason: Some(Reason::Registry(0)),
        status: 200,
        failure: None,
        default_file: false,
        dry_run: false,
        ending: Ending::Complete,
        received: 0,
        sent: 5124,
        upstream: Some("198.51.100.4:8000".parse().unwrap()),
        attempts: 1,
        reused: true,
        duration: Duration::from_micros(12_345),
        first_byte: Some(Duration::from_micros(11_000)),
        connect: None,
        upstream_head: Some(Duration::from_micros(10_500)),
        queued: Some(Duration::from_micros(2_500)),
    }
}

fn line(format: LogFormat, mode: LogAddress, record: &Record<'_>) -> String {
    let (mut out, mut clock) = (Vec::new(), Clock::default());
    clock.set(record.time, &TimeZone::UTC);
    match format {
        LogFormat::Vhosts => vhosts::append(&mut out, record, mode, &clock),
        LogFormat::Json => json::append(&mut out, record, mode, &clock),
    }
    String::from_utf8(out).unwrap()
}

fn object(record: &Record<'_>) -> serde_json::Value {
    let line = line(LogFormat::Json, LogAddress::Full, record);
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

// --- lines

#[track_caller]
fn check_vhosts(change: impl FnOnce(&mut Record<'_>), expected: &str) {
    let client = client();
    let mut record = record(&client);
    change(&mut record);
    assert_eq!(
        line(LogFormat::Vhosts, LogAddress::Full, &record),
        format!("{expected}\n")
    );
}

#[test]
fn the_legacy_line() {
    check_vhosts(
        |_| {},
        "grid.toolforge.org 192.0.2.77 - - [20/Nov/2026:16:26:02 +0000] \"GET /a?b=c HTTP/1.1\" 200 5124 \
         \"https://example.org/\" \"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0\" \
         (backend 198.51.100.4:8000)",
    );
    check_vhosts(
        |record| {
            record.text = HeadText {
                line: b"\x16\x03\x01",
                ..HeadText::default()
            };
            record.host = None;
            record.status = 400;
            record.sent = 0;
            record.upstream = None;
        },
        r#"- 192.0.2.77 - - [20/Nov/2026:16:26:02 +0000] "\x16\x03\x01" 400 0 "-" "-" (backend -)"#,
    );
    check_vhosts(
        |record| {
            record.text = HeadText {
                line: b"",
                referer: Some(b""),
                user_agent: Some(b"a\" b\\"),
            };
            (record.status, record.sent) = (0, 0);
            record.ending = Ending::ClientGone;
            record.upstream = Some("[2001:db8::1]:80".parse().unwrap());
        },
        r#"grid.toolforge.org 192.0.2.77 - - [20/Nov/2026:16:26:02 +0000] "-" 499 0 "" "a\x22 b\x5C" (backend [2001:db8::1]:80)"#,
    );
    check_vhosts(
        |record| {
            record.text.user_agent = None;
            record.status = 0;
        },
        "grid.toolforge.org 192.0.2.77 - - [20/Nov/2026:16:26:02 +0000] \"GET /a?b=c HTTP/1.1\" 000 5124 \
         \"https://example.org/\" \"-\" (backend 198.51.100.4:8000)",
    );
}

#[test]
fn the_json_line() {
    let client = client();
    let mut record = record(&client);
    assert_eq!(
        object(&record),
        serde_json::json!({
            "time": "2026-11-20T16:26:02.123Z",
            "id": record.id.to_string(),
            "client": "192.0.2.77",
            "host": "grid.toolforge.org",
            "method": "GET",
            "target": "/a?b=c",
            "version": "HTTP/1.1",
            "status": 200,
            "received": 0,
            "sent": 5124,
            "referer": "https://example.org/",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            "tool": "grid",
            "route": "tool",
            "reason": "registry",
            "upstream": "198.51.100.4:8000",
            "attempts": 1,
            "reused": true,
            "upstream_head": 0.0105,
            "queued": 0.0025,
            "duration": 0.012345,
            "first_byte": 0.011,
            "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "resumed": false},
            "ending": "complete",
        })
    );
    record.failure = Some(Failed {
        code: "malformed",
        side: Side::Client,
    });
    record.version = None;
    record.text = HeadText {
        line: b"GET /\xff",
        ..HeadText::default()
    };
    (record.host, record.tool, record.reason, record.upstream) = (None, None, None, None);
    (record.attempts, record.status, record.route) = (0, 400, Route::None);
    let object = object(&record);
    assert_eq!(object["line"], "GET /\u{fffd}");
    assert_eq!(
        object["failure"],
        serde_json::json!({"code": "malformed", "side": "client"})
    );
    for absent in [
        "method",
        "host",
        "tool",
        "reason",
        "upstream",
        "reused",
        "user_agent",
    ] {
        assert_eq!(object[absent], serde_json::Value::Null, "{absent}");
    }
}

#[test]
fn every_key_is_documented() {
    let documented = include_str!("../../../../docs/access-log.md");
    let client = client();
    let mut record = record(&client);
    record.connect = Some(Duration::ZERO);
    record.failure = Some(Failed {
        code: "tool_closed",
        side: Side::Tool,
    });
    let object = object(&record);
    let keys = object.as_object().unwrap().keys();
    let inner = ["tls", "failure"].map(|key| object[key].as_object().unwrap().keys());
    for key in keys.chain(inner.into_iter().flatten()) {
        assert!(documented.contains(&format!("`{key}`")), "{key}");
    }
    let reasons = [
        Reason::StaticRoute(0),
        Reason::Registry(0),
        Reason::NoPatternMatched,
        Reason::Unregistered,
        Reason::Apex,
        Reason::ReservedLabel,
        Reason::Renamed,
        Reason::ToolMoved,
        Reason::LegacyRoot,
        Reason::LegacyNoTool,
        Reason::ForeignHost,
        Reason::TwoLabels,
        Reason::BadPath,
    ];
    let words = Route::ALL.map(Route::as_str).into_iter();
    for word in words.chain(reasons.map(Reason::code)) {
        assert!(documented.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn addresses_are_hidden_in_both_formats() {
    let client = client();
    let record = record(&client);
    for format in [LogFormat::Vhosts, LogFormat::Json] {
        let masked = line(format, LogAddress::Masked, &record);
        assert!(
            masked.contains("192.0.2.0") && !masked.contains("192.0.2.77"),
            "{masked}"
        );
        let hashed = line(format, LogAddress::Hashed, &record);
        assert!(!hashed.contains("192.0.2"), "{hashed}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_a_line(request: Vec<u8>, referer: Option<Vec<u8>>, agent: Option<Vec<u8>>, known: bool) {
        let client = client();
        let mut record = record(&client);
        record.version = known.then_some(Version::Http11);
        record.text = HeadText {
            line: &request,
            referer: referer.as_deref(),
            user_agent: agent.as_deref(),
        };
        let vhosts = line(LogFormat::Vhosts, LogAddress::Full, &record);
        prop_assert_eq!(vhosts.matches('\n').count(), 1);
        prop_assert_eq!(vhosts.matches('"').count(), 6);
        prop_assert!(vhosts.ends_with("(backend 198.51.100.4:8000)\n"));
        let json = line(LogFormat::Json, LogAddress::Full, &record);
        prop_assert_eq!(json.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = |bytes: &Vec<u8>| serde_json::Value::from(String::from_utf8_lossy(bytes));
        prop_assert_eq!(&object["user_agent"], &agent.as_ref().map_or(serde_json::Value::Null, text));
        prop_assert_eq!(&object["referer"], &referer.as_ref().map_or(serde_json::Value::Null, text));
        prop_assert_eq!(&object["ending"], "complete");
    }
}

// --- writing

fn config(path: &Path) -> Log {
    Log {
        access: LogTarget::File(path.to_owned()),
        format: LogFormat::Vhosts,
        client_address: LogAddress::Full,
        level: LogLevel::Info,
    }
}

struct Rig {
    folder: tempfile::TempDir,
    config: Log,
    log: Arc<AccessLog>,
    counts: Arc<Counts>,
    buffer: LogBuffer,
    open: OpenLog,
    written: u64,
}

impl Rig {
    /// A log in a folder of its own; `before` prepares it.
    fn new(before: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        before(&path);
        Self::at(folder, &path)
    }

    fn at(folder: tempfile::TempDir, path: &Path) -> Self {
        let (config, counts) = (config(path), Arc::default());
        let log = AccessLog::open(&config, None, &counts).unwrap().unwrap();
        let open = OpenLog::new(Some(Arc::clone(&log)).into());
        Self {
            log,
            folder,
            config,
            counts,
            buffer: LogBuffer::new(Arc::clone(&open)),
            open,
            written: 0,
        }
    }

    /// Writes lines with the targets `/n`, `/n+1` and so on.
    fn write(&mut self, lines: u64) {
        let client = client();
        for _ in 0..lines {
            let line = format!("GET /{} HTTP/1.1", self.written);
            let mut record = record(&client);
            record.text.line = line.as_bytes();
            self.buffer.write(&self.config, &record);
            self.written += 1;
        }
    }

    /// Has all that was written arrive.
    fn flush(&self) {
        self.buffer.tick();
        self.log.finish(SOON);
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("access.log")
    }

    #[track_caller]
    fn eventually(&self, what: &str, holds: impl Fn(Totals) -> bool) {
        let end = Instant::now() + SOON;
        while !holds(self.counts.totals()) {
            assert!(Instant::now() < end, "{what}: {:?}", self.counts.totals());
            std::thread::sleep(RETRY);
        }
    }
}

/// The numbers in the lines, all of which are whole.
#[track_caller]
fn numbers_in(text: &str) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let number = |line: &str| {
        assert!(
            line.starts_with("grid.toolforge.org ") && line.ends_with(":8000)"),
            "{line}"
        );
        let (_, behind) = line.split_once("\"GET /").unwrap();
        behind.split(' ').next().unwrap().parse().unwrap()
    };
    text.lines().map(number).collect()
}

fn upto(end: u64) -> Vec<u64> {
    (0..end).collect()
}

#[test]
fn lines_arrive_in_their_order() {
    let mut rig = Rig::new(|_| {});
    rig.write(1000);
    rig.flush();
    let text = fs::read_to_string(rig.path()).unwrap();
    assert_eq!(numbers_in(&text), upto(1000));
    let totals = rig.counts.totals();
    assert_eq!((totals.lines, totals.bytes), (1000, text.len() as u64));
    assert_eq!(totals.dropped, [0; 3]);
    let mode = fs::metadata(rig.path()).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o7137,
        0,
        "{mode:o}: for the group to read, for nobody else"
    );
}

/// A buffer does not grow until the next tick.
#[test]
fn a_full_batch_is_handed_over_at_once() {
    let mut rig = Rig::new(|_| {});
    rig.write(5000);
    let most = BATCH as u64;
    rig.eventually("all but a batch is written", |totals| {
        totals.lines < 5000 && totals.bytes > 5000 * 100 - most
    });
    rig.flush();
    assert_eq!(rig.counts.totals().lines, 5000);
}

/// What was written makes room for what comes.
#[test]
fn more_than_may_wait_is_written_in_time() {
    let mut rig = Rig::new(|_| {});
    while rig.counts.totals().bytes < 2 * QUEUED as u64 {
        rig.write(20_000);
        rig.flush();
        assert_eq!(rig.counts.totals().lines, rig.written);
    }
}

/// A pipe takes whole lines, or nothing: others may write to it too.
#[test]
fn pieces_for_pipes_are_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    make_fifo(&path);
    let _reader = reader(&path);
    let output = Output::file(&path).unwrap();
    let line = |n: usize| format!("{n} {}\n", "x".repeat(n * 37 % 3000));
    let lines: String = (0..200).map(line).collect();
    let lines = lines.as_bytes();
    let mut rest = lines;
    while !rest.is_empty() {
        let piece = output.piece(rest);
        assert!(piece.ends_with(b"\n") && piece.len() <= 4096);
        rest = &rest[piece.len()..];
    }
}

#[test]
fn what_the_last_one_leaves_is_written() {
    let mut rig = Rig::new(|_| {});
    rig.write(3);
    rig.open.store(None);
    let path = rig.path();
    let Rig {
        folder: _folder,
        log,
        buffer,
        counts,
        ..
    } = rig;
    drop(buffer);
    drop(log);
    let end = Instant::now() + SOON;
    while counts.totals().lines < 3 {
        assert!(Instant::now() < end);
        std::thread::sleep(RETRY);
    }
    assert_eq!(numbers_in(&fs::read_to_string(path).unwrap()), upto(3));
    while Arc::strong_count(&counts) > 1 {
        assert!(Instant::now() < end, "the thread ends");
        std::thread::sleep(RETRY);
    }
}

#[test]
fn a_log_is_kept_while_its_target_stays() {
    let rig = Rig::new(|_| {});
    let open = |config: &Log| AccessLog::open(config, Some(&rig.log), &rig.counts).unwrap();
    let mut other = rig.config.clone();
    (other.format, other.client_address) = (LogFormat::Json, LogAddress::Masked);
    assert!(Arc::ptr_eq(&open(&other).unwrap(), &rig.log));
    other.access = LogTarget::File(rig.folder.path().join("other.log"));
    assert!(!Arc::ptr_eq(&open(&other).unwrap(), &rig.log));
    other.access = LogTarget::Off;
    assert!(open(&other).is_none());
}

#[test]
fn a_worker_turns_to_another_log() {
    let mut rig = Rig::new(|_| {});
    rig.write(2);
    let second = config(&rig.folder.path().join("second.log"));
    let old = std::mem::replace(
        &mut rig.log,
        AccessLog::open(&second, None, &rig.counts)
            .unwrap()
            .unwrap(),
    );
    rig.open.store(Some(Arc::clone(&rig.log)));
    rig.written = 0;
    rig.write(1);
    rig.flush();
    old.finish(SOON);
    assert_eq!(
        numbers_in(&fs::read_to_string(rig.path()).unwrap()),
        upto(2)
    );
    let text = fs::read_to_string(rig.folder.path().join("second.log")).unwrap();
    assert_eq!(numbers_in(&text), upto(1));
    rig.open.store(None);
    rig.buffer.tick();
    assert_eq!(Arc::strong_count(&rig.log), 1, "the buffer lets go");
}

#[test]
fn what_cannot_be_opened_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let counts = Arc::default();
    for bad in [folder.path().to_owned(), folder.path().join("no/such")] {
        let config = config(&bad);
        for error in [
            AccessLog::open(&config, None, &counts).unwrap_err(),
            AccessLog::check(&config).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("log.access: cannot write to"), "{text}");
            assert!(text.contains(bad.to_str().unwrap()), "{text}");
        }
    }
    let new = config(&folder.path().join("new.log"));
    AccessLog::check(&new).unwrap();
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "a check makes nothing"
    );
}

#[test]
fn rotation_loses_no_line() {
    let mut rig = Rig::new(|_| {});
    let mut text = String::new();
    for round in 1..20 {
        rig.write(500);
        let old = rig.folder.path().join(format!("access.log.{round}"));
        fs::rename(rig.path(), &old).unwrap();
        rig.log.reopen();
        rig.write(100);
        rig.flush();
        // What tells that it was opened again: the new file.
        let end = Instant::now() + SOON;
        while !rig.path().exists() {
            assert!(Instant::now() < end, "it is not opened again");
            std::thread::sleep(RETRY);
        }
        text += &fs::read_to_string(old).unwrap();
    }
    text += &fs::read_to_string(rig.path()).unwrap();
    assert_eq!(numbers_in(&text), upto(rig.written));
}

#[test]
fn a_deleted_file_is_made_anew() {
    let mut rig = Rig::new(|_| {});
    rig.write(1);
    rig.flush();
    fs::remove_file(rig.path()).unwrap();
    let end = Instant::now() + SOON;
    while !rig.path().exists() {
        assert!(Instant::now() < end, "it is not made anew");
        std::thread::sleep(RETRY);
    }
    rig.write(1);
    rig.flush();
    assert_eq!(numbers_in(&fs::read_to_string(rig.path()).unwrap()), [1]);
}

#[test]
fn without_a_folder_the_old_file_is_kept() {
    let rig = Rig::new(|_| {});
    let folder = rig.folder.path().join("sub");
    fs::create_dir(&folder).unwrap();
    let Rig { folder: outer, .. } = rig;
    let mut rig = Rig::at(outer, &folder.join("access.log"));
    let open = fs::File::open(folder.join("access.log")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    rig.log.reopen();
    rig.write(2);
    rig.flush();
    assert_eq!(numbers_in(&std::io::read_to_string(open).unwrap()), upto(2));
}

#[test]
fn a_full_disk_drops_lines_and_counts_them() {
    let mut rig = Rig::at(tempfile::tempdir().unwrap(), Path::new("/dev/full"));
    for _ in 0..5 {
        rig.write(200);
        rig.flush();
    }
    let totals = rig.counts.totals();
    assert_eq!((totals.lines, totals.dropped), (0, [0, 1000, 0]));
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn reader(path: &Path) -> fs::File {
    let mut options = fs::OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options.open(path).unwrap()
}

#[test]
fn a_pipe_nobody_reads_drops_lines_until_somebody_does() {
    let mut rig = Rig::new(make_fifo);
    AccessLog::check(&rig.config).unwrap();
    rig.write(10);
    rig.flush();
    assert_eq!(rig.counts.totals().dropped, [0, 0, 10]);
    let mut reader = reader(&rig.path());
    let mut sent = 10;
    // Until the writer has looked.
    while rig.counts.totals().lines == 0 {
        rig.write(1);
        rig.flush();
        sent += 1;
        assert!(sent < 1000, "it never looks");
        std::thread::sleep(RETRY);
    }
    let mut text = vec![0; 4096];
    let read = reader.read(&mut text).unwrap();
    assert_eq!(
        numbers_in(str::from_utf8(&text[..read]).unwrap()),
        [sent - 1]
    );
    drop(reader);
    rig.write(1);
    rig.flush();
    assert_eq!(rig.counts.totals().dropped, [0, 0, sent]);
}

#[test]
fn a_pipe_whose_reader_stops_fills_the_queue_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    make_fifo(&path);
    let mut reader = reader(&path);
    let mut rig = Rig::at(folder, &path);
    let began = Instant::now();
    // Some 40 MB.
    rig.write(200_000);
    rig.buffer.tick();
    assert!(
        began.elapsed() < 3 * SOON,
        "nothing waited: {:?}",
        began.elapsed()
    );
    rig.eventually("drops are counted", |totals| totals.dropped[0] > 50_000);
    assert!(rig.log.shared.queued.load(Ordering::Relaxed) <= QUEUED);
    // The reader goes on: what was not dropped arrives, whole and in order.
    let dropped = rig.counts.totals().dropped[0];
    let mut text = Vec::new();
    let mut chunk = vec![0; 65536];
    let end = Instant::now() + 2 * SOON;
    while counts::lines(&text) < 200_000 - dropped {
        match reader.read(&mut chunk) {
            Ok(read) => text.extend_from_slice(&chunk[..read]),
            Err(_) => std::thread::sleep(RETRY),
        }
        assert!(Instant::now() < end, "{:?}", rig.counts.totals());
    }
    let numbers = numbers_in(str::from_utf8(&text).unwrap());
    assert!(numbers.is_sorted(), "in order");
    assert_eq!(numbers.len() as u64, 200_000 - dropped);
}

#[test]
fn a_stopped_reader_does_not_keep_a_log_that_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    make_fifo(&path);
    let _reader = reader(&path);
    let mut rig = Rig::at(folder, &path);
    rig.write(2_000);
    rig.open.store(None);
    rig.buffer.tick();
    let Rig {
        folder: _folder,
        log,
        counts,
        ..
    } = rig;
    let began = Instant::now();
    log.finish(Duration::from_millis(100));
    assert!(began.elapsed() < SOON, "a wait has its limit");
    drop(log);
    let end = Instant::now() + SOON;
    while Arc::strong_count(&counts) > 1 {
        assert!(Instant::now() < end, "the thread ends");
        std::thread::sleep(RETRY);
    }
    let totals = counts.totals();
    assert_eq!(totals.lines + totals.dropped[1], 2_000, "{totals:?}");
}

/// `cargo test -p portico --release -- --ignored --nocapture what_a_line_costs`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn what_a_line_costs() {
    const LINES: u32 = 1_000_000;
    let client = client();
    let record = record(&client);
    let mut clock = Clock::default();
    let mut out = Vec::with_capacity(ROOM);
    for format in [LogFormat::Vhosts, LogFormat::Json] {
        for mode in [LogAddress::Full, LogAddress::Masked, LogAddress::Hashed] {
            let began = Instant::now();
            for _ in 0..LINES {
                if out.len() >= BATCH {
                    out.clear();
                }
                clock.set(record.time, &TimeZone::UTC);
                match format {
                    LogFormat::Vhosts => vhosts::append(&mut out, &record, mode, &clock),
                    LogFormat::Json => json::append(&mut out, &record, mode, &clock),
                }
                std::hint::black_box(&mut out);
            }
            eprintln!("{format:?} {mode:?}: {:?} a line", began.elapsed() / LINES);
        }
    }
}
