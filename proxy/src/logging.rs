//! Diagnostics: what portico says about itself on standard error, and how much.

use std::io;
use std::sync::OnceLock;

use portico_config::LogLevel;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sends diagnostics to standard error; later calls do nothing.
pub fn init(level: LogLevel) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = fmt::layer()
        .with_target(false)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    if subscriber.try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes how much is said.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone, and then nothing is said at all.
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    // Other crates speak only of what is wrong; portico at its configured level.
    EnvFilter::new(format!("warn,portico={}", level.as_str()))
}
