//! The parts of a request that need no network, each called so many times: `pure CALLS FOLDER`.
//!
//! It measures nothing by itself: `benches/instructions` runs it under callgrind, which counts what
//! the functions of [`PARTS`] cost with all that they call. What only a connection shows (reading,
//! writing, waiting, TLS, HTTP/2) is counted there of a whole process.
//!
//! The input is the same on every run. Nothing is judged here but that a part does its work: one
//! that fails at once would look cheap.

#![allow(missing_docs)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use portico::client::ClientInfo;
use portico::http1::{
    BodyDecoder, BodyLimits, Framing, HeadLimits, Parsed, RequestKind, RequestParser,
    ResponseParser, Version,
};
use portico::pools::{Tried, Turns};
use portico::process::Process;
use portico::request_id::RequestIds;
use portico::response::compress::{self, Accepts, Plan};
use portico::response::headers::ClientView;
use portico::snapshot::Snapshot;
use portico::start;
use portico::telemetry::access_log::{AccessLog, LogBuffer, OpenLog};
use portico::telemetry::metrics::Shard;
use portico::telemetry::record::{Ending, HeadText, Record, Route};
use portico_config::{Log, LogFormat};
use portico_routing::decide::{Reason, Verdict, decide};
use portico_routing::host::Host;
use portico_routing::path::canonical_path;
use portico_routing::table::Entry;

// As portico itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Broken = Box<dyn Error>;

/// What is counted, under the names of the functions.
const PARTS: &[fn(&mut Stage) -> bool] = &[
    request_head_small,
    request_head_browser,
    response_head,
    response_fields,
    what_is_accepted,
    compression_plan,
    decision,
    winding_path,
    chunk_of_1_kib,
    node_of_a_pool,
    access_log_line,
    access_log_json,
    metrics,
];

fn main() -> Result<(), Broken> {
    let mut arguments = std::env::args().skip(1);
    let (Some(calls), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pure CALLS FOLDER".into());
    };
    let calls: u32 = calls.parse()?;
    let mut stage = Stage::new(&folder)?;
    for (number, part) in PARTS.iter().enumerate() {
        for _ in 0..calls {
            if !black_box(part)(&mut stage) {
                return Err(format!("part {number} did not do its work").into());
            }
        }
    }
    Ok(())
}

// --- the parts, in the order of a request ---------------------------------------------------------

fn request_head_small(stage: &mut Stage) -> bool {
    stage.requests.reset();
    stage.requests.parse(SMALL) == Ok(Parsed::Complete)
}

fn request_head_browser(stage: &mut Stage) -> bool {
    stage.requests.reset();
    stage.requests.parse(BROWSER) == Ok(Parsed::Complete)
}

/// The head that was parsed last is the browser's.
fn what_is_accepted(stage: &mut Stage) -> bool {
    let algorithms = &stage.snapshot.config.compression.algorithms;
    stage.accepts = Accepts::new(stage.requests.head(), BROWSER, algorithms);
    stage.accepts.encoding.is_some()
}

/// Of another tool each time: hashes are keyed by chance, and one of them may lie well or badly.
fn decision(stage: &mut Stage) -> bool {
    stage.hosts.rotate_left(1);
    let host = stage.hosts.front().map(|host| Host::parse(host.as_bytes()));
    let Some(Ok(host)) = host else {
        return false;
    };
    let rules = &stage.snapshot.config.rules;
    let table = &stage.process.table;
    let decision = decide(
        rules,
        table,
        &host,
        b"/wiki/Main_Page?action=view",
        &mut stage.scratch,
    );
    matches!(decision.verdict, Verdict::Backend(_))
}

/// A path that is not as it should be: the usual one is part of `decision`.
fn winding_path(stage: &mut Stage) -> bool {
    let path = canonical_path(b"/a/b/../c//%7Euser/./index%2ehtml", &mut stage.scratch);
    path == Ok(b"/a/c/~user/index.html")
}

fn node_of_a_pool(stage: &mut Stage) -> bool {
    let Some(pool) = stage.snapshot.pools.get("ingress") else {
        return false;
    };
    let tried = Tried::default();
    let asking = pin!(pool.enter(&stage.turns, &tried));
    let asked = asking.poll(&mut Context::from_waker(Waker::noop()));
    matches!(asked, Poll::Ready(Ok(_)))
}

fn response_head(stage: &mut Stage) -> bool {
    stage.responses.reset();
    let asked = RequestKind {
        head: false,
        upgrade: false,
    };
    stage.responses.parse(&mut stage.answer, asked) == Ok(Parsed::Complete)
}

fn compression_plan(stage: &mut Stage) -> bool {
    let config = &stage.snapshot.config.compression;
    let head = stage.responses.head();
    let plan = compress::plan(config, Some("app7"), stage.accepts, head, &stage.answer);
    matches!(plan, Plan::Encode(_))
}

fn response_fields(stage: &mut Stage) -> bool {
    let client = ClientView {
        host: Some(&stage.host),
        over_tls: true,
        shared_host: false,
    };
    let (editor, head) = (&stage.snapshot.response, stage.responses.head());
    stage.out.clear();
    editor.write_fields(
        &mut stage.out,
        &stage.answer,
        head,
        &client,
        Plan::Untouched,
    );
    stage.out.len() > ANSWER.len() / 2
}

fn chunk_of_1_kib(stage: &mut Stage) -> bool {
    let mut decoder = BodyDecoder::new(Framing::Chunked, BodyLimits::RESPONSE);
    stage.chunks.copy_from_slice(&stage.chunked);
    let decoded = decoder.decode(&mut stage.chunks);
    decoded.is_ok_and(|decoded| decoded.done && decoded.data == 1024)
}

fn access_log_line(stage: &mut Stage) -> bool {
    let record = record(&stage.client, &stage.ids);
    stage.log.write(&stage.vhosts, &record);
    true
}

fn access_log_json(stage: &mut Stage) -> bool {
    let record = record(&stage.client, &stage.ids);
    stage.log.write(&stage.json, &record);
    true
}

fn metrics(stage: &mut Stage) -> bool {
    stage.shard.request_begins();
    stage.shard.request(&record(&stage.client, &stage.ids));
    true
}

// --- what they work on ----------------------------------------------------------------------------

const LIMITS: HeadLimits = HeadLimits {
    head: 32 << 10,
    target: 8 << 10,
    fields: 100,
};

const SMALL: &[u8] = b"GET /1k HTTP/1.1\r\n\
    Host: app7.tools.example\r\n\
    User-Agent: portico-benches\r\n\
    Accept: */*\r\n\
    Accept-Encoding: gzip\r\n\
    Connection: keep-alive\r\n\r\n";

const BROWSER: &[u8] = b"GET /wiki/Main_Page?action=view HTTP/1.1\r\n\
    Host: app7.tools.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://app7.tools.example/wiki/Special:RecentChanges\r\n\
    DNT: 1\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; language=en\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-User: ?1\r\n\
    Priority: u=0, i\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Fri, 20 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 20480\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: private, max-age=60\r\n\
    ETag: \"5f3c-1a2b3c4d\"\r\n\
    Set-Cookie: session=0123456789abcdef0123456789abcdef; Path=/; HttpOnly; Secure\r\n\r\n";

const CONFIG: &str = "
    listen.https = []
    [domains]
    canonical = 'tools.example'
    [pools.ingress]
    nodes = ['127.0.0.1:30000', '127.0.0.1:30001', '127.0.0.1:30002', '127.0.0.1:30003']
    [ingress]
    pool = 'ingress'
    [log]
    access = '{folder}/pure.access'
";

/// Tools in the table: it is a hash table, and their number is another script's question.
const TOOLS: usize = 1_000;

struct Stage {
    process: Arc<Process>,
    snapshot: Arc<Snapshot>,
    requests: RequestParser,
    responses: ResponseParser,
    /// The parser may mend it.
    answer: Vec<u8>,
    accepts: Accepts,
    host: Host,
    /// Those of all tools.
    hosts: VecDeque<String>,
    turns: RefCell<Turns>,
    chunked: Vec<u8>,
    /// Decoded in place.
    chunks: Vec<u8>,
    out: Vec<u8>,
    scratch: Vec<u8>,
    client: ClientInfo,
    ids: RequestIds,
    log: LogBuffer,
    vhosts: Log,
    json: Log,
    shard: Arc<Shard>,
}

impl Stage {
    fn new(folder: &str) -> Result<Self, Broken> {
        let config = portico_config::parse("pure.toml", &CONFIG.replace("{folder}", folder));
        let config = config.map_err(|mistakes| mistakes.to_string())?.config;
        let vhosts = config.log.clone();
        let json = Log {
            format: LogFormat::Json,
            ..vhosts.clone()
        };
        let log = AccessLog::open(&vhosts, None, &Arc::default())?;
        let process = start::prepare_config(config, Vec::new())?.process;
        for tool in 0..TOOLS {
            let route = [(&b".*"[..], &b"http://127.0.0.1:8000"[..])];
            let entry = Entry::build(route, false, &|_| Ok(()));
            process.table.set(&format!("app{tool}"), entry);
        }
        let chunked = [b"400\r\n", &[b'x'; 1024][..], b"\r\n0\r\n\r\n"].concat();
        Ok(Self {
            snapshot: process.snapshot.load_full(),
            requests: RequestParser::new(LIMITS),
            responses: ResponseParser::new(LIMITS),
            answer: ANSWER.to_vec(),
            accepts: Accepts::default(),
            host: Host::parse(b"app7.tools.example").map_err(|error| error.to_string())?,
            hosts: (0..TOOLS)
                .map(|tool| format!("app{tool}.tools.example"))
                .collect(),
            turns: RefCell::new(Turns::seeded(0, 7)),
            chunks: chunked.clone(),
            chunked,
            out: Vec::new(),
            scratch: Vec::new(),
            client: ClientInfo {
                address: [198, 51, 100, 7].into(),
                over_tls: true,
                tls: None,
                port: 443,
            },
            ids: RequestIds::default(),
            log: LogBuffer::new(OpenLog::new(log.into())),
            vhosts,
            json,
            shard: process.metrics.shard(),
            process,
        })
    }
}

fn record<'a>(client: &'a ClientInfo, ids: &RequestIds) -> Record<'a> {
    Record {
        id: ids.next(),
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        client,
        version: Some(Version::Http11),
        text: HeadText {
            line: b"GET /wiki/Main_Page?action=view HTTP/1.1",
            referer: Some(b"https://app7.tools.example/wiki/Special:RecentChanges"),
            user_agent: Some(
                b"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
            ),
        },
        host: Some("app7.tools.example"),
        tool: Some("app7"),
        route: Route::Tool,
        reason: Some(Reason::Registry(0)),
        status: 200,
        failure: None,
        default_file: false,
        dry_run: false,
        ending: Ending::Complete,
        received: 0,
        sent: 20_480,
        upstream: Some(([127, 0, 0, 1], 8000).into()),
        attempts: 1,
        reused: true,
        duration: Duration::from_micros(12_345),
        first_byte: Some(Duration::from_micros(11_000)),
        connect: None,
        upstream_head: Some(Duration::from_micros(10_500)),
        queued: None,
    }
}
