//! Declarations of the programs: one file per signal, with its fallback chains, the read-only globals
//! that depend on them and the sizes of its maps. A new signal is a file here and a line in
//! [`table`].

pub mod accept;
pub mod bind;
pub mod connect;
pub mod fd;
pub mod fd_passing;
pub mod listen;
pub mod open_files;
pub mod ports;
pub mod reset;
pub mod retransmit;
pub mod sockopt;
pub mod spec;
pub mod state;
pub mod table;
pub mod time_wait;
pub mod udp;
