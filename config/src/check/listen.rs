//! Listeners, whatever for, and who may reach them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::different;
use crate::config::{AdminAddress, Listen};
use crate::file::{File, ListenFile, TlsFile};
use crate::reader::{Item, List, Mistake, Place, Reader};
use crate::values::MaybeAdmin;

/// Every address that is listened on, whatever for.
pub(super) fn listeners(file: &File) -> Vec<Item<SocketAddr>> {
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

/// Checks that HTTPS listeners have a certificate; returns whether anybody answers HTTPS.
pub(super) fn answers_https(
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

pub(super) fn check_listen(
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
    warn_of_port_0(reader, &http.items);
    warn_of_port_0(reader, &https.items);
    let admin = listen.admin.value?.0;
    if let Some(AdminAddress::Tcp(address)) = &admin {
        check_admin(reader, *address, &listen.admin.at);
    }
    let proxy_protocol_from = listen.proxy_protocol_from.value?;
    different(reader, &proxy_protocol_from.items, |_| true, "this network");
    warn_of_everybody(reader, &proxy_protocol_from);
    Some(Listen {
        http: http.into_values().collect(),
        redirect,
        https: https.into_values().collect(),
        admin,
        proxy_protocol_from: proxy_protocol_from.into_values().collect(),
    })
}

pub(super) fn warn_of_port_0(reader: &mut Reader<'_>, addresses: &[Item<SocketAddr>]) {
    for item in addresses.iter().filter(|item| item.value.port() == 0) {
        reader.warning(
            &item.at,
            Mistake::new("port 0: the system chooses a free port, each time another one"),
        );
    }
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

/// Who may say for whom a connection is made had better not be everybody.
pub(super) fn warn_of_everybody(reader: &mut Reader<'_>, networks: &List<IpNet>) {
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

/// Reports an address that is one of portico's own: requests would go round in circles.
pub(super) fn not_myself(
    reader: &mut Reader<'_>,
    address: SocketAddr,
    own: &[SocketAddr],
    at: &Place,
) {
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
