//! What portico tells about itself: what became of each request, metrics, the access log.
//!
//! Every request ends in one [`Record`](record::Record), made in `request::finish` from the
//! [`Facts`](facts::Facts) that the phases noted. Nothing here decides anything about a request, and
//! nothing here waits.

pub mod access_log;
pub mod address;
pub mod facts;
pub mod head_copy;
pub mod metrics;
pub mod record;
