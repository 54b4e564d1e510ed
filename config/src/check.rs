//! What the file says becomes what the program runs on.
//!
//! Each table has one function that reports everything that does not fit together and then builds
//! its part of [`Config`]. A part is `None` only after a mistake was reported, and then there is no
//! `Config`; the other parts are checked all the same. Values are valid in themselves by now: here
//! they are only compared with each other.

mod pools;
mod rules;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use portico_routing::backend::BackendHost;

use crate::config::{
    AdminAddress, CertificateFiles, Compression, Config, Fallback, HeaderTemplate, Headers, Http2,
    Levels, Limits, Listen, Log, MassRemoval, Pages, Refuse, Registry, Server, Timeouts, Tls,
};
use crate::file::{
    CompressionFile, FallbackFile, File, HEADERS_SET, HeadersFile, LimitsFile, ListenFile, LogFile,
    RefuseFile, RegistryFile, ServerFile, TimeoutsFile, TlsFile,
};
use crate::reader::{Item, List, Map, Mistake, Place, Reader, default_value};
use crate::settings::Settings;
use crate::values::{HeaderName, MaybeAdmin};
use pools::{check_pools, check_references, check_tcp, ingress_shares};
use rules::check_rules;

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
    let tcp = file.tcp.value.map(|tcp| check_tcp(reader, tcp));
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
        tcp: tcp??,
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

/// Every address that is listened on, whatever for.
fn listeners(file: &File) -> Vec<Item<SocketAddr>> {
    let mut all: Vec<Item<SocketAddr>> = Vec::new();
    let mut one = |value: SocketAddr, at: &Place| {
        let at = at.clone();
        all.push(Item { value, at });
    };
    if let Some(listen) = &file.listen.value
        && let Some(MaybeAdmin(Some(AdminAddress::Tcp(address)))) = &listen.admin.value
    {
        one(*address, &listen.admin.at);
    }
    if let Some(registration) = &file.registration.value
        && let Some(address) = registration.listen.value
    {
        one(address, &registration.listen.at);
    }
    let listen = file
        .listen
        .value
        .iter()
        .flat_map(|listen| [&listen.http, &listen.https]);
    let tcp = file
        .tcp
        .value
        .iter()
        .flat_map(|list| &list.items)
        .map(|tcp| &tcp.value.listen);
    for field in listen.chain(tcp) {
        all.extend(
            field
                .value
                .iter()
                .flat_map(|list| list.items.iter().cloned()),
        );
    }
    all.sort_by_key(|item| item.at.offset);
    all
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

/// Checks that HTTPS listeners have a certificate; returns whether anybody answers HTTPS.
fn answers_https(
    reader: &mut Reader<'_>,
    listen: Option<&ListenFile>,
    tls: Option<&TlsFile>,
) -> bool {
    let https = listen.and_then(|listen| listen.https.value.as_ref());
    let Some(https) = https.filter(|https| !https.is_empty()) else {
        let certificates = tls.and_then(|tls| tls.certificates.item());
        if let Some(certificates) = certificates.filter(|c| https.is_some() && !c.value.is_empty())
        {
            let mistake = Mistake::new("nobody uses the certificates: listen.https is empty");
            reader.warning(&certificates.at, mistake);
        }
        return https.is_none();
    };
    let certificates = tls.and_then(|tls| tls.certificates.value.as_ref());
    if certificates.is_some_and(List::is_empty) {
        let default = match listen.is_some_and(|listen| listen.https.written) {
            true => "",
            false => " (it is [\"[::]:443\"] unless written)",
        };
        let at = listen
            .map(|listen| listen.https.at.clone())
            .or_else(|| https.items.first().map(|i| i.at.clone()));
        if let Some(at) = at {
            let mistake = Mistake::new(format!("HTTPS needs a certificate{default}"));
            reader.error(
                &at,
                mistake.allowed("write tls.certificates, or listen.https = [] to go without HTTPS"),
            );
        }
    }
    true
}

fn check_listen(
    reader: &mut Reader<'_>,
    listen: ListenFile,
    https_answered: bool,
) -> Option<Listen> {
    let (http, redirect) = (listen.http.value?, listen.redirect.value?);
    let https = listen.https.value?;
    if http.is_empty() && https.is_empty() {
        reader.error(
            &listen.at,
            Mistake::new("portico would listen nowhere").allowed("an address in `http` or `https`"),
        );
    }
    if redirect && !http.is_empty() && !https_answered {
        let mistake = Mistake::new("plain HTTP is redirected to HTTPS, but `https` is empty")
            .allowed("redirect = false, unless something else answers HTTPS");
        reader.warning(&listen.redirect.at, mistake);
    }
    for item in http
        .items
        .iter()
        .chain(&https.items)
        .filter(|item| item.value.port() == 0)
    {
        reader.warning(
            &item.at,
            Mistake::new("port 0: the system chooses a free port, each time another one"),
        );
    }
    let admin = listen.admin.value?.0;
    if let Some(AdminAddress::Tcp(address)) = &admin {
        check_admin(reader, *address, &listen.admin.at);
    }
    let proxy_protocol_from = listen.proxy_protocol_from.value?;
    check_proxy_protocol_from(reader, &proxy_protocol_from);
    Some(Listen {
        http: http.into_values().collect(),
        redirect,
        https: https.into_values().collect(),
        admin,
        proxy_protocol_from: proxy_protocol_from.into_values().collect(),
    })
}

/// Whoever reaches the administration may use it: there is no password.
fn check_admin(reader: &mut Reader<'_>, address: SocketAddr, at: &Place) {
    if address.port() == 0 {
        let mistake = Mistake::new("port 0: the administration needs a port that is known")
            .allowed("a port of 1 to 65535, so that routes can be kept away from it");
        reader.error(at, mistake);
    }
    if !address.ip().to_canonical().is_loopback() {
        let mistake = Mistake::new(format!(
            "everybody who can connect to {address} may read all routes, the configuration and the metrics, \
             and may have the configuration reloaded"
        ));
        reader.warning(
            at,
            mistake.allowed(
                "an address on loopback, \"unix:\" and a path, or a firewall in front of it",
            ),
        );
    }
}

/// Who may say for whom a connection is made.
fn check_proxy_protocol_from(reader: &mut Reader<'_>, networks: &List<IpNet>) {
    different(reader, &networks.items, |_| true, "this network");
    for item in networks.items.iter().filter(|n| n.value.prefix_len() == 0) {
        let mistake = Mistake::new(
            "every client must send a PROXY protocol header, and is believed whatever address it names",
        );
        reader.warning(
            &item.at,
            mistake.allowed("the networks of the load balancers"),
        );
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

/// Reports an address that is one of portico's own: requests would go round in circles.
fn not_myself(reader: &mut Reader<'_>, address: SocketAddr, own: &[SocketAddr], at: &Place) {
    let same = |listener: &&SocketAddr| {
        let (ip, to) = (listener.ip().to_canonical(), address.ip().to_canonical());
        // A listener on all addresses is met at each; only those of this machine are known here.
        listener.port() == address.port()
            && (ip == to || (ip.is_unspecified() && is_this_machine(to)))
    };
    if let Some(listener) = own.iter().find(same) {
        let mistake = Mistake::new(format!("{address} is portico's own listener {listener}"));
        reader.error(at, mistake.allowed("the address of a server"));
    }
}

fn is_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
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
