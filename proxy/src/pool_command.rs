//! `portico pool`: asks the portico that serves for its pools, or for a change of a node.
//!
//! The words are the administration's: what `/pools` answers is printed. Not done here: what a
//! change means (`pools::live`).

use std::io::Write;
use std::path::Path;

use hyper::Method;

use crate::ask::{Page, ask};
use crate::percent::encode;
use crate::routes::{RoutesError, admin_address, runtime};
use crate::terminal::{visible, visible_json};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// All pools and nodes.
    List,
    /// No new requests for the node.
    Drain(Target<'a>),
    /// The same, and no checks.
    Maintenance(Target<'a>),
    /// It is used again.
    Ready(Target<'a>),
    /// A weight, or `default`: as the administration understands it.
    Weight(Target<'a>, &'a str),
}

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The name of its pool.
    pub pool: &'a str,
    /// Its address, as it is configured.
    pub node: &'a str,
}

impl Wanted<'_> {
    fn target(&self) -> String {
        match self {
            Self::List => "/pools".to_owned(),
            Self::Drain(node) => format!("/pools/drain?{}", node.query()),
            Self::Maintenance(node) => format!("/pools/maintenance?{}", node.query()),
            Self::Ready(node) => format!("/pools/ready?{}", node.query()),
            Self::Weight(node, weight) => {
                format!("/pools/weight?{}&weight={}", node.query(), encode(weight))
            }
        }
    }
}

impl Target<'_> {
    fn query(&self) -> String {
        format!("pool={}&node={}", encode(self.pool), encode(self.node))
    }
}

/// Asks the portico at `admin`, or at `listen.admin` of the configuration file, and writes what it
/// says to `out`.
///
/// # Errors
/// [`RoutesError`]: also when it refuses.
pub fn run(
    wanted: &Wanted<'_>,
    config: &Path,
    admin: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), RoutesError> {
    let address = admin_address(admin, config)?;
    let target = wanted.target();
    let mut page = Page::get(&target, json);
    if *wanted != Wanted::List {
        page.method = &Method::POST;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &Wanted<'_>, expected: &str) {
        assert_eq!(wanted.target(), expected);
    }

    #[test]
    fn names_reach_the_administration_whole() {
        let node = Target {
            pool: "ingress",
            node: "[2001:db8::1]:80",
        };
        check(&Wanted::List, "/pools");
        check(
            &Wanted::Drain(node),
            "/pools/drain?pool=ingress&node=%5B2001%3Adb8%3A%3A1%5D%3A80",
        );
        let evil = Target {
            pool: "a&node=b c",
            node: "#",
        };
        check(
            &Wanted::Weight(evil, "0&x"),
            "/pools/weight?pool=a%26node%3Db%20c&node=%23&weight=0%26x",
        );
    }
}
