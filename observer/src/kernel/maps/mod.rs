//! The maps of the attached programs.

pub mod array;
pub mod iter;
pub mod iterators;
pub mod listeners;
pub mod open_files;
pub mod ports;
pub mod ring;
pub mod stats;
pub mod time_wait;
pub mod time_wait_inferred;
