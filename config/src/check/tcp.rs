//! Layer 4 listeners.
//!
//! Not done here: whether their pools exist (`uses`), whether their addresses are free (the parent).

use std::collections::BTreeMap;

use super::different;
use super::listen::{warn_of_everybody, warn_of_port_0};
use crate::config::{CheckKind, NamePattern, Pool, Share, TcpListener};
use crate::file::TcpFile;
use crate::reader::{Item, List, Map, Mistake, Place, Reader};
use crate::values::Name;

/// Checks the listeners one by one, and their names against each other.
pub(super) fn check_tcp(reader: &mut Reader<'_>, list: List<TcpFile>) -> Option<Vec<TcpListener>> {
    let names: Vec<_> = (list.items.iter())
        .filter_map(|tcp| tcp.value.name.item())
        .collect();
    different(reader, &names, |_| true, "this name");
    let built: Vec<Option<TcpListener>> = list
        .items
        .into_iter()
        .map(|item| check_listener(reader, item.value, &item.at))
        .collect();
    built.into_iter().collect()
}

fn check_listener(reader: &mut Reader<'_>, tcp: TcpFile, at: &Place) -> Option<TcpListener> {
    if let Some(listen) = &tcp.listen.value {
        if listen.is_empty() {
            let mistake = Mistake::new("a listener needs at least one address");
            let allowed = "addresses such as \"192.0.2.9:6443\"";
            reader.error(&tcp.listen.at, mistake.allowed(allowed));
        }
        warn_of_port_0(reader, &listen.items);
    }
    if let Some(names) = &tcp.server_names.value {
        check_server_names(reader, names);
        if !tcp.pool.written && names.entries.is_empty() {
            let mistake = Mistake::new("its connections go nowhere");
            reader.error(at, mistake.allowed("a `pool`, or `server_names`"));
        }
    }
    if let Some(networks) = &tcp.allow.value {
        different(reader, &networks.items, |_| true, "this network");
    }
    if let Some(networks) = &tcp.proxy_protocol_from.value {
        different(reader, &networks.items, |_| true, "this network");
        warn_of_everybody(reader, networks);
    }
    let names = tcp.server_names.value?.entries.into_iter();
    let names = names.map(|entry| Some((entry.key, entry.value?.0)));
    Some(TcpListener {
        name: tcp.name.value?.0,
        listen: tcp.listen.value?.into_values().collect(),
        pool: tcp.pool.value.map(|name| name.0),
        server_names: names.collect::<Option<_>>()?,
        allow: tcp.allow.value?.into_values().collect(),
        idle_timeout: tcp.idle_timeout.value?,
        proxy_protocol_from: tcp.proxy_protocol_from.value?.into_values().collect(),
        send_proxy_protocol: tcp.send_proxy_protocol.value?,
    })
}

/// TOML has seen to it that no key stands twice; the same name may, in another case.
fn check_server_names(reader: &mut Reader<'_>, names: &Map<NamePattern, Name>) {
    let patterns: Vec<Item<&NamePattern>> = (names.entries.iter())
        .map(|entry| Item {
            value: &entry.key,
            at: entry.key_at.clone(),
        })
        .collect();
    different(reader, &patterns, |_| true, "this name (in any case)");
}

/// A server expects a PROXY protocol header of every connection or of none: warns of pools whose
/// servers get it of some only. `at`: where each listener has `send_proxy_protocol`.
pub(super) fn warn_of_mixed_headers(
    reader: &mut Reader<'_>,
    listeners: &[TcpListener],
    at: &[Place],
    ingress: &[Share],
    pools: &BTreeMap<Box<str>, Pool>,
) {
    for (listener, at) in listeners.iter().zip(at) {
        if !listener.send_proxy_protocol {
            continue;
        }
        for pool in pools.values().filter(|pool| uses(listener, pool)) {
            let name = &pool.name;
            let without = (listeners.iter())
                .find(|other| !other.send_proxy_protocol && uses(other, pool))
                .map(|other| format!("the listener `{}`", other.name))
                .or_else(|| {
                    let used = ingress.iter().any(|share| share.pool == *name);
                    used.then(|| "[ingress]".to_owned())
                });
            if let Some(without) = without {
                let mistake = Mistake::new(format!(
                    "servers of the pool `{name}` get a header from here and none from {without}"
                ));
                reader.warning(at, mistake.allowed("a pool of its own for each"));
            }
            if pool.check.kind != CheckKind::Tcp && pool.check.port.is_none() {
                let mistake = Mistake::new(format!(
                    "the check of the pool `{name}` sends no header: servers that insist on it will fail it"
                ));
                let allowed = "a check with a port of its own, or of the kind \"tcp\"";
                reader.warning(at, mistake.allowed(allowed));
            }
        }
    }
}

fn uses(listener: &TcpListener, pool: &Pool) -> bool {
    let names = listener.server_names.iter().map(|(_, pool)| pool);
    names.chain(&listener.pool).any(|name| *name == pool.name)
}
