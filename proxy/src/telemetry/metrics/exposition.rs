//! The sums of all shards, and what others count, in Prometheus' text format.
//!
//! Reads only: atomics, and locks that no worker waits for. With 10,000 tools it is milliseconds of
//! work, for a thread that serves no requests.

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use tracing::error;

use super::cells::{Counter, Gauge, Histogram, Observed};
use super::descriptions::{self, Kind};
use super::shard::{By, FAILURES, Protocol, Shard, To, Words, YesNo};
use super::system::System;
use super::tools::CLASSES;
use super::{Metrics, pools, seconds};
use crate::process::Process;
use crate::registry::{Mode, Source};
use crate::response::compress::ALGORITHMS;
use crate::telemetry::access_log::Dropped;
use crate::telemetry::record::{Ending, Route};

/// What `GET /metrics` answers.
pub fn exposition(process: &Process) -> String {
    let metrics = &process.metrics;
    let mut out = Families {
        shards: metrics.shards(),
        families: Vec::new(),
    };
    requests(&mut out);
    tools(&mut out, metrics);
    clients(&mut out, process);
    handshakes(&mut out, process);
    backends(&mut out, process);
    pools::pools(&mut out, process);
    pools::tcp_listeners(&mut out, metrics);
    registry(&mut out, process);
    access_log(&mut out, process);
    configuration(&mut out, process);
    system(&mut out);
    out.encode()
}

fn requests(out: &mut Families) {
    let routes = || Route::ALL.into_iter().enumerate();
    let classes = || CLASSES.into_iter().enumerate();
    let mut by_class = Vec::new();
    for (route, name) in routes() {
        for (class, word) in classes() {
            let count = out.sum(|s| s.routes.get(route)?.classes.get(class));
            by_class.push(([name.as_str(), word], count));
        }
    }
    out.counters("portico_requests_total", by_class);
    let in_flight = out.sum_gauge(|s| Some(&s.in_flight));
    out.gauge("portico_requests_in_flight", in_flight);
    let durations = routes()
        .map(|(n, route)| {
            let took = out.observed(|s| Some(&s.routes.get(n)?.duration));
            ([route.as_str()], took)
        })
        .collect();
    out.histograms("portico_request_duration_seconds", durations);
    let first_bytes = routes()
        .map(|(n, route)| {
            let took = out.observed(|s| Some(&s.routes.get(n)?.first_byte));
            ([route.as_str()], took)
        })
        .collect();
    out.histograms("portico_request_first_byte_seconds", first_bytes);
    let received = routes()
        .map(|(n, route)| {
            (
                [route.as_str()],
                out.sum(|s| Some(&s.routes.get(n)?.received)),
            )
        })
        .collect();
    out.counters("portico_request_body_bytes_total", received);
    let sent = routes()
        .map(|(n, route)| ([route.as_str()], out.sum(|s| Some(&s.routes.get(n)?.sent))))
        .collect();
    out.counters("portico_response_body_bytes_total", sent);
    let endings = Ending::ALL.into_iter().enumerate();
    let endings = endings
        .map(|(n, ending)| ([ending.as_str()], out.sum(|s| s.endings.get(n))))
        .collect();
    out.counters("portico_request_endings_total", endings);
    let failures = FAILURES.iter().enumerate();
    let failures = failures
        .map(|(n, (side, code))| {
            let count = out.sum(|s| s.failures.get(n));
            ([side.to_string(), (*code).to_owned()], count)
        })
        .collect();
    out.counters("portico_failures_total", failures);
    let dry_run = vec![(["no_user_agent"], out.sum(|s| Some(&s.dry_run)))];
    out.counters("portico_dry_run_refusals_total", dry_run);
    let tunnels = out.sum_gauge(|s| Some(&s.tunnels));
    out.gauge("portico_tunnels", tunnels);
    compression(out);
}

fn compression(out: &mut Families) {
    let algorithms = ALGORITHMS.into_iter().enumerate();
    let (mut input, mut output) = (Vec::new(), Vec::new());
    for (n, algorithm) in algorithms {
        let name = [algorithm.as_str()];
        let bytes = out.sum(|s| Some(&s.compression.get(n)?.input));
        input.push((name, bytes));
        let bytes = out.sum(|s| Some(&s.compression.get(n)?.output));
        output.push((name, bytes));
    }
    out.counters("portico_compression_input_bytes_total", input);
    out.counters("portico_compression_output_bytes_total", output);
    let refused = out.sum(|s| Some(&s.compression_refused));
    out.counter("portico_compression_refused_total", refused);
}

/// A class without a request has no series, which keeps them few.
fn tools(out: &mut Families, metrics: &Metrics) {
    let mut sums: foldhash::HashMap<Box<str>, [u64; CLASSES.len()]> = foldhash::HashMap::default();
    for shard in &out.shards {
        shard.tools.for_each(|tool, counters| {
            if !sums.contains_key(tool) {
                sums.insert(tool.into(), [0; CLASSES.len()]);
            }
            if let Some(sum) = sums.get_mut(tool) {
                for (sum, counter) in sum.iter_mut().zip(counters) {
                    *sum += counter.get();
                }
            }
        });
    }
    let mut values = Vec::new();
    for (tool, counts) in &sums {
        for (class, count) in CLASSES.into_iter().zip(counts) {
            if *count > 0 {
                values.push(([&**tool, class], *count));
            }
        }
    }
    values.sort_unstable();
    out.counters("portico_tool_requests_total", values);
    out.gauge("portico_tool_labels", metrics.tool_names.len() as f64);
}

fn clients(out: &mut Families, process: &Process) {
    let mut accepted = Vec::new();
    let mut opened = Vec::new();
    let mut open = Vec::new();
    for &tls in YesNo::ALL {
        let count = out.total(|s| s.connections.at(tls, |of| of.accepted.get()));
        accepted.push(([tls.word()], count));
        for &protocol in Protocol::ALL {
            let labels = [protocol.word(), tls.word()];
            let count = out.total(|s| s.connections.at(tls, |of| of.opened.get(protocol)));
            opened.push((labels, count));
            let now = out.total(|s| {
                s.connections
                    .at(tls, |of| of.open.at(protocol, Gauge::get))
                    .flatten()
            });
            open.push((labels, now as f64));
        }
    }
    out.counters("portico_connections_accepted_total", accepted);
    out.counters("portico_connections_opened_total", opened);
    out.gauges("portico_connections", open);
    let places = &process.connections;
    out.gauge("portico_connection_places", places.limit() as f64);
    out.gauge("portico_connection_places_taken", places.taken() as f64);
    let waits = out.sum(|s| Some(&s.accept_waits));
    out.counter("portico_accept_waits_total", waits);
    out.by("portico_accept_errors_total", |s| &s.accept_errors);
    out.by("portico_proxy_protocol_refusals_total", |s| {
        &s.no_proxy_header
    });
    out.by("portico_http2_refusals_total", |s| &s.http2_refusals);
}

fn handshakes(out: &mut Families, process: &Process) {
    let mut done = Vec::new();
    for &version in super::shard::TlsVersion::ALL {
        for &resumed in YesNo::ALL {
            let count = out.total(|s| s.handshakes.at(version, |of| of.get(resumed)));
            done.push(([version.word(), resumed.word()], count));
        }
    }
    out.counters("portico_tls_handshakes_total", done);
    let times = YesNo::ALL
        .iter()
        .map(|resumed| {
            let took = out.observed(|s| s.handshake.get_ref(*resumed));
            ([resumed.word()], took)
        })
        .collect();
    out.histograms("portico_tls_handshake_duration_seconds", times);
    out.by("portico_tls_handshake_failures_total", |s| {
        &s.handshake_failures
    });
    let snapshot = process.snapshot.load();
    let Some(tls) = &snapshot.tls else { return };
    let certificates = &tls.certificates;
    let expiries = certificates.expiries().into_iter().map(|expiry| {
        let chain = expiry.chain.display().to_string();
        ([chain, expiry.name], seconds(expiry.not_after) as f64)
    });
    out.gauges(
        "portico_certificate_not_after_timestamp_seconds",
        expiries.collect(),
    );
    let broken = (certificates
        .expiries()
        .into_iter()
        .zip(&*certificates.broken()))
    .map(|(pair, why)| {
        let chain = pair.chain.display().to_string();
        ([chain, pair.name], f64::from(u8::from(why.is_some())))
    })
    .collect();
    out.gauges("portico_certificate_broken_on_disk", broken);
    out.counter(
        "portico_certificate_reload_failures_total",
        certificates.failures(),
    );
}

fn backends(out: &mut Families, process: &Process) {
    let mut connects = Vec::new();
    let mut rides = Vec::new();
    let mut retries = Vec::new();
    let mut connect_times = Vec::new();
    let mut heads = Vec::new();
    for &to in To::ALL {
        for &result in super::shard::Connect::ALL {
            let count = out.total(|s| s.destinations.at(to, |of| of.connects.get(result)));
            connects.push(([to.word(), result.word()], count));
        }
        for &ride in super::shard::Ride::ALL {
            let count = out.total(|s| s.destinations.at(to, |of| of.rides.get(ride)));
            rides.push(([to.word(), ride.word()], count));
        }
        let count = out.sum(|s| Some(&s.destinations.get_ref(to)?.retries));
        retries.push(([to.word()], count));
        let took = out.observed(|s| Some(&s.destinations.get_ref(to)?.connect));
        connect_times.push(([to.word()], took));
        let took = out.observed(|s| Some(&s.destinations.get_ref(to)?.head));
        heads.push(([to.word()], took));
    }
    out.counters("portico_upstream_connects_total", connects);
    out.histograms("portico_upstream_connect_duration_seconds", connect_times);
    out.counters("portico_upstream_requests_total", rides);
    out.counters("portico_upstream_retries_total", retries);
    out.histograms("portico_upstream_head_seconds", heads);
    let idle = out.sum_gauge(|s| Some(&s.upstream_idle));
    out.gauge("portico_upstream_idle_connections", idle);
    let h2c = vec![
        (["idle"], out.sum_gauge(|s| Some(&s.h2c_idle))),
        (["used"], out.sum_gauge(|s| Some(&s.h2c_used))),
    ];
    out.gauges("portico_upstream_h2c_connections", h2c);
    let places = &process.backends;
    out.gauge("portico_upstream_places", places.limit() as f64);
    out.gauge("portico_upstream_places_taken", places.taken() as f64);
    let failures = out.sum(|s| Some(&s.fallback_failures));
    out.counter("portico_fallback_failures_total", failures);
}

/// Without a registry there are none of these.
fn registry(out: &mut Families, process: &Process) {
    if process.snapshot.load().config.registry.is_none() {
        return;
    }
    let status = &process.registry_status;
    let table = &process.table;
    let flag = |yes| f64::from(u8::from(yes));
    let source = status.source();
    out.gauge("portico_registry_connected", flag(status.connected()));
    let sources = vec![
        (["redis"], flag(source == Source::Redis)),
        (["snapshot"], flag(source != Source::Redis)),
    ];
    out.gauges("portico_registry_source", sources);
    let mode = status.mode().map(|(mode, _)| mode);
    let modes = Mode::ALL.map(|one| ([one.as_str()], flag(mode == Some(one))));
    out.gauges("portico_registry_mode", modes.into());
    out.gauge(
        "portico_registry_table_timestamp_seconds",
        seconds(status.table_time()) as f64,
    );
    out.gauge("portico_registry_tools", table.len() as f64);
    out.gauge("portico_registry_bad_routes", table.bad_routes() as f64);
    out.gauge("portico_registry_bad_tools", status.bad_tools() as f64);
    out.gauge("portico_registry_bad_keys", status.bad_keys() as f64);
    out.gauge("portico_registry_held_back", status.held_back() as f64);
    out.gauge("portico_registry_kept", status.kept() as f64);
    out.counter("portico_registry_changes_total", status.changes());
    out.counter("portico_registry_drift_total", status.drift());
    out.counter("portico_registry_disconnects_total", status.disconnects());
    out.counter(
        "portico_registry_snapshot_failures_total",
        status.snapshot_failures(),
    );
    let (saved, took) = status.snapshot_saved().unzip();
    out.gauge(
        "portico_registry_snapshot_timestamp_seconds",
        saved.map_or(0.0, |time| seconds(time) as f64),
    );
    out.gauge(
        "portico_registry_snapshot_write_seconds",
        took.unwrap_or_default().as_secs_f64(),
    );
}

fn access_log(out: &mut Families, process: &Process) {
    let totals = process.access_log_counts.totals();
    out.counter("portico_access_log_lines_total", totals.lines);
    out.counter("portico_access_log_bytes_total", totals.bytes);
    let dropped = Dropped::ALL.into_iter().zip(totals.dropped);
    let dropped = dropped.map(|(why, lines)| ([why.as_str()], lines));
    out.counters("portico_access_log_dropped_total", dropped.collect());
}

fn configuration(out: &mut Families, process: &Process) {
    out.gauges(
        "portico_build_info",
        vec![([env!("CARGO_PKG_VERSION")], 1.0)],
    );
    let reloads = &process.reloads;
    let results = vec![
        (["success"], reloads.succeeded()),
        (["failure"], reloads.failed()),
    ];
    out.counters("portico_config_reloads_total", results);
    let good = reloads.last().is_none_or(|last| last.outcome.is_ok());
    out.gauge(
        "portico_config_last_reload_successful",
        f64::from(u8::from(good)),
    );
    let taken_up = reloads.last_success().unwrap_or(process.started);
    out.gauge(
        "portico_config_last_reload_success_timestamp_seconds",
        seconds(taken_up) as f64,
    );
}

fn system(out: &mut Families) {
    let lags = out.shards.iter().enumerate();
    let lags = lags
        .map(|(worker, s)| ([worker.to_string()], Histogram::sum([&s.lag].into_iter())))
        .collect();
    out.histograms("portico_event_loop_lag_seconds", lags);
    let system = System::now();
    if let Some(cpu) = system.cpu_seconds {
        out.add("process_cpu_seconds_total", [([""; 0], cpu)], |cpu| {
            let mut counter = proto::Counter::default();
            counter.set_value(cpu);
            let mut metric = Metric::default();
            metric.set_counter(counter);
            metric
        });
    }
    for (name, value) in [
        ("process_open_fds", system.open_fds),
        ("process_max_fds", system.max_fds),
        ("process_resident_memory_bytes", system.resident_bytes),
        ("process_virtual_memory_bytes", system.virtual_bytes),
        ("process_threads", system.threads),
        ("process_start_time_seconds", system.start_time),
    ] {
        if let Some(value) = value {
            out.gauge(name, value);
        }
    }
}

/// Metrics as they are gathered.
pub(super) struct Families {
    shards: Vec<Arc<Shard>>,
    families: Vec<MetricFamily>,
}

impl Families {
    fn total(&self, look: impl Fn(&Shard) -> Option<u64>) -> u64 {
        self.shards.iter().filter_map(|shard| look(shard)).sum()
    }

    fn sum(&self, look: impl Fn(&Shard) -> Option<&Counter>) -> u64 {
        self.total(|shard| look(shard).map(Counter::get))
    }

    fn sum_gauge(&self, look: impl Fn(&Shard) -> Option<&Gauge>) -> f64 {
        self.total(|shard| look(shard).map(Gauge::get)) as f64
    }

    fn observed(&self, look: impl Fn(&Shard) -> Option<&Histogram>) -> Observed {
        Histogram::sum(self.shards.iter().filter_map(|shard| look(shard)))
    }

    fn counter(&mut self, name: &'static str, count: u64) {
        self.counters(name, vec![([""; 0], count)]);
    }

    fn gauge(&mut self, name: &'static str, value: f64) {
        self.gauges(name, vec![([""; 0], value)]);
    }

    /// Counters of one label.
    fn by<W: Words>(&mut self, name: &'static str, look: impl Fn(&Shard) -> &By<W>) {
        let values = W::ALL.iter().map(|word| {
            let count = self.total(|shard| Some(look(shard).get(*word)));
            ([word.word()], count)
        });
        let values = values.collect();
        self.counters(name, values);
    }

    pub(super) fn counters<L: Into<String>, const N: usize>(
        &mut self,
        name: &'static str,
        values: Vec<([L; N], u64)>,
    ) {
        self.add(name, values, |count| {
            let mut counter = proto::Counter::default();
            counter.set_value(count as f64);
            let mut metric = Metric::default();
            metric.set_counter(counter);
            metric
        });
    }

    pub(super) fn gauges<L: Into<String>, const N: usize>(
        &mut self,
        name: &'static str,
        values: Vec<([L; N], f64)>,
    ) {
        self.add(name, values, |value| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::default();
            metric.set_gauge(gauge);
            metric
        });
    }

    pub(super) fn histograms<L: Into<String>, const N: usize>(
        &mut self,
        name: &'static str,
        values: Vec<([L; N], Observed)>,
    ) {
        self.add(name, values, |observed| {
            let buckets = observed.cumulative.into_iter().map(|(bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(observed.count);
            histogram.set_sample_sum(observed.sum);
            let mut metric = Metric::default();
            metric.set_histogram(histogram);
            metric
        });
    }

    fn add<L: Into<String>, V, const N: usize>(
        &mut self,
        name: &'static str,
        values: impl IntoIterator<Item = ([L; N], V)>,
        metric: impl Fn(V) -> Metric,
    ) {
        // That every name is described is tested.
        let Some(description) = descriptions::find(name) else {
            return;
        };
        let metrics = values.into_iter().map(|(labels, value)| {
            let pairs = description.labels.iter().zip(labels);
            let pairs = pairs.map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.into());
                pair
            });
            let mut metric = metric(value);
            metric.set_label(pairs.collect());
            metric
        });
        let metrics: Vec<Metric> = metrics.collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(description.help.to_owned());
        family.set_field_type(match description.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(metrics);
        self.families.push(family);
    }

    fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.families, &mut text) {
            error!(%error, "metrics cannot be written, which is a defect of portico");
        }
        text
    }
}
