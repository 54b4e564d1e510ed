//! TCP listeners.

pub mod hello;
