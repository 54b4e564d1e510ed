//! The routing table alone, at any size: what it takes of memory, how long a lookup takes, and how
//! long the longest one takes while the table changes. Says so in one line of JSON.
//!
//! The only program here that links a part of portico: inside of the process there is no network
//! to hide a few nanoseconds or one slow lookup. `routes` measures the whole beside it.
//!
//! Time is the CPU time of the looking thread, so that a machine that gives the core to somebody
//! else for a while does not count as a slow table.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use portico_routing::decide::{Rules, Verdict, decide};
use portico_routing::host::{Apex, Domains, Host};
use portico_routing::table::{Entry, Table};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

// As portico itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DOMAIN: &str = "tools.example";

/// Hosts that are asked for: more than any cache holds, and as random as their order.
const HOSTS: usize = 100_000;

/// Lookups that are timed together, so that reading the clock does not count.
const BLOCK: usize = 1_000;

#[derive(Parser)]
#[command(about = "Measures lookups in a routing table, at rest and while it changes")]
struct Arguments {
    /// Tools in the table
    #[arg(long, default_value_t = 1_000_000)]
    tools: usize,
    /// Seconds of each part
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Threads that look up while the table changes
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Changes a second
    #[arg(long, default_value_t = 1_000)]
    changes: u64,
    /// One tool in five has two or three routes with patterns of its own
    #[arg(long)]
    patterns: bool,
}

fn main() -> anyhow::Result<()> {
    // As portico does: huge pages would make lookups by chance twice as fast.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let arguments = Arguments::parse();
    let before = resident_kb()?;
    let table = Table::new();
    table.reserve(arguments.tools);
    let started = cpu_time();
    for tool in 0..arguments.tools {
        table.set(&name(tool), entry(tool, 0, arguments.patterns));
    }
    let built = cpu_time() - started;
    let memory_kb = resident_kb()?.saturating_sub(before);
    let hosts = hosts(arguments.tools)?;
    let seconds = Duration::from_secs(arguments.seconds);
    let report = json!({
        "tools": arguments.tools,
        "memory_kb": memory_kb,
        "build_us_per_tool": built.as_secs_f64() * 1e6 / arguments.tools.max(1) as f64,
        "lookup_ns": nanoseconds(&hosts, seconds, |host| lookup(&table, host)),
        "decide_ns": nanoseconds(&hosts, seconds, decider(&table)),
        "at_rest": longest(&arguments, &table, &hosts, Change::None),
        "changes": longest(&arguments, &table, &hosts, Change::Known),
        "growth": longest(&arguments, &table, &hosts, Change::New),
    });
    writeln!(io::stdout(), "{report}")?;
    Ok(())
}

fn name(tool: usize) -> String {
    format!("tool-{tool:07}")
}

/// The entry of a tool after so many changes.
fn entry(tool: usize, change: usize, patterns: bool) -> Entry {
    let port = 1024 + (tool + change) % 60_000;
    let [_, a, b, c] = u32::try_from(tool).unwrap_or(u32::MAX).to_be_bytes();
    let url = format!("http://10.{a}.{b}.{c}:{port}");
    let (static_files, api) = (format!("/{tool}/static/.*"), format!("^/{tool}/api/.*"));
    let fields = [(".*", &url), (&static_files, &url), (&api, &url)];
    let count = match tool % 10 {
        3 if patterns => 2,
        7 if patterns => 3,
        _ => 1,
    };
    let fields = fields.iter().take(count);
    let fields = fields.map(|(pattern, url)| (pattern.as_bytes(), url.as_bytes()));
    Entry::build(fields, false, &|_| Ok(()))
}

/// Random ones; the same in every run.
fn hosts(tools: usize) -> anyhow::Result<Vec<Host>> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 16).unwrap_or_default() % tools.max(1)
    };
    let host = |tool| Host::parse(format!("{}.{DOMAIN}", name(tool)).as_bytes());
    let hosts = (0..HOSTS).map(|_| host(next())).collect::<Result<_, _>>();
    hosts.context("a host of its own making is wrong")
}

/// The table's part of a decision.
fn lookup(table: &Table, host: &Host) -> bool {
    let label = host.as_str().split('.').next().unwrap_or_default();
    table.with(label, |entry| entry.find(b"/wiki/Main_Page").is_some()) == Some(true)
}

/// The whole of a decision.
fn decider(table: &Table) -> impl FnMut(&Host) -> bool {
    let rules = Rules {
        domains: Domains {
            canonical: DOMAIN.into(),
            legacy: Vec::new(),
            apex: Apex::Ingress,
            reserved: HashSet::new(),
            rename: HashMap::new(),
        },
        routes: HashMap::new(),
    };
    let mut scratch = Vec::new();
    move |host| {
        let decision = decide(&rules, table, host, b"/wiki/Main_Page", &mut scratch);
        matches!(decision.verdict, Verdict::Backend(_))
    }
}

/// Nanoseconds of one lookup: the median over blocks.
fn nanoseconds(hosts: &[Host], time: Duration, mut look: impl FnMut(&Host) -> bool) -> f64 {
    let mut blocks = Vec::new();
    let end = Instant::now() + time;
    let mut found = true;
    for block in hosts.chunks_exact(BLOCK).cycle() {
        let start = cpu_time();
        for host in block {
            found &= look(black_box(host));
        }
        blocks.push(cpu_time() - start);
        if Instant::now() > end {
            break;
        }
    }
    assert!(found, "every host that is asked for has a route");
    blocks.sort_unstable();
    let median = blocks.get(blocks.len() / 2).copied().unwrap_or_default();
    median.as_secs_f64() * 1e9 / BLOCK as f64
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Of tools that are there, so many a second.
    Known,
    /// New tools, as fast as it goes, until the table has twice its size: it has to move.
    New,
}

/// The longest lookups while the table changes.
fn longest(arguments: &Arguments, table: &Table, hosts: &[Host], change: Change) -> Value {
    let stop = AtomicBool::new(false);
    let (mut times, changes) = thread::scope(|scope| {
        let readers: Vec<_> = (0..arguments.readers.max(1))
            .map(|reader| {
                scope.spawn({
                    let stop = &stop;
                    move || watch(table, hosts.iter().skip(reader * BLOCK), stop)
                })
            })
            .collect();
        let changes = write(arguments, table, change);
        stop.store(true, Relaxed);
        let times = readers
            .into_iter()
            .flat_map(|reader| reader.join().unwrap_or_default());
        (times.collect::<Vec<_>>(), changes)
    });
    times.sort_unstable_by(|a, b| b.cmp(a));
    let micros = |rank: usize| times.get(rank).map(|time| time.as_secs_f64() * 1e6);
    json!({
        "changes": changes,
        "longest_us": micros(0),
        "second_us": micros(1),
        "tenth_us": micros(9),
    })
}

/// Makes the changes of one part; how many they were.
fn write(arguments: &Arguments, table: &Table, change: Change) -> usize {
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let pause = Duration::from_secs(1) / u32::try_from(arguments.changes).unwrap_or(1).max(1);
    let start = Instant::now();
    let mut changes = 0;
    while change == Change::New || Instant::now() < end {
        match change {
            Change::None => thread::sleep(pause),
            Change::Known => {
                let tool = changes * 7919 % arguments.tools.max(1);
                table.set(&name(tool), entry(tool, changes + 1, arguments.patterns));
                changes += 1;
                let due = start + pause * u32::try_from(changes).unwrap_or(u32::MAX);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Change::New if changes < arguments.tools => {
                let tool = arguments.tools + changes;
                table.set(&name(tool), entry(tool, 0, arguments.patterns));
                changes += 1;
            }
            Change::New => break,
        }
    }
    changes
}

/// Looks up until `stop`; the longest times.
fn watch<'h>(
    table: &Table,
    hosts: impl Iterator<Item = &'h Host> + Clone,
    stop: &AtomicBool,
) -> Vec<Duration> {
    const KEPT: usize = 10;
    let mut kept = vec![Duration::ZERO; KEPT];
    let mut last = cpu_time();
    for host in hosts.cycle() {
        black_box(lookup(table, host));
        let now = cpu_time();
        let took = now - last;
        last = now;
        if let Some(shortest) = kept.iter_mut().min().filter(|shortest| took > **shortest) {
            *shortest = took;
        }
        if stop.load(Relaxed) {
            break;
        }
    }
    kept
}

/// What the calling thread has used of a processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn resident_kb() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("no VmRSS in /proc/self/status")?;
    Ok(words.trim().trim_end_matches(" kB").parse()?)
}
