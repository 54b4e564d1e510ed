//! What goes to the client: the edited head of a backend's answer, and the answers that
//! portico gives itself.

pub mod accept;
pub mod answer;
pub mod compress;
pub mod failure;
pub mod headers;
pub mod pages;
pub mod template;
pub mod words;
