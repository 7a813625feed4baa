//! Local ports.

pub mod in_use;
pub mod search;
