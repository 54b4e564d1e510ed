//! What administrators change while portico runs: `portico pool` and `POST /pools/...`.
//!
//! Kept over a reload, not over a restart. Every change is in the log.

/// What an administrator wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// It is used while it is up.
    #[default]
    Ready,
    /// No new requests; those in flight end. Checks go on.
    Drain,
    /// The same, and no checks.
    Maintenance,
}
