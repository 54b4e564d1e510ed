//! skeleton
pub mod http1;
pub mod tls;
