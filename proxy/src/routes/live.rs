//! `portico routes changes`, `apply`, `keep` and `refresh`: what only the portico that serves knows,
//! and can do.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hyper::Method;

use super::{RoutesError, admin_address, runtime};
use crate::ask::{Page, ask};
use crate::terminal::{visible, visible_json};

/// Longer than the administration lets a command take, so that what it says is heard.
const COMMAND_LIMIT: Duration = Duration::from_secs(75);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The last changes.
    Changes,
    /// Removals that are held back act now.
    Apply,
    /// What is held back stays.
    Keep,
    /// The table is compared with redis now.
    Refresh,
}

impl Wanted {
    fn target(self) -> &'static str {
        match self {
            Self::Changes => "/routes/changes",
            Self::Apply => "/routes/apply",
            Self::Keep => "/routes/keep",
            Self::Refresh => "/routes/refresh",
        }
    }
}

/// Asks the portico at `admin`, or at `listen.admin` of the configuration file, and writes what it
/// says to `out`.
///
/// # Errors
/// [`RoutesError`]: also when it refuses.
pub fn run(
    wanted: Wanted,
    config: &Path,
    admin: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), RoutesError> {
    let address = admin_address(admin, config)?;
    let mut page = Page::get(wanted.target(), json);
    if wanted != Wanted::Changes {
        page.method = &Method::POST;
        page.limit = COMMAND_LIMIT;
    }
    let answer = runtime()?.block_on(ask(&address, page))?;
    let answer = String::from_utf8_lossy(&answer);
    // The other side has made it harmless; whoever that is.
    if json {
        return Ok(out.write_all(visible_json(&answer).as_bytes())?);
    }
    for line in answer.lines() {
        writeln!(out, "{}", visible(line))?;
    }
    Ok(())
}
