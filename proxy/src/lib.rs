//! skeleton
pub mod tls;
