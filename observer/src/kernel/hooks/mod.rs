//! What could be attached.

pub mod spec;
pub mod table;
