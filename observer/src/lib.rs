//! observer: a TCP connection-lifecycle observer for Linux.
//!
//! Data moves one way: kernel programs -> maps and ring ([`kernel`]) -> process table -> exposition
//! (`observer_core`) -> HTTP ([`web`]). See ARCHITECTURE.md for the code map.

pub mod cli;
pub mod client;
pub mod daemon;
pub mod doctor;
pub mod heap;
pub mod kernel;
pub mod logging;
pub mod namespaces;
mod output;
pub mod preflight;
pub mod privileges;
pub mod sandbox;
pub mod service;
pub mod web;
