//! What the running kernel is.

pub mod btf;
pub mod fields;
pub mod reset_reasons;
pub mod tracefs;
