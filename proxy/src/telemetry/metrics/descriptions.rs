//! Every metric: name, labels, what it says and what to do with it. The one list, of which the
//! exposition takes its help texts and `docs/metrics.md` is made.

use std::fmt::Write;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up; use `rate()`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size; use `histogram_quantile()`.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which the exposition gives their values.
    pub labels: &'static [&'static str],
    /// What it says: the help text.
    pub help: &'static str,
    /// What to watch for and what to do; empty where that goes without saying.
    pub watch: &'static str,
}

/// What belongs together.
#[derive(Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// The metrics.
    pub metrics: &'static [Description],
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    watch: &'static str,
) -> Description {
    describe(name, Kind::Counter, labels, help, watch)
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    watch: &'static str,
) -> Description {
    describe(name, Kind::Gauge, labels, help, watch)
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    watch: &'static str,
) -> Description {
    describe(name, Kind::Histogram, labels, help, watch)
}

const fn describe(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    watch: &'static str,
) -> Description {
    Description {
        name,
        kind,
        labels,
        help,
        watch,
    }
}

/// All of them.
pub const SECTIONS: &[Section] = &[
    REQUESTS,
    TOOLS,
    CLIENTS,
    TLS,
    BACKENDS,
    POOLS,
    TCP,
    REGISTRY,
    ACCESS_LOG,
    CONFIGURATION,
    PROCESS,
];

const REQUESTS: Section = Section {
    title: "Requests",
    metrics: &[
        counter(
            "portico_requests_total",
            &["route", "status"],
            "Requests that have ended, malformed ones too, by where they went and by the class of the final status (none: no answer was begun).",
            "The share of 5xx by route. `route=\"refused\"` that climbs is a policy at work; `route=\"none\"` are scanners.",
        ),
        gauge(
            "portico_requests_in_flight",
            &[],
            "Requests that have begun and not ended, tunnels included.",
            "Climbs when backends hang: compare with portico_upstream_head_seconds.",
        ),
        histogram(
            "portico_request_duration_seconds",
            &["route"],
            "From the end of a request's head to the end of its answer, tunnels left out.",
            "Includes the client's own slowness, and downloads: see the first byte for how fast the service is.",
        ),
        histogram(
            "portico_request_first_byte_seconds",
            &["route"],
            "From the end of a request's head to the first byte of its answer.",
            "The service's speed as clients see it. Subtract portico_upstream_head_seconds for what portico adds.",
        ),
        counter(
            "portico_request_body_bytes_total",
            &["route"],
            "Bytes of requests' bodies, without framing.",
            "",
        ),
        counter(
            "portico_response_body_bytes_total",
            &["route"],
            "Bytes of answers' bodies as they were sent (compressed or not), without framing; of tunnels all bytes.",
            "",
        ),
        counter(
            "portico_request_endings_total",
            &["ending"],
            "How requests ended: complete; client_gone: the client left or took nothing for too long; broken_off: the backend's answer broke off half-way; cut: portico ended it, because server.drain was over, the request broke HTTP/2, or its body failed when the answer had begun.",
            "broken_off that climbs: backends crash in the middle of answers. client_gone that climbs: answers are too slow for clients.",
        ),
        counter(
            "portico_failures_total",
            &["side", "code"],
            "Failures that portico answered with in place of a backend, by whose fault it was (client, tool, platform, proxy). Half a head and then the end counts as malformed, too; a body that fails when the answer has begun by its own code.",
            "side=\"platform\" and side=\"proxy\" are yours: alert on any rate that lasts. side=\"tool\" is the tools' own.",
        ),
        counter(
            "portico_dry_run_refusals_total",
            &["code"],
            "Requests that would have been refused but for refuse.dry_run, by the failure that they would have got.",
            "Before dry_run is turned off: so many clients will notice.",
        ),
        gauge(
            "portico_tunnels",
            &[],
            "WebSockets and other upgraded connections that are open.",
            "Each holds two descriptors. Before a restart: so many clients will reconnect.",
        ),
        counter(
            "portico_compression_input_bytes_total",
            &["algorithm"],
            "Bytes of answers before portico compressed them.",
            "Output by input is what compression saves.",
        ),
        counter(
            "portico_compression_output_bytes_total",
            &["algorithm"],
            "Bytes of answers after portico compressed them.",
            "",
        ),
        counter(
            "portico_compression_refused_total",
            &[],
            "Answers that went uncompressed because too many were being compressed by their worker.",
            "Lasting: the machine has too few cores for what is compressed; lower [compression] levels.",
        ),
    ],
};

const TOOLS: Section = Section {
    title: "Tools",
    metrics: &[
        counter(
            "portico_tool_requests_total",
            &["tool", "status"],
            "Requests by tool and class of the final status. Tools that are not registered have a label if they are among the first 2,000 that answered 2xx (a default robots.txt or favicon.ico does not count); all else is tool=\"[other]\".",
            "topk() of the rate shows who is busy, and whose 5xx climb.",
        ),
        gauge(
            "portico_tool_labels",
            &[],
            "Tools that have a label of their own; 10,000 at the most.",
            "At 10,000 further tools are counted as [other].",
        ),
    ],
};

const CLIENTS: Section = Section {
    title: "Connections of clients",
    metrics: &[
        counter(
            "portico_connections_accepted_total",
            &["tls"],
            "Connections that were accepted.",
            "",
        ),
        counter(
            "portico_connections_opened_total",
            &["protocol", "tls"],
            "Connections that got as far as HTTP (after PROXY protocol and TLS).",
            "Far fewer than accepted: handshakes fail, see below.",
        ),
        gauge(
            "portico_connections",
            &["protocol", "tls"],
            "Open connections that speak HTTP.",
            "",
        ),
        gauge(
            "portico_connection_places",
            &[],
            "How many client connections there may be: limits.connections, or fewer if descriptors do not suffice.",
            "",
        ),
        gauge(
            "portico_connection_places_taken",
            &[],
            "How many there are, those in handshakes included.",
            "From nine tenths of the places on portico closes connections after their answer; at all of them new clients wait. Raise limits.connections and LimitNOFILE, or find out who holds them.",
        ),
        counter(
            "portico_accept_waits_total",
            &[],
            "Times that a new connection had to wait for a place.",
            "Any: limits.connections is reached.",
        ),
        counter(
            "portico_accept_errors_total",
            &["error"],
            "Connections that could not be accepted: client_gone, or system (no descriptors or memory).",
            "error=\"system\": check LimitNOFILE and memory.",
        ),
        counter(
            "portico_proxy_protocol_refusals_total",
            &["reason"],
            "Connections from listen.proxy_protocol_from that were closed for want of a PROXY protocol header.",
            "reason=\"malformed\" or \"timeout\": the load balancer does not send the header. reason=\"gone\": its checks only connect, which is harmless.",
        ),
        counter(
            "portico_http2_refusals_total",
            &["kind"],
            "HTTP/2 connections that portico ended because the client sent too much of what costs it nothing.",
            "Attacks. A client that means well and is met by it is a reason for a bug report.",
        ),
    ],
};

const TLS: Section = Section {
    title: "TLS",
    metrics: &[
        counter(
            "portico_tls_handshakes_total",
            &["version", "resumed"],
            "TLS handshakes with clients that succeeded.",
            "resumed=\"yes\" is cheap. TLSv1.2 that goes to zero may be switched off.",
        ),
        histogram(
            "portico_tls_handshake_duration_seconds",
            &["resumed"],
            "How long they took, round trips to the client included.",
            "Climbs for all when CPUs are short.",
        ),
        counter(
            "portico_tls_handshake_failures_total",
            &["reason"],
            "TLS handshakes that failed: not_tls, protocol (nothing in common, bad messages), gone (the client left), timeout (timeouts.handshake).",
            "A jump of protocol after a change of certificates or tls.min_version is that change.",
        ),
        gauge(
            "portico_certificate_not_after_timestamp_seconds",
            &["chain", "name"],
            "When the certificate in use ends, by chain file and first name.",
            "Alert at `- time() < 14 * 86400`.",
        ),
        gauge(
            "portico_certificate_broken_on_disk",
            &["chain", "name"],
            "Whether the files on disk are broken, so that the pair from before is in use.",
            "1: a renewal came and cannot be used, and a restart would fail; /status and the log say why.",
        ),
        counter(
            "portico_certificate_reload_failures_total",
            &[],
            "Changes of certificate files that were broken and not taken up.",
            "The last good certificate stays in use; the log says what is wrong.",
        ),
    ],
};

const BACKENDS: Section = Section {
    title: "Backends",
    metrics: &[
        counter(
            "portico_upstream_connects_total",
            &["destination", "result"],
            "Attempts to connect to backends.",
            "result=\"exhausted\" is this machine: descriptors or ports. For destination=\"ingress\" all but connected is the platform's.",
        ),
        histogram(
            "portico_upstream_connect_duration_seconds",
            &["destination"],
            "How long connects took that succeeded, TLS included.",
            "",
        ),
        counter(
            "portico_upstream_requests_total",
            &["destination", "connection"],
            "Forwarded requests by the connection that their last attempt rode: new, reused, or none to be had.",
            "Reused by all is how well connections are kept; a drop means backends close them.",
        ),
        counter(
            "portico_upstream_retries_total",
            &["destination"],
            "Attempts beyond a request's first: another node, or a fresh connection for one that had died.",
            "",
        ),
        histogram(
            "portico_upstream_head_seconds",
            &["destination"],
            "From the begin of sending to the head of the backend's answer: time on the backend's side.",
            "The tool's or the ingress's own slowness, without the client's.",
        ),
        gauge(
            "portico_upstream_idle_connections",
            &[],
            "Connections of HTTP/1 to backends that wait to be used again.",
            "",
        ),
        gauge(
            "portico_upstream_h2c_connections",
            &["state"],
            "Connections of HTTP/2 to backends, idle or used.",
            "",
        ),
        gauge(
            "portico_upstream_places",
            &[],
            "How many connections to backends there may be: the descriptors that clients leave.",
            "",
        ),
        gauge(
            "portico_upstream_places_taken",
            &[],
            "How many there are, idle ones included.",
            "At all of them requests fail with code=\"exhausted\": raise LimitNOFILE.",
        ),
        counter(
            "portico_fallback_failures_total",
            &[],
            "Requests that the 404 backend did not answer; clients got the built-in page.",
            "Mend fallback.backend.",
        ),
    ],
};

const POOLS: Section = Section {
    title: "Pools and nodes",
    metrics: &[
        gauge(
            "portico_node_up",
            &["pool", "node"],
            "Whether the node is taken for up.",
            "0: its checks, or connects to it, fail. With none up all are tried.",
        ),
        counter(
            "portico_node_checks_discarded_total",
            &["pool", "node"],
            "Checks that failed and say nothing of the node: portico's control thread was late meanwhile, or this machine had no descriptor or port left.",
            "Climbs: this machine has too little CPU, or too few descriptors, and dead nodes are found out late.",
        ),
        gauge(
            "portico_node_in_rotation",
            &["pool", "node"],
            "0: an administrator has drained it, put it in maintenance, or set its weight to 0.",
            "0 for a day: forgotten? portico pool ready.",
        ),
        gauge(
            "portico_node_weight",
            &["pool", "node"],
            "What the node weighs now: slow start is in it; 0 while it gets nothing.",
            "",
        ),
        gauge(
            "portico_node_in_flight",
            &["pool", "node"],
            "Requests, or TCP connections, that the node has.",
            "Near portico_node_in_flight_limit: it is slow, or there are too few nodes.",
        ),
        gauge(
            "portico_node_in_flight_limit",
            &["pool", "node"],
            "How many it may have: max_connections of the pool.",
            "",
        ),
        gauge(
            "portico_node_check_seconds",
            &["pool", "node"],
            "How long the last check of the node took; 0: there was none yet.",
            "Near check.timeout: it will be down soon.",
        ),
        counter(
            "portico_node_sessions_total",
            &["pool", "node"],
            "Requests, or TCP connections, that got a place at the node.",
            "",
        ),
        counter(
            "portico_node_retries_total",
            &["pool", "node"],
            "Requests that were sent to the node once more, since an idle connection was dead.",
            "",
        ),
        counter(
            "portico_node_redispatches_total",
            &["pool", "node"],
            "Requests that went on to another node, since this one could not be connected to.",
            "",
        ),
        counter(
            "portico_node_checks_failed_total",
            &["pool", "node"],
            "Checks of the node that failed.",
            "",
        ),
        counter(
            "portico_node_downs_total",
            &["pool", "node"],
            "How often the node went down.",
            "Several times within an hour: it flaps; look at the node, or raise check.fall.",
        ),
        counter(
            "portico_node_bytes_total",
            &["pool", "node", "direction"],
            "Bytes that went into the node, and that came out of it: bodies of requests and answers, or all of a TCP connection.",
            "",
        ),
        counter(
            "portico_node_errors_total",
            &["pool", "node", "kind"],
            "Connections to the node that failed (connect), and that broke before or within an answer (response).",
            "",
        ),
        counter(
            "portico_node_answers_total",
            &["pool", "node", "class"],
            "Answers of the node, by the first digit of their status.",
            "",
        ),
        gauge(
            "portico_pool_waiting",
            &["pool"],
            "Requests, or TCP connections, that wait for a place at a node of the pool.",
            "Above 0 for a minute: the nodes are too slow, or too few.",
        ),
        gauge(
            "portico_pool_waiting_most",
            &["pool"],
            "The most that waited at once, since the start.",
            "",
        ),
        gauge(
            "portico_pool_queue_limit",
            &["pool"],
            "How many may wait: max_queue for each node that is used. More get 503.",
            "",
        ),
        counter(
            "portico_pool_refused_total",
            &["pool", "reason"],
            "Requests and TCP connections that got no place at a node of the pool. no_node: all are drained or in maintenance, or weigh nothing; queue_full: max_queue waited for each node already; queue_timeout: none had room in time.",
            "Any rate: clients get 503, of [[tcp]] a reset. See portico_pool_waiting and portico_node_in_flight.",
        ),
        counter(
            "portico_pool_retries_refused_total",
            &["pool"],
            "Requests, or TCP connections, that failed without another attempt, since the retry budget was used up: at most 20 % of those in flight plus 3 a second.",
            "Climbs while many connections fail at once: see portico_upstream_connects_total and portico_node_up for where.",
        ),
        histogram(
            "portico_pool_queue_seconds",
            &["pool"],
            "How long requests and TCP connections waited for a place at a node of the pool, in vain or not. Who finds a place at once is not counted.",
            "Any rate that lasts: all nodes of the pool are at max_connections. Look for slow nodes, raise max_connections, or add nodes. Who waits for queue_timeout gets 503.",
        ),
    ],
};

const TCP: Section = Section {
    title: "TCP listeners",
    metrics: &[
        counter(
            "portico_tcp_accepted_total",
            &["listener"],
            "Connections to a [[tcp]] listener that were accepted.",
            "",
        ),
        gauge(
            "portico_tcp_connections",
            &["listener"],
            "Those that have not ended, waiting ones too.",
            "Each holds one of limits.connections, and one of its node's max_connections.",
        ),
        counter(
            "portico_tcp_unserved_total",
            &["listener", "reason"],
            "Connections that were closed before a byte reached a node. not_allowed: allow does not name the client; no_proxy_header: one from proxy_protocol_from began without its header; no_hello: no TLS ClientHello within timeouts.handshake; no_pool: server_names does not have the name, and there is no pool; no_node: all nodes are drained or in maintenance; queue_full, queue_timeout: no place at a node; unreachable: no node could be connected to; exhausted: this machine has no descriptor, port or memory left; client_gone: the client left first.",
            "reason=\"queue_full\", \"queue_timeout\" or \"unreachable\": the nodes are too few, too slow or down. reason=\"not_allowed\": scanners, or a network that is missing in allow.",
        ),
        counter(
            "portico_tcp_endings_total",
            &["listener", "ending"],
            "How connections ended that were passed on. complete: both sides ended it; client_reset, node_reset: that side reset it, or vanished; idle: silence both ways for idle_timeout; cut: portico stopped.",
            "ending=\"node_reset\" that climbs: nodes restart or crash. ending=\"idle\": clients that want to stay connected must send keep-alives, or idle_timeout must be longer.",
        ),
        counter(
            "portico_tcp_connect_failures_total",
            &["listener"],
            "Attempts to connect to a node that failed; another node was tried, if there was one.",
            "Climbs when nodes die: see portico_node_up.",
        ),
        counter(
            "portico_tcp_received_bytes_total",
            &["listener"],
            "Bytes that nodes have taken of what clients sent; headers that portico adds too.",
            "",
        ),
        counter(
            "portico_tcp_sent_bytes_total",
            &["listener"],
            "Bytes that clients have taken of what nodes sent.",
            "",
        ),
    ],
};

const REGISTRY: Section = Section {
    title: "Registry",
    metrics: &[
        gauge(
            "portico_registry_connected",
            &[],
            "Whether redis answers and the table is kept in step with it.",
            "0 for minutes: routes are those of portico_registry_table_timestamp_seconds; mend redis.",
        ),
        gauge(
            "portico_registry_source",
            &["source"],
            "1 for where the table came from: redis, or the snapshot on disk.",
            "",
        ),
        gauge(
            "portico_registry_mode",
            &["mode"],
            "1 for how redis tells of changes: `tracking` at once, `keyspace` (notifications) all but a flush at \
             once, `polling` not at all. All 0: redis was not reached since the start.",
            "Not `tracking`: changes are seen late; the log and /status say why and what to do.",
        ),
        gauge(
            "portico_registry_table_timestamp_seconds",
            &[],
            "When the table was last known to be what redis holds; `time() -` it is the table's age.",
            "Alert at an age of 10 minutes.",
        ),
        gauge(
            "portico_registry_tools",
            &[],
            "Tools in the table.",
            "A fall by a tenth within an hour: somebody deletes routes.",
        ),
        gauge(
            "portico_registry_bad_routes",
            &[],
            "Routes in the table that are skipped since their pattern or backend is not valid or not allowed.",
            "`portico routes --json` says which and why.",
        ),
        gauge(
            "portico_registry_bad_tools",
            &[],
            "Tools in the table with something that is skipped.",
            "`portico routes --bad` lists them.",
        ),
        gauge(
            "portico_registry_bad_keys",
            &[],
            "Keys in redis that name no possible tool, at the last full look.",
            "",
        ),
        gauge(
            "portico_registry_held_back",
            &[],
            "Tools that redis no longer holds and that stay in use for the grace time of registry.mass_removal, or by hand.",
            "More than portico_registry_kept: redis lost many routes at once. `portico routes keep`, and restore them; or `portico routes apply`.",
        ),
        gauge(
            "portico_registry_kept",
            &[],
            "Of those that are held back, the ones kept by hand (`portico routes keep`).",
            "For days: have the tools registered again, or run `portico routes apply`.",
        ),
        counter(
            "portico_registry_changes_total",
            &[],
            "Entries that were set or removed, those of the first load included.",
            "",
        ),
        counter(
            "portico_registry_drift_total",
            &[],
            "Entries that a periodic comparison found different although nothing had been pushed.",
            "After SWAPDB, or FLUSHALL where the mode is keyspace: nothing. Else pushes get lost: see redis' \
             client-output-buffer-limit.",
        ),
        counter(
            "portico_registry_disconnects_total",
            &[],
            "Times that a working connection to redis was lost.",
            "",
        ),
        counter(
            "portico_registry_snapshot_failures_total",
            &[],
            "Times that the routes could not be written to registry.snapshot.",
            "A start without redis would use old routes: check the disk and the folder's owner.",
        ),
        gauge(
            "portico_registry_snapshot_timestamp_seconds",
            &[],
            "When this process last wrote the snapshot, which it does after changes; 0: never.",
            "",
        ),
        gauge(
            "portico_registry_snapshot_write_seconds",
            &[],
            "How long that took. Writing takes at most one write in 5 seconds, and 2 % of a core.",
            "Seconds: the disk is slow, or the machine has too much to do.",
        ),
    ],
};

const ACCESS_LOG: Section = Section {
    title: "Access log",
    metrics: &[
        counter(
            "portico_access_log_lines_total",
            &[],
            "Lines that were written to the access log.",
            "",
        ),
        counter(
            "portico_access_log_bytes_total",
            &[],
            "Bytes that were written to the access log.",
            "",
        ),
        counter(
            "portico_access_log_dropped_total",
            &["reason"],
            "Lines that were dropped: queue_full (the disk or the reader is slow), write_failed (the disk is full or broken), no_reader (nobody reads the named pipe).",
            "Any: requests go on, but the log has holes. Mend the disk, or start the reader.",
        ),
    ],
};

const CONFIGURATION: Section = Section {
    title: "Configuration",
    metrics: &[
        gauge(
            "portico_build_info",
            &["version"],
            "1, with the version of portico.",
            "",
        ),
        counter(
            "portico_config_reloads_total",
            &["result"],
            "Reloads of the configuration: success or failure.",
            "",
        ),
        gauge(
            "portico_config_last_reload_successful",
            &[],
            "Whether the last reload was taken up; 1 before the first.",
            "0: the file on disk has mistakes, and a restart would fail; `portico check` says which.",
        ),
        gauge(
            "portico_config_last_reload_success_timestamp_seconds",
            &[],
            "When the configuration in force was taken up.",
            "",
        ),
    ],
};

const PROCESS: Section = Section {
    title: "The process",
    metrics: &[
        histogram(
            "portico_event_loop_lag_seconds",
            &["worker"],
            "How late a timer of each worker fires, asked ten times a second: what any request of that worker waits beside its own work. Worker 0 is the thread worker-0.",
            "Above 50 ms: the worker's core is busy; more workers, or lower [compression] levels.",
        ),
        counter(
            "process_cpu_seconds_total",
            &[],
            "CPU time of the process in user and system mode.",
            "",
        ),
        gauge("process_open_fds", &[], "Open file descriptors.", ""),
        gauge("process_max_fds", &[], "How many there may be.", ""),
        gauge("process_resident_memory_bytes", &[], "Resident memory.", ""),
        gauge("process_virtual_memory_bytes", &[], "Virtual memory.", ""),
        gauge("process_threads", &[], "Threads.", ""),
        gauge(
            "process_start_time_seconds",
            &[],
            "When the process was started, in seconds since 1970.",
            "",
        ),
    ],
};

/// The description of a metric.
pub fn find(name: &str) -> Option<&'static Description> {
    all().find(|description| description.name == name)
}

/// All metrics, in the order of the document.
pub fn all() -> impl Iterator<Item = &'static Description> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

/// `docs/metrics.md`
pub fn reference() -> String {
    let mut text = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = write!(text, "\n## {}\n\n", section.title);
        text.push_str("| metric | type | labels | what it says | what to watch for |\n");
        text.push_str("|---|---|---|---|---|\n");
        for metric in section.metrics {
            let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                metric.name,
                metric.kind.as_str(),
                labels.join(", "),
                metric.help,
                metric.watch,
            );
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Metrics

<!-- Made from proxy/src/telemetry/metrics/descriptions.rs; refresh it with:
     UPDATE_DOCS=1 cargo test -p portico the_reference_of_metrics_is_fresh -->

`GET /metrics` on `listen.admin`, in the text format of Prometheus. A scrape delays no request: workers count
without locks, and the sums are made elsewhere.

```yaml
scrape_configs:
  - job_name: portico
    static_configs:
      - targets: [\"127.0.0.1:9113\"]
```

- Counters begin at 0 with each start. Use `rate()`.
- `route` is where a request went: `tool` (an address of the registry or of `[routes]`), `ingress`, `fallback` (the
  404 backend), `redirect`, `own` (health checks), `refused` (a policy said no), `none` (not valid, or nothing lives
  there).
- `side` is whose fault a failure is: `client`, `tool`, `platform` (ingress, registry), `proxy`.
- The number of series is bounded whatever clients ask for: no label holds anything that a client may choose, but for
  `tool`, which has 10,000 values at the most.
- What is idle or compressed is as of the last second.
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path;

    #[test]
    fn the_reference_of_metrics_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == reference(),
            "docs/metrics.md is stale; refresh it with: UPDATE_DOCS=1 cargo test -p portico the_reference_of_metrics_is_fresh"
        );
    }

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = HashSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("portico_") || name.starts_with("process_"));
            let total = name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(!metric.help.contains('|') && !metric.watch.contains('|'));
        }
    }
}
