//! `portico check`: everything that a start does, except bind.
//!
//! Redis is asked too, but that it cannot be reached right now is a warning and no mistake: it says
//! nothing about the configuration, and the start may find it back, or use the snapshot.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portico_routing::table::Table;

use crate::registry::{self, RegistryStatus, Source};
use crate::start::{self, StartError};
use crate::telemetry::access_log::AccessLog;

/// A certificate that ends so soon should have been renewed.
const SOON: Duration = Duration::from_hours(14 * 24);

/// What the check found.
#[derive(Debug)]
pub struct Report {
    /// What is odd, but no reason not to start.
    pub warnings: Vec<String>,
    /// What would be served.
    pub summary: String,
}

/// Checks the configuration in `path`.
///
/// # Errors
/// What would keep portico from starting.
pub fn check(path: &Path) -> Result<Report, StartError> {
    let prepared = start::prepare(path)?;
    let mut warnings = prepared.warnings.clone();
    let snapshot = prepared.process.snapshot.load_full();
    let config = &snapshot.config;
    AccessLog::check(&config.log).map_err(StartError::from)?;
    let mut summary = format!(
        "{}: ok; certificates: {}, pools: {}, TCP listeners: {}, static routes: {}",
        path.display(),
        config.tls.certificates.len(),
        config.pools.len(),
        config.tcp.len(),
        config.rules.routes.len()
    );
    let soon = SystemTime::now() + SOON;
    let expiries = (snapshot.tls.iter()).flat_map(|tls| tls.certificates.expiries());
    for expiry in expiries.filter(|expiry| expiry.not_after < soon) {
        let (chain, end) = (
            expiry.chain.display(),
            httpdate::fmt_http_date(expiry.not_after),
        );
        warnings.push(format!("{chain}: the certificate expires within 14 days, on {end}; after that no start will take it: renew it"));
    }
    if let Some(registry) = &config.registry {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        let (table, status) = (Arc::new(Table::new()), Arc::<RegistryStatus>::default());
        let load = registry::load_with(
            registry,
            Arc::clone(&table),
            Arc::clone(&status),
            prepared.admit(),
        );
        match runtime.map(|runtime| runtime.block_on(load)) {
            Ok(Ok(source)) => {
                summary.push_str(&format!(", {} tools in {source}", table.len()));
                if table.bad_routes() > 0 {
                    let bad = table.bad_routes();
                    summary.push_str(&format!(", {bad} bad routes (portico routes shows them)"));
                }
                if let Source::Snapshot(_) = source {
                    let why = status.redis_error().unwrap_or_default();
                    warnings.push(format!(
                        "redis cannot be used right now ({why}): a start would route by the snapshot on disk; check redis and registry.url"
                    ));
                }
            }
            Ok(Err(error)) => warnings.push(format!("a start right now would fail: {error}")),
            Err(error) => warnings.push(format!("the registry was not asked: {error}")),
        }
    }
    Ok(Report { warnings, summary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_everything_once() {
        let config = "
            [listen]
            http = [\"127.0.0.1:1\"]
            redirect = false
            https = []
            [domains]
            canonical = \"toolforge.org\"
            [pools.p]
            nodes = [\"127.0.0.1:2\"]
            [[tcp]]
            name = \"t\"
            listen = [\"127.0.0.1:3\"]
            pool = \"p\"
        ";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let summary = check(file.path()).unwrap().summary;
        let (_, said) = summary.split_once(": ok; ").unwrap();
        let expected = "certificates: 0, pools: 1, TCP listeners: 1, static routes: 0";
        assert_eq!(said, expected);
    }
}
