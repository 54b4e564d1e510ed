//! Renders `docs/configuration.md`.
pub fn reference() -> String { String::new() }
