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
use crate::pools::Pool;
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
    /// What else there is to say.
    pub text: Vec<String>,
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
            Address {
                name: name.clone(),
                address: Some(address),
                state: match refusal {
                    None => State::Allowed,
                    Some(_) => State::Refused,
                },
                why: refusal.map(|refusal| refusal.to_string()),
            }
        })
        .collect();
    if addresses.is_empty() {
        addresses.push(Address {
            name,
            address: None,
            state: State::Unresolved,
            why: None,
        });
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
    let nodes = members.nodes.iter().map(|node| {
        let address = match &node.address {
            NodeAddress::Ip(address) => Some(*address),
            NodeAddress::Name { host, port } => {
                let (ips, about) = resolved(case, host);
                text.extend(about);
                ips.first().map(|ip| SocketAddr::new(*ip, *port))
            }
        };
        Address {
            name: node.address.to_string(),
            address,
            state: match (address, case.seen, node.is_up()) {
                (None, _, _) => State::Unresolved,
                (Some(_), Seen::Offline, _) => State::NotKnown,
                (Some(_), Seen::Running, true) => State::Up,
                (Some(_), Seen::Running, false) => State::Down,
            },
            why: None,
        }
    });
    let addresses: Vec<Address> = nodes.collect();
    let all = |state| addresses.iter().all(|node| node.state == state);
    let failure = if all(State::Unresolved) {
        Some(destination.blame(BackendFault::Unresolved))
    } else {
        None
    };
    if all(State::Down) {
        text.push("No node is up: portico tries them all the same.".to_owned());
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
        text,
    };
    (view, failure)
}
