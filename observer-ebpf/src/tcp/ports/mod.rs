//! Local ports.

pub mod in_use;
mod namespaces;
mod reuse;
pub mod search;
