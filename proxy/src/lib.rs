//! skeleton

pub mod registry;
