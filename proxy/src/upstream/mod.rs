//! The way to backends: which address, which connection.
//!
//! `fallback` is the 404 backend, `resolve` keeps names resolved, `idle` keeps connections for
//! reuse, `connect` makes new ones, `h2c` shares those of HTTP/2, `stream` is what these hand out.
//! Which node of a pool is chosen is in `pools`.

pub mod connect;
pub mod fallback;
pub mod h2c;
pub mod idle;
pub mod resolve;
pub mod stream;
