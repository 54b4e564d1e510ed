//! Pools: their servers, and the checks of these.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::different;
use super::listen::not_myself;
use crate::config::{Balance, Check, CheckKind, HttpCheck, Node, NodeAddress, Pool};
use crate::file::{BalanceWord, CheckFile, CheckWord, NodeFile, PoolFile};
use crate::reader::{Field, Item, List, Map, Mistake, Place, Reader};
use crate::values::Name;

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
    if let Some(max_queue) = &pool.max_queue.value
        && max_queue.0 == 0
        && pool.queue_timeout.written
    {
        let mistake = Mistake::new("it has no effect: with max_queue = 0 no request waits");
        reader.warning(&pool.queue_timeout.at, mistake);
    }
    let nodes = pool.nodes.value?;
    check_nodes(reader, &nodes, &pool.nodes.at, own);
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

fn check_nodes(reader: &mut Reader<'_>, nodes: &List<NodeFile>, at: &Place, own: &[SocketAddr]) {
    if nodes.is_empty() {
        let mistake = Mistake::new("a pool needs at least one server");
        reader.error(at, mistake.allowed("addresses such as \"192.0.2.1:30000\""));
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
}

fn check_check(reader: &mut Reader<'_>, check: CheckFile) -> Option<Check> {
    check_times(reader, &check);
    let kind = check.kind.value?;
    check_fits_kind(reader, kind, &check);
    let (host, name) = match check.host.value {
        Some(host) => (Some(host.text), Some(host.host)),
        None => (None, None),
    };
    let http = HttpCheck {
        host,
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
                sni: check.sni.value.map(|name| name.0).or(name),
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

/// Reports the keys that a check of this kind has no use for.
fn check_fits_kind(reader: &mut Reader<'_>, kind: CheckWord, check: &CheckFile) {
    let of_http = [
        check.host.place(),
        check.path.place(),
        check.expect.place(),
        check.verify.place(),
        check.sni.place(),
    ];
    let of_tls = [
        (
            check.verify.place(),
            "without TLS there is nothing to verify",
        ),
        (check.sni.place(), "without TLS no server name is asked for"),
    ];
    let (misplaced, allowed): (Vec<_>, _) = match kind {
        CheckWord::Tcp => (
            (of_http.into_iter().flatten())
                .map(|at| (at, "a TCP check has no such thing"))
                .collect(),
            "kind = \"http\" or \"https\"",
        ),
        CheckWord::Http => (
            (of_tls.into_iter())
                .filter_map(|(at, why)| Some((at?, why)))
                .collect(),
            "kind = \"https\"",
        ),
        CheckWord::Https => return,
    };
    for (at, why) in misplaced {
        // A value that is wrong in itself is reported already.
        if !reader.has_error_at(at.offset) {
            reader.error(&at, Mistake::new(why).allowed(allowed));
        }
    }
}

/// A check that takes longer than the time between two makes that time longer.
fn check_times(reader: &mut Reader<'_>, check: &CheckFile) {
    let Some(timeout) = check.timeout.value else {
        return;
    };
    let shorter = |field: &Field<Duration>| field.value.is_some_and(|interval| interval < timeout);
    let intervals = [
        (&check.interval, "interval"),
        (&check.down_interval, "down_interval"),
    ];
    for (field, name) in intervals {
        if !shorter(field) {
            continue;
        }
        let at = if field.written {
            &field.at
        } else {
            &check.timeout.at
        };
        let mistake = Mistake::new(format!(
            "the timeout is longer than the {name}: a server that hangs is checked less often than it says"
        ));
        reader.warning(
            at,
            mistake.allowed(format!("a timeout of at most the {name}")),
        );
    }
}
