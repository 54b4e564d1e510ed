//! `/status`: what goes on, as JSON for scripts or as text for people.
//!
//! Nothing here looks at the whole table: it may be asked every few seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::State;
use super::answer::{Body, Form, bad_request, json, text};
use super::health::unready;
use super::query::Query;
use crate::pools::report::{LastCheck, NodeReport, PoolReport, report};
use crate::process::{Process, Stage};
use crate::registry::{Mode, Source};
use crate::start;
use crate::telemetry::access_log::Dropped;
use crate::telemetry::metrics::Totals;
use crate::terminal::visible;
use crate::time_text::{in_words, rfc3339};
use crate::tls::CertificateStore;

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    pid: u32,
    started: String,
    uptime_seconds: u64,
    /// `starting`, `serving` or `draining`.
    state: &'static str,
    ready: bool,
    not_ready_because: Vec<&'static str>,
    config_file: String,
    workers: usize,
    connections: Places,
    backend_connections: Places,
    tools: Tools,
    registry: Option<Registry>,
    certificates: Vec<Certificate>,
    certificate_failures: u64,
    requests: Totals,
    pools: Vec<PoolReport>,
    reloads: Reloads,
    access_log: AccessLog,
}

#[derive(Debug, Serialize)]
struct Places {
    open: usize,
    limit: usize,
}

#[derive(Debug, Serialize)]
struct Tools {
    config: usize,
    registry: usize,
}

#[derive(Debug, Serialize)]
struct Registry {
    connected: bool,
    /// Why it is not; `null`: it is.
    error: Option<String>,
    /// `redis` or `snapshot`.
    source: &'static str,
    snapshot_written: Option<String>,
    last_sync: Option<String>,
    age_seconds: Option<u64>,
    /// How changes become known; `null`: redis was not reached since the start.
    mode: Option<&'static str>,
    /// Why not in a better way; `null`: there is none.
    mode_reason: Option<String>,
    held_back: u64,
    /// Of those held back, the ones kept by hand.
    kept: u64,
    /// When the first of the others leaves, unless it comes back.
    held_until: Option<String>,
    bad_tools: u64,
    bad_routes: usize,
    bad_keys: u64,
    changes: u64,
    drift: u64,
    disconnects: u64,
    snapshot_path: String,
    /// When this process last wrote it; `null`: never.
    snapshot_saved: Option<String>,
    snapshot_failures: u64,
    /// Why the last write failed; `null`: it did not.
    snapshot_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    name: String,
    file: String,
    expires: String,
    /// Below 0: it has expired.
    days_left: i64,
    /// Why the files on disk are not in use; `null`: they are.
    broken_on_disk: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reloads {
    succeeded: u64,
    failed: u64,
    last: Option<LastReload>,
}

#[derive(Debug, Serialize)]
struct AccessLog {
    on: bool,
    lines: u64,
    bytes: u64,
    /// By reason.
    dropped: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct LastReload {
    time: String,
    /// Why nothing was changed; `null`: it was.
    mistakes: Option<String>,
    warnings: Vec<String>,
}

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    let query = Query::parse(request, &["format"]);
    let form = match query.and_then(|query| Form::of(request, &query, Form::Json)) {
        Ok(form) => form,
        Err(why) => return bad_request(&why),
    };
    // Certificates are behind a lock that is held while their files are read.
    match state
        .aside(false, |state| Status::of(state, SystemTime::now()))
        .await
    {
        Ok(status) if form == Form::Json => json(StatusCode::OK, &status),
        Ok(status) => text(StatusCode::OK, status.in_words()),
        Err(response) => response,
    }
}

impl Status {
    fn of(state: &State, now: SystemTime) -> Self {
        let process = &*state.process;
        let snapshot = process.snapshot.load_full();
        let config = &snapshot.config;
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default();
        let reasons = unready(process);
        let store = snapshot.tls.as_ref().map(|tls| &*tls.certificates);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: rfc3339(process.started),
            uptime_seconds: since(process.started).as_secs(),
            state: match process.stage() {
                Stage::Starting => "starting",
                Stage::Serving => "serving",
                Stage::Draining => "draining",
            },
            ready: reasons.is_empty(),
            not_ready_because: reasons,
            config_file: config.settings.file.clone(),
            workers: start::worker_count(config),
            connections: Places::of(&process.connections),
            backend_connections: Places::of(&process.backends),
            tools: Tools {
                config: config.rules.routes.len(),
                registry: process.table.len(),
            },
            registry: (config.registry.as_ref())
                .map(|config| registry(process, &config.snapshot, now)),
            certificates: store.map_or_else(Vec::new, |store| certificates(store, now)),
            certificate_failures: store.map_or(0, |store| store.failures()),
            requests: process.metrics.totals(),
            pools: report(&snapshot, now),
            reloads: reloads(process),
            access_log: access_log(process, process.access_log.load().is_some()),
        }
    }

    fn in_words(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<20} {value}");
        };
        line("portico", format!("{}, pid {}", self.version, self.pid));
        line("configuration", self.config_file.clone());
        let uptime = in_words(Duration::from_secs(self.uptime_seconds));
        line("started", format!("{}, {uptime} ago", self.started));
        line("state", self.state.to_owned());
        match self.not_ready_because.as_slice() {
            [] => line("ready", "yes".to_owned()),
            reasons => line("ready", format!("no; {}", reasons.join("; "))),
        }
        line("workers", self.workers.to_string());
        let places = |places: &Places| format!("{} of {}", places.open, places.limit);
        line("connections", places(&self.connections));
        line("  to backends", places(&self.backend_connections));
        let Totals {
            requests,
            in_flight,
            tunnels,
            failures,
        } = &self.requests;
        line(
            "requests",
            format!("{requests} ended, {in_flight} in flight, {tunnels} of them tunnels"),
        );
        line(
            "  failures",
            format!(
                "client {}, tool {}, platform {}, proxy {}",
                failures.client, failures.tool, failures.platform, failures.proxy
            ),
        );
        let Tools { config, registry } = self.tools;
        line(
            "tools",
            format!("{registry} in the registry, {config} in the configuration"),
        );
        if let Some(registry) = &self.registry {
            line("registry", registry.in_words());
            if let Some(mode) = registry.mode_in_words() {
                line("  changes", mode);
            }
            if let Some(held) = registry.held_in_words() {
                line("  held back", held);
            }
            if let Some(bad) = registry.bad_in_words() {
                line("  skipped", bad);
            }
            line("  snapshot", registry.snapshot_in_words());
        }
        for certificate in &self.certificates {
            let Certificate {
                name,
                file,
                expires,
                days_left,
                broken_on_disk,
            } = certificate;
            let left = match days_left {
                ..0 => "EXPIRED".to_owned(),
                0..14 => format!("ONLY {days_left} days"),
                14.. => format!("{days_left} days"),
            };
            line(
                "certificate",
                format!("{name}, until {expires} ({left}), {file}"),
            );
            if let Some(why) = broken_on_disk {
                line("  on disk", format!("BROKEN, not in use: {why}"));
            }
        }
        for pool in &self.pools {
            line(&format!("pool {}", pool.name), pool_in_words(pool));
            for node in &pool.nodes {
                line("", node_in_words(node));
            }
        }
        let AccessLog {
            on, lines, dropped, ..
        } = &self.access_log;
        let on = if *on { "on" } else { "off" };
        let dropped: u64 = dropped.values().sum();
        line(
            "access log",
            format!("{on}, {lines} lines, {dropped} dropped"),
        );
        let Reloads {
            succeeded,
            failed,
            last,
        } = &self.reloads;
        line("reloads", format!("{succeeded}, and {failed} that failed"));
        if let Some(LastReload { time, mistakes, .. }) = last {
            let outcome = match mistakes {
                Some(mistakes) => format!("FAILED\n{mistakes}"),
                None => "succeeded".to_owned(),
            };
            line("  the last", format!("{time}, {outcome}"));
        }
        out
    }
}

fn pool_in_words(pool: &PoolReport) -> String {
    let state = match pool.trouble {
        None => pool.state.to_string(),
        Some(trouble) => format!("{}: {}", pool.state, trouble.to_uppercase()),
    };
    let share = match pool.ingress_percent {
        None | Some(100) => String::new(),
        Some(percent) => format!(", {percent} % of the ingress"),
    };
    let (waiting, limit) = (pool.waiting, pool.queue_limit);
    let refused = match pool.refused.sum() {
        0 => String::new(),
        refused => format!(", {refused} refused for want of a place"),
    };
    format!("{state}{share}, {waiting} of {limit} waiting{refused}")
}

fn node_in_words(node: &NodeReport) -> String {
    let span = in_words(Duration::from_secs(node.seconds));
    let by_hand = match node.weight.set {
        Some(weight) => format!(", weight {weight} by hand"),
        None => String::new(),
    };
    let (taken, limit) = (node.in_flight, node.limit);
    let why = match &node.checks.last {
        Some(LastCheck {
            error: Some(why), ..
        }) if !node.up => format!("; its last check: {}", visible(why)),
        _ => String::new(),
    };
    format!(
        "{} {} for {span}, {taken} of {limit} in flight{by_hand}{why}{}",
        node.address,
        node.state,
        node.why_down()
    )
}

impl Registry {
    fn in_words(&self) -> String {
        let state = match &self.error {
            _ if self.connected => "connected".to_owned(),
            Some(why) => format!("NOT CONNECTED ({why})"),
            None => "NOT CONNECTED".to_owned(),
        };
        let age = match self.age_seconds {
            Some(age) => format!("in step {} ago", in_words(Duration::from_secs(age))),
            None => "never in step since the start".to_owned(),
        };
        let source = match &self.snapshot_written {
            Some(written) => format!(", routes from the snapshot of {written}"),
            None => String::new(),
        };
        format!("{state}, {age}{source}")
    }

    fn snapshot_in_words(&self) -> String {
        let saved = match &self.snapshot_saved {
            Some(saved) => format!("written {saved}"),
            None => "not written since the start".to_owned(),
        };
        let error = match &self.snapshot_error {
            Some(why) => format!(", CANNOT BE WRITTEN: {why}"),
            None => String::new(),
        };
        format!("{saved}, {}{error}", self.snapshot_path)
    }

    fn mode_in_words(&self) -> Option<String> {
        let how = match self.mode? {
            "tracking" => "pushed by redis",
            "keyspace" => "told by keyspace notifications",
            _ => "found by POLLING",
        };
        Some(match &self.mode_reason {
            None => how.to_owned(),
            Some(why) => format!("{how}: {why}"),
        })
    }

    /// What is to be decided, until when, and how.
    fn held_in_words(&self) -> Option<String> {
        let (held, kept) = (self.held_back, self.kept);
        let waiting = held.saturating_sub(kept);
        let mut said = Vec::new();
        if waiting > 0 {
            let until = match &self.held_until {
                Some(until) => format!("stay in use until {until}"),
                None => "stay in use for the grace time".to_owned(),
            };
            said.push(format!(
                "{waiting} TOOLS VANISHED FROM REDIS and {until}: restore redis, or decide: \
                 portico routes keep | apply"
            ));
        }
        if kept > 0 {
            said.push(format!(
                "{kept} TOOLS that redis does not hold ARE KEPT by hand, until it does or until: \
                 portico routes apply"
            ));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn bad_in_words(&self) -> Option<String> {
        let (routes, tools, keys) = (self.bad_routes, self.bad_tools, self.bad_keys);
        let routes_of = format!("{routes} bad routes of {tools} tools");
        let what = match (routes, keys) {
            (0, 0) => return None,
            (_, 0) => routes_of,
            (0, keys) => format!("{keys} keys that name no tool"),
            (_, keys) => format!("{routes_of}, {keys} keys that name no tool"),
        };
        Some(format!("{what}: portico routes --bad"))
    }
}

impl Places {
    fn of(places: &crate::places::Places) -> Self {
        Self {
            open: places.taken(),
            limit: places.limit(),
        }
    }
}

fn access_log(process: &Process, on: bool) -> AccessLog {
    let totals = process.access_log_counts.totals();
    let reasons = Dropped::ALL.map(Dropped::as_str);
    AccessLog {
        on,
        lines: totals.lines,
        bytes: totals.bytes,
        dropped: reasons.into_iter().zip(totals.dropped).collect(),
    }
}

fn reloads(process: &Process) -> Reloads {
    let last = process.reloads.last().map(|last| {
        let (mistakes, warnings) = match last.outcome {
            Ok(report) => (None, report.warnings),
            Err(mistakes) => (Some(mistakes), Vec::new()),
        };
        LastReload {
            time: rfc3339(last.time),
            mistakes,
            warnings,
        }
    });
    Reloads {
        succeeded: process.reloads.succeeded(),
        failed: process.reloads.failed(),
        last,
    }
}

fn registry(process: &Process, snapshot: &Path, now: SystemTime) -> Registry {
    let status = &process.registry_status;
    let last_sync = status.last_sync();
    let written = match status.source() {
        Source::Redis => None,
        Source::Snapshot(written) => Some(written),
    };
    let (mode, reason) = status.mode().unzip();
    Registry {
        connected: status.connected(),
        error: status.redis_error().map(String::from),
        source: if written.is_some() {
            "snapshot"
        } else {
            "redis"
        },
        snapshot_written: written.map(rfc3339),
        last_sync: last_sync.map(rfc3339),
        age_seconds: last_sync.map(|sync| now.duration_since(sync).unwrap_or_default().as_secs()),
        mode: mode.map(Mode::as_str),
        mode_reason: reason.filter(|why| !why.is_empty()).map(String::from),
        held_back: status.held_back(),
        kept: status.kept(),
        held_until: status.first_release().map(rfc3339),
        bad_tools: status.bad_tools(),
        bad_routes: process.table.bad_routes(),
        bad_keys: status.bad_keys(),
        changes: status.changes(),
        drift: status.drift(),
        disconnects: status.disconnects(),
        snapshot_path: snapshot.display().to_string(),
        snapshot_saved: (status.snapshot_saved()).map(|(time, _)| rfc3339(time)),
        snapshot_failures: status.snapshot_failures(),
        snapshot_error: status.snapshot_error().map(String::from),
    }
}

fn certificates(store: &CertificateStore, now: SystemTime) -> Vec<Certificate> {
    let broken = store.broken();
    let certificate = |(expiry, broken): (crate::tls::CertificateExpiry, &Option<String>)| {
        let days = |span: Duration| i64::try_from(span.as_secs() / 86_400).unwrap_or(i64::MAX);
        Certificate {
            name: expiry.name,
            file: expiry.chain.display().to_string(),
            expires: rfc3339(expiry.not_after),
            days_left: match expiry.not_after.duration_since(now) {
                Ok(left) => days(left),
                Err(over) => -1 - days(over.duration()),
            },
            broken_on_disk: broken.clone(),
        }
    };
    let pairs = store.expiries().into_iter().zip(&*broken);
    pairs.map(certificate).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::RegistryStatus;

    /// No number is shown as another one: all differ.
    #[test]
    fn every_count_of_the_registry_has_its_own_key() {
        let config = r#"
            [listen]
            https = []
            redirect = false
            [domains]
            canonical = "toolforge.org"
            [registry]
            url = "redis://127.0.0.1:4"
            snapshot = "/nonexistent/routes"
        "#;
        let config = portico_config::parse("test", config).unwrap().config;
        let prepared = start::prepare_config(config, Vec::new()).unwrap();
        let mut process = prepared.process;
        Arc::get_mut(&mut process).unwrap().registry_status = Arc::new(RegistryStatus::sample());
        let shown = serde_json::to_value(registry(
            &process,
            Path::new("/nonexistent/routes"),
            SystemTime::now(),
        ))
        .unwrap();
        let expected = serde_json::json!({
            "connected": true,
            "error": null,
            "source": "snapshot",
            "snapshot_written": "1970-01-01T00:01:45Z",
            "last_sync": null,
            "age_seconds": null,
            "mode": "keyspace",
            "mode_reason": "it refuses CLIENT TRACKING",
            "held_back": 101,
            "kept": 37,
            "held_until": shown["held_until"],
            "bad_tools": 38,
            "bad_routes": 0,
            "bad_keys": 102,
            "changes": 103,
            "drift": 104,
            "disconnects": 3,
            "snapshot_path": "/nonexistent/routes",
            "snapshot_saved": "1970-01-01T00:01:46Z",
            "snapshot_failures": 2,
            "snapshot_error": "no space",
        });
        assert_eq!(shown, expected);
        assert!(shown["held_until"].is_string());
    }

    fn some() -> Registry {
        Registry {
            connected: true,
            error: None,
            source: "redis",
            snapshot_written: None,
            last_sync: None,
            age_seconds: Some(70),
            mode: Some("tracking"),
            mode_reason: None,
            held_back: 0,
            kept: 0,
            held_until: None,
            bad_tools: 0,
            bad_routes: 0,
            bad_keys: 0,
            changes: 0,
            drift: 0,
            disconnects: 0,
            snapshot_path: "/s".to_owned(),
            snapshot_saved: None,
            snapshot_failures: 0,
            snapshot_error: None,
        }
    }

    #[track_caller]
    fn check_held(held_back: u64, kept: u64, expected: Option<&str>) {
        let registry = Registry {
            held_back,
            kept,
            held_until: Some("2026-11-20T20:01:36Z".to_owned()),
            ..some()
        };
        assert_eq!(registry.held_in_words().as_deref(), expected);
    }

    #[test]
    fn what_has_to_be_decided_stands_out_with_how() {
        check_held(0, 0, None);
        check_held(
            12,
            0,
            Some(
                "12 TOOLS VANISHED FROM REDIS and stay in use until 2026-11-20T20:01:36Z: restore redis, or decide: \
                 portico routes keep | apply",
            ),
        );
        let kept = "5 TOOLS that redis does not hold ARE KEPT by hand, until it does or until: portico routes apply";
        check_held(5, 5, Some(kept));
        let both = Registry {
            held_back: 7,
            kept: 5,
            ..some()
        };
        let said = both.held_in_words().unwrap();
        assert!(said.starts_with("2 TOOLS VANISHED"), "{said}");
        assert!(said.ends_with(kept), "{said}");
    }

    #[test]
    fn how_changes_become_known_and_what_is_skipped() {
        assert_eq!(some().in_words(), "connected, in step 1m 10s ago");
        let away = Registry {
            connected: false,
            error: Some("it closed the connection".to_owned()),
            snapshot_error: Some("no space".to_owned()),
            ..some()
        };
        let expected = "NOT CONNECTED (it closed the connection), in step 1m 10s ago";
        assert_eq!(away.in_words(), expected);
        let expected = "not written since the start, /s, CANNOT BE WRITTEN: no space";
        assert_eq!(away.snapshot_in_words(), expected);
        assert_eq!(some().mode_in_words().as_deref(), Some("pushed by redis"));
        let worse = Registry {
            mode: Some("polling"),
            mode_reason: Some("redis refuses CLIENT".to_owned()),
            ..some()
        };
        let expected = "found by POLLING: redis refuses CLIENT";
        assert_eq!(worse.mode_in_words().as_deref(), Some(expected));
        assert_eq!(some().bad_in_words(), None);
        let bad = Registry {
            bad_routes: 3,
            bad_tools: 2,
            bad_keys: 1,
            ..some()
        };
        let expected = "3 bad routes of 2 tools, 1 keys that name no tool: portico routes --bad";
        assert_eq!(bad.bad_in_words().as_deref(), Some(expected));
    }
}
