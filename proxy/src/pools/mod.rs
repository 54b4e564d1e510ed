//! Pools: balanced groups of servers (nodes), what HAProxy calls backends.
//!
//! `pool` finds a place at a node for a request or a TCP connection, at once or after a wait in
//! `queue`; `place` is that place; `node` is a server with what is known and counted of it
//! (`counts`). `balance` chooses, by what each worker keeps in `turns`; `split` chooses between
//! pools; `health` decides who is up, `checks` has the nodes asked, `probe` asks one; `retry`
//! bounds second attempts; `live` is what administrators change while portico runs; `report` is what
//! people and scripts are told of all this; `said` keeps the log readable, `waits` times the queue,
//! `doubt` keeps many from trying a dead node at once.
//!
//! A [`Pool`] is kept by name over reloads, so that the state of nodes, places and those who wait
//! live on; what is configured of it is swapped. A node is kept by its address within its pool.
//!
//! Not done here: connections (`upstream`), forwarding, resolving names.
//!
//! Invariants: no request waits for anything here but for its place in a queue, which is bounded in
//! length and time; never more than `max_connections` places of a node are taken; a node that is
//! down, drained or in maintenance gets nothing while another one may be used; with none up, all that
//! are not drained are tried.

pub mod availability;
pub mod balance;
pub mod check_code;
pub mod checks;
pub mod counts;
pub mod doubt;
pub mod health;
pub mod live;
pub mod node;
pub mod place;
pub mod pool;
mod probe;
mod queue;
pub mod report;
pub mod retry;
pub mod said;
pub mod split;
pub mod turns;
pub mod waits;

pub use node::Node;
pub use place::NodePlace;
pub use pool::{NoPlace, Pool, Pools, Tried};
pub use turns::Turns;
