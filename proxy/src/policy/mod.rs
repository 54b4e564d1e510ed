//! What portico refuses, one policy a file: its settings, its decision, its bounds.
//!
//! Each policy gives a verdict; the request path turns it into an answer. More policies (addresses,
//! rates, lists) join here.

pub mod backends;
pub mod tool_cap;
