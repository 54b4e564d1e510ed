//! From a configuration file to everything that serving needs, short of sockets and threads.
//!
//! `portico run` and `portico check` take the same way, so that what passes the check also starts:
//! the file is read and checked, certificates are loaded, pools built, descriptors counted. What
//! differs is listed in `run`: binding, and loading the routes.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portico_config::{AdminAddress, Config, Diagnostic, Diagnostics, NodeAddress};
use portico_routing::backend::{Backend, BackendHost};
use portico_routing::table::{Entry, Table};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::places::Places;
use crate::policy::backends::{BackendPolicy, RegistryServers};
use crate::policy::tool_cap::ToolCap;
use crate::process::Process;
use crate::registry::{self, Admit, Changed, RegistryStatus};
use crate::reloads::Reloads;
use crate::response::pages::Pages;
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::OpenError;
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, CertificateStore, ServerTls};
use crate::upstream::resolve::Resolver;

/// Descriptors that the process needs beside its connections: listeners, epoll, redis, logs,
/// checks under way, certificates being read.
const RESERVED_DESCRIPTORS: usize = 64;
/// Connections to the administration at once, each of which needs one too; the next one gets 503.
pub const ADMIN_CONNECTIONS: usize = 32;

/// Why portico does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] Diagnostics),
    /// Templates of pages have mistakes.
    #[error("{}", lines(.0))]
    Templates(Vec<Diagnostic>),
    /// Certificates cannot be used; one sentence each.
    #[error("{}", .0.join("\n"))]
    Certificates(Vec<String>),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
    /// Too few descriptors to serve anybody.
    #[error(
        "the process may open {0} files, which is too few to serve connections; raise the limit (LimitNOFILE in the systemd unit, ulimit -n in a shell)"
    )]
    Descriptors(usize),
}

fn lines(mistakes: &[Diagnostic]) -> String {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What is ready before sockets are bound.
#[derive(Debug)]
pub struct Prepared {
    /// The state that workers and control thread share.
    pub process: Arc<Process>,
    /// What is odd, but no reason to stop.
    pub warnings: Vec<String>,
}

/// A configuration with everything built from it.
#[derive(Debug)]
pub struct Built {
    /// What requests will see.
    pub snapshot: Snapshot,
    /// Places for connections.
    pub descriptors: Descriptors,
    /// What is odd, but no reason to refuse it.
    pub warnings: Vec<String>,
}

/// Reads the configuration and prepares everything that it asks for.
///
/// # Errors
/// [`StartError`]: all mistakes of one kind at once.
pub fn prepare(path: &Path) -> Result<Prepared, StartError> {
    let loaded = portico_config::load(path)?;
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    prepare_config(loaded.config, warnings)
}

/// [`prepare`] for a configuration that did not come from a file.
///
/// # Errors
/// [`StartError`]
pub fn prepare_config(config: Config, warnings: Vec<String>) -> Result<Prepared, StartError> {
    let Built {
        snapshot,
        descriptors,
        mut warnings,
    } = build(config, warnings, None)?;
    warnings.extend_from_slice(tls::root_warnings());
    let registry = snapshot.backends.registry.clone();
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let table = Arc::new(Table::new());
    let process = Process {
        metrics: Arc::new(Metrics::new(Arc::clone(&table), Arc::clone(&snapshot))),
        registry_status: Arc::new(RegistryStatus::new(registry)),
        started: SystemTime::now(),
        stage: AtomicU8::new(0),
        snapshot,
        table,
        resolver: Arc::default(),
        tools: ToolCap::default(),
        connections: Places::new(descriptors.clients),
        backends: Places::new(descriptors.backends),
        access_log: Arc::default(),
        access_log_counts: Arc::default(),
        backend_tls: tls::client_config()?,
        reloads: Reloads::default(),
    };
    want_names(&process.snapshot.load().config, &process.resolver);
    Ok(Prepared {
        process: Arc::new(process),
        warnings,
    })
}

/// Builds what a configuration asks for; nothing that is in force changes. `previous`: what it is
/// to replace.
///
/// # Errors
/// [`StartError`]
pub fn build(
    mut config: Config,
    mut warnings: Vec<String>,
    previous: Option<&Snapshot>,
) -> Result<Built, StartError> {
    let pages = Pages::load(&config).map_err(StartError::Templates)?;
    let tls = match config.listen.https.as_slice() {
        [] => None,
        _ => Some(server_tls(&config, previous, &mut warnings)?),
    };
    let wanted = config.limits.connections;
    let descriptors = descriptors_for(wanted, config.listen.admin.is_some())?;
    if descriptors.clients < wanted {
        let enough = descriptors.clients;
        warnings.push(format!(
            "limits.connections is lowered from {wanted} to {enough}: the process may not open more files; \
             raise the limit (LimitNOFILE in the systemd unit, ulimit -n in a shell)"
        ));
        config.limits.connections = enough;
        let shown = i64::try_from(enough).unwrap_or(i64::MAX);
        let why = format!("lowered from {wanted}: the process may not open more files");
        (config.settings).adjust("limits", "connections", shown, &why);
    }
    warn_of_snapshot(&config, &mut warnings);
    let policy = backend_policy(&config, previous);
    warn_of_refused(&config, &policy, &mut warnings);
    Ok(Built {
        snapshot: Snapshot::new(config, tls, policy, pages, previous),
        descriptors,
        warnings,
    })
}

fn server_tls(
    config: &Config,
    previous: Option<&Snapshot>,
    warnings: &mut Vec<String>,
) -> Result<ServerTls, StartError> {
    let certificates = CertificateStore::load(&config.tls.certificates).map_err(|errors| {
        StartError::Certificates(errors.iter().map(ToString::to_string).collect())
    })?;
    warnings.extend(certificates.warnings());
    warn_of_uncovered(config, &certificates, warnings);
    let previous = previous.and_then(|previous| previous.tls.as_ref());
    if let Some(previous) = previous {
        certificates.succeed(&previous.certificates);
    }
    let server = tls::server_config(
        Arc::clone(&certificates),
        config.tls.min_version,
        previous.map(|tls| &*tls.config),
    )?;
    Ok(ServerTls {
        certificates,
        config: server,
    })
}

/// Clients of a host that no certificate names see an error before they see anything else.
fn warn_of_uncovered(config: &Config, store: &CertificateStore, warnings: &mut Vec<String>) {
    let domains = &config.rules.domains;
    let canonical = &domains.canonical;
    let tools = (format!("*.{canonical}"), format!("any.{canonical}"));
    let hosts = domains
        .legacy
        .iter()
        .map(|h| (h.to_string(), h.to_string()));
    for (shown, host) in std::iter::once(tools).chain(hosts) {
        if !store.covers(&host) {
            warnings.push(format!(
                "no certificate in tls.certificates names {shown}: clients get the first one and will refuse it"
            ));
        }
    }
}

/// How many connections the descriptors suffice for.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    /// Of clients.
    pub clients: usize,
    /// To backends.
    pub backends: usize,
}

/// Raises the limit on open files as far as allowed, and says for how many client connections it
/// suffices, `wanted` at the most. Three descriptors for two connections: an idle one needs one,
/// one with a request under way two. What is left is for connections to backends.
fn descriptors_for(wanted: usize, admin: bool) -> Result<Descriptors, StartError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If raising fails, the limit that is in force counts.
    let _ = setrlimit(Resource::Nofile, raised);
    let files = getrlimit(Resource::Nofile)
        .current
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(usize::MAX / 2);
    let reserved = RESERVED_DESCRIPTORS + if admin { ADMIN_CONNECTIONS } else { 0 };
    let left = files.saturating_sub(reserved);
    match left / 3 * 2 {
        0 => Err(StartError::Descriptors(files)),
        enough => {
            let clients = wanted.min(enough);
            let backends = (left - clients).min(Places::MAX);
            Ok(Descriptors { clients, backends })
        }
    }
}

/// How many threads serve.
pub fn worker_count(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

fn backend_policy(config: &Config, previous: Option<&Snapshot>) -> BackendPolicy {
    let mut own = [&config.listen.http[..], &config.listen.https[..]].concat();
    own.extend(config.tcp.iter().flat_map(|listener| &listener.listen));
    // What it shows, and a reload, are for those who reach its own address.
    if let Some(AdminAddress::Tcp(address)) = &config.listen.admin {
        own.push(*address);
    }
    let registry = config.registry.as_ref();
    BackendPolicy {
        allowed: registry.map_or_else(Vec::new, |r| r.backends.clone()),
        own,
        registry: match previous {
            // The registry stays where it is, or where sentinels move it to.
            Some(previous) => previous.backends.registry.clone(),
            None => RegistryServers::new(registry.map_or_else(Vec::new, registry_addresses)),
        },
    }
}

/// Where redis listens, or its sentinels; none for unix sockets. Once, at start, before anybody
/// waits for an answer.
fn registry_addresses(config: &portico_config::Registry) -> Vec<SocketAddr> {
    let servers = registry::server_addresses(config).into_iter();
    let resolved = servers.filter_map(|server| server.to_socket_addrs().ok());
    resolved.flatten().collect()
}

/// That the routes cannot be kept would otherwise be known when they are needed, or from the log of
/// a running portico at the earliest.
fn warn_of_snapshot(config: &Config, warnings: &mut Vec<String>) {
    let Some(path) = config.registry.as_ref().map(|registry| &registry.snapshot) else {
        return;
    };
    // The parent of a bare name is "", which stands for the working directory.
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        warnings.push(format!(
            "registry.snapshot: there is no directory {}, so the routes cannot be kept for a start without redis; create it",
            folder.display()
        ));
    }
}

/// Static routes, nodes and the fallback were written by the administrator: what is refused there
/// is worth a word at once.
fn warn_of_refused(config: &Config, policy: &BackendPolicy, warnings: &mut Vec<String>) {
    for (tool, entry) in &config.rules.routes {
        for route in &entry.routes {
            if let Err(refusal) = policy.admit(&route.backend) {
                let backend = &route.backend;
                warnings.push(format!(
                    "[routes] {tool} points at {backend}, which portico will not connect to: {refusal}"
                ));
            }
        }
    }
    for pool in config.pools.values() {
        for node in &pool.nodes {
            if let NodeAddress::Ip(address) = &node.address
                && let Err(refusal) = policy.check_always(*address)
            {
                let name = &pool.name;
                warnings.push(format!(
                    "the node {address} of the pool {name} can hardly be meant: {refusal}"
                ));
            }
        }
    }
    if let Some(backend) = &config.fallback.backend
        && let BackendHost::Ip(ip) = backend.host
        && let Err(refusal) = policy.check_always(SocketAddr::new(ip, backend.port))
    {
        warnings.push(format!(
            "fallback.backend is {backend}, which portico will not connect to: {refusal}"
        ));
    }
}

/// Says again that the names of all routes and pools are wanted: the name of a tool that nobody
/// asked for in a while must not be gone at its next request.
pub fn keep_names(process: &Process) {
    let resolver = &process.resolver;
    want_names(&process.snapshot.load().config, resolver);
    process
        .table
        .for_each(|_, entry| want_names_of(entry, resolver));
}

/// Has the names in the configuration resolved before the first request.
pub fn want_names(config: &Config, resolver: &Resolver) {
    for entry in config.rules.routes.values() {
        want_names_of(entry, resolver);
    }
    for pool in config.pools.values() {
        for node in &pool.nodes {
            if let NodeAddress::Name { host, .. } = &node.address {
                resolver.want(host);
            }
        }
    }
    if let Some(backend) = &config.fallback.backend {
        want_name_of(backend, resolver);
    }
}

fn want_names_of(entry: &Entry, resolver: &Resolver) {
    for route in &entry.routes {
        want_name_of(&route.backend, resolver);
    }
}

fn want_name_of(backend: &Backend, resolver: &Resolver) {
    if let BackendHost::Name(name) = &backend.host {
        resolver.want(name);
    }
}

impl Prepared {
    /// Whether routes may point at a backend, for the registry: by the configuration in force.
    pub fn admit(&self) -> Admit {
        let snapshot = Arc::clone(&self.process.snapshot);
        Arc::new(move |backend: &Backend| snapshot.load().backends.admit(backend))
    }

    /// What happens when the registry's table changes.
    pub fn changed(&self) -> Changed {
        let resolver = Arc::clone(&self.process.resolver);
        Arc::new(move |_, entry| want_names_of(entry, &resolver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_not_lowered() {
        let few = descriptors_for(10, true).unwrap();
        assert_eq!(few.clients, 10);
        let all = descriptors_for(usize::MAX, true).unwrap();
        assert!(all.clients < usize::MAX && all.backends >= all.clients / 2);
        assert_eq!(all.clients + all.backends, few.clients + few.backends);
    }
}
