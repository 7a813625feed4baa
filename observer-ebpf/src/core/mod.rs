//! Code shared by the programs of all signals.

pub mod attempts;
pub mod call_args;
pub mod clock;
pub mod counters;
pub mod fd_lookup;
pub mod fields;
pub mod jiffies;
pub mod maps;
pub mod outcome;
pub mod process;
pub mod read;
pub mod records;
pub mod regs;
pub mod segment;
pub mod seq;
pub mod sockaddr;
pub mod socket;
pub mod walk;
