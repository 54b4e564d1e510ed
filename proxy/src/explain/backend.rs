//! Where a request would go, and what is known of that place: its addresses, whether portico may
//! connect to them, which nodes of a pool are up.
//!
//! Says what `forward` would find before it connects; connects to nothing.

use std::net::{IpAddr, SocketAddr};

use portico_config::NodeAddress;
use portico_routing::backend::{Backend, BackendHost, Scheme};
use serde::Serialize;

use super::{Case, Seen};
use crate::forward::acquire::MAX_ATTEMPTS;
use crate::forward::{BackendFault, Destination};
use crate::policy::backends::{BackendPolicy, Refusal};
use crate::pools::live::Wish;
use crate::pools::node::WEIGHT_STEPS;
use crate::pools::pool::Members;
use crate::pools::{Node, Pool};
use crate::request;
use crate::response::failure::Failure;

/// What is known of a backend.
#[derive(Debug, Clone, Serialize)]
pub struct BackendView {
    /// `tool`, `ingress` or `fallback`.
    pub kind: &'static str,
    /// The URL of a tool's backend or of the fallback.
    pub url: Option<String>,
    /// The pool of the ingress.
    pub pool: Option<String>,
    /// How it is spoken to.
    pub protocol: &'static str,
    /// Addresses in the order in which they are tried; nodes of a pool in that of the
    /// configuration.
    pub addresses: Vec<Address>,
    /// The pools that share the ingress, and their parts of the tools; empty where there is one pool.
    pub split: Vec<Share>,
    /// Who waits for a place at a node of the pool.
    pub queue: Option<QueueView>,
    /// What else there is to say.
    pub text: Vec<String>,
}

/// A pool's part of the ingress.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// The pool.
    pub pool: String,
    /// Its part of the tools.
    pub percent: u8,
    /// This request goes there.
    pub chosen: bool,
}

/// The queue of a pool.
#[derive(Debug, Clone, Serialize)]
pub struct QueueView {
    /// Requests, and TCP connections, that wait now; `None`: only the portico that serves knows.
    pub waiting: Option<usize>,
    /// So many may.
    pub limit: usize,
    /// In seconds; who has waited so long gets 503.
    pub timeout: f64,
}

/// An address of a backend, or a node.
#[derive(Debug, Clone, Serialize)]
pub struct Address {
    /// As the route or the pool names it.
    pub name: String,
    /// What it resolves to.
    pub address: Option<SocketAddr>,
    /// What is known of it.
    pub state: State,
    /// Why it is not connected to.
    pub why: Option<String>,
    /// The weight of a node.
    pub weight: Option<u32>,
    /// What of its weight a node has, in percent: less than 100 in a slow start.
    pub ramp: Option<u32>,
    /// Requests and TCP connections that a node has now.
    pub in_flight: Option<u32>,
    /// So many a node may have (`max_connections`).
    pub max_connections: Option<u32>,
}

impl Address {
    fn new(name: String, address: Option<SocketAddr>, state: State, why: Option<String>) -> Self {
        Self {
            name,
            address,
            state,
            why,
            weight: None,
            ramp: None,
            in_flight: None,
            max_connections: None,
        }
    }
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// portico may connect to it; whether somebody listens is not known.
    Allowed,
    /// portico does not connect to it.
    Refused,
    /// The name has no address.
    Unresolved,
    /// A node whose checks succeed.
    Up,
    /// A node whose checks fail, or that could not be connected to.
    Down,
    /// A node that gets no new requests, since an administrator drains it.
    Drained,
    /// The same, and it is not checked.
    Maintenance,
    /// A node of which only the portico that serves knows more.
    NotKnown,
}

/// What is known of a destination, and the failure that clients get if it cannot be used.
pub(super) fn view(case: &Case<'_>, destination: &Destination) -> (BackendView, Option<Failure>) {
    let (backend, policy): (_, fn(&BackendPolicy, _) -> _) = match destination {
        Destination::Tool(backend) => (backend, BackendPolicy::check),
        Destination::Fallback(fallback) => (&fallback.backend, BackendPolicy::check_always),
        Destination::Ingress(pool) => return of_pool(case, destination, pool),
    };
    let (addresses, mut text) = addresses(case, backend, policy);
    let fault = if addresses.iter().any(|found| found.state == State::Allowed) {
        None
    } else if addresses.iter().any(|found| found.state == State::Refused) {
        Some(BackendFault::Forbidden)
    } else {
        Some(BackendFault::Unresolved)
    };
    let failure = fault.map(|fault| match destination {
        // Nobody is to be told that the fallback failed: it was not asked.
        Destination::Fallback(_) => Failure::NotFound,
        Destination::Tool(_) | Destination::Ingress(_) => destination.blame(fault),
    });
    if failure.is_none() {
        text.push(match destination {
            Destination::Fallback(_) => {
                "Whether it answers is not known. If it does not, clients get portico's own 404 page."
                    .to_owned()
            }
            Destination::Tool(_) | Destination::Ingress(_) => {
                "Whether it answers is not known: portico does not check tools. If nobody listens there, clients get 502 tool_unreachable."
                    .to_owned()
            }
        });
    }
    let view = BackendView {
        kind: destination.route().as_str(),
        url: Some(backend.to_string()),
        pool: None,
        split: Vec::new(),
        queue: None,
        protocol: match backend.scheme {
            Scheme::Http => "HTTP/1.1",
            Scheme::Https => "HTTP/1.1 over TLS",
            Scheme::H2c => "HTTP/2 without TLS",
        },
        addresses,
        text,
    };
    (view, failure)
}

fn addresses(
    case: &Case<'_>,
    backend: &Backend,
    policy: fn(&BackendPolicy, SocketAddr) -> Result<(), Refusal>,
) -> (Vec<Address>, Vec<String>) {
    let name = backend.authority().to_string();
    let (ips, text) = match &backend.host {
        BackendHost::Ip(ip) => (vec![*ip], None),
        BackendHost::Name(name) => resolved(case, name),
    };
    let mut addresses: Vec<Address> = ips
        .iter()
        .take(MAX_ATTEMPTS)
        .map(|ip| {
            let address = SocketAddr::new(*ip, backend.port);
            let refusal = policy(&case.snapshot.backends, address).err();
            let state = match refusal {
                None => State::Allowed,
                Some(_) => State::Refused,
            };
            let why = refusal.map(|refusal| refusal.to_string());
            Address::new(name.clone(), Some(address), state, why)
        })
        .collect();
    if addresses.is_empty() {
        addresses.push(Address::new(name, None, State::Unresolved, None));
    }
    (addresses, text.into_iter().collect())
}

/// The addresses of a name as requests find them, and what there is to say about them.
fn resolved(case: &Case<'_>, name: &str) -> (Vec<IpAddr>, Option<String>) {
    let known = case.process.resolver.peek(name);
    let text = match (known.addresses.is_empty(), known.failing) {
        (true, true) => Some(format!("The name {name} does not resolve.")),
        (true, false) => Some(format!(
            "The name {name} has not been resolved yet; the first request for it makes portico try."
        )),
        (false, true) => Some(format!(
            "The name {name} does not resolve any more; portico goes on with its last addresses."
        )),
        (false, false) => None,
    };
    (known.addresses.to_vec(), text)
}

fn of_pool(
    case: &Case<'_>,
    destination: &Destination,
    pool: &Pool,
) -> (BackendView, Option<Failure>) {
    let mut text = Vec::new();
    let members = pool.members();
    let nodes = members.nodes.iter();
    let addresses: Vec<Address> = nodes.map(|node| of_node(case, node, &mut text)).collect();
    let split = shares(case, pool);
    if let Some(share) = split.iter().find(|share| share.chosen) {
        text.push(split_text(case, share));
    }
    let queue = QueueView {
        waiting: (case.seen == Seen::Running).then(|| pool.waiting()),
        limit: members.queue_limit(),
        timeout: members.config.queue_timeout.as_secs_f64(),
    };
    let failure = if addresses.iter().all(|n| n.state == State::Unresolved) {
        Some(destination.blame(BackendFault::Unresolved))
    } else {
        match case.seen {
            Seen::Running => place(&members, &queue, &mut text),
            Seen::Offline => None,
        }
    };
    let any = |state| addresses.iter().any(|node| node.state == state);
    if !any(State::Up) && any(State::Down) {
        text.push("No node is up: portico tries those that are down.".to_owned());
    }
    if case.seen == Seen::Offline {
        text.push(
            "Which nodes are up is not known: ask the running portico with --admin.".to_owned(),
        );
    }
    let view = BackendView {
        kind: destination.route().as_str(),
        url: None,
        pool: Some(pool.name.to_string()),
        protocol: "HTTP/1.1",
        addresses,
        split,
        queue: Some(queue),
        text,
    };
    (view, failure)
}

fn of_node(case: &Case<'_>, node: &Node, text: &mut Vec<String>) -> Address {
    let address = match &node.address {
        NodeAddress::Ip(address) => Some(*address),
        NodeAddress::Name { host, port } => {
            let (ips, about) = resolved(case, host);
            text.extend(about);
            ips.first().map(|ip| SocketAddr::new(*ip, *port))
        }
    };
    let (wish, up, weight) =
        node.standing(|standing| (standing.wish, standing.health.is_up(), standing.weight()));
    let state = match (address, case.seen, wish, up) {
        (None, ..) => State::Unresolved,
        (_, Seen::Offline, ..) => State::NotKnown,
        (_, Seen::Running, Wish::Drain, _) => State::Drained,
        (_, Seen::Running, Wish::Maintenance, _) => State::Maintenance,
        (_, Seen::Running, Wish::Ready, true) => State::Up,
        (_, Seen::Running, Wish::Ready, false) => State::Down,
    };
    let whole = weight.saturating_mul(WEIGHT_STEPS);
    Address {
        weight: Some(weight),
        ramp: (state == State::Up && whole > 0).then(|| node.effective() * 100 / whole),
        in_flight: (case.seen == Seen::Running).then(|| node.in_flight()),
        max_connections: Some(node.limit()),
        ..Address::new(node.address.to_string(), address, state, None)
    }
}

/// Whether there is a place for the request, and what it has to do for it.
fn place(members: &Members, queue: &QueueView, text: &mut Vec<String>) -> Option<Failure> {
    let waiting = queue.waiting.unwrap_or_default();
    if members.used().next().is_none() {
        Some(Failure::PlatformDrained)
    } else if waiting == 0 && members.used().any(|node| node.has_room()) {
        None
    } else if waiting >= queue.limit {
        Some(Failure::PlatformBusy)
    } else {
        let timeout = queue.timeout;
        text.push(format!(
            "Every node is full: the request waits in the queue behind {waiting} others, for {timeout} s at most. Then it gets 503 platform_busy."
        ));
        None
    }
}

/// The parts of the ingress, if there are several.
fn shares(case: &Case<'_>, pool: &Pool) -> Vec<Share> {
    let shares = case.snapshot.ingress.shares();
    if shares.len() < 2 {
        return Vec::new();
    }
    let shares = shares.iter().map(|(one, percent)| Share {
        pool: one.name.to_string(),
        percent: *percent,
        chosen: one.name == pool.name,
    });
    shares.collect()
}

fn split_text(case: &Case<'_>, share: &Share) -> String {
    let Share { pool, percent, .. } = share;
    let whose = match case.tool() {
        Some(tool) => format!("the tool {tool}"),
        None => format!("the host {}", request::key_of(case.request)),
    };
    format!(
        "ingress.split gives {percent} % of the tools to {pool}, and {whose} is one of them: all of its requests go there."
    )
}
