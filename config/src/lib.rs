//! Configuration of portico: TOML in, a checked [`Config`] or every mistake at once out.
//!
//! The text becomes a tree that knows where each value stands, the tree is read table by table
//! into what the file says (`file`), and that is checked as a whole and becomes what the program
//! runs on (`config`). Each key is declared once, with its type, default and documentation;
//! [`reference()`] is made from there.
//!
//! Nothing here opens a socket, resolves a name, logs, or reads any file but the
//! configuration itself.

mod check;
mod config;
mod diagnostic;
mod file;
mod reader;
mod reference;
mod settings;
mod unbuilt;
mod values;

use std::io::Read as _;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use file::File;
use reader::{FromToml as _, Mistake, Place, Reader};

pub use config::*;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use reference::reference;
pub use settings::{Origin, Setting, Settings};
pub use values::{Credentials, SentinelUrl};

/// A larger file is no configuration of ours.
const MAX_FILE_BYTES: usize = 4 << 20;

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
    let file = path.display().to_string();
    match read_file(path) {
        Ok(bytes) => parse_bytes(&file, &bytes),
        Err(message) => Err(about_file(&file, message)),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("the configuration cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!(
            "the file is larger than {} MiB and no configuration",
            MAX_FILE_BYTES >> 20
        ));
    }
    Ok(bytes)
}

/// A mistake that has no line.
fn about_file(file: &str, message: String) -> Diagnostics {
    Diagnostics::new(vec![Diagnostic {
        file: file.to_owned(),
        line: 0,
        column: 0,
        key: String::new(),
        message,
        allowed: None,
        suggestion: None,
        severity: Severity::Error,
    }])
}

/// [`parse`], for bytes that may not be text.
fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Loaded, Diagnostics> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(file, text),
        Err(error) => {
            let text =
                String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let mut reader = Reader::new(file, &text, File::table);
            let at = Place {
                key: String::new(),
                offset: text.len(),
            };
            reader.error(
                &at,
                Mistake::new("this byte is not UTF-8").allowed("a text file in UTF-8"),
            );
            Err(Diagnostics::new(reader.finish()))
        }
    }
}

/// Checks the text of a configuration; `file` is the name that diagnostics show.
///
/// # Errors
/// All mistakes at once.
pub fn parse(file: &str, text: &str) -> Result<Loaded, Diagnostics> {
    let mut reader = Reader::new(file, text, File::table);
    let (tree, mistakes) = DeTable::parse_recoverable(text);
    for mistake in &mistakes {
        let at = Place {
            key: String::new(),
            offset: mistake.span().map_or(text.len(), |span| span.start),
        };
        reader.syntax_error(&at, mistake.message());
    }
    reader.incomplete = !mistakes.is_empty();
    let config = read_tree(&mut reader, tree);
    let found = reader.finish();
    match config {
        Some(config) => Ok(Loaded {
            config,
            warnings: found,
        }),
        None if found.is_empty() => Err(about_file(
            file,
            "portico refuses it without a reason".to_owned(),
        )),
        None => Err(Diagnostics::new(found)),
    }
}

fn read_tree(reader: &mut Reader<'_>, tree: Spanned<DeTable<'_>>) -> Option<Config> {
    let start = Place {
        key: String::new(),
        offset: 0,
    };
    let root = DeValue::Table(tree.into_inner());
    let file = File::read(reader, &root, &start)?;
    unbuilt::check(reader, root.as_table()?);
    if reader.incomplete {
        // What seems not to fit may just not have been read.
        return None;
    }
    let mut config = check::check(reader, file)?;
    config.settings = Settings::new(reader, root.as_table()?);
    Some(config)
}
