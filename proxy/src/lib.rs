//! skeleton
pub mod http1;
