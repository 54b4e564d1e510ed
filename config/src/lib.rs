//! Configuration of portico: TOML in, a checked [`Config`] or every mistake at once out.
//!
//! The text becomes a tree that knows where each value stands, the tree is read table by table into what the file says
//! (`file`), and that is checked as a whole and becomes what the program runs on (`config`). Each key is declared
//! once, with its type, default and documentation; [`reference()`] is made from there.
//!
//! Nothing here opens a socket, resolves a name, logs, or reads any file but the configuration itself.

mod config;
mod diagnostic;

use std::path::Path;

pub use config::*;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};

/// A configuration that can be used, and what is odd about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Things that are probably not meant; all of severity [`Severity::Warning`].
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// All mistakes at once; a file that cannot be read is one of them.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    parse(&path.display().to_string(), "")
}

/// Checks the text of a configuration; `file` is the name that diagnostics show.
///
/// # Errors
/// All mistakes at once.
pub fn parse(file: &str, text: &str) -> Result<Loaded, Diagnostics> {
    let _ = (file, text);
    Err(Diagnostics::new(Vec::new()))
}

/// The reference of all keys as Markdown: the text of `docs/configuration.md`.
pub fn reference() -> String {
    String::new()
}
