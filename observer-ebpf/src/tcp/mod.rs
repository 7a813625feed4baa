//! TCP sockets: entries, owners, and one file or folder per signal.

pub mod accept;
mod bind;
mod connect;
pub mod entry;
mod gauges;
pub mod listen;
pub mod ownership;
mod ports;
mod reset;
mod retransmit;
mod state;
mod time_wait;
mod waiting;
