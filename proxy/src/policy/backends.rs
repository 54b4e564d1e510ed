//! Policy: which addresses portico connects to on behalf of a route.
//!
//! Whoever can write a route could otherwise make portico speak to itself (a loop), to the
//! registry, or to the metadata service of a cloud. Refused always: portico's own listeners, the
//! registry's address, link-local, multicast, broadcast and unspecified addresses. With
//! `registry.backends` set, everything outside of its networks too. Checked when a route joins the
//! table (so that a bad one is skipped and shown) and again for each request (so that a name cannot
//! change its mind between check and use).
//!
//! Nodes of `[pools]`, which the administrator wrote, may be anywhere but at portico itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portico_routing::backend::{Backend, BackendHost};

/// So many addresses at which sentinels found the registry are remembered.
const MAX_FOUND: usize = 64;

/// The rules for backend addresses; built with the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendPolicy {
    /// Networks that routes may point at; empty: any.
    pub allowed: Vec<IpNet>,
    /// portico's own listeners.
    pub own: Vec<SocketAddr>,
    /// Addresses of the registry.
    pub registry: RegistryServers,
}

/// Where the registry is: the addresses in its URL, and those at which sentinels found it since.
/// Clones share what is found.
#[derive(Debug, Clone, Default)]
pub struct RegistryServers(Arc<Servers>);

#[derive(Debug, Default)]
struct Servers {
    written: Vec<SocketAddr>,
    /// The oldest first. Former masters too: they come back as replicas.
    found: ArcSwap<Vec<SocketAddr>>,
}

impl RegistryServers {
    /// With the addresses in the URL.
    pub fn new(written: Vec<SocketAddr>) -> Self {
        let found = ArcSwap::default();
        Self(Arc::new(Servers { written, found }))
    }

    /// Remembers an address at which the registry was found.
    pub fn note(&self, address: SocketAddr) {
        let found = self.0.found.load_full();
        if found.contains(&address) {
            return;
        }
        let old = found.len().saturating_sub(MAX_FOUND - 1);
        let mut found: Vec<SocketAddr> = found.iter().copied().skip(old).collect();
        found.push(address);
        // Nobody else writes: there is one registry.
        self.0.found.store(Arc::new(found));
    }

    /// Whether a connection to the address reaches the registry.
    fn reached_by(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let at = |servers: &[SocketAddr]| servers.iter().any(|own| same_server(*own, address));
        at(&self.0.written) || at(&self.0.found.load())
    }

    /// Checks the backend of a registry route, as far as it can be known without DNS.
    ///
    /// # Errors
    /// A sentence for the list of bad entries.
    pub fn admit(&self, backend: &Backend) -> Result<(), String> {
        match backend.host {
            BackendHost::Ip(ip) if self.reached_by(SocketAddr::new(ip, backend.port)) => {
                Err(Refusal::Registry.to_string())
            }
            _ => Ok(()),
        }
    }
}

impl PartialEq for RegistryServers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.written == other.0.written && *self.0.found.load() == *other.0.found.load())
    }
}

impl Eq for RegistryServers {}

/// Why a route may not point at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 0.0.0.0 or [::].
    Unspecified,
    /// 169.254.0.0/16 or fe80::/10, where clouds keep their metadata service.
    LinkLocal,
    /// Multicast or broadcast.
    NotUnicast,
    /// One of portico's own listeners.
    OwnListener,
    /// The registry itself.
    Registry,
    /// Outside of `registry.backends`.
    NotAllowed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the address is unspecified (0.0.0.0 or [::])",
            Self::LinkLocal => "the address is link-local, where routes may never point",
            Self::NotUnicast => "the address is multicast or broadcast",
            Self::OwnListener => "the address is portico's own listener: the request would loop",
            Self::Registry => "the address is the registry's own",
            Self::NotAllowed => "the address is outside of the networks in registry.backends",
        })
    }
}

impl BackendPolicy {
    /// Checks an address that a registry route leads to.
    ///
    /// # Errors
    /// Why portico may not connect there.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refusal> {
        self.check_always(address)?;
        let ip = address.ip().to_canonical();
        if !self.allowed.is_empty() && !self.allowed.iter().any(|net| net.contains(&ip)) {
            return Err(Refusal::NotAllowed);
        }
        Ok(())
    }

    /// Checks an address that the administrator wrote: only what can never be meant is refused.
    ///
    /// # Errors
    /// Why portico may not connect there.
    pub fn check_always(&self, address: SocketAddr) -> Result<(), Refusal> {
        let ip = address.ip().to_canonical();
        let address = SocketAddr::new(ip, address.port());
        if ip.is_unspecified() {
            return Err(Refusal::Unspecified);
        }
        let (link_local, broadcast) = match ip {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
        };
        if link_local {
            return Err(Refusal::LinkLocal);
        }
        if ip.is_multicast() || broadcast {
            return Err(Refusal::NotUnicast);
        }
        if self.own.iter().any(|own| same_endpoint(*own, address)) {
            return Err(Refusal::OwnListener);
        }
        if self.registry.reached_by(address) {
            return Err(Refusal::Registry);
        }
        Ok(())
    }

    /// Checks where a node is: other odd addresses the administrator may want, but never portico
    /// itself, whose administration must not be reached through it. An unspecified address, to which
    /// somebody may have changed a name, leads to this machine.
    ///
    /// # Errors
    /// Why portico may not connect there.
    pub fn check_node(&self, address: SocketAddr) -> Result<(), Refusal> {
        let ip = address.ip().to_canonical();
        let address = SocketAddr::new(ip, address.port());
        if ip.is_unspecified() {
            return Err(Refusal::Unspecified);
        }
        match self.own.iter().any(|own| same_endpoint(*own, address)) {
            true => Err(Refusal::OwnListener),
            false => Ok(()),
        }
    }

    /// Checks the backend of a registry route, as far as it can be known without DNS: a name is
    /// checked when it is connected to.
    ///
    /// # Errors
    /// A sentence for the list of bad entries.
    pub fn admit(&self, backend: &Backend) -> Result<(), String> {
        match backend.host {
            BackendHost::Ip(ip) => self
                .check(SocketAddr::new(ip, backend.port))
                .map_err(|refusal| refusal.to_string()),
            BackendHost::Name(_) => Ok(()),
        }
    }
}

/// Whether a connection to `target` reaches the socket bound to `bound`, a wildcard address
/// being every local one.
fn same_endpoint(bound: SocketAddr, target: SocketAddr) -> bool {
    let ip = bound.ip().to_canonical();
    bound.port() == target.port()
        && (ip == target.ip() || (ip.is_unspecified() && is_local(target.ip())))
}

/// Whether a connection to `target` reaches the server that portico itself reaches at `known`. One
/// on this machine listens on more addresses than the one that portico was told: Debian's redis on
/// 127.0.0.1 and on [::1].
fn same_server(known: SocketAddr, target: SocketAddr) -> bool {
    let ip = known.ip().to_canonical();
    known.port() == target.port() && (ip == target.ip() || (is_local(ip) && is_local(target.ip())))
}

/// Whether `ip` belongs to this machine: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> BackendPolicy {
        BackendPolicy {
            allowed: vec![
                "10.0.0.0/8".parse().unwrap(),
                "127.0.0.0/8".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
            own: vec![
                "[::]:443".parse().unwrap(),
                "127.0.0.1:9113".parse().unwrap(),
            ],
            registry: RegistryServers::new(vec!["127.0.0.1:6379".parse().unwrap()]),
        }
    }

    #[track_caller]
    fn check(address: &str, expected: Result<(), Refusal>) {
        assert_eq!(
            policy().check(address.parse().unwrap()),
            expected,
            "{address}"
        );
    }

    #[test]
    fn addresses() {
        check("10.1.2.3:8000", Ok(()));
        check("[2001:db8::1]:8000", Ok(()));
        check("[::ffff:10.1.2.3]:8000", Ok(()));
        check("192.0.2.1:8000", Err(Refusal::NotAllowed));
        check("[::ffff:192.0.2.1]:8000", Err(Refusal::NotAllowed));
        check("0.0.0.0:8000", Err(Refusal::Unspecified));
        check("[::]:8000", Err(Refusal::Unspecified));
        check("169.254.169.254:80", Err(Refusal::LinkLocal));
        check("[::ffff:169.254.169.254]:80", Err(Refusal::LinkLocal));
        check("[fe80::1]:80", Err(Refusal::LinkLocal));
        check("224.0.0.1:80", Err(Refusal::NotUnicast));
        check("255.255.255.255:80", Err(Refusal::NotUnicast));
        check("[ff02::1]:80", Err(Refusal::NotUnicast));
        check("127.0.0.1:443", Err(Refusal::OwnListener));
        check("127.1.2.3:443", Err(Refusal::OwnListener));
        check("127.0.0.1:9113", Err(Refusal::OwnListener));
        check("[::ffff:127.0.0.1]:9113", Err(Refusal::OwnListener));
        check("127.0.0.2:9113", Ok(()));
        check("10.0.0.1:443", Ok(()));
        check("127.0.0.1:6379", Err(Refusal::Registry));
        check("127.0.0.2:6379", Err(Refusal::Registry));
        check("[::1]:6379", Err(Refusal::Registry));
        check("10.0.0.1:6379", Ok(()));
    }

    #[track_caller]
    fn check_node(address: &str, expected: Result<(), Refusal>) {
        let policy = BackendPolicy {
            own: vec![
                "127.0.0.1:9113".parse().unwrap(),
                "169.254.1.1:80".parse().unwrap(),
                "[::]:443".parse().unwrap(),
            ],
            ..policy()
        };
        let result = policy.check_node(address.parse().unwrap());
        assert_eq!(result, expected, "{address}");
    }

    #[test]
    fn nodes_are_anywhere_but_here() {
        check_node("192.0.2.1:8000", Ok(()));
        check_node("169.254.1.2:80", Ok(()));
        check_node("127.0.0.1:6379", Ok(()));
        for own in [
            "127.0.0.1:9113",
            "[::ffff:127.0.0.1]:9113",
            "169.254.1.1:80",
            "[::1]:443",
        ] {
            check_node(own, Err(Refusal::OwnListener));
        }
        // The system takes them for loopback.
        for here in ["0.0.0.0:9113", "[::]:9113", "[::ffff:0.0.0.0]:9113"] {
            check_node(here, Err(Refusal::Unspecified));
        }
    }

    #[test]
    fn the_registry_is_refused_wherever_it_was_found() {
        let policy = policy();
        let reloaded = policy.clone();
        policy.registry.note("10.0.0.9:7000".parse().unwrap());
        policy.registry.note("10.0.0.9:7000".parse().unwrap());
        let refused = Err(Refusal::Registry);
        assert_eq!(reloaded.check("10.0.0.9:7000".parse().unwrap()), refused);
        assert_eq!(reloaded.check("10.0.0.9:7001".parse().unwrap()), Ok(()));
        assert_eq!(policy, reloaded);
        for port in 7001..7064 {
            policy.registry.note(([10, 0, 0, 9], port).into());
        }
        assert_eq!(reloaded.check("10.0.0.9:7000".parse().unwrap()), refused);
        // As many as are remembered: the oldest is forgotten, but not what the URL says.
        policy.registry.note("10.0.0.9:8000".parse().unwrap());
        assert_eq!(reloaded.check("10.0.0.9:7000".parse().unwrap()), Ok(()));
        assert_eq!(reloaded.check("10.0.0.9:7001".parse().unwrap()), refused);
        assert_eq!(reloaded.check("127.0.0.1:6379".parse().unwrap()), refused);
    }

    #[test]
    fn without_an_allow_list_any_other_address_will_do() {
        let policy = BackendPolicy {
            allowed: Vec::new(),
            ..policy()
        };
        assert_eq!(policy.check("192.0.2.1:80".parse().unwrap()), Ok(()));
        assert_eq!(
            policy.check("127.0.0.1:443".parse().unwrap()),
            Err(Refusal::OwnListener)
        );
    }
}
