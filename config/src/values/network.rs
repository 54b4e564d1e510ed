//! Addresses, networks, names and domains.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use portico_routing::host::Host;
use portico_routing::table::valid_tool;
use toml::de::DeValue;

use super::quote;
use crate::config::{AdminAddress, NamePattern, NodeAddress};
use crate::reader::{FromText, Mistake};

impl FromText for SocketAddr {
    fn allowed() -> String {
        "an IP address and a port, such as \"[::]:443\" or \"127.0.0.1:9113\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        text.parse().map_err(|_| {
            let meant = match text.rsplit_once(':') {
                Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
                    Some(format!("\"[::]:{port}\""))
                }
                Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
                    Some(format!("\"127.0.0.1:{port}\""))
                }
                _ if text.parse::<u16>().is_ok() => Some(format!("\"[::]:{text}\"")),
                _ => None,
            };
            Mistake::new(format!("{} is no address with a port", quote(text))).suggest(meant)
        })
    }

    fn suggest_for(value: &DeValue<'_>) -> Option<String> {
        let port = value.as_integer()?.as_str().parse::<u16>().ok()?;
        Some(format!("\"[::]:{port}\""))
    }
}

/// The address of the administration, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaybeAdmin(pub(crate) Option<AdminAddress>);

/// What the system takes for the path of a unix socket, without the NUL at its end (`sun_path`).
const MAX_SOCKET_PATH: usize = 107;

impl FromText for MaybeAdmin {
    fn allowed() -> String {
        "\"\", an IP address and a port such as \"127.0.0.1:9113\", or \"unix:\" and the path of a socket"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let Some(path) = text.strip_prefix("unix:") else {
            let meant = text.starts_with('/').then(|| format!("\"unix:{text}\""));
            return match SocketAddr::from_text(text) {
                Ok(address) => Ok(Self(Some(AdminAddress::Tcp(address)))),
                Err(mistake) => {
                    let meant = meant.or(mistake.suggestion);
                    Err(Mistake::new(mistake.message).suggest(meant))
                }
            };
        };
        if path.len() > MAX_SOCKET_PATH {
            let message = format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes");
            return Err(Mistake::new(message));
        }
        PathBuf::from_text(path).map(|path| Self(Some(AdminAddress::Unix(path))))
    }

    fn suggest_for(value: &DeValue<'_>) -> Option<String> {
        let port = value.as_integer()?.as_str().parse::<u16>().ok()?;
        Some(format!("\"127.0.0.1:{port}\""))
    }
}

impl FromText for IpNet {
    fn allowed() -> String {
        "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or one address".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Self::from(address),
            Err(_) => text
                .parse::<Self>()
                .map_err(|_| Mistake::new(format!("{} is no network", quote(text))))?,
        };
        if let Some(v4) = unmapped(net) {
            let message = format!(
                "{} is IPv4 in IPv6 clothes, and matches nothing",
                quote(text)
            );
            return Err(Mistake::new(message).suggest(Some(format!("\"{v4}\""))));
        }
        if net.trunc() == net {
            return Ok(net);
        }
        // Either the address or the length is a slip; guessing would let in or keep out too many.
        Err(Mistake::new(format!(
            "{} has bits set behind its prefix length",
            quote(text)
        ))
        .suggest(Some(format!("\"{}\"", net.trunc()))))
    }
}

/// The IPv4 network that is written as one of mapped addresses: peers are compared as IPv4.
fn unmapped(net: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(v6) = net else { return None };
    let prefix = v6.prefix_len().checked_sub(96)?;
    Ipv4Net::new(v6.network().to_ipv4_mapped()?, prefix).ok()
}

/// The first label of a host: a tool, a reserved label; also what pools and
/// listeners may be called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(pub(crate) Box<str>);

impl FromText for Name {
    fn allowed() -> String {
        "a name of 1 to 63 lower-case letters, digits, - and _".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if valid_tool(text) {
            return Ok(Self(text.into()));
        }
        let lower = text.trim().to_lowercase().replace([' ', '.'], "-");
        Err(Mistake::new(format!("{} is no valid name", quote(text)))
            .suggest(valid_tool(&lower).then(|| format!("{lower:?}"))))
    }
}

/// A domain in canonical form: lower case, no port, no trailing dot, no IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain(pub(crate) Box<str>);

impl FromText for Domain {
    fn allowed() -> String {
        "a host name such as \"toolforge.org\", without scheme, port and path".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if valid_host_name(name) {
            return Ok(Self(name.into()));
        }
        let bare = name
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_start_matches("*.");
        let bare = bare.split(['/', ':']).next().unwrap_or_default();
        let meant = (bare != name && !name.contains('@') && valid_host_name(bare))
            .then(|| format!("{bare:?}"));
        Err(Mistake::new(format!("{} is no host name", quote(text))).suggest(meant))
    }
}

impl FromText for NamePattern {
    fn allowed() -> String {
        "a host name such as \"k8s.example\", or \"*.example\" for all names one label below one"
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let below = text.strip_prefix("*.");
        let Domain(name) = Domain::from_text(below.unwrap_or(text))?;
        Ok(Self {
            name,
            wildcard: below.is_some(),
        })
    }
}

/// A host name, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaybeHost(pub(crate) Option<Box<str>>);

impl FromText for MaybeHost {
    fn allowed() -> String {
        "\"\", or a host name such as \"proxy-1.example\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        Domain::from_text(text).map(|name| Self(Some(name.0)))
    }
}

/// What a Host field may hold (RFC 9110 section 7.2), in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostField {
    /// All of it: `health.example:8080`, `[2001:db8::1]`.
    pub(crate) text: Box<str>,
    /// The name or address alone: `health.example`, `2001:db8::1`.
    pub(crate) host: Box<str>,
}

impl FromText for HostField {
    fn allowed() -> String {
        "a host name or an IP address, and a port if it needs one, such as \"health.example\", \"192.0.2.1:8080\" or \"[2001:db8::1]\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let lower = text.to_ascii_lowercase();
        let no_host = || Mistake::new(format!("{} is no host", quote(text)));
        if lower.parse::<Ipv6Addr>().is_ok() {
            return Err(no_host().suggest(Some(format!("\"[{lower}]\""))));
        }
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (&*lower, None),
        };
        let v6 = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let name = match v6 {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok().then_some(v6),
            None => (host.parse::<Ipv4Addr>().is_ok() || valid_host_name(host)).then_some(host),
        };
        let number = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let port_fits =
            port.is_none_or(|port| number(port) && port.parse().is_ok_and(|port: u16| port != 0));
        match name.filter(|_| port_fits) {
            Some(name) => Ok(Self {
                host: name.into(),
                text: lower.as_str().into(),
            }),
            None => {
                Err(no_host().suggest(Domain::from_text(text).err().and_then(|m| m.suggestion)))
            }
        }
    }
}

/// Whether this is a host name as routing knows it, in its canonical form, and no IP address.
fn valid_host_name(name: &str) -> bool {
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    Host::parse_name(name.as_bytes()).is_ok_and(|host| host.as_str() == name)
        && !name.rsplit('.').next().is_some_and(number)
}

impl FromText for NodeAddress {
    fn allowed() -> String {
        "an address or a host name, and a port, such as \"192.0.2.1:30000\" or \"[2001:db8::1]:30000\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let no_node = || Mistake::new(format!("{} is no server address", quote(text)));
        let no_zero = || Mistake::new("no server listens on port 0");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(no_zero())
            } else {
                Ok(Self::Ip(address))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(no_node());
        };
        let lower = host.to_ascii_lowercase();
        let host = lower.strip_suffix('.').unwrap_or(&lower);
        match port.parse::<u16>() {
            Ok(0) => Err(no_zero()),
            Ok(port) if valid_host_name(host) => Ok(Self::Name {
                host: host.into(),
                port,
            }),
            _ => {
                let meant = text
                    .strip_prefix("http://")
                    .map(|rest| rest.trim_end_matches('/'));
                let meant = meant.filter(|meant| Self::from_text(meant).is_ok());
                Err(no_node().suggest(meant.map(|meant| format!("{meant:?}"))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{bad, good};

    /// The text is a Host field, and this the name in it.
    #[track_caller]
    fn good_host(text: &str, host: &str) {
        let field = HostField::from_text(text).unwrap();
        assert_eq!((&*field.text, &*field.host), (&*text.to_lowercase(), host));
    }

    #[test]
    fn host_fields() {
        good_host("Health.Example", "health.example");
        good_host("node-1:8080", "node-1");
        good_host("192.0.2.1", "192.0.2.1");
        good_host("192.0.2.1:80", "192.0.2.1");
        good_host("[2001:DB8::1]", "2001:db8::1");
        good_host("[::1]:8080", "::1");
        for none in [
            "",
            ":80",
            "[::1",
            "::1]",
            "[]",
            "a b",
            "a:b:1",
            "[192.0.2.1]",
            "[::1]x",
            "[::1]:x",
            "192.0.2.256",
            "a/b\r\nX: y",
        ] {
            assert!(HostField::from_text(none).is_err(), "{none}");
        }
        for port in ["", "+1", "0", "65536", "x"] {
            bad::<HostField>(&format!("a.example:{port}"), Some("\"a.example\""));
        }
        bad::<HostField>("::1", Some("\"[::1]\""));
        bad::<HostField>("http://a.example/", Some("\"a.example\""));
    }

    #[test]
    fn name_patterns() {
        let pattern = |name: &str, wildcard| NamePattern {
            name: name.into(),
            wildcard,
        };
        good("K8s.Example.", pattern("k8s.example", false));
        good("*.Example", pattern("example", true));
        for none in ["*", "*.", "a.*", "*a.example", "[::1]", "*.192.0.2.1"] {
            assert!(NamePattern::from_text(none).is_err(), "{none}");
        }
    }

    #[test]
    fn administration() {
        let unix = |path: &str| MaybeAdmin(Some(AdminAddress::Unix(path.into())));
        let tcp = |text: &str| MaybeAdmin(Some(AdminAddress::Tcp(text.parse().unwrap())));
        good("", MaybeAdmin(None));
        good("127.0.0.1:9113", tcp("127.0.0.1:9113"));
        good("[::1]:9113", tcp("[::1]:9113"));
        good(
            "unix:/run/portico/admin.sock",
            unix("/run/portico/admin.sock"),
        );
        let longest = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH - 1));
        good(&longest, unix(&longest[5..]));
        bad::<MaybeAdmin>(&format!("{longest}x"), None);
        bad::<MaybeAdmin>("unix:", None);
        bad::<MaybeAdmin>("off", None);
        bad::<MaybeAdmin>("/run/admin.sock", Some("\"unix:/run/admin.sock\""));
        bad::<MaybeAdmin>("localhost:9113", Some("\"127.0.0.1:9113\""));
    }

    #[test]
    fn addresses_and_networks() {
        good("[::]:80", SocketAddr::from(([0u16; 8], 80)));
        good("127.0.0.1:9113", SocketAddr::from(([127, 0, 0, 1], 9113)));
        bad::<SocketAddr>(":80", Some("\"[::]:80\""));
        bad::<SocketAddr>("*:80", Some("\"[::]:80\""));
        bad::<SocketAddr>("localhost:80", Some("\"127.0.0.1:80\""));
        bad::<SocketAddr>("127.0.0.1", None);
        bad::<SocketAddr>("127.0.0.1:65536", None);
        good("192.0.2.0/24", "192.0.2.0/24".parse::<IpNet>().unwrap());
        good("192.0.2.1", "192.0.2.1/32".parse::<IpNet>().unwrap());
        good("2001:db8::1", "2001:db8::1/128".parse::<IpNet>().unwrap());
        bad::<IpNet>("10.1.2.3/8", Some("\"10.0.0.0/8\""));
        bad::<IpNet>("10.0.0.0/33", None);
        bad::<IpNet>("all", None);
        bad::<IpNet>("::ffff:192.0.2.1", Some("\"192.0.2.1/32\""));
        bad::<IpNet>("::ffff:10.0.0.0/104", Some("\"10.0.0.0/8\""));
        good("::/0", "::/0".parse::<IpNet>().unwrap());
    }

    #[test]
    fn servers() {
        let name = |host: &str, port| NodeAddress::Name {
            host: host.into(),
            port,
        };
        good(
            "192.0.2.1:30000",
            NodeAddress::Ip("192.0.2.1:30000".parse().unwrap()),
        );
        good(
            "[2001:db8::1]:1",
            NodeAddress::Ip("[2001:db8::1]:1".parse().unwrap()),
        );
        good("Node-1.example.:80", name("node-1.example", 80));
        bad::<NodeAddress>("node", None);
        bad::<NodeAddress>("node:0", None);
        bad::<NodeAddress>("192.0.2.1:0", None);
        bad::<NodeAddress>("192.0.2.256:80", None);
        bad::<NodeAddress>("2001:db8::1:80", None);
        bad::<NodeAddress>("http://node:80/", Some("\"node:80\""));
        bad::<NodeAddress>("http://user:secret@node:80/", None);
    }

    #[test]
    fn names_and_domains() {
        good("ru_monuments", Name("ru_monuments".into()));
        bad::<Name>("Tool", Some("\"tool\""));
        bad::<Name>("my tool", Some("\"my-tool\""));
        bad::<Name>("", None);
        bad::<Name>(&"a".repeat(64), None);
        good("Toolforge.ORG.", Domain("toolforge.org".into()));
        good("localhost", Domain("localhost".into()));
        bad::<Domain>("https://toolforge.org/x", Some("\"toolforge.org\""));
        bad::<Domain>("*.toolforge.org", Some("\"toolforge.org\""));
        bad::<Domain>("toolforge.org:443", Some("\"toolforge.org\""));
        bad::<Domain>("192.0.2.1", None);
        bad::<Domain>("a..b", None);
        good("Proxy-1.example", MaybeHost(Some("proxy-1.example".into())));
        good("", MaybeHost(None));
        bad::<MaybeHost>("192.0.2.1", None);
        bad::<Domain>("", None);
        bad::<Domain>("b\u{fc}cher.example", None);
    }
}
