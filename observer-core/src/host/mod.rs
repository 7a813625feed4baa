//! This host, as the rest asks about it.

mod facts;

pub use facts::HostFacts;
