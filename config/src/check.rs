//! What the file says becomes what the program runs on.
//!
//! Each table has one function that reports everything that does not fit together and then builds
//! its part of [`Config`]. A part is `None` only after a mistake was reported, and then there is no
//! `Config`; the other parts are checked all the same. Values are valid in themselves by now: here
//! they are only compared with each other.

mod listen;
mod pools;
mod rules;
mod tcp;
mod uses;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;

use portico_routing::backend::BackendHost;

use crate::config::{
    CertificateFiles, Compression, Config, Fallback, HeaderTemplate, Headers, Http2, Levels,
    Limits, Log, MassRemoval, Pages, Refuse, Registry, Server, Timeouts, Tls,
};
use crate::file::{
    CompressionFile, FallbackFile, File, HEADERS_SET, HeadersFile, LimitsFile, LogFile, RefuseFile,
    RegistryFile, ServerFile, TcpFile, TimeoutsFile, TlsFile,
};
use crate::reader::{Item, List, Map, Mistake, Place, Reader, default_value};
use crate::settings::Settings;
use crate::values::HeaderName;
use listen::{answers_https, check_listen, listeners, not_myself};
use pools::check_pools;
use rules::check_rules;
use tcp::{check_tcp, warn_of_mixed_headers};
use uses::{check_references, ingress_shares};

/// Checks the whole file. `None` when there is a mistake, now or before.
pub(crate) fn check(reader: &mut Reader<'_>, file: File) -> Option<Config> {
    let listeners = listeners(&file);
    different(
        reader,
        &listeners,
        |address| address.port() != 0,
        "this address",
    );
    check_references(reader, &file);
    let own: Vec<SocketAddr> = listeners.into_iter().map(|item| item.value).collect();

    // All parts first, so that each reports its mistakes; then the first `?`.
    let https = answers_https(reader, file.listen.value.as_ref(), file.tls.value.as_ref());
    let listen = file
        .listen
        .value
        .map(|listen| check_listen(reader, listen, https));
    let tls = file.tls.value.map(|tls| check_tls(reader, tls));
    let rules = check_rules(reader, file.domains, file.routes, &own);
    let registry = file.registry.value.map(check_registry);
    let pools = file
        .pools
        .value
        .and_then(|pools| check_pools(reader, pools, &own));
    let ingress = file
        .ingress
        .value
        .map(|ingress| ingress_shares(ingress, pools.as_ref()));
    let (headers_at, tcp) = match file.tcp.value {
        Some(tcp) => {
            let at = |item: &Item<TcpFile>| item.value.send_proxy_protocol.at.clone();
            let headers_at: Vec<Place> = tcp.items.iter().map(at).collect();
            (headers_at, check_tcp(reader, tcp))
        }
        None => (Vec::new(), None),
    };
    if let (Some(tcp), Some(Some(ingress)), Some(pools)) = (&tcp, &ingress, &pools) {
        warn_of_mixed_headers(reader, tcp, &headers_at, ingress, pools);
    }
    let fallback = file
        .fallback
        .value
        .and_then(|fallback| check_fallback(reader, fallback, &own));
    let limits = file
        .limits
        .value
        .map(|limits| check_limits(reader, &limits));
    let headers = file
        .headers
        .value
        .map(|headers| check_headers(reader, headers));
    let compression = file
        .compression
        .value
        .map(|compression| check_compression(reader, compression));

    if reader.has_errors() {
        return None;
    }
    Some(Config {
        server: server(&file.server.value?)?,
        listen: listen??,
        tls: tls??,
        rules: Arc::new(rules?),
        // The inner `None` is a mistake, the outer a table that is left out.
        registry: match registry {
            Some(registry) => Some(registry?),
            None => None,
        },
        pools: pools?,
        ingress: ingress??,
        tcp: tcp?,
        fallback: fallback?,
        pages: Pages {
            templates: file.pages.value?.templates.value?.0,
        },
        timeouts: timeouts(&file.timeouts.value?)?,
        limits: limits??,
        http2: Http2 {
            websocket: file.http2.value?.websocket.value?,
        },
        refuse: refuse(&file.refuse.value?)?,
        headers: headers??,
        compression: compression??,
        log: log(file.log.value?)?,
        settings: Settings::default(),
    })
}

fn server(server: &ServerFile) -> Option<Server> {
    Some(Server {
        workers: server.workers.value?.get()?,
        drain: server.drain.value?,
        name: server.name.value.as_ref()?.0.clone(),
    })
}

fn log(log: LogFile) -> Option<Log> {
    Some(Log {
        access: log.access.value?,
        format: log.format.value?,
        client_address: log.client_address.value?,
        level: log.level.value?,
    })
}

fn refuse(refuse: &RefuseFile) -> Option<Refuse> {
    Some(Refuse {
        empty_user_agent: refuse.empty_user_agent.value?,
        dry_run: refuse.dry_run.value?,
    })
}

/// Reports each item that stands before it already.
fn different<T: Eq + Hash>(
    reader: &mut Reader<'_>,
    items: &[Item<T>],
    counts: impl Fn(&T) -> bool,
    what: &str,
) {
    let mut first: HashMap<&T, &Place> = HashMap::new();
    for item in items.iter().filter(|item| counts(&item.value)) {
        match first.get(&item.value) {
            Some(other) => {
                let message = format!(
                    "{what} stands at {} (line {}) already",
                    other.key,
                    reader.line(other)
                );
                reader.error(
                    &item.at,
                    Mistake::new(message).allowed("each only once: remove one of the two"),
                );
            }
            None => {
                first.insert(&item.value, &item.at);
            }
        }
    }
}

fn check_fallback(
    reader: &mut Reader<'_>,
    fallback: FallbackFile,
    own: &[SocketAddr],
) -> Option<Fallback> {
    let backend = fallback.backend.value?.0;
    if let Some(backend) = &backend
        && let BackendHost::Ip(ip) = backend.host
    {
        let address = SocketAddr::new(ip, backend.port);
        not_myself(reader, address, own, &fallback.backend.at);
    }
    Some(Fallback {
        backend,
        help_url: fallback.help_url.value?.0,
    })
}

fn check_tls(reader: &mut Reader<'_>, tls: TlsFile) -> Option<Tls> {
    let items = tls.certificates.value?.items;
    let chains: Vec<_> = items
        .iter()
        .filter_map(|item| item.value.chain.item())
        .collect();
    different(reader, &chains, |_| true, "this chain");
    let mut certificates = Vec::new();
    for item in items {
        certificates.push(CertificateFiles {
            chain: item.value.chain.value?,
            key: item.value.key.value?,
        });
    }
    Some(Tls {
        certificates,
        min_version: tls.min_version.value?,
    })
}

fn check_registry(registry: RegistryFile) -> Option<Registry> {
    let mass_removal = registry.mass_removal.value?;
    Some(Registry {
        url: registry.url.value?,
        snapshot: registry.snapshot.value?,
        mass_removal: MassRemoval {
            percent: mass_removal.percent.value?.get()?,
            grace: mass_removal.grace.value?,
        },
        backends: registry.backends.value?.into_values().collect(),
    })
}

fn timeouts(timeouts: &TimeoutsFile) -> Option<Timeouts> {
    Some(Timeouts {
        header: timeouts.header.value?,
        body_idle: timeouts.body_idle.value?,
        keep_alive: timeouts.keep_alive.value?,
        connect: timeouts.connect.value?,
        response: timeouts.response.value?,
        handshake: timeouts.handshake.value?,
        write: timeouts.write.value?,
        upstream_idle: timeouts.upstream_idle.value?,
        tunnel: timeouts.tunnel.value?,
    })
}

fn check_limits(reader: &mut Reader<'_>, limits: &LimitsFile) -> Option<Limits> {
    let (header, uri) = (limits.header.value?.0, limits.uri.value?.0);
    if uri > header {
        let at = if limits.uri.written {
            &limits.uri.at
        } else {
            &limits.header.at
        };
        let mistake =
            Mistake::new("limits.uri is above limits.header, which holds the request target too");
        reader.error(at, mistake.allowed("uri at most as large as header"));
    }
    Some(Limits {
        body: limits.body.value?.0,
        header: usize::try_from(header).ok()?,
        uri: usize::try_from(uri).ok()?,
        connections: limits.connections.value?.get()?,
        streams: limits.streams.value?.get()?,
        in_flight_per_tool: limits.in_flight_per_tool.value?.get()?,
    })
}

fn check_headers(reader: &mut Reader<'_>, headers: HeadersFile) -> Option<Headers> {
    let lower = |list: List<HeaderName>| {
        list.into_values()
            .map(|name| name.0.to_ascii_lowercase().into())
            .collect()
    };
    let set = check_headers_set(reader, headers.set.value?);
    Some(Headers {
        hide: lower(headers.hide.value?),
        client_address: headers.client_address.value?,
        client_address_for: headers
            .client_address_for
            .value?
            .into_values()
            .map(|name| name.0)
            .collect(),
        hide_on_legacy: lower(headers.hide_on_legacy.value?),
        via: headers.via.value?.0,
        set,
    })
}

fn check_compression(reader: &mut Reader<'_>, compression: CompressionFile) -> Option<Compression> {
    let algorithms = compression.algorithms.value?;
    different(reader, &algorithms.items, |_| true, "this encoding");
    let level = compression.level.value?;
    Some(Compression {
        algorithms: algorithms.into_values().collect(),
        levels: Levels {
            gzip: level.gzip.value?.get()?,
            br: level.br.value?.get()?,
            zstd: level.zstd.value?.get()?,
        },
        min_size: compression.min_size.value?.0,
        off_for: compression
            .off_for
            .value?
            .into_values()
            .map(|name| name.0)
            .collect(),
        types: compression
            .types
            .value?
            .into_values()
            .map(|media_type| media_type.0)
            .collect(),
    })
}

/// The default with what is written joined to it; a name without a value is taken out.
fn check_headers_set(
    reader: &mut Reader<'_>,
    written: Map<HeaderName, HeaderTemplate>,
) -> Vec<(Box<str>, HeaderTemplate)> {
    let mut set: Vec<(Box<str>, HeaderTemplate)> = Vec::new();
    let default: Option<Map<HeaderName, HeaderTemplate>> = default_value(HEADERS_SET);
    for entry in default.into_iter().flat_map(|map| map.entries) {
        set.extend(entry.value.map(|value| (entry.key.0, value)));
    }
    let lower = |name: &HeaderName| name.0.to_ascii_lowercase();
    let names: Vec<Item<String>> = written
        .entries
        .iter()
        .map(|entry| Item {
            value: lower(&entry.key),
            at: entry.key_at.clone(),
        })
        .collect();
    different(reader, &names, |_| true, "this header (in any case)");
    for entry in written.entries {
        set.retain(|(name, _)| !name.eq_ignore_ascii_case(&entry.key.0));
        set.extend(
            entry
                .value
                .filter(|value| !value.parts.is_empty())
                .map(|value| (entry.key.0, value)),
        );
    }
    set
}
