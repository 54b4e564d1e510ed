//! portico: the front proxy for platforms that host thousands of small web services.
//!
//! The way of a request: [`server`] accepts and [`tls`] decrypts, [`driver`] reads heads with
//! [`http1`], [`request`] decides, [`forward`] moves bytes between client and [`upstream`],
//! [`response`] edits what goes back. What a request sees is a [`snapshot`]; what changes beside it
//! is in [`process`], kept fresh by [`registry`] on the control thread, which is [`run`].

pub mod admin;
pub mod ask;
pub mod buffer;
pub mod check;
pub mod client;
pub mod client_stream;
pub mod connection;
pub mod context;
pub mod counted;
pub mod deadline;
pub mod demo;
pub mod driver;
pub mod explain;
pub mod failure_text;
pub mod forward;
pub mod halves;
pub mod http1;
pub mod http2;
pub mod listen;
pub mod logging;
pub mod outgoing;
pub mod percent;
pub mod places;
pub mod policy;
pub mod pool_command;
pub mod pools;
pub mod process;
pub mod proxy_protocol;
pub mod registry;
pub mod reload;
pub mod reloads;
pub mod repeats;
pub mod request;
pub mod request_id;
pub mod response;
pub mod routes;
pub mod run;
pub mod server;
pub mod signals;
pub mod snapshot;
pub mod spare;
pub mod start;
pub mod tcp;
pub mod telemetry;
pub mod terminal;
mod time_text;
pub mod tls;
pub mod upstream;
pub mod worker;
