//! Routing decisions of portico, as pure functions: which host, which path, which tool,
//! which backend, and why.
//!
//! What is not here: sockets, threads, clocks, files, logging, configuration syntax.
//! Everything a decision needs is a parameter; the only shared state is [`table::Table`],
//! which readers never lock.
//!
//! Invariants of the whole crate:
//! - No function panics, whatever bytes it gets. Everything from outside is bytes until
//!   it has been checked.
//! - Matching happens on canonical forms ([`host::Host`], [`path::canonical_path`]); forwarding and
//!   redirects use the raw bytes of the client.

pub mod backend;
pub mod decide;
pub mod explain;
pub mod field;
pub mod host;
pub mod path;
pub mod pattern;
pub mod rewrite;
pub mod table;
