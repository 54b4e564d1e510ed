//! Pools, and who uses them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{different, not_myself};
use crate::config::{
    Balance, Check, CheckKind, HttpCheck, Node, NodeAddress, Pool, Share, TcpListener,
};
use crate::diagnostic::nearest;
use crate::file::{
    BalanceWord, CheckFile, CheckWord, File, IngressFile, NodeFile, PoolFile, TcpFile,
};
use crate::reader::{Item, List, Map, Mistake, Place, Reader};
use crate::values::Name;

/// Names of pools that are used: they exist, and those that exist are used.
pub(super) fn check_references(reader: &mut Reader<'_>, file: &File) {
    let Some(pools) = &file.pools.value else {
        return;
    };
    let names: Vec<&str> = pools.entries.iter().map(|entry| &*entry.key.0).collect();
    let uses = uses(file);
    for (name, at) in uses.iter().filter(|(name, _)| !names.contains(name)) {
        let others = match names.is_empty() {
            true => String::new(),
            false => format!("{}, or ", names.join(", ")),
        };
        let mistake = Mistake::new(format!("there is no pool `{name}`"))
            .allowed(format!(
                "{others}write a table [pools.{name}] with its nodes"
            ))
            .suggest(nearest(name, names.iter().copied()));
        reader.error(at, mistake);
    }
    let ingress = file.ingress.value.as_ref();
    let written = ingress.is_some_and(|ingress| ingress.pool.written || ingress.split.written);
    let used =
        |name: &str| (name == "ingress" && !written) || uses.iter().any(|(used, _)| *used == name);
    // Beside a name that does not exist it is most likely the one that was meant.
    let all_exist = uses.iter().all(|(name, _)| names.contains(name));
    for entry in pools
        .entries
        .iter()
        .filter(|entry| all_exist && !used(&entry.key.0))
    {
        let mistake =
            Mistake::new("nothing uses this pool").allowed("name it in [ingress], or remove it");
        reader.warning(&entry.key_at, mistake);
    }
    if let Some(registry) = file
        .registry
        .value
        .as_ref()
        .filter(|_| !written && !names.contains(&"ingress"))
    {
        let mistake = Mistake::new(
            "there is a registry but no ingress: tools that are not registered get a 404",
        )
        .allowed("write [pools.ingress] with its nodes, if that is not what you want");
        reader.warning(&registry.at, mistake);
    }
    if let Some(ingress) = ingress {
        check_split(reader, ingress);
    }
    let tcp = file.tcp.value.iter().flat_map(|list| &list.items);
    let tcp_names: Vec<_> = tcp.filter_map(|tcp| tcp.value.name.item()).collect();
    different(reader, &tcp_names, |_| true, "this name");
}

/// The names of pools that the file uses, and where.
fn uses(file: &File) -> Vec<(&str, &Place)> {
    let mut uses: Vec<(&str, &Place)> = Vec::new();
    if let Some(ingress) = &file.ingress.value {
        uses.extend(
            ingress
                .pool
                .value
                .iter()
                .map(|name| (&*name.0, &ingress.pool.at)),
        );
        let split = ingress.split.value.iter().flat_map(|split| &split.entries);
        uses.extend(split.map(|entry| (&*entry.key.0, &entry.key_at)));
    }
    let tcp = file.tcp.value.iter().flat_map(|list| &list.items);
    for tcp in tcp {
        let pool = tcp.value.pool.value.iter();
        uses.extend(pool.map(|name| (&*name.0, &tcp.value.pool.at)));
        let names = tcp.value.server_names.value.iter();
        let names = names.flat_map(|names| &names.entries);
        uses.extend(names.filter_map(|entry| Some((&*entry.value.as_ref()?.0, &entry.key_at))));
    }
    uses
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

pub(super) fn check_pools(
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
        BalanceWord::RoundRobin => Balance::RoundRobin,
        BalanceWord::LeastRequests => Balance::LeastRequests,
    };
    let nodes = nodes.into_values().map(node).collect::<Option<_>>()?;
    Some(Pool {
        name: name.0,
        nodes,
        balance,
        slow_start: pool.slow_start.value?.0,
        max_connections: pool.max_connections.value?.get()?,
        max_queue: pool.max_queue.value?.get()?,
        queue_timeout: pool.queue_timeout.value?,
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
            check.sni.place(),
        ];
        for at in of_http.iter().flatten() {
            if !reader.has_error_at(at.offset) {
                let mistake = Mistake::new("a TCP check has no such thing")
                    .allowed("kind = \"http\" or \"https\"");
                reader.error(at, mistake);
            }
        }
    }
    if kind == CheckWord::Http {
        let of_tls = [
            (
                check.verify.place(),
                "without TLS there is nothing to verify",
            ),
            (check.sni.place(), "without TLS no server name is asked for"),
        ];
        for (at, why) in of_tls {
            if let Some(at) = at {
                reader.error(&at, Mistake::new(why).allowed("kind = \"https\""));
            }
        }
    }
    let http = HttpCheck {
        host: check.host.value.map(|host| host.0),
        path: check.path.value.map_or_else(|| "/".into(), |path| path.0),
        expect: match check.expect.value {
            Some(status) => status.get()?,
            None => 200,
        },
    };
    Some(Check {
        kind: match kind {
            CheckWord::Tcp => CheckKind::Tcp,
            CheckWord::Http => CheckKind::Http(http),
            CheckWord::Https => CheckKind::Https {
                http,
                verify: check.verify.value.unwrap_or(true),
                sni: check.sni.value.map(|name| name.0),
            },
        },
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

/// The pools that `[ingress]` means, written or not. Names were checked with the other references.
pub(super) fn ingress_shares(
    ingress: IngressFile,
    pools: Option<&BTreeMap<Box<str>, Pool>>,
) -> Option<Vec<Share>> {
    let whole = |pool| {
        let percent = 100;
        vec![Share { pool, percent }]
    };
    match (ingress.pool.value, ingress.split.value) {
        (Some(name), _) => Some(whole(name.0)),
        (None, Some(split)) => split
            .entries
            .into_iter()
            .map(|entry| {
                Some(Share {
                    pool: entry.key.0,
                    percent: entry.value?.get()?,
                })
            })
            .collect(),
        (None, None) => Some(match pools?.contains_key("ingress") {
            true => whole("ingress".into()),
            false => Vec::new(),
        }),
    }
}

/// Layer 4 listeners.
pub(super) fn check_tcp(reader: &mut Reader<'_>, list: List<TcpFile>) -> Option<Vec<TcpListener>> {
    let built: Vec<Option<TcpListener>> = list
        .items
        .into_iter()
        .map(|item| check_tcp_listener(reader, item.value, &item.at))
        .collect();
    built.into_iter().collect()
}

fn check_tcp_listener(reader: &mut Reader<'_>, tcp: TcpFile, at: &Place) -> Option<TcpListener> {
    let (listen, server_names) = (tcp.listen.value?, tcp.server_names.value?);
    if listen.is_empty() {
        let mistake = Mistake::new("a listener needs at least one address");
        reader.error(
            &tcp.listen.at,
            mistake.allowed("addresses such as \"192.0.2.9:6443\""),
        );
    }
    if tcp.pool.value.is_none() && !tcp.pool.written && server_names.entries.is_empty() {
        let mistake = Mistake::new("its connections go nowhere");
        reader.error(at, mistake.allowed("a `pool`, or `server_names`"));
    }
    let names = server_names.entries.into_iter();
    let names = names.map(|entry| Some((entry.key, entry.value?.0)));
    Some(TcpListener {
        name: tcp.name.value?.0,
        listen: listen.into_values().collect(),
        pool: tcp.pool.value.map(|name| name.0),
        server_names: names.collect::<Option<_>>()?,
        allow: tcp.allow.value?.into_values().collect(),
        idle_timeout: tcp.idle_timeout.value?,
        proxy_protocol_from: tcp.proxy_protocol_from.value?.into_values().collect(),
        send_proxy_protocol: tcp.send_proxy_protocol.value?,
    })
}
