//! What the file says becomes what the program runs on.
//!
//! Each table has one function that reports everything that does not fit together and then builds its part of
//! [`Config`]. A part is `None` only after a mistake was reported, and then there is no `Config`; the other parts are
//! checked all the same. Values are valid in themselves by now: here they are only compared with each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portico_routing::backend::{Backend, BackendHost};
use portico_routing::decide::Rules;
use portico_routing::host::{Apex, Domains};
use portico_routing::table::Entry;

use crate::config::{
    Balance, CertificateFiles, Check, Config, Fallback, HeaderTemplate, Headers, Limits, Listen,
    Log, MassRemoval, Node, NodeAddress, Pool, Refuse, Registry, Server, Timeouts, Tls,
};
use crate::diagnostic::nearest;
use crate::file::{
    BalanceWord, CheckFile, CheckWord, DomainsFile, File, HEADERS_SET, HeadersFile, IngressFile,
    LimitsFile, ListenFile, NodeFile, PoolFile, RegistryFile, TimeoutsFile, TlsFile,
};
use crate::reader::{Field, Item, List, Map, MapEntry, Mistake, Place, Reader, default_value};
use crate::values::{ApexWord, HeaderName, Name, page_host};

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
    let server = file.server.value.and_then(|server| {
        Some(Server {
            workers: server.workers.value?.get()?,
            drain: server.drain.value?,
        })
    });
    let redirects = listens_for_https(reader, file.listen.value.as_ref(), file.tls.value.as_ref());
    let listen = file
        .listen
        .value
        .and_then(|listen| check_listen(reader, listen, redirects));
    let tls = file.tls.value.and_then(|tls| check_tls(reader, tls));
    let rules = check_rules(reader, file.domains, file.routes, &own);
    let registry = file.registry.value.map(check_registry);
    let pools = file
        .pools
        .value
        .and_then(|pools| check_pools(reader, pools, &own));
    let ingress = file
        .ingress
        .value
        .map(|ingress| ingress_name(&ingress, pools.as_ref()));
    let fallback = file.fallback.value.and_then(|f| {
        Some(Fallback {
            help_url: f.help_url.value?.0,
        })
    });
    let timeouts = file.timeouts.value.and_then(check_timeouts);
    let limits = file
        .limits
        .value
        .and_then(|limits| check_limits(reader, &limits));
    let refuse = file.refuse.value.and_then(|refuse| {
        Some(Refuse {
            empty_user_agent: refuse.empty_user_agent.value?,
            dry_run: refuse.dry_run.value?,
        })
    });
    let headers = file
        .headers
        .value
        .and_then(|headers| check_headers(reader, headers));
    let log = file.log.value.and_then(|log| {
        Some(Log {
            level: log.level.value?,
        })
    });

    if reader.has_errors() {
        return None;
    }
    Some(Config {
        server: server?,
        listen: listen?,
        tls: tls?,
        rules: Arc::new(rules?),
        // The inner `None` is a mistake, the outer a table that is left out.
        registry: match registry {
            Some(registry) => Some(registry?),
            None => None,
        },
        pools: pools?,
        ingress: ingress?,
        fallback: fallback?,
        timeouts: timeouts?,
        limits: limits?,
        refuse: refuse?,
        headers: headers?,
        log: log?,
    })
}

/// Every address that is listened on, whatever for.
fn listeners(file: &File) -> Vec<Item<SocketAddr>> {
    let mut all: Vec<Item<SocketAddr>> = Vec::new();
    let mut one = |field: &Field<SocketAddr>| {
        all.extend(field.value.map(|value| Item {
            value,
            at: field.at.clone(),
        }));
    };
    if let Some(listen) = &file.listen.value {
        one(&listen.admin);
    }
    if let Some(registration) = &file.registration.value {
        one(&registration.listen);
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

/// Names of pools that are used: they exist, and those that exist are used.
fn check_references(reader: &mut Reader<'_>, file: &File) {
    let Some(pools) = &file.pools.value else {
        return;
    };
    let names: Vec<&str> = pools.entries.iter().map(|entry| &*entry.key.0).collect();
    let mut used: HashSet<&str> = HashSet::new();
    let mut uses: Vec<(&str, &Place)> = Vec::new();
    let mut has_ingress = names.contains(&"ingress");
    if let Some(ingress) = &file.ingress.value {
        has_ingress |= ingress.pool.written || ingress.split.written;
        match &ingress.pool.value {
            Some(name) => uses.push((&name.0, &ingress.pool.at)),
            None => _ = used.insert("ingress"),
        }
        let split = ingress.split.value.iter().flat_map(|split| &split.entries);
        uses.extend(split.map(|entry| (&*entry.key.0, &entry.key_at)));
        check_split(reader, ingress);
    }
    let tcp = file.tcp.value.iter().flat_map(|list| &list.items);
    uses.extend(
        tcp.filter_map(|tcp| Some((&*tcp.value.pool.value.as_ref()?.0, &tcp.value.pool.at))),
    );
    let mut all_exist = true;
    for (name, at) in uses {
        used.insert(name);
        if !names.contains(&name) {
            all_exist = false;
            let allowed = match names.is_empty() {
                true => format!("write a table [pools.{name}] with its nodes"),
                false => format!(
                    "{}, or write a table [pools.{name}] with its nodes",
                    names.join(", ")
                ),
            };
            let meant = nearest(name, names.iter().copied());
            reader.error(
                at,
                Mistake::new(format!("there is no pool `{name}`"))
                    .allowed(allowed)
                    .suggest(meant),
            );
        }
    }
    // Beside a name that does not exist it is most likely the one that was meant.
    for entry in pools
        .entries
        .iter()
        .filter(|entry| all_exist && !used.contains(&*entry.key.0))
    {
        let mistake =
            Mistake::new("nothing uses this pool").allowed("name it in [ingress], or remove it");
        reader.warning(&entry.key_at, mistake);
    }
    if !has_ingress && let Some(registry) = &file.registry.value {
        let mistake = Mistake::new(
            "there is a registry but no ingress: tools that are not registered get a 404",
        )
        .allowed("write [pools.ingress] with its nodes, if that is not what you want");
        reader.warning(&registry.at, mistake);
    }
    let tcp = file.tcp.value.iter().flat_map(|list| &list.items);
    let tcp: Vec<_> = tcp.filter_map(|tcp| tcp.value.name.item()).collect();
    different(reader, &tcp, |_| true, "this name");
}

fn check_split(reader: &mut Reader<'_>, ingress: &IngressFile) {
    let Some(split) = &ingress.split.value else {
        return;
    };
    if ingress.pool.written {
        let mistake =
            Mistake::new("there is a pool and a split").allowed("one of `pool` and `split`");
        reader.error(&ingress.split.at, mistake);
    }
    let shares: Option<Vec<u64>> = split
        .entries
        .iter()
        .map(|entry| Some(entry.value?.0))
        .collect();
    if let Some(shares) = shares
        && shares.iter().sum::<u64>() != 100
    {
        let mistake = Mistake::new(format!(
            "the shares add up to {}",
            shares.iter().sum::<u64>()
        ));
        reader.error(
            &ingress.split.at,
            mistake.allowed("percentages that add up to 100"),
        );
    }
}

/// Checks that HTTPS listeners have a certificate; returns whether anybody answers HTTPS.
fn listens_for_https(
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
    Some(Listen {
        http: http.into_values().collect(),
        redirect,
        https: https.into_values().collect(),
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

/// `[domains]` and `[routes]`.
fn check_rules(
    reader: &mut Reader<'_>,
    domains: Field<DomainsFile>,
    routes: Field<Map<Name, Backend>>,
    own: &[SocketAddr],
) -> Option<Rules> {
    let domains = domains.value?;
    check_legacy(reader, &domains);
    check_apex(reader, &domains);
    check_rename(reader, &domains);
    let reserved: HashSet<Box<str>> = domains
        .reserved
        .value?
        .into_values()
        .map(|name| name.0)
        .collect();
    let rename: HashMap<Box<str>, Box<str>> = domains
        .rename
        .value?
        .entries
        .into_iter()
        .filter_map(|entry| Some((entry.key.0, entry.value?.0)))
        .collect();

    let mut table = HashMap::new();
    for entry in routes.value.into_iter().flat_map(|map| map.entries) {
        let name = &entry.key.0;
        if reserved.contains(name) || rename.contains_key(name) {
            let mistake = Mistake::new(format!(
                "`{name}` is reserved or renamed in [domains]: the route is never used"
            ));
            reader.error(
                &entry.key_at,
                mistake.allowed("either the route or the line in [domains]"),
            );
        }
        let Some(backend) = entry.value else {
            continue;
        };
        if let BackendHost::Ip(ip) = backend.host {
            not_myself(
                reader,
                SocketAddr::new(ip, backend.port),
                own,
                &entry.value_at,
            );
        }
        let url = backend.to_string();
        let built = Entry::build([(b".*".as_slice(), url.as_bytes())], false, &|_| Ok(()));
        // The URL has been parsed already; should the table refuse it all the same, its reason is the mistake.
        for bad in &built.bad {
            reader.error(
                &entry.value_at,
                Mistake::new(format!("not usable as a route: {}", bad.reason)),
            );
        }
        table.insert(entry.key.0, Arc::new(built));
    }
    let apex = match domains.apex.value? {
        ApexWord::Ingress => Apex::Ingress,
        ApexWord::Redirect(url) => Apex::Redirect(url),
    };
    let legacy = domains
        .legacy
        .value?
        .into_values()
        .map(|domain| domain.0)
        .collect();
    let domains = Domains {
        canonical: domains.canonical.value?.0,
        legacy,
        apex,
        reserved,
        rename,
    };
    Some(Rules {
        domains,
        routes: table,
    })
}

fn check_legacy(reader: &mut Reader<'_>, domains: &DomainsFile) {
    let legacy = domains
        .legacy
        .value
        .as_ref()
        .map(|list| list.items.as_slice())
        .unwrap_or_default();
    let names: Vec<Item<&str>> = legacy
        .iter()
        .map(|item| Item {
            value: &*item.value.0,
            at: item.at.clone(),
        })
        .collect();
    different(reader, &names, |_| true, "this domain");
    let Some(canonical) = domains.canonical.value.as_ref().map(|domain| &*domain.0) else {
        return;
    };
    for item in &names {
        let under = item
            .value
            .strip_suffix(canonical)
            .is_some_and(|rest| rest.ends_with('.'));
        if item.value == canonical {
            let mistake = Mistake::new("the canonical domain cannot be a legacy domain too");
            reader.error(
                &item.at,
                mistake.allowed("a domain that tools share, or nothing"),
            );
        } else if under {
            let mistake = Mistake::new(format!(
                "stands under the canonical domain {canonical}, where hosts are tools"
            ));
            reader.error(
                &item.at,
                mistake.allowed("a domain outside of the canonical one (T253816)"),
            );
        }
    }
}

fn check_apex(reader: &mut Reader<'_>, domains: &DomainsFile) {
    if let Some(ApexWord::Redirect(url)) = &domains.apex.value
        && let Some(canonical) = &domains.canonical.value
        && page_host(url) == *canonical.0
    {
        let mistake = Mistake::new("the bare domain would be redirected to itself, for ever");
        reader.error(
            &domains.apex.at,
            mistake.allowed("\"ingress\", or a URL of another host"),
        );
    }
}

fn check_rename(reader: &mut Reader<'_>, domains: &DomainsFile) {
    let entries = domains
        .rename
        .value
        .as_ref()
        .map(|map| map.entries.as_slice())
        .unwrap_or_default();
    let reserved: HashSet<&str> = domains
        .reserved
        .value
        .iter()
        .flat_map(|l| &l.items)
        .map(|i| &*i.value.0)
        .collect();
    for entry in entries {
        if reserved.contains(&*entry.key.0) {
            let mistake = Mistake::new("is reserved and renamed").allowed("one of the two");
            reader.error(&entry.key_at, mistake);
        }
        let Some(to) = &entry.value else {
            continue;
        };
        if entry.key == *to {
            let mistake =
                Mistake::new("is renamed to itself: browsers would be redirected for ever");
            reader.error(
                &entry.value_at,
                mistake.allowed("another name, or leave the line out"),
            );
        } else if entries.iter().any(|other| other.key == *to) {
            let message = format!(
                "`{}` is renamed itself: browsers would be redirected twice or for ever",
                to.0
            );
            let mistake = Mistake::new(message).allowed("a name that is not renamed");
            let end = end_of_renames(entries, to).map(|end| format!("{:?}", end.0));
            reader.error(&entry.value_at, mistake.suggest(end));
        }
    }
    let items: Vec<_> = domains
        .reserved
        .value
        .iter()
        .flat_map(|list| list.items.iter().cloned())
        .collect();
    different(reader, &items, |_| true, "this label");
}

/// The name that is not renamed, at the end of the chain; `None` for a circle.
fn end_of_renames<'a>(entries: &'a [MapEntry<Name, Name>], from: &'a Name) -> Option<&'a Name> {
    let mut name = from;
    // A chain is no longer than its links.
    for _ in entries {
        match entries.iter().find(|entry| entry.key == *name) {
            Some(next) => name = next.value.as_ref()?,
            None => return Some(name),
        }
    }
    None
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

fn check_pools(
    reader: &mut Reader<'_>,
    pools: Map<Name, PoolFile>,
    own: &[SocketAddr],
) -> Option<BTreeMap<Box<str>, Pool>> {
    let built: Vec<Option<Pool>> = pools
        .entries
        .into_iter()
        .map(|entry| check_pool(reader, entry.key, entry.value?, own))
        .collect();
    // Every pool has been checked; now one that is broken breaks all.
    built
        .into_iter()
        .map(|pool| pool.map(|pool| (pool.name.clone(), pool)))
        .collect()
}

fn check_pool(
    reader: &mut Reader<'_>,
    name: Name,
    pool: PoolFile,
    own: &[SocketAddr],
) -> Option<Pool> {
    let check = pool
        .check
        .value
        .and_then(|check| check_check(reader, check));
    let nodes = pool.nodes.value?;
    if nodes.is_empty() {
        reader.error(
            &pool.nodes.at,
            Mistake::new("a pool needs at least one server")
                .allowed("addresses such as \"192.0.2.1:30000\""),
        );
    }
    let address = |item: &Item<NodeFile>| {
        Some(Item {
            value: item.value.address.clone()?,
            at: item.at.clone(),
        })
    };
    let addresses: Vec<Item<NodeAddress>> = nodes.items.iter().filter_map(address).collect();
    different(reader, &addresses, |_| true, "this server");
    for item in &addresses {
        if let NodeAddress::Ip(ip) = &item.value {
            not_myself(reader, *ip, own, &item.at);
        }
    }
    let node = |node: NodeFile| {
        Some(Node {
            address: node.address?,
            weight: node.weight?.get()?,
        })
    };
    let balance = match pool.balance.value? {
        BalanceWord::RoundRobin => Some(Balance::RoundRobin),
        // Refused in `unbuilt`.
        BalanceWord::LeastRequests => None,
    };
    let nodes = nodes.into_values().map(node).collect::<Option<_>>()?;
    Some(Pool {
        name: name.0,
        nodes,
        balance: balance?,
        check: check?,
    })
}

fn check_check(reader: &mut Reader<'_>, check: CheckFile) -> Option<Check> {
    let kind = check.kind.value?;
    if kind == CheckWord::Tcp {
        let of_http = [
            check.host.place(),
            check.path.place(),
            check.expect.place(),
            check.verify.place(),
        ];
        for at in of_http.iter().flatten() {
            if !reader.has_error_at(at.offset) {
                let mistake = Mistake::new("a TCP check has no such thing")
                    .allowed("kind = \"http\" or \"https\"");
                reader.error(at, mistake);
            }
        }
    }
    if kind == CheckWord::Http
        && let Some(at) = check.verify.place()
    {
        reader.error(
            &at,
            Mistake::new("without TLS there is nothing to verify").allowed("kind = \"https\""),
        );
    }
    Some(Check {
        kind: kind.kind()?,
        interval: check.interval.value?,
        down_interval: check.down_interval.value?,
        timeout: check.timeout.value?,
        rise: check.rise.value?.get()?,
        fall: check.fall.value?.get()?,
        port: match check.port.value {
            Some(port) => Some(port.get()?),
            None => None,
        },
    })
}

/// The pool that `[ingress]` means, written or not. Names were checked with the other references.
fn ingress_name(
    ingress: &IngressFile,
    pools: Option<&BTreeMap<Box<str>, Pool>>,
) -> Option<Box<str>> {
    match &ingress.pool.value {
        Some(name) => Some(name.0.clone()),
        None => pools?.contains_key("ingress").then(|| "ingress".into()),
    }
}

fn check_timeouts(timeouts: TimeoutsFile) -> Option<Timeouts> {
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
